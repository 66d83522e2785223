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
//! The first live path in a peer's order that the packet fits carries it; if it fits none, the first live one. A path once found dead stays latched until user space lifts the latch.
//! If none is live, `steer` fails open (see [`Chooser`]). While there is doubt a data packet leaves twice (see [`Protect`] and [`Second`]).

mod choice;

use crate::pod;

pub use self::choice::{Choice, Chooser, Second};

/// Unanswered probes without which no path is suspect.
pub const SUSPECT_MIN_UNANSWERED: u64 = 1;
/// Unanswered probes without which no path is dead.
pub const DEAD_MIN_UNANSWERED: u64 = 3;

/// `suspect_after` in the lower half, `dead_after` in the upper half, both in microseconds: one word, never torn.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds(pub u64);

impl Thresholds {
    /// No silence below an hour means anything: of whoever is not asked none does.
    pub const NEVER: Self = Self::new(u32::MAX, u32::MAX);

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

pod!(Thresholds, Flags, Protect);

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
    /// Path of a client: its probes came by other paths for a while, and by this one they did not.
    pub const SILENT: Self = Self(1 << 5);
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

/// When a peer's data packets are sent a second time, over another live path.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protect(pub u32);

impl Protect {
    /// Never.
    pub const OFF: Self = Self(0);
    /// While the path that carries them is suspect.
    pub const SUSPECT: Self = Self(1);
    /// Always.
    pub const ALWAYS: Self = Self(2);

