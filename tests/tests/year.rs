//! A year of each path, with a probe each 50 ms (the profile `balanced`): false verdicts stay within the budget, and a dead path is not waited for longer than what
//! the path is like asks for. See [`wgxdp::engine::montecarlo`]; `cargo xtask bench detection` prints the same years as a table.

use std::time::Duration;

use wgxdp::engine::montecarlo::{BUDGET_PER_WEEK, Path, SCENARIOS, simulate};

const INTERVAL: Duration = Duration::from_millis(50);
/// Three probes: nothing is called dead for fewer.
const AT_LEAST: Duration = Duration::from_millis(150);

fn path(name: &str) -> Path {
    let found = SCENARIOS.into_iter().find(|(of, _)| *of == name);
    found.expect("one of them").1
}

/// A year of the path with this name costs no more false verdicts than a path's share, and dead it is not waited for longer than `at_most` but one time in a hundred.
fn keeps_the_budget(name: &str, at_most: Duration) {
    keeps_the_budget_from(1, name, at_most);
}

/// The same with other chances. Returns the false verdicts to be expected in a week.
fn keeps_the_budget_from(seed: u64, name: &str, at_most: Duration) -> f64 {
    let path = path(name);
    let outcome = simulate(path, INTERVAL, path.year(INTERVAL), seed);
    println!("{name}: {outcome:?}");
    assert!(outcome.weeks > 52.0, "{name}: {outcome:?}");
    assert!(outcome.per_week <= BUDGET_PER_WEEK, "{name}: {outcome:?}");
    assert!(
        outcome.dead_after_p50 >= AT_LEAST && outcome.dead_after_p99 <= at_most,
        "{name}: {outcome:?}"
    );
    outcome.per_week
}

#[test]
fn a_year_of_one_probe_in_a_thousand_lost() {
    keeps_the_budget("loss_0.1", Duration::from_millis(300));
}

#[test]
fn a_year_of_one_probe_in_a_hundred_lost() {
    keeps_the_budget("loss_1", Duration::from_millis(350));
}

#[test]
fn a_year_of_one_probe_in_twenty_lost() {
    keeps_the_budget("loss_5", Duration::from_millis(450));
}

#[test]
fn a_year_of_two_paths_that_lose_one_probe_in_five_each() {
    let per_week = [1, 2].map(|seed| keeps_the_budget_from(seed, "loss_20", Duration::from_millis(700)));
    assert!(per_week[0] != per_week[1], "the same path twice");
}

#[test]
fn a_year_of_short_bursts() {
    keeps_the_budget("bursts_3", Duration::from_millis(2_500));
}

#[test]
fn a_year_of_long_bursts() {
    keeps_the_budget("bursts_10", Duration::from_secs(10));
}

#[test]
fn a_year_of_jitter() {
    keeps_the_budget("jitter_50", Duration::from_millis(250));
}

#[test]
fn a_year_of_steps_of_the_round_trip() {
    keeps_the_budget("steps_100", Duration::from_millis(300));
}

#[test]
fn a_year_of_flaps_that_alias_with_the_probes() {
    keeps_the_budget("flaps_aliased", Duration::from_millis(1_500));
}

#[test]
fn a_year_of_flaps_in_phase_with_the_probes() {
    keeps_the_budget("flaps_in_phase", Duration::from_millis(2_200));
}

#[test]
fn bursts_longer_than_anybody_is_waited_for_break_the_budget_and_that_is_seen() {
    let (path, slow) = (path("bursts_10"), Duration::from_millis(500));
    let outcome = simulate(path, slow, path.year(slow) / 52, 1);
    assert!(outcome.per_week > BUDGET_PER_WEEK && outcome.counted > 0, "{outcome:?}");
}
