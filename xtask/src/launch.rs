//! `build`, `run` and `bench`: build, then become what was built.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::Result;

use crate::setup::{self, Need};
use crate::sh::{self, Privilege};
use crate::{BenchArgs, BuildArgs, RunArgs, cargo};

/// The daemon and the laboratory, always built together, so that neither is built twice with other features.
const PROGRAMS: [&str; 5] = ["--package", "wgxdp", "--package", "wgxdp-tests", "--bins"];

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
    laboratory(&[], &words)
}

/// `cargo xtask bench`.
pub(crate) fn bench(args: BenchArgs) -> Result<()> {
    setup::run(Need::Laboratory)?;
    let mut words = vec![OsString::from("bench")];
    words.extend(args.name.map(OsString::from));
    words.extend(args.quick.then(|| "--quick".into()));
    words.extend(args.json.then(|| "--json".into()));
    laboratory(&["--release"], &words)
}

fn laboratory(profile: &[&str], words: &[OsString]) -> Result<()> {
    let built = cargo::build(PROGRAMS.iter().chain(profile).copied())?;
    let wgxdp = cargo::binary(&built, "wgxdp")?;
    become_root(
        cargo::binary(&built, "lab")?,
        &[("WGXDP_BIN", wgxdp.as_os_str())],
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
