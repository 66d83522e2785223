//! Full-size probes: a path that answers small packets and swallows large ones is not live.
//!
//! Besides the others a probe as large as the tunnel's largest packet leaves by each path now and then ([`Pace::full_size_period`]). It is **missing** once it was not
//! answered for as long as a path may be silent, while the path proved itself by smaller ones since, and the path **swallows** large packets once so many are missing in a
//! row that loss alone would explain it less than once a week:
//!
//! ```text
//!   weekly probes × loss^K ≤ 1   ⇒   K = ln(weekly probes) / ln(1 / loss)        K ≥ 3
//!
//!   loss      0 %   1 %   5 %   20 %   50 %        of a probe each 250 ms, which are 2.4 million a week
//!   K           3     4     5     10     22
//! ```
//!
//! - Bursts of loss swallow small probes, too; between two full-size ones there are five.
//! - A far end that never answered a large probe is not convicted for it: some hosts do not. After [`IN_VAIN`] it is asked once each [`RARELY`].
//! - One answer clears the path. Their round trips are not counted with the others': large packets take longer.
//!
//! So with the default profile an MTU black hole beyond a clean path is found within 3 × 250 ms + `dead_after`, and the time to the next probe.

use std::collections::VecDeque;
use std::time::Duration;

use super::loss::unexplained;
use super::pace::Pace;

/// Fewer missing ones prove nothing.
const LEAST_MISSING: u32 = 3;
/// Unanswered ones that are remembered. Of a path that loses so much that more would have to be missing nothing is said.
const REMEMBERED: usize = 32;
/// Full-size probes that a path is sent before it is taken for one that does not answer them.
const IN_VAIN: u32 = 10;
/// How often such a path is asked all the same.
const RARELY: Duration = Duration::from_secs(60);

/// The full-size probes of one path. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub(super) struct FullSize {
    pace: Pace,
    asked_ns: u64,
    /// Those that left after the last one that was answered, oldest first.
    unanswered: VecDeque<Sent>,
    /// Those that left before any was answered; `None`: one was.
    in_vain: Option<u32>,
    swallows: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    at_ns: u64,
}

impl FullSize {
    pub(super) fn new(start_ns: u64, pace: Pace) -> Self {
        Self {
            pace,
            asked_ns: start_ns,
            unanswered: VecDeque::new(),
            in_vain: Some(0),
            swallows: false,
        }
    }

    /// Whether it is time for the next one, on a path that is in use or stands by.
    pub(super) fn is_due(&self, in_use: bool, now_ns: u64) -> bool {
        let rarely = self.in_vain.is_some_and(|in_vain| in_vain >= IN_VAIN);
        let pause = if rarely { RARELY } else { Duration::ZERO };
        let period = self.pace.full_size_period(in_use).max(pause);
        now_ns.saturating_sub(self.asked_ns) >= period.as_nanos() as u64
    }

    /// One leaves now.
    pub(super) fn leaves(&mut self, sequence: u32, now_ns: u64) {
        if self.unanswered.len() == REMEMBERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back(Sent {
            sequence,
            at_ns: now_ns,
        });
        self.in_vain = self.in_vain.map(|in_vain| in_vain.saturating_add(1));
        self.asked_ns = now_ns;
    }

    /// Whether a probe that is on its way is one of these.
    pub(super) fn is_one(&self, sequence: u32) -> bool {
        self.unanswered.iter().any(|sent| sent.sequence == sequence)
    }

    /// One did not leave after all; whether it was one.
    pub(super) fn failed(&mut self, sequence: u32) -> bool {
        let was_one = self.is_one(sequence);
        self.unanswered.retain(|sent| sent.sequence != sequence);
        was_one
    }

    /// An answer came; whether it was to one of these. What left before it is not missing in a row any more.
    pub(super) fn answered(&mut self, sequence: u32) -> bool {
        let place = self.unanswered.iter().position(|sent| sent.sequence == sequence);
        let Some(place) = place else { return false };
        self.unanswered.drain(..=place);
        self.in_vain = None;
        self.swallows = false;
        true
    }

