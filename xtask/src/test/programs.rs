//! The test programs: built once, run here or handed to a guest.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::report::Outcome;
use super::tally::Tally;
use crate::cargo::{self, Executable};
use crate::sh::{self, Privilege};
use crate::vm::{GuestTest, Series};

/// The test programs that need a kernel to themselves, and their options. What measures time runs alone.
const KERNEL_TESTS: [(&str, &[&str]); 3] = [
    ("vm", &["--test-threads=1"]),
    ("progrun", &[]),
    ("netns", &["--test-threads=1"]),
];

/// Laws that are about this program and the laboratory, and no kernel decides them: unless asked for by name, guests leave them to the host. Under
/// emulation they would take a third of the time.
const HOSTS_OWN: [&str; 12] = [
    "command::",
    "follows::",
    "full::",
    "laboratory::",
    "metrics::",
    "reflectors::",
    "refuses::",
    "scale::",
    "stalls::",
    "status::",
    "swallows::",
    "tunnels::",
];

/// Laws with a twin that guests do run (of the other family, mostly), and the dearest of those that say nothing new about a kernel.
const TWINS: [&str; 10] = [
    "concentrator::answers_leave_from_an_uplinks_second",
    "concentrator::another_uplink_carries_a_clients_packets_while_its_own_is_set_down",
    "endures::what_others_remove_of_ours_is_repaired_and_traffic_goes_on_over_ipv6",
    "guard::a_device_that_cannot_run_guard",
    "mtu::a_killed_daemon",
    "over_ipv6_outlives_a_deleted",
    "over_ipv6_outlives_a_pulled",
    "over_ipv6_outlives_an_interface",
    "storm::a_tunnel_survives_whatever_happens_over_ipv6",
    "storm::a_tunnel_survives_whatever_happens_with_wgxdp_at_both_ends",
];

/// Laws about attaching, repairing, and what the kernel tells by netlink, and others whose programs `progrun` shows to the same kernel: one kernel with clsact and one with
/// tcx are enough for them, and the host has tcx.
const FOR_CLSACT: [&str; 13] = [
    "concentrator::",
    "connects::",
    "endures::",
    "guard::a_",
    "guard::by_itself",
    "guard::somebody_elses",
    "guard::the_next_daemon",
    "leaves_nothing::",
    "mtu::",
    "outlives_a_deleted",
    "outlives_an_interface",
    "outlives_a_pulled",
    "registers::",
];

/// What is about time alone, and long: the guest that has less to do is enough.
const FOR_TCX: [&str; 2] = ["starved::", "storm::"];

/// The test program that needs nothing but processors, for minutes.
const YEAR: &str = "year";

/// No test program runs longer.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// But those that take only the time that nobody else wants.
const IDLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// All test programs, and the programs that they start.
pub(crate) struct Programs {
    built: Vec<Executable>,
}

impl Programs {
    /// Builds them. `vm` by its name, because it is no test of the host and `--tests` leaves it out.
    pub(crate) fn build() -> Result<Self> {
        let mut built = cargo::build(["--bins", "--tests"])?;
        built.extend(
            cargo::build(["--test", "vm"])?
                .into_iter()
                .filter(|program| program.kind == "test"),
        );
        Ok(Self { built })
    }

    /// Runs what needs no privilege, the examples in the documentation among it.
    pub(crate) fn run_host(&self, filter: &[String]) -> Result<Outcome> {
        let mut sum = Tally::default();
        let mut failures = Vec::new();
        let tests = self
            .built
            .iter()
            .filter(|program| program.is_test && !is_kernel_test(program) && !is_year(program));
        for test in tests {
            println!("\n     Running {} ({})", test.name, shown(&test.source));
            let words = sh::bounded(LIMIT, &test.file, libtest_args(&[], filter));
            let mut command = sh::command(&words[0], &words[1..]);
            command.current_dir(&test.package_dir).envs(self.variables(test)?);
            failures.extend(run(&mut command, &test.name, &mut sum)?);
        }
        let mut doc = cargo::cargo(["test", "--quiet", "--doc", "--"]);
        doc.args(filter);
        println!("\n     Running the examples in the documentation");
        failures.extend(run(&mut doc, "documentation", &mut sum)?);
        Ok(outcome(sum, &failures, filter))
    }

