//! What tests do without root: fail where that must not happen, say so everywhere else.

use std::env;
use std::io::{self, Write as _};

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
    // Written past the test harness, which shows what passing tests print to nobody.
    let _ = writeln!(io::stderr(), "SKIPPED: needs root: {what}");
    false
}

/// Whether this runs in a guest in which every instruction is emulated, as the guest's init says.
#[must_use]
pub fn emulated() -> bool {
    env::var_os("WGXDP_VM").is_some()
}
