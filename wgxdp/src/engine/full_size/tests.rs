use super::super::WEEK;
use super::super::montecarlo::{Channel, Random};
use super::*;

const MS: u64 = 1_000_000;
const INTERVAL: u64 = 50 * MS;
const PACE: Pace = Pace {
    interval: Duration::from_nanos(INTERVAL),
    metered: false,
};
const NEAR: Duration = Duration::from_millis(20);
/// One of two paths in a budget of one verdict a week.
const BUDGET: f64 = 0.5 / WEEK;
const CLEAN: f64 = 1e-5;

/// Of small probes.
fn known() -> Rtt {
    let mut rtt = Rtt::default();
    (0..100).for_each(|_| rtt.sample(NEAR));
    rtt
}

/// One that answered large probes for as long, the last of them number 99.
fn answering(share_per_second: f64) -> FullSize {
    let mut full = FullSize::new(PACE, share_per_second);
    for sequence in 0..100 {
        full.leaves(sequence, 0);
        assert!(full.answered(sequence, NEAR));
    }
    full
}

/// One leaves, and the small one before it is answered.
fn escorted(full: &mut FullSize, sequence: u32, at_ns: u64) {
    full.leaves(sequence, at_ns);
    assert!(!full.answered(sequence - 1, NEAR), "a small one");
}

fn judged(full: &FullSize, now_ns: u64) -> bool {
    let mut full = full.clone();
    full.judge(now_ns, INTERVAL, &known(), CLEAN);
    full.swallows()
}

#[test]
fn the_more_is_lost_the_more_must_be_missing() {
    let full = FullSize::new(PACE, BUDGET);
    for (onset, enough) in [
        (CLEAN, 3),
        (0.001, 3),
        (0.01, 4),
        (0.05, 6),
        (0.2, 11),
        (0.5, 25),
        (1.0, u64::MAX),
    ] {
        assert_eq!(full.enough(onset), enough, "{onset}");
    }
}

#[test]
fn a_far_end_that_answers_none_is_asked_rarely_and_never_convicted() {
    let mut full = FullSize::new(PACE, BUDGET);
    let mut left = Vec::new();
    for (now, sequence) in (0..120_000 * MS).step_by(INTERVAL as usize).zip((1..).step_by(2)) {
        full.judge(now, INTERVAL, &known(), CLEAN);
        assert!(!full.swallows());
        if full.is_due(true, now) {
            escorted(&mut full, sequence, now);
            left.push(now / MS);
        }
    }
    let at_first: Vec<u64> = (0..10).map(|n| n * 50).collect();
    assert_eq!((&left[..10], &left[10..]), (&at_first[..], &[60_450][..]));
}

#[test]
fn one_that_was_asked_in_vain_is_convicted_once_the_far_end_answers_over_another_path() {
    let mut full = FullSize::new(PACE, BUDGET);
    let ask = |full: &mut FullSize, from: u32| {
        for sequence in (from..from + 20).step_by(2) {
            let now_ns = u64::from(sequence) * 25 * MS;
            assert!(full.is_due(true, now_ns) && !full.swallows(), "{sequence}");
            escorted(full, sequence, now_ns);
            full.judge(now_ns + 40 * MS, INTERVAL, &known(), CLEAN);
        }
    };
    ask(&mut full, 1);
    assert!(
        !full.swallows() && !full.is_due(true, 30_000 * MS),
        "asked in vain, so rarely"
    );
    full.vouch();
    assert!(!full.swallows(), "it is asked anew");
    ask(&mut full, 1201);
    assert!(full.swallows());
    full.vouch();
    assert!(full.swallows(), "that was known");
    assert!(full.is_due(false, 36_500 * MS), "it is asked as any that swallows");
    full.leaves(1401, 36_500 * MS);
    assert!(full.answered(1401, NEAR) && !full.swallows());
}

#[test]
fn one_that_was_asked_while_nothing_passed_is_asked_again_with_the_first_answer() {
    let mut full = FullSize::new(PACE, BUDGET);
    full.leaves(1, 0);
    assert!(!full.is_due(false, 100 * MS));
    assert!(!full.answered(4, NEAR), "a small one");
    assert!(full.is_due(false, 150 * MS));
    full.leaves(7, 150 * MS);
    assert!(
        !full.answered(6, NEAR) && !full.is_due(false, 200 * MS),
        "this one was escorted"
    );
}

#[test]
fn a_far_end_that_answers_nothing_at_all_is_not_asked_in_haste() {
    let mut full = FullSize::new(PACE, BUDGET);
    assert!(full.is_due(true, 0));
    full.leaves(1, 0);
    full.judge(500 * MS, INTERVAL, &known(), CLEAN);
    assert!(!full.is_due(true, 500 * MS) && full.is_due(true, 600 * MS));
    full.forget();
    assert!(full.is_due(true, 500 * MS), "that is another network");
}

#[test]
fn three_missing_in_a_row_convict_and_one_answer_clears() {
    let mut full = answering(BUDGET);
    for sequence in [201, 203, 205] {
        escorted(&mut full, sequence, u64::from(sequence) * 25 * MS);
    }
    // The last left at 5,125 ms; an answer takes 20 ms, and 12.5 ms are granted.
    assert!(!judged(&full, 5157 * MS), "the third may still be on its way");
    assert!(judged(&full, 5158 * MS));
    let mut late = full.clone();
    assert!(late.answered(203, NEAR), "late, but it shows that they pass");
    assert!(!judged(&late, 5158 * MS));
    full.judge(5158 * MS, INTERVAL, &known(), CLEAN);
    full.leaves(207, 5200 * MS);
    assert!(full.swallows() && full.answered(207, NEAR) && !full.swallows());
    full.leaves(209, 5300 * MS);
    assert!(full.failed(209) && !full.failed(209) && !full.sent(209, 5300 * MS));
}

