//! Sends probes: ICMP echoes, STAMP test packets and TCP's SYNs. Each carries its path's fwmark, so that the rule leads it to the anchor and `steer` sends it where the
//! path's data goes; the kernel takes both timestamps, and `guard` or `restore` consumes the replies, so nothing is ever read here.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use socket2::{Domain, MsgHdr, Protocol, Socket, Type};
use wgxdp_common::abi::PROBE_MARK;
use wgxdp_common::checksum::{finish, sum};
use wgxdp_common::echo::{HEADER_LEN, PAYLOAD_LEN, Payload, icmp_type};
use wgxdp_common::id::PathId;
use wgxdp_common::stamp::in_band::{self, Author, InBand, KeyId};
use wgxdp_common::stamp::{BASE_LEN, ErrorEstimate, Timestamp, out_of_band, tlv};
use wgxdp_common::tcp;

use crate::mtu::Family;

/// `SOL_RAW` and `ICMP_FILTER` (linux/icmp.h), `ICMPV6_FILTER` (linux/icmpv6.h).
const SOL_RAW: libc::c_int = 255;
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;
/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: u32 = 8;

/// Bytes of the IP packet that a probe is, if it is not padded.
#[must_use]
pub const fn packet_len(family: Family) -> u32 {
    family.header() + (HEADER_LEN + PAYLOAD_LEN) as u32
}

/// The same of a TCP probe's SYN. Of a target that listens the answer is as long, and so is the RST that goes back to it.
#[must_use]
pub const fn syn_len(family: Family) -> u32 {
    family.header() + tcp::SYN_LEN as u32
}

/// A port that is free in one family may be taken in the other; the kernel gives another one each time.
const PORT_ATTEMPTS: usize = 16;

/// Where probes of a path go, and what they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// ICMP or ICMPv6 echoes to this address.
    Icmp(IpAddr),
    /// STAMP test packets (RFC 8762) to this reflector.
    Stamp(SocketAddr),
    /// In-band probes to this endpoint, which `steer` completes and has come from the tunnel's port.
    InBand(SocketAddr),
    /// The beginning of a TCP connection to this address and port.
    Tcp(SocketAddr),
}

impl Target {
    /// Its address.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        match self {
            Self::Icmp(address) => *address,
            Self::Stamp(socket) | Self::InBand(socket) | Self::Tcp(socket) => socket.ip(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp(address) => address.fmt(f),
            Self::Stamp(reflector) => reflector.fmt(f),
            Self::InBand(endpoint) => write!(f, "{endpoint} in band"),
            Self::Tcp(target) => write!(f, "{target} by TCP"),
        }
    }
}

/// The probes' sockets, and the number by which the programs know their replies: the echoes' identifier and the datagrams' source port.
#[derive(Debug)]
pub struct Prober {
    v4: Sockets,
    v6: Option<Sockets>,
    ident: u16,
}

/// Of one family.
#[derive(Debug)]
struct Sockets {
    /// The canonical address, to which all are bound.
    source: IpAddr,
    tcp: Socket,
    icmp: Socket,
    udp: Socket,
}

impl Prober {
    /// Opens the sockets, bound to the canonical addresses.
    ///
    /// # Errors
    /// No raw sockets to be had, the addresses are not there, or no port is free in both families.
    pub fn open(v4: IpAddr, v6: Option<IpAddr>) -> io::Result<Self> {
        let mut opened = Self::try_open(v4, v6);
        for _ in 1..PORT_ATTEMPTS {
            if !matches!(&opened, Err(e) if e.kind() == io::ErrorKind::AddrInUse) {
                break;
            }
            opened = Self::try_open(v4, v6);
        }
        opened
    }

    fn try_open(v4: IpAddr, v6: Option<IpAddr>) -> io::Result<Self> {
        let v4 = Sockets::open(v4, 0)?;
        let bound = v4.udp.local_addr()?.as_socket();
        let ident = bound.ok_or(io::ErrorKind::AddrNotAvailable)?.port();
        let v6 = v6.map(|v6| Sockets::open(v6, ident)).transpose()?;
        Ok(Self { v4, v6, ident })
    }

    /// The identifier of this run's echoes and the source port of its datagrams, in the machine's byte order.
    #[must_use]
    pub fn ident(&self) -> u16 {
        self.ident
    }

