//! Whether a cut silences the tunnel for longer when wgxdp has ten thousand peers: the same cuts as in [`gap`](super::gap), with the hub as
//! its only peer and with a [`Crowd`] beside it, in turns. Nobody of the crowd answers and each is probed once a minute, so the difference is what
//! their being there costs. Ratios are those of the means of the middle halves: a gap without a carrier is of a few packets that are a millisecond apart, of
//! which a median would be one or another. `undisturbed_…` is the same of windows without a cut: ten thousand peers cost WireGuard something, too, and what the
//! longest silence of a window grows by without a cut is no failover's.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::figure::Summary;
use super::gap::{HOLD_DOWN, PROBE_INTERVAL, RETURN_BOUND, await_return, cut_and_heal, millis, undisturbed};
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
/// And how many times as often: the gap without a carrier is short beside what a busy machine adds to it, so it takes many to tell two apart.
const CUTS: [(Cut, u32); 2] = [(Cut::Blackhole, 1), (Cut::CarrierLoss, 4)];

/// Windows without a cut, for each black hole.
const WINDOWS: usize = 2;

/// The gaps of each of [`CUTS`], and of windows without one.
type Gaps = [Vec<Duration>; CUTS.len() + 1];

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
    let mut gaps = [Gaps::default(), Gaps::default()];
    for turn in 0..turns {
        for (place, crowd) in [Crowd(0), CROWD].into_iter().enumerate() {
            progress(&format!("turn {} of {turns}, {} peers", turn + 1, crowd.0 + 1));
            let numbers = turn * cuts..(turn + 1) * cuts;
            crowd.join(&lab.branch_wg, 0..crowd.0)?;
            for (all, seen) in gaps[place].iter_mut().zip(measure(&mut lab, crowd, numbers)?) {
                all.extend(seen);
            }
            crowd.leave(&lab.branch_wg, 0..crowd.0)?;
        }
    }
    Ok(figures(&gaps))
}

fn measure(lab: &mut Lab, crowd: Crowd, numbers: std::ops::Range<u32>) -> Result<Gaps> {
    let settings = Settings {
        probe_interval: PROBE_INTERVAL,
        hold_down: HOLD_DOWN,
        more: crowd.toml(),
        ..Settings::default()
    };
    let daemon = Daemon::start(lab, &settings)?;
    let traffic = Traffic::start(lab, Pace::Full)?;
    let mut gaps = Gaps::default();
    let mut cut_all = || {
        await_return(lab, RETURN_BOUND)?;
        for _ in 0..WINDOWS * numbers.len() {
            gaps[CUTS.len()].push(undisturbed(&traffic)?);
        }
        for ((cut, times), gaps) in CUTS.into_iter().zip(&mut gaps) {
            for number in numbers.start * times..numbers.end * times {
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

/// With one peer, and with all.
fn figures([one, many]: &[Gaps; 2]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let cuts = CUTS.iter().map(|(cut, _)| (cut.name(), Some(Bound::AtMost(1.2))));
    let kinds = cuts.chain([("undisturbed", None)]);
    for ((name, bound), (one, many)) in kinds.zip(one.iter().zip(many)) {
        let (Some(middle_of_one), Some(middle_of_many)) = (middle(one), middle(many)) else {
            continue;
        };
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
        figures.push(Figure {
            bound,
            ..Figure::new(NAME, metric, ratio, Unit::Ratio, one.len() + many.len())
        });
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
            [gaps([50, 59, 61, 90]), gaps([1, 2, 2, 3]), gaps([1, 1, 1, 1])],
            [gaps([40, 66, 66, 300]), gaps([0, 3, 2, 9]), gaps([1, 2, 2, 3])],
        ]);
        let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric);
        let of = |metric| value(metric).map(|figure| (figure.value, figure.is_met()));
        assert_eq!(of("blackhole_p50_one"), Some((59.0, None)));
        assert_eq!(of("blackhole_p99_many"), Some((300.0, None)));
        assert_eq!(of("blackhole_middle_one"), Some((60.0, None)));
        assert_eq!(of("blackhole_ratio"), Some((1.1, Some(true))));
        assert_eq!(of("carrier_loss_middle_many"), Some((2.5, None)));
        assert_eq!(of("carrier_loss_ratio"), Some((1.25, Some(false))));
        assert_eq!(of("undisturbed_ratio"), Some((2.0, None)));
    }
}
