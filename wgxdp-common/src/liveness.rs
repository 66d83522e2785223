//! When a path is live, suspect or dead, and which path carries a packet.
//!
//! A path is as good as its last proof. With `silence = now − proof`:
//!
//! ```text
//!   silence < suspect_after                                    live
//!   suspect_after ≤ silence < dead_after                       suspect, if a probe has gone unanswered
//!   dead_after ≤ silence                                       dead, if three probes have gone unanswered
//! ```
//!
//! Silence alone convicts nobody: a prober that was starved, stopped or killed has not asked, and what was not sent cannot be missing.
//!
//! The first live path in a peer's order carries the packet. A path once found dead stays latched until user space lifts the latch.
//! If none is live, `steer` fails open (see [`Chooser`]).

use crate::abi::MAX_PATHS_PER_PEER;
use crate::pod;

/// Unanswered probes without which no path is suspect.
pub const SUSPECT_MIN_UNANSWERED: u64 = 1;
/// Unanswered probes without which no path is dead.
pub const DEAD_MIN_UNANSWERED: u64 = 3;

/// `suspect_after` in the lower half, `dead_after` in the upper half, both in microseconds: one word, never torn.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds(pub u64);

impl Thresholds {
    /// From microseconds of silence.
    #[must_use]
    pub const fn new(suspect_after_us: u32, dead_after_us: u32) -> Self {
        Self(suspect_after_us as u64 | (dead_after_us as u64) << 32)
    }

    /// Silence, in nanoseconds, that makes the path suspect.
    #[must_use]
    #[inline(always)]
    pub const fn suspect_after_ns(self) -> u64 {
        (self.0 & 0xffff_ffff) * 1000
    }

    /// Silence, in nanoseconds, that makes the path dead.
    #[must_use]
    #[inline(always)]
    pub const fn dead_after_ns(self) -> u64 {
        (self.0 >> 32) * 1000
    }
}

/// Reasons for not using a path or an uplink, a bit each; none set: use it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

pod!(Thresholds, Flags);

impl Flags {
    /// Nothing speaks against it.
    pub const NONE: Self = Self(0);
    /// Uplink: the device does not exist, or has no address of the family in use.
    pub const ABSENT: Self = Self(1);
    /// Uplink: set down by the administrator.
    pub const ADMIN_DOWN: Self = Self(1 << 1);
    /// Uplink: no carrier.
    pub const NO_CARRIER: Self = Self(1 << 2);
    /// Path: answers again, but must stay clean for the hold-down first.
    pub const HELD: Self = Self(1 << 3);
    /// Path or uplink: taken out of service by the operator.
    pub const DRAINED: Self = Self(1 << 4);
    /// Reasons for which a packet sent there would surely be lost, or must not be sent: not even failing open ignores them.
    pub const UNUSABLE: Self = Self(Self::ABSENT.0 | Self::ADMIN_DOWN.0 | Self::NO_CARRIER.0);

    /// Both sets of reasons.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These reasons without `other`.
    #[must_use]
    #[inline(always)]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether any of `other` is set.
    #[must_use]
    #[inline(always)]
    pub const fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What a path's silence says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It proved itself recently enough.
    Live,
    /// Silent for longer than usual.
    Suspect,
    /// Silent for too long.
    Dead,
}

/// The rule above. A proof from the future (another CPU stored it while this one read its clock) is no silence at all.
#[must_use]
#[inline(always)]
pub const fn assess(now_ns: u64, proof_ns: u64, unanswered: u64, thresholds: Thresholds) -> Liveness {
    let silence = now_ns.saturating_sub(proof_ns);
    if silence >= thresholds.dead_after_ns() && unanswered >= DEAD_MIN_UNANSWERED {
        Liveness::Dead
    } else if silence >= thresholds.suspect_after_ns() && unanswered >= SUSPECT_MIN_UNANSWERED {
        Liveness::Suspect
    } else {
        Liveness::Live
    }
}

/// What is known of one path when a packet asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The path's and its uplink's flags together.
    pub flags: Flags,
    /// Found dead before, and not released since.
    pub latched: bool,
    /// What its silence says.
    pub liveness: Liveness,
}

/// Which path carries a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first live one, by its place in the peer's order.
    Live(u32),
    /// The first live one is suspect. Here a copy for the next live path will have its place.
    Suspect(u32),
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
    usable: u32,
    answering: u32,
}

