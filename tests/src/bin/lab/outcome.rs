//! What a run found, and its machine-readable form.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::traffic::analysis::Quantiles;
use wgxdp_tests::trial::{Measured, Returned};

/// A gap that is longer than this makes the verdict bad. The figure to be proud of is a tenth of it: this one leaves
/// room for a machine that is busy with something else.
pub(crate) const LONGEST_GAP: Duration = Duration::from_millis(500);

/// One cut and its return.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) cut: Cut,
    pub(crate) measured: Measured,
    pub(crate) returned: Returned,
}

impl Outcome {
    /// What is wrong with it; nothing when all is well.
    pub(crate) fn faults(&self) -> Vec<String> {
        let (cut, udp) = (self.cut.describe(), self.measured.udp.both());
        let gap_ms = millis(udp.gap);
        let faults = [
            udp.silent
                .then(|| format!("{cut}: the tunnel stayed silent for {gap_ms:.0} ms and more")),
            (!udp.silent && udp.gap > LONGEST_GAP).then(|| format!("{cut}: a gap of {gap_ms:.0} ms")),
            (!self.measured.tcp_alive).then(|| format!("{cut}: the TCP transfer did not go on")),
            (self.returned.udp.lost > 0).then(|| format!("{cut}: the return lost {} packets", self.returned.udp.lost)),
        ];
        faults.into_iter().flatten().collect()
    }
}

/// All cuts of one kind, and what plain WireGuard did with one.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) cut: Cut,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) plain: Measured,
}

impl Kind {
    /// How long the gaps were.
    pub(crate) fn gaps(&self) -> Option<Quantiles> {
        let gaps: Vec<Duration> = self
            .outcomes
            .iter()
            .map(|outcome| outcome.measured.udp.both().gap)
            .collect();
        Quantiles::of(&gaps)
    }
}

/// What is wrong with the whole run.
pub(crate) fn faults(kinds: &[Kind]) -> Vec<String> {
    kinds
        .iter()
        .flat_map(|kind| &kind.outcomes)
        .flat_map(Outcome::faults)
        .collect()
}

/// Milliseconds, to the microsecond.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// The line for one cut. Counts are of both directions together, `gap_ms` is the worse of both.
#[derive(Debug, Serialize)]
pub(crate) struct CutLine {
    cut: &'static str,
    gap_ms: f64,
    sent: u64,
    lost: u64,
    reordered: u64,
    duplicated: u64,
    tcp_alive: bool,
    /// Nothing came back: `gap_ms` is then how long the traffic was watched.
    silent: bool,
    gap_up_ms: f64,
    gap_down_ms: f64,
    return_ms: f64,
    return_lost: u64,
}

impl From<&Outcome> for CutLine {
    fn from(outcome: &Outcome) -> Self {
        let Outcome {
            cut,
            measured,
            returned,
        } = outcome;
        let both = measured.udp.both();
        Self {
            cut: cut.name(),
            gap_ms: millis(both.gap),
            sent: both.sent,
            lost: both.lost,
            reordered: both.reordered,
            duplicated: both.duplicated,
            tcp_alive: measured.tcp_alive,
            silent: both.silent,
            gap_up_ms: millis(measured.udp.up.gap),
            gap_down_ms: millis(measured.udp.down.gap),
            return_ms: millis(returned.after),
            return_lost: returned.udp.lost,
        }
    }
}

/// The last line: gaps by kind of cut, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct SummaryLine {
    summary: BTreeMap<&'static str, KindSummary>,
    verdict: &'static str,
}

#[derive(Debug, Serialize)]
struct KindSummary {
    p50: f64,
    p99: f64,
    max: f64,
    cuts: usize,
    plain_gap_ms: f64,
    plain_silent: bool,
}