#[test]
fn what_was_lost_together_with_the_small_one_says_nothing() {
    let mut full = answering(BUDGET);
    for sequence in [201, 203, 205, 207] {
        full.leaves(sequence, u64::from(sequence) * 25 * MS);
    }
    assert!(!judged(&full, 60_000 * MS));
}

#[test]
fn one_that_left_late_is_waited_for_from_then_on() {
    let mut full = answering(BUDGET);
    for sequence in [201, 203, 205] {
        escorted(&mut full, sequence, u64::from(sequence) * 25 * MS);
    }
    assert!(full.sent(205, 5150 * MS));
    assert!(!judged(&full, 5182 * MS));
    assert!(judged(&full, 5183 * MS));
}

#[test]
fn after_the_first_missing_one_another_leaves_with_each_small_one_until_it_is_clear() {
    let mut full = answering(BUDGET);
    escorted(&mut full, 201, 600 * MS);
    full.judge(632 * MS, INTERVAL, &known(), CLEAN);
    assert!(!full.is_due(true, 650 * MS));
    full.judge(650 * MS, INTERVAL, &known(), CLEAN);
    assert!(full.is_due(true, 650 * MS) && full.is_due(false, 650 * MS));
    full.leaves(203, 650 * MS);
    assert!(full.answered(203, NEAR) && !full.is_due(true, 700 * MS));
    // So lossy that it is not judged: it is not asked in vain either.
    escorted(&mut full, 205, 1200 * MS);
    full.judge(1300 * MS, INTERVAL, &known(), 0.9);
    assert!(!full.is_due(true, 1300 * MS));
}

#[test]
fn a_path_that_dies_in_doubt_is_not_asked_in_haste_for_ever() {
    let mut full = answering(BUDGET);
    escorted(&mut full, 201, 0);
    let in_haste = (1..1000).filter(|n| {
        let now = n * INTERVAL;
        full.judge(now, INTERVAL, &known(), CLEAN);
        let in_haste = full.doubted;
        if full.is_due(true, now) {
            full.leaves(201 + 2 * *n as u32, now);
        }
        in_haste
    });
    assert_eq!(in_haste.count(), REMEMBERED);
}

#[test]
fn large_probes_that_are_slower_are_given_their_time() {
    let mut full = answering(BUDGET);
    for sequence in 101..200 {
        full.leaves(sequence, 0);
        full.answered(sequence, 4 * NEAR);
    }
    for sequence in [201, 203, 205] {
        escorted(&mut full, sequence, u64::from(sequence) * 25 * MS);
    }
    assert!(!judged(&full, 5125 * MS + 80 * MS));
    assert!(judged(&full, 5125 * MS + 100 * MS));
}

/// What is known of a path by its small probes.
fn onset(channel: Channel) -> f64 {
    let (mut small, mut lost, mut random) = (Gilbert::new(PACE.interval, BUDGET), false, Random::new(3));
    for _ in 0..20_000 {
        lost = channel.next(lost, &mut random);
        if lost { small.lost() } else { small.answered(1) }
    }
    small.onset()
}

/// False verdicts in so many rounds, each of a small and a large probe, the first one being the first in which large ones get lost; `besides`: what they lose besides.
fn convictions(channel: Channel, besides: f64, onset: f64, rounds: usize, share_per_second: f64, seed: u64) -> u32 {
    let (mut random, mut lost, mut now) = (Random::new(seed), false, 0);
    let (mut full, rtt, mut convictions) = (answering(share_per_second), known(), 0);
    for sequence in (200..).step_by(2).take(rounds) {
        now += if full.doubted { INTERVAL } else { 600 * MS };
        full.leaves(sequence + 1, now);
        lost = channel.next(lost, &mut random);
        if !lost {
            full.answered(sequence, NEAR);
        }
        lost = channel.next(lost, &mut random);
        if !lost && random.uniform() >= besides {
            full.answered(sequence + 1, NEAR);
        }
        let before = full.swallows();
        full.judge(now + INTERVAL, INTERVAL, &rtt, onset);
        convictions += u32::from(full.swallows() && !before);
    }
    convictions
}

/// By a budget that allows some in the time that can be simulated: what holds for many false verdicts in an hour holds for few in a year.
#[test]
fn loss_convicts_no_more_often_than_the_budget_allows() {
    const ROUNDS: usize = 100_000;
    const ALLOWED: f64 = 20.0;
    let share_per_second = ALLOWED / SHARE / (ROUNDS as f64 * 0.6);
    for (channel, besides) in [
        (Channel::independent(0.001), 0.0),
        (Channel::independent(0.01), 0.0),
        (Channel::independent(0.05), 0.0),
        (Channel::independent(0.2), 0.0),
        (Channel::bursts(0.05, 3.0), 0.0),
        (Channel::bursts(0.05, 10.0), 0.0),
        (Channel::independent(0.001), 0.05),
        (Channel::independent(0.01), 0.3),
    ] {
        let convictions = convictions(channel, besides, onset(channel), ROUNDS, share_per_second, 7);
        // Twenty and three standard deviations.
        assert!(convictions <= 34, "{convictions} of {channel:?}, large ones {besides}");
    }
}

#[test]
fn what_small_probes_taught_holds_for_large_ones_before_one_of_them_is_lost() {
    let channel = Channel::independent(0.2);
    let first_minute = |onset| {
        (1..2000)
            .map(|seed| convictions(channel, 0.0, onset, 100, BUDGET, seed))
            .sum::<u32>()
    };
    assert_eq!(first_minute(onset(channel)), 0);
    assert!(first_minute(CLEAN) > 0, "their own losses teach too late");
}
