//! What compiles: a nightly Rust with the source of `core`, the pinned bpf-linker, rustfmt and clippy. And what is compiled for the tests: stamp-suite.

#[path = "../../../wgxdp/build/toolchain.rs"]
mod nightly;

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use self::nightly::{KNOWN_NIGHTLY, Nightly};
use super::{Need, say};
use crate::{cargo, sh};

/// Sees to the compilers.
pub(crate) fn run(need: Need) -> Result<()> {
    if sh::find_program("rustup").is_none() {
        anyhow::bail!(
            "rustup is not in PATH: the BPF programs are built by a nightly Rust; install rustup from rustup.rs"
        );
    }
    let nightly = nightly()?;
    if !nightly.has_rust_src() {
        say(&format!(
            "adding rust-src to {}, because `core` is built from source for BPF",
            nightly.name
        ));
        sh::run(&mut rustup(&[
            "component",
            "add",
            "rust-src",
            "--toolchain",
            nightly.name,
        ]))
        .context("rust-src could not be added; is there a way to the network?")?;
    }
    bpf_linker(&nightly)?;
    if need >= Need::Test {
        component("rustfmt", &mut cargo::cargo(["fmt", "--version"]), None)?;
        component("clippy", &mut cargo::cargo(["clippy", "--version"]), None)?;
        component("clippy", &mut nightly_clippy(&nightly), Some(nightly.name))?;
        stamp_suite()?;
    }
    Ok(())
}

/// The name of the nightly that builds the BPF programs.
pub(crate) fn nightly_name() -> Result<&'static str> {
    Ok(Nightly::find()?.name)
}

/// The nightly that is there and fits; else the one that is known to fit is installed beside it.
fn nightly() -> Result<Nightly> {
    let missing = match Nightly::find() {
        Ok(nightly) => return Ok(nightly),
        Err(missing) => missing,
    };
    say(&format!("installing {KNOWN_NIGHTLY}, because there is {missing:#}"));
    sh::run(&mut rustup(&[
        "toolchain",
        "install",
        KNOWN_NIGHTLY,
        "--profile",
        "minimal",
    ]))
    .with_context(|| format!("{KNOWN_NIGHTLY} could not be installed; is there a way to the network?"))?;
    Nightly::find()
}

fn rustup(args: &[&str]) -> Command {
    sh::command("rustup", args)
}

fn nightly_clippy(nightly: &Nightly) -> Command {
    rustup(&["run", nightly.name, "cargo", "clippy", "--version"])
}

fn component(name: &str, probe: &mut Command, toolchain: Option<&str>) -> Result<()> {
    if sh::output(probe).is_ok() {
        return Ok(());
    }
    let mut add = rustup(&["component", "add", name]);
    if let Some(toolchain) = toolchain {
        add.args(["--toolchain", toolchain]);
    }
    say(&format!("adding {name}, because the tests check with it"));
    sh::run(&mut add)
}

/// Built by the nightly, with whose LLVM it links.
fn bpf_linker(nightly: &Nightly) -> Result<()> {
    let build = |args: &[&str]| rustup(&[&["run", nightly.name, "cargo"], args].concat());
    tool("bpf-linker", "wgxdp/build/bpf-linker.version", build)
        .context("bpf-linker did not build; it needs a C compiler and crates from the registry")
}

/// Somebody else's STAMP sender and reflector, against which ours are tested.
fn stamp_suite() -> Result<()> {
    tool("stamp-suite", "tests/stamp-suite.version", |args| {
        cargo::cargo(args.iter().copied())
    })
    .context("stamp-suite did not build; it needs crates from the registry")
}

/// A program of the version that the file says, in a folder of the project's own, so that another project's version does not disturb this one's.
/// `cargo` makes the command of the cargo that builds it.
fn tool(name: &str, version: &str, cargo: impl FnOnce(&[&str]) -> Command) -> Result<()> {
    let file = sh::root().join(version);
    let version = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let version = version.trim();
    let tools = sh::root().join(format!(".tools/{name}-{version}"));
    if tools.join("bin").join(name).exists() {
        return Ok(());
    }
    say(&format!(
        "building {name} {version} into {} (minutes, once)",
        tools.display()
    ));
    let mut install = cargo(&["install", name, "--version", version, "--locked", "--quiet", "--root"]);
    install.arg(&tools);
    // The cargo that runs us says which rustc, which flags and which folder are ours; none of that is the tool's business.
    for name in [
        "RUSTC",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CARGO_TARGET_DIR",
    ] {
        install.env_remove(name);
    }
    // The tools have little to do, and whoever is new here waits for them.
    for (key, value) in [("OPT_LEVEL", "1"), ("LTO", "off"), ("CODEGEN_UNITS", "16")] {
        install.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    sh::run(&mut install)
}
