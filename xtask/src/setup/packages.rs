//! The programs of others that the laboratory and the tests use, from Debian's packages.
//!
//! What counts is the program, not the package: elsewhere than on Debian one installs them as one likes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Need, say};
use crate::sh;

/// How to tell whether a package is needed.
#[derive(Clone, Copy)]
enum Proof {
    Program(&'static str),
    /// A module of the system's own Python (another `python3` may come first in PATH).
    PythonModule(&'static str),
}

struct Package {
    debian: &'static str,
    need: Need,
    proof: Proof,
}

const fn package(debian: &'static str, need: Need, proof: Proof) -> Package {
    Package { debian, need, proof }
}

const PACKAGES: [Package; 14] = [
    package("wireguard-tools", Need::Laboratory, Proof::Program("wg")),
    package("wireguard-go", Need::Laboratory, Proof::Program("wireguard-go")),
    package("iproute2", Need::Laboratory, Proof::Program("ip")),
    package("iproute2", Need::Laboratory, Proof::Program("tc")),
    package("nftables", Need::Test, Proof::Program("nft")),
    package("iputils-ping", Need::Laboratory, Proof::Program("ping")),
    package("qemu-system-x86", Need::Test, Proof::Program("qemu-system-x86_64")),
    package("kmod", Need::Test, Proof::Program("depmod")),
    package("xz-utils", Need::Test, Proof::Program("xz")),
    package("zstd", Need::Test, Proof::Program("zstd")),
    package("binutils", Need::Test, Proof::Program("strip")),
    package("libc-bin", Need::Test, Proof::Program("ldd")),
    package("python3", Need::Test, Proof::Program("python3")),
    package(
        "python3-prometheus-client",
        Need::Test,
        Proof::PythonModule("prometheus_client.openmetrics.parser"),
    ),
];

/// What there is to install.
#[must_use]
pub(crate) struct Missing(Vec<&'static str>);

/// Looks what is missing. Fails where only somebody else can install it, with what to type.
pub(crate) fn look(need: Need) -> Result<Missing> {
    let missing = missing(need);
    if missing.is_empty() {
        return Ok(Missing(missing));
    }
    let list = missing.join(" ");
    if !Path::new("/etc/debian_version").exists() || sh::find_program("apt-get").is_none() {
        bail!("missing programs, which Debian has in these packages: {list}; install them, then try again");
    }
    if !sh::is_root() {
        bail!(
            "missing Debian packages: type `sudo apt-get update && sudo apt-get install --no-install-recommends {list}`, \
             then try again"
        );
    }
    Ok(Missing(missing))
}

impl Missing {
    /// Installs it.
    pub(crate) fn install(&self, need: Need) -> Result<()> {
        let Self(missing) = self;
        if missing.is_empty() {
            return Ok(());
        }
        let list = missing.join(" ");
        say(&format!("installing {list}"));
        if sh::output(&mut install(missing)).is_err() {
            apt_update()?;
            sh::output(&mut install(missing)).with_context(|| format!("installing {list} failed"))?;
        }
        let left = self::missing(need);
        if !left.is_empty() {
            bail!(
                "{} installed, but what it should bring is not there: see `dpkg -L {}`",
                left.join(" "),
                left[0]
            );
        }
        Ok(())
    }
}

/// Fetches Debian's lists of packages anew: those on this machine name none, or such as are no longer served.
pub(crate) fn apt_update() -> Result<()> {
    say("apt-get update, because this machine's lists of packages are missing or old");
    sh::output(&mut apt_get(&["update", "--quiet"]))
        .map(drop)
        .context("Debian's lists of packages cannot be fetched; is there a way to the network?")
}

fn install(packages: &[&str]) -> Command {
    let mut command = apt_get(&["install", "--yes", "--quiet", "--no-install-recommends"]);
    command.args(packages);
    command
}

pub(super) fn apt_get(args: &[&str]) -> Command {
    let mut command = sh::command("apt-get", args);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The packages that are needed and not there, each once.
fn missing(need: Need) -> Vec<&'static str> {
    let mut missing = Vec::new();
    for package in &PACKAGES {
        if package.need <= need && !missing.contains(&package.debian) && !is_there(package.proof) {
            missing.push(package.debian);
        }
    }
    missing
}

fn is_there(proof: Proof) -> bool {
    match proof {
        Proof::Program(name) => sh::find_program(name).is_some(),
        Proof::PythonModule(name) => {
            sh::output(&mut sh::command("/usr/bin/python3", ["-c", &format!("import {name}")])).is_ok()
        }
    }
}
