//! STAMP, the Simple Two-way Active Measurement Protocol, in unauthenticated mode: test packets (RFC 8762), the session identifier and TLVs behind them
//! (RFC 8972), and wgxdp's own in-band probe, which is made of both.
//!
//! | module | what |
//! |---|---|
//! | this one | what a session-sender and a session-reflector write: 44 bytes each, so that a reply is never larger than what it answers |
//! | [`tlv`] | what may follow |
//! | [`out_of_band`] | probes to any reflector |
//! | [`in_band`] | the authentic probe between two wgxdp: such a packet with one TLV of a fixed layout |
//!
//! ```text
//!  Session-Sender (RFC 8762, figure 2)              Session-Reflector (RFC 8762, figure 5)
//!   0 +-------------------------------+               0 +-------------------------------+
//!     |        sequence number        |                 |        sequence number        |
//!   4 +-------------------------------+               4 +-------------------------------+
//!     |           timestamp           |                 |           timestamp           |
//!  12 +---------------+---------------+              12 +---------------+---------------+
//!     | error estimate|     SSID      |                 | error estimate|     SSID      |
//!  16 +---------------+---------------+              16 +---------------+---------------+
//!     |                               |                 |       receive timestamp       |
//!     |                               |              24 +-------------------------------+
//!     |                               |                 | session-sender sequence number|
//!     |             zero              |              28 +-------------------------------+
//!     |                               |                 |    session-sender timestamp   |
//!     |                               |              36 +---------------+---------------+
//!     |                               |                 | s.-s. error e.|     zero      |
//!     |                               |              40 +-------+-------+---------------+
//!     |                               |                 |s.-s. TTL|        zero         |
//!  44 +-------------------------------+              44 +---------+---------------------+
//! ```
//!
//! All integers are big-endian.

pub mod in_band;
pub mod out_of_band;
pub mod tlv;

/// Bytes of a test packet without TLVs, either way.
pub const BASE_LEN: usize = 44;
/// The UDP port of session-reflectors (RFC 8762, section 4.1).
pub const PORT: u16 = 862;

/// 64 bits of time; which format it is [`ErrorEstimate::PTP`] says. RFC 8762 has the reflector repeat the sender's without looking at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Seconds from NTP's epoch, 1900, to that of Unix (RFC 5905, figure 4).
    const NTP_TO_UNIX: u64 = 2_208_988_800;
    const NANOS_PER_SEC: u64 = 1_000_000_000;

    /// As NTP writes it (RFC 5905, section 6): seconds since 1900 modulo 2^32, and their fraction in units of 2^-32 s. `unix_ns`: since 1970.
    #[must_use]
    #[inline(always)]
    pub const fn ntp(unix_ns: u64) -> Self {
        let (seconds, nanos) = (unix_ns / Self::NANOS_PER_SEC, unix_ns % Self::NANOS_PER_SEC);
        Self(((seconds + Self::NTP_TO_UNIX) << 32) | ((nanos << 32) / Self::NANOS_PER_SEC))
    }

    /// As PTP writes it, truncated (RFC 8186, section 2.1): seconds modulo 2^32, and nanoseconds. `ns`: since the clock's epoch.
    #[must_use]
    #[inline(always)]
    pub const fn ptp(ns: u64) -> Self {
        Self(((ns / Self::NANOS_PER_SEC) << 32) | (ns % Self::NANOS_PER_SEC))
    }
}

/// How good a timestamp is (RFC 4656, section 4.1.2): S, Z, six bits of scale, eight of multiplier; the error is `multiplier × 2^(scale − 32)` seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

impl ErrorEstimate {
    /// S: the clock is synchronised to UTC by an external source.
    pub const SYNCHRONISED: u16 = 1 << 15;
    /// Z: timestamps are PTP's, not NTP's (RFC 8186, section 2.3).
    pub const PTP: u16 = 1 << 14;
    /// Of a clock that nobody vouches for: NTP's format, not synchronised, the error put at a second.
    pub const UNKNOWN: Self = Self::new(0, 32, 1);

    /// From flags, scale (below 64) and multiplier.
    #[must_use]
    pub const fn new(flags: u16, scale: u16, multiplier: u8) -> Self {
        Self(flags & (Self::SYNCHRONISED | Self::PTP) | (scale & 0x3f) << 8 | multiplier as u16)
    }

    /// Whether a packet that bears it is sound: a multiplier of zero means that it is corrupt (RFC 4656, section 4.1.2).
    #[must_use]
    #[inline(always)]
    pub const fn is_sound(self) -> bool {
        self.0 & 0xff != 0
    }
}

/// What a session-sender writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderPacket {
    /// Counts the session's packets.
    pub sequence: u32,
    /// When it left, or whatever else the sender understands when it comes back.
    pub timestamp: Timestamp,
    /// How good `timestamp` is.
    pub error: ErrorEstimate,
    /// The session's identifier (SSID, RFC 8972, section 3); 0 if it has none.
    pub session: u16,
}

/// Why a datagram is no session-sender's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSenders {
    /// Shorter than [`BASE_LEN`].
    Short,
    /// Its error estimate says that it is corrupt.
    Corrupt,
    /// What a sender must leave zero is not: a reflector's packet.
    Reflected,
}

