//! Which Rust tool-chain builds the BPF programs: the one place that knows, shared by the build scripts and `xtask`.
//!
//! `core` for BPF is built from source, which only a nightly does, and bpf-linker links with rustc's own LLVM, whose major
//! version must be the one that the pinned bpf-linker was written for. So: the nightly called `nightly` where its LLVM fits,
//! else the dated one that is known to fit, which may stand beside any newer `nightly`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

/// The nightly that is known to fit; used where `nightly` itself does not.
pub(crate) const KNOWN_NIGHTLY: &str = "nightly-2026-05-20";
/// LLVM's major version that bpf-linker (see `bpf-linker.version`) reads and writes.
const LLVM_MAJOR: u32 = 22;

/// An installed nightly whose LLVM fits.
pub(crate) struct Nightly {
    /// Its name, as `rustup run` takes it.
    pub(crate) name: &'static str,
    sysroot: PathBuf,
}

impl Nightly {
    /// The first installed tool-chain that fits.
    ///
    /// # Errors
    /// Says which nightlies are there, why none fits, and what to type.
    pub(crate) fn find() -> Result<Self> {
        let mut seen = Vec::new();
        for name in ["nightly", KNOWN_NIGHTLY] {
            match llvm_major(name) {
                Some(LLVM_MAJOR) => {
                    let Some(sysroot) = rustc(name, &["--print", "sysroot"]) else {
                        bail!("`rustup run {name} rustc --print sysroot` failed")
                    };
                    return Ok(Self {
                        name,
                        sysroot: PathBuf::from(sysroot.trim()),
                    });
                }
                Some(other) => seen.push(format!("{name} has LLVM {other}")),
                None => seen.push(format!("{name} is not installed")),
            }
        }
        bail!(
            "no nightly Rust with LLVM {LLVM_MAJOR}, which the pinned bpf-linker needs ({}): \
             type `rustup toolchain install {KNOWN_NIGHTLY} --profile minimal`",
            seen.join(", ")
        );
    }

    /// Whether `core`'s source is there to be built for BPF.
    pub(crate) fn has_rust_src(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core").exists()
    }
}

fn llvm_major(toolchain: &str) -> Option<u32> {
    rustc(toolchain, &["-vV"])?
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}

/// What `rustc ARGS` of this tool-chain prints; nothing where there is no such tool-chain.
fn rustc(toolchain: &str, args: &[&str]) -> Option<String> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc"])
        .args(args)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
