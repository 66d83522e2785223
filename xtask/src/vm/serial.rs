//! What a guest says on its second serial line: init's own lines, and between them what the tests print.
//!
//! Init's lines begin with `WGXDP-VM`: `boot RELEASE`, `start NAME`, `exit NAME CODE`, `error TEXT`, `end`. The kernel writes
//! to the first serial line, so that nothing of its comes between. A test may say `suspend MS`: a request that the guest be suspended for so many milliseconds.

use std::time::Duration;

use anyhow::Result;

use crate::test::tally::Tally;

const MARK: &str = "WGXDP-VM ";
/// No guest is suspended for longer, whatever it asks.
const LONGEST_SUSPENSION: Duration = Duration::from_secs(10);

/// Follows the lines of one guest.
#[derive(Debug)]
pub(crate) struct Log {
    waiting: Vec<String>,
    release: Option<String>,
    running: Option<String>,
    tally: Tally,
    failures: Vec<String>,
    ended: bool,
}

impl Log {
    /// For a guest that is to run these tests.
    pub(crate) fn new<'a>(tests: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            waiting: tests.into_iter().map(str::to_owned).collect(),
            release: None,
            running: None,
            tally: Tally::default(),
            failures: Vec::new(),
            ended: false,
        }
    }

    /// The next line; for how long the guest asks to be suspended, if it does.
    pub(crate) fn line(&mut self, line: &str) -> Option<Duration> {
        let Some(mark) = line.strip_prefix(MARK) else {
            self.tally += Tally::from_line(line).unwrap_or_default();
            return None;
        };
        let words: Vec<&str> = mark.split(' ').collect();
        match words[..] {
            ["boot", release] => self.release = Some(release.to_owned()),
            ["start", name] => self.running = Some(name.to_owned()),
            ["exit", name, code] => {
                self.running = None;
                self.waiting.retain(|test| test != name);
                if code != "0" {
                    self.failures.push(format!("{name} ended with {code}"));
                }
            }
            ["error", ..] => self.failures.push(mark.to_owned()),
            ["end"] => self.ended = true,
            ["suspend", ms] => match suspension(ms) {
                Some(time) => return Some(time),
                None => self.failures.push(format!("{ms} ms is no time to be suspended for")),
            },
            _ => self.failures.push(format!("init said what we do not know: {mark}")),
        }
        None
    }

    /// What became of a request. One that could not be met is a failure, whatever the test makes of it.
    pub(crate) fn suspended(&mut self, outcome: Result<()>) {
        self.failures.extend(
            outcome
                .err()
                .map(|error| format!("the guest was not suspended: {error:#}")),
        );
    }

    /// Whether init got as far as saying something.
    pub(crate) fn has_booted(&self) -> bool {
        self.release.is_some()
    }

    /// What the tests came to.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Why the guest's run is a failure, if it is: a test failed or never ended, or another kernel ran than was to.
    pub(crate) fn failure(&self, release: &str) -> Option<String> {
        let mut failures = self.failures.clone();
        match &self.release {
            None => failures.push("the guest did not boot as far as its init".into()),
            Some(booted) if booted != release => failures.push(format!("{booted} booted instead of {release}")),
            Some(_) => {}
        }
        if let Some(running) = &self.running {
            failures.push(format!("{running} never ended"));
        }
        let never = self.waiting.iter().filter(|test| self.running.as_ref() != Some(test));
        failures.extend(never.map(|test| format!("{test} was not run")));
        if !self.ended && failures.is_empty() {
            failures.push("the guest did not end by itself".into());
        }
        (!failures.is_empty()).then(|| failures.join(", "))
    }
}

/// The time that a guest asks for, within bounds.
fn suspension(ms: &str) -> Option<Duration> {
    let time = Duration::from_millis(ms.parse().ok()?);
    (time <= LONGEST_SUSPENSION).then_some(time)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const RELEASE: &str = "6.1.0-56-cloud-amd64";

    fn log(lines: &str) -> Log {
        let mut log = Log::new(["vm", "netns"]);
        for line in lines.lines() {
            log.line(line);
        }
        log
    }

    const GOOD: &str = "\
WGXDP-VM boot 6.1.0-56-cloud-amd64
WGXDP-VM start vm
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
WGXDP-VM exit vm 0
WGXDP-VM start netns
test blackhole ... ok
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
WGXDP-VM exit netns 0
WGXDP-VM end
";

    #[test]
    fn a_guest_that_ran_all_its_tests_to_a_good_end_has_succeeded() {
        let log = log(GOOD);
        assert_eq!((log.failure(RELEASE), log.tally().passed), (None, 7));
    }

    #[test]
    fn whatever_line_is_missing_the_guest_has_failed() {
        for missing in GOOD
            .lines()
            .filter(|line| line.starts_with(MARK) && !line.contains("start"))
        {
            let rest: String = GOOD
                .lines()
                .filter(|line| *line != missing)
                .map(|line| format!("{line}\n"))
                .collect();
            assert!(log(&rest).failure(RELEASE).is_some(), "without `{missing}`");
        }
    }

    #[test]
    fn a_test_that_failed_or_never_ended_is_named() {
        let failed = log(&GOOD.replace("exit netns 0", "exit netns 101"));
        assert_eq!(failed.failure(RELEASE).unwrap(), "netns ended with 101");
        let hung = log(GOOD.split("WGXDP-VM exit netns").next().unwrap());
        assert_eq!(hung.failure(RELEASE).unwrap(), "netns never ended");
    }

    #[test]
    fn another_kernel_than_the_wanted_one_is_a_failure() {
        assert!(log(GOOD).failure("6.12.117+deb12-cloud-amd64").is_some());
    }

    #[test]
    fn a_guest_may_ask_to_be_suspended_for_a_while_and_no_longer() {
        let mut asked = log(GOOD);
        assert_eq!(asked.line("WGXDP-VM suspend 3000"), Some(Duration::from_secs(3)));
        asked.suspended(Ok(()));
        assert_eq!(asked.failure(RELEASE), None);
        for time in ["10001", "-1", "long"] {
            let mut asked = log(GOOD);
            assert_eq!(asked.line(&format!("WGXDP-VM suspend {time}")), None, "{time}");
            assert!(asked.failure(RELEASE).unwrap().contains(time));
        }
    }

    #[test]
    fn a_request_that_was_not_met_is_a_failure() {
        let mut asked = log(GOOD);
        asked.suspended(Err(anyhow!("it is gone")));
        assert!(asked.failure(RELEASE).unwrap().contains("it is gone"));
    }

    #[test]
    fn what_init_cannot_do_is_a_failure() {
        let error = "WGXDP-VM error cannot load /modules/wireguard.ko: ENOENT\n";
        assert!(
            log(&format!("{error}{GOOD}"))
                .failure(RELEASE)
                .unwrap()
                .contains("wireguard.ko")
        );
    }
}
