//! Frames for tests, with right lengths and checksums unless said otherwise.

use std::net::{IpAddr, SocketAddr};

use wgxdp_common::checksum::{finish, sum};
use wgxdp_common::echo::{Payload, icmp_type};

/// The link-layer addresses of frames that the tests build.
pub const DESTINATION_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xdd];
/// See [`DESTINATION_MAC`].
pub const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x55];

/// An IP packet in an Ethernet frame, to be varied before it is built.
#[derive(Clone, Debug)]
pub struct Frame {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: Vec<u8>,
    /// Where the transport checksum is, and whether it covers the addresses.
    checksum: Option<(usize, bool)>,
    destination_mac: [u8; 6],
    fragment: u16,
    options: bool,
    zero_checksum: bool,
    traffic_class: u8,
    hop_limit: u8,
    identification: u16,
}

impl Frame {
    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        let mut transport = Vec::new();
        transport.extend(source.port().to_be_bytes());
        transport.extend(destination.port().to_be_bytes());
        transport.extend((8 + payload.len() as u16).to_be_bytes());
        transport.extend([0, 0]);
        transport.extend(payload);
        Self::new(source.ip(), destination.ip(), 17, transport, Some((6, true)))
    }

    /// A WireGuard message of this type with the words behind it, `len` bytes long.
    #[must_use]
    pub fn message(source: SocketAddr, destination: SocketAddr, kind: u8, words: [u32; 2], len: usize) -> Self {
        let mut message = vec![0xa5; len];
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        message[4..8].copy_from_slice(&words[0].to_ne_bytes());
        message[8..12].copy_from_slice(&words[1].to_ne_bytes());
        Self::udp(source, destination, &message)
    }

    /// A WireGuard data message (type 4) of 32 bytes.
    #[must_use]
    pub fn wireguard(source: SocketAddr, destination: SocketAddr) -> Self {
        let mut message = [0xa5; 32];
        message[..4].copy_from_slice(&[4, 0, 0, 0]);
        Self::udp(source, destination, &message)
    }

    /// An ICMP or ICMPv6 echo or reply with a probe's payload.
    #[must_use]
    pub fn echo(source: IpAddr, destination: IpAddr, reply: bool, ident: u16, sequence: u16, payload: Payload) -> Self {
        let v6 = source.is_ipv6();
        let kind = match (v6, reply) {
            (false, false) => icmp_type::V4_ECHO,
            (false, true) => icmp_type::V4_ECHO_REPLY,
            (true, false) => icmp_type::V6_ECHO,
            (true, true) => icmp_type::V6_ECHO_REPLY,
        };
        let mut transport = vec![kind, 0, 0, 0];
        transport.extend(ident.to_be_bytes());
        transport.extend(sequence.to_be_bytes());
        transport.extend(payload.to_bytes());
        Self::new(source, destination, if v6 { 58 } else { 1 }, transport, Some((2, v6)))
    }

    /// A TCP segment without payload, with these flags and these bytes of options (RFC 9293), a multiple of four.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, options: &[u8]) -> Self {
        let mut transport = Vec::new();
        transport.extend(source.port().to_be_bytes());
        transport.extend(destination.port().to_be_bytes());
        transport.extend([0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08]);
        transport.extend([((20 + options.len()) / 4 * 16) as u8, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        transport.extend(options);
        Self::new(source.ip(), destination.ip(), 6, transport, Some((16, true)))
    }

    /// TCP: with this sequence and this acknowledgement number.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        self.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.transport[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        self
    }

    /// Any other protocol.
    #[must_use]
    pub fn other(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self::new(source, destination, protocol, vec![0; 32], None)
    }

    fn new(
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: Vec<u8>,
        checksum: Option<(usize, bool)>,
    ) -> Self {
        Self {
            source,
            destination,
            protocol,
            transport,
            checksum,
            destination_mac: DESTINATION_MAC,
            fragment: 0,
            options: false,
            zero_checksum: false,
            traffic_class: 0,
            hop_limit: 64,
            identification: 0x1234,
        }
    }

    /// To this link-layer address.
    #[must_use]
    pub fn to_mac(mut self, mac: [u8; 6]) -> Self {
        self.destination_mac = mac;
        self
    }

    /// IPv4: with these flags and offset. IPv6: with a fragment header.
    #[must_use]
    pub fn fragment(mut self, flags_and_offset: u16) -> Self {
        self.fragment = flags_and_offset;
        self
    }

    /// IPv4: with four bytes of options (no-operation). IPv6: with a destination options header.
    #[must_use]
    pub fn options(mut self) -> Self {
        self.options = true;
        self
    }

    /// With this traffic class (IPv4: type of service) and hop limit (IPv4: time to live).
    #[must_use]
    pub fn class_and_hops(mut self, traffic_class: u8, hop_limit: u8) -> Self {
        (self.traffic_class, self.hop_limit) = (traffic_class, hop_limit);
        self
    }

    /// IPv4: with this identification.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Without a UDP checksum, which IPv4 allows (RFC 768).
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.zero_checksum = true;
        self
    }

    /// The bytes of the IP packet alone, as a device without link-layer header has it.
    #[must_use]
    pub fn build_ip(&self) -> Vec<u8> {
        self.build().split_off(14)
    }

    /// The bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut transport = self.transport.clone();
        if let Some((offset, covers_addresses)) = self.checksum
            && !self.zero_checksum
        {
            let mut total = 0;
            if covers_addresses {
                total = sum(&octets(self.source), total);
                total = sum(&octets(self.destination), total);
                total = sum(&[0, self.protocol], total);
                total = sum(&(transport.len() as u16).to_be_bytes(), total);
            }
            let checksum = match finish(sum(&transport, total)) {
                0 if self.protocol == 17 => 0xffff,
                checksum => checksum,
            };
            transport[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(SOURCE_MAC);
        if self.source.is_ipv4() {
            self.build_v4(&mut frame, &transport);
        } else {
            self.build_v6(&mut frame, &transport);
        }
        frame
    }

    fn build_v4(&self, frame: &mut Vec<u8>, transport: &[u8]) {
        let header_len = if self.options { 24 } else { 20 };
        let mut ip = vec![0x40 | (header_len / 4) as u8, self.traffic_class];
        ip.extend(((header_len + transport.len()) as u16).to_be_bytes());
        ip.extend(self.identification.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.hop_limit, self.protocol, 0, 0]);
        ip.extend(octets(self.source));
        ip.extend(octets(self.destination));
        if self.options {
            ip.extend([1; 4]);
        }
        let checksum = finish(sum(&ip, 0));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        frame.extend([0x08, 0x00]);
        frame.extend(ip);
        frame.extend(transport);
    }

    fn build_v6(&self, frame: &mut Vec<u8>, transport: &[u8]) {
        let mut extensions = Vec::new();
        let mut next = self.protocol;
        if self.fragment != 0 {
            extensions = [&[next, 0], &self.fragment.to_be_bytes()[..], &[0, 0, 0, 7], &extensions].concat();
            next = 44;
        }
        if self.options {
            extensions = [&[next, 0, 1, 4, 0, 0, 0, 0], &extensions[..]].concat();
            next = 60;
        }
        let [first, second, ..] = (6 << 28 | u32::from(self.traffic_class) << 20).to_be_bytes();
        frame.extend([0x86, 0xdd, first, second, 0, 0]);
        frame.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
        frame.extend([next, self.hop_limit]);
        frame.extend(octets(self.source));
        frame.extend(octets(self.destination));
        frame.extend(extensions);
        frame.extend(transport);
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_sums_to_zero_with_its_checksums_in_place() {
        let frame = Frame::wireguard(
            "192.0.2.2:51820".parse().unwrap(),
            "198.51.100.1:51820".parse().unwrap(),
        )
        .build();
        assert_eq!(finish(sum(&frame[14..34], 0)), 0, "IPv4 header");
        let pseudo = sum(&[0, 17, 0, 40], sum(&frame[26..34], 0));
        assert_eq!(finish(sum(&frame[34..], pseudo)), 0, "UDP");
    }

    #[test]
    fn the_bytes_of_a_small_datagram_are_these() {
        let frame = Frame::udp("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), b"ab").build();
        let expected = [
            0x02, 0, 0, 0, 0, 0xdd, 0x02, 0, 0, 0, 0, 0x55, 0x08, 0x00, // Ethernet
            0x45, 0, 0, 30, 0x12, 0x34, 0, 0, 64, 17, 0x54, 0x99, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
            0, 1, 0, 2, 0, 10, 0x8a, 0x72, b'a', b'b', // UDP
        ];
        assert_eq!(frame, expected);
    }
}
