//! Loss of a path: how many of its last [`WINDOW`] resolved probes found no answer, and what their order says of it ([`Gilbert`], [`Conduct`]).
//!
//! A probe is resolved when its answer came or its time is over, and those that left before it are resolved: so losses are seen in the order in which
//! they happened. A late answer counts as an answer as long as the probe's time is not over; after that it changes nothing, and neither does an answer that
//! comes twice. Memory is bounded: [`IN_FLIGHT`] probes, then the oldest is resolved before its time (the kernel has long forgotten its nonce).

use std::collections::VecDeque;
use std::time::Duration;

use super::WEEK;
use super::gilbert::Gilbert;
use super::objectives::{Conduct, Objectives};
use super::rtt::Rtt;

/// Probes over which loss is counted.
const WINDOW: u32 = 100;
/// The bits of [`Loss::lost`] in use.
const WINDOW_BITS: u128 = (1 << WINDOW) - 1;
/// Probes in flight that are remembered.
const IN_FLIGHT: usize = 256;
/// No probe is given up sooner.
const PATIENCE: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub(super) struct Loss {
    /// In the order in which they left; the first one is never answered.
    in_flight: VecDeque<Sent>,
    gilbert: Gilbert,
    conduct: Conduct,
    /// One bit for each resolved probe, the latest in bit 0; set: lost.
    lost: u128,
    /// Bits in use.
    resolved: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    at_ns: u64,
    answered: bool,
}

impl Loss {
    /// Of a path that has not been asked yet.
    pub(super) fn new(gilbert: Gilbert, objectives: &Objectives) -> Self {
        Self {
            in_flight: VecDeque::new(),
            gilbert,
            conduct: Conduct::new(objectives),
            lost: 0,
            resolved: 0,
        }
    }

    /// In what manner probes are lost.
    pub(super) fn gilbert(&self) -> &Gilbert {
        &self.gilbert
    }

    /// The path is asked this often from now on.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.gilbert.set_interval(interval);
    }

    /// How it stands to what its tunnel expects.
    pub(super) fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// The round trip was measured again.
    pub(super) fn sampled(&mut self, rtt: &Rtt) {
        self.conduct.sampled(rtt);
    }

    /// A probe left.
    pub(super) fn sent(&mut self, sequence: u32, at_ns: u64) {
        if self.in_flight.len() == IN_FLIGHT {
            self.give_up();
        }
        let answered = false;
        self.in_flight.push_back(Sent {
            sequence,
            at_ns,
            answered,
        });
    }

    /// A probe did not leave after all.
    pub(super) fn forget(&mut self, sequence: u32) {
        self.in_flight.retain(|sent| sent.sequence != sequence);
        self.resolve_answered();
    }

    /// The path was taken away: what was in flight says nothing of how it loses probes.
    pub(super) fn interrupt(&mut self) {
        self.in_flight.clear();
        self.gilbert.interrupt();
    }

    /// An answer came.
    pub(super) fn answered(&mut self, sequence: u32) {
        if let Some(sent) = self.in_flight.iter_mut().find(|sent| sent.sequence == sequence) {
            sent.answered = true;
            self.resolve_answered();
        }
    }

    /// Gives up the probes whose time is over.
    pub(super) fn expire(&mut self, now_ns: u64, rtt: &Rtt) {
        let patience = PATIENCE.max(rtt.bound() * 4).as_nanos() as u64;
        while self
            .in_flight
            .front()
            .is_some_and(|sent| now_ns.saturating_sub(sent.at_ns) >= patience)
        {
            self.give_up();
        }
    }

    /// Unanswered probes that left after this moment.
    pub(super) fn sent_after(&self, ns: u64) -> u64 {
        let unanswered = |sent: &&Sent| sent.at_ns > ns && !sent.answered;
        self.in_flight.iter().filter(unanswered).count() as u64
    }

    /// Lost probes of the resolved ones, in parts per million.
    pub(super) fn ppm(&self) -> u32 {
        (self.lost.count_ones() * 1_000_000)
            .checked_div(self.resolved)
            .unwrap_or(0)
    }

    /// The first probe is lost.
    fn give_up(&mut self) {
        self.in_flight.pop_front();
        self.resolve(true);
        self.resolve_answered();
    }

    fn resolve_answered(&mut self) {
        while self.in_flight.front().is_some_and(|sent| sent.answered) {
            self.in_flight.pop_front();
            self.resolve(false);
        }
    }

    fn resolve(&mut self, lost: bool) {
        if lost {
            self.gilbert.lost();
        } else {
            self.gilbert.answered(1);
        }
        self.conduct.resolved(lost, || self.gilbert.recovery());
        self.lost = (self.lost << 1 | u128::from(lost)) & WINDOW_BITS;
        self.resolved = (self.resolved + 1).min(WINDOW);
    }
}