    /// The path changed its state: what is missing so far has another reason, or was counted.
    pub(super) fn restart(&mut self) {
        self.unanswered.clear();
    }

    /// The uplink may lead through another network now.
    pub(super) fn forget(&mut self) {
        self.restart();
        self.in_vain = Some(0);
        self.swallows = false;
    }

    /// Counts what is missing on a path that last proved itself at `proof_ns`, may be silent for `patience_ns`, and loses `loss_ppm` of its other probes.
    pub(super) fn judge(&mut self, now_ns: u64, proof_ns: u64, patience_ns: u64, loss_ppm: u32) {
        let is_missing = |sent: &&Sent| sent.at_ns < proof_ns && now_ns.saturating_sub(sent.at_ns) >= patience_ns;
        let missing = self.unanswered.iter().filter(is_missing).count();
        let convicted =
            self.in_vain.is_none() && missing >= enough(loss_ppm, self.pace.full_size_period(true)) as usize;
        self.swallows |= convicted;
    }

    /// Whether large packets get lost there, as far as is known.
    pub(super) fn swallows(&self) -> bool {
        self.swallows
    }
}

/// Missing ones in a row that loss does not explain.
fn enough(loss_ppm: u32, period: Duration) -> u32 {
    unexplained(loss_ppm, period).max(LEAST_MISSING)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const PACE: Pace = Pace {
        interval: Duration::from_millis(50),
        metered: false,
    };

    #[test]
    fn the_more_is_lost_the_more_must_be_missing() {
        let rows = [
            (0, 3),
            (1, 3),
            (10_000, 4),
            (50_000, 5),
            (200_000, 10),
            (500_000, 22),
            (900_000, 140),
            (1_000_000, u32::MAX),
        ];
        for (loss_ppm, missing) in rows {
            assert_eq!(enough(loss_ppm, PACE.full_size_period(true)), missing, "{loss_ppm} ppm");
        }
    }

    #[test]
    fn a_far_end_that_answers_none_is_asked_rarely_and_never_convicted() {
        let mut full = FullSize::new(0, PACE);
        let mut left = Vec::new();
        for now in (0..120_000).step_by(50).map(|ms| ms * MS) {
            if full.is_due(true, now) {
                full.leaves(left.len() as u32, now);
                left.push(now / MS);
            }
            full.judge(now, now, 160 * MS, 0);
            assert!(!full.swallows());
        }
        assert_eq!(left[..10], [250, 500, 750, 1000, 1250, 1500, 1750, 2000, 2250, 2500]);
        assert_eq!(left[10..], [62_500]);
    }

    #[test]
    fn three_missing_in_a_row_convict_and_one_answer_clears() {
        let mut full = FullSize::new(0, PACE);
        full.leaves(0, 0);
        assert!(full.answered(0) && !full.answered(0), "once");
        for sequence in [5, 10, 15] {
            full.leaves(sequence, u64::from(sequence) * 50 * MS);
        }
        let convicted = |full: &FullSize, now_ms: u64, proof_ms: u64| {
            let mut full = full.clone();
            full.judge(now_ms * MS, proof_ms * MS, 160 * MS, 0);
            full.swallows()
        };
        assert!(!convicted(&full, 909, 905), "the third may still be on its way");
        assert!(!convicted(&full, 910, 750), "nothing else was answered since either");
        assert!(convicted(&full, 910, 905));
        let mut late = full.clone();
        assert!(late.answered(10), "late, but it shows that they pass");
        assert!(!convicted(&late, 910, 905));
        full.judge(910 * MS, 905 * MS, 160 * MS, 0);
        full.restart();
        assert!(full.swallows(), "whatever the path's state");
        full.leaves(20, 1000 * MS);
        assert!(full.answered(20) && !full.swallows());
        full.leaves(25, 1250 * MS);
        assert!(full.failed(25) && !full.failed(25) && !full.is_one(25));
    }
}
