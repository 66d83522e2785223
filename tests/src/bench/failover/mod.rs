//! How long a cut silences the tunnel, and what it costs, at 10,000 inner UDP packets a second each way, if the machine carries so many: by wgxdp's profiles, and
//! by what operators have without it, each [row](ROWS) in a laboratory of its own.
//!
//! | metric of a row | what it is |
//! |---|---|
//! | `…_p50`, `…_p99`, `…_max` | the [outages](outage)' lengths |
//! | `…_lost_p50`, `…_lost_max` | packets that a cut lost, both ways together |
//! | `…_lost_worth_max` | most packets that a cut lost one way, as the time in which so many are sent |
//! | `…_lost_to_gap_max` | the same packets by the most that were lost in a row, which is what was sent in the gap: 1 if nothing was lost but there. Not of a cut that swallows only some |
//! | `…_overflowed_max` | packets, copies among them, that full buffers of this machine dropped meanwhile: no path lost them |
//! | `…_before_p50`, `…_before_p99` | gaps in windows as long, just before the cuts: what this machine shows of no outage at all. Of outages that end within a quarter of a second |
//! | `…_endless` | outages that did not end while they were watched |
//! | `…_missing` | 1 where the row could not be measured; why is said on standard error |
//!
//! `rate_small` and `rate_full_size` are the packets a second each way, of the size that the cut concerns, that the machine carried without a loss worth the name;
//! `undisturbed_…` says with what gap and loss it did. Cuts are spread over the period at which the carrier looks at its uplinks, as in [`gap`](super::gap).

mod carrier;
mod follower;
pub mod frr;
mod outage;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result};
use wgxdp::config::Profile;

use self::carrier::{Carrier, Configuration};
use self::outage::{Knife, Outage, RETURN_BOUND, TUNNEL_RETURN, await_calm, cut, heal};
use self::rows::{Row, Size};
use super::gap::{await_return, millis};
use super::{Bound, Figure, Scale, Unit};
use crate::clock::now_ns;
use crate::cut::Cut;
use crate::overflow::Overflow;
use crate::poll;
use crate::topology::{Family, Lab};
use crate::traffic::Duplex;
use crate::traffic::analysis::{Quantiles, Report};
use crate::traffic::udp::Load;

/// Its name.
pub const NAME: &str = "failover";

/// Packets a second each way, the first that the machine carries.
const RATES: [u32; 5] = [10_000, 5_000, 2_000, 1_000, 500];
/// What the tunnel loses of them undisturbed must be less than one of so many.
const ONE_LOST_OF: u64 = 1000;

/// Bytes of a wireguard-go's receive queue, the kernel's own for each packet among them: a quarter of a second of copied traffic.
const ROOM: usize = 4 << 20;

/// What may be lost by what was sent in the gap. Not by what falls due in so long a gap: a sender that was late catches up in it, and what was under way shortens it.
const MOST_LOST: f64 = 1.05;

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Effort {
    cuts: u32,
    /// How long an outage is watched.
    patience: Duration,
    /// How long a rate is tried.
    trial: Duration,
}

/// Measures the rows whose names have `only` in them.
///
/// # Errors
/// There is no such row, the laboratory could not be raised, the machine carries next to nothing, or the run was interrupted. A row that fails is reported as missing.
pub fn run(scale: Scale, only: &str, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let rows = rows::named(only)?;
    let effort = match scale {
        Scale::Full => Effort {
            cuts: 30,
            patience: Duration::from_secs(10),
            trial: Duration::from_secs(10),
        },
        Scale::Quick => Effort {
            cuts: 2,
            patience: Duration::from_secs(8),
            trial: Duration::from_secs(1),
        },
    };
    let (mut figures, mut loads, mut p99s) = (Vec::new(), BTreeMap::new(), Vec::new());
    for size in rows.iter().map(|row| row.size()).collect::<BTreeSet<_>>() {
        let (load, of_rate) = find_rate(size, effort.trial, progress)?;
        loads.insert(size, load);
        figures.extend(of_rate);
    }
    for row in rows {
        let load = loads[&row.size()];
        progress(&format!("{}: {} × {}", row.name, effort.cuts, row.cut.describe()));
        let outages = match row.carrier.available().and_then(|()| measure(row, load, effort)) {
            Ok(outages) => outages,
            Err(error) if poll::interrupted() => return Err(error),
            Err(error) => {
                progress(&format!("{}: NOT MEASURED: {error:#}", row.name));
                figures.push(row.figure("missing", 1.0, Unit::Count, 0).bounded(Bound::AtMost(0.0)));
                continue;
            }
        };
        progress(&format!("{}: {}", row.name, describe(&outages)));
        let quantiles = quantiles(&outages).context("no cut was made")?;
        figures.extend(row.figures(&outages, quantiles, load));
        p99s.push((row.name, millis(quantiles.p99)));
        figures.extend(row.comparison(&p99s, outages.len()));
    }
    Ok(figures)
}

