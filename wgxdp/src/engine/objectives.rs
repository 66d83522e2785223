//! Brownout: a path that lives, but not as its tunnel's objectives demand.
//!
//! **Loss** is tested sequentially (A. Wald, *Sequential tests of statistical hypotheses*, 1945; continued as E. S. Page's cumulative sum, 1954): each
//! resolved probe adds to a score the logarithm of how much likelier it is if the path loses [`WORSE`] times what is allowed than if it loses exactly that.
//! The score never falls below zero nor rises above `ln 1000`. At the top the objective is violated; it is kept again when the score is back at zero.
//! Two tests run side by side, for gross violations quickly and for slight ones patiently: with 5 % allowed, 20 % is found after some 50 probes
//! and 8 % after some 900.
//!
//! Losses come in bursts, and a burst is one event: what follows on a lost probe weighs nothing. With r the chance that a loss is over with the next
//! probe (see [`gilbert`](super::gilbert)), a path that loses the share π begins a burst with the chance p = r π / (1 − π) at each probe that follows an answered one:
//!
//! ```text
//!   lost after answered:      ln (p₁ / p₀)           π₀ = allowed
//!   answered after answered:  ln ((1 − p₁) / (1 − p₀))     π₁ = WORSE × allowed, at most half-way to all
//! ```
//!
//! **Round trip and jitter** are smoothed already (SRTT and RTTVAR of RFC 6298): one is violated when it was above its bound for [`STREAK`] answers on end, and
//! kept again when it was below nine tenths of it for as many.

use std::fmt;
use std::time::Duration;

use super::rtt::Rtt;

/// What the tests for loss tell from the allowed share: this many times as much.
const WORSE: [f64; 2] = [4.0, 1.5];
/// How much likelier the worse must be to be believed.
const CONVINCING: f64 = 1000.0;
/// Answers on end that must agree.
const STREAK: u32 = 20;

/// What a tunnel expects of its paths; unset: anything will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// Lost probes in a million; more than none, and no more than half.
    pub max_loss_ppm: Option<u32>,
    /// The smoothed round-trip time.
    pub max_rtt: Option<Duration>,
    /// The mean deviation of the round-trip time.
    pub max_jitter: Option<Duration>,
}

/// An objective that a path does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It loses too much, in parts per million.
    Loss {
        /// Since it became too much.
        seen_ppm: u32,
        /// The objective.
        most_ppm: u32,
    },
    /// It is too slow.
    Rtt {
        /// The smoothed round-trip time.
        seen: Duration,
        /// The objective.
        most: Duration,
    },
    /// Its round trip varies too much.
    Jitter {
        /// The mean deviation.
        seen: Duration,
        /// The objective.
        most: Duration,
    },
}

/// `loss 21 % above max-loss 5 %`
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ppm: u32| f64::from(ppm) / 1e4;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        match *self {
            Self::Loss { seen_ppm, most_ppm } => {
                write!(
                    f,
                    "loss {:.0} % above max-loss {} %",
                    percent(seen_ppm),
                    percent(most_ppm)
                )
            }
            Self::Rtt { seen, most } => write!(f, "round trip {:.0} ms above max-rtt {} ms", ms(seen), ms(most)),
            Self::Jitter { seen, most } => write!(f, "jitter {:.0} ms above max-jitter {} ms", ms(seen), ms(most)),
        }
    }
}

/// How a path stands to its tunnel's objectives.
#[derive(Clone, Debug)]
pub(super) struct Conduct {
    loss: Option<LossLimit>,
    rtt: Option<Ceiling>,
    jitter: Option<Ceiling>,
}

impl Conduct {
    /// Of a path against which nothing is known.
    pub(super) fn new(objectives: &Objectives) -> Self {
        Self {
            loss: objectives.max_loss_ppm.map(LossLimit::new),
            rtt: objectives.max_rtt.map(Ceiling::new),
            jitter: objectives.max_jitter.map(Ceiling::new),
        }
    }

    /// The next probe was lost, or not; `recovery` is r.
    pub(super) fn resolved(&mut self, lost: bool, recovery: impl FnOnce() -> f64) {
        if let Some(limit) = &mut self.loss {
            limit.resolved(lost, recovery());
        }
    }

    /// The round trip was measured again.
    pub(super) fn sampled(&mut self, rtt: &Rtt) {
        let ceilings = [(&mut self.rtt, rtt.smoothed()), (&mut self.jitter, rtt.deviation())];
        for (ceiling, seen) in ceilings {
            if let (Some(ceiling), Some(seen)) = (ceiling, seen) {
                ceiling.sampled(seen);
            }
        }
    }

