//! Which of a peer's paths carries a packet, and which its copy.

use super::{Standing, at_least};
use crate::abi::MAX_PATHS_PER_PEER;

/// Which path carries a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first live one, by its place in the peer's order.
    Live(u32),
    /// The first live one is suspect; a copy may go by a [`Second`].
    Suspect(u32),
    /// The packet is too large for every live one; this is the first.
    Oversize(u32),
    /// None is live: this one is the most hopeful.
    FailOpen(u32),
    /// The peer has no path at all.
    None,
}

/// Looks at a peer's paths in order of preference and picks one.
///
/// Failing open, in this order: a path that answers although it is held or latched (a path on probation is better than none); else
/// all usable paths in turn, a millisecond each, until one proves itself; else, with every uplink down, the first path: the
/// last path is never dropped by us.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chooser {
    places: u32,
    too_small: u64,
    usable: u64,
    answering: u64,
}

impl Chooser {
    /// Offers the path in the next place. `Some` is the decision: do not offer more.
    #[inline(always)]
    pub const fn offer(&mut self, standing: Standing) -> Option<Choice> {
        let place = self.places;
        self.places += 1;
        let carries = standing.bit(Standing::CARRIES);
        let too_small = standing.bit(Standing::TOO_SMALL);
        if carries & (too_small ^ 1) != 0 {
            return Some(if standing.is_suspect() {
                Choice::Suspect(place)
            } else {
                Choice::Live(place)
            });
        }
        self.too_small |= carries << place;
        self.usable |= standing.bit(Standing::USABLE) << place;
        self.answering |= standing.bit(Standing::ANSWERING) << place;
        None
    }

    /// Whether a live path was passed over because the packet is too large for it.
    #[must_use]
    #[inline(always)]
    pub const fn passed_over(&self) -> bool {
        self.too_small != 0
    }

    /// The decision after every path was offered and none was live and large enough.
    #[must_use]
    #[inline(always)]
    pub const fn make_do(self, now_ns: u64) -> Choice {
        if self.places == 0 {
            return Choice::None;
        }
        let mut place = 0;
        while self.too_small != 0 && place < MAX_PATHS_PER_PEER as u32 {
            if self.too_small >> place & 1 != 0 {
                return Choice::Oversize(place);
            }
            place += 1;
        }
        let (hopeful, turn) = if self.answering != 0 {
            (self.answering, 0)
        } else if self.usable != 0 {
            // About a millisecond each (2²⁰ ns), by the clock, so that no state is kept.
            (self.usable, (now_ns >> 20) % self.usable.count_ones() as u64)
        } else {
            return Choice::FailOpen(0);
        };
        let (mut place, mut skip) = (0, turn);
        while place < MAX_PATHS_PER_PEER as u32 {
            if hopeful >> place & 1 != 0 {
                if skip == 0 {
                    return Choice::FailOpen(place);
                }
                skip -= 1;
            }
            place += 1;
        }
        Choice::FailOpen(0)
    }
}

/// Looks at a peer's paths for the one that carries the copy of a packet: live, large enough, and not the packet's own.
///
/// What a copy is for is to fare differently. So a path over another uplink is better than one over the same (to another endpoint), then one that is not
/// suspect better than one that is, then the earlier in the order.
#[derive(Clone, Copy, Debug)]
pub struct Second(u64);

impl Second {
    const SUSPECT: u64 = MAX_PATHS_PER_PEER as u64;
    const SAME_UPLINK: u64 = 2 * Self::SUSPECT;
    const NONE: u64 = 2 * Self::SAME_UPLINK;

