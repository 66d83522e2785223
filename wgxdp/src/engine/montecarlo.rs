//! How often paths are called dead that are not, and how long the dead are waited for: the real estimators and thresholds over simulated paths, without the rest
//! of the engine. The tests assert the budget by it, `cargo xtask bench detection` prints the table.
//!
//! Two ways, by what the path does:
//!
//! - **Loss** (independent or in bursts, over a constant round trip). [`Gilbert`] and [`Tuner`] are told of whole runs, whose lengths are drawn from the
//!   channel's geometric distributions: nothing can happen inside a run of answers, so a year of 630 million probes costs as much as it has runs of losses. A
//!   run is a false verdict if it is longer than the `dead_after` in force when it begins. Such runs are rare, so besides counting them the chance of one is summed up
//!   over all runs, given the thresholds in force and the channel's true r (conditional Monte Carlo): that has the same mean and little variance, and is
//!   what [`Outcome::per_week`] says. Thresholds are retuned at the end of each run instead of at each probe.
//! - **Time** (jitter, steps of the round trip, flaps). Every probe is sent, answered and given up by [`Loss`](super::loss::Loss) and [`Rtt`] on a virtual clock. A verdict is a
//!   silence of `dead_after` between two answers with three probes or more unanswered. These are counted.
//!
//! What a path costs while it is new is counted apart: a bursty path shows what it is by its first bursts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use wgxdp_common::liveness::DEAD_MIN_UNANSWERED;

use super::WEEK;
use super::gilbert::Gilbert;
use super::loss::Loss;
use super::objectives::Objectives;
use super::rtt::Rtt;
use super::thresholds::Tuner;

/// The share of one of two paths in a budget of one verdict a week.
pub const BUDGET_PER_WEEK: f64 = 0.5;
/// Runs of losses by which a path is known.
const LEARNING: u64 = 1_000;

/// Reproducible randomness (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform, between 0 and 1, neither included.
    pub fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// How many trials it takes, if each succeeds with this chance: 1 at least.
    fn geometric(&mut self, chance: f64) -> u64 {
        1 + (self.uniform().ln() / (1.0 - chance).ln()) as u64
    }
}

/// A Gilbert channel (see [`super::gilbert`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// P(good → bad).
    pub p: f64,
    /// P(bad → good).
    pub r: f64,
}

impl Channel {
    /// Each probe is lost with this chance.
    #[must_use]
    pub const fn independent(loss: f64) -> Self {
        Self { p: loss, r: 1.0 - loss }
    }

    /// This share of probes is lost, in bursts of this mean length.
    #[must_use]
    pub const fn bursts(loss: f64, mean: f64) -> Self {
        let r = 1.0 / mean;
        Self {
            p: r * loss / (1.0 - loss),
            r,
        }
    }

    /// Whether the next probe is lost.
    #[must_use]
    pub fn next(&self, was_lost: bool, random: &mut Random) -> bool {
        random.uniform() < if was_lost { 1.0 - self.r } else { self.p }
    }
}

/// What a path does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Path {
    /// It loses probes.
    Lossy(Channel),
    /// It loses nothing; the round trip is uniform between 20 ms and this much more.
    Jittery(Duration),
    /// It loses nothing; every minute the round trip changes between 20 ms and this much more.
    Stepping(Duration),
    /// Nothing passes for `down` of each `period`.
    Flapping {
        /// From one flap to the next.
        period: Duration,
        /// How long each takes.
        down: Duration,
    },
}

/// Seconds in a year.
const YEAR: f64 = 365.25 * 24.0 * 3600.0;

impl Path {
    /// How long a year with a probe each `interval` is to [`simulate`]: of a lossy path in runs of losses, by the rate at which they begin, of another in probes.
    #[must_use]
    pub fn year(self, interval: Duration) -> u64 {
        let probes = YEAR / interval.as_secs_f64();
        let length = match self {
            Self::Lossy(Channel { p, r }) => probes * p * r / (p + r),
            Self::Jittery(_) | Self::Stepping(_) | Self::Flapping { .. } => probes,
        };
        length as u64
    }
}

