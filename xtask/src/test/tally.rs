//! Counting tests by what Rust's test programs print.

use std::ops::AddAssign;

/// Tests, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// That passed.
    pub(crate) passed: u64,
    /// That failed.
    pub(crate) failed: u64,
    /// That were not run because they say `#[ignore]`.
    pub(crate) ignored: u64,
}

impl Tally {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, with or without colours; nothing in any other line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let plain = without_colours(line);
        let (_verdict, counts) = plain.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut parts = counts.split(';').map(str::trim);
            parts.find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored")?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted_with_and_without_colours() {
        let plain =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.01s";
        let coloured = plain.replace("FAILED", "\u{1b}[31mFAILED\u{1b}(B\u{1b}[m");
        for line in [plain, &coloured] {
            let expected = Tally {
                passed: 12,
                failed: 3,
                ignored: 1,
            };
            assert_eq!(Tally::from_line(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in [
            "test result",
            "test tally::result: ok ... ok",
            "running 3 tests",
            "12 passed; 3 failed; 1 ignored",
        ] {
            assert_eq!(Tally::from_line(line), None, "{line}");
        }
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::default();
        sum += Tally {
            passed: 1,
            failed: 2,
            ignored: 3,
        };
        sum += Tally {
            passed: 10,
            failed: 20,
            ignored: 30,
        };
        assert_eq!(
            sum,
            Tally {
                passed: 11,
                failed: 22,
                ignored: 33
            }
        );
    }
}