/// How many must be missing in a row that loss of `loss_ppm` alone would explain it less than once a week, where one is due each `period`.
pub(super) fn unexplained(loss_ppm: u32, period: Duration) -> u32 {
    let weekly = WEEK / period.as_secs_f64();
    let by_loss = weekly.ln() / (1e6 / f64::from(loss_ppm)).ln();
    // Without loss that is 0, and with nothing but loss infinite: the cast saturates.
    by_loss.ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn unasked() -> Loss {
        Loss::new(Gilbert::new(Duration::from_millis(20), 1e-6), &Objectives::default())
    }

    #[test]
    fn a_probe_is_lost_only_when_its_time_is_over() {
        let mut loss = unasked();
        let rtt = Rtt::default(); // A bound of 1 s: patience is 4 s.
        loss.sent(1, 0);
        loss.sent(2, 20 * MS);
        loss.expire(4000 * MS - 1, &rtt);
        assert_eq!(loss.ppm(), 0, "nothing is resolved yet");
        loss.expire(4000 * MS, &rtt);
        assert_eq!(loss.ppm(), 1_000_000, "one of one");
        loss.answered(2);
        assert_eq!(loss.ppm(), 500_000, "late, but in time");
    }

    #[test]
    fn a_quick_path_is_given_a_quarter_of_a_second() {
        let (mut loss, mut rtt) = (unasked(), Rtt::default());
        rtt.sample(Duration::from_micros(200));
        loss.sent(1, 0);
        loss.expire(250 * MS - 1, &rtt);
        assert_eq!(loss.ppm(), 0);
        loss.expire(250 * MS, &rtt);
        assert_eq!(loss.ppm(), 1_000_000);
    }

    #[test]
    fn duplicates_strangers_and_answers_after_resolution_change_nothing() {
        let mut loss = unasked();
        loss.sent(1, 0);
        loss.sent(2, 0);
        loss.expire(5000 * MS, &Rtt::default());
        let lost = loss.ppm();
        for sequence in [1, 1, 2, 7] {
            loss.answered(sequence);
        }
        assert_eq!((loss.ppm(), lost), (1_000_000, 1_000_000));
    }

    #[test]
    fn a_probe_that_did_not_leave_is_neither_lost_nor_answered() {
        let mut loss = unasked();
        loss.sent(1, 0);
        loss.forget(1);
        loss.expire(5000 * MS, &Rtt::default());
        assert_eq!(loss.resolved, 0);
    }

    #[test]
    fn an_answer_waits_for_the_fate_of_the_probes_before_it() {
        let (mut loss, mut rtt) = (unasked(), Rtt::default());
        rtt.sample(Duration::from_micros(200));
        (1..=4).for_each(|n| loss.sent(n, u64::from(n) * 20 * MS));
        [2, 4].into_iter().for_each(|n| loss.answered(n));
        assert_eq!(
            (loss.resolved, loss.sent_after(0)),
            (0, 2),
            "the first may still be answered"
        );
        loss.expire(270 * MS, &rtt);
        assert_eq!((loss.resolved, loss.lost), (2, 0b10));
        loss.forget(3);
        assert_eq!((loss.resolved, loss.lost), (3, 0b100));
    }

    #[test]
    fn what_was_in_flight_when_the_path_was_taken_away_is_not_lost() {
        let mut loss = unasked();
        (1..=4).for_each(|n| loss.sent(n, 0));
        loss.interrupt();
        loss.expire(u64::MAX, &Rtt::default());
        assert_eq!(loss.resolved, 0);
    }

    #[test]
    fn what_happened_more_than_a_window_ago_is_forgotten() {
        let mut loss = unasked();
        (0..50).for_each(|_| loss.resolve(true));
        (0..50).for_each(|_| loss.resolve(false));
        assert_eq!(loss.ppm(), 500_000);
        (0..50).for_each(|_| loss.resolve(false));
        assert_eq!(loss.ppm(), 0);
    }

    proptest! {
        #[test]
        fn the_rate_is_that_of_a_plain_list_and_memory_is_bounded(outcomes in prop::collection::vec(any::<bool>(), 0..400)) {
            let mut loss = unasked();
            for (sequence, answered) in outcomes.iter().enumerate() {
                loss.sent(sequence as u32, 0);
                if *answered {
                    loss.answered(sequence as u32);
                } else {
                    loss.expire(u64::MAX, &Rtt::default());
                }
            }
            let window = &outcomes[outcomes.len().saturating_sub(WINDOW as usize)..];
            let lost = window.iter().filter(|answered| !**answered).count();
            prop_assert_eq!(loss.ppm() as usize, if window.is_empty() { 0 } else { lost * 1_000_000 / window.len() });
        }

        #[test]
        fn memory_is_bounded_whatever_is_sent(sequences in prop::collection::vec(any::<u32>(), 0..1000)) {
            let mut loss = unasked();
            sequences.iter().for_each(|sequence| loss.sent(*sequence, 0));
            prop_assert!(loss.in_flight.len() <= IN_FLIGHT && loss.resolved <= WINDOW);
        }
    }
}
