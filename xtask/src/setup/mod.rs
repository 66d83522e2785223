//! `cargo xtask setup`: what building, the laboratory and the tests need, installed where it is missing.
//!
//! Every other command runs the part that it needs. When nothing is to do it says nothing and costs some tens of
//! milliseconds. A step that does something says so in one line; a step that fails says why, and what to type.

mod frr;
mod packages;
mod toolchain;

use std::fs;
use std::thread;

use anyhow::{Context as _, Result, bail};

pub(crate) use self::frr::root as frr_root;
pub(crate) use self::packages::apt_update;
pub(crate) use self::toolchain::nightly_name;
use crate::sh;

/// How much is needed; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The compilers.
    Build,
    /// And the laboratory's programs and bpffs.
    Laboratory,
    /// And what the tests use, QEMU among it.
    Test,
}

/// Sees to it that all of it is there. Packages are fetched while compilers compile.
pub(crate) fn run(need: Need) -> Result<()> {
    if need < Need::Laboratory {
        return toolchain::run(need);
    }
    let missing = packages::look(need)?;
    thread::scope(|scope| {
        let packages = scope.spawn(|| missing.install(need));
        toolchain::run(need)?;
        packages.join().expect("it returns its errors")
    })?;
    mount_bpffs()
}

fn say(what: &str) {
    eprintln!("setup: {what}");
}

const BPFFS: &str = "/sys/fs/bpf";

fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    if has_bpffs(&mounts) {
        return Ok(());
    }
    let mut mount = sh::command("mount", ["-t", "bpf", "bpf", BPFFS]);
    if !sh::is_root() {
        bail!(
            "no bpffs on {BPFFS}, where wgxdp pins its maps: type `sudo {}`",
            sh::shown(&mount)
        );
    }
    say(&format!("mounting bpffs on {BPFFS}, where wgxdp pins its maps"));
    sh::output(&mut mount)
        .map(drop)
        .context("bpffs cannot be mounted here: is this a container without CAP_SYS_ADMIN?")
}

fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_counts_only_where_the_daemon_looks_for_it() {
        assert!(has_bpffs(
            "proc /proc proc rw 0 0\nnone /sys/fs/bpf bpf rw,nosuid 0 0\n"
        ));
        assert!(!has_bpffs("none /run/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }
}
