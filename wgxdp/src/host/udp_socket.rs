//! Whether a UDP port is somebody's, by one question to the kernel (`sock_diag(7)`), in the network namespace of the calling thread.

use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// `struct nlmsghdr` (linux/netlink.h): length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2` (linux/inet_diag.h).
const REQUEST: usize = 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;

/// Whether a socket, the kernel's own included, is bound to `port` on all addresses, of either family.
///
/// # Errors
/// Except that a kernel without such look-ups (CONFIG_INET_UDP_DIAG) says of every port that it is nobody's.
pub fn is_bound(port: u16) -> io::Result<bool> {
    Ok(is_bound_in(libc::AF_INET, port)? || is_bound_in(libc::AF_INET6, port)?)
}

fn is_bound_in(family: libc::c_int, port: u16) -> io::Result<bool> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request(family as u8, port), &SocketAddr::new(0, 0), 0)?;
    // The kernel answers within the call to send: there is nothing to wait for.
    socket.set_non_blocking(true)?;
    let (answer, _) = socket.recv_from_full()?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    match (kind, word(HEADER).map(i32::from_ne_bytes)) {
        (Some(SOCK_DIAG_BY_FAMILY), _) => Ok(true),
        (Some(NLMSG_ERROR), Some(errno)) if errno == -libc::ENOENT => Ok(false),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks for the one socket that would get a packet to `port` from nowhere in particular: of a UDP socket the kernel takes the destination of the request for
/// its own end (`udp_dump_one`, net/ipv4/udp_diag.c).
fn request(family: u8, port: u16) -> [u8; HEADER + REQUEST] {
    const DESTINATION_PORT: usize = HEADER + 10;
    const COOKIE: usize = HEADER + REQUEST - 8;
    let mut bytes = [0; HEADER + REQUEST];
    bytes[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    (bytes[HEADER], bytes[HEADER + 1]) = (family, libc::IPPROTO_UDP as u8);
    // Sockets in any state, with any cookie (INET_DIAG_NOCOOKIE).
    bytes[HEADER + 4..HEADER + 8].fill(0xff);
    bytes[DESTINATION_PORT..DESTINATION_PORT + 2].copy_from_slice(&port.to_be_bytes());
    bytes[COOKIE..].fill(0xff);
    bytes
}
