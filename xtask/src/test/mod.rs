//! `cargo xtask test`: the stages in their order, and what they came to.
//!
//! | stage | what | as |
//! |---|---|---|
//! | format | `cargo fmt --check` | you |
//! | clippy | the workspace on this host, the BPF programs for their own target | you |
//! | host | unit, property and documentation tests | you |
//! | progrun | `steer` and `restore` by BPF_PROG_TEST_RUN | root |
//! | netns | the laboratory | root |
//! | vm | `vm`, `progrun` and `netns` again, on Debian's kernels in QEMU | you |
//!
//! Cargo builds the test programs; we run them ourselves, so that the same files serve the host and the guests, and root
//! runs tests but never a compiler.

mod programs;
mod report;
pub(crate) mod tally;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
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
    /// Both again on Linux 6.1 and 6.12, in QEMU
    Vm,
}

/// Runs the stages that were asked for.
pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let mut report = Report::default();
    if let Err(error) = stages(args, &mut report) {
        eprintln!("\nerror: {error:#}");
        report.add(
            "setup",
            std::time::Duration::ZERO,
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
    let ci = sh::is_ci();
    if ci && args.skip_vm {
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
    for stage in selected {
        let mut run = |name: &str, work: &mut dyn FnMut() -> Result<Outcome>| {
            println!("\n== {name}");
            let started = Instant::now();
            let outcome = judge(work(), ci, args);
            if let Outcome::Skipped(why) = &outcome {
                println!("!!!! {name} is NOT run: {why}");
            }
            let goes_on = !matches!(outcome, Outcome::Failed(..));
            report.add(name, started.elapsed(), outcome);
            goes_on
        };
        let goes_on = match stage {
            Stage::Format => run("format", &mut || {
                sh::run(&mut cargo::cargo(["fmt", "--all", "--check"])).map(|()| PASSED)
            }),
            Stage::Clippy => run("clippy", &mut || clippy().map(|()| PASSED)),
            Stage::Host | Stage::Progrun | Stage::Netns | Stage::Vm => {
                if programs.is_none() {
                    let built = &mut || Programs::build().map(|built| programs = Some(built)).map(|()| PASSED);
                    if !run("build", built) {
                        return Ok(());
                    }
                }
                let Some(programs) = &programs else { return Ok(()) };
                match stage {
                    Stage::Vm => args
                        .kernel
                        .map_or(vm::Series::ALL.to_vec(), |one| vec![one])
                        .into_iter()
                        .all(|series| run(&format!("vm {series}"), &mut || virtual_machine(series, programs, args))),
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
fn judge(outcome: Result<Outcome>, ci: bool, args: &TestArgs) -> Outcome {
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

fn virtual_machine(series: vm::Series, programs: &Programs, args: &TestArgs) -> Result<Outcome> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Outcome::Skipped(
            "the guests run this host's programs on x86-64 kernels".into(),
        ));
    }
    let Some(kernel) = vm::kernel(series)? else {
        return Ok(Outcome::Skipped(format!(
            "this Debian's archive has no cloud kernel {series}"
        )));
    };
    let guest = vm::run(
        &kernel,
        &programs.guest_programs()?,
        &programs.guest_tests(series, &args.filter)?,
        &mut |line| println!("{series} | {line}"),
    )?;
    Ok(match guest.failure {
        None => Outcome::Passed(guest.tally),
        Some(why) => Outcome::Failed(why, guest.tally),
    })
}
