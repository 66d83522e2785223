//! What became of a numbered stream of packets: pure arithmetic on when each was sent and when it arrived.
//!
//! Packets are numbered from 0 in the order of sending. All times are nanoseconds of one clock.
//!
//! **Window.** A report covers the packets *sent* in `from_ns .. until_ns`, and the silences that *begin* before
//! `until_ns` and end after `from_ns`.
//!
//! **Lost** is what was sent in the window and has not arrived by `now_ns`. **Duplicated** is every arrival of a number
//! that had arrived before. **Lost in a row** is the longest row of numbers of which all are lost: what one interruption cost, be the sender ever so irregular while it lasted. **Reordered** is every first arrival with a number below one that arrived before it (RFC
//! 4737).
//!
//! **Gap** is the longest silence that the receiver heard although the sender spoke. After an arrival at time *a*, let
//! *n* be the highest number that has arrived so far. The silence begins at *a*, or when packet *n*+1 was sent if that
//! is later, and ends with the next first arrival. So a sender that overslept makes no gap: while nothing was sent,
//! nothing was missing. A silence without an end counts up to `now_ns` and is marked `silent`. Nothing is subtracted:
//! at 1 kHz an undisturbed stream has gaps as long as its one-way delay, or longer when a receiver is scheduled late.

use std::time::Duration;

/// One arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The packet's number.
    pub seq: u64,
    /// When it arrived.
    pub at_ns: u64,
}

/// What a report covers; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub from_ns: u64,
    /// Its end.
    pub until_ns: u64,
    /// When the arrivals were looked at: late packets have had until then.
    pub now_ns: u64,
}

/// What became of the packets; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Of these, packets that never arrived.
    pub lost: u64,
    /// The longest row of lost packets, none of which arrived in between.
    pub lost_in_a_row: u64,
    /// Of these, packets that arrived after a later one.
    pub reordered: u64,
    /// Of these, arrivals too many.
    pub duplicated: u64,
    /// The longest silence.
    pub gap: Duration,
    /// When the last of the lost was sent; 0 if none was lost.
    pub last_lost_ns: u64,
    /// The silence at the end had not ended.
    pub silent: bool,
}

impl Report {
    /// Both directions as one: sums, and the worse gap.
    pub fn join(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
            lost_in_a_row: self.lost_in_a_row.max(other.lost_in_a_row),
            reordered: self.reordered + other.reordered,
            duplicated: self.duplicated + other.duplicated,
            gap: self.gap.max(other.gap),
            last_lost_ns: self.last_lost_ns.max(other.last_lost_ns),
            silent: self.silent || other.silent,
        }
    }
}

/// Reports on a stream: `sent[n]` is when packet *n* was sent, `arrivals` are in the order of arrival.
pub fn analyse(sent: &[u64], arrivals: &[Arrival], window: Window) -> Report {
    let number = |at_ns: u64| sent.partition_point(|sent_ns| *sent_ns < at_ns);
    let covered = number(window.from_ns)..number(window.until_ns).max(number(window.from_ns));
    let mut report = Report {
        sent: covered.len() as u64,
        lost: covered.len() as u64,
        ..Report::default()
    };
    let mut seen = vec![false; sent.len()];
    let mut hearing = Hearing { last_ns: 0, next: 0 };

    for arrival in arrivals {
        let Ok(seq) = usize::try_from(arrival.seq) else {
            continue;
        };
        let Some(seen) = seen.get_mut(seq) else { continue };
        let first = !std::mem::replace(seen, true);
        if covered.contains(&seq) {
            report.lost -= u64::from(first);
            report.duplicated += u64::from(!first);
            report.reordered += u64::from(first && seq < hearing.next);
        }
        if first {
            if let Some(gap) = hearing.silence(sent, arrival.at_ns, window) {
                report.gap = report.gap.max(gap);
            }
            hearing = Hearing {
                last_ns: arrival.at_ns,
                next: hearing.next.max(seq + 1),
            };
        }
    }
    if let Some(gap) = hearing.silence(sent, window.now_ns, window) {
        report.gap = report.gap.max(gap);
        report.silent = true;
    }
    let is_lost = |seq: &usize| seen.get(*seq) == Some(&false);
    let last_lost = covered.clone().rev().find(is_lost).and_then(|seq| sent.get(seq));
    report.last_lost_ns = last_lost.copied().unwrap_or(0);
    let rows = seen.get(covered).unwrap_or_default().split(|arrived| *arrived);
    report.lost_in_a_row = rows.map(|row| row.len() as u64).max().unwrap_or(0);
    report
}

