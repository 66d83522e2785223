//! Whether a cut silences the tunnel for longer when wgxdp has ten thousand peers: the same cuts as in [`gap`](super::gap), with the hub as
//! its only peer and with a [`Crowd`] beside it, in turns. Nobody of the crowd answers and each is probed once a minute, so the difference is what
//! their being there costs. Ratios are those of the medians.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::gap::{HOLD_DOWN, PROBE_INTERVAL, await_return, cut_and_heal, millis};
use super::{Bound, Figure, Scale, Unit};
use crate::crowd::Crowd;
use crate::cut::Cut;
use crate::daemon::{Daemon, Settings};
use crate::topology::{Family, Lab};
use crate::traffic::analysis::Quantiles;
use crate::traffic::{Pace, Traffic};

/// Its name.
pub const NAME: &str = "gap-scale";

const CROWD: Crowd = Crowd(9_999);
const CUTS: [Cut; 2] = [Cut::Blackhole, Cut::CarrierLoss];

/// The gaps of each of [`CUTS`], with one peer and with all.
type Gaps = [[Vec<Duration>; 2]; CUTS.len()];

/// Cuts isp-a again and again, with one peer and with ten thousand.
///
/// # Errors
/// The laboratory or a daemon could not be raised, or traffic did not return; then with the daemon's log.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let (turns, cuts) = match scale {
        Scale::Full => (3, 10),
        Scale::Quick => (1, 3),
    };
    let mut lab = Lab::raise(Family::V4)?;
    let mut gaps = Gaps::default();
    for turn in 0..turns {
        for (place, crowd) in [Crowd(0), CROWD].into_iter().enumerate() {
            progress(&format!("turn {} of {turns}, {} peers", turn + 1, crowd.0 + 1));
            let numbers = turn * cuts..(turn + 1) * cuts;
            crowd.join(&lab.branch_wg, 0..crowd.0)?;
            for (kind, seen) in measure(&mut lab, crowd, numbers)?.into_iter().enumerate() {
                gaps[kind][place].extend(seen);
            }
            crowd.leave(&lab.branch_wg, 0..crowd.0)?;
        }
    }
    Ok(figures(&gaps))
}

/// The gaps of each of [`CUTS`].
fn measure(lab: &mut Lab, crowd: Crowd, numbers: std::ops::Range<u32>) -> Result<[Vec<Duration>; CUTS.len()]> {
    let settings = Settings {
        probe_interval: PROBE_INTERVAL,
        hold_down: HOLD_DOWN,
        more: crowd.toml(),
        ..Settings::default()
    };
    let daemon = Daemon::start(lab, &settings)?;
    let traffic = Traffic::start(lab, Pace::Full)?;
    let mut gaps: [Vec<Duration>; CUTS.len()] = Default::default();
    let mut cut_all = || {
        await_return(lab)?;
        for (cut, gaps) in CUTS.into_iter().zip(&mut gaps) {
            for number in numbers.clone() {
                gaps.push(cut_and_heal(lab, &traffic, cut, number)?.0.udp.both().gap);
            }
        }
        Ok(())
    };
    let done: Result<()> = cut_all();
    done.with_context(|| daemon.log().text())?;
    drop(traffic);
    daemon.stop(Signal::SIGTERM)?;
    Ok(gaps)
}

fn figures(gaps: &Gaps) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (cut, [one, many]) in CUTS.iter().zip(gaps) {
        let (Some(one), Some(many)) = (Quantiles::of(one), Quantiles::of(many)) else {
            continue;
        };
        let (name, samples) = (cut.name(), one.count + many.count);
        for (of, gaps) in [("one", &one), ("many", &many)] {
            let (metric, gap) = (format!("{name}_p50_{of}"), millis(gaps.p50));
            figures.push(Figure::new(NAME, metric, gap, Unit::Milliseconds, gaps.count));
        }
        let ratio = many.p50.as_secs_f64() / one.p50.as_secs_f64();
        let ratio = Figure::new(NAME, format!("{name}_ratio"), ratio, Unit::Ratio, samples);
        figures.push(ratio.bounded(Bound::AtMost(1.2)));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_the_medians_and_has_its_bound() {
        let gaps = |ms: [u64; 3]| ms.map(Duration::from_millis).to_vec();
        let figures = figures(&[
            [gaps([50, 60, 90]), gaps([40, 66, 300])],
            [gaps([1, 2, 3]), gaps([3, 3, 3])],
        ]);
        let rows: Vec<_> = figures
            .iter()
            .map(|figure| (figure.metric.as_str(), figure.value, figure.is_met()))
            .collect();
        assert_eq!(
            rows,
            [
                ("blackhole_p50_one", 60.0, None),
                ("blackhole_p50_many", 66.0, None),
                ("blackhole_ratio", 1.1, Some(true)),
                ("carrier_loss_p50_one", 2.0, None),
                ("carrier_loss_p50_many", 3.0, None),
                ("carrier_loss_ratio", 1.5, Some(false)),
            ]
        );
    }
}
