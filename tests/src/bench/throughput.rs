//! TCP and UDP through the tunnel, both ways, with an MTU of 1420, five times in a round: without wgxdp, with it but for its XDP program, with all of it (`guarded`),
//! without it but with an empty XDP program on each uplink, and without it but with a rule and a table for each uplink (`ruled`). Each time in a new laboratory: a kernel that ever had a routing rule of somebody's looks at rules for each packet from then on
//! (`fib_has_custom_rules`), and what is plain must never have had one. A ratio is to the same round's transfer without wgxdp. Rounds begin with each of the five in turn, so that a machine that becomes faster or slower
//! favours none; and they are many and short. The branch's sender or receiver and its wireguard-go share one core, the hub's another.
//! `…_busy_ratio` is of what a byte costs all cores, which does not depend on who waits for whom; on an idle machine it says more than the rates.
//!
//! The uplinks are veths. To have XDP look at a frame, any XDP, a veth may have to copy what the other end sends (`veth_convert_skb_to_xdp_buff`), as no network card
//! has to: that is what the empty program costs, and `guarded_to_empty_xdp_ratio` what `guard` and the rest of wgxdp cost on a device that runs XDP anyway.
//!
//! A host with several uplinks that is to answer by the one on which it was asked has a rule for each, and pays for rules at each look-up of a route already: `to_ruled_ratio` is what
//! wgxdp, which needs none for each uplink, adds or spares there.
//!
//! That packets took the way that is measured is read from the programs' pinned counts: with wgxdp they steered and restored. `failovers` says how often a starved machine looked like a dead path meanwhile.

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
use crate::topology::{BRANCH_INNER, Family, HUB_INNER, Lab, Uplink};
use crate::traffic::bulk::{self, Measured, Transport};
use crate::xdp::Foreign;

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

/// Every uplink filters strictly by the reverse path, and no more devices than those: so distributions set it.
const LEFT_TO_DEVICES: [(&str, &str); 1] = [("net/ipv4/conf/all/rp_filter", "0")];

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
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

/// What carries the tunnel's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// The kernel alone.
    Plain,
    /// The kernel, and on each uplink an XDP program that does nothing.
    EmptyXdp,
    /// The kernel, and for each uplink a rule and a table, so that what has its address leaves by it.
    Ruled,
    /// wgxdp, with this `xdp`.
    Wgxdp(Option<&'static str>),
}

/// All of them, and what the figures call them.
const CARRIERS: [(&str, Carrier); 5] = [
    ("without", Carrier::Plain),
    ("with", Carrier::Wgxdp(Some("off"))),
    ("guarded", Carrier::Wgxdp(None)),
    ("with_empty_xdp", Carrier::EmptyXdp),
    ("with_rules", Carrier::Ruled),
];
const WITHOUT: usize = 0;
const WITH: usize = 1;
const GUARDED: usize = 2;
const EMPTY_XDP: usize = 3;
const RULED: usize = 4;
/// Which is compared with which, what the figures call that, and what must be left.
const RATIOS: [(&str, usize, usize, Option<Bound>); 6] = [
    ("", WITH, WITHOUT, Some(LEAST)),
    ("guarded_", GUARDED, WITHOUT, Some(LEAST)),
    ("empty_xdp_", EMPTY_XDP, WITHOUT, None),
    ("guarded_to_empty_xdp_", GUARDED, EMPTY_XDP, Some(LEAST)),
    ("ruled_", RULED, WITHOUT, None),
    ("to_ruled_", WITH, RULED, Some(LEAST)),
];

/// Of each of [`FLOWS`].
type Flows = [Measured; FLOWS.len()];
/// Before they are measured.
const NOTHING: Flows = [Measured { rate: 0.0, busy: 0.0 }; FLOWS.len()];
/// By each of [`CARRIERS`].
type Round = [Flows; CARRIERS.len()];

/// Measures rounds.
///
/// # Errors
/// The laboratory or the daemon could not be raised, a connection broke, or packets did not take the way that is measured.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let effort = match scale {
        Scale::Full => Effort {
            rounds: 30,
            time: Duration::from_millis(700),
        },
        Scale::Quick => Effort {
            rounds: 4,
            time: Duration::from_millis(700),
        },
    };
    let (mut rounds, mut failovers) = (Vec::new(), 0);
    for number in 0..effort.rounds {
        let mut round = [NOTHING; CARRIERS.len()];
        for turn in 0..CARRIERS.len() {
            let place = (number + turn) % CARRIERS.len();
            let (flows, downs) = CARRIERS[place].1.measure(effort.time)?;
            round[place] = flows;
            failovers += downs;
        }
        progress(&format!(
            "round {} of {}, Mbit/s: {}",
            number + 1,
            effort.rounds,
            describe(&round)
        ));
        rounds.push(round);
    }
    let mut figures = figures(&rounds)?;
    figures.push(Figure::new(
        NAME,
        "failovers",
        failovers as f64,
        Unit::Count,
        rounds.len(),
    ));
    Ok(figures)
}

impl Carrier {
    /// The rates in a laboratory of its own, and how often wgxdp found a path silent.
    fn measure(self, time: Duration) -> Result<(Flows, usize)> {
        let lab = Lab::raise(Family::V4)?;
        for host in [&lab.branch, &lab.hub] {
            host.sysctl(&LEFT_TO_DEVICES)?;
        }
        lab.branch_wg.keep_to(usable(0)?)?;
        lab.hub_wg.keep_to(usable(1)?)?;
        match self {
            Self::Plain => Ok((flows(&lab, time)?, 0)),
            Self::EmptyXdp => {
                let empty = |uplink: Uplink| Foreign::attach(&lab.branch, uplink.name());
                let _attached = Uplink::ALL.map(empty).into_iter().collect::<Result<Vec<_>>>()?;
                Ok((flows(&lab, time)?, 0))
            }
            Self::Ruled => {
                for (table, uplink) in ["101", "102"].into_iter().zip(Uplink::ALL) {
                    let subnet = uplink.subnets().0;
                    let (own, gateway) = (format!("{subnet}.2"), format!("{subnet}.1"));
                    lab.branch
                        .run("ip", &["route", "add", "default", "via", &gateway, "table", table])?;
                    lab.branch.run("ip", &["rule", "add", "from", &own, "lookup", table])?;
                }
                Ok((flows(&lab, time)?, 0))
            }
            Self::Wgxdp(xdp) => with_wgxdp(&lab, xdp, time),
        }
    }
}