/// Named paths.
pub const SCENARIOS: [(&str, Path); 10] = [
    ("loss_0.1", Path::Lossy(Channel::independent(0.001))),
    ("loss_1", Path::Lossy(Channel::independent(0.01))),
    ("loss_5", Path::Lossy(Channel::independent(0.05))),
    ("loss_20", Path::Lossy(Channel::independent(0.2))),
    ("bursts_3", Path::Lossy(Channel::bursts(0.05, 3.0))),
    ("bursts_10", Path::Lossy(Channel::bursts(0.05, 10.0))),
    ("jitter_50", Path::Jittery(Duration::from_millis(50))),
    ("steps_100", Path::Stepping(Duration::from_millis(100))),
    (
        // Two or three probes are lost in each: the phase against 50 ms moves by one in fifty each time.
        "flaps_aliased",
        Path::Flapping {
            period: Duration::from_millis(2501),
            down: Duration::from_millis(110),
        },
    ),
    (
        "flaps_in_phase",
        Path::Flapping {
            period: Duration::from_millis(2500),
            down: Duration::from_millis(110),
        },
    ),
];

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Simulated time, in weeks.
    pub weeks: f64,
    /// Verdicts that were counted.
    pub counted: u64,
    /// False verdicts to be expected in a week, once the path is known.
    pub per_week: f64,
    /// False verdicts to be expected until then.
    pub learning: f64,
    /// `dead_after`, the middle one of its values when losses began (or answers came).
    pub dead_after_p50: Duration,
    /// The same; only one in a hundred was longer.
    pub dead_after_p99: Duration,
}

/// Simulates a path with a probe each `interval`, until so many runs of losses (of a lossy path) or probes (of another) are over.
#[must_use]
pub fn simulate(path: Path, interval: Duration, length: u64, seed: u64) -> Outcome {
    let random = Random::new(seed);
    match path {
        Path::Lossy(channel) => losses(channel, interval, length, random),
        Path::Jittery(most) => timed(interval, length, random, |_, random| {
            Some(NEAR + most.mul_f64(random.uniform()))
        }),
        Path::Stepping(more) => timed(interval, length, random, |at, _| {
            Some(if at.as_secs() / 60 % 2 == 0 { NEAR } else { NEAR + more })
        }),
        Path::Flapping { period, down } => timed(interval, length, random, |at, _| {
            (at.as_nanos() % period.as_nanos() >= down.as_nanos()).then_some(NEAR)
        }),
    }
}

/// A round trip.
const NEAR: Duration = Duration::from_millis(20);

fn losses(channel: Channel, interval: Duration, runs: u64, mut random: Random) -> Outcome {
    let mut gilbert = Gilbert::new(interval, BUDGET_PER_WEEK / WEEK);
    let mut rtt = Rtt::default();
    (0..100).for_each(|_| rtt.sample(NEAR));
    let mut tuner = Tuner::new(interval.as_nanos() as u64, gilbert.needed());
    let mut dead_after = Histogram::default();
    let (mut probes, mut outcome, mut expected) = (0, Outcome::default(), 0.0);
    for run in 0..runs {
        let (good, bad) = (random.geometric(channel.p), random.geometric(channel.r));
        gilbert.answered(good);
        tuner.retune(0, gilbert.needed(), &rtt);
        let dead_after_ns = tuner.thresholds().dead_after_ns();
        // So many lost probes in a row, and the next answer comes too late.
        let too_many = dead_after_ns / interval.as_nanos() as u64;
        let chance = (1.0 - channel.r).powi(too_many as i32 - 1);
        outcome.counted += u64::from(bad >= too_many);
        if run < LEARNING {
            outcome.learning += chance;
        } else {
            expected += chance;
            probes += good + bad;
            dead_after.note(dead_after_ns);
        }
        (0..bad).for_each(|_| gilbert.lost());
    }
    let seconds = probes as f64 * interval.as_secs_f64();
    outcome.per_week = expected / (seconds / WEEK);
    outcome.finish(seconds, &dead_after)
}