/// The highest of [`RATES`] that wgxdp's tunnel carries here, and the figures of it.
fn find_rate(size: Size, time: Duration, progress: &mut dyn FnMut(&str)) -> Result<(Load, Vec<Figure>)> {
    let (size, payload) = (size.name(), size.payload());
    let lab = raise()?;
    let carrier = Carrier::Wgxdp(Configuration::of(Profile::Balanced)).start(&lab)?;
    await_return(&lab, TUNNEL_RETURN)?;
    for rate in RATES {
        let load = Load {
            interval: Duration::from_secs(1) / rate,
            payload,
            real_time: true,
        };
        let (seen, overflowed) = carrier.explain(undisturbed(&lab, load, time))?;
        progress(&format!(
            "{rate} packets a second of {payload} bytes each way: {} sent, {} lost ({overflowed} overflowed), gap {:.1} ms",
            seen.sent,
            seen.lost,
            millis(seen.gap)
        ));
        if is_carried(seen, rate, time) {
            let figure = |metric: &str, value, unit| Figure::new(NAME, format!("{metric}_{size}"), value, unit, 1);
            let figures = [
                figure("rate", f64::from(rate), Unit::PacketsPerSecond).bounded(Bound::AtLeast(f64::from(RATES[0]))),
                figure("undisturbed_max", millis(seen.gap), Unit::Milliseconds),
                figure("undisturbed_lost", seen.lost as f64, Unit::Packets),
            ];
            return Ok((load, figures.into()));
        }
    }
    anyhow::bail!(
        "this machine does not even carry {} packets a second each way",
        RATES[RATES.len() - 1]
    )
}

/// A laboratory whose wireguard-go does not lose what arrives while this machine does something else: it had room for fourteen milliseconds of copied traffic.
fn raise() -> Result<Lab> {
    let lab = Lab::raise(Family::V4)?;
    for wireguard in [&lab.branch_wg, &lab.hub_wg] {
        wireguard.make_room(ROOM).context("enlarging wireguard-go's buffer")?;
    }
    Ok(lab)
}

/// What becomes of this load when nothing is cut, and how many packets full buffers dropped.
fn undisturbed(lab: &Lab, load: Load, time: Duration) -> Result<(Report, u64)> {
    let traffic = Duplex::start(lab, load)?;
    traffic.await_udp(now_ns(), RETURN_BOUND)?;
    let (from_ns, before) = (now_ns(), Overflow::read(lab)?);
    poll::observe_for(time)?;
    let overflowed = (Overflow::read(lab)? - before).total();
    Ok((traffic.observe_since(from_ns)?.both(), overflowed))
}

/// Nearly all was sent, both ways, and nearly all of that arrived.
fn is_carried(seen: Report, rate: u32, time: Duration) -> bool {
    let due = 2.0 * f64::from(rate) * time.as_secs_f64();
    seen.sent as f64 >= 0.95 * due && seen.lost * ONE_LOST_OF < seen.sent && !seen.silent
}

/// Makes all cuts: in one laboratory where the tunnel returns from each, else each in a new one.
fn measure(row: &Row, load: Load, effort: Effort) -> Result<Vec<Outage>> {
    if row.carrier.returns() {
        return measure_some(row, load, effort.patience, 0..effort.cuts);
    }
    let each = (0..effort.cuts).map(|number| measure_some(row, load, effort.patience, number..number + 1));
    Ok(each.collect::<Result<Vec<_>>>()?.concat())
}

/// Makes the cuts of these numbers in one laboratory, which ends with the last.
fn measure_some(row: &Row, load: Load, patience: Duration, numbers: Range<u32>) -> Result<Vec<Outage>> {
    let mut lab = raise()?;
    let carrier = row.carrier.start(&lab)?;
    let knife = Knife {
        cut: row.cut,
        period: row.period(),
        patience,
    };
    let cut_all = || -> Result<Vec<Outage>> {
        let traffic = Duplex::start(&lab, load)?;
        await_return(&lab, TUNNEL_RETURN)?;
        await_calm(&traffic)?;
        let (last, mut outages) = (numbers.end - 1, Vec::new());
        for number in numbers {
            let (severed, outage) = cut(&mut lab, &traffic, &carrier, knife, number)?;
            outages.push(outage);
            if number < last {
                heal(&mut lab, &traffic, severed)?;
            }
        }
        Ok(outages)
    };
    let outages = cut_all();
    carrier.explain(outages)
}

