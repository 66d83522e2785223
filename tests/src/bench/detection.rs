//! How often a path is called dead that is not, and how long a dead one is waited for: see [`wgxdp::engine::montecarlo`], which needs no laboratory.
//!
//! A figure's samples are the runs of losses, or the probes, that were simulated.

use std::time::Duration;

use anyhow::Result;
use wgxdp::engine::montecarlo::{BUDGET_PER_WEEK, Path, SCENARIOS, simulate};

use super::gap::millis;
use super::{Bound, Figure, Scale, Unit};

/// The benchmark's name.
pub const NAME: &str = "detection";

/// The profile `balanced`.
const INTERVAL: Duration = Duration::from_millis(50);
/// Weeks in a year.
const YEAR: f64 = 365.25 / 7.0;
/// Probes of a path that is simulated probe by probe, where a year would take hours: twelve days.
const PROBES: u64 = 20_000_000;

pub(super) fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, path) in SCENARIOS {
        progress(name);
        let length = match scale {
            Scale::Full => full(path),
            Scale::Quick => full(path) / 50,
        };
        figures.extend(of_path(name, path, length));
    }
    Ok(figures)
}

/// A year of runs of losses, by the rate at which they begin.
fn full(path: Path) -> u64 {
    let Path::Lossy(channel) = path else {
        return PROBES;
    };
    let week = 7.0 * 24.0 * 3600.0 / INTERVAL.as_secs_f64();
    (YEAR * week * channel.p * channel.r / (channel.p + channel.r)) as u64
}

fn of_path(name: &str, path: Path, length: u64) -> [Figure; 4] {
    let outcome = simulate(path, INTERVAL, length, 1);
    let figure = |metric, value, unit| Figure::new(NAME, format!("{name}_{metric}"), value, unit, length as usize);
    let false_verdicts = figure("false_per_week", outcome.per_week, Unit::Count);
    [
        match path {
            // What a path that is simulated for days costs while it is new weighs too much in a week.
            Path::Lossy(_) => false_verdicts.bounded(Bound::AtMost(BUDGET_PER_WEEK)),
            Path::Jittery(_) | Path::Stepping(_) | Path::Flapping { .. } => false_verdicts,
        },
        figure("false_counted", outcome.counted as f64, Unit::Count),
        figure("dead_after_p50", millis(outcome.dead_after_p50), Unit::Milliseconds),
        figure("dead_after_p99", millis(outcome.dead_after_p99), Unit::Milliseconds),
    ]
}
