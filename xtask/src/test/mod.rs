//! `cargo xtask test`: the stages in their order, and what they came to.
//!
//! | stage | what | as |
//! |---|---|---|
//! | format | `cargo fmt --check` | you |
//! | clippy | the workspace on this host, the BPF programs for their own target | you |
//! | host | unit, property and documentation tests | you |
//! | progrun | `steer` and `restore` by BPF_PROG_TEST_RUN | root |
//! | netns | the laboratory | root |
//! | year | years of each path on a virtual clock | you |
//! | vm | `vm`, `progrun` and `netns` again, on Debian's kernels in QEMU | you |
//!
//! Cargo builds the test programs; we run them ourselves, so that the same files serve the host and the guests, and root
//! runs tests but never a compiler.
//!
//! The guests run side by side: each is alone with its own clock, and waits more than it computes. The years pass meanwhile, in the time that the guests do not want.

mod programs;
mod report;
pub(crate) mod tally;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;

use self::programs::Programs;
use self::report::{Outcome, Report};
use self::tally::Tally;
use crate::setup::{self, Need};
use crate::sh::{self, Privilege};
use crate::{TestArgs, cargo, vm};

/// A stage of the tests, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// `cargo fmt --check`
    Format,
    /// Clippy without a warning
    Clippy,
    /// What needs no privilege
    Host,
    /// The BPF programs, packet by packet (root)
    Progrun,
    /// The laboratory (root)
    Netns,
    /// Years of each path on a virtual clock, beside the guests if those are to run, too
    Year,
    /// The BPF programs and the laboratory again on Linux 6.1 and 6.12, in QEMU
    Vm,
}

/// Runs the stages that were asked for.
pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let mut report = Report::default();
    if let Err(error) = stages(args, &mut report) {
        eprintln!("\nerror: {error:#}");
        report.add(
            "setup",
            Duration::ZERO,
            Outcome::Failed(format!("{error:#}"), Tally::default()),
        );
    }
    println!("\n{report}");
    if report.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs them, up to the first that fails. An error is one of preparation; a stage's own failure is in the report.
fn stages(args: &TestArgs, report: &mut Report) -> Result<()> {
    if sh::is_ci() && args.skip_vm {
        bail!("--skip-vm is refused with CI=true, where nothing may be skipped");
    }
    let mut selected: Vec<Stage> = Stage::value_variants()
        .iter()
        .copied()
        .filter(|stage| args.only.is_empty() || args.only.contains(stage))
        .collect();
    if args.skip_vm {
        selected.retain(|stage| *stage != Stage::Vm);
    }
    setup::run(Need::Test)?;

    let mut programs = None;
    let beside_guests = selected.contains(&Stage::Year) && selected.contains(&Stage::Vm);
    for stage in selected {
        if stage == Stage::Year && beside_guests {
            continue;
        }
        let mut run = |name: &str, work: &mut dyn FnMut() -> Result<Outcome>| {
            println!("\n== {name}");
            let started = Instant::now();
            let outcome = work();
            report.add(name, started.elapsed(), judge(name, outcome, args))
        };
        let goes_on = match stage {
            Stage::Format => run("format", &mut || {
                sh::run(&mut cargo::cargo(["fmt", "--all", "--check"])).map(|()| PASSED)
            }),
            Stage::Clippy => run("clippy", &mut || clippy().map(|()| PASSED)),
            Stage::Host | Stage::Progrun | Stage::Netns | Stage::Year | Stage::Vm => {
                if programs.is_none() {
                    let built = &mut || Programs::build().map(|built| programs = Some(built)).map(|()| PASSED);
                    if !run("build", built) {
                        return Ok(());
                    }
                }
                let Some(programs) = &programs else { return Ok(()) };
                match stage {
                    Stage::Vm => guests(programs, args, beside_guests, report),
                    Stage::Year => run("year", &mut || programs.run_year(&args.filter)),
                    Stage::Progrun => run("progrun", &mut || as_root("progrun", programs, args)),
                    Stage::Netns => run("netns", &mut || as_root("netns", programs, args)),
                    _ => run("host", &mut || programs.run_host(&args.filter)),
                }
            }
        };
        if !goes_on {
            break;
        }
    }
    Ok(())
}

const PASSED: Outcome = Outcome::Passed(Tally {
    passed: 0,
    failed: 0,
    ignored: 0,
});

