//! How late the daemon's loop, which sends the probes, comes to what it wanted to be woken for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seconds: the upper bounds of all buckets but the last, which has none.
const BOUNDS: [f64; 8] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
const BUCKETS: usize = BOUNDS.len() + 1;

/// Noted by the daemon at every wake-up, read by scrapes. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Lateness(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Lateness {
    /// A wake-up was so late.
    pub fn note(&self, late: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < late.as_secs_f64());
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// All wake-ups so far.
    #[must_use]
    pub fn read(&self) -> Wakeups {
        Wakeups {
            buckets: self.0.buckets.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.0.sum_ns.load(Ordering::Relaxed)),
        }
    }
}

/// Wake-ups by how late they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wakeups {
    buckets: [u64; BUCKETS],
    /// Of all of them.
    pub sum: Duration,
}

impl Wakeups {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Each bucket's upper bound in seconds ([`f64::INFINITY`]: none), and how many are in it and in none before.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wakeup_is_counted_once_in_the_first_bucket_that_holds_it() {
        let lateness = Lateness::default();
        for late_us in [0, 500, 501, 5_000, 1_000_000, 1_000_001, 60_000_000] {
            lateness.clone().note(Duration::from_micros(late_us));
        }
        let wakeups = lateness.read();
        let counts: Vec<u64> = wakeups.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 1, 0, 0, 0, 0, 1, 2]);
        assert_eq!(wakeups.buckets().last(), Some((f64::INFINITY, 2)));
        assert_eq!((wakeups.count(), wakeups.sum.as_micros()), (7, 62_006_002));
    }
}
