//! How long a cut silences the tunnel, as an application hears it: UDP at 1 kHz both ways, the worse direction counts
//! (see [`analysis`](crate::traffic::analysis)). A machine that is busy with something else adds gaps of its own: `undisturbed_max` is the
//! longest of as many windows without a cut. It only delays packets; what a cut swallowed is in `…_lost_max`, the most
//! packets that one cut lost, both ways together.
//!
//! The prober keeps to multiples of its interval after its start, so a cut's gap depends on when in that interval it comes.
//! Cuts are spread over the interval evenly by the golden ratio, whatever the prober's own phase.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{Bound, Figure, Scale, Unit};
use crate::clock::{now_ns, sleep_until};
use crate::cut::Cut;
use crate::daemon::{Daemon, Log, Settings};
use crate::poll;
use crate::topology::{Family, Lab, Uplink};
use crate::traffic::analysis::Quantiles;
use crate::traffic::{Pace, Traffic};
use crate::trial;

/// Its name.
pub const NAME: &str = "gap";

/// The same for every daemon that is cut.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Short, so that many cuts take little time; a gap does not depend on it.
pub(super) const HOLD_DOWN: Duration = Duration::from_millis(300);
/// How long a cut is watched when nothing comes back.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the traffic may take to return.
pub(super) const RETURN_BOUND: Duration = Duration::from_secs(20);
/// About as long as a cut is watched.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// The golden ratio's fraction: multiples of it, modulo one, are spread evenly however many there are.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// A kind of cut, and what its gaps must stay below.
struct Kind {
    cut: Cut,
    p50: Option<Bound>,
    p99: Bound,
}

const KINDS: [Kind; 2] = [
    Kind {
        cut: Cut::Blackhole,
        p50: Some(Bound::AtMost(80.0)),
        p99: Bound::AtMost(120.0),
    },
    Kind {
        cut: Cut::CarrierLoss,
        p50: None,
        p99: Bound::AtMost(20.0),
    },
];

/// Cuts isp-a again and again.
///
/// # Errors
/// The laboratory or the daemon could not be raised, or traffic did not return; then with the daemon's log.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let cuts = match scale {
        Scale::Full => 30,
        Scale::Quick => 8,
    };
    let mut lab = Lab::raise(Family::V4)?;
    let settings = Settings {
        probe_interval: PROBE_INTERVAL,
        hold_down: HOLD_DOWN,
        ..Settings::default()
    };
    let daemon = Daemon::start(&lab, &settings)?;
    let traffic = Traffic::start(&lab, Pace::Full)?;
    let figures = measure(cuts, &mut lab, &traffic, daemon.log(), progress).with_context(|| daemon.log().text())?;
    daemon.stop(Signal::SIGTERM)?;
    Ok(figures)
}

