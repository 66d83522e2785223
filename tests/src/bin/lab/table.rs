//! The table at the end of a run: a row for each kind of cut.

use crate::columns::columns;
use crate::outcome::{Kind, faults, millis};

const HEADER: [&str; 9] = [
    "cut of isp-a",
    "gap: median",
    "longest",
    "packets lost",
    "reordered",
    "duplicated",
    "TCP alive",
    "lost on return",
    "plain WireGuard",
];

/// The table and the verdict below it.
pub(crate) fn render(kinds: &[Kind]) -> String {
    let rows: Vec<[String; 9]> = std::iter::once(HEADER.map(str::to_owned))
        .chain(kinds.iter().map(row))
        .collect();
    // Words to the left, numbers to the right.
    let mut text = columns(&rows, |column| matches!(column, 0 | 8));
    text.push('\n');
    text + &verdict(kinds)
}

fn row(kind: &Kind) -> [String; 9] {
    let seen: Vec<_> = kind
        .outcomes
        .iter()
        .map(|outcome| outcome.measured.udp.both())
        .collect();
    let total = |count: fn(&wgxdp_tests::traffic::analysis::Report) -> u64| seen.iter().map(count).sum::<u64>();
    let gap = |pick: fn(wgxdp_tests::traffic::analysis::Quantiles) -> std::time::Duration| {
        kind.gaps()
            .map_or_else(|| "-".to_owned(), |gaps| format!("{:.1} ms", millis(pick(gaps))))
    };
    let cuts = kind.outcomes.len();
    let alive = kind
        .outcomes
        .iter()
        .filter(|outcome| outcome.measured.tcp_alive)
        .count();
    let returned: u64 = kind.outcomes.iter().map(|outcome| outcome.returned.udp.lost).sum();
    let plain = kind.plain.udp.both();
    let plain = match plain.silent {
        true => format!("silent for > {:.1} s", plain.gap.as_secs_f64()),
        false => format!("back after {:.0} ms", millis(plain.gap)),
    };
    [
        format!("{} ({cuts}×)", kind.cut.describe()),
        gap(|gaps| gaps.p50),
        gap(|gaps| gaps.max),
        format!("{} of {}", total(|report| report.lost), total(|report| report.sent)),
        total(|report| report.reordered).to_string(),
        total(|report| report.duplicated).to_string(),
        if alive == cuts {
            "yes".to_owned()
        } else {
            format!("{alive} of {cuts}")
        },
        returned.to_string(),
        plain,
    ]
}

fn verdict(kinds: &[Kind]) -> String {
    let faults = faults(kinds);
    if faults.is_empty() {
        "Verdict: the tunnel outlived every cut.\n".to_owned()
    } else {
        faults.iter().fold("Verdict: NOT good.\n".to_owned(), |text, fault| {
            text + "  - " + fault + "\n"
        })
    }
}

#[cfg(test)]
mod tests {
    use wgxdp_tests::cut::Cut;

    use super::*;
    use crate::outcome::tests::{outcome, silence};

    #[test]
    fn a_row_says_all_of_a_kind_of_cut() {
        let outcomes = [60, 71, 65].map(|gap_ms| outcome(Cut::CarrierLoss, gap_ms)).to_vec();
        let text = render(&[Kind {
            cut: Cut::CarrierLoss,
            outcomes,
            plain: silence(),
        }]);
        let expected = "\
cut of isp-a        gap: median   longest   packets lost   reordered   duplicated   TCP alive   lost on return   plain WireGuard
─────────────────   ───────────   ───────   ────────────   ─────────   ──────────   ─────────   ──────────────   ──────────────────
cable pulled (3×)       65.0 ms   71.0 ms    196 of 3000           0            0         yes                0   silent for > 3.0 s

Verdict: the tunnel outlived every cut.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_bad_verdict_says_why() {
        let mut bad = outcome(Cut::Delete, 60);
        bad.returned.udp.lost = 2;
        let text = render(&[Kind {
            cut: Cut::Delete,
            outcomes: vec![bad],
            plain: silence(),
        }]);
        assert!(
            text.ends_with("Verdict: NOT good.\n  - interface deleted: the return lost 2 packets\n"),
            "{text}"
        );
    }
}