fn timed(
    interval: Duration,
    probes: u64,
    mut random: Random,
    mut answer: impl FnMut(Duration, &mut Random) -> Option<Duration>,
) -> Outcome {
    let interval_ns = interval.as_nanos() as u64;
    let gilbert = Gilbert::new(interval, BUDGET_PER_WEEK / WEEK);
    let mut tuner = Tuner::new(interval_ns, gilbert.needed());
    let mut loss = Loss::new(gilbert, &Objectives::default());
    let mut rtt = Rtt::default();
    let mut coming: BinaryHeap<Reverse<(u64, u32, Duration)>> = BinaryHeap::new();
    let mut dead_after = Histogram::default();
    let (mut outcome, mut proof_ns) = (Outcome::default(), 0);
    for sequence in 0..probes as u32 {
        let now_ns = u64::from(sequence) * interval_ns;
        while let Some(Reverse((at_ns, answered, took))) =
            coming.peek().copied().filter(|Reverse((at, ..))| *at <= now_ns)
        {
            coming.pop();
            let dead_after_ns = tuner.thresholds().dead_after_ns();
            let silent = at_ns - proof_ns >= dead_after_ns;
            outcome.counted += u64::from(silent && loss.sent_after(proof_ns) >= DEAD_MIN_UNANSWERED);
            dead_after.note(dead_after_ns);
            proof_ns = at_ns;
            rtt.sample(took);
            loss.answered(answered);
            tuner.retune(now_ns, loss.gilbert().needed(), &rtt);
        }
        loss.expire(now_ns, &rtt);
        tuner.retune(now_ns, loss.gilbert().needed(), &rtt);
        loss.sent(sequence, now_ns);
        if let Some(took) = answer(Duration::from_nanos(now_ns), &mut random) {
            coming.push(Reverse((now_ns + took.as_nanos() as u64, sequence, took)));
        }
    }
    let seconds = probes as f64 * interval.as_secs_f64();
    outcome.per_week = outcome.counted as f64 / (seconds / WEEK);
    outcome.finish(seconds, &dead_after)
}

impl Outcome {
    fn finish(mut self, seconds: f64, dead_after: &Histogram) -> Self {
        self.weeks = seconds / WEEK;
        self.dead_after_p50 = dead_after.quantile(50);
        self.dead_after_p99 = dead_after.quantile(99);
        self
    }
}

/// How often which time was seen. A year has too many to keep them all.
#[derive(Debug, Default)]
struct Histogram {
    /// By tenths of a millisecond.
    counts: Vec<u64>,
}

impl Histogram {
    const STEP_NS: u64 = 100_000;

    fn note(&mut self, ns: u64) {
        let place = (ns / Self::STEP_NS) as usize;
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
    }

    /// The least time that so many in a hundred do not exceed, to a tenth of a millisecond.
    fn quantile(&self, percent: u64) -> Duration {
        let mut left = self.counts.iter().sum::<u64>() * percent / 100;
        let within = |count: &u64| match left.checked_sub(*count) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        };
        let place = self.counts.iter().position(within).unwrap_or(0) as u64;
        Duration::from_nanos(place * Self::STEP_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVALS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(50)];
    /// Runs of losses of a lossy path: at 50 ms 0.1 % takes seventeen days for them, 20 % two and a half hours.
    const RUNS: u64 = 30_000;
    /// Probes of another: a quarter of an hour at 50 ms.
    const PROBES: u64 = 20_000;

    #[test]
    fn false_verdicts_stay_within_the_budget_whatever_a_path_loses() {
        for interval in INTERVALS {
            for (name, path) in &SCENARIOS[..6] {
                let outcome = simulate(*path, interval, RUNS, 1);
                assert!(
                    outcome.per_week <= BUDGET_PER_WEEK,
                    "{name} at {interval:?}: {outcome:?}"
                );
                assert!(outcome.learning <= 5.0, "{name} at {interval:?}: {outcome:?}");
            }
        }
    }