fn quantiles(outages: &[Outage]) -> Option<Quantiles> {
    Quantiles::of(&outages.iter().map(|outage| outage.time).collect::<Vec<_>>())
}

/// The distribution itself.
fn describe(outages: &[Outage]) -> String {
    let mut sorted = outages.to_vec();
    sorted.sort_unstable_by_key(|outage| outage.time);
    let shown = sorted.iter().map(|outage| {
        let endless = if outage.endless { "> " } else { "" };
        let overflowed = match outage.overflowed {
            0 => String::new(),
            some => format!(" ({some} overflowed)"),
        };
        format!("{endless}{:.1} ms/{}{overflowed}", millis(outage.time), outage.lost)
    });
    format!("outage/packets lost: {}", shown.collect::<Vec<_>>().join(", "))
}

impl Row {
    fn figure(&self, metric: &str, value: f64, unit: Unit, samples: usize) -> Figure {
        Figure::new(NAME, format!("{}_{metric}", self.name), value, unit, samples)
    }

    fn figures(&self, outages: &[Outage], time: Quantiles, load: Load) -> Vec<Figure> {
        let figure = |metric, value, unit, most: Option<f64>| Figure {
            bound: most.map(Bound::AtMost),
            ..self.figure(metric, value, unit, outages.len())
        };
        let mut lost: Vec<u64> = outages.iter().map(|outage| outage.lost).collect();
        lost.sort_unstable();
        let worth = |outage: &Outage| millis(load.interval) * outage.lost_one_way as f64;
        let worst = outages.iter().map(worth).fold(0.0, f64::max);
        let endless = outages.iter().filter(|outage| outage.endless).count();
        let overflowed = outages.iter().map(|outage| outage.overflowed).max().unwrap_or(0);
        let middle = lost.get((lost.len().max(1) - 1) / 2).copied().unwrap_or(0);
        let mut figures = vec![
            figure("p50", millis(time.p50), Unit::Milliseconds, self.bounds.p50),
            figure("p99", millis(time.p99), Unit::Milliseconds, self.bounds.p99),
            figure("max", millis(time.max), Unit::Milliseconds, None),
            figure("lost_p50", middle as f64, Unit::Packets, None),
            figure(
                "lost_max",
                lost.last().copied().unwrap_or(0) as f64,
                Unit::Packets,
                None,
            ),
            figure("lost_worth_max", worst, Unit::Milliseconds, self.bounds.lost),
            figure("overflowed_max", overflowed as f64, Unit::Packets, None),
            figure("endless", endless as f64, Unit::Count, None),
        ];
        let before: Option<Vec<Duration>> = outages.iter().map(|outage| outage.before).collect();
        if let Some(before) = before.as_deref().and_then(Quantiles::of) {
            figures.push(figure("before_p50", millis(before.p50), Unit::Milliseconds, None));
            figures.push(figure("before_p99", millis(before.p99), Unit::Milliseconds, None));
        }
        if self.cut != Cut::Lossy {
            let ratios = outages
                .iter()
                .map(|outage| outage.lost_one_way as f64 / outage.lost_in_a_row.max(1) as f64);
            figures.push(figure(
                "lost_to_gap_max",
                ratios.fold(0.0, f64::max),
                Unit::Ratio,
                Some(MOST_LOST),
            ));
        }
        figures
    }

    /// Its p99 by that of the row that it is to be compared with, both of which `p99s` has.
    fn comparison(&self, p99s: &[(&str, f64)], samples: usize) -> Option<Figure> {
        let (other, most) = self.bounds.p99_to?;
        let p99 = |name| p99s.iter().find(|(measured, _)| *measured == name).map(|(_, p99)| *p99);
        let ratio = p99(self.name)? / p99(other)?;
        let figure = self.figure(&format!("p99_to_{other}"), ratio, Unit::Ratio, samples);
        Some(figure.bounded(Bound::AtMost(most)))
    }
}

#[cfg(test)]
mod tests {
    use super::rows::ROWS;
    use super::*;

