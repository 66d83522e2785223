//! Probes to any STAMP reflector, which knows nothing of wgxdp: how an answer is recognised by what every reflector repeats.
//!
//! A session-sender's timestamp is for the sender alone, and a reflector repeats it (RFC 8762, section 4.3.1). So it need not be a time: the kernel remembers when the
//! probe left. It holds the path's number and a nonce instead:
//!
//! ```text
//!  63                40 39                                  0
//!  +-------------------+------------------------------------+
//!  |       path        |               random               |
//!  +-------------------+------------------------------------+
//! ```
//!
//! Whoever does not see the probe has to guess 40 bits of it, its sequence number and its port, within the time of a round trip.

use super::{ErrorEstimate, SenderPacket, Timestamp};
use crate::abi::PROBE_MARK_MASK;
use crate::echo::Payload;
use crate::id::PathId;

/// Where in an answer the sender's sequence number and timestamp are, which are side by side as in the probe: three words of four bytes.
pub const REPEATED: usize = 24;
/// Random bits of a nonce.
const RANDOM: u32 = 40;
const _: () = assert!(
    !PROBE_MARK_MASK >> (u64::BITS - RANDOM) == 0,
    "a path that fits a mark fits a timestamp"
);

/// The probe over `path`. Of `random` 40 bits are used.
#[must_use]
pub const fn probe(path: PathId, sequence: u16, random: u64) -> SenderPacket {
    SenderPacket {
        sequence: sequence as u32,
        timestamp: Timestamp(((path.0 as u64) << RANDOM) | (random & ((1 << RANDOM) - 1))),
        error: ErrorEstimate::UNKNOWN,
        session: 0,
    }
}

/// From sequence number and timestamp as they stand in memory, in the probe or repeated: what an echo says in its payload, and the sequence number in
/// network byte order. The nonce is the whole timestamp. `None` if the sequence number is none of ours.
#[must_use]
#[inline(always)]
pub const fn read([sequence, high, low]: [u32; 3]) -> Option<(Payload, u16)> {
    let nonce = ((u32::from_be(high) as u64) << 32) | u32::from_be(low) as u64;
    let sequence = u32::from_be(sequence);
    if sequence > u16::MAX as u32 {
        return None;
    }
    let payload = Payload {
        path: PathId((nonce >> RANDOM) as u32),
        nonce,
    };
    Some((payload, (sequence as u16).to_be()))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use proptest::prelude::*;

    use super::*;
    use crate::count::Reason;
    use crate::message::Message;
    use crate::stamp::{BASE_LEN, ReflectorPacket};

    fn words(bytes: &[u8], at: usize) -> [u32; 3] {
        core::array::from_fn(|i| u32::from_ne_bytes(*bytes[at + 4 * i..].first_chunk().unwrap()))
    }

    proptest! {
        #[test]
        fn probe_and_answer_name_path_sequence_and_nonce(path in 0_u32..1 << 24, sequence: u16, random: u64, ttl: u8, received: u64, left: u64) {
            let probe = probe(PathId(path), sequence, random);
            let answer = ReflectorPacket::answering(probe, ttl, Timestamp(received), Timestamp(left), ErrorEstimate::UNKNOWN);
            let payload = Payload { path: PathId(path), nonce: probe.timestamp.0 };
            let expected = Some((payload, sequence.to_be()));
            prop_assert_eq!(read(words(&probe.to_bytes(), 0)), expected);
            prop_assert_eq!(read(words(&answer.to_bytes(), REPEATED)), expected);
            prop_assert_eq!(payload.nonce & 0xff_ffff_ffff, random & 0xff_ffff_ffff);
        }

        #[test]
        fn no_probe_looks_like_wireguards(path in 0_u32..1 << 24, sequence: u16, random: u64) {
            let bytes = probe(PathId(path), sequence, random).to_bytes();
            let judged = Message::classify(words(&bytes, 0)[0], BASE_LEN as u32);
            prop_assert_eq!(judged, Err(Reason::WrongType));
        }

        #[test]
        fn a_sequence_number_beyond_sixteen_bits_is_not_ours(sequence in 0x1_0000_u32.., high: u32, low: u32) {
            prop_assert_eq!(read([sequence.to_be(), high, low]), None);
        }
    }
}