    /// Sends a probe over `path` to `target`, with a nonce that nobody can guess, padded to an IP packet of `len` bytes if that is more than it has. (STAMP's out of band and TCP's are never
    /// padded.)
    ///
    /// # Errors
    /// What the socket says; the probe did not leave.
    pub fn send(&self, path: PathId, sequence: u32, target: Target, len: u32) -> io::Result<()> {
        // The programs remember sixteen bits of it.
        let remembered = sequence as u16;
        let nonce = rand::random_range(1..=u64::MAX);
        match target {
            Target::Icmp(address) => {
                let behind_ip = len.saturating_sub(Family::of(address).header()) as usize;
                let packet = echo_request(
                    address.is_ipv6(),
                    self.ident,
                    remembered,
                    Payload { path, nonce },
                    behind_ip,
                );
                send(&self.sockets(address)?.icmp, path, &packet, SocketAddr::new(address, 0))
            }
            Target::Stamp(reflector) => {
                let mut packet = vec![0; payload_len(reflector.ip(), BASE_LEN, len)];
                let written = out_of_band::probe(path, remembered, nonce).write(&mut packet);
                written.map_err(|_| io::ErrorKind::InvalidData)?;
                send(&self.sockets(reflector.ip())?.udp, path, &packet, reflector)
            }
            Target::InBand(endpoint) => {
                let packet = in_band_request(path, sequence, payload_len(endpoint.ip(), in_band::LEN, len))?;
                send(&self.sockets(endpoint.ip())?.udp, path, &packet, endpoint)
            }
            Target::Tcp(target) => {
                let sockets = self.sockets(target.ip())?;
                let source = SocketAddr::new(sockets.source, tcp::port(path, sequence));
                let packet = tcp::syn(source, target, rand::random(), remembered);
                send(&sockets.tcp, path, &packet, SocketAddr::new(target.ip(), 0))
            }
        }
    }

    fn sockets(&self, target: IpAddr) -> io::Result<&Sockets> {
        match target {
            IpAddr::V4(_) => Ok(&self.v4),
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable.into()),
        }
    }
}

/// Bytes of a datagram's payload that makes an IP packet to `target` of `len` bytes, or is `least` if that leaves no room for padding.
fn payload_len(target: IpAddr, least: usize, len: u32) -> usize {
    let padded = len.saturating_sub(Family::of(target).header() + UDP_HEADER) as usize;
    if padded >= least + tlv::HEADER_LEN {
        padded
    } else {
        least
    }
}

/// What `steer` takes for a request of `len` bytes: it adds who asks, when, and what was heard.
fn in_band_request(path: PathId, sequence: u32, len: usize) -> io::Result<Vec<u8>> {
    let nobody = Author {
        key_id: KeyId::default(),
        active: false,
        report: None,
        error: ErrorEstimate::UNKNOWN,
    };
    let mut packet = vec![0; len];
    let request = InBand::request(sequence, Timestamp::default(), path, nobody);
    request.write(&mut packet).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(packet)
}

fn send(socket: &Socket, path: PathId, packet: &[u8], target: SocketAddr) -> io::Result<()> {
    let mark = Marked::new(PROBE_MARK | path.0);
    let (target, parts) = (target.into(), [IoSlice::new(packet)]);
    let message = MsgHdr::new()
        .with_addr(&target)
        .with_buffers(&parts)
        .with_control(mark.bytes());
    socket.sendmsg(&message, 0)?;
    Ok(())
}

/// Ancillary data that give one packet a mark (`__sock_cmsg_send`), so that the socket's own need not be set for each.
#[repr(C)]
struct Marked {
    header: libc::cmsghdr,
    mark: u32,
    reserved: u32,
}

impl Marked {
    fn new(mark: u32) -> Self {
        // SAFETY: plain integers. (Some C libraries' have another one, which must be zero.)
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = std::mem::offset_of!(Self, reserved) as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SO_MARK;
        Self {
            header,
            mark,
            reserved: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: integers without padding, all of them set, for as long as `self` is borrowed.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

impl Sockets {
    fn open(source: IpAddr, port: u16) -> io::Result<Self> {
        let address = SocketAddr::new(source, port);
        let udp = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        // What is left of it is an in-band answer's: it must be enough for two ways.
        match source {
            IpAddr::V4(_) => {
                udp.set_ttl_v4(u8::MAX.into())?;
                allow_fragments(&udp)?;
            }
            IpAddr::V6(_) => udp.set_unicast_hops_v6(u8::MAX.into())?,
        }
        udp.bind(&address.into())?;
        Ok(Self {
            source,
            tcp: tcp_socket(source)?,
            icmp: icmp_socket(source)?,
            udp,
        })
    }
}

/// It hears what TCP says to the canonical address, to which nobody connects.
fn tcp_socket(source: IpAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(source, 0));
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket)
}

fn icmp_socket(source: IpAddr) -> io::Result<Socket> {
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
        allow_fragments(&socket)?;
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket)
}

/// As the kernel's WireGuard sends its packets over IPv4: who cannot forward a large one may cut it up.
fn allow_fragments(socket: &Socket) -> io::Result<()> {
    let whole: libc::c_int = libc::IP_PMTUDISC_DONT;
    let (option, len) = ((&raw const whole).cast(), size_of_val(&whole) as libc::socklen_t);
    // SAFETY: an integer of that length, which the pointer covers.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, option, len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
    fn a_datagram_is_padded_to_the_packet_s_size_if_that_leaves_room_for_a_tlv() {
        let (v4, v6) = (
            IpAddr::from([192, 0, 2, 1]),
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        );
        assert_eq!(payload_len(v4, BASE_LEN, 1480), 1480 - 28);
        assert_eq!(payload_len(v6, BASE_LEN, 1480), 1480 - 48);
        assert_eq!(payload_len(v4, BASE_LEN, 28 + 48), 48);
        assert_eq!(payload_len(v4, BASE_LEN, 28 + 47), BASE_LEN);
        assert_eq!(payload_len(v4, BASE_LEN, 0), BASE_LEN);
    }

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