impl SummaryLine {
    /// Of all kinds.
    pub(crate) fn of(kinds: &[Kind]) -> Self {
        let summary = kinds.iter().filter_map(|kind| {
            let (gaps, plain) = (kind.gaps()?, kind.plain.udp.both());
            let summary = KindSummary {
                p50: millis(gaps.p50),
                p99: millis(gaps.p99),
                max: millis(gaps.max),
                cuts: gaps.count,
                plain_gap_ms: millis(plain.gap),
                plain_silent: plain.silent,
            };
            Some((kind.cut.name(), summary))
        });
        let verdict = if faults(kinds).is_empty() { "pass" } else { "fail" };
        Self {
            summary: summary.collect(),
            verdict,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wgxdp_tests::traffic::Observation;
    use wgxdp_tests::traffic::analysis::Report;

    use super::*;

    /// A cut with a gap of `gap_ms`, of which all is well.
    pub(crate) fn outcome(cut: Cut, gap_ms: u64) -> Outcome {
        let report = Report {
            sent: 500,
            lost: gap_ms,
            gap: Duration::from_millis(gap_ms),
            ..Report::default()
        };
        let down = Report {
            lost: 0,
            gap: Duration::from_millis(1),
            ..report
        };
        let measured = Measured {
            udp: Observation { up: report, down },
            tcp_alive: true,
        };
        let udp = Report {
            sent: 2000,
            ..Report::default()
        };
        Outcome {
            cut,
            measured,
            returned: Returned {
                after: Duration::from_millis(1010),
                udp,
            },
        }
    }

    /// What plain WireGuard does: nothing comes back.
    pub(crate) fn silence() -> Measured {
        let report = Report {
            sent: 3000,
            lost: 3000,
            gap: Duration::from_secs(3),
            silent: true,
            ..Report::default()
        };
        Measured {
            udp: Observation {
                up: report,
                down: report,
            },
            tcp_alive: false,
        }
    }

    fn kind(gaps_ms: &[u64]) -> Kind {
        let outcomes = gaps_ms.iter().map(|gap_ms| outcome(Cut::Blackhole, *gap_ms)).collect();
        Kind {
            cut: Cut::Blackhole,
            outcomes,
            plain: silence(),
        }
    }

    #[test]
    fn a_cut_is_one_object_with_the_promised_keys() {
        let line = serde_json::to_string(&CutLine::from(&outcome(Cut::Blackhole, 64))).expect("plain data");
        assert_eq!(
            line,
            r#"{"cut":"blackhole","gap_ms":64.0,"sent":1000,"lost":64,"reordered":0,"duplicated":0,"tcp_alive":true,"silent":false,"gap_up_ms":64.0,"gap_down_ms":1.0,"return_ms":1010.0,"return_lost":0}"#
        );
    }

    #[test]
    fn the_summary_holds_the_gaps_of_each_kind() {
        let line = serde_json::to_string(&SummaryLine::of(&[kind(&[70, 60, 80])])).expect("plain data");
        assert_eq!(
            line,
            r#"{"summary":{"blackhole":{"p50":70.0,"p99":80.0,"max":80.0,"cuts":3,"plain_gap_ms":3000.0,"plain_silent":true}},"verdict":"pass"}"#
        );
    }

    #[test]
    fn a_short_gap_with_nothing_lost_on_return_has_no_fault() {
        assert_eq!(faults(&[kind(&[60])]), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_named() {
        let mut bad = outcome(Cut::Delete, 600);
        bad.measured.tcp_alive = false;
        bad.returned.udp.lost = 3;
        assert_eq!(
            bad.faults(),
            [
                "interface deleted: a gap of 600 ms",
                "interface deleted: the TCP transfer did not go on",
                "interface deleted: the return lost 3 packets",
            ]
        );
        bad = outcome(Cut::Delete, 60);
        bad.measured.udp.down.silent = true;
        assert_eq!(
            bad.faults(),
            ["interface deleted: the tunnel stayed silent for 60 ms and more"]
        );
    }
}
