//! How a path loses probes: the simple Gilbert model, estimated on line, and how many missed probes it takes to call the path dead.
//!
//! ```text
//!            p = P(good → bad)
//!         ┌────────────────────┐             good: the probe is answered          loss    π = p / (p + r)
//!      ╭──┴───╮            ╭───▼──╮          bad:  it is lost                     bursts  1 / r probes long on average
//!      │ good │            │ bad  │ x = 1 − r
//!      ╰──▲───╯            ╰───┬──╯
//!         └────────────────────┘
//!            r = P(bad → good)
//! ```
//! (E. N. Gilbert, *Capacity of a burst-noise channel*, 1960, with loss 1 in the bad state and 0 in the good one. Independent loss ε is the case p = ε, r = 1 − ε.)
//!
//! # How many probes
//! A run of at least k lost probes begins with a probe with the probability that the path is good (r / (p + r)), turns bad (p) and stays so for
//! k − 1 more probes (xᵏ⁻¹). Each such run is one false verdict. With a probe each interval `I` and a budget of `b` verdicts in the time `T`
//!
//! ```text
//!   p r / (p + r) · xᵏ⁻¹ · T / I  ≤  b        ⇔        k  ≥  1 + ln(b I (p + r) / (T p r)) / ln x
//! ```
//!
//! [`Gilbert::needed`] is the least such k, and never less than three. It grows with the logarithm of nearly everything; what matters is x.
//!
//! # Estimating p and x
//! Each step of the chain is counted by where it came from and where it led; counts fade by 1 / e in [`MEMORY`] probes, and only completed runs of losses
//! count, so that a death in progress does not put off its own verdict. From n events seen a rate is not taken to be n, but n and two standard deviations
//! ([`SURELY`]): a little evidence makes a path judged more patiently, not less.
//!
//! The prior is that of an ordinary path: losses are so rare and so independent of each other that three missed probes are enough. It weighs as much as
//! [`PRIOR_RECOVERIES`] losses that were over with the next probe, but each loss that follows on a loss speaks against it: after one it weighs half, after nine
//! a tenth. So a path that loses a probe now and then stays at three or four, and one that loses three in a row twice is bursty.
//!
//! **An outage is not loss.** A run that lasts a quarter of a second, and twice as long as what convicts the path, was a death and the verdict was right: it
//! teaches nothing. What is shorter is what must not be taken for one. No run counts for more than twice what convicts, so that one of them
//! cannot make a clean path bursty; a path that is bursty grows more patient with each run, until they count in full.

use std::time::Duration;

use wgxdp_common::liveness::DEAD_MIN_UNANSWERED;

/// Probes in which what was seen fades to 1 / e.
const MEMORY: f64 = 10_000.0;
/// Standard deviations by which rates are overestimated: once in forty they are higher still.
const SURELY: f64 = 2.0;
/// The prior of p: this many losses …
const PRIOR_LOSSES: f64 = 1e-3;
/// … among this many probes.
const PRIOR_PROBES: f64 = 100.0;
/// The prior of x: this many losses that follow on a loss …
const PRIOR_REPEATS: f64 = 0.3;
/// … among this many.
const PRIOR_RECOVERIES: f64 = 30.0;
/// Losses are never taken to go on more surely than this: bursts of a thousand probes.
const MOST_REPEATS: f64 = 0.999;
/// Runs of losses shorter than this are no outage.
const OUTAGE: Duration = Duration::from_millis(250);

/// The estimate of one path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gilbert {
    /// False verdicts in a second that the budget allows.
    allowed_per_second: f64,
    /// The same for each probe.
    allowed: f64,
    /// Probes in [`OUTAGE`].
    outage: u64,
    seen: Steps,
    /// Answered probes since `seen` was counted.
    clean: u64,
    /// Lost probes since the last answered one.
    run: u64,
    needed: u64,
}

/// Steps of the chain, faded.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    /// From good.
    good: f64,
    /// From good to bad.
    losses: f64,
    /// From bad to bad.
    repeats: f64,
    /// From bad to good.
    recoveries: f64,
}

impl Gilbert {
    /// Of a path that nothing is known of, and may be called dead falsely this many times a second.
    pub(super) fn new(interval: Duration, allowed_per_second: f64) -> Self {
        let mut gilbert = Self {
            allowed_per_second,
            allowed: 0.0,
            outage: 0,
            seen: Steps::default(),
            clean: 0,
            run: 0,
            needed: DEAD_MIN_UNANSWERED,
        };
        gilbert.set_interval(interval);
        gilbert
    }

