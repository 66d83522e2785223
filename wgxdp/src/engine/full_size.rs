//! Full-size probes: a path that answers small packets and swallows large ones is not live.
//!
//! Now and then ([`Pace::full_size_period`]) a probe as large as the tunnel's largest packet leaves right behind a small one. It is **missing** if it is not answered in the time
//! that an answer may take, SRTT + m ([`answer_ns`], by the round trips of small or of large probes, whichever are slower), while the small one before it was. After the first
//! missing one another leaves with each small one, and the path **swallows** large packets once K are missing in a row:
//!
//! ```text
//!   small     ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏ ▏       a clean path, a probe each 50 ms:  at the latest 600 ms + 3 × 50 ms after the cut,
//!   large     ▌                       ▌ ▌ ▌                                          if an answer takes less than an interval
//!              ╳ cut                  1 2 3 swallows
//! ```
//!
//! # How many
//! To be missing once a probe must be lost right behind one that was not. That is the step from good to bad of the path's Gilbert model (see [`gilbert`](super::gilbert)), with
//! chance p, whether losses come in bursts or not: a burst takes the small one, too, and then nothing is said. So with `b` false verdicts allowed in the time `T`, which are a tenth of those
//! that silence may cost, and a large probe each period `P`
//!
//! ```text
//!   pᴷ · T / P  ≤  b        ⇔        K  ≥  ln(T / (b P)) / ln(1 / p)        K ≥ 3
//!
//!   loss    0 %   0.1 %   1 %   5 %   20 %        P = 600 ms, one of two paths in a budget of one verdict a week
//!   K         3       3     4     6     11
//! ```
//!
//! Large packets may get lost more often than small ones, by bit errors and by full queues. So they have a Gilbert model of their own, and K is what either asks for. What ended in a
//! conviction teaches it nothing. Of a path that would have to miss more than [`MOST_MISSING`] nothing is said.
//!
//! A far end that never answered a large probe is not convicted for it: some hosts and reflectors do not. It is asked at once, in haste for as long as the answer is missing, and once
//! [`IN_VAIN`] are missing once each [`RARELY`]. But if it answers over another of the peer's paths, which [vouches](FullSize::vouch) for it, it is this path that swallows them, and always did: a provider
//! may have been too narrow from the beginning. It is asked anew then, and convicted by [`IN_VAIN`] missing ones, or K if that is more. One answer clears the path.

use std::collections::VecDeque;
use std::time::Duration;

use super::gilbert::Gilbert;
use super::pace::Pace;
use super::rtt::Rtt;
use super::thresholds::answer_ns;

/// Of the false verdicts that silence may cost, how many these may cost besides.
const SHARE: f64 = 0.1;
/// A path that loses so much that more would have to be missing is not judged.
const MOST_MISSING: u64 = 32;
/// Unanswered ones that are remembered, be they missing or not.
const REMEMBERED: usize = 64;
/// So many missing before any was answered: the far end does not answer them.
const IN_VAIN: u64 = 10;
/// How often such a path is asked all the same.
const RARELY: Duration = Duration::from_secs(60);

/// The full-size probes of one path. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub(super) struct FullSize {
    pace: Pace,
    /// False verdicts in a second.
    allowed_per_second: f64,
    asked_ns: Option<u64>,
    /// Those that left after the last one that was answered, oldest first.
    unanswered: VecDeque<Sent>,
    /// One was answered.
    answers: bool,
    /// The far end answered one over another path.
    vouched: bool,
    /// Some are missing, and not yet enough.
    doubted: bool,
    /// Enough are.
    hopeless: bool,
    rtt: Rtt,
    gilbert: Gilbert,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    at_ns: u64,
    /// The small one before it was answered.
    escorted: bool,
    missing: bool,
}

impl FullSize {
    /// Of a path whose silence may be taken for its death so many times a second.
    pub(super) fn new(pace: Pace, share_per_second: f64) -> Self {
        let allowed_per_second = SHARE * share_per_second;
        Self {
            pace,
            allowed_per_second,
            asked_ns: None,
            unanswered: VecDeque::new(),
            answers: false,
            vouched: false,
            doubted: false,
            hopeless: false,
            rtt: Rtt::default(),
            gilbert: Gilbert::new(pace.full_size_period(true), allowed_per_second),
        }
    }

    /// Whether the next one is to leave with the small one that leaves now, on a path that is in use or stands by. If the last one was a little late, this one is not late by
    /// an interval for that.
    pub(super) fn is_due(&self, in_use: bool, now_ns: u64) -> bool {
        let pause = if self.hopeless && !self.is_answered() {
            RARELY
        } else {
            Duration::ZERO
        };
        let period = self.pace.full_size_period(in_use).max(pause) - self.pace.interval / 4;
        let is_time = |asked_ns| now_ns.saturating_sub(asked_ns) >= period.as_nanos() as u64;
        self.doubted || self.asked_ns.is_none_or(is_time)
    }