    /// Simulates the years, in the time that nobody else wants (SCHED_IDLE), so that whatever runs beside them does not notice.
    pub(crate) fn run_year(&self, filter: &[String]) -> Result<Outcome> {
        let year = self.built.iter().find(|program| is_year(program));
        let year = year.context("cargo built no test program `year`: is there a tests/tests/year.rs?")?;
        let words = sh::bounded(IDLE_LIMIT, Path::new("chrt"), ["--idle", "0"]);
        let mut command = sh::command(&words[0], &words[1..]);
        command.arg(&year.file).args(libtest_args(&[], filter));
        let mut sum = Tally::default();
        let failures: Vec<String> = run_shown(&mut command, YEAR, "year | ", IDLE_LIMIT, &mut sum)?
            .into_iter()
            .collect();
        Ok(outcome(sum, &failures, filter))
    }

    /// Runs one of the kernel tests on this host.
    pub(crate) fn run_as_root(&self, name: &str, privilege: Privilege, filter: &[String]) -> Result<Outcome> {
        let (test, options) = self.kernel_test(name)?;
        let words = sh::bounded(LIMIT, &test.file, libtest_args(options, filter));
        let mut command = privilege.command(&self.variables(test)?, Path::new(&words[0]), &words[1..])?;
        command.current_dir(&test.package_dir);
        let mut sum = Tally::default();
        let failures: Vec<String> = run(&mut command, name, &mut sum)?.into_iter().collect();
        Ok(outcome(sum, &failures, filter))
    }

    /// The programs that a guest needs besides the tests: the first is its init.
    pub(crate) fn guest_programs(&self) -> Result<Vec<&Path>> {
        let mut programs = vec![
            cargo::binary(&self.built, "vm-init")?,
            cargo::binary(&self.built, "wgxdp")?,
        ];
        // The laboratory's own helpers, where a test starts them.
        programs.extend(cargo::binary(&self.built, "lab"));
        Ok(programs)
    }

    /// The tests that a guest runs, in order.
    pub(crate) fn guest_tests(&self, series: Series, filter: &[String]) -> Result<Vec<GuestTest>> {
        let test = |(name, _): &(&str, _)| {
            let (test, options) = self.kernel_test(name)?;
            Ok(GuestTest {
                name: test.name.clone(),
                file: test.file.clone(),
                args: options
                    .iter()
                    .map(ToString::to_string)
                    .chain(guest_filter(series, filter))
                    .collect(),
            })
        };
        KERNEL_TESTS.iter().map(test).collect()
    }

    fn kernel_test(&self, name: &str) -> Result<(&Executable, &'static [&'static str])> {
        let (_, options) = KERNEL_TESTS
            .iter()
            .find(|(test, _)| *test == name)
            .with_context(|| format!("{name} is no kernel test"))?;
        let test = self
            .built
            .iter()
            .find(|program| is_kernel_test(program) && program.name == name)
            .with_context(|| format!("cargo built no test program `{name}`: is there a tests/tests/{name}.rs?"))?;
        Ok((test, options))
    }

    /// What cargo would set, where our programs are, and (which sudo would drop) that this is continuous integration.
    fn variables<'a>(&'a self, test: &'a Executable) -> Result<Vec<(&'static str, &'a OsStr)>> {
        let mut variables = vec![
            ("CARGO_MANIFEST_DIR", test.package_dir.as_os_str()),
            ("WGXDP_BIN", cargo::binary(&self.built, "wgxdp")?.as_os_str()),
        ];
        if sh::is_ci() {
            variables.push(("CI", OsStr::new("true")));
        }
        Ok(variables)
    }
}

fn is_kernel_test(program: &Executable) -> bool {
    program.kind == "test" && KERNEL_TESTS.iter().any(|(name, _)| program.name == *name)
}

