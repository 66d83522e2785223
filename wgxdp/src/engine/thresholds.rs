//! How long a path may be silent before it is suspect, and before it is dead.
//!
//! Silence is measured from the arrival of the last answer. Probes leave every interval `I`; with a constant round trip, of whatever length, answers
//! arrive every `I` too. So what matters is not the round trip but by how much one answer may come later than another: the **margin**.
//!
//! ```text
//!   last answer      1st missing     2nd missing          k-th missing
//!   ─────┼───────────────┼───────┬───────┼───────── … ────────┼────┬──→ silence
//!        0               I   1.25 I     2 I                  k I   │
//!                                └ suspect_after = 1.25 I + m      └ dead_after = min(k I, max(10 s, 3 I)) + m
//!
//!   m = max(I / 4, 2 ms, 4 × RTTVAR)          RTTVAR as in RFC 6298 section 2; before the first answer 4 × RTTVAR counts as 1 s
//!   k ≥ 3                                     by the way in which the path loses probes: see `gilbert`
//! ```
//!
//! - k is what keeps false verdicts within the path's share of the budget. When k lost probes are followed by an answered one, the silence reaches
//!   (k + 1) I, which is too long; with k − 1 it is k I, and m is for those. Nobody waits longer than [`LONGEST`] for a path that
//!   loses ever so many probes in a row: there the budget is not kept.
//! - The floor `I / 4` is for our own prober: the third probe may leave that much late and still have its chance to be answered in time. As much again makes a path suspect: what
//!   that costs if it is wrong is a few copies.
//! - 4 × RTTVAR is for the network. With `I` = 20 ms a steady path is dead 65 ms after its last answer, be its round trip 0.2 ms or 200 ms.
//! - A round trip that grows at once by less than 2 `I` + m never looks dead, and widens the margin at once. A path whose round trip grows at once by
//!   more than that cannot be told from one that died, until the answers come after all.
//!
//! **A gap in the asking is a gap in the answers, one round trip later.** When the prober was starved (half an interval late or more),
//! the silence is its own fault: both thresholds grow by the silence so far and the time an answer takes (SRTT + 4 × RTTVAR), until the first probe after
//! the gap is answered, or should have been. This is granted once for each sign of life, so that a limping prober does not keep a dead path alive.
//!
//! **A shorter interval** is a promise of the future: answers to what was asked before come as slowly as before. So the thresholds of the longer one hold
//! until the first probe after the change is answered, or that and those after it should have been. A longer interval counts at once, before the first slot
//! of the shorter one is left out.
//!
//! Units: [`Thresholds`] hold microseconds; everything here is nanoseconds of CLOCK_MONOTONIC.

use std::time::Duration;

use wgxdp_common::liveness::{DEAD_MIN_UNANSWERED, Thresholds};

use super::rtt::{self, Rtt};

/// The margin is never smaller: timers are no finer.
const SMALLEST_MARGIN: Duration = Duration::from_millis(2);
/// No path is given more time for its losses, unless three intervals are longer.
const LONGEST: Duration = Duration::from_secs(10);
/// Smaller changes than this, and than a twentieth, are not worth a write.
const NOTICEABLE: Duration = Duration::from_millis(1);

/// The thresholds of one path, and what the kernel was last told of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuner {
    interval_ns: u64,
    /// The interval when the last probe left.
    asked_every_ns: u64,
    told: Thresholds,
    haste: Option<Haste>,
    gap: Option<Gap>,
    /// When a gap was last granted; another one is after a sign of life since.
    granted_ns: Option<u64>,
}

/// The path is asked more often than before.
#[derive(Clone, Copy, Debug)]
struct Haste {
    /// The first probe after the change.
    sequence: u32,
    /// The interval before it.
    before_ns: u64,
    /// Until when that still counts.
    until_ns: u64,
}

/// What is granted to a path that was not asked for a while.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// The first probe after the gap.
    sequence: u32,
    /// By how much both thresholds grow.
    extra_ns: u64,
    /// Until when.
    until_ns: u64,
}

impl Tuner {
    /// Of a path that is dead when this many probes are missed.
    pub(super) fn new(interval_ns: u64, needed: u64) -> Self {
        let told = steady(interval_ns, needed, &Rtt::default());
        Self {
            interval_ns,
            asked_every_ns: interval_ns,
            told,
            haste: None,
            gap: None,
            granted_ns: None,
        }
    }

