//! What tests do without root, or on a kernel that lacks something: fail where that must not happen, say so everywhere else.

use std::env;
use std::io::{self, Write as _};

use anyhow::{Result, ensure};

use crate::access::Kind;

/// Whether the laboratory can be raised. Without root it says on standard error that `what` is skipped.
///
/// # Panics
/// Without root under `CI=true`: there, nothing may be skipped.
pub fn root_or_skip(what: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{what} needs root, and with CI=true nothing is skipped"
    );
    skipped(&format!("needs root: {what}"));
    false
}

/// Whether this kernel has devices of `kind`. Where it has none it says on standard error that what needs them is skipped.
///
/// # Errors
/// There are none in a guest, whose kernel has all of them, or there cannot be hosts.
pub fn kind_or_skip(kind: Kind) -> Result<bool> {
    let exists = kind.exists()?;
    ensure!(exists || !emulated(), "the guest's kernel has no {kind} devices");
    if !exists {
        skipped(&format!(
            "this kernel has no {kind} devices; guests have them (`cargo xtask test --only vm`)"
        ));
    }
    Ok(exists)
}

/// Written past the test harness, which shows what passing tests print to nobody.
fn skipped(what: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {what}");
}

/// Whether this runs in a guest in which every instruction is emulated, as the guest's init says.
#[must_use]
pub fn emulated() -> bool {
    env::var_os("WGXDP_VM").is_some()
}