    /// Which objective is violated, if any.
    pub(super) fn violation(&self) -> Option<Violation> {
        let above = |ceiling: &Option<Ceiling>| {
            let ceiling = ceiling.filter(|ceiling| ceiling.violated)?;
            Some((ceiling.seen, ceiling.most))
        };
        let loss = self.loss.as_ref().and_then(LossLimit::violation);
        loss.or_else(|| above(&self.rtt).map(|(seen, most)| Violation::Rtt { seen, most }))
            .or_else(|| above(&self.jitter).map(|(seen, most)| Violation::Jitter { seen, most }))
    }

    /// Whether the path is worth changing to: no objective is violated, nor is likely to be soon.
    pub(super) fn is_better(&self) -> bool {
        let calm = |ceiling: &Option<Ceiling>| ceiling.is_none_or(|ceiling| !ceiling.violated && ceiling.streak == 0);
        self.loss.as_ref().is_none_or(LossLimit::is_calm) && calm(&self.rtt) && calm(&self.jitter)
    }
}

/// The tests for loss.
#[derive(Clone, Debug)]
struct LossLimit {
    most_ppm: u32,
    tests: [Test; WORSE.len()],
    /// Whether the last probe was lost.
    in_burst: bool,
}

/// One sequential test.
#[derive(Clone, Copy, Debug)]
struct Test {
    /// π₁.
    worse: f64,
    score: f64,
    violated: bool,
    /// Since the score was zero.
    probes: u32,
    lost: u32,
}

impl LossLimit {
    fn new(most_ppm: u32) -> Self {
        let allowed = f64::from(most_ppm) / 1e6;
        let test = |times: f64| Test {
            worse: (times * allowed).min(f64::midpoint(allowed, 1.0)),
            score: 0.0,
            violated: false,
            probes: 0,
            lost: 0,
        };
        Self {
            most_ppm,
            tests: WORSE.map(test),
            in_burst: false,
        }
    }

    fn resolved(&mut self, lost: bool, recovery: f64) {
        let begins = |loss: f64| (recovery * loss / (1.0 - loss)).min(0.99);
        let was_lost = std::mem::replace(&mut self.in_burst, lost);
        let allowed = begins(f64::from(self.most_ppm) / 1e6);
        for test in &mut self.tests {
            let worse = begins(test.worse);
            let weight = match (was_lost, lost) {
                (true, _) => 0.0,
                (false, true) => (worse / allowed).ln(),
                (false, false) => ((1.0 - worse) / (1.0 - allowed)).ln(),
            };
            test.add(weight, lost);
        }
    }

    fn violation(&self) -> Option<Violation> {
        let test = self.tests.iter().find(|test| test.violated)?;
        let seen_ppm = (f64::from(test.lost) / f64::from(test.probes) * 1e6) as u32;
        let most_ppm = self.most_ppm;
        Some(Violation::Loss { seen_ppm, most_ppm })
    }

    fn is_calm(&self) -> bool {
        self.tests
            .iter()
            .all(|test| !test.violated && test.score < CONVINCING.ln() / 2.0)
    }
}

impl Test {
    fn add(&mut self, weight: f64, lost: bool) {
        let top = CONVINCING.ln();
        self.score = (self.score + weight).clamp(0.0, top);
        self.probes = self.probes.saturating_add(1);
        self.lost = self.lost.saturating_add(u32::from(lost));
        if self.score >= top {
            self.violated = true;
        } else if self.score <= 0.0 {
            (self.violated, self.probes, self.lost) = (false, 0, 0);
        }
    }
}

/// A bound of something that is smooth by itself.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    most: Duration,
    seen: Duration,
    violated: bool,
    /// Answers on end that say the contrary.
    streak: u32,
}

impl Ceiling {
    fn new(most: Duration) -> Self {
        Self {
            most,
            seen: Duration::ZERO,
            violated: false,
            streak: 0,
        }
    }

