//! Processors and machines that have no time for anybody: kept busy by ordinary threads, among which all others wait for their turn; taken by threads before which nobody
//! runs; and a guest that is suspended.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sys::termios::tcdrain;

use crate::clock::{now_ns, sleep_until};
use crate::{cores, poll};

/// Above the daemon's priority and that of whatever else in the laboratory runs in real time.
const ABOVE_ALL: libc::c_int = 50;
/// How much later than it was asked to a suspended guest may go on.
const RESUMED_WITHIN: Duration = Duration::from_secs(30);
/// Where the harness listens to a guest: the line of its init.
const HARNESS: &str = "/dev/ttyS1";

/// Ordinary threads that do nothing but run; dropped, they end.
#[derive(Debug)]
pub struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    /// So many for each processor.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn start(per_core: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let burner = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        };
        let threads = (0..per_core * cores::all_usable()?.len()).map(burner).collect();
        Ok(Self { stop, threads })
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // They cannot panic.
            let _ = thread.join();
        }
    }
}

/// Takes all processors at once from whatever is not the kernel's own interrupt, so often, for `time` each, and leaves them alone for `pause` before each. Of a second the
/// kernel takes a twentieth for ordinary threads (sched_rt_runtime_us, or since 6.12 a deadline server for them): `time` and `pause` are to leave it more than that.
///
/// # Errors
/// What the kernel said.
pub fn seize_processors(times: u32, time: Duration, pause: Duration) -> Result<()> {
    let ns = |time: Duration| time.as_nanos() as u64;
    let begin_ns = now_ns() + ns(pause);
    let seizures: Vec<_> = (0..u64::from(times))
        .map(|n| begin_ns + n * ns(time + pause))
        .map(|from_ns| (from_ns, from_ns + ns(time)))
        .collect();
    thread::scope(|scope| {
        let seize = |core| {
            scope.spawn({
                let seizures = &seizures;
                move || seize(core, seizures)
            })
        };
        let threads: Vec<_> = cores::all_usable()?.into_iter().map(seize).collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    })
}

/// Takes this core from each first moment to the second, in nanoseconds of CLOCK_MONOTONIC.
fn seize(core: usize, seizures: &[(u64, u64)]) -> Result<()> {
    cores::on_core(core, || {
        cores::run_in_real_time(libc::SCHED_FIFO, ABOVE_ALL).context("running before everybody else")?;
        for (from_ns, until_ns) in seizures {
            sleep_until(*from_ns)?;
            while now_ns() < *until_ns {}
        }
        Ok(())
    })
}

/// Has the harness suspend this guest for `time`, and returns by how much CLOCK_MONOTONIC jumped. The harness stops QEMU as a whole, so all of the guest stands still, while the
/// clocks that QEMU shows it are the host's and go on.
///
/// # Errors
/// There is no harness to ask, or the clock did not jump by `time`.
pub fn suspend_guest(time: Duration) -> Result<Duration> {
    let mut harness = OpenOptions::new().write(true).open(HARNESS).context(HARNESS)?;
    let mut looked_ns = now_ns();
    // A line of its own, in one write, as init writes its lines.
    harness
        .write_all(format!("\nWGXDP-VM suspend {}\n", time.as_millis()).as_bytes())
        .context(HARNESS)?;
    tcdrain(&harness).context(HARNESS)?;
    poll::wait_for(
        "the clock to jump, as it does for who was suspended",
        time + RESUMED_WITHIN,
        || {
            let jump = Duration::from_nanos(now_ns() - looked_ns);
            looked_ns = now_ns();
            Ok((jump >= time).then_some(jump))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burners_end_when_they_are_dropped() {
        let burners = Burners::start(1).expect("there are cores");
        let stop = Arc::clone(&burners.stop);
        drop(burners);
        assert_eq!(Arc::strong_count(&stop), 1, "every thread has let go of it");
    }
}