/// What a stage's work means for the run: in CI a skipped stage or an ignored test is a failure.
fn judge(name: &str, outcome: Result<Outcome>, args: &TestArgs) -> Outcome {
    let ci = sh::is_ci();
    match outcome {
        Err(error) => {
            eprintln!("error: {error:#}");
            Outcome::Failed(format!("{error:#}"), Tally::default())
        }
        Ok(Outcome::Skipped(why)) if ci => Outcome::Failed(why, Tally::default()),
        Ok(Outcome::Passed(tally)) if ci && tally.ignored > 0 && args.filter.is_empty() => Outcome::Failed(
            format!("{} tests are ignored, and with CI=true nothing may be", tally.ignored),
            tally,
        ),
        Ok(Outcome::Skipped(why)) => {
            println!("!!!! {name} is NOT run: {why}");
            Outcome::Skipped(why)
        }
        Ok(outcome) => outcome,
    }
}

/// The host's code with the compiler that builds it; the BPF programs with theirs, because only for their own target they
/// are themselves.
fn clippy() -> Result<()> {
    let deny = ["--", "-D", "warnings"];
    let host = [
        "clippy",
        "--workspace",
        "--exclude",
        "wgxdp-ebpf",
        "--all-targets",
        "--all-features",
    ];
    sh::run(&mut cargo::cargo(host.into_iter().chain(deny)))?;
    let nightly = setup::nightly_name()?;
    let bpf = [
        "run",
        nightly,
        "cargo",
        "clippy",
        "--package",
        "wgxdp-ebpf",
        "--all-features",
    ];
    let target = ["--target", "bpfel-unknown-none", "-Zbuild-std=core"];
    let mut command = sh::command("rustup", bpf.into_iter().chain(target).chain(deny));
    command.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    );
    command.env_remove("RUSTC").env_remove("RUSTC_WORKSPACE_WRAPPER");
    sh::run(&mut command)
}

fn as_root(name: &str, programs: &Programs, args: &TestArgs) -> Result<Outcome> {
    let privilege = Privilege::detect();
    if privilege == Privilege::None {
        return Ok(Outcome::Skipped("needs root, and there is no sudo".into()));
    }
    programs.run_as_root(name, privilege, &args.filter)
}

/// Runs the guests that were asked for, and the years if they are, side by side. Whether none failed.
fn guests(programs: &Programs, args: &TestArgs, with_years: bool, report: &mut Report) -> bool {
    let all = args.kernel.map_or(vm::Series::ALL.to_vec(), |one| vec![one]);
    let mut names: Vec<String> = all.iter().map(|series| format!("vm {series}")).collect();
    names.extend(with_years.then(|| "year".to_owned()));
    println!("\n== {}", names.join(", "));
    // One after the other, because they strip the same programs.
    let prepared: Vec<_> = all.iter().map(|series| prepare(*series, programs, args)).collect();
    let ended: Vec<_> = thread::scope(|scope| {
        let boot = |(series, prepared): (vm::Series, Result<Prepared>)| {
            scope.spawn(move || timed(|| prepared.and_then(|prepared| prepared.run(series))))
        };
        let mut started: Vec<_> = all.into_iter().zip(prepared).map(boot).collect();
        if with_years {
            started.push(scope.spawn(|| timed(|| programs.run_year(&args.filter))));
        }
        let panicked = |_| (Err(anyhow!("a panic")), Duration::ZERO);
        started
            .into_iter()
            .map(|guest| guest.join().unwrap_or_else(panicked))
            .collect()
    });
    let mut all_well = true;
    for (name, (outcome, took)) in names.iter().zip(ended) {
        all_well &= report.add(name, took, judge(name, outcome, args));
    }
    all_well
}

/// What came of it, and how long it took.
fn timed(work: impl FnOnce() -> Result<Outcome>) -> (Result<Outcome>, Duration) {
    let started = Instant::now();
    let outcome = work();
    (outcome, started.elapsed())
}

/// A guest that can be booted, or why there is none.
enum Prepared {
    Guest(vm::Guest),
    Skipped(String),
}

fn prepare(series: vm::Series, programs: &Programs, args: &TestArgs) -> Result<Prepared> {
    if std::env::consts::ARCH != "x86_64" {
        let why = "the guests run this host's programs on x86-64 kernels";
        return Ok(Prepared::Skipped(why.into()));
    }
    let Some(kernel) = vm::kernel(series)? else {
        let why = format!("this Debian's archive has no cloud kernel {series}");
        return Ok(Prepared::Skipped(why));
    };
    let tests = programs.guest_tests(series, &args.filter)?;
    vm::Guest::prepare(kernel, &programs.guest_programs()?, tests, 1).map(Prepared::Guest)
}

impl Prepared {
    fn run(self, series: vm::Series) -> Result<Outcome> {
        let guest = match self {
            Self::Guest(guest) => guest,
            Self::Skipped(why) => return Ok(Outcome::Skipped(why)),
        };
        let ended = guest.run(&mut |line| println!("{series} | {line}"))?;
        Ok(match ended.failure {
            None => Outcome::Passed(ended.tally),
            Some(why) => Outcome::Failed(why, ended.tally),
        })
    }
}
