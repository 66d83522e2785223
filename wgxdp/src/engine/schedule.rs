//! When the next probe of a path leaves: every `interval`, on a grid of its own, so that the probes of many paths spread over the interval.
//!
//! A slot that was missed is skipped and never caught up: after any delay one probe leaves at once, the next one at the next slot of the grid that is
//! not too close (at least a quarter of the interval away).

use std::time::Duration;

/// No path is probed more often.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    next_ns: u64,
    interval_ns: u64,
}

impl Schedule {
    /// The grid of the path in place `index` of `count`, beginning at `start_ns`.
    pub(super) fn new(start_ns: u64, interval: Duration, index: usize, count: usize) -> Self {
        let interval = interval.max(SHORTEST_INTERVAL);
        let phase = interval.mul_f64(index as f64 / count.max(1) as f64);
        Self {
            next_ns: start_ns + phase.as_nanos() as u64,
            interval_ns: interval.as_nanos() as u64,
        }
    }

    /// The time between two probes.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval_ns)
    }

    /// The time between two probes, in nanoseconds.
    pub(super) fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// When the next probe is due.
    pub(super) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Another interval from now on. If it is shorter a probe is due now and the grid begins with it; if it is longer the next slot stays, so that the
    /// paths remain spread.
    pub(super) fn set_interval(&mut self, interval: Duration, now_ns: u64) {
        let interval_ns = interval.max(SHORTEST_INTERVAL).as_nanos() as u64;
        if interval_ns < self.interval_ns {
            self.next_ns = self.next_ns.min(now_ns);
        }
        self.interval_ns = interval_ns;
    }

    /// A probe leaves now, due or not: moves on to the next slot.
    pub(super) fn advance(&mut self, now_ns: u64) {
        let earliest = now_ns + self.interval_ns / 4;
        if self.next_ns <= earliest {
            self.next_ns += ((earliest - self.next_ns) / self.interval_ns + 1) * self.interval_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const MS: u64 = 1_000_000;
    const INTERVAL: Duration = Duration::from_millis(20);

    #[test]
    fn the_paths_share_the_interval_evenly() {
        let starts: Vec<u64> = (0..4)
            .map(|index| Schedule::new(7 * MS, INTERVAL, index, 4).next_ns())
            .collect();
        assert_eq!(starts, [7 * MS, 12 * MS, 17 * MS, 22 * MS]);
    }

    #[test]
    fn a_minute_of_missed_slots_is_skipped_and_the_grid_kept() {
        let mut schedule = Schedule::new(5 * MS, INTERVAL, 0, 1);
        schedule.advance(60_000 * MS);
        assert_eq!(
            schedule.next_ns(),
            60_005 * MS + INTERVAL.as_nanos() as u64,
            "the slot 5 ms away is too close"
        );
        let mut schedule = Schedule::new(6 * MS, INTERVAL, 0, 1);
        schedule.advance(60_000 * MS);
        assert_eq!(schedule.next_ns(), 60_006 * MS);
    }

    #[test]
    fn a_prober_that_is_a_little_late_every_time_keeps_its_rate() {
        let mut schedule = Schedule::new(0, INTERVAL, 0, 1);
        let sent: BTreeSet<u64> = (0..50)
            .map(|_| {
                let slot = schedule.next_ns();
                schedule.advance(slot + 9 * MS);
                slot
            })
            .collect();
        assert_eq!(sent.last(), Some(&(49 * 20 * MS)));
    }

    #[test]
    fn a_probe_out_of_turn_does_not_add_a_slot() {
        let mut schedule = Schedule::new(20 * MS, INTERVAL, 0, 1);
        schedule.advance(2 * MS);
        assert_eq!(schedule.next_ns(), 20 * MS, "far enough away");
        schedule.advance(18 * MS);
        assert_eq!(schedule.next_ns(), 40 * MS, "too close, so skipped");
    }

    #[test]
    fn a_shorter_interval_begins_at_once_and_a_longer_one_with_the_next_slot() {
        let mut schedule = Schedule::new(0, INTERVAL, 0, 1);
        schedule.advance(0);
        schedule.set_interval(Duration::from_secs(1), 7 * MS);
        assert_eq!(schedule.next_ns(), 20 * MS);
        schedule.advance(20 * MS);
        assert_eq!(schedule.next_ns(), 1020 * MS);
        schedule.set_interval(INTERVAL, 333 * MS);
        assert_eq!(schedule.next_ns(), 333 * MS);
        schedule.advance(334 * MS);
        assert_eq!(schedule.next_ns(), 353 * MS);
    }

    proptest! {
        #[test]
        fn the_next_slot_is_in_the_future_on_the_grid_and_not_far(start in 0u64..1 << 40, late in 0u64..1 << 40, interval in 0u64..1000) {
            let mut schedule = Schedule::new(start, Duration::from_millis(interval), 0, 1);
            schedule.advance(start + late);
            let (next, interval) = (schedule.next_ns(), schedule.interval_ns());
            prop_assert!(next > start + late && next <= start + late + interval + interval / 4);
            prop_assert_eq!((next - start) % interval, 0);
        }
    }
}
