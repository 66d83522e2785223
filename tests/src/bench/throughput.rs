//! TCP and UDP through the tunnel, both ways, with wgxdp and without, in turns, in one laboratory with one tunnel of MTU 1420: the daemon starts, the
//! transfers are measured, the daemon stops and takes all that is its own away, the transfers are measured again. A ratio is of the two halves of a
//! pair. Half of the pairs begin with the one, half with the other, so that a machine that becomes faster or slower favours neither; and they
//! are many and short. The branch's sender or receiver and its wireguard-go share one core, the hub's another. `…_busy_ratio` is of what a byte
//! costs all cores, which does not depend on who waits for whom; on an idle machine it says more than the rates.
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
use crate::cores::usable;
use crate::daemon::{Daemon, Settings};
use crate::topology::{BRANCH_INNER, Family, HUB_INNER, Lab};
use crate::traffic::bulk::{self, Measured, Transport};

/// Its name.
pub const NAME: &str = "throughput";

/// What of the plain tunnel's throughput must be left.
const LEAST: Bound = Bound::AtLeast(0.97);
/// A transfer's beginning, in which its window opens, is not measured.
const WARM_UP: Duration = Duration::from_millis(300);
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

/// What is measured, and what its figures are called.
const FLOWS: [(&str, Transport, Way); 4] = [
    ("tcp_up", Transport::Tcp, Way::Up),
    ("tcp_down", Transport::Tcp, Way::Down),
    ("udp_up", Transport::Udp, Way::Up),
    ("udp_down", Transport::Udp, Way::Down),
];

/// Where to.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// From the branch to the hub.
    Up,
    /// From the hub to the branch.
    Down,
}

/// Of each of [`FLOWS`].
type Half = [Measured; FLOWS.len()];

/// Both halves of a pair.
#[derive(Debug, Clone, Copy)]
struct Pair {
    with: Half,
    without: Half,
}

/// Measures pairs.
///
/// # Errors
/// The laboratory or the daemon could not be raised, a connection broke, or packets did not take the way that is measured.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let effort = match scale {
        Scale::Full => Effort {
            pairs: 32,
            time: Duration::from_millis(700),
        },
        Scale::Quick => Effort {
            pairs: 5,
            time: Duration::from_millis(700),
        },
    };
    let lab = Lab::raise(Family::V4)?;
    lab.branch_wg.keep_to(usable(0)?)?;
    lab.hub_wg.keep_to(usable(1)?)?;
    let (mut pairs, mut failovers) = (Vec::new(), 0);
    for number in 0..effort.pairs {
        let mut with_wgxdp = || -> Result<Half> {
            let (half, downs) = with(&lab, effort.time)?;
            failovers += downs;
            Ok(half)
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
fn with(lab: &Lab, time: Duration) -> Result<(Half, usize)> {
    let daemon = Daemon::start(lab, &Settings::default())?;
    let measured = (|| {
        let tables = lab.branch.enter(|| Tables::pinned(&Pins::default()))?;
        let half = half(lab, time)?;
        let restored = (0..2).map(|uplink| tables.reason_count(Place::Uplink(UplinkId(uplink)), Reason::Restored));
        let restored: u64 = restored.sum::<Result<u64, _>>()?;
        let steered = tables.reason_count(Place::Anchor, Reason::Steered)?;
        ensure!(
            steered > FEW && restored > FEW,
            "only {steered} packets were steered and {restored} restored"
        );
        let downs = daemon.log().since(0).iter().filter(|line| line.contains(DOWN)).count();
        Ok((half, downs))
    })();
    let measured = measured.with_context(|| daemon.log().text())?;
    let ended = daemon.stop(Signal::SIGTERM)?;
    ensure!(ended.success(), "wgxdp ended with {ended} after SIGTERM");
    Ok(measured)
}

fn without(lab: &Lab, time: Duration) -> Result<Half> {
    let pinned = lab.branch.enter(|| Tables::pinned(&Pins::default()).is_ok());
    ensure!(!pinned, "wgxdp has left its pins behind");
    half(lab, time)
}

fn half(lab: &Lab, time: Duration) -> Result<Half> {
    let (branch, hub) = (
        (&lab.branch, BRANCH_INNER, usable(0)?),
        (&lab.hub, HUB_INNER, usable(1)?),
    );
    let mut half = [Measured { rate: 0.0, busy: 0.0 }; FLOWS.len()];
    for ((_, transport, way), measured) in FLOWS.into_iter().zip(&mut half) {
        let (from, to) = match way {
            Way::Up => (branch, hub),
            Way::Down => (hub, branch),
        };
        *measured = bulk::measure(transport, from, to, WARM_UP, time)?;
    }
    Ok(half)
}

impl Pair {
    fn describe(&self) -> String {
        let flows = FLOWS.iter().zip(self.with.iter().zip(&self.without));
        let flows = flows
            .map(|((name, ..), (with, without))| format!("{name} {:.0} with, {:.0} without", with.rate, without.rate));
        format!("Mbit/s: {}", flows.collect::<Vec<_>>().join("; "))
    }
}

fn figures(pairs: &[Pair]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (place, (name, ..)) in FLOWS.iter().enumerate() {
        let halves = pairs.iter().map(|pair| (pair.with[place], pair.without[place]));
        figures.extend(flow(name, &halves.collect::<Vec<_>>())?);
    }
    Ok(figures)
}

/// The figures of one flow, of what was measured of it with wgxdp and without.
fn flow(name: &str, halves: &[(Measured, Measured)]) -> Result<Vec<Figure>> {
    let summary = |of: &dyn Fn(&(Measured, Measured)) -> f64| {
        let samples: Vec<f64> = halves.iter().map(of).collect();
        Summary::of(&samples).context("there was no pair")
    };
    let (with, without) = (summary(&|(with, _)| with.rate)?, summary(&|(_, without)| without.rate)?);
    let ratio = summary(&|(with, without)| with.rate / without.rate)?;
    let busy = summary(&|(with, without)| with.busy / without.busy)?;
    let figure = |metric: &str, value, unit| Figure::new(NAME, format!("{name}_{metric}"), value, unit, ratio.count);
    let [lower, upper] = ratio.quartiles;
    Ok(vec![
        figure("with", with.median, Unit::MegabitsPerSecond),
        figure("without", without.median, Unit::MegabitsPerSecond),
        figure("ratio", ratio.median, Unit::Ratio).bounded(LEAST),
        figure("ratio_p25", lower, Unit::Ratio),
        figure("ratio_p75", upper, Unit::Ratio),
        figure("busy_ratio", busy.median, Unit::Ratio),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_halves_of_a_pair_and_not_of_the_medians() {
        let half = |rate| {
            [Measured {
                rate,
                busy: 100.0 / rate,
            }; FLOWS.len()]
        };
        let pair = |with, without| Pair {
            with: half(with),
            without: half(without),
        };
        let pairs = [pair(100.0, 100.0), pair(45.0, 50.0), pair(19.0, 20.0)];
        let figures = figures(&pairs).expect("there are pairs");
        let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric).map(|f| f.value);
        for (name, ..) in FLOWS {
            let value = |metric: &str| value(&format!("{name}_{metric}"));
            assert_eq!((value("with"), value("without")), (Some(45.0), Some(50.0)));
            assert_eq!((value("ratio"), value("busy_ratio")), (Some(0.95), Some(1.053)));
            assert_eq!((value("ratio_p25"), value("ratio_p75")), (Some(0.9), Some(1.0)));
        }
    }
}
