//! One cut, and what the application saw of it.
//!
//! An outage is over when a [`CALM`] window passes in which next to nothing is lost. Of a cut that swallows everything its length is the gap (see
//! [`analysis`](crate::traffic::analysis)), the worse way counting; of one that swallows some packets the time from the cut to the last packet lost before that
//! window. An outage that patience does not see the end of is as long as was looked, and counted as endless.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::carrier::Running;
use crate::bench::gap::{await_phase, await_return};
use crate::clock::now_ns;
use crate::cut::{Cut, Severed};
use crate::overflow::Overflow;
use crate::poll;
use crate::topology::{Lab, Uplink};
use crate::traffic::analysis::Report;
use crate::traffic::{Duplex, Observation};

/// How long the traffic must be undisturbed for an outage to be over.
const CALM: Duration = Duration::from_millis(250);
/// Of so many packets one may be lost in a calm window: a busy machine loses some by itself.
const ONE_LOST_OF: u64 = 100;
/// Before a cut no silence may begin that the cut makes longer.
const APART_NS: u64 = 10_000_000;
/// How long the tunnel may take to be on isp-a: one that in cut after cut lost a fifth of all packets is believed again after some twenty seconds
/// (the patient test of `engine/objectives.rs`).
pub(super) const TUNNEL_RETURN: Duration = Duration::from_secs(60);
/// How long the traffic may take to return to a healed uplink, and to start.
pub(super) const RETURN_BOUND: Duration = Duration::from_secs(30);

/// What one cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage {
    /// How long.
    pub(super) time: Duration,
    /// Packets lost, both ways together.
    pub(super) lost: u64,
    /// Packets lost in the direction that lost more.
    pub(super) lost_one_way: u64,
    /// Of these, the longest row.
    pub(super) lost_in_a_row: u64,
    /// The gap in a window of the same length just before the cut, if it was so short that all was calm then: what this machine shows of no outage at all.
    pub(super) before: Option<Duration>,
    /// Packets, copies among them, that full buffers dropped meanwhile.
    pub(super) overflowed: u64,
    /// It did not end while it was watched.
    pub(super) endless: bool,
}

/// How one cuts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knife {
    pub(super) cut: Cut,
    /// Over which the cuts are spread.
    pub(super) period: Duration,
    /// How long an outage is watched.
    pub(super) patience: Duration,
}

/// The cut of this number of isp-a. It stays cut.
pub(super) fn cut(
    lab: &mut Lab,
    traffic: &Duplex,
    carrier: &Running,
    knife: Knife,
    number: u32,
) -> Result<(Severed, Outage)> {
    carrier.before_cut()?;
    let before = Overflow::read(lab)?;
    await_phase(number, knife.period)?;
    let severed = lab.cut(knife.cut, Uplink::A)?;
    let mut outage = watch(traffic, &severed, knife.patience)?;
    outage.overflowed = (Overflow::read(lab)? - before).total();
    carrier.after_cut()?;
    Ok((severed, outage))
}

/// Heals isp-a and waits until the traffic has returned to it and is calm.
pub(super) fn heal(lab: &mut Lab, traffic: &Duplex, severed: Severed) -> Result<()> {
    let healed_ns = lab.heal(severed)?;
    await_return(lab, TUNNEL_RETURN)?;
    traffic.await_udp(healed_ns, RETURN_BOUND)?;
    await_calm(traffic)
}

/// Waits until the traffic is calm.
pub(super) fn await_calm(traffic: &Duplex) -> Result<()> {
    let calm = calm(traffic, RETURN_BOUND)?;
    calm.map(drop)
        .context("the tunnel loses packets although nothing is cut")
}

fn watch(traffic: &Duplex, severed: &Severed, patience: Duration) -> Result<Outage> {
    let (done_ns, deadline) = (now_ns(), Instant::now() + patience);
    // Looked at often, without a report, which would keep the senders waiting.
    poll::wait_until(
        "traffic, or the end of patience",
        patience + Duration::from_secs(1),
        || Ok(traffic.udp_flows_since(done_ns) || Instant::now() >= deadline),
    )?;
    let calm_ns = calm(traffic, deadline.saturating_duration_since(Instant::now()))?;
    let until_ns = calm_ns.unwrap_or_else(now_ns);
    let mut outage = Outage::of(
        severed.cut,
        severed.at_ns,
        until_ns,
        calm_ns.is_none(),
        traffic.report(severed.at_ns, until_ns),
    );
    let (looked_ns, quiet_ns) = (until_ns - severed.at_ns, severed.at_ns - APART_NS);
    if Duration::from_nanos(looked_ns) < CALM {
        outage.before = Some(traffic.report(quiet_ns - looked_ns, quiet_ns).both().gap);
    }
    Ok(outage)
}

/// Waits for a calm window and says when it began.
fn calm(traffic: &Duplex, patience: Duration) -> Result<Option<u64>> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let from_ns = now_ns();
        poll::observe_for(CALM)?;
        if is_calm(traffic.observe_since(from_ns)?) {
            return Ok(Some(from_ns));
        }
    }
    Ok(None)
}

fn is_calm(seen: Observation) -> bool {
    let is_calm = |way: Report| !way.silent && way.lost * ONE_LOST_OF <= way.sent;
    is_calm(seen.up) && is_calm(seen.down)
}

impl Outage {
    fn of(cut: Cut, from_ns: u64, until_ns: u64, endless: bool, seen: Observation) -> Self {
        let both = seen.both();
        let worse = if seen.up.lost > seen.down.lost {
            seen.up
        } else {
            seen.down
        };
        let time = match cut {
            _ if endless => Duration::from_nanos(until_ns - from_ns),
            Cut::Lossy => Duration::from_nanos(both.last_lost_ns.saturating_sub(from_ns)),
            _ => both.gap,
        };
        Self {
            time,
            lost: both.lost,
            lost_one_way: worse.lost,
            lost_in_a_row: worse.lost_in_a_row,
            before: None,
            overflowed: 0,
            endless,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn way(lost: u64) -> Report {
        Report {
            sent: 1000,
            lost,
            lost_in_a_row: lost / 2,
            gap: Duration::from_millis(lost),
            last_lost_ns: 700 * MS,
            ..Report::default()
        }
    }

    #[test]
    fn a_black_hole_is_as_long_as_its_gap_and_a_leak_lasts_until_the_last_loss() {
        let seen = Observation {
            up: way(40),
            down: way(25),
        };
        let outage = |cut, endless| Outage::of(cut, 200 * MS, 1200 * MS, endless, seen);
        let hole = outage(Cut::Blackhole, false);
        assert_eq!(
            (hole.time, hole.lost, hole.lost_one_way, hole.lost_in_a_row),
            (Duration::from_millis(40), 65, 40, 20)
        );
        assert_eq!(outage(Cut::Lossy, false).time, Duration::from_millis(500));
        assert_eq!(outage(Cut::Lossy, true).time, Duration::from_secs(1));
    }

    #[test]
    fn a_window_is_calm_up_to_one_lost_of_a_hundred_each_way() {
        let seen = |up, down| is_calm(Observation { up, down });
        assert!(seen(way(0), way(10)));
        assert!(!seen(way(0), way(11)));
        assert!(!seen(Report { silent: true, ..way(0) }, way(0)));
    }
}
