//! Whether a cut silences the tunnel for longer when wgxdp has ten thousand peers: the same cuts as in [`gap`](super::gap), with the hub as
//! its only peer and with a [`Crowd`] beside it, in turns. Nobody of the crowd answers and each is probed once a minute, so the difference is what
//! their being there costs. Ratios are those of the means of the middle halves: a gap without a carrier is of a few packets that are a millisecond apart, of
//! which a median would be one or another.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::figure::Summary;
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
        Scale::Full => (4, 10),
        Scale::Quick => (1, 4),
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
        let (Some(middle_of_one), Some(middle_of_many)) = (middle(one), middle(many)) else {
            continue;
        };
        let name = cut.name();
        for (of, gaps, middle) in [("one", one, middle_of_one), ("many", many, middle_of_many)] {
            let quantiles = Quantiles::of(gaps).map(|of_all| [("p50", of_all.p50), ("p99", of_all.p99)]);
            let quantiles = quantiles
                .into_iter()
                .flatten()
                .map(|(quantile, gap)| (quantile, millis(gap)));
            figures.extend(quantiles.chain([("middle", middle)]).map(|(of_all, gap)| {
                let metric = format!("{name}_{of_all}_{of}");
                Figure::new(NAME, metric, gap, Unit::Milliseconds, gaps.len())
            }));
        }
        let (metric, ratio) = (format!("{name}_ratio"), middle_of_many / middle_of_one);
        let ratio = Figure::new(NAME, metric, ratio, Unit::Ratio, one.len() + many.len());
        figures.push(ratio.bounded(Bound::AtMost(1.2)));
    }
    figures
}

/// The mean of the middle half, in milliseconds.
fn middle(gaps: &[Duration]) -> Option<f64> {
    let gaps: Vec<f64> = gaps.iter().copied().map(millis).collect();
    Some(Summary::of(&gaps)?.midmean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_the_middle_halves_and_has_its_bound() {
        let gaps = |ms: [u64; 4]| ms.map(Duration::from_millis).to_vec();
        let figures = figures(&[
            [gaps([50, 59, 61, 90]), gaps([40, 66, 66, 300])],
            [gaps([1, 2, 2, 3]), gaps([0, 3, 2, 9])],
        ]);
        let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric);
        let of = |metric| value(metric).map(|figure| (figure.value, figure.is_met()));
        assert_eq!(of("blackhole_p50_one"), Some((59.0, None)));
        assert_eq!(of("blackhole_p99_many"), Some((300.0, None)));
        assert_eq!(of("blackhole_middle_one"), Some((60.0, None)));
        assert_eq!(of("blackhole_ratio"), Some((1.1, Some(true))));
        assert_eq!(of("carrier_loss_middle_many"), Some((2.5, None)));
        assert_eq!(of("carrier_loss_ratio"), Some((1.25, Some(false))));
    }
}