    fn outage(ms: u64, lost_one_way: u64, endless: bool) -> Outage {
        Outage {
            time: Duration::from_millis(ms),
            lost: 2 * lost_one_way,
            lost_one_way,
            lost_in_a_row: 10 * ms,
            before: (ms < 250).then(|| Duration::from_millis(ms / 10)),
            overflowed: ms % 10,
            endless,
        }
    }

    #[test]
    fn every_row_has_a_name_of_its_own_and_is_compared_with_an_earlier_one() {
        let mut before: Vec<&str> = Vec::new();
        for row in ROWS {
            assert!(!before.contains(&row.name), "{} is there twice", row.name);
            let other = row.bounds.p99_to.map(|(other, _)| other);
            assert!(other.is_none_or(|other| before.contains(&other)), "{}", row.name);
            before.push(row.name);
        }
    }

    #[test]
    fn a_row_has_its_figures_with_its_bounds() {
        let row = ROWS
            .iter()
            .find(|row| row.name == "fast_blackhole")
            .expect("it is there");
        let load = Load {
            interval: Duration::from_micros(100),
            payload: Size::Small.payload(),
            real_time: true,
        };
        let outages = [outage(30, 290, false), outage(50, 520, false), outage(34, 300, false)];
        let figures = row.figures(&outages, quantiles(&outages).expect("there are some"), load);
        let of = |metric: &str| {
            let name = format!("fast_blackhole_{metric}");
            let figure = figures.iter().find(|figure| figure.metric == name);
            figure.map(|figure| (figure.value, figure.is_met()))
        };
        assert_eq!(of("p50"), Some((34.0, Some(true))));
        assert_eq!(of("p99"), Some((50.0, Some(true))));
        assert_eq!(
            (of("lost_p50"), of("lost_max")),
            (Some((600.0, None)), Some((1040.0, None)))
        );
        assert_eq!(of("lost_worth_max"), Some((52.0, None)));
        assert_eq!(of("lost_to_gap_max"), Some((1.04, Some(true))));
        assert_eq!(of("overflowed_max"), Some((4.0, None)));
        assert_eq!(of("endless"), Some((0.0, None)));
        assert_eq!(
            (of("before_p50"), of("before_p99")),
            (Some((3.0, None)), Some((5.0, None)))
        );
    }

    #[test]
    fn what_the_time_before_a_cut_shows_is_told_if_it_is_known_of_all() {
        let load = Load {
            interval: Duration::from_micros(100),
            payload: Size::Small.payload(),
            real_time: true,
        };
        let outages = [outage(30, 290, false), outage(300, 520, false)];
        let figures = ROWS[0].figures(&outages, quantiles(&outages).expect("there are some"), load);
        assert!(figures.iter().all(|figure| !figure.metric.contains("before")));
    }

    #[test]
    fn rows_are_picked_by_a_part_of_their_names_and_who_picks_none_is_told_them() {
        let names = |part| rows::named(part).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>());
        assert_eq!(names("mtu").ok(), Some(vec!["balanced_mtu"]));
        assert_eq!(names("").map(|all| all.len()).ok(), Some(ROWS.len()));
        let error = names("mtv").expect_err("there is none").to_string();
        assert!(
            error.starts_with(r#"no row has "mtv" in its name; there are fast_blackhole, "#),
            "{error}"
        );
    }

    #[test]
    fn a_comparison_needs_both_rows() {
        let row = ROWS
            .iter()
            .find(|row| row.bounds.p99_to.is_some())
            .expect("one is compared");
        let (other, most) = row.bounds.p99_to.expect("it is");
        assert_eq!(row.comparison(&[(row.name, 90.0)], 30), None);
        let figure = row
            .comparison(&[(other, 40.0), (row.name, 90.0)], 30)
            .expect("both are there");
        assert_eq!((figure.value, figure.is_met()), (2.25, Some(2.25 <= most)));
    }

    #[test]
    fn a_distribution_is_shown_in_order_and_says_what_did_not_end() {
        let shown = describe(&[outage(6000, 900, true), outage(34, 150, false)]);
        assert_eq!(
            shown,
            "outage/packets lost: 34.0 ms/300 (4 overflowed), > 6000.0 ms/1800"
        );
    }

    #[test]
    fn a_rate_is_carried_if_it_was_sent_and_arrived() {
        let second = Duration::from_secs(1);
        let seen = |sent, lost| Report {
            sent,
            lost,
            ..Report::default()
        };
        assert!(is_carried(seen(20_000, 19), 10_000, second));
        assert!(!is_carried(seen(20_000, 20), 10_000, second));
        assert!(!is_carried(seen(18_000, 0), 10_000, second));
    }
}