    /// The path is asked this often from now on, the probe `sequence` being the next one.
    pub(super) fn set_interval(&mut self, interval_ns: u64, sequence: u32, now_ns: u64, needed: u64, rtt: &Rtt) {
        let before_ns = std::mem::replace(&mut self.interval_ns, interval_ns);
        let answered_ns = now_ns + rtt.bound().as_nanos() as u64;
        self.haste = (interval_ns < before_ns).then(|| Haste {
            sequence,
            before_ns,
            until_ns: answered_ns + steady(interval_ns, needed, rtt).dead_after_ns(),
        });
    }

    /// What the kernel was told, and both sides judge by.
    pub(super) fn thresholds(&self) -> Thresholds {
        self.told
    }

    /// A probe leaves: was the path not asked for too long?
    pub(super) fn resume(&mut self, sequence: u32, now_ns: u64, asked_ns: u64, proof_ns: u64, rtt: &Rtt) {
        let unasked_ns = now_ns.saturating_sub(asked_ns);
        let every_ns = std::mem::replace(&mut self.asked_every_ns, self.interval_ns).max(self.interval_ns);
        if 2 * unasked_ns < 3 * every_ns || self.granted_ns.is_some_and(|granted_ns| proof_ns <= granted_ns) {
            return;
        }
        let answer_ns = rtt.bound().as_nanos() as u64;
        let extra_ns = unasked_ns.max(now_ns.saturating_sub(proof_ns)) + answer_ns;
        let until_ns = now_ns + answer_ns + steady(self.interval_ns, DEAD_MIN_UNANSWERED, rtt).dead_after_ns();
        self.gap = Some(Gap {
            sequence,
            extra_ns,
            until_ns,
        });
        self.granted_ns = Some(now_ns);
    }

    /// An answer came: a gap is over if the probe left after it, and so is the time in which a longer interval still counts.
    pub(super) fn answered(&mut self, sequence: u32) {
        // Sequence numbers wrap: the later of two is less than half the circle ahead.
        let is_before = |first: u32| sequence.wrapping_sub(first) > u32::MAX / 2;
        self.gap = self.gap.filter(|gap| is_before(gap.sequence));
        self.haste = self.haste.filter(|haste| is_before(haste.sequence));
    }

    /// The thresholds of this moment, if they differ noticeably from what the kernel was told.
    pub(super) fn retune(&mut self, now_ns: u64, needed: u64, rtt: &Rtt) -> Option<Thresholds> {
        self.gap = self.gap.filter(|gap| now_ns < gap.until_ns);
        self.haste = self.haste.filter(|haste| now_ns < haste.until_ns);
        let interval_ns = self.haste.map_or(self.interval_ns, |haste| haste.before_ns);
        let steady = steady(interval_ns, needed, rtt);
        let wanted = self.gap.map_or(steady, |gap| stretch(steady, gap.extra_ns));
        let noticeable =
            |old_ns: u64, new_ns: u64| old_ns.abs_diff(new_ns) >= (NOTICEABLE.as_nanos() as u64).max(old_ns / 20);
        let worth_it = noticeable(self.told.suspect_after_ns(), wanted.suspect_after_ns())
            || noticeable(self.told.dead_after_ns(), wanted.dead_after_ns());
        // The tightest thresholds are always told, so that they do not end up five per cent wide for ever.
        let tightest = wanted != self.told && wanted == tightest(self.interval_ns);
        (worth_it || tightest).then(|| {
            self.told = wanted;
            wanted
        })
    }
}

/// The thresholds of a path that is asked regularly.
fn steady(interval_ns: u64, needed: u64, rtt: &Rtt) -> Thresholds {
    with_margin(interval_ns, needed, rtt.variation().as_nanos() as u64)
}

fn tightest(interval_ns: u64) -> Thresholds {
    with_margin(interval_ns, DEAD_MIN_UNANSWERED, 0)
}

/// m.
fn margin_ns(interval_ns: u64, variation_ns: u64) -> u64 {
    variation_ns.max(interval_ns / 4).max(SMALLEST_MARGIN.as_nanos() as u64)
}

/// In what time a probe is answered, if it is: SRTT + m.
pub(super) fn answer_ns(interval_ns: u64, rtt: &Rtt) -> u64 {
    let smoothed = rtt.smoothed().unwrap_or(rtt::INITIAL);
    smoothed.as_nanos() as u64 + margin_ns(interval_ns, rtt.variation().as_nanos() as u64)
}

