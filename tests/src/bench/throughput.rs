//! TCP through the tunnel with wgxdp and without, in turns, in one laboratory with one tunnel: the daemon starts, the transfer is
//! measured, the daemon stops and takes all that is its own away, the transfer is measured again. A ratio is of the two halves of a
//! pair. Half of the pairs begin with the one, half with the other, so that a machine that becomes faster or slower favours neither; and they
//! are many and short. `ratio_best` is of the best of either: whatever else the machine does only ever slows a transfer down.
//!
//! That packets took the way that is measured is read from the programs' pinned counts: with wgxdp they steered and restored, without it
//! there are no pins. `failovers` says how often a starved machine looked like a dead path meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use wgxdp::dataplane::{Pins, Tables};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;

use super::figure::Summary;
use super::{Bound, Figure, Scale, Unit};
use crate::daemon::{Daemon, Settings};
use crate::topology::{BRANCH_INNER, Family, HUB_INNER, Lab};
use crate::traffic::bulk;

/// Its name.
pub const NAME: &str = "throughput";

/// What of the plain tunnel's throughput must be left.
const LEAST: Bound = Bound::AtLeast(0.97);
/// A transfer's beginning, in which its window opens, is not measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// Whether packets took the programs' way is clear from far fewer.
const FEW: u64 = 100;
/// What the daemon logs of a path that has been silent for too long.
const DOWN: &str = " down after ";

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Effort {
    pairs: usize,
    /// Of one transfer.
    time: Duration,
}

/// Megabits of payload in a second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    up: f64,
    down: f64,
}

/// Both halves of a pair.
#[derive(Debug, Clone, Copy)]
struct Pair {
    with: Rates,
    without: Rates,
}

/// Measures pairs.
///
/// # Errors
/// The laboratory or the daemon could not be raised, a connection broke, or packets did not take the way that is measured.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let effort = match scale {
        Scale::Full => Effort {
            pairs: 16,
            time: Duration::from_millis(1500),
        },
        Scale::Quick => Effort {
            pairs: 5,
            time: Duration::from_millis(1500),
        },
    };
    let lab = Lab::raise(Family::V4)?;
    let (mut pairs, mut failovers) = (Vec::new(), 0);
    for number in 0..effort.pairs {
        let mut with_wgxdp = || -> Result<Rates> {
            let (rates, downs) = with(&lab, effort.time)?;
            failovers += downs;
            Ok(rates)
        };
        let pair = if number % 2 == 0 {
            let without = without(&lab, effort.time)?;
            let with = with_wgxdp()?;
            Pair { with, without }
        } else {
            let with = with_wgxdp()?;
            let without = without(&lab, effort.time)?;
            Pair { with, without }
        };
        progress(&format!("pair {} of {}: {}", number + 1, effort.pairs, pair.describe()));
        pairs.push(pair);
    }
    let mut figures = figures(&pairs)?;
    figures.push(Figure::new(
        NAME,
        "failovers",
        failovers as f64,
        Unit::Count,
        pairs.len(),
    ));
    Ok(figures)
}

/// With the daemon: the rates, and how often it found a path silent.
fn with(lab: &Lab, time: Duration) -> Result<(Rates, usize)> {
    let daemon = Daemon::start(lab, &Settings::default())?;
    let measured = (|| {
        let tables = lab.branch.enter(|| Tables::pinned(&Pins::default()))?;
        let rates = rates(lab, time)?;
        let restored = (0..2).map(|uplink| tables.reason_count(Place::Uplink(UplinkId(uplink)), Reason::Restored));
        let restored: u64 = restored.sum::<Result<u64, _>>()?;
        let steered = tables.reason_count(Place::Anchor, Reason::Steered)?;
        ensure!(
            steered > FEW && restored > FEW,
            "only {steered} packets were steered and {restored} restored"
        );
        let downs = daemon.log().since(0).iter().filter(|line| line.contains(DOWN)).count();
        Ok((rates, downs))
    })();
    let measured = measured.with_context(|| daemon.log().text())?;
    let ended = daemon.stop(Signal::SIGTERM)?;
    ensure!(ended.success(), "wgxdp ended with {ended} after SIGTERM");
    Ok(measured)
}

fn without(lab: &Lab, time: Duration) -> Result<Rates> {
    let pinned = lab.branch.enter(|| Tables::pinned(&Pins::default()).is_ok());
    ensure!(!pinned, "wgxdp has left its pins behind");
    rates(lab, time)
}

fn rates(lab: &Lab, time: Duration) -> Result<Rates> {
    let rate = |from, to| bulk::rate(from, to, WARM_UP, time);
    Ok(Rates {
        up: rate(&lab.branch, (&lab.hub, HUB_INNER)).context("branch to hub")?,
        down: rate(&lab.hub, (&lab.branch, BRANCH_INNER)).context("hub to branch")?,
    })
}

impl Pair {
    fn describe(&self) -> String {
        let Self { with, without } = self;
        format!(
            "to the hub {:.0} Mbit/s with wgxdp, {:.0} without; to the branch {:.0}, {:.0}",
            with.up, without.up, with.down, without.down
        )
    }
}

fn figures(pairs: &[Pair]) -> Result<Vec<Figure>> {
    let up = pairs.iter().map(|pair| (pair.with.up, pair.without.up));
    let down = pairs.iter().map(|pair| (pair.with.down, pair.without.down));
    let up = direction("up", up.unzip())?;
    Ok([up, direction("down", down.unzip())?].concat())
}

/// The figures of one direction, of its rates with wgxdp and, in the same order, without.
fn direction(name: &str, (with, without): (Vec<f64>, Vec<f64>)) -> Result<Vec<Figure>> {
    let ratios: Vec<f64> = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with / without)
        .collect();
    let summary = |samples: &[f64]| Summary::of(samples).context("there was no pair");
    let (with, without, ratio) = (summary(&with)?, summary(&without)?, summary(&ratios)?);
    let figure = |metric: &str, value, unit| Figure::new(NAME, format!("{name}_{metric}"), value, unit, ratio.count);
    Ok(vec![
        figure("with", with.median, Unit::MegabitsPerSecond),
        figure("without", without.median, Unit::MegabitsPerSecond),
        figure("ratio", ratio.median, Unit::Ratio).bounded(LEAST),
        figure("ratio_min", ratio.min, Unit::Ratio),
        figure("ratio_max", ratio.max, Unit::Ratio),
        figure("ratio_best", with.max / without.max, Unit::Ratio),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_halves_of_a_pair_and_not_of_the_medians() {
        let pair = |with, without| Pair {
            with: Rates { up: with, down: 1.0 },
            without: Rates { up: without, down: 2.0 },
        };
        let pairs = [pair(100.0, 100.0), pair(45.0, 50.0), pair(19.0, 20.0)];
        let figures = figures(&pairs).expect("there are pairs");
        let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric).map(|f| f.value);
        assert_eq!((value("up_with"), value("up_without")), (Some(45.0), Some(50.0)));
        assert_eq!(value("up_ratio"), Some(0.95));
        assert_eq!((value("up_ratio_min"), value("up_ratio_max")), (Some(0.9), Some(1.0)));
        assert_eq!(value("down_ratio"), Some(0.5));
    }
}
