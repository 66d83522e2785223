//! Waiting on states, never on time: every wait has a bound, says what it waited for, and ends at once on Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How often a state is looked at. Short against every bound, long against what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(2);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on the first SIGINT, SIGTERM or SIGHUP makes every wait fail, so that the guards unwind; a second one
/// kills.
///
/// # Errors
/// What the kernel said.
pub fn catch_interrupts() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note_interrupt),
        SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic, which is async-signal-safe, and nothing else.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("catching {signal}"))?;
    }
    Ok(())
}

/// Whether someone asked to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Looks until `state` gives a value.
///
/// # Errors
/// `what` did not come within `bound`, or the run was interrupted, or `state` itself failed.
pub fn wait_for<T>(what: &str, bound: Duration, mut state: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = state().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        if interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {bound:?}");
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `state` is true.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, bound: Duration, mut state: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, bound, || Ok(state()?.then_some(())))
}

/// Lets traffic run for `time`: for observing, never for hoping that something has happened meanwhile.
///
/// # Errors
/// The run was interrupted.
pub fn observe_for(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    wait_until("the end of the observation", time + Duration::from_secs(1), || {
        Ok(Instant::now() >= until)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_comes_is_waited_for() {
        let mut looks = 0;
        let seen = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(seen.ok(), Some(3));
    }

    #[test]
    fn a_state_that_does_not_come_is_named_in_the_error() {
        let error = wait_until("the moon", Duration::from_millis(5), || Ok(false)).expect_err("never true");
        assert_eq!(error.to_string(), "the moon: not within 5ms");
    }

    #[test]
    fn a_state_that_fails_ends_the_wait() {
        let error = wait_until("the moon", Duration::from_secs(60), || bail!("clouds")).expect_err("fails");
        assert_eq!(format!("{error:#}"), "while waiting for the moon: clouds");
    }
}
