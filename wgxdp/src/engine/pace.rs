//! How often a path is asked: by the interval that its peer wants, or less often where each byte is paid for and nobody waits for the answer.
//!
//! ```text
//!                              its peer's traffic goes there      it stands by
//!                                                                 active path up    active path anything but up
//!   any path       small       interval                           interval          interval
//!                  full size   every fifth, at most each 600 ms   a tenth of that   a tenth of that
//!   metered path   small       interval                           1 s               interval, the first one at once
//!                  full size   every fifth, at most each 600 ms   1 min             1 min
//! ```
//!
//! What the second row says never asks more often than the first one would. A path that may swallow large packets is asked by one with each small probe, until that is known
//! (see `full_size`).

use std::time::Duration;

/// From one probe to the next on a metered path that nobody waits for.
const METERED: Duration = Duration::from_secs(1);
/// The same for its full-size probes, hurried or not.
const METERED_FULL_SIZE: Duration = Duration::from_secs(60);
/// Probes of a path for each full-size one.
const EVERY: u32 = 5;
/// No path is sent full-size probes more often while all is well.
const LEAST_FULL_SIZE: Duration = Duration::from_millis(600);
/// How many times longer a path that carries nothing waits for its next full-size probe.
const STANDING_BY: u32 = 10;

/// What a path's peer and its uplink make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time between two probes that the peer wants.
    pub interval: Duration,
    /// Whether each byte by its uplink is paid for.
    pub metered: bool,
}

impl Pace {
    /// The time between two probes; `hurried`: the peer's traffic is there, or may soon be.
    #[must_use]
    pub fn interval(self, hurried: bool) -> Duration {
        if self.metered && !hurried {
            self.interval.max(METERED)
        } else {
            self.interval
        }
    }

    /// The time between two full-size probes, each of which leaves with one of the others; `in_use`: the peer's traffic is there.
    #[must_use]
    pub fn full_size_period(self, in_use: bool) -> Duration {
        let least = LEAST_FULL_SIZE.as_nanos().div_ceil(self.interval.as_nanos().max(1));
        let probes = EVERY.max(u32::try_from(least).unwrap_or(u32::MAX));
        let period = self.interval * probes;
        match (in_use, self.metered) {
            (true, _) => period,
            (false, false) => period * STANDING_BY,
            (false, true) => (period * STANDING_BY).max(METERED_FULL_SIZE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metered_path_is_never_asked_more_often_than_another() {
        for ms in [1, 10, 50, 500, 999, 1000, 5000, 60_000] {
            let interval = Duration::from_millis(ms);
            let [plain, metered] = [false, true].map(|metered| Pace { interval, metered });
            for in_use in [true, false] {
                assert!(metered.interval(in_use) >= plain.interval(in_use), "{ms} ms");
                assert!(
                    metered.full_size_period(in_use) >= plain.full_size_period(in_use),
                    "{ms} ms"
                );
            }
            assert_eq!(metered.interval(true), interval);
            assert_eq!(metered.full_size_period(true), plain.full_size_period(true));
        }
    }

    #[test]
    fn standing_by_it_is_asked_once_a_second_and_once_a_minute_at_full_size() {
        let interval = Duration::from_millis(50);
        let pace = Pace {
            interval,
            metered: true,
        };
        assert_eq!(pace.interval(false), Duration::from_secs(1));
        assert_eq!(pace.full_size_period(false), Duration::from_secs(60));
        let plain = Pace { metered: false, ..pace };
        assert_eq!(plain.interval(false), interval);
        assert_eq!(plain.full_size_period(false), Duration::from_secs(6));
    }
}
