//! Whose in-band probes are authentic: the keys that both ends derive from WireGuard's, and what was heard with them.
//!
//! Every peer of a tunnel has an entry, also one that is a mere client here: whoever can derive the keys is answered. User space adds and removes entries and never
//! edits one, so what the programs note in it (the latest request over each of the far end's paths) is theirs alone.
//!
//! **Registration.** Where an authentic request came from is one of its author's paths. A program that finds it in no table tells user space
//! ([`crate::record::Registration`]): at once when it came from somewhere else than before, and again each [`TELL_AGAIN_NS`] as long as nobody minds.
//!
//! **Replays.** A request is new if its timestamp is later than the latest one that was authentic over the same path of the same peer. Its timestamp, not its sequence number,
//! which is of 31 bits and starts anywhere: the asker's kernel stamps both together. So a clock that is set back between two runs of the far end is refused until it
//! has caught up, exactly as WireGuard refuses such a handshake (its TAI64N, <https://www.wireguard.com/protocol/>). A request that was overtaken is not answered.

use crate::abi::MAX_PATHS_PER_PEER;
use crate::client::Whereabouts;
use crate::id::PathId;
use crate::net::Port;
use crate::siphash::Key;
use crate::stamp::Timestamp;
use crate::stamp::in_band::{KeyId, Report};
use crate::{layout, pod};

/// A peer of a tunnel, as its probes name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// The far end's.
    pub far: KeyId,
    /// Our tunnel's listen port.
    pub tunnel: Port,
    /// Always zero.
    pub reserved: [u16; 3],
}

impl KeyName {
    /// Of this far end and tunnel.
    #[must_use]
    #[inline(always)]
    pub const fn new(far: KeyId, tunnel: Port) -> Self {
        Self {
            far,
            tunnel,
            reserved: [0; 3],
        }
    }

    /// Whether the names are the same.
    #[must_use]
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.far.0 == other.far.0 && self.tunnel.0 == other.tunnel.0
    }
}

/// What both ends derive; user space alone writes here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// For what we write to the far end.
    pub ours: Key,
    /// For what the far end writes to us.
    pub theirs: Key,
    /// How our probes name us.
    pub own: KeyId,
}

/// An entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The keys.
    pub keys: Keys,
    /// The latest request over each of the far end's paths, by [`PathId::slot`]; the programs alone write here.
    pub requests: [Request; MAX_PATHS_PER_PEER],
}

/// The latest authentic request over one path.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its [`Timestamp`]; 0 before any.
    pub timestamp: u64,
    /// When it came, and which.
    pub heard: Heard,
    /// Of which place user space was last told that requests come from there.
    pub told: Whereabouts,
    /// When (CLOCK_MONOTONIC); 0: never.
    pub told_ns: u64,
}

/// After how long user space is told once more, in nanoseconds: it may have had no room.
pub const TELL_AGAIN_NS: u64 = 1_000_000_000;

impl Request {
    /// Whether user space wants to be told that requests come from `here`.
    #[must_use]
    #[inline(always)]
    pub const fn wants_telling(told: Whereabouts, told_ns: u64, here: Whereabouts, now_ns: u64) -> bool {
        told_ns == 0 || told.0 != here.0 || now_ns.wrapping_sub(told_ns) >= TELL_AGAIN_NS
    }
}

impl Keyring {
    /// Of which nothing was heard yet.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            ..Self::default()
        }
    }

    /// Where the requests over a path of the far end are noted.
    #[must_use]
    #[inline(always)]
    pub const fn place(path: PathId) -> usize {
        path.slot() as usize
    }
}

/// Whether a request of that moment comes after one of `latest`, in serial arithmetic: timestamps wrap (NTP's in 2036).
#[must_use]
#[inline(always)]
pub const fn is_later(timestamp: Timestamp, latest: u64) -> bool {
    latest == 0 || timestamp.0.wrapping_sub(latest).cast_signed() > 0
}

/// What was last heard over a path, in one word, never torn: the sequence number in the upper half, and when in the lower, in milliseconds of
/// CLOCK_MONOTONIC modulo 2³². 0: nothing (an in-band sequence number is never 0).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard(pub u64);

impl Heard {
    /// This packet, now.
    #[must_use]
    #[inline(always)]
    pub const fn new(sequence: u32, now_ns: u64) -> Self {
        Self((sequence as u64) << 32 | Self::millis(now_ns) as u64)
    }

    #[inline(always)]
    const fn millis(now_ns: u64) -> u32 {
        (now_ns / 1_000_000) as u32
    }

    /// As it is told to the far end.
    #[must_use]
    #[inline(always)]
    pub const fn report(self, now_ns: u64) -> Option<Report> {
        if self.0 == 0 {
            return None;
        }
        let age_ms = Self::millis(now_ns).wrapping_sub(self.0 as u32);
        Some(Report {
            sequence: (self.0 >> 32) as u32,
            age_ms: if age_ms < u16::MAX as u32 {
                age_ms as u16
            } else {
                u16::MAX
            },
        })
    }
}

layout!(KeyName, 16, { far @ 0, tunnel @ 8, reserved @ 10 });
layout!(Keys, 40, { ours @ 0, theirs @ 16, own @ 32 });
layout!(Request, 32, { timestamp @ 0, heard @ 8, told @ 16, told_ns @ 24 });
layout!(Keyring, 40 + 32 * MAX_PATHS_PER_PEER, { keys @ 0, requests @ 40 });
pod!(KeyName, Keys, Keyring, Request, Heard);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_heard_is_reported_with_its_age_and_nothing_is_not_reported() {
        assert_eq!(Heard::default().report(5), None);
        let heard = Heard::new(0x8000_0007, 3_000_000);
        let report = |now_ns| heard.report(now_ns).map(|report| (report.sequence, report.age_ms));
        assert_eq!(report(3_000_000), Some((0x8000_0007, 0)));
        assert_eq!(report(45_999_999), Some((0x8000_0007, 42)));
        assert_eq!(report(3_000_000 + 65_534_000_000), Some((0x8000_0007, 65_534)));
        assert_eq!(report(3_000_000 + 900_000_000_000), Some((0x8000_0007, u16::MAX)));
    }

    #[test]
    fn user_space_is_told_of_a_new_place_at_once_and_of_an_old_one_once_a_second() {
        let (here, there, told_ns) = (Whereabouts(1), Whereabouts(2), 7_000_000_000);
        let wants = |place, after_ns| Request::wants_telling(here, told_ns, place, told_ns + after_ns);
        assert!(Request::wants_telling(Whereabouts(0), 0, here, 1), "never told");
        assert!(wants(there, 0));
        assert!(!wants(here, 0) && !wants(here, TELL_AGAIN_NS - 1));
        assert!(wants(here, TELL_AGAIN_NS));
    }

    proptest! {
        #[test]
        fn of_two_timestamps_less_than_half_the_range_apart_the_later_is_later(latest in 1_u64.., by in 1..i64::MAX) {
            let later = latest.wrapping_add(by.cast_unsigned());
            prop_assert!(is_later(Timestamp(later), latest));
            prop_assert!(later == 0 || !is_later(Timestamp(latest), later));
            prop_assert!(!is_later(Timestamp(latest), latest));
            prop_assert!(is_later(Timestamp(latest), 0), "before any");
        }
    }
}