fn with_margin(interval_ns: u64, needed: u64, variation_ns: u64) -> Thresholds {
    let margin_ns = margin_ns(interval_ns, variation_ns);
    let longest_ns = (LONGEST.as_nanos() as u64).max(DEAD_MIN_UNANSWERED * interval_ns);
    let missed_ns = needed.saturating_mul(interval_ns).min(longest_ns);
    from_ns(interval_ns + interval_ns / 4 + margin_ns, missed_ns + margin_ns)
}

fn stretch(thresholds: Thresholds, extra_ns: u64) -> Thresholds {
    from_ns(
        thresholds.suspect_after_ns() + extra_ns,
        thresholds.dead_after_ns() + extra_ns,
    )
}

fn from_ns(suspect_after_ns: u64, dead_after_ns: u64) -> Thresholds {
    let us = |ns: u64| u32::try_from(ns.div_ceil(1000)).unwrap_or(u32::MAX);
    Thresholds::new(us(suspect_after_ns), us(dead_after_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const INTERVAL: u64 = 20 * MS;

    fn after(samples: impl IntoIterator<Item = Duration>) -> (Tuner, Rtt) {
        let (mut tuner, mut rtt) = (Tuner::new(INTERVAL, 3), Rtt::default());
        for sample in samples {
            rtt.sample(sample);
            tuner.retune(0, 3, &rtt);
        }
        (tuner, rtt)
    }

    #[test]
    fn a_steady_path_is_dead_after_three_intervals_and_a_quarter_be_it_near_or_far() {
        for us in [200, 20_000, 200_000] {
            let (tuner, _) = after((0..100).map(|_| Duration::from_micros(us)));
            assert_eq!(
                tuner.thresholds(),
                Thresholds::new(30_000, 65_000),
                "round trip {us} µs"
            );
        }
    }

    #[test]
    fn a_path_that_never_answered_is_given_a_second_more() {
        assert_eq!(
            Tuner::new(INTERVAL, 3).thresholds(),
            Thresholds::new(1_025_000, 1_060_000)
        );
    }

    #[test]
    fn what_it_takes_more_to_be_dead_does_not_put_off_suspicion_and_nobody_waits_ten_seconds_for_it() {
        let (mut tuner, rtt) = after((0..100).map(|_| Duration::from_millis(20)));
        for (needed, dead_after_ms) in [(12, 245), (64, 1285), (500, 10_005), (10_000, 10_005)] {
            tuner.retune(0, needed, &rtt);
            assert_eq!(
                tuner.thresholds(),
                Thresholds::new(30_000, dead_after_ms * 1000),
                "{needed} probes"
            );
        }
        let rare = with_margin(60_000 * MS, 12, 0);
        assert_eq!(rare.dead_after_ns(), 195_000 * MS, "three intervals at least");
    }

    #[test]
    fn a_jump_of_the_round_trip_widens_the_margin_at_once() {
        let near = (0..100).map(|_| Duration::from_millis(20));
        let (tuner, _) = after(near.chain([Duration::from_millis(60)]));
        assert!(
            tuner.thresholds().dead_after_ns() >= 100 * MS,
            "{:?}",
            tuner.thresholds()
        );
    }

    #[test]
    fn a_change_that_nobody_would_notice_is_not_told() {
        let (mut tuner, mut rtt) = after((0..100).map(|_| Duration::from_millis(200)));
        for us in [200_100, 199_900, 200_200, 200_000] {
            rtt.sample(Duration::from_micros(us));
            assert_eq!(tuner.retune(0, 3, &rtt), None);
        }
    }

    #[test]
    fn a_gap_in_the_asking_stretches_both_thresholds_until_a_probe_after_it_is_answered() {
        let (mut tuner, rtt) = after((0..100).map(|_| Duration::from_millis(200)));
        let now = 100_000 * MS;
        tuner.resume(1000, now, now - 60_000 * MS, now - 59_800 * MS, &rtt);
        let told = tuner.retune(now, 3, &rtt).expect("stretched");
        assert!(
            told.dead_after_ns() >= 60_265 * MS && told.suspect_after_ns() >= 60_230 * MS,
            "{told:?}"
        );
        tuner.answered(999);
        assert_eq!(
            tuner.retune(now + MS, 3, &rtt),
            None,
            "a probe from before the gap says nothing of it"
        );
        tuner.answered(1000);
        assert_eq!(
            tuner.retune(now + 200 * MS, 3, &rtt),
            Some(Thresholds::new(30_000, 65_000))
        );
    }

    #[test]
    fn a_gap_is_over_when_its_first_probe_should_have_been_answered_and_none_is_granted_without_a_sign_of_life() {
        let (mut tuner, rtt) = after((0..100).map(|_| Duration::from_millis(200)));
        let (now, proof) = (100_000 * MS, 40_200 * MS);
        tuner.resume(1000, now, now - 60_000 * MS, proof, &rtt);
        assert!(tuner.retune(now + 264 * MS, 3, &rtt).is_some(), "still stretched");
        assert_eq!(
            tuner.retune(now + 266 * MS, 3, &rtt),
            Some(Thresholds::new(30_000, 65_000))
        );
        tuner.resume(1001, now + 300 * MS, now, proof, &rtt);
        assert_eq!(tuner.retune(now + 300 * MS, 3, &rtt), None, "no sign of life since");
        tuner.resume(1001, now + 300 * MS, now, now + MS, &rtt);
        assert!(tuner.retune(now + 300 * MS, 3, &rtt).is_some(), "alive since");
    }

    #[test]
    fn a_shorter_interval_counts_from_the_first_answer_on_or_when_none_came_and_a_longer_one_at_once() {
        let (mut tuner, rtt) = after((0..100).map(|_| Duration::from_millis(200)));
        let slow = Thresholds::new(1_500_000, 3_250_000);
        let fast = Thresholds::new(30_000, 65_000);
        tuner.set_interval(1000 * MS, 7, 0, 3, &rtt);
        assert_eq!(tuner.retune(0, 3, &rtt), Some(slow));
        let now = 60_000 * MS;
        tuner.resume(59, now - 900 * MS, now - 1900 * MS, now - 1700 * MS, &rtt);
        tuner.set_interval(INTERVAL, 60, now, 3, &rtt);
        tuner.resume(60, now, now - 900 * MS, now - 700 * MS, &rtt);
        tuner.answered(59);
        assert_eq!(tuner.retune(now + 264 * MS, 3, &rtt), None, "that was asked before");
        let mut unanswered = tuner;
        assert_eq!(unanswered.retune(now + 266 * MS, 3, &rtt), Some(fast));
        tuner.answered(60);
        assert_eq!(tuner.retune(now + 200 * MS, 3, &rtt), Some(fast));
        tuner.set_interval(1000 * MS, 70, now + 300 * MS, 3, &rtt);
        assert_eq!(tuner.retune(now + 300 * MS, 3, &rtt), Some(slow));
    }

    #[test]
    fn a_path_that_is_asked_at_its_new_interval_was_not_left_unasked() {
        let (mut tuner, rtt) = after((0..100).map(|_| Duration::from_millis(1)));
        let steps = [
            (0, 20),
            (1000, 1000),
            (2000, 1000),
            (2500, 20),
            (2520, 20),
            (2540, 1000),
            (3540, 1000),
        ];
        let mut asked = 0;
        for (sequence, (at_ms, interval_ms)) in (0..).zip(steps) {
            tuner.set_interval(interval_ms * MS, sequence, at_ms * MS, 3, &rtt);
            tuner.resume(sequence, at_ms * MS, asked, asked, &rtt);
            assert!(tuner.gap.is_none(), "at {at_ms} ms");
            asked = at_ms * MS;
        }
        tuner.resume(9, asked + 1500 * MS, asked, asked, &rtt);
        assert!(tuner.gap.is_some(), "that was too long by any interval");
    }

    #[test]
    fn a_prober_that_is_a_little_late_is_granted_nothing() {
        let (mut tuner, rtt) = after((0..100).map(|_| Duration::from_millis(1)));
        tuner.resume(7, 100 * MS, 100 * MS - 29 * MS, 72 * MS, &rtt);
        assert_eq!(tuner.retune(100 * MS, 3, &rtt), None);
    }

    proptest! {
        #[test]
        fn suspicion_comes_before_death_and_nothing_overflows(interval_ms in 1u64..100_000, needed in 3u64..100_000, rtt_ns: u64, now: u64, asked: u64, proof: u64) {
            let (mut tuner, mut rtt) = (Tuner::new(interval_ms * MS, needed), Rtt::default());
            rtt.sample(Duration::from_nanos(rtt_ns));
            let (now, asked, proof) = (now / 4, asked / 4, proof / 4);
            tuner.resume(1, now, asked, proof, &rtt);
            tuner.retune(now, needed, &rtt);
            let told = tuner.thresholds();
            prop_assert!(told.suspect_after_ns() <= told.dead_after_ns());
            prop_assert!(told.dead_after_ns() >= 3 * interval_ms * MS);
        }
    }
}