fn is_year(program: &Executable) -> bool {
    program.kind == "test" && program.name == YEAR
}

/// What libtest is told to run in a guest.
fn guest_filter(series: Series, filter: &[String]) -> Vec<String> {
    if !filter.is_empty() {
        return filter.to_vec();
    }
    let left_out: &[&str] = if series.has_tcx() { &FOR_CLSACT } else { &FOR_TCX };
    let skip = |law: &&str| ["--skip".to_owned(), (*law).to_owned()];
    HOSTS_OWN.iter().chain(&TWINS).chain(left_out).flat_map(skip).collect()
}

fn libtest_args<'a>(options: &[&'a str], filter: &'a [String]) -> Vec<&'a str> {
    let mut args = options.to_vec();
    if std::io::stdout().is_terminal() {
        args.push("--color=always");
    }
    args.extend(filter.iter().map(String::as_str));
    args
}

/// Runs one test program; its failure, if any, in words.
fn run(command: &mut Command, name: &str, sum: &mut Tally) -> Result<Option<String>> {
    run_shown(command, name, "", LIMIT, sum)
}

/// The same, with `prefix` before each line that it prints; it was started so that it ends after `limit`.
fn run_shown(
    command: &mut Command,
    name: &str,
    prefix: &str,
    limit: Duration,
    sum: &mut Tally,
) -> Result<Option<String>> {
    let mut seen = None;
    let status = sh::stream(command, |line| {
        println!("{prefix}{line}");
        if let Some(tally) = Tally::from_line(line) {
            *sum += tally;
            seen = Some(tally);
        }
    })?;
    Ok(if status.code() == Some(sh::TIMED_OUT) {
        Some(format!("{name} was still running after {} s", limit.as_secs()))
    } else if !status.success() {
        Some(format!("{name} ({status})"))
    } else if seen.is_none() {
        Some(format!("{name} ended without a test result"))
    } else {
        None
    })
}

/// A stage's outcome. Without a filter, a stage that ran no test is a failure.
fn outcome(sum: Tally, failures: &[String], filter: &[String]) -> Outcome {
    if !failures.is_empty() {
        Outcome::Failed(failures.join(", "), sum)
    } else if sum.passed == 0 && filter.is_empty() {
        Outcome::Failed("no test was run".into(), sum)
    } else {
        Outcome::Passed(sum)
    }
}

fn shown(source: &Path) -> String {
    let root = sh::root();
    source.strip_prefix(&root).unwrap_or(source).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> (Option<String>, Tally) {
        let mut sum = Tally::default();
        let failure = run(&mut sh::command("sh", ["-c", script]), "t", &mut sum).unwrap();
        (failure, sum)
    }

    #[test]
    fn a_test_program_that_dies_before_its_result_has_failed_and_so_has_one_that_says_nothing() {
        assert!(sh("echo running 3 tests; kill -9 $$").0.is_some());
        assert!(sh("exit 0").0.is_some());
        let (failure, sum) = sh("echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'");
        assert_eq!((failure, sum.passed), (None, 2));
    }

    #[test]
    fn a_guest_leaves_to_the_host_what_is_the_hosts_unless_it_is_asked_for() {
        for series in Series::ALL {
            let skipped = guest_filter(series, &[]);
            assert_eq!(skipped[..2], ["--skip", "command::"]);
            assert_eq!(skipped.iter().any(|law| law == "endures::"), series.has_tcx());
            assert_eq!(skipped.iter().any(|law| law == "starved::"), !series.has_tcx());
            assert_eq!(guest_filter(series, &["status::".into()]), ["status::"]);
        }
    }

    #[test]
    fn a_stage_without_tests_has_failed_unless_they_were_filtered_out() {
        assert!(matches!(outcome(Tally::default(), &[], &[]), Outcome::Failed(..)));
        assert!(matches!(
            outcome(Tally::default(), &[], &["x".to_owned()]),
            Outcome::Passed(_)
        ));
    }
}
