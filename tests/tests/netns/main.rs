//! The laws of the main job, in the laboratory: a tunnel outlives its uplinks, and nothing but the daemon's own things
//! ever changes.
//!
//! The tests run one after the other, whatever the number of test threads: they measure time. Gaps are bounded
//! generously here; how short they are is the benchmarks' business. They need root; without it they say that they are
//! skipped, and with `CI=true` they fail.

mod command;
mod concentrator;
mod connects;
mod downloads;
mod endures;
mod families;
mod follows;
mod full;
mod guard;
mod in_band;
mod kinds;
mod laboratory;
mod leaves_nothing;
mod metrics;
mod mtu;
mod outlives;
mod protect;
mod reflectors;
mod refuses;
mod registers;
mod scale;
mod scene;
mod segments;
mod stalls;
mod starved;
mod status;
mod storm;
mod swallows;
mod tunnels;
mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wgxdp_tests::privilege::{emulated, root_or_skip};
use wgxdp_tests::traffic::Pace;

/// No wait is longer.
const BOUND: Duration = Duration::from_secs(15);

/// Waits for its turn; without root, says that `what` is skipped.
fn alone(what: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    root_or_skip(what).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// How much traffic this machine bears.
fn pace() -> Pace {
    if emulated() { Pace::Gentle } else { Pace::Full }
}

/// How late this machine may run what is due now.
fn slack() -> Duration {
    Duration::from_millis(if emulated() { 1000 } else { 200 })
}
