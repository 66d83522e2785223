//! The authentic probe between two wgxdp, which goes where the tunnel's data goes: from its port, to the far end's port.
//!
//! It is a STAMP test packet (request: a session-sender's, answer: a session-reflector's) whose sequence number has its top bit set, so that its first byte is none
//! of WireGuard's types (1–4, [`crate::message`]): WireGuard drops it without a word. Behind it is one private TLV (RFC 8972, section 4):
//!
//! ```text
//!   0 +---------------------------------------------------------------+
//!     |                 test packet, 44 bytes (see `stamp`)           |
//!  44 +-------+-------+---------------+                               |
//!     | flags |  252  |  length = 32  |                               |
//!  48 +-------+-------+---------------+-------+-------+---------------+
//!     |      enterprise number        |version| flags |  report's age |
//!  56 +-------------------------------+-------+-------+---------------+
//!     |                     the author's key id                       |
//!  64 +-------------------------------+-------------------------------+
//!     |      the asker's path         |   report's sequence number    |
//!  72 +-------------------------------+-------------------------------+
//!     |             SipHash-2-4 of the 72 bytes before it             |
//!  80 +---------------------------------------------------------------+
//!     |  if it tests a size: one Extra Padding TLV, which no tag      |
//!     |  covers, because nobody reads it                              |
//!     +---------------------------------------------------------------+
//! ```
//!
//! - The **author** is whoever wrote the packet: of a request the asker, of an answer the reflector. The tag's key is for what one author writes to one reader, so
//!   that nobody's own packet comes back to it as authentic; [`flag::ANSWER`] tells an answer from a request of the same author.
//! - The **report** says what the author last heard from the reader over this path: the sequence number of the latest authentic packet, and its age. An author whose
//!   packets arrive but who hears nothing says so, and a path that is dead one way is known at both ends.
//! - The sequence number is of 31 bits and grows with each request; the tag covers the timestamp, too. Request and answer are of equal size.
//!
//! Integers are big-endian, but for the tag, which is little-endian as SipHash writes it.

use super::tlv::DoesNotFit;
use super::{BASE_LEN, ErrorEstimate, Timestamp, tlv};
use crate::id::PathId;
use crate::siphash::{self, Key};
use crate::{layout, pod};

/// Bytes of the probe without padding.
pub const LEN: usize = size_of::<InBand>();
/// Of the TLV's value.
const VALUE_LEN: u16 = (LEN - BASE_LEN - tlv::HEADER_LEN) as u16;
/// Always set in a sequence number.
pub const SEQUENCE_BIT: u32 = 1 << 31;
/// That which stands for no enterprise (RFC 5612): wgxdp has none of its own.
const ENTERPRISE: u32 = 32473;
/// Of this layout.
const VERSION: u8 = 1;

/// Flags of the TLV's value.
pub mod flag {
    /// The author's traffic goes by this path.
    pub const ACTIVE: u8 = 1;
    /// An answer, not a request.
    pub const ANSWER: u8 = 1 << 1;
    /// There is a report.
    pub const REPORT: u8 = 1 << 2;
}

/// Whose keys these are: the first eight bytes of the SHA-256 of a WireGuard public key, as they stand in the packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyId(pub u64);

/// An integer in network byte order.
macro_rules! big_endian {
    ($($name:ident($t:ty);)+) => {
        $(
            #[doc = concat!("A `", stringify!($t), "` in network byte order.")]
            #[repr(transparent)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            struct $name($t);

            impl $name {
                #[inline(always)]
                const fn new(number: $t) -> Self {
                    Self(number.to_be())
                }

                #[inline(always)]
                const fn get(self) -> $t {
                    <$t>::from_be(self.0)
                }
            }
        )+
    };
}

big_endian! {
    Be16(u16);
    Be32(u32);
}

/// A timestamp, which stands at a multiple of four bytes only.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Time([Be32; 2]);

impl From<Timestamp> for Time {
    #[inline(always)]
    fn from(Timestamp(number): Timestamp) -> Self {
        Self([Be32::new((number >> 32) as u32), Be32::new(number as u32)])
    }
}

impl From<Time> for Timestamp {
    #[inline(always)]
    fn from(Time([high, low]): Time) -> Self {
        Self(u64::from(high.get()) << 32 | u64::from(low.get()))
    }
}

