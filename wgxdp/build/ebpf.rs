//! Builds the BPF programs for a build script, with the pinned bpf-linker that `cargo xtask setup` installs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// Builds the programs of `wgxdp-ebpf` with `features` into `OUT_DIR`, each under the name of its binary.
///
/// # Errors
/// Names `cargo xtask setup` where the tool-chain is not there, else what the compiler said.
pub(crate) fn build(features: &[&str]) -> Result<()> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join("..")
        .canonicalize()?;
    let tools = fs::read_to_string(workspace.join("wgxdp/build/bpf-linker.version"))?;
    let version = tools.trim();
    let bin = workspace.join(format!(".tools/bpf-linker-{version}/bin"));
    require_toolchain(&bin)?;

    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(bin).chain(env::split_paths(&path)))?;
    // SAFETY: a build script's only thread; nothing else reads or writes the environment meanwhile.
    unsafe { env::set_var("PATH", path) };

    for input in ["wgxdp-common", "wgxdp/build"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    let root = workspace.join("wgxdp-ebpf");
    let root_dir = root.to_str().context("the workspace's path is not UTF-8")?;
    let package = Package {
        name: "wgxdp-ebpf",
        root_dir,
        no_default_features: true,
        features,
    };
    aya_build::build_ebpf([package], Toolchain::Nightly)
        .context("the BPF programs did not build; `cargo xtask setup` checks the tool-chain that builds them")
}

/// The one message of this kind that a plain `cargo build` on a fresh machine must give.
fn require_toolchain(bin: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={}", bin.display());
    if !bin.join("bpf-linker").exists() {
        bail!(
            "bpf-linker is not in {}: run `cargo xtask setup` once, it installs what builds the BPF programs",
            bin.display()
        );
    }
    let sysroot = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output();
    let sysroot = match sysroot {
        Ok(output) if output.status.success() => PathBuf::from(String::from_utf8(output.stdout)?.trim()),
        _ => bail!("no nightly Rust, which builds the BPF programs: run `cargo xtask setup`"),
    };
    if !sysroot.join("lib/rustlib/src/rust/library/core").exists() {
        bail!(
            "the nightly Rust has no rust-src component, from which `core` is built for BPF: run `cargo xtask setup`"
        );
    }
    Ok(())
}
