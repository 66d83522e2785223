//! `build`, `run` and `bench`: build, then become what was built.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use crate::setup::{self, Need};
use crate::sh::{self, Privilege};
use crate::{BenchArgs, BuildArgs, RunArgs, cargo, vm};

/// The daemon and the laboratory, always built together, so that neither is built twice with other features.
const PROGRAMS: [&str; 5] = ["--package", "wgxdp", "--package", "wgxdp-tests", "--bins"];

/// The benchmark that compares with FRR, and the variable that tells it where that is.
const COMPARISON: &str = "failover";
const FRR_VARIABLE: &str = "WGXDP_FRR";
/// Of a guest in which the laboratory runs: one for each end of the tunnel.
const BENCH_PROCESSORS: u32 = 2;

/// `cargo xtask build`.
pub(crate) fn build(args: &BuildArgs) -> Result<()> {
    setup::run(Need::Build)?;
    let mut command = cargo::cargo(["build"]);
    if args.release {
        command.arg("--release");
    }
    sh::run(&mut command)
}

/// `cargo xtask run`: the laboratory, or with arguments the daemon on this host.
///
/// The development profile: it is quick to build, and what decides about packets is compiled optimised in either.
pub(crate) fn run(args: RunArgs) -> Result<()> {
    if !args.daemon.is_empty() {
        setup::run(Need::Build)?;
        let built = cargo::build(PROGRAMS)?;
        return become_root(cargo::binary(&built, "wgxdp")?, &[], &args.daemon);
    }
    setup::run(Need::Laboratory)?;
    let mut words = vec![OsString::from("run")];
    if let Some(cuts) = args.cuts {
        words.extend(["--cuts".into(), cuts.to_string().into()]);
    }
    words.extend(args.ipv6.then(|| "--ipv6".into()));
    words.extend(args.json.then(|| "--json".into()));
    laboratory(&[], &[], &words)
}

/// `cargo xtask bench`.
pub(crate) fn bench(args: BenchArgs) -> Result<()> {
    let compares = args.name.as_deref().is_none_or(|name| name == COMPARISON);
    let mut words = vec!["bench".to_owned()];
    words.extend(args.name);
    words.extend(args.only.into_iter().flat_map(|part| ["--only".into(), part]));
    words.extend(args.quick.then(|| "--quick".into()));
    words.extend(args.json.then(|| "--json".into()));
    if args.vm {
        return guests(args.kernel, words, args.json);
    }
    setup::run(Need::Laboratory)?;
    let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    let frr = if compares { frr() } else { None };
    let frr = frr.as_deref().map(|root| (FRR_VARIABLE, root.as_os_str()));
    laboratory(&["--release"], frr.as_slice(), &words)
}

/// FRR's root. Without FRR the benchmark measures all else, and says what is missing.
fn frr() -> Option<PathBuf> {
    let found = setup::frr_root();
    if let Err(error) = &found {
        eprintln!("setup: no FRR to compare with: {error:#}");
    }
    found.ok()
}

/// The laboratory in QEMU, with one kernel or with all.
fn guests(kernel: Option<vm::Series>, words: Vec<String>, json: bool) -> Result<()> {
    setup::run(Need::Test)?;
    let built = cargo::build(PROGRAMS.iter().chain(&["--release"]).copied())?;
    let programs = [cargo::binary(&built, "vm-init")?, cargo::binary(&built, "wgxdp")?];
    let laboratory = vm::GuestTest {
        name: "lab".into(),
        file: cargo::binary(&built, "lab")?.to_owned(),
        args: words,
    };
    for series in kernel.map_or(vm::Series::ALL.to_vec(), |one| vec![one]) {
        let kernel = vm::kernel(series)?.with_context(|| format!("Debian's archive has no cloud kernel {series}"))?;
        let show = &mut |line: &str| match with_kernel(series, line) {
            Some(figure) => println!("{figure}"),
            None if json => eprintln!("{series} | {line}"),
            None => println!("{series} | {line}"),
        };
        let guest = vm::Guest::prepare(kernel, &programs, vec![laboratory.clone()], BENCH_PROCESSORS)?;
        if let Some(failure) = guest.run(show)?.failure {
            bail!("{series}: {failure}");
        }
    }
    Ok(())
}

/// A figure as JSON, with the kernel that it was measured on. All that a guest prints comes by one line: what else is there is none.
fn with_kernel(series: vm::Series, line: &str) -> Option<Value> {
    let mut figure: Map<String, Value> = serde_json::from_str(line).ok()?;
    figure.insert("kernel".into(), series.to_string().into());
    Some(figure.into())
}

fn laboratory(profile: &[&str], variables: &[(&str, &OsStr)], words: &[OsString]) -> Result<()> {
    let built = cargo::build(PROGRAMS.iter().chain(profile).copied())?;
    let wgxdp = cargo::binary(&built, "wgxdp")?;
    become_root(
        cargo::binary(&built, "lab")?,
        &[variables, &[("WGXDP_BIN", wgxdp.as_os_str())]].concat(),
        words,
    )
}

/// Replaces this process, so that Ctrl-C and the exit code are the program's own.
fn become_root(program: &Path, variables: &[(&str, &OsStr)], args: &[OsString]) -> Result<()> {
    let privilege = Privilege::detect();
    if privilege == Privilege::Sudo {
        eprintln!("xtask: {} needs root: by sudo", program.display());
    }
    Err(sh::exec(&mut privilege.command(variables, program, args)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_figure_gets_its_kernel_and_other_lines_are_no_figures() {
        let figure = with_kernel(vm::Series::V6_12, r#"{"bench":"throughput","value":0.98}"#);
        assert_eq!(figure.expect("a figure")["kernel"], "6.12");
        for line in ["tcp_up_ratio  0.98", "", "7", "[1]"] {
            assert_eq!(with_kernel(vm::Series::V6_1, line), None);
        }
    }
}