    #[test]
    fn jitter_steps_and_flaps_cost_verdicts_only_until_they_are_known() {
        for (name, path) in &SCENARIOS[6..] {
            let short = simulate(*path, INTERVALS[1], PROBES / 4, 1).counted;
            let long = simulate(*path, INTERVALS[1], PROBES, 1).counted;
            assert!(long <= 3 && long == short, "{name}: {short}, then {long}");
        }
    }

    #[test]
    fn two_paths_that_lose_one_in_five_stay_within_the_budget_together() {
        let path = Path::Lossy(Channel::independent(0.2));
        let both: f64 = [1, 2]
            .map(|seed| simulate(path, INTERVALS[1], RUNS, seed).per_week)
            .iter()
            .sum();
        assert!(both <= 2.0 * BUDGET_PER_WEEK, "{both}");
    }

    #[test]
    fn a_dozen_probes_for_one_in_five_lost_and_three_or_four_for_one_in_a_thousand() {
        let dead_after = |loss| simulate(Path::Lossy(Channel::independent(loss)), INTERVALS[1], RUNS, 1);
        let (rare, often) = (dead_after(0.001), dead_after(0.2));
        assert!(rare.dead_after_p50 <= Duration::from_millis(215), "{rare:?}");
        assert!(
            (Duration::from_millis(500)..=Duration::from_millis(700)).contains(&often.dead_after_p50),
            "{often:?}"
        );
    }

    /// Exactly: the chain of run lengths, multiplied out.
    fn exactly(channel: Channel, k: u64) -> f64 {
        // States: good, and bad for 1, 2, …, k or more probes; the stationary share of those that step from k − 1 to k.
        let mut share = vec![1.0; k as usize + 1];
        for _ in 0..20_000 {
            let mut next = vec![0.0; share.len()];
            for (run, mass) in share.iter().enumerate() {
                let worse = if run == 0 { channel.p } else { 1.0 - channel.r };
                next[0] += mass * (1.0 - worse);
                next[(run + 1).min(k as usize)] += mass * worse;
            }
            let total: f64 = next.iter().sum();
            share = next.iter().map(|mass| mass / total).collect();
        }
        let worse = if k == 1 { channel.p } else { 1.0 - channel.r };
        share[k as usize - 1] * worse
    }

    #[test]
    fn a_quantile_is_what_so_many_in_a_hundred_do_not_exceed() {
        let mut histogram = Histogram::default();
        (1..=200).for_each(|tenths| histogram.note(tenths * Histogram::STEP_NS + 7));
        assert_eq!(histogram.quantile(50), Duration::from_micros(10_100));
        assert_eq!(histogram.quantile(99), Duration::from_micros(19_900));
        assert_eq!(Histogram::default().quantile(50), Duration::ZERO);
    }

    #[test]
    fn the_formula_is_what_the_chain_does() {
        for (channel, k) in [
            (Channel::independent(0.2), 4),
            (Channel::bursts(0.05, 3.0), 6),
            (Channel::bursts(0.05, 10.0), 12),
        ] {
            let Channel { p, r } = channel;
            let formula = p * r / (p + r) * (1.0 - r).powi(k as i32 - 1);
            let chain = exactly(channel, k);
            assert!(
                (formula / chain - 1.0).abs() < 1e-6,
                "{channel:?}: {formula} and {chain}"
            );
        }
    }

    #[test]
    fn counting_verdicts_agrees_with_their_chance() {
        // Ten seconds are not enough for bursts of ten probes at half a second: verdicts are many.
        let outcome = simulate(
            Path::Lossy(Channel::bursts(0.05, 10.0)),
            Duration::from_millis(500),
            RUNS,
            1,
        );
        let expected = outcome.per_week * outcome.weeks + outcome.learning;
        assert!(
            (outcome.counted as f64 - expected).abs() < 4.0 * expected.sqrt() + 1.0,
            "{outcome:?}"
        );
    }
}