    /// One leaves now, and the small one before it had the sequence number before its own.
    pub(super) fn leaves(&mut self, sequence: u32, now_ns: u64) {
        if self.unanswered.len() == REMEMBERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back(Sent {
            sequence,
            at_ns: now_ns,
            escorted: false,
            missing: false,
        });
        self.asked_ns = Some(now_ns);
    }

    /// A probe left at last; whether it was one of these.
    pub(super) fn sent(&mut self, sequence: u32, at_ns: u64) -> bool {
        let sent = self.unanswered.iter_mut().find(|sent| sent.sequence == sequence);
        sent.map(|sent| sent.at_ns = at_ns).is_some()
    }

    /// One did not leave after all; whether it was one.
    pub(super) fn failed(&mut self, sequence: u32) -> bool {
        let before = self.unanswered.len();
        self.unanswered.retain(|sent| sent.sequence != sequence);
        self.unanswered.len() < before
    }

    /// An answer came; whether it was to one of these. What left before it is not missing in a row any more.
    pub(super) fn answered(&mut self, sequence: u32, rtt: Duration) -> bool {
        let Some(place) = self.unanswered.iter().position(|sent| sent.sequence == sequence) else {
            let behind = sequence.wrapping_add(1);
            let behind = self.unanswered.iter_mut().find(|sent| sent.sequence == behind);
            _ = behind.map(|sent| sent.escorted = true);
            if !self.answers && self.left_in_vain_before(sequence) {
                // It was asked while nothing passed, and does not wait for its turn now that something does.
                self.asked_ns = None;
                self.unanswered.clear();
            }
            return false;
        };
        self.unanswered.drain(..=place);
        (self.answers, self.doubted, self.hopeless) = (true, false, false);
        self.rtt.sample(rtt);
        self.gilbert.answered(1);
        true
    }

    /// Whether some left, all of them before this small one, and each together with a small one that was not answered. While an answer takes longer than an interval, those to
    /// small ones that left earlier say nothing.
    fn left_in_vain_before(&self, sequence: u32) -> bool {
        let is_before = |sent: &Sent| sequence.wrapping_sub(sent.sequence).cast_signed() > 0;
        !self.unanswered.is_empty() && self.unanswered.iter().all(|sent| !sent.escorted && is_before(sent))
    }

    /// The far end answers large probes over another path: if none is answered here, it is not to blame.
    pub(super) fn vouch(&mut self) {
        if self.vouched {
            return;
        }
        self.vouched = true;
        if self.hopeless && !self.answers {
            // That was long ago.
            self.asked_ns = None;
            self.unanswered.clear();
            self.hopeless = false;
        }
    }

    /// The uplink may lead through another network now.
    pub(super) fn forget(&mut self) {
        self.asked_ns = None;
        self.unanswered.clear();
        (self.answers, self.doubted, self.hopeless) = (false, false, false);
        self.gilbert.interrupt();
    }

    /// Counts what is missing on a path that is asked each `interval_ns`, and whose small probes take `small` and are lost behind an answered one with the chance `onset`.
    pub(super) fn judge(&mut self, now_ns: u64, interval_ns: u64, small: &Rtt, onset: f64) {
        let mut patience_ns = answer_ns(interval_ns, small);
        if self.answers {
            patience_ns = patience_ns.max(answer_ns(interval_ns, &self.rtt));
        }
        for sent in &mut self.unanswered {
            if sent.escorted && !sent.missing && now_ns.saturating_sub(sent.at_ns) >= patience_ns {
                sent.missing = true;
                if self.answers && !self.hopeless {
                    self.gilbert.lost();
                }
            }
        }
        let missing = self.unanswered.iter().filter(|sent| sent.missing).count() as u64;
        if self.hopeless {
            return;
        }
        let enough = match (self.answers, self.vouched) {
            (true, _) => self.enough(onset),
            (false, true) => self.enough(onset).max(IN_VAIN),
            (false, false) => IN_VAIN,
        };
        self.hopeless = missing >= enough;
        self.doubted = (1..enough).contains(&missing) && enough <= MOST_MISSING;
        if self.hopeless {
            self.gilbert.interrupt();
        }
    }

    /// Whether large packets get lost there, as far as is known.
    pub(super) fn swallows(&self) -> bool {
        self.is_answered() && self.hopeless
    }

    /// Whether the far end answers them.
    fn is_answered(&self) -> bool {
        self.answers || self.vouched
    }

    /// Missing ones in a row that loss does not explain.
    fn enough(&self, onset: f64) -> u64 {
        let allowed = self.allowed_per_second * self.pace.full_size_period(true).as_secs_f64();
        // With nothing but loss that is infinite: the cast saturates.
        let by_small = (-allowed.ln() / (1.0 / onset).ln()).ceil() as u64;
        by_small.max(self.gilbert.needed())
    }
}

#[cfg(test)]
mod tests;
