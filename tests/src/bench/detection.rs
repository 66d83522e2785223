//! How often a path is called dead that is not, and how long a dead one is waited for: see [`wgxdp::engine::montecarlo`], which needs no laboratory.
//!
//! Each path is simulated for a year (`--quick`: for a week). A figure's samples are the runs of losses, or the probes, of it.

use std::time::Duration;

use anyhow::Result;
use wgxdp::engine::montecarlo::{BUDGET_PER_WEEK, Path, SCENARIOS, simulate};

use super::gap::millis;
use super::{Bound, Figure, Scale, Unit};

/// The benchmark's name.
pub const NAME: &str = "detection";

/// The profile `balanced`.
const INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, path) in SCENARIOS {
        progress(name);
        let length = match scale {
            Scale::Full => path.year(INTERVAL),
            Scale::Quick => path.year(INTERVAL) / 52,
        };
        figures.extend(of_path(name, path, length, scale));
    }
    Ok(figures)
}

fn of_path(name: &str, path: Path, length: u64, scale: Scale) -> [Figure; 4] {
    let outcome = simulate(path, INTERVAL, length, 1);
    let figure = |metric, value, unit| Figure::new(NAME, format!("{name}_{metric}"), value, unit, length as usize);
    let false_verdicts = figure("false_per_week", outcome.per_week, Unit::Count);
    [
        match (path, scale) {
            // Without chances the few that such a path costs while it is new are counted, too: in a single week they weigh too much.
            (Path::Jittery(_) | Path::Stepping(_) | Path::Flapping { .. }, Scale::Quick) => false_verdicts,
            _ => false_verdicts.bounded(Bound::AtMost(BUDGET_PER_WEEK)),
        },
        figure("false_counted", outcome.counted as f64, Unit::Count),
        figure("dead_after_p50", millis(outcome.dead_after_p50), Unit::Milliseconds),
        figure("dead_after_p99", millis(outcome.dead_after_p99), Unit::Milliseconds),
    ]
}
