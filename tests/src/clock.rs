//! The laboratory's one clock: CLOCK_MONOTONIC in nanoseconds, the same that BPF programs read.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    // The clock exists on every Linux and counts from boot: neither the call nor the conversion can fail.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Sleeps until `at_ns`; at once if that has passed. An absolute deadline, so that oversleeping does not add up.
///
/// # Errors
/// A signal came.
pub(crate) fn sleep_until(at_ns: u64) -> io::Result<()> {
    let at = TimeSpec::from(Duration::from_nanos(at_ns));
    clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at)
        .map(|_| ())
        .map_err(io::Error::from)
}