    fn sampled(&mut self, seen: Duration) {
        self.seen = seen;
        let contrary = if self.violated {
            seen <= self.most * 9 / 10
        } else {
            seen > self.most
        };
        self.streak = if contrary { self.streak + 1 } else { 0 };
        if self.streak == STREAK {
            (self.violated, self.streak) = (!self.violated, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::montecarlo::{Channel, Random};

    const MS: Duration = Duration::from_millis(1);

    fn of_loss(most_ppm: u32) -> Conduct {
        Conduct::new(&Objectives {
            max_loss_ppm: Some(most_ppm),
            ..Objectives::default()
        })
    }

    /// After how many probes over the channel the limit of 5 % is violated; `None`: not within `probes`.
    fn found(channel: Channel, probes: u32, seed: u64) -> Option<u32> {
        let (mut conduct, mut random, mut lost) = (of_loss(50_000), Random::new(seed), false);
        (0..probes).find(|_| {
            lost = channel.next(lost, &mut random);
            conduct.resolved(lost, || channel.r);
            conduct.violation().is_some()
        })
    }

    #[test]
    fn four_times_the_allowed_loss_is_found_within_sixty_probes_mostly_and_always_in_the_end() {
        let mut after: Vec<_> = (1..=200)
            .map(|seed| found(Channel::independent(0.2), 1_000, seed).expect("found"))
            .collect();
        after.sort_unstable();
        assert!(
            after[100] <= 54 && after[0] >= 3,
            "the middle one after {} probes",
            after[100]
        );
        let slight = (1..=20).filter(|seed| found(Channel::independent(0.08), 5_000, *seed).is_some());
        assert_eq!(slight.count(), 20, "8 %");
    }

    #[test]
    fn half_the_allowed_loss_is_hardly_ever_taken_for_too_much_alone_or_in_bursts() {
        // Ten minutes at 50 ms, two hundred times.
        for channel in [Channel::independent(0.025), Channel::bursts(0.025, 3.0)] {
            let wrong = (1..=200).filter(|seed| found(channel, 12_000, *seed).is_some()).count();
            assert!(wrong <= 10, "{wrong} of 200, {channel:?}");
        }
    }

    #[test]
    fn a_violation_names_what_was_seen_and_ends_when_the_path_is_clean() {
        let mut conduct = of_loss(50_000);
        (0..10_000).for_each(|_| conduct.resolved(false, || 0.8));
        assert!(conduct.is_better() && conduct.violation().is_none());
        (0..100).for_each(|n| conduct.resolved(n % 5 == 0, || 0.8));
        let violation = conduct.violation().expect("20 % is more than 5 %");
        assert_eq!(violation.to_string(), "loss 20 % above max-loss 5 %");
        assert!(!conduct.is_better());
        let clean = (0..1_000).take_while(|_| {
            conduct.resolved(false, || 0.8);
            conduct.violation().is_some()
        });
        assert!(
            (20..=400).contains(&clean.count()),
            "neither with the first answer nor for ever"
        );
    }

    #[test]
    fn an_outage_is_one_event() {
        let mut conduct = of_loss(50_000);
        (0..1_000).for_each(|_| conduct.resolved(true, || 0.99));
        assert_eq!(conduct.violation(), None, "who is dead is not slow");
    }

    #[test]
    fn a_round_trip_above_its_bound_for_a_while_violates_it_and_just_below_does_not_clear_it() {
        let mut conduct = Conduct::new(&Objectives {
            max_rtt: Some(150 * MS),
            ..Objectives::default()
        });
        let sample = |conduct: &mut Conduct, rtt: Duration, times: u32| {
            let mut steady = Rtt::default();
            steady.sample(rtt);
            (0..times).for_each(|_| conduct.sampled(&steady));
        };
        sample(&mut conduct, 151 * MS, STREAK - 1);
        sample(&mut conduct, 150 * MS, 1);
        sample(&mut conduct, 180 * MS, STREAK - 1);
        assert_eq!(conduct.violation(), None, "interrupted once");
        assert!(!conduct.is_better(), "but nothing to change to");
        sample(&mut conduct, 180 * MS, 1);
        let words = conduct.violation().map(|violation| violation.to_string());
        assert_eq!(words.as_deref(), Some("round trip 180 ms above max-rtt 150 ms"));
        sample(&mut conduct, 140 * MS, 10 * STREAK);
        assert!(conduct.violation().is_some());
        sample(&mut conduct, 135 * MS, STREAK);
        assert_eq!(conduct.violation(), None);
    }

    #[test]
    fn jitter_is_the_mean_deviation() {
        let mut conduct = Conduct::new(&Objectives {
            max_jitter: Some(10 * MS),
            ..Objectives::default()
        });
        let mut rtt = Rtt::default();
        for n in 0..200 {
            rtt.sample(if n % 2 == 0 { 20 * MS } else { 60 * MS });
            conduct.sampled(&rtt);
        }
        let words = conduct.violation().expect("20 ms of jitter").to_string();
        assert!(
            words.starts_with("jitter ") && words.ends_with(" above max-jitter 10 ms"),
            "{words}"
        );
    }
}
