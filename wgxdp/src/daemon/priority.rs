//! The loop's priority: real time where probes wait for it, anybody's where only work is done.
//!
//! Probes leave when the loop wakes up, so on a busy machine an ordinary thread probes late and detection takes longer (never wrong: what was not sent convicts nobody). So
//! the loop's thread runs by SCHED_RR at the lowest real-time priority, if it may. It stays one thread instead of two, because what a wake-up does besides sending, judging and
//! telling the maps, is what the probes are for; and what takes long and is in no haste (thousands of peers that WireGuard names, addresses, repairs) [rests](Priority::rest) from
//! the priority, lest a user-space WireGuard on the same core wait for it. SCHED_RESET_ON_FORK keeps the runtime's other threads ordinary. The kernel itself stops real-time threads
//! for a twentieth of each second (sched_rt_runtime_us).

use std::time::Duration;

use nix::errno::Errno;
use tracing::{debug, info};

/// The lowest of SCHED_RR; kernel threads that move packets have higher ones or none.
const LOWEST: libc::c_int = 1;

/// The priority of the thread that made this value, which must be the only one to use it.
#[derive(Debug)]
pub(super) struct Priority {
    realtime: bool,
}

impl Priority {
    /// What every thread has.
    pub(super) fn ordinary() -> Self {
        Self { realtime: false }
    }

    /// Real time for the calling thread if it may have it, else a line in the log.
    pub(super) fn raise() -> Self {
        let raised = schedule(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, LOWEST);
        match raised {
            Ok(()) => debug!("probes leave with real-time priority"),
            Err(e) => {
                info!("no real-time priority ({e}; it takes CAP_SYS_NICE): on a busy machine probes may leave late");
            }
        }
        Self {
            realtime: raised.is_ok(),
        }
    }

    /// Goes without it until the returned value is dropped.
    pub(super) fn rest(&self) -> Rest {
        if self.realtime {
            lower();
        }
        Rest {
            realtime: self.realtime,
        }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if self.realtime {
            lower();
        }
    }
}

/// See [`Priority::rest`].
#[must_use]
pub(super) struct Rest {
    realtime: bool,
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.realtime
            && let Err(e) = schedule(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, LOWEST)
        {
            debug!("the real-time priority is gone: {e}");
        }
    }
}

fn lower() {
    if let Err(e) = schedule(libc::SCHED_OTHER, 0) {
        debug!("the real-time priority stays: {e}");
    }
}

/// Of the calling thread.
fn schedule(policy: libc::c_int, priority: libc::c_int) -> Result<(), Errno> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the pointer is to a structure that lives through the call; 0 names the calling thread.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
}

/// Half of the shortest interval between probes.
const LATE: Duration = Duration::from_millis(5);
/// As late as a probe of the default profile: detection suffers.
const TOO_LATE: Duration = Duration::from_millis(50);
/// Nanoseconds between two complaints, at least.
const COMPLAIN_EVERY_NS: u64 = 60_000_000_000;

/// Wake-ups since the last complaint. Pure.
#[derive(Debug, Default)]
pub(super) struct Punctuality {
    since_ns: Option<u64>,
    wakeups: u64,
    late: u64,
    worst: Duration,
}

impl Punctuality {
    /// A wake-up that was so late, at `now_ns`; what is to be said of it and of those before.
    pub(super) fn note(&mut self, late: Duration, now_ns: u64) -> Option<String> {
        self.wakeups += 1;
        self.late += u64::from(late >= LATE);
        self.worst = self.worst.max(late);
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns) < COMPLAIN_EVERY_NS {
            return None;
        }
        let Self {
            wakeups, late, worst, ..
        } = std::mem::take(self);
        self.since_ns = Some(now_ns);
        (worst >= TOO_LATE).then(|| {
            format!(
                "{late} of {wakeups} wake-ups were more than {LATE:?} late, by {worst:.0?} at most: this machine is too busy to probe in time, and \
                 failovers take that much longer"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: takes no pointer; 0 names the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    /// Without the privilege the same laws hold, of a thread that stays ordinary.
    #[test]
    fn the_loop_alone_has_the_priority_and_only_while_it_does_not_rest() {
        let ordinary = policy();
        let priority = Priority::raise();
        let raised = policy();
        if priority.realtime {
            assert_eq!(raised, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK);
        } else {
            assert_eq!(raised, ordinary);
        }
        assert_eq!(
            std::thread::spawn(policy).join().unwrap(),
            libc::SCHED_OTHER,
            "a thread of the pool"
        );
        let rest = priority.rest();
        assert_eq!(policy(), ordinary);
        drop(rest);
        assert_eq!(policy(), raised);
        drop(priority);
        assert_eq!(policy(), ordinary);
        drop(Priority::ordinary().rest());
        assert_eq!(policy(), ordinary);
    }

    #[test]
    fn lateness_is_told_once_a_minute_and_only_if_detection_suffered() {
        let (ms, s) = (Duration::from_millis, |s: u64| s * 1_000_000_000);
        let mut punctuality = Punctuality::default();
        assert_eq!(punctuality.note(ms(49), s(100)), None);
        assert_eq!(
            punctuality.note(ms(1), s(160)),
            None,
            "a minute, but nothing to complain of"
        );
        assert_eq!(punctuality.note(ms(70), s(219)), None, "something, but no minute");
        let said = punctuality.note(ms(4), s(220)).expect("both");
        assert!(
            said.starts_with("1 of 2 wake-ups were more than 5ms late, by 70ms at most"),
            "{said}"
        );
        assert_eq!(punctuality.note(ms(4), s(280)), None, "that was told");
    }
}