/// The probe as it stands in the packet, from the UDP payload's first byte on.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InBand {
    sequence: Be32,
    timestamp: Time,
    error: Be16,
    session: Be16,
    received: Time,
    sender_sequence: Be32,
    sender_timestamp: Time,
    sender_error: Be16,
    zero: u16,
    sender_ttl: u8,
    zeros: [u8; 3],
    tlv: [u8; tlv::HEADER_LEN],
    enterprise: Be32,
    version: u8,
    flags: u8,
    report_age_ms: Be16,
    key_id: KeyId,
    path: Be32,
    report_sequence: Be32,
    tag: u64,
}

layout!(InBand, 80, {
    sequence @ 0, timestamp @ 4, error @ 12, session @ 14, received @ 16, sender_sequence @ 24, sender_timestamp @ 28, sender_error @ 36, zero @ 38,
    sender_ttl @ 40, zeros @ 41, tlv @ 44, enterprise @ 48, version @ 52, flags @ 53, report_age_ms @ 54, key_id @ 56, path @ 64, report_sequence @ 68,
    tag @ 72
});
pod!(KeyId, InBand);

/// What the author last heard from the reader over this path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The sequence number of the latest authentic packet.
    pub sequence: u32,
    /// How long ago it came, in milliseconds; [`u16::MAX`] stands for that and for anything longer.
    pub age_ms: u16,
}

/// What an author says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// Who it is.
    pub key_id: KeyId,
    /// Whether its traffic goes by this path.
    pub active: bool,
    /// What it heard.
    pub report: Option<Report>,
    /// How good its timestamps are.
    pub error: ErrorEstimate,
}

/// How a request came to the reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Timestamp,
    /// With which TTL or hop limit.
    pub ttl: u8,
}

impl InBand {
    /// A request, not yet sealed. Of `sequence` 31 bits are used.
    #[must_use]
    #[inline(always)]
    pub fn request(sequence: u32, timestamp: Timestamp, path: PathId, author: Author) -> Self {
        let mut request = Self {
            sequence: Be32::new(sequence | SEQUENCE_BIT),
            tlv: tlv::header(tlv::kind::PRIVATE, VALUE_LEN),
            enterprise: Be32::new(ENTERPRISE),
            version: VERSION,
            path: Be32::new(path.0),
            ..Self::default()
        };
        request.leave(timestamp, author);
        request
    }

    /// Makes a request one that leaves at `timestamp`; not yet sealed. This and [`Self::turn`] work in place: a program's stack holds few copies.
    #[inline(always)]
    pub fn leave(&mut self, timestamp: Timestamp, author: Author) {
        self.timestamp = timestamp.into();
        self.sign(author, 0);
    }

    /// The answer to this request, which leaves at `timestamp`; not yet sealed.
    #[must_use]
    #[inline(always)]
    pub fn answer(&self, arrival: Arrival, timestamp: Timestamp, author: Author) -> Self {
        let mut answer = *self;
        answer.turn(arrival, timestamp, author);
        answer
    }

    /// Makes a request its answer; see [`Self::answer`].
    #[inline(always)]
    pub fn turn(&mut self, arrival: Arrival, timestamp: Timestamp, author: Author) {
        self.sender_sequence = self.sequence;
        self.sender_timestamp = self.timestamp;
        self.sender_error = self.error;
        self.sender_ttl = arrival.ttl;
        self.received = arrival.at.into();
        self.timestamp = timestamp.into();
        // Its type is understood: U is not set.
        self.tlv[0] = 0;
        self.sign(author, flag::ANSWER);
    }

    #[inline(always)]
    fn sign(&mut self, author: Author, flags: u8) {
        let active = if author.active { flag::ACTIVE } else { 0 };
        let (reported, report) = match author.report {
            Some(report) => (flag::REPORT, report),
            None => (0, Report { sequence: 0, age_ms: 0 }),
        };
        self.error = Be16::new(author.error.0);
        self.flags = flags | active | reported;
        self.report_age_ms = Be16::new(report.age_ms);
        self.report_sequence = Be32::new(report.sequence);
        self.key_id = author.key_id;
    }

    /// With its tag, by the author's key for this reader.
    #[must_use]
    #[inline(always)]
    pub fn sealed(mut self, key: Key) -> Self {
        self.seal(key);
        self
    }

