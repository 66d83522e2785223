//! WireGuard's messages as they look from outside (<https://www.wireguard.com/protocol/>, drivers/net/wireguard/messages.h).
//!
//! ```text
//!  0       1               4               8
//!  +-------+---------------+---------------+------ …
//!  | type  |  0   0   0    | index         |
//!  +-------+---------------+---------------+------ …
//! ```
//!
//! | type | message | bytes | index at 4 | index at 8 |
//! |---|---|---|---|---|
//! | 1 | handshake initiation | 148 | sender's | |
//! | 2 | handshake response | 92 | sender's | receiver's |
//! | 3 | cookie reply | 64 | receiver's | |
//! | 4 | data | ≥ 32, a multiple of 16 unless full | receiver's | |
//!
//! Data is padded to a multiple of 16, but never beyond the sender's MTU of the tunnel (`calculate_skb_padding` in drivers/net/wireguard/send.c): with
//! the usual 1420 a full message is of 1452 bytes. What that MTU is only the sender knows.
//!
//! The first word, type and reserved bytes together, is compared as it stands in memory on a little-endian machine: the type.

use crate::count::Reason;
use crate::pod;

/// Bytes of the part that every message has: the first word and an index.
pub const HEADER_LEN: usize = 8;

/// The four types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Message {
    /// Type 1.
    Initiation = 1,
    /// Type 2.
    Response = 2,
    /// Type 3.
    Cookie = 3,
    /// Type 4.
    Data = 4,
}

/// A number by which one side knows a session; random, chosen by the side that receives messages with it. As it stands in the packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionIndex(pub u32);

pod!(SessionIndex);

impl Message {
    /// Bytes of a handshake initiation.
    pub const INITIATION_LEN: u32 = 148;
    /// Bytes of a handshake response.
    pub const RESPONSE_LEN: u32 = 92;
    /// Bytes of a cookie reply.
    pub const COOKIE_LEN: u32 = 64;
    /// Bytes of the shortest data message, which carries nothing: a keepalive.
    pub const SHORTEST_DATA_LEN: u32 = 32;
    /// Of which the length of a data message is a multiple, if it is not full.
    pub const DATA_LEN_STEP: u32 = 16;
    /// Bytes of the shortest data message that may be full: no tunnel's MTU is below what every IPv4 host must take (RFC 791).
    pub const SHORTEST_FULL_LEN: u32 = 576 + Self::SHORTEST_DATA_LEN;

    /// The first word of such a message, as it stands in memory.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u32 {
        (self as u32).to_le()
    }

    /// What a UDP payload of `len` bytes is that begins with `first` (its first four bytes as they stand in memory).
    ///
    /// # Errors
    /// Why it cannot be WireGuard's: [`Reason::WrongType`], [`Reason::Reserved`] or [`Reason::WrongLength`].
    #[inline(always)]
    pub const fn classify(first: u32, len: u32) -> Result<Self, Reason> {
        let first = u32::from_le(first);
        if first == Self::Data as u32 {
            let padded = len >= Self::SHORTEST_DATA_LEN && len.is_multiple_of(Self::DATA_LEN_STEP);
            let fits = padded || len >= Self::SHORTEST_FULL_LEN;
            return if fits { Ok(Self::Data) } else { Err(Reason::WrongLength) };
        }
        let (message, expected) = match first {
            1 => (Self::Initiation, Self::INITIATION_LEN),
            2 => (Self::Response, Self::RESPONSE_LEN),
            3 => (Self::Cookie, Self::COOKIE_LEN),
            _ if matches!(first & 0xff, 1..=4) => return Err(Reason::Reserved),
            _ => return Err(Reason::WrongType),
        };
        if len == expected {
            Ok(message)
        } else {
            Err(Reason::WrongLength)
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    fn classify(bytes: [u8; 4], len: u32) -> Result<Message, Reason> {
        Message::classify(u32::from_ne_bytes(bytes), len)
    }

    #[test]
    fn each_message_has_its_length_and_no_other() {
        let exact = [
            (1, 148, Message::Initiation),
            (2, 92, Message::Response),
            (3, 64, Message::Cookie),
        ];
        for (kind, len, message) in exact {
            assert_eq!(classify([kind, 0, 0, 0], len), Ok(message));
            for other in (0..200).filter(|other| *other != len) {
                assert_eq!(
                    classify([kind, 0, 0, 0], other),
                    Err(Reason::WrongLength),
                    "{kind} of {other}"
                );
            }
        }
        for len in 0..2000 {
            let expected = if len >= 32 && len % 16 == 0 || len >= 608 {
                Ok(Message::Data)
            } else {
                Err(Reason::WrongLength)
            };
            assert_eq!(classify([4, 0, 0, 0], len), expected, "data of {len}");
        }
    }

    proptest! {
        #[test]
        fn what_wireguard_sends_is_data_whatever_the_tunnels_mtu(inner in 0_u32..9000, mtu in 576_u32..9000) {
            let padded = inner.min(mtu).next_multiple_of(16).min(mtu);
            prop_assert_eq!(classify([4, 0, 0, 0], padded + 32), Ok(Message::Data));
        }

        #[test]
        fn what_has_another_type_or_reserved_bytes_is_never_wireguards(first: [u8; 4], len in 0_u32..2000) {
            let expected = match first {
                [1..=4, 0, 0, 0] => return Ok(()),
                [1..=4, ..] => Reason::Reserved,
                _ => Reason::WrongType,
            };
            prop_assert_eq!(classify(first, len), Err(expected));
        }
    }
}
