//! Sends echo probes. Each carries its path's fwmark, so that the rule leads it to the anchor and `steer` sends it where the path's data
//! goes; the kernel takes both timestamps, and `restore` consumes the replies, so nothing is ever read here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use socket2::{Domain, Protocol, Socket, Type};
use wgxdp_common::abi::PROBE_MARK;
use wgxdp_common::checksum::{finish, sum};
use wgxdp_common::echo::{HEADER_LEN, PAYLOAD_LEN, Payload, icmp_type};
use wgxdp_common::id::PathId;

use crate::mtu::Family;

/// `SOL_RAW` and `ICMP_FILTER` (linux/icmp.h), `ICMPV6_FILTER` (linux/icmpv6.h).
const SOL_RAW: libc::c_int = 255;
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;

/// Bytes of the IP packet that a probe is, if it is not padded.
#[must_use]
pub const fn packet_len(family: Family) -> u32 {
    family.header() + (HEADER_LEN + PAYLOAD_LEN) as u32
}

/// The probes' sockets and their identifier.
#[derive(Debug)]
pub struct Prober {
    v4: Socket,
    v6: Option<Socket>,
    ident: u16,
}

impl Prober {
    /// Opens the sockets, bound to the canonical addresses, with a random identifier.
    ///
    /// # Errors
    /// No raw sockets to be had, or the addresses are not there.
    pub fn open(v4: IpAddr, v6: Option<IpAddr>) -> io::Result<Self> {
        Ok(Self {
            v4: socket(v4)?,
            v6: v6.map(socket).transpose()?,
            ident: rand::random(),
        })
    }

    /// The identifier of this run's echoes, in the machine's byte order.
    #[must_use]
    pub fn ident(&self) -> u16 {
        self.ident
    }

    /// Sends a probe over `path` to `target`, with a nonce that nobody can guess, padded to an IP packet of `len` bytes if that is more than it has.
    ///
    /// # Errors
    /// What the socket says; the probe did not leave.
    pub fn send(&self, path: PathId, sequence: u32, target: IpAddr, len: u32) -> io::Result<()> {
        let socket = match target {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?,
        };
        let nonce = rand::random_range(1..=u64::MAX);
        let behind_ip = len.saturating_sub(Family::of(target).header()) as usize;
        let payload = Payload { path, nonce };
        let packet = echo_request(target.is_ipv6(), self.ident, sequence as u16, payload, behind_ip);
        socket.set_mark(PROBE_MARK | path.0)?;
        socket.send_to(&packet, &SocketAddr::new(target, 0).into())?;
        Ok(())
    }
}

fn socket(source: IpAddr) -> io::Result<Socket> {
    let (domain, protocol, level, filter) = match source {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, SOL_RAW, ICMP_FILTER),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, libc::IPPROTO_ICMPV6, ICMPV6_FILTER),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    // A bit for each type that is not wanted: all. ICMP knows 32 of them, ICMPv6 256.
    let nothing = [u32::MAX; 8];
    let len = if source.is_ipv4() { 4 } else { 32 };
    // SAFETY: an option of that length, which the pointer covers.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, filter, nothing.as_ptr().cast(), len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if source.is_ipv4() {
        let whole: libc::c_int = libc::IP_PMTUDISC_DONT;
        let (option, len) = ((&raw const whole).cast(), size_of_val(&whole) as libc::socklen_t);
        // As the kernel's WireGuard sends its packets: who cannot forward a large one may cut it up.
        // SAFETY: an integer of that length, which the pointer covers.
        let result =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, option, len) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket)
}

/// RFC 792, RFC 4443 section 4.1. The kernel fills in ICMPv6's checksum, which covers addresses that it chooses.
/// `len`: bytes that it is padded to if it has less.
fn echo_request(v6: bool, ident: u16, sequence: u16, payload: Payload, len: usize) -> Bytes {
    let len = len.max(HEADER_LEN + PAYLOAD_LEN);
    let mut packet = BytesMut::with_capacity(len);
    packet.put_u8(if v6 { icmp_type::V6_ECHO } else { icmp_type::V4_ECHO });
    packet.put_u8(0);
    packet.put_u16(0);
    packet.put_u16(ident);
    packet.put_u16(sequence);
    packet.put_slice(&payload.to_bytes());
    packet.put_bytes(0, len - packet.len());
    if !v6 {
        let checksum = finish(sum(&packet, 0));
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_sums_to_zero_and_an_icmpv6_one_is_left_to_the_kernel() {
        let payload = Payload {
            path: PathId(7),
            nonce: 0x1234_5678_9abc_def0,
        };
        let v4 = echo_request(false, 0xbeef, 0x0102, payload, 0);
        assert_eq!(finish(sum(&v4, 0)), 0);
        assert_eq!((v4[0], &v4[4..8]), (8, [0xbe, 0xef, 1, 2].as_slice()));
        assert_eq!(v4[8..], payload.to_bytes());
        let v6 = echo_request(true, 0xbeef, 0x0102, payload, 0);
        assert_eq!((v6[0], &v6[2..4]), (128, [0, 0].as_slice()));
        let padded = echo_request(false, 0xbeef, 0x0102, payload, 1481);
        assert_eq!((padded.len(), finish(sum(&padded, 0))), (1481, 0));
        assert_eq!(padded[8..24], payload.to_bytes());
    }
}
