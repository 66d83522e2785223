//! Round-trip time of a path, estimated as in RFC 6298 section 2: a smoothed mean (gain 1/8) and a smoothed mean deviation (gain 1/4).
//!
//! The samples are the kernel's own (stamped where the probe leaves and where its answer arrives), so the deviation is the network's and not the
//! scheduler's. There is no retransmission, hence no ambiguity (Karn's problem): every answer names its probe.

use std::time::Duration;

/// What is assumed of a path that has not answered yet (RFC 6298 section 2.1).
pub(super) const INITIAL: Duration = Duration::from_secs(1);
/// Longer samples count as this: a probe that old tells nothing more.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    estimate: Option<Estimate>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    smoothed: Duration,
    deviation: Duration,
}

impl Rtt {
    /// Takes one measurement into the estimate.
    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt = rtt.min(LONGEST);
        self.estimate = Some(match self.estimate {
            None => Estimate {
                smoothed: rtt,
                deviation: rtt / 2,
            },
            Some(Estimate { smoothed, deviation }) => Estimate {
                smoothed: smoothed * 7 / 8 + rtt / 8,
                deviation: deviation * 3 / 4 + smoothed.abs_diff(rtt) / 4,
            },
        });
    }

    /// The smoothed round-trip time (SRTT), once the path has answered.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|e| e.smoothed)
    }

    /// The mean deviation of the round-trip time (RTTVAR), once the path has answered.
    pub(super) fn deviation(&self) -> Option<Duration> {
        self.estimate.map(|e| e.deviation)
    }

    /// How much later than the mean an answer may come (4 × RTTVAR).
    pub(super) fn variation(&self) -> Duration {
        self.estimate.map_or(INITIAL, |e| e.deviation * 4)
    }

    /// In what time an answer should have come (SRTT + 4 × RTTVAR).
    pub(super) fn bound(&self) -> Duration {
        self.estimate.map_or(INITIAL, |e| e.smoothed + e.deviation * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_sample_and_the_second_are_taken_as_rfc_6298_says() {
        let mut rtt = Rtt::default();
        assert_eq!((rtt.smoothed(), rtt.bound()), (None, INITIAL));
        rtt.sample(80 * MS);
        assert_eq!(
            (rtt.smoothed(), rtt.variation(), rtt.bound()),
            (Some(80 * MS), 160 * MS, 240 * MS)
        );
        rtt.sample(160 * MS);
        // RTTVAR = 3/4 · 40 + 1/4 · 80 = 50; SRTT = 7/8 · 80 + 1/8 · 160 = 90.
        assert_eq!(
            (rtt.smoothed(), rtt.variation(), rtt.bound()),
            (Some(90 * MS), 200 * MS, 290 * MS)
        );
    }

    #[test]
    fn a_constant_round_trip_of_any_length_loses_its_variation() {
        for constant in [MS / 5, 20 * MS, 200 * MS] {
            let mut rtt = Rtt::default();
            (0..40).for_each(|_| rtt.sample(constant));
            assert!(
                rtt.variation() < MS / 10,
                "{:?} after 40 samples of {constant:?}",
                rtt.variation()
            );
        }
    }

    #[test]
    fn a_jump_shows_in_the_variation_at_once() {
        let mut rtt = Rtt::default();
        (0..40).for_each(|_| rtt.sample(20 * MS));
        rtt.sample(60 * MS);
        assert!(rtt.variation() >= 40 * MS, "{:?}", rtt.variation());
    }

    proptest! {
        #[test]
        fn the_mean_stays_between_the_extremes(samples in prop::collection::vec(0u64..100_000_000_000, 1..50)) {
            let mut rtt = Rtt::default();
            samples.iter().for_each(|ns| rtt.sample(Duration::from_nanos(*ns)));
            let smoothed = rtt.smoothed().expect("sampled");
            let lowest = Duration::from_nanos(*samples.iter().min().expect("not empty")).min(LONGEST);
            let highest = Duration::from_nanos(*samples.iter().max().expect("not empty")).min(LONGEST);
            // Each step rounds down by less than two nanoseconds.
            prop_assert!(smoothed + Duration::from_nanos(2 * samples.len() as u64) >= lowest && smoothed <= highest);
        }
    }
}