    /// Of none as yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Self::NONE)
    }

    /// With the path in this place (below [`MAX_PATHS_PER_PEER`]); 1 or 0: whether it is the packet's own, and whether it is over the same uplink.
    #[must_use]
    #[inline(always)]
    pub const fn or(self, place: u32, standing: Standing, own: u64, same_uplink: u64) -> Self {
        let carries = standing.bit(Standing::CARRIES) & (standing.bit(Standing::TOO_SMALL) ^ 1) & (own ^ 1);
        let rank = (carries ^ 1) * Self::NONE
            + same_uplink * Self::SAME_UPLINK
            + standing.suspect() * Self::SUSPECT
            + place as u64;
        // The smaller of the two, without a branch: see `is_zero`.
        let better = at_least(self.0, rank);
        Self(self.0 ^ (self.0 ^ rank) & better.wrapping_neg())
    }

    /// The place of the best.
    #[must_use]
    #[inline(always)]
    pub const fn place(self) -> Option<u32> {
        if self.0 < Self::NONE {
            Some(self.0 as u32 % MAX_PATHS_PER_PEER as u32)
        } else {
            None
        }
    }
}

impl Default for Second {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::liveness::{Flags, Liveness, Protect, Thresholds, is_calm, is_zero};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    const THRESHOLDS: Thresholds = Thresholds::new(30_000, 60_000);
    const MS: u64 = 1_000_000;

    #[derive(Clone, Copy, Debug)]
    struct Candidate {
        flags: Flags,
        latched: bool,
        liveness: Liveness,
        largest: u32,
    }

    const LEN: u32 = 1452;
    const NOW: u64 = 3600 * 1000 * MS;

    impl Candidate {
        fn standing(self, now_ns: u64) -> Standing {
            let silence = match self.liveness {
                Liveness::Live => 0,
                Liveness::Suspect => 40 * MS,
                Liveness::Dead => 70 * MS,
            };
            Standing::new(
                self.flags,
                u64::from(self.latched) * 17,
                now_ns,
                now_ns - silence,
                3,
                THRESHOLDS,
            )
        }
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let liveness = prop_oneof![Just(Liveness::Live), Just(Liveness::Suspect), Just(Liveness::Dead)];
        let largest = prop_oneof![Just(LEN - 1), Just(LEN), Just(9000)];
        // No flag and no latch are as likely as any.
        let flags = prop_oneof![Just(0), 0u32..32];
        (flags, prop::bool::weighted(0.3), liveness, largest).prop_map(|(flags, latched, liveness, largest)| {
            Candidate {
                flags: Flags(flags),
                latched,
                liveness,
                largest,
            }
        })
    }

    fn choose(candidates: &[Candidate], now_ns: u64) -> Choice {
        let mut chooser = Chooser::default();
        let decision = candidates
            .iter()
            .find_map(|c| chooser.offer(c.standing(now_ns).asked_for(LEN, c.largest)));
        decision.unwrap_or_else(|| chooser.make_do(now_ns))
    }

