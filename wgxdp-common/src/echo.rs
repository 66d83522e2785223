//! The payload of an ICMP echo probe (RFC 792, RFC 4443 section 4.1), which the far end repeats to the letter.
//!
//! ```text
//!  0               4               8                               16
//!  +---------------+---------------+-------------------------------+
//!  |     magic     |    path id    |        nonce (random)         |
//!  +---------------+---------------+-------------------------------+
//! ```
//!
//! The integers are big-endian; the nonce is compared as it stands. The sequence number is in the ICMP header.

use crate::id::PathId;

/// Bytes of the payload.
pub const PAYLOAD_LEN: usize = 16;
/// "wgxp".
pub const MAGIC: u32 = 0x7767_7870;
/// Bytes of an ICMP echo header.
pub const HEADER_LEN: usize = 8;

/// ICMP and ICMPv6 types.
pub mod icmp_type {
    /// RFC 792.
    pub const V4_ECHO: u8 = 8;
    /// RFC 792.
    pub const V4_ECHO_REPLY: u8 = 0;
    /// RFC 4443.
    pub const V6_ECHO: u8 = 128;
    /// RFC 4443.
    pub const V6_ECHO_REPLY: u8 = 129;
}

/// A probe's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The path that the probe tests.
    pub path: PathId,
    /// Random, never zero; in the byte order of the packet. (Of a STAMP probe: [`crate::stamp::out_of_band`].)
    pub nonce: u64,
}

impl Payload {
    /// As it stands in the packet.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PAYLOAD_LEN] {
        let mut bytes = [0; PAYLOAD_LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.path.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nonce.to_ne_bytes());
        bytes
    }

    /// From the packet; `None` if it is somebody else's.
    #[must_use]
    #[inline(always)]
    pub const fn from_bytes(b: &[u8; PAYLOAD_LEN]) -> Option<Self> {
        if u32::from_be_bytes([b[0], b[1], b[2], b[3]]) != MAGIC {
            return None;
        }
        Some(Self {
            path: PathId(u32::from_be_bytes([b[4], b[5], b[6], b[7]])),
            nonce: u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_payload_survives_the_wire(path: u32, nonce: u64) {
            let payload = Payload { path: PathId(path), nonce };
            prop_assert_eq!(Payload::from_bytes(&payload.to_bytes()), Some(payload));
        }

        #[test]
        fn a_payload_with_any_other_magic_is_somebody_elses(mut bytes: [u8; PAYLOAD_LEN], bit in 0usize..32) {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Payload::from_bytes(&bytes), None);
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let payload = Payload {
            path: PathId(0x0102_0304),
            nonce: u64::from_ne_bytes(*b"ABCDEFGH"),
        };
        assert_eq!(&payload.to_bytes(), b"wgxp\x01\x02\x03\x04ABCDEFGH");
    }
}
