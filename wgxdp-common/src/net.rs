//! Addresses and ports as they stand in packets: network byte order, IPv4 as IPv4-mapped IPv6 (RFC 4291, section 2.5.5.2), so
//! that both families take one path.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{layout, pod};

/// An IPv6 address, or an IPv4-mapped one. The words hold the address's bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

/// A UDP port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port(pub u16);

/// A remote or local `address:port`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: Port,
    /// Always zero.
    pub reserved: [u8; 2],
}

layout!(Endpoint, 20, { address @ 0, port @ 16, reserved @ 18 });
pod!(Address, Port, Endpoint);

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// All zero: no address of either family.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// From the four bytes of an IPv4 address, read as one word in the machine's order (network order in memory).
    #[must_use]
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The IPv4 address as a word whose bytes are in network order; meaningful only if [`Self::is_v4`].
    #[must_use]
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// The same address, if it is known to be an IPv4 one: whoever compiles this knows three of the words, too.
    #[must_use]
    #[inline(always)]
    pub const fn as_v4(self) -> Self {
        Self::from_v4_word(self.v4_word())
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Whether there is no address.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && (self.0[2] == 0 || self.0[2] == MAPPED) && self.0[3] == 0
    }

    /// As the standard library's type.
    #[must_use]
    pub fn to_ip(self) -> IpAddr {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(bytes).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(v4) => return v4.into(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        Self(words)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(v4: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(v4.octets()))
    }
}

impl From<u16> for Port {
    /// From a port number in the machine's order.
    fn from(number: u16) -> Self {
        Self(number.to_be())
    }
}

impl Port {
    /// The port number in the machine's order.
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(socket: SocketAddr) -> Self {
        Self {
            address: socket.ip().into(),
            port: socket.port().into(),
            reserved: [0; 2],
        }
    }
}

impl Endpoint {
    /// See [`Address::as_v4`].
    #[must_use]
    #[inline(always)]
    pub const fn as_v4(self) -> Self {
        Self {
            address: self.address.as_v4(),
            ..self
        }
    }

    /// As the standard library's type.
    #[must_use]
    pub fn to_socket(self) -> SocketAddr {
        SocketAddr::new(self.address.to_ip(), self.port.number())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_survives_the_way_into_a_map_and_back(ip: IpAddr) {
            let expected = match ip { IpAddr::V6(v6) => v6.to_canonical(), v4 => v4 };
            prop_assert_eq!(Address::from(ip).to_ip(), expected);
            prop_assert_eq!(Address::from(ip).is_v4(), expected.is_ipv4());
        }
    }

    #[test]
    fn the_unspecified_address_of_either_family_is_unspecified_and_others_are_not() {
        assert!(Address::UNSPECIFIED.is_unspecified());
        assert!(Address::from(IpAddr::from([0, 0, 0, 0])).is_unspecified());
        assert!(!Address::from(IpAddr::from([0, 0, 0, 1])).is_unspecified());
        assert!(!Address::from(IpAddr::from(Ipv6Addr::LOCALHOST)).is_unspecified());
    }

    #[test]
    fn a_port_stands_in_network_byte_order() {
        assert_eq!(Port::from(51820).0.to_ne_bytes(), [0xca, 0x6c]);
        assert_eq!(Port::from(51820).number(), 51820);
    }
}
