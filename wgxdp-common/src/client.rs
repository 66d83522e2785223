//! Learned clients: peers that speak from wherever they are, and are answered where they last spoke.
//!
//! | map | key | value | who writes |
//! |---|---|---|---|
//! | `CLIENTS` | a client's endpoint | [`Whereabouts`] | `restore` |
//! | `HANDSHAKES` | an endpoint and the session index of its handshake message | [`Whereabouts`] | `restore` |
//! | `SESSIONS` | a session index of ours | nothing | `steer` |
//! | `LOCALS` | a local address | [`LocalId`] | user space |
//! | `ADDRESSES` | [`LocalId`] | [`Local`] | user space |
//!
//! What moves a client is a data message whose receiver index this host handed out: `steer` saw it leave in a handshake message of ours. Nobody
//! who cannot read our handshakes knows it. The answer to a handshake message leaves where that very message came in: its session index
//! is in the answer, so that nobody else's message with the same source changes the answer's way. The first three maps are LRU: bounded,
//! and the oldest go.

use crate::id::UplinkId;
use crate::message::SessionIndex;
use crate::net::{Address, Port};
use crate::table::EndpointKey;
use crate::{layout, pod};

/// A local address, as an index into the map of addresses; 0 is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalId(pub u32);

impl LocalId {
    /// No address that could be named: the uplink's own is used.
    pub const NONE: Self = Self(0);
}

/// A local address to which tunnel packets may come.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The address; written while nothing refers to the entry.
    pub address: Address,
    /// The [`UplinkId`] whose device has it, or [`Local::ANY_UPLINK`], or [`Local::GONE`].
    pub uplink: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Local {
    /// An address of the host's own, such as a loopback device's: it may leave by all uplinks.
    pub const ANY_UPLINK: u32 = u32::MAX;
    /// The host has it no more.
    pub const GONE: u32 = u32::MAX - 1;
}

/// Where somebody last spoke, in one word, never torn.
///
/// ```text
///  63            32 31          16 15           8 7            0
///  +---------------+--------------+--------------+--------------+
///  |     check     |    local     |     zero     |    uplink    |
///  +---------------+--------------+--------------+--------------+
/// ```
///
/// LRU maps reuse an element at once: whoever looked it up may read another client's. `check` is a part of the key's hash and tells.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts(pub u64);

impl Whereabouts {
    /// The uplink and the local address at which `key` spoke.
    #[must_use]
    #[inline(always)]
    pub const fn new(key: &EndpointKey, uplink: UplinkId, local: LocalId) -> Self {
        Self((key.hash() as u64) << 32 | (local.0 as u64 & 0xffff) << 16 | uplink.0 as u64 & 0xff)
    }

    /// Whether this is about `key`.
    #[must_use]
    #[inline(always)]
    pub const fn is_about(self, key: &EndpointKey) -> bool {
        (self.0 >> 32) as u32 == key.hash()
    }

    /// The uplink.
    #[must_use]
    #[inline(always)]
    pub const fn uplink(self) -> UplinkId {
        UplinkId(self.0 as u32 & 0xff)
    }

    /// The local address.
    #[must_use]
    #[inline(always)]
    pub const fn local(self) -> LocalId {
        LocalId((self.0 >> 16) as u32 & 0xffff)
    }
}

/// A handshake message that came in: whose, and the session index that its answer will bear.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HandshakeKey {
    /// From where, and to which tunnel.
    pub endpoint: EndpointKey,
    /// The sender's index.
    pub index: SessionIndex,
}

/// A session index that this host handed out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The index.
    pub index: SessionIndex,
    /// The tunnel's listen port.
    pub tunnel: Port,
    /// Always zero.
    pub reserved: u16,
}

layout!(Local, 24, { address @ 0, uplink @ 16, reserved @ 20 });
layout!(HandshakeKey, 24, { endpoint @ 0, index @ 20 });
layout!(SessionKey, 8, { index @ 0, tunnel @ 4, reserved @ 6 });
pod!(LocalId, Local, Whereabouts, HandshakeKey, SessionKey);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;

    fn key(address: IpAddr, port: u16) -> EndpointKey {
        EndpointKey {
            endpoint: address.into(),
            port: port.into(),
            tunnel: 51820.into(),
        }
    }

    proptest! {
        #[test]
        fn whereabouts_give_back_what_they_were_made_of(address: IpAddr, port: u16, uplink in 0_u32..16, local: u16) {
            let key = key(address, port);
            let whereabouts = Whereabouts::new(&key, UplinkId(uplink), LocalId(local.into()));
            prop_assert!(whereabouts.is_about(&key));
            prop_assert_eq!(whereabouts.uplink(), UplinkId(uplink));
            prop_assert_eq!(whereabouts.local(), LocalId(local.into()));
        }
    }

    #[test]
    fn whereabouts_are_not_about_the_next_port() {
        let address = IpAddr::from([203, 0, 113, 1]);
        let whereabouts = Whereabouts::new(&key(address, 1), UplinkId(0), LocalId(1));
        assert!(!whereabouts.is_about(&key(address, 2)));
    }
}