    /// The same in place.
    #[inline(always)]
    pub fn seal(&mut self, key: Key) {
        self.tag = self.tag_by(key);
    }

    /// Whether its author has this key and wrote every byte of it.
    #[must_use]
    #[inline(always)]
    pub fn is_authentic(&self, key: Key) -> bool {
        self.tag == self.tag_by(key)
    }

    #[inline(always)]
    fn tag_by(&self, key: Key) -> u64 {
        siphash::tag(key, self.covered()).to_le()
    }

    /// All words but the last, which is the tag.
    #[inline(always)]
    const fn covered(&self) -> &[u64; LEN / 8 - 1] {
        // SAFETY: integers only, without padding (`layout!` above), aligned as words.
        unsafe { &*(&raw const *self).cast() }
    }

    /// Whether a payload that begins with this is a probe of this version, as far as can be told without a key.
    #[must_use]
    #[inline(always)]
    pub const fn is_well_formed(&self) -> bool {
        const HEADER: [u8; tlv::HEADER_LEN] = tlv::header(tlv::kind::PRIVATE, VALUE_LEN);
        self.sequence.get() & SEQUENCE_BIT != 0
            && self.tlv[1] == HEADER[1]
            && self.tlv[2] == HEADER[2]
            && self.tlv[3] == HEADER[3]
            && self.enterprise.get() == ENTERPRISE
            && self.version == VERSION
    }

    /// The sequence number, top bit included; of an answer, the request's.
    #[must_use]
    #[inline(always)]
    pub const fn sequence(&self) -> u32 {
        self.sequence.get()
    }

    /// When it left, by its author's clock.
    #[must_use]
    #[inline(always)]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp.into()
    }

    /// Of an answer: the request's timestamp, as it stood there.
    #[must_use]
    #[inline(always)]
    pub fn sender_timestamp(&self) -> Timestamp {
        self.sender_timestamp.into()
    }

    /// Of an answer: when the request arrived, by the reflector's clock.
    #[must_use]
    #[inline(always)]
    pub fn received(&self) -> Timestamp {
        self.received.into()
    }

    /// Whether it answers a request.
    #[must_use]
    #[inline(always)]
    pub const fn is_answer(&self) -> bool {
        self.flags & flag::ANSWER != 0
    }

    /// Whether the author's traffic goes by this path.
    #[must_use]
    #[inline(always)]
    pub const fn is_active(&self) -> bool {
        self.flags & flag::ACTIVE != 0
    }

    /// Who wrote it, if it is authentic.
    #[must_use]
    #[inline(always)]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The asker's number of the path.
    #[must_use]
    #[inline(always)]
    pub const fn path(&self) -> PathId {
        PathId(self.path.get())
    }

    /// What the author heard.
    #[must_use]
    #[inline(always)]
    pub fn report(&self) -> Option<Report> {
        let report = Report {
            sequence: self.report_sequence.get(),
            age_ms: self.report_age_ms.get(),
        };
        (self.flags & flag::REPORT != 0).then_some(report)
    }

    /// As it stands in memory, in words.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u64; LEN / 8] {
        // SAFETY: integers only, without padding (`layout!` above).
        unsafe { core::mem::transmute::<Self, [u64; LEN / 8]>(*self) }
    }

    /// From the words of a packet.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(words: [u64; LEN / 8]) -> Self {
        // SAFETY: of integers every bit pattern is a value; there is no padding (`layout!` above).
        unsafe { core::mem::transmute::<[u64; LEN / 8], Self>(words) }
    }

    /// From a UDP payload, if it may be such a probe.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (head, _) = payload.split_first_chunk::<LEN>()?;
        let word = |i: usize| u64::from_ne_bytes(core::array::from_fn(|byte| head[8 * i + byte]));
        let probe = Self::from_words(core::array::from_fn(word));
        probe.is_well_formed().then_some(probe)
    }

    /// Fills `payload`: what the probe does not need is padding, of which there are at least [`tlv::HEADER_LEN`] bytes if there are any.
    ///
    /// # Errors
    /// It does not fit, or the rest is too short for a TLV.
    pub fn write(&self, payload: &mut [u8]) -> Result<(), DoesNotFit> {
        let (head, behind) = payload.split_first_chunk_mut::<LEN>().ok_or(DoesNotFit)?;
        tlv::pad(behind)?;
        for (bytes, word) in head.chunks_exact_mut(8).zip(self.words()) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