/// A packet that begins as both kinds do, and is zero behind that.
fn opening(sequence: u32, timestamp: Timestamp, error: ErrorEstimate, session: u16) -> [u8; BASE_LEN] {
    let mut bytes = [0; BASE_LEN];
    bytes[0..4].copy_from_slice(&sequence.to_be_bytes());
    bytes[4..12].copy_from_slice(&timestamp.0.to_be_bytes());
    bytes[12..14].copy_from_slice(&error.0.to_be_bytes());
    bytes[14..16].copy_from_slice(&session.to_be_bytes());
    bytes
}

impl SenderPacket {
    /// As it stands in the packet.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BASE_LEN] {
        opening(self.sequence, self.timestamp, self.error, self.session)
    }

    /// Fills `payload`: what the packet does not need is padding, of which there are at least [`tlv::HEADER_LEN`] bytes if there are any.
    ///
    /// # Errors
    /// It does not fit, or the rest is too short for a TLV.
    pub fn write(self, payload: &mut [u8]) -> Result<(), tlv::DoesNotFit> {
        let (base, behind) = payload.split_first_chunk_mut::<BASE_LEN>().ok_or(tlv::DoesNotFit)?;
        *base = self.to_bytes();
        tlv::pad(behind)
    }

    /// From a datagram's payload; what follows the first [`BASE_LEN`] bytes are TLVs.
    ///
    /// A receiver ought to ignore what must be zero (RFC 8762, section 4.2.1). It is looked at all the same: nothing else tells a reflector's packet from a
    /// sender's, and two reflectors that answer each other never stop. So a TWAMP Light sender (section 4.6) has to pad with zeros.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(payload: &[u8]) -> Result<Self, NotSenders> {
        let (base, _) = payload.split_first_chunk::<BASE_LEN>().ok_or(NotSenders::Short)?;
        let packet = Self {
            sequence: u32::from_be_bytes(part(base, 0)),
            timestamp: Timestamp(u64::from_be_bytes(part(base, 4))),
            error: ErrorEstimate(u16::from_be_bytes(part(base, 12))),
            session: u16::from_be_bytes(part(base, 14)),
        };
        if !packet.error.is_sound() {
            return Err(NotSenders::Corrupt);
        }
        if base[16..].iter().any(|byte| *byte != 0) {
            return Err(NotSenders::Reflected);
        }
        Ok(packet)
    }
}

/// What a session-reflector answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReflectorPacket {
    /// Of a stateless reflector the sender's, else a count of its own.
    pub sequence: u32,
    /// When the answer left.
    pub timestamp: Timestamp,
    /// How good both of the reflector's timestamps are.
    pub error: ErrorEstimate,
    /// The session's identifier, as the sender wrote it.
    pub session: u16,
    /// When the sender's packet arrived.
    pub received: Timestamp,
    /// The sender's sequence number.
    pub sender_sequence: u32,
    /// The sender's timestamp, as it stood.
    pub sender_timestamp: Timestamp,
    /// The sender's error estimate.
    pub sender_error: ErrorEstimate,
    /// The TTL or hop limit with which the sender's packet arrived.
    pub sender_ttl: u8,
}

impl ReflectorPacket {
    /// A stateless reflector's answer (RFC 8762, section 4.3): to `packet`, which arrived with `ttl` at `received`, and leaves at `timestamp`.
    #[must_use]
    pub const fn answering(
        packet: SenderPacket,
        ttl: u8,
        received: Timestamp,
        timestamp: Timestamp,
        error: ErrorEstimate,
    ) -> Self {
        Self {
            sequence: packet.sequence,
            timestamp,
            error,
            session: packet.session,
            received,
            sender_sequence: packet.sequence,
            sender_timestamp: packet.timestamp,
            sender_error: packet.error,
            sender_ttl: ttl,
        }
    }

    /// As it stands in the packet.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BASE_LEN] {
        let mut bytes = opening(self.sequence, self.timestamp, self.error, self.session);
        bytes[16..24].copy_from_slice(&self.received.0.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.sender_sequence.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.sender_timestamp.0.to_be_bytes());
        bytes[36..38].copy_from_slice(&self.sender_error.0.to_be_bytes());
        bytes[40] = self.sender_ttl;
        bytes
    }

    /// From the packet. What must be zero is not looked at (RFC 8762, section 4.3.1).
    #[must_use]
    #[inline(always)]
    pub fn from_bytes(base: &[u8; BASE_LEN]) -> Self {
        Self {
            sequence: u32::from_be_bytes(part(base, 0)),
            timestamp: Timestamp(u64::from_be_bytes(part(base, 4))),
            error: ErrorEstimate(u16::from_be_bytes(part(base, 12))),
            session: u16::from_be_bytes(part(base, 14)),
            received: Timestamp(u64::from_be_bytes(part(base, 16))),
            sender_sequence: u32::from_be_bytes(part(base, 24)),
            sender_timestamp: Timestamp(u64::from_be_bytes(part(base, 28))),
            sender_error: ErrorEstimate(u16::from_be_bytes(part(base, 36))),
            sender_ttl: base[40],
        }
    }
}

/// `N` bytes from `offset` on, both constants of the layout.
#[inline(always)]
fn part<const N: usize>(base: &[u8; BASE_LEN], offset: usize) -> [u8; N] {
    core::array::from_fn(|i| base[offset + i])
}

#[cfg(test)]
mod tests;
