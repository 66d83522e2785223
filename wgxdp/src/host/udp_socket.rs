//! Whether a UDP port is somebody's, and whether its packets found room there, by questions to the kernel (`sock_diag(7)`), in the network namespace of the calling thread.

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
/// `struct inet_diag_msg`: what an answer says before its attributes.
const ANSWER: usize = 72;
/// The attribute with a socket's memory (linux/inet_diag.h): words, of which these say how much it may hold and what it dropped (linux/sock_diag.h).
const INET_DIAG_SKMEMINFO: u16 = 7;
const SK_MEMINFO_RCVBUF: usize = 1;
const SK_MEMINFO_DROPS: usize = 8;

/// The queue of what its owner has not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveQueue {
    /// Bytes that it holds at most, the kernel's own for each packet among them.
    pub room: u32,
    /// Packets that found none since the socket was made; it wraps.
    pub dropped: u32,
}

/// Whether a socket, the kernel's own included, is bound to `port` on all addresses, of either family.
///
/// # Errors
/// Except that a kernel without such look-ups (CONFIG_INET_UDP_DIAG) says of every port that it is nobody's.
pub fn is_bound(port: u16) -> io::Result<bool> {
    Ok(ask(libc::AF_INET, port)?.is_some() || ask(libc::AF_INET6, port)?.is_some())
}

/// The receive queues of the sockets that are bound so: one, or one for each family.
///
/// # Errors
/// As [`is_bound`].
pub fn receive_queues(port: u16) -> io::Result<Vec<ReceiveQueue>> {
    let answers = [ask(libc::AF_INET, port)?, ask(libc::AF_INET6, port)?];
    Ok(answers.iter().flatten().filter_map(|answer| queue_of(answer)).collect())
}

/// What the kernel says of the socket, if there is one.
pub(super) fn ask(family: libc::c_int, port: u16) -> io::Result<Option<Vec<u8>>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request(family as u8, port), &SocketAddr::new(0, 0), 0)?;
    // The kernel answers within the call to send: there is nothing to wait for.
    socket.set_non_blocking(true)?;
    let (answer, _) = socket.recv_from_full()?;
    match (half(&answer, 4), word(&answer, HEADER).map(|word| word as i32)) {
        (Some(SOCK_DIAG_BY_FAMILY), _) => Ok(Some(answer)),
        (Some(NLMSG_ERROR), Some(errno)) if errno == -libc::ENOENT => Ok(None),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Attributes begin with their length and kind (`struct rtattr`), and are padded to words.
pub(super) fn queue_of(answer: &[u8]) -> Option<ReceiveQueue> {
    let mut at = HEADER + ANSWER;
    loop {
        let length = usize::from(half(answer, at)?);
        if half(answer, at + 2)? == INET_DIAG_SKMEMINFO {
            let value = |place: usize| word(answer.get(..at + length)?, at + 4 + 4 * place);
            return Some(ReceiveQueue {
                room: value(SK_MEMINFO_RCVBUF)?,
                dropped: value(SK_MEMINFO_DROPS)?,
            });
        }
        at += length.max(4).next_multiple_of(4);
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
    bytes[HEADER + 2] = 1 << (INET_DIAG_SKMEMINFO - 1);
    // Sockets in any state, with any cookie (INET_DIAG_NOCOOKIE).
    bytes[HEADER + 4..HEADER + 8].fill(0xff);
    bytes[DESTINATION_PORT..DESTINATION_PORT + 2].copy_from_slice(&port.to_be_bytes());
    bytes[COOKIE..].fill(0xff);
    bytes
}