fn measure(
    cuts: u32,
    lab: &mut Lab,
    traffic: &Traffic,
    log: &Log,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Figure>> {
    await_return(lab, RETURN_BOUND)?;
    let undisturbed = (0..cuts).map(|_| undisturbed(traffic)).collect::<Result<Vec<_>>>()?;
    let (mut figures, mut returned) = (Vec::new(), 0);
    for kind in &KINDS {
        progress(&format!("{cuts} × {}", kind.cut.describe()));
        let (mut gaps, mut lost) = (Vec::new(), Vec::new());
        for number in 0..cuts {
            let logged = log.since(0).len();
            let (measured, returned_with) = cut_and_heal(lab, traffic, kind.cut, number)?;
            gaps.push(measured.udp.both().gap);
            lost.push(measured.udp.both().lost);
            let seen = returned_with.udp;
            returned += seen.lost;
            if seen.lost > 0 {
                // Why is in the log, if the daemon knows.
                let (lost, gap, log) = (seen.lost, millis(seen.gap), log.since(logged).join("\n    "));
                progress(&format!(
                    "the return of cut {number} lost {lost} packets in {gap:.0} ms\n    {log}"
                ));
            }
        }
        figures.extend(kind.figures(&gaps));
        let (metric, most) = (format!("{}_lost_max", kind.cut.name()), lost.iter().max().copied());
        figures.push(Figure::new(
            NAME,
            metric,
            most.unwrap_or(0) as f64,
            Unit::Packets,
            lost.len(),
        ));
    }
    let returns = KINDS.len() * cuts as usize;
    let lost = Figure::new(NAME, "return_lost", returned as f64, Unit::Packets, returns);
    figures.push(lost.bounded(Bound::AtMost(0.0)));
    let longest = undisturbed.iter().max().copied().unwrap_or_default();
    let (longest, windows) = (millis(longest), undisturbed.len());
    figures.push(Figure::new(
        NAME,
        "undisturbed_max",
        longest,
        Unit::Milliseconds,
        windows,
    ));
    Ok(figures)
}

/// Waits until the tunnel is on isp-a.
pub(super) fn await_return(lab: &Lab, bound: Duration) -> Result<()> {
    poll::wait_until("the tunnel on isp-a", bound, || {
        Ok(lab.uplink_in_use()? == Some(Uplink::A))
    })
}

/// The cut of this number of isp-a, and the return.
pub(super) fn cut_and_heal(
    lab: &mut Lab,
    traffic: &Traffic,
    cut: Cut,
    number: u32,
) -> Result<(trial::Measured, trial::Returned)> {
    await_phase(number, PROBE_INTERVAL)?;
    let (severed, measured) = trial::cut(lab, traffic, cut, Uplink::A, PATIENCE)?;
    Ok((measured, trial::heal(lab, traffic, severed, RETURN_BOUND)?))
}

/// The longest gap of a window without a cut.
pub(super) fn undisturbed(traffic: &Traffic) -> Result<Duration> {
    let from_ns = now_ns();
    poll::observe_for(UNDISTURBED)?;
    Ok(traffic.observe_since(from_ns)?.both().gap)
}

/// Waits for the next moment that is, after a multiple of the interval, the part of it that the cut of this number is to come at.
pub(super) fn await_phase(number: u32, interval: Duration) -> Result<()> {
    let interval = interval.as_nanos() as u64;
    let phase = ((f64::from(number) * GOLDEN).fract() * interval as f64) as u64;
    sleep_until((now_ns() / interval + 1) * interval + phase).context("interrupted")
}

impl Kind {
    fn figures(&self, gaps: &[Duration]) -> Vec<Figure> {
        let Some(gaps) = Quantiles::of(gaps) else {
            return Vec::new();
        };
        let bounds = [
            ("p50", gaps.p50, self.p50),
            ("p99", gaps.p99, Some(self.p99)),
            ("max", gaps.max, None),
        ];
        let figures = bounds.map(|(quantile, gap, bound)| Figure {
            bound,
            ..Figure::new(
                NAME,
                format!("{}_{quantile}", self.cut.name()),
                millis(gap),
                Unit::Milliseconds,
                gaps.count,
            )
        });
        figures.into()
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_cut_has_its_quantiles_and_bounds() {
        let gaps = [70, 90, 60].map(Duration::from_millis);
        let [blackhole, carrier] = KINDS.map(|kind| {
            let figures = kind.figures(&gaps);
            figures
                .iter()
                .map(|figure| (figure.metric.clone(), figure.value, figure.is_met()))
                .collect::<Vec<_>>()
        });
        let rows = |kind: &str, met: [Option<bool>; 3]| {
            let [p50, p99, max] = met;
            vec![
                (format!("{kind}_p50"), 70.0, p50),
                (format!("{kind}_p99"), 90.0, p99),
                (format!("{kind}_max"), 90.0, max),
            ]
        };
        assert_eq!(blackhole, rows("blackhole", [Some(true), Some(true), None]));
        assert_eq!(carrier, rows("carrier_loss", [None, Some(false), None]));
    }
}