/// What the receiver knows after an arrival.
struct Hearing {
    last_ns: u64,
    /// The number after the highest that arrived.
    next: usize,
}

impl Hearing {
    /// The silence that ends at `end_ns`, if it is one and the window covers it.
    fn silence(&self, sent: &[u64], end_ns: u64, window: Window) -> Option<Duration> {
        let begin_ns = self.last_ns.max(*sent.get(self.next)?);
        let covered = begin_ns < window.until_ns && end_ns > window.from_ns;
        (covered && begin_ns < end_ns).then(|| Duration::from_nanos(end_ns - begin_ns))
    }
}

/// What many gaps amount to. Percentiles are by nearest rank: always a gap that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50: Duration,
    /// 99 of 100 are no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
    /// How many there are.
    pub count: usize,
}

impl Quantiles {
    /// Of `gaps`, in any order; nothing for none.
    pub fn of(gaps: &[Duration]) -> Option<Self> {
        let mut sorted = gaps.to_vec();
        sorted.sort_unstable();
        let rank = |per_cent: usize| sorted.get((sorted.len() * per_cent).div_ceil(100).max(1) - 1).copied();
        Some(Self {
            p50: rank(50)?,
            p99: rank(99)?,
            max: rank(100)?,
            count: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Packet n is sent at n ms.
    fn every_ms(count: u64) -> Vec<u64> {
        (0..count).map(|n| n * MS).collect()
    }

    /// Packets `seqs`, each `delay` after it was sent.
    fn arriving(sent: &[u64], seqs: impl IntoIterator<Item = u64>, delay: u64) -> Vec<Arrival> {
        let arrival = |seq| Arrival {
            seq,
            at_ns: sent.get(seq as usize).expect("was sent") + delay,
        };
        seqs.into_iter().map(arrival).collect()
    }

    fn window(from: u64, until: u64, now: u64) -> Window {
        Window {
            from_ns: from * MS,
            until_ns: until * MS,
            now_ns: now * MS,
        }
    }

    #[test]
    fn an_undisturbed_stream_loses_nothing_and_its_gap_is_its_delay() {
        let sent = every_ms(100);
        let report = analyse(&sent, &arriving(&sent, 0..100, MS / 4), window(10, 90, 100));
        let expected = Report {
            sent: 80,
            gap: Duration::from_micros(250),
            ..Report::default()
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_cut_counts_from_the_first_packet_it_swallowed_to_the_next_arrival() {
        let sent = every_ms(100);
        let arrivals = arriving(&sent, (0..40).chain(60..100), MS / 4);
        let report = analyse(&sent, &arrivals, window(10, 90, 100));
        assert_eq!((report.sent, report.lost, report.silent), (80, 20, false));
        assert_eq!(report.lost_in_a_row, 20);
        assert_eq!(report.last_lost_ns, 59 * MS);
        assert_eq!(report.gap, Duration::from_micros(20_250));
    }

    #[test]
    fn a_sender_that_overslept_makes_no_gap() {
        let mut sent = every_ms(100);
        for late in sent.iter_mut().skip(50) {
            *late += 30 * MS;
        }
        let report = analyse(&sent, &arriving(&sent, 0..100, MS / 4), window(10, 120, 130));
        assert_eq!((report.lost, report.gap), (0, Duration::from_micros(250)));
    }

    #[test]
    fn an_old_loss_does_not_turn_oversleeping_into_a_gap() {
        let mut sent = every_ms(100);
        for late in sent.iter_mut().skip(50) {
            *late += 30 * MS;
        }
        let arrivals = arriving(&sent, (0..20).chain(21..100), MS / 4);
        let report = analyse(&sent, &arrivals, window(10, 120, 130));
        assert_eq!((report.lost, report.gap), (1, Duration::from_micros(1_250)));
    }

    #[test]
    fn a_loss_that_goes_on_after_the_return_is_a_row_of_its_own() {
        let sent = every_ms(100);
        let arrivals = arriving(&sent, (0..40).chain(60..65).chain(75..100), MS / 4);
        let report = analyse(&sent, &arrivals, window(10, 90, 100));
        assert_eq!((report.lost, report.lost_in_a_row), (30, 20));
        assert_eq!(report.gap, Duration::from_micros(20_250));
        // Of a row that began before the window what it covers counts.
        let report = analyse(&sent, &arrivals, window(50, 90, 100));
        assert_eq!((report.lost, report.lost_in_a_row), (20, 10));
    }

    /// Its backlog goes into the gap: more is lost than falls due while the receiver hears nothing, and all the same nothing is lost but in the gap.
    #[test]
    fn a_sender_that_catches_up_in_the_gap_loses_one_row() {
        let mut sent = every_ms(100);
        for late in sent.iter_mut().take(50).skip(40) {
            *late = 50 * MS;
        }
        let arrivals = arriving(&sent, (0..40).chain(60..100), MS / 4);
        let report = analyse(&sent, &arrivals, window(10, 90, 100));
        assert_eq!((report.lost, report.lost_in_a_row), (20, 20));
        assert_eq!(report.gap, Duration::from_micros(10_250));
    }

    #[test]
    fn packets_held_back_are_a_gap_although_none_is_lost() {
        let sent = every_ms(100);
        let mut arrivals = arriving(&sent, 0..100, 0);
        for held in arrivals.iter_mut().skip(40).take(20) {
            held.at_ns = 60 * MS - 1;
        }
        let report = analyse(&sent, &arrivals, window(10, 90, 100));
        assert_eq!((report.lost, report.gap), (0, Duration::from_nanos(20 * MS - 1)));
    }

    #[test]
    fn a_stream_that_does_not_come_back_is_silent_up_to_now() {
        let sent = every_ms(100);
        let report = analyse(&sent, &arriving(&sent, 0..40, 0), window(10, 90, 100));
        assert_eq!(
            (report.lost, report.silent, report.gap),
            (50, true, Duration::from_millis(60))
        );
    }

    #[test]
    fn a_stream_that_never_began_is_silent_from_its_first_packet() {
        let sent = every_ms(10);
        let report = analyse(&sent, &[], window(0, 10, 20));
        assert_eq!((report.sent, report.lost, report.silent), (10, 10, true));
        assert_eq!(report.gap, Duration::from_millis(20));
    }

    #[test]
    fn duplicates_and_reordering_are_counted_and_do_not_hide_a_loss() {
        let sent = every_ms(10);
        let arrivals = arriving(&sent, [0, 1, 1, 3, 2, 2, 5, 6, 7, 8, 9], 0);
        let report = analyse(&sent, &arrivals, window(0, 10, 10));
        assert_eq!(
            (report.sent, report.lost, report.reordered, report.duplicated),
            (10, 1, 1, 2)
        );
    }

    #[test]
    fn what_happens_outside_the_window_does_not_count() {
        let sent = every_ms(100);
        let arrivals = arriving(&sent, (0..5).chain(8..95), 0);
        let report = analyse(&sent, &arrivals, window(10, 90, 100));
        assert_eq!((report.lost, report.silent, report.gap), (0, false, Duration::ZERO));
    }

    #[test]
    fn a_number_that_was_never_sent_is_ignored() {
        let sent = every_ms(2);
        let arrivals = [
            Arrival { seq: 7, at_ns: 1 },
            Arrival {
                seq: u64::MAX,
                at_ns: 2,
            },
        ];
        assert_eq!(analyse(&sent, &arrivals, window(0, 2, 2)).lost, 2);
    }

    #[test]
    fn the_worse_direction_decides_the_gap() {
        let [short, long] = [10, 20].map(|ms| Report {
            sent: 5,
            gap: Duration::from_millis(ms),
            ..Report::default()
        });
        assert_eq!(
            short.join(long),
            Report {
                sent: 10,
                gap: Duration::from_millis(20),
                ..Report::default()
            }
        );
    }

    #[test]
    fn percentiles_are_gaps_that_were_measured() {
        let gaps: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let [p50, p99, max] = [50, 99, 100].map(Duration::from_millis);
        assert_eq!(
            Quantiles::of(&gaps),
            Some(Quantiles {
                p50,
                p99,
                max,
                count: 100
            })
        );
        let one = Duration::from_millis(7);
        assert_eq!(
            Quantiles::of(&[one]),
            Some(Quantiles {
                p50: one,
                p99: one,
                max: one,
                count: 1
            })
        );
        assert_eq!(Quantiles::of(&[]), None);
    }
}
