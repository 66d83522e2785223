//! The table and the closing line of a test run.

use std::fmt;
use std::time::Duration;

use super::tally::Tally;

/// How a stage ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All well; with the tests that it ran, if it runs tests.
    Passed(Tally),
    /// Not well, and why. A stage that fails without a failing test counts as one.
    Failed(String, Tally),
    /// Not run, and why.
    Skipped(String),
}

impl Outcome {
    fn tally(&self) -> Tally {
        match self {
            Self::Passed(tally) => *tally,
            Self::Failed(_, tally) => Tally {
                failed: tally.failed.max(1),
                ..*tally
            },
            Self::Skipped(_) => Tally::default(),
        }
    }
}

/// The stages that ran, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(String, Duration, Outcome)>,
}

impl Report {
    /// Adds a stage. Whether it did not fail.
    pub(crate) fn add(&mut self, stage: impl Into<String>, took: Duration, outcome: Outcome) -> bool {
        let goes_on = !matches!(outcome, Outcome::Failed(..));
        self.rows.push((stage.into(), took, outcome));
        goes_on
    }

    /// Whether nothing failed, and something passed.
    pub(crate) fn is_success(&self) -> bool {
        let any = |wanted: fn(&Outcome) -> bool| self.rows.iter().any(|(_, _, outcome)| wanted(outcome));
        any(|outcome| matches!(outcome, Outcome::Passed(_))) && !any(|outcome| matches!(outcome, Outcome::Failed(..)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {:>8} {:>7} {:>7}", "stage", "seconds", "passed", "failed")?;
        let mut sum = Tally::default();
        for (stage, took, outcome) in &self.rows {
            let tally = outcome.tally();
            sum += tally;
            let count = |count: u64| {
                if tally == Tally::default() {
                    "-".to_owned()
                } else {
                    count.to_string()
                }
            };
            write!(
                f,
                "{stage:<10} {:>8.1} {:>7} {:>7}",
                took.as_secs_f64(),
                count(tally.passed),
                count(tally.failed)
            )?;
            match outcome {
                Outcome::Passed(Tally { ignored: 0, .. }) => writeln!(f, "  ok")?,
                Outcome::Passed(Tally { ignored, .. }) => writeln!(f, "  ok, {ignored} IGNORED")?,
                Outcome::Failed(why, _) => writeln!(f, "  FAILED: {why}")?,
                Outcome::Skipped(why) => writeln!(f, "  SKIPPED: {why}")?,
            }
        }
        write!(f, "\n{} passed, {} failed", sum.passed, sum.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64) -> Tally {
        Tally {
            passed,
            failed,
            ignored: 0,
        }
    }

    fn report(outcomes: impl IntoIterator<Item = Outcome>) -> Report {
        let mut report = Report::default();
        for outcome in outcomes {
            report.add("stage", Duration::from_millis(1500), outcome);
        }
        report
    }

    #[test]
    fn the_closing_line_sums_all_stages() {
        let report = report([
            Outcome::Passed(Tally::default()),
            Outcome::Passed(tally(3, 0)),
            Outcome::Failed("netns".into(), tally(4, 2)),
        ]);
        assert!(report.to_string().ends_with("\n7 passed, 2 failed"), "{report}");
        assert!(!report.is_success());
    }

    #[test]
    fn a_stage_that_fails_without_a_failing_test_counts_as_one_failure() {
        let report = report([Outcome::Failed("no marker".into(), tally(4, 0))]);
        assert!(report.to_string().ends_with("\n4 passed, 1 failed"), "{report}");
    }

    #[test]
    fn a_run_that_skipped_everything_is_no_success() {
        assert!(!report([Outcome::Skipped("no root".into())]).is_success());
        assert!(report([Outcome::Skipped("no root".into()), Outcome::Passed(tally(1, 0))]).is_success());
    }
}