fn with_wgxdp(lab: &Lab, xdp: Option<&'static str>, time: Duration) -> Result<(Flows, usize)> {
    let settings = Settings {
        xdp,
        ..Settings::default()
    };
    let daemon = Daemon::start(lab, &settings)?;
    let measured = (|| {
        let tables = lab.branch.enter(|| Tables::pinned(&Pins::default()))?;
        let flows = flows(lab, time)?;
        let restored = (0..2).map(|uplink| tables.reason_count(Place::Uplink(UplinkId(uplink)), Reason::Restored));
        let restored: u64 = restored.sum::<Result<u64, _>>()?;
        let steered = tables.reason_count(Place::Anchor, Reason::Steered)?;
        ensure!(
            steered > FEW && restored > FEW,
            "only {steered} packets were steered and {restored} restored"
        );
        let downs = daemon.log().since(0).iter().filter(|line| line.contains(DOWN)).count();
        Ok((flows, downs))
    })();
    let measured = measured.with_context(|| daemon.log().text())?;
    let ended = daemon.stop(Signal::SIGTERM)?;
    ensure!(ended.success(), "wgxdp ended with {ended} after SIGTERM");
    Ok(measured)
}

fn flows(lab: &Lab, time: Duration) -> Result<Flows> {
    let (branch, hub) = (
        (&lab.branch, BRANCH_INNER, usable(0)?),
        (&lab.hub, HUB_INNER, usable(1)?),
    );
    let mut flows = NOTHING;
    for ((_, transport, way), measured) in FLOWS.into_iter().zip(&mut flows) {
        let (from, to) = match way {
            Way::Up => (branch, hub),
            Way::Down => (hub, branch),
        };
        *measured = bulk::measure(transport, from, to, WARM_UP, time)?;
    }
    Ok(flows)
}

fn describe(round: &Round) -> String {
    let flow = |(place, (name, ..)): (usize, &(&str, _, _))| {
        let rates = CARRIERS.iter().zip(round);
        let rates = rates.map(|((carrier, ..), flows)| format!("{:.0} {carrier}", flows[place].rate));
        format!("{name} {}", rates.collect::<Vec<_>>().join(", "))
    };
    FLOWS.iter().enumerate().map(flow).collect::<Vec<_>>().join("; ")
}

fn figures(rounds: &[Round]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (flow, (name, ..)) in FLOWS.iter().enumerate() {
        let of_rounds = |of: &dyn Fn(&Round) -> f64| {
            let samples: Vec<f64> = rounds.iter().map(of).collect();
            Summary::of(&samples).context("there was no round")
        };
        let figure =
            |metric: &str, value, unit| Figure::new(NAME, format!("{name}_{metric}"), value, unit, rounds.len());
        for (carrier, (metric, _)) in CARRIERS.iter().enumerate() {
            let rate = of_rounds(&|round| round[carrier][flow].rate)?;
            figures.push(figure(metric, rate.median, Unit::MegabitsPerSecond));
        }
        for (prefix, this, other, bound) in RATIOS {
            let ratio = of_rounds(&|round| round[this][flow].rate / round[other][flow].rate)?;
            let busy = of_rounds(&|round| round[this][flow].busy / round[other][flow].busy)?;
            let [lower, upper] = ratio.quartiles;
            let figure = |metric: &str, value| figure(&format!("{prefix}{metric}"), value, Unit::Ratio);
            figures.extend([
                Figure {
                    bound,
                    ..figure("ratio", ratio.median)
                },
                figure("ratio_p25", lower),
                figure("ratio_p75", upper),
                figure("busy_ratio", busy.median),
            ]);
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_one_round_and_not_of_the_medians() {
        let flows = |rate| {
            [Measured {
                rate,
                busy: 100.0 / rate,
            }; FLOWS.len()]
        };
        let rounds = [
            [flows(100.0), flows(100.0), flows(50.0), flows(50.0), flows(80.0)],
            [flows(50.0), flows(45.0), flows(50.0), flows(40.0), flows(45.0)],
            [flows(20.0), flows(19.0), flows(15.0), flows(16.0), flows(20.0)],
        ];
        let figures = figures(&rounds).expect("there are rounds");
        let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric).map(|f| f.value);
        for (name, ..) in FLOWS {
            let value = |metric: &str| value(&format!("{name}_{metric}"));
            assert_eq!((value("with"), value("without")), (Some(45.0), Some(50.0)));
            assert_eq!((value("ratio"), value("busy_ratio")), (Some(0.95), Some(1.053)));
            assert_eq!((value("ratio_p25"), value("ratio_p75")), (Some(0.9), Some(1.0)));
            assert_eq!((value("guarded"), value("guarded_ratio")), (Some(50.0), Some(0.75)));
            assert_eq!(
                (value("empty_xdp_ratio"), value("guarded_to_empty_xdp_ratio")),
                (Some(0.8), Some(1.0))
            );
            assert_eq!((value("ruled_ratio"), value("to_ruled_ratio")), (Some(0.9), Some(1.0)));
        }
    }
}
