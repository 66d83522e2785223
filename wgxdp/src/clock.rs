//! The one clock of the engine and the kernel: CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads too.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const NS_PER_S: u64 = 1_000_000_000;

/// Now, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    now.tv_sec() as u64 * NS_PER_S + now.tv_nsec() as u64
}

/// What wakes the loop in time: a timer of the kernel's own (timerfd_create(2)) by this clock.
///
/// The runtime's timers know milliseconds only, and to set one that is earlier than all others costs a write to the runtime itself and a second look at what is ready: for each probe.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<Timer>,
    set_for_ns: Option<u64>,
}

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// To be called within the runtime.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(TimerClock::CLOCK_MONOTONIC, flags)?);
        // SAFETY: the timer owns its descriptor, which stays open and the same until it is dropped.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self {
            timer: timer.map_err(io::Error::from)?,
            set_for_ns: None,
        })
    }

    /// Waits until `at_ns`; for ever if there is no such time. Dropped in between, it costs nothing to ask again for the same time.
    ///
    /// # Errors
    /// There are none that the kernel is known to give.
    pub async fn ring(&mut self, at_ns: Option<u64>) -> io::Result<()> {
        let Some(at_ns) = at_ns else {
            return std::future::pending().await;
        };
        while monotonic_ns() < at_ns {
            if self.set_for_ns != Some(at_ns) {
                let at = TimeSpec::new((at_ns / NS_PER_S) as i64, (at_ns % NS_PER_S) as i64);
                let Timer(timer) = self.timer.get_ref();
                timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
                self.set_for_ns = Some(at_ns);
            }
            // The descriptor is never read: setting it again makes it silent, and each expiry is an edge.
            self.timer.readable().await?.clear_ready();
            self.set_for_ns = None;
        }
        // An alarm that always rings at once must not keep the runtime from looking at anything else.
        tokio::task::coop::consume_budget().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(2);
    const LONG: Duration = Duration::from_secs(60);

    fn after(time: Duration) -> u64 {
        monotonic_ns() + time.as_nanos() as u64
    }

    /// Not before its time.
    async fn rings_soon(alarm: &mut Alarm) {
        let at_ns = after(SOON);
        let rung = timeout(LONG, alarm.ring(Some(at_ns))).await;
        rung.expect("it rings").expect("a timer");
        assert!(monotonic_ns() >= at_ns);
    }

    #[tokio::test]
    async fn it_never_rings_early_and_rings_as_often_as_it_is_set() {
        let mut alarm = Alarm::new().expect("a timer");
        for _ in 0..5 {
            rings_soon(&mut alarm).await;
        }
    }

    #[tokio::test]
    async fn it_rings_for_the_time_that_was_asked_for_last() {
        let mut alarm = Alarm::new().expect("a timer");
        assert!(timeout(SOON, alarm.ring(None)).await.is_err(), "never");
        assert!(timeout(SOON, alarm.ring(Some(after(LONG)))).await.is_err(), "later");
        rings_soon(&mut alarm).await;
        // It expires while nobody waits for it, of which there is nothing to see.
        let _ = timeout(Duration::ZERO, alarm.ring(Some(after(SOON)))).await;
        tokio::time::sleep(2 * SOON).await;
        rings_soon(&mut alarm).await;
    }

    #[tokio::test]
    async fn times_that_have_passed_ring_at_once_and_let_others_run() {
        let mut alarm = Alarm::new().expect("a timer");
        let always = async {
            loop {
                alarm.ring(Some(0)).await.expect("a timer");
            }
        };
        assert!(timeout(SOON, always).await.is_err(), "the timeout had its turn");
    }
}