    /// 1 if a packet by a path that is suspect (1) or not (0) shall be sent a second time, else 0.
    #[must_use]
    #[inline(always)]
    pub const fn wants_copy(self, suspect: u64) -> u64 {
        let Self(protect) = self;
        protect as u64 >> 1 | protect as u64 & suspect
    }
}

/// Whether a path, which carries traffic, surely is neither dead nor in want of copies: told without a clock, which is the dearest of what a packet could ask.
///
/// The latest probe left at `sent_ns`. By then the path had been silent for `sent − proof`, and as long as the prober keeps its time the silence
/// is at most one interval longer now. `suspect_after` is at least 1.5 intervals (the engine's `thresholds.rs`); so after a silence below a third of it, half an interval, it has
/// not been reached. (A prober that is late is believed at its next probe: what was not sent cannot be missing.)
///
/// In steady state `sent − proof` is what is missing from a round trip to whole intervals `I`, until the answer comes. So of the packets a share of
/// `rtt mod I / I`, where that is at most 5/12, needs the closer look, and none where it is more.
#[must_use]
#[inline(always)]
pub const fn is_calm(protect: Protect, proof_ns: u64, sent_ns: u64, unanswered: u64, thresholds: Thresholds) -> bool {
    if unanswered >= DEAD_MIN_UNANSWERED {
        return false;
    }
    match protect {
        Protect::OFF => true,
        Protect::SUSPECT => 3 * sent_ns.saturating_sub(proof_ns) < thresholds.suspect_after_ns(),
        _ => false,
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

/// The rule above.
#[must_use]
pub const fn assess(now_ns: u64, proof_ns: u64, unanswered: u64, thresholds: Thresholds) -> Liveness {
    let standing = Standing::new(Flags::NONE, 0, now_ns, proof_ns, unanswered, thresholds);
    match (standing.is_dead(), standing.is_suspect()) {
        (true, _) => Liveness::Dead,
        (false, true) => Liveness::Suspect,
        (false, false) => Liveness::Live,
    }
}

/// 1 if `x` is 0, else 0, for `x` below 2⁶³.
///
/// This and [`at_least`] are arithmetic on purpose. BPF has no conditional move: every comparison would be a branch, and eight paths of a
/// peer with a few branches each are more ways through the program than the verifier is willing to walk.
#[inline(always)]
const fn is_zero(x: u64) -> u64 {
    x.wrapping_sub(1) >> 63
}

/// 1 if `a ≥ b` as signed numbers whose difference fits, else 0.
#[inline(always)]
const fn at_least(a: u64, b: u64) -> u64 {
    b.wrapping_sub(1).wrapping_sub(a) >> 63
}

/// What is known of one path when a packet asks for it: a few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing(u64);

impl Standing {
    const CARRIES: u64 = 0;
    const USABLE: u64 = 1;
    const ANSWERING: u64 = 2;
    const SUSPECT: u64 = 3;
    const DEAD: u64 = 4;
    const WANTS_LATCH: u64 = 5;
    const TOO_SMALL: u64 = 6;

    /// From the path's and its uplink's flags together, the path's latch and its silence. A proof from the future (another CPU stored it while this
    /// one read its clock) is no silence at all.
    #[must_use]
    #[inline(always)]
    pub const fn new(
        flags: Flags,
        latched_ns: u64,
        now_ns: u64,
        proof_ns: u64,
        unanswered: u64,
        thresholds: Thresholds,
    ) -> Self {
        let silence = now_ns.wrapping_sub(proof_ns);
        let dead = at_least(silence, thresholds.dead_after_ns()) & at_least(unanswered, DEAD_MIN_UNANSWERED);
        let suspect = at_least(silence, thresholds.suspect_after_ns()) & at_least(unanswered, SUSPECT_MIN_UNANSWERED);
        Self::from_bits(flags, latched_ns, dead, suspect)
    }

    /// From a judgement that was made before.
    #[must_use]
    pub const fn judged(flags: Flags, latched: bool, liveness: Liveness) -> Self {
        let (dead, suspect) = match liveness {
            Liveness::Live => (0, 0),
            Liveness::Suspect => (0, 1),
            Liveness::Dead => (1, 1),
        };
        Self::from_bits(flags, latched as u64, dead, suspect)
    }

    #[inline(always)]
    const fn from_bits(flags: Flags, latched_ns: u64, dead: u64, suspect: u64) -> Self {
        let carries = is_zero(flags.0 as u64) & is_zero(latched_ns) & is_zero(dead);
        let usable = is_zero((flags.0 & Flags::UNUSABLE.0) as u64);
        let wants_latch = dead & is_zero(flags.0 as u64) & is_zero(latched_ns);
        let answering = usable & is_zero(dead);
        Self(
            carries << Self::CARRIES
                | usable << Self::USABLE
                | answering << Self::ANSWERING
                | suspect << Self::SUSPECT
                | dead << Self::DEAD
                | wants_latch << Self::WANTS_LATCH,
        )
    }

    /// With a packet of `len` bytes in mind, on a path that takes `largest`.
    #[must_use]
    #[inline(always)]
    pub const fn asked_for(self, len: u32, largest: u32) -> Self {
        Self(self.0 | (at_least(largest as u64, len as u64) ^ 1) << Self::TOO_SMALL)
    }

    #[inline(always)]
    const fn bit(self, bit: u64) -> u64 {
        self.0 >> bit & 1
    }

    /// Whether the path may carry traffic: no flag, no latch, not dead.
    #[must_use]
    #[inline(always)]
    pub const fn carries(self) -> bool {
        self.bit(Self::CARRIES) != 0
    }

    /// 1 if it was found dead just now, without a latch or a flag that says so already, else 0.
    #[must_use]
    #[inline(always)]
    pub const fn wants_latch(self) -> u64 {
        self.bit(Self::WANTS_LATCH)
    }

    /// Whether its silence makes it suspect.
    #[must_use]
    #[inline(always)]
    pub const fn is_suspect(self) -> bool {
        self.suspect() != 0
    }

    /// The same as 1 or 0.
    #[must_use]
    #[inline(always)]
    pub const fn suspect(self) -> u64 {
        self.bit(Self::SUSPECT)
    }

    /// Whether its silence makes it dead.
    #[must_use]
    #[inline(always)]
    pub const fn is_dead(self) -> bool {
        self.bit(Self::DEAD) != 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

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
            assert_eq!(
                assess(MS + silence, MS, unanswered, THRESHOLDS),
                expected,
                "{silence} ns, {unanswered} unanswered"
            );
        }
    }

    #[test]
    fn copies_are_wanted_never_or_in_doubt_or_always() {
        let rows = [
            (Protect::OFF, [0, 0]),
            (Protect::SUSPECT, [0, 1]),
            (Protect::ALWAYS, [1, 1]),
        ];
        for (protect, expected) in rows {
            assert_eq!(
                [0, 1].map(|suspect| protect.wants_copy(suspect)),
                expected,
                "{protect:?}"
            );
        }
    }

    #[test]
    fn a_probe_in_flight_calls_for_a_closer_look_only_where_copies_depend_on_it() {
        // Suspect after 30 ms: the third is 10 ms.
        let calm = |protect, silence_ms, unanswered| is_calm(protect, MS, MS + silence_ms * MS, unanswered, THRESHOLDS);
        let rows = [
            (Protect::OFF, 9, 1, true),
            (Protect::OFF, 59, 2, true),
            (Protect::OFF, 1, 3, false),
            (Protect::SUSPECT, 9, 1, true),
            (Protect::SUSPECT, 10, 1, false),
            (Protect::SUSPECT, 1, 3, false),
            (Protect::ALWAYS, 0, 0, false),
        ];
        for (protect, silence_ms, unanswered, expected) in rows {
            assert_eq!(
                calm(protect, silence_ms, unanswered),
                expected,
                "{protect:?}, {silence_ms} ms, {unanswered}"
            );
        }
        assert!(
            is_calm(Protect::SUSPECT, 2 * MS, MS, 0, THRESHOLDS),
            "the latest probe was answered"
        );
    }

    #[test]
    fn a_proof_from_another_cpus_future_is_no_silence() {
        assert_eq!(assess(5, 6, 9, THRESHOLDS), Liveness::Live);
    }
}