    /// The path is asked this often from now on. What was seen stays: bursts that were counted in other intervals are a better guess than none.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.allowed = self.allowed_per_second * interval.as_secs_f64();
        self.outage = OUTAGE.as_nanos().div_ceil(interval.as_nanos()) as u64;
        self.needed = self.seen.faded(self.clean).needed(self.allowed);
    }

    /// The next `probes` were answered.
    pub(super) fn answered(&mut self, probes: u64) {
        if self.run > 0 {
            let verdict = 2 * self.needed;
            if self.run < self.outage.max(verdict) {
                self.seen = self.seen.faded(self.clean).after_run(self.run.min(verdict));
                self.clean = 0;
            }
            self.run = 0;
        }
        self.clean += probes;
        self.needed = self.seen.faded(self.clean).needed(self.allowed);
    }

    /// The next probe was lost.
    pub(super) fn lost(&mut self) {
        self.run += 1;
    }

    /// What was lost since the last answer was not the path's doing.
    pub(super) fn interrupt(&mut self) {
        self.run = 0;
    }

    /// Probes that must be missed in a row before the path is dead.
    pub(super) fn needed(&self) -> u64 {
        self.needed
    }

    /// p, surely: the chance that the probe after an answered one is lost.
    pub(super) fn onset(&self) -> f64 {
        self.seen.faded(self.clean).loss()
    }

    /// r as it was seen, the chance that a loss is over with the next probe.
    pub(super) fn recovery(&self) -> f64 {
        1.0 / self.seen().1
    }

    /// The loss that was seen, from 0 to 1, and the mean length of its bursts in probes.
    pub(super) fn seen(&self) -> (f64, f64) {
        let seen = self.seen.faded(self.clean);
        let lost = seen.repeats + seen.recoveries;
        let burst = if seen.recoveries > 0.0 {
            lost / seen.recoveries
        } else {
            1.0
        };
        let probes = lost + seen.good;
        (if probes > 0.0 { lost / probes } else { 0.0 }, burst)
    }
}

impl Steps {
    /// After so many more probes, all answered.
    fn faded(self, clean: u64) -> Self {
        let kept = (-(clean as f64) / MEMORY).exp();
        Self {
            good: self.good * kept + MEMORY * (1.0 - kept),
            losses: self.losses * kept,
            repeats: self.repeats * kept,
            recoveries: self.recoveries * kept,
        }
    }

    /// After a run of so many lost probes.
    fn after_run(self, run: u64) -> Self {
        let kept = (-(run as f64) / MEMORY).exp();
        Self {
            good: self.good * kept,
            losses: self.losses * kept + 1.0,
            repeats: self.repeats * kept + (run - 1) as f64,
            recoveries: self.recoveries * kept + 1.0,
        }
    }

    /// p, surely.
    fn loss(&self) -> f64 {
        let losses = self.losses + SURELY * self.losses.sqrt() + PRIOR_LOSSES;
        (losses / (self.good + PRIOR_PROBES)).min(1.0)
    }

    /// x, surely.
    fn repeat(&self) -> f64 {
        let lost = self.repeats + self.recoveries;
        let deviation = if lost > 0.0 {
            (self.repeats * self.recoveries / lost).sqrt()
        } else {
            0.0
        };
        let prior = PRIOR_RECOVERIES / (1.0 + self.repeats);
        ((self.repeats + SURELY * deviation + PRIOR_REPEATS) / (lost + prior)).min(MOST_REPEATS)
    }

