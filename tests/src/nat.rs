//! A router with address translation, on a [wire](crate::wire): all UDP of the host behind it comes from one address and port, until it forgets.
//!
//! Whoever knows that address and port reaches the host (endpoint-independent mapping and filtering, RFC 4787); what is not UDP over IPv4 ends here.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use wgxdp_common::checksum::update;

use crate::wire::Way;

const UDP: u8 = 17;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;
const HEADER: usize = 20;

/// The translation of one host's only socket.
#[derive(Debug)]
pub(crate) struct Nat {
    ends: Mutex<Ends>,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    /// The host's, once it has sent something.
    inside: Option<SocketAddrV4>,
    outside: SocketAddrV4,
}

impl Nat {
    /// To this address and port.
    pub(crate) fn to(outside: SocketAddrV4) -> Self {
        Self {
            ends: Mutex::new(Ends { inside: None, outside }),
        }
    }

    /// Forgets the mapping and takes another port: what comes to the old one is lost from now on.
    pub(crate) fn rebind(&self, port: u16) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.outside.set_port(port);
    }

    /// Translates a packet; whether it goes on.
    pub(crate) fn translate(&self, way: Way, packet: &mut [u8]) -> bool {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let is_udp = packet.first() == Some(&0x45) && packet.get(9) == Some(&UDP) && packet.len() >= HEADER + 8;
        match way {
            _ if !is_udp => false,
            Way::Out => {
                ends.inside = end(packet, SOURCE, 0);
                replace(packet, SOURCE, 0, ends.outside).is_some()
            }
            Way::Back => match ends.inside {
                Some(inside) if end(packet, DESTINATION, 2) == Some(ends.outside) => {
                    replace(packet, DESTINATION, 2, inside).is_some()
                }
                _ => false,
            },
        }
    }
}

/// The address at `address`, and the port at `port` in the UDP header.
fn end(packet: &[u8], address: usize, port: usize) -> Option<SocketAddrV4> {
    let address: [u8; 4] = *packet.get(address..)?.first_chunk()?;
    let port = *packet.get(HEADER + port..)?.first_chunk()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port)))
}

/// Writes them, and what both checksums are then.
fn replace(packet: &mut [u8], address: usize, port: usize, new: SocketAddrV4) -> Option<()> {
    let old = end(packet, address, port)?;
    let bytes = |end: SocketAddrV4| (end.ip().octets(), end.port().to_be_bytes());
    let ((old_ip, old_port), (new_ip, new_port)) = (bytes(old), bytes(new));
    let sum = |packet: &[u8], at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let ip_sum = update(sum(packet, 10)?, &old_ip, &new_ip);
    let udp_sum = match sum(packet, HEADER + 6)? {
        0 => 0,
        sum => match update(update(sum, &old_ip, &new_ip), &old_port, &new_port) {
            0 => 0xffff,
            sum => sum,
        },
    };
    packet.get_mut(address..)?.first_chunk_mut().map(|at| *at = new_ip)?;
    packet
        .get_mut(HEADER + port..)?
        .first_chunk_mut()
        .map(|at| *at = new_port)?;
    packet
        .get_mut(10..)?
        .first_chunk_mut()
        .map(|at| *at = ip_sum.to_be_bytes())?;
    packet
        .get_mut(HEADER + 6..)?
        .first_chunk_mut()
        .map(|at| *at = udp_sum.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::frame::Frame;

    fn packet(source: &str, destination: &str) -> Vec<u8> {
        let ends = [source, destination].map(|end| end.parse::<SocketAddr>().expect("valid"));
        Frame::wireguard(ends[0], ends[1]).build()[14..].to_vec()
    }

    #[test]
    fn what_leaves_comes_from_outside_and_what_comes_back_reaches_the_inside() {
        let nat = Nat::to("10.0.0.1:4000".parse().expect("valid"));
        let mut out = packet("192.168.0.2:51820", "203.0.113.1:51820");
        assert!(nat.translate(Way::Out, &mut out));
        assert_eq!(out, packet("10.0.0.1:4000", "203.0.113.1:51820"));
        let mut back = packet("203.0.113.1:51820", "10.0.0.1:4000");
        assert!(nat.translate(Way::Back, &mut back));
        assert_eq!(back, packet("203.0.113.1:51820", "192.168.0.2:51820"));
    }

    #[test]
    fn what_comes_to_a_forgotten_port_or_before_anything_left_is_lost() {
        let nat = Nat::to("10.0.0.1:4000".parse().expect("valid"));
        let mut back = packet("203.0.113.1:51820", "10.0.0.1:4000");
        assert!(!nat.translate(Way::Back, &mut back), "nothing has left yet");
        assert!(nat.translate(Way::Out, &mut packet("192.168.0.2:51820", "203.0.113.1:51820")));
        nat.rebind(4001);
        assert!(!nat.translate(Way::Back, &mut back), "the port is forgotten");
        assert!(nat.translate(Way::Back, &mut packet("203.0.113.1:51820", "10.0.0.1:4001")));
    }

    #[test]
    fn what_is_not_udp_ends_here() {
        let nat = Nat::to("10.0.0.1:4000".parse().expect("valid"));
        let ends = [Ipv4Addr::new(192, 168, 0, 2), Ipv4Addr::new(203, 0, 113, 1)];
        let mut other = Frame::other(ends[0].into(), ends[1].into(), 6).build()[14..].to_vec();
        assert!(!nat.translate(Way::Out, &mut other));
    }
}
