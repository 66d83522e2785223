//! What is shown while the laboratory runs: a line for each event, a line each second, and the daemon's own log.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wgxdp_tests::daemon::Log;
use wgxdp_tests::traffic::Traffic;

/// How often the daemon's log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Looks between two lines about the traffic.
const LOOKS_PER_LINE: u32 = 20;

/// Where lines for people go: standard output, or standard error when standard output is for machines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    start: Instant,
    json: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            start: Instant::now(),
            json,
        }
    }

    /// A line with the time since the start.
    pub(crate) fn say(self, line: &str) {
        self.write(&format!("{:6.2} s  {line}\n", self.start.elapsed().as_secs_f64()));
    }

    /// A text as it is.
    pub(crate) fn write(self, text: &str) {
        // Nobody is left to tell when the terminal has gone.
        let _ = if self.json {
            io::stderr().write_all(text.as_bytes())
        } else {
            io::stdout().write_all(text.as_bytes())
        };
    }
}

/// Shows the traffic and the daemon's log while `work` runs.
pub(crate) fn during<T>(screen: Screen, traffic: &Traffic, log: &Log, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| show(screen, traffic, log, &stop));
        // Also when `work` panics: the scope waits for the other thread before it lets the panic through.
        let _stop = StopOnDrop(&stop);
        work()
    })
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn show(screen: Screen, traffic: &Traffic, log: &Log, stop: &AtomicBool) {
    let mut shown = 0;
    let mut before = Counts::of(traffic);
    for look in 1_u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(LOOK_EVERY);
        for line in log.since(shown) {
            shown += 1;
            screen.say(&format!("  wgxdp │ {line}"));
        }
        if look % LOOKS_PER_LINE == 0 {
            let now = Counts::of(traffic);
            screen.say(&now.since(&before));
            before = now;
        }
    }
}

struct Counts {
    at: Instant,
    up: u64,
    down: u64,
    tcp: u64,
}

impl Counts {
    fn of(traffic: &Traffic) -> Self {
        let (up, down) = (traffic.up.counts().1, traffic.down.counts().1);
        Self {
            at: Instant::now(),
            up,
            down,
            tcp: traffic.tcp.received(),
        }
    }

    fn since(&self, before: &Self) -> String {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        let (up, down, tcp) = (
            rate(self.up, before.up),
            rate(self.down, before.down),
            rate(self.tcp, before.tcp),
        );
        format!(
            "traffic │ UDP to the hub {up:4.0}/s, to the branch {down:4.0}/s, TCP {:.2} MB/s",
            tcp / 1e6
        )
    }
}
