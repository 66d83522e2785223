//! The one clock of the engine and the kernel: CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads too.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Now, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Sleeps until `at_ns`; for ever if there is no such time.
pub async fn sleep_until(at_ns: Option<u64>) {
    match at_ns {
        Some(at_ns) => {
            let left = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns()));
            tokio::time::sleep_until(Instant::now() + left).await;
        }
        None => std::future::pending().await,
    }
}