    proptest! {
        #[test]
        fn the_first_live_path_that_it_fits_carries_the_packet_and_a_peer_with_paths_always_gets_one(
            candidates in prop::collection::vec(candidate(), 0..=MAX_PATHS_PER_PEER),
            now_ns in NOW..u64::MAX / 2,
        ) {
            let live = |c: &Candidate| c.flags.0 == 0 && !c.latched && c.liveness != Liveness::Dead;
            let fits = |c: &Candidate| live(c) && c.largest >= LEN;
            let first = candidates.iter().position(fits);
            match (choose(&candidates, now_ns), first.or_else(|| candidates.iter().position(live))) {
                (Choice::Oversize(place), Some(live)) => prop_assert_eq!((place as usize, first), (live, None)),
                (_, Some(live)) if first.is_none() => prop_assert!(false, "the packet does not fit {}", live),
                (Choice::Live(place), Some(first)) => {
                    prop_assert_eq!((place as usize, candidates[first].liveness), (first, Liveness::Live));
                }
                (Choice::Suspect(place), Some(first)) => {
                    prop_assert_eq!((place as usize, candidates[first].liveness), (first, Liveness::Suspect));
                }
                (Choice::FailOpen(place), None) => {
                    let usable = |c: &Candidate| !c.flags.any_of(Flags::UNUSABLE);
                    let chosen = &candidates[place as usize];
                    prop_assert!(usable(chosen) || !candidates.iter().any(usable));
                    let answering = |c: &Candidate| usable(c) && c.liveness != Liveness::Dead;
                    prop_assert!(answering(chosen) || !candidates.iter().any(answering));
                }
                (Choice::None, None) => prop_assert!(candidates.is_empty()),
                (choice, first) => prop_assert!(false, "{:?} although the first live one is {:?}", choice, first),
            }
        }

        #[test]
        fn a_copy_takes_the_best_live_path_that_it_fits_and_never_the_packets_own(
            candidates in prop::collection::vec((candidate(), 0u32..3), 1..=MAX_PATHS_PER_PEER),
            own in 0..MAX_PATHS_PER_PEER,
        ) {
            let own = own % candidates.len();
            let same_uplink = |place: usize| candidates[place].1 == candidates[own].1;
            let eligible = |place: &usize| {
                let (c, _) = candidates[*place];
                *place != own && c.flags.0 == 0 && !c.latched && c.liveness != Liveness::Dead && c.largest >= LEN
            };
            let best = (0..candidates.len())
                .filter(eligible)
                .min_by_key(|place| (same_uplink(*place), candidates[*place].0.liveness, *place));
            let second = candidates.iter().enumerate().fold(Second::new(), |second, (place, (c, _))| {
                let standing = c.standing(NOW).asked_for(LEN, c.largest);
                second.or(place as u32, standing, u64::from(place == own), u64::from(same_uplink(place)))
            });
            prop_assert_eq!(second.place().map(|place| place as usize), best);
        }

        #[test]
        fn a_calm_path_is_neither_dead_nor_in_want_of_a_copy_while_its_prober_keeps_its_time(
            interval_us in 1_000..1_000_000u64,
            (asked, later) in (0..1000u64, 0..1000u64),
            unanswered in 0..5u64,
            (suspect_tenths, dead_tenths) in (15..100u64, 30..200u64),
            protect in 0..3u32,
        ) {
            let interval_ns = interval_us * 1000;
            let after = |tenths: u64| (tenths * interval_us).div_ceil(10) as u32;
            let thresholds = Thresholds::new(after(suspect_tenths), after(dead_tenths));
            let sent_ns = NOW + 2 * interval_ns * asked / 1000;
            let now_ns = sent_ns + interval_ns * later / 1000;
            let protect = Protect(protect);
            let standing = Standing::new(Flags::NONE, 0, now_ns, NOW, unanswered, thresholds);
            if is_calm(protect, NOW, sent_ns, unanswered, thresholds) {
                prop_assert!(!standing.is_dead());
                prop_assert_eq!(protect.wants_copy(standing.suspect()), 0);
            }
        }

        #[test]
        fn arithmetic_comparisons_compare(a in 0..u64::MAX / 2, b in 0..u64::MAX / 2) {
            prop_assert_eq!(at_least(a, b), u64::from(a >= b));
            prop_assert_eq!(at_least(a, a), 1);
            prop_assert_eq!(is_zero(a), u64::from(a == 0));
            prop_assert_eq!(is_zero(0), 1);
        }

        #[test]
        fn thresholds_survive_the_word(suspect: u32, dead: u32) {
            let thresholds = Thresholds::new(suspect, dead);
            prop_assert_eq!(thresholds.suspect_after_ns(), u64::from(suspect) * 1000);
            prop_assert_eq!(thresholds.dead_after_ns(), u64::from(dead) * 1000);
        }
    }

    #[test]
    fn with_nobody_answering_every_usable_path_gets_its_turn_and_no_other() {
        let dead = |flags| Candidate {
            flags,
            latched: true,
            liveness: Liveness::Dead,
            largest: LEN,
        };
        let candidates = [
            dead(Flags::NONE),
            dead(Flags::NO_CARRIER),
            dead(Flags::HELD),
            dead(Flags::ADMIN_DOWN),
        ];
        let chosen: BTreeSet<u32> = (0..10u64)
            .map(|ms| match choose(&candidates, NOW + (ms << 20)) {
                Choice::FailOpen(place) => place,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), [0, 2]);
    }
}