impl Chooser {
    /// Offers the path in the next place. `Some` is the decision: do not offer more.
    #[inline(always)]
    pub fn offer(&mut self, candidate: Candidate) -> Option<Choice> {
        let place = self.places;
        self.places += 1;
        if !candidate.latched && candidate.flags.0 == 0 {
            match candidate.liveness {
                Liveness::Live => return Some(Choice::Live(place)),
                Liveness::Suspect => return Some(Choice::Suspect(place)),
                Liveness::Dead => {}
            }
        }
        if !candidate.flags.any_of(Flags::UNUSABLE) {
            self.usable |= 1 << place;
            if !matches!(candidate.liveness, Liveness::Dead) {
                self.answering |= 1 << place;
            }
        }
        None
    }

    /// The decision after every path was offered and none was live.
    #[must_use]
    #[inline(always)]
    pub fn fail_open(self, now_ns: u64) -> Choice {
        if self.places == 0 {
            return Choice::None;
        }
        if self.answering != 0 {
            return Choice::FailOpen(self.answering.trailing_zeros());
        }
        if self.usable == 0 {
            return Choice::FailOpen(0);
        }
        // About a millisecond each (2²⁰ ns), by the clock, so that no state is kept.
        let mut skip = (now_ns >> 20) as u32 % self.usable.count_ones();
        let mut place = 0;
        while place < MAX_PATHS_PER_PEER as u32 {
            if self.usable & 1 << place != 0 {
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    const THRESHOLDS: Thresholds = Thresholds::new(30_000, 60_000);
    const MS: u64 = 1_000_000;

    #[test]
    fn silence_past_a_threshold_convicts_only_with_unanswered_probes() {
        let rows = [
            (0, 9, Liveness::Live),
            (30 * MS - 1, 9, Liveness::Live),
            (30 * MS, 0, Liveness::Live),
            (30 * MS, 1, Liveness::Suspect),
            (60 * MS - 1, 9, Liveness::Suspect),
            (60 * MS, 2, Liveness::Suspect),
            (60 * MS, 3, Liveness::Dead),
            (3600 * 1000 * MS, 0, Liveness::Live),
            (3600 * 1000 * MS, 2, Liveness::Suspect),
        ];
        for (silence, unanswered, expected) in rows {
            assert_eq!(assess(MS + silence, MS, unanswered, THRESHOLDS), expected, "{silence} ns, {unanswered} unanswered");
        }
    }

    #[test]
    fn a_proof_from_another_cpus_future_is_no_silence() {
        assert_eq!(assess(5, 6, 9, THRESHOLDS), Liveness::Live);
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let liveness = prop_oneof![Just(Liveness::Live), Just(Liveness::Suspect), Just(Liveness::Dead)];
        (0u32..32, any::<bool>(), liveness).prop_map(|(flags, latched, liveness)| Candidate {
            flags: Flags(flags),
            latched,
            liveness,
        })
    }

    fn choose(candidates: &[Candidate], now_ns: u64) -> Choice {
        let mut chooser = Chooser::default();
        candidates.iter().find_map(|c| chooser.offer(*c)).unwrap_or_else(|| chooser.fail_open(now_ns))
    }

    proptest! {
        #[test]
        fn the_first_live_path_carries_the_packet_and_a_peer_with_paths_always_gets_one(
            candidates in prop::collection::vec(candidate(), 0..=MAX_PATHS_PER_PEER),
            now_ns: u64,
        ) {
            let live = |c: &Candidate| c.flags.0 == 0 && !c.latched && c.liveness != Liveness::Dead;
            match (choose(&candidates, now_ns), candidates.iter().position(live)) {
                (Choice::Live(place) | Choice::Suspect(place), Some(first)) => prop_assert_eq!(place as usize, first),
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
        fn thresholds_survive_the_word(suspect: u32, dead: u32) {
            let thresholds = Thresholds::new(suspect, dead);
            prop_assert_eq!(thresholds.suspect_after_ns(), u64::from(suspect) * 1000);
            prop_assert_eq!(thresholds.dead_after_ns(), u64::from(dead) * 1000);
        }
    }

    #[test]
    fn with_nobody_answering_every_usable_path_gets_its_turn_and_no_other() {
        let dead = |flags| Candidate { flags, latched: true, liveness: Liveness::Dead };
        let candidates = [dead(Flags::NONE), dead(Flags::NO_CARRIER), dead(Flags::HELD), dead(Flags::ADMIN_DOWN)];
        let chosen: BTreeSet<u32> = (0..10u64)
            .map(|ms| match choose(&candidates, ms << 20) {
                Choice::FailOpen(place) => place,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), [0, 2]);
    }
}