    /// The formula above; `allowed` is b I / T.
    fn needed(&self, allowed: f64) -> u64 {
        let (p, x) = (self.loss(), self.repeat());
        let r = 1.0 - x;
        let begins = p * r / (p + r);
        let more = (allowed / begins).ln() / x.ln();
        // Not negative, and far below 2⁵³, because x is at most MOST_REPEATS.
        1 + (more.max(0.0).ceil() as u64).max(DEAD_MIN_UNANSWERED - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_millis(50);
    /// Half a verdict a week: one of two paths.
    const ALLOWED: f64 = 0.5 / (7.0 * 24.0 * 3600.0);

    /// After `cycles` of `good` answered and `bad` lost probes.
    fn after(cycles: u64, good: u64, bad: u64) -> Gilbert {
        let mut gilbert = Gilbert::new(INTERVAL, ALLOWED);
        for _ in 0..cycles {
            gilbert.answered(good);
            (0..bad).for_each(|_| gilbert.lost());
        }
        gilbert.answered(1);
        gilbert
    }

    #[test]
    fn a_new_path_and_a_clean_one_are_judged_by_three_probes_with_every_profile() {
        for ms in [10, 50, 500] {
            let mut gilbert = Gilbert::new(Duration::from_millis(ms), ALLOWED);
            assert_eq!(gilbert.needed(), 3, "{ms} ms, new");
            gilbert.answered(1_000_000);
            assert_eq!((gilbert.needed(), gilbert.seen()), (3, (0.0, 1.0)), "{ms} ms, clean");
        }
    }

    #[test]
    fn one_in_five_lost_needs_a_dozen_and_rare_loss_is_not_forgotten_by_a_short_clean_spell() {
        // Each loss alone: bursts are still taken for possible.
        let lossy = after(2_000, 4, 1);
        let (loss, burst) = lossy.seen();
        assert!(
            (loss - 0.2).abs() < 0.01 && (burst - 1.0).abs() < 0.01,
            "{loss} {burst}"
        );
        let mut mixed = Gilbert::new(INTERVAL, ALLOWED);
        for n in 0..2_000 {
            mixed.answered(if n % 5 == 0 { 8 } else { 4 });
            (0..if n % 5 == 0 { 2 } else { 1 }).for_each(|_| mixed.lost());
        }
        mixed.answered(1);
        assert!((10..=13).contains(&mixed.needed()), "{}", mixed.needed());
        mixed.answered(1_000);
        assert!(mixed.needed() >= 10, "{} after 50 s without loss", mixed.needed());
        mixed.answered(1_000_000);
        assert_eq!(mixed.needed(), 3, "but after fourteen hours");
    }

    #[test]
    fn the_more_is_lost_at_once_the_more_probes_it_takes() {
        let needed = [1, 2, 3, 4, 5].map(|bad| after(500, 95, bad).needed());
        assert!(needed.is_sorted() && needed[0] <= 5 && needed[4] >= 30, "{needed:?}");
    }

    #[test]
    fn an_outage_teaches_nothing_and_a_hiccup_little() {
        for length in [6, 20, 100, 1_000_000] {
            assert_eq!(after(1, 10_000, length).needed(), 3, "{length} probes");
        }
        let mut hiccup = after(1, 10_000, 4);
        assert!((4..=15).contains(&hiccup.needed()), "{}", hiccup.needed());
        hiccup.answered(40_000);
        assert_eq!(hiccup.needed(), 3);
    }

    #[test]
    fn a_death_in_progress_does_not_put_off_its_own_verdict() {
        let mut gilbert = after(500, 95, 2);
        let needed = gilbert.needed();
        (0..1_000).for_each(|_| gilbert.lost());
        assert_eq!(gilbert.needed(), needed);
    }

    #[test]
    fn what_was_lost_while_the_path_was_taken_away_is_not_its_fault() {
        let mut gilbert = after(1, 1_000, 0);
        (0..4).for_each(|_| gilbert.lost());
        gilbert.interrupt();
        gilbert.answered(1);
        assert_eq!(gilbert.seen(), (0.0, 1.0));
    }

    proptest! {
        #[test]
        fn the_least_number_within_the_budget_and_no_less_than_three(
            runs in prop::collection::vec((1u64..100_000, 0u64..40), 0..60),
            interval_ms in 5u64..60_000,
            per_week in 0.001f64..1000.0,
        ) {
            let interval = Duration::from_millis(interval_ms);
            let mut gilbert = Gilbert::new(interval, per_week / (7.0 * 24.0 * 3600.0));
            for (good, bad) in runs {
                gilbert.answered(good);
                (0..bad).for_each(|_| gilbert.lost());
            }
            gilbert.answered(1);
            let steps = gilbert.seen.faded(gilbert.clean);
            let (p, x) = (steps.loss(), steps.repeat());
            prop_assert!(p > 0.0 && p <= 1.0 && x > 0.0 && x < 1.0, "p {p}, x {x}");
            let weekly = |k: u64| p * (1.0 - x) / (p + 1.0 - x) * x.powf(k as f64 - 1.0) / gilbert.allowed;
            prop_assert!(weekly(gilbert.needed()) <= 1.0 + 1e-6);
            prop_assert!(gilbert.needed() == 3 || weekly(gilbert.needed() - 1) >= 1.0 - 1e-6);
        }
    }
}
