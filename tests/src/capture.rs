//! What UDP passes by a host, as its devices see it: which device, which way, between which ends, and the first byte, WireGuard's message type.
//!
//! A packet socket (packet(7)) of the kind that leaves link-layer headers out, so that a tun device looks like any other. It sees what arrives before any TC
//! program does, and what leaves after all of them. Before and after are told by a marker, a packet of our own through the same queue, and not by clocks:
//! what passed before a [`Mark`] was taken is before it, however late the thread gets to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::host::Host;
use crate::poll;

/// How long the thread waits before it looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How far behind the thread may be.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Bytes of the socket's buffer.
const BUFFER: usize = 8 << 20;
/// Bytes of a packet that are looked at: both headers and the first byte.
const HEADERS: usize = 128;
/// `sll_pkttype` of packets that leave (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
const UDP: u8 = 17;

/// A UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The device; a number where it is gone by now.
    pub device: String,
    /// It left by the device; else it arrived.
    pub left: bool,
    /// Whence.
    pub source: SocketAddr,
    /// Whither.
    pub destination: SocketAddr,
    /// Its first byte.
    pub kind: Option<u8>,
}

/// A running capture; dropped, it stops.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    marker: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

/// A place in what passes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

#[derive(Debug)]
struct Shared {
    host: Host,
    marker: SocketAddr,
    stop: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    seen: Vec<Seen>,
    markers_sent: u64,
    markers_seen: u64,
}

impl Capture {
    /// Starts at all devices of `host`.
    ///
    /// # Errors
    /// No packet socket (needs root).
    pub fn start(host: &Host) -> Result<Self> {
        let socket = host.enter(|| {
            socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        });
        let socket = socket.with_context(|| format!("a packet socket in {} (needs root)", host.name()))?;
        setsockopt(&socket, RcvBufForce, &BUFFER).context("enlarging the packet socket's buffer")?;
        let look = TimeVal::milliseconds(LOOK.as_millis() as i64);
        setsockopt(&socket, ReceiveTimeout, &look).context("bounding the packet socket's waits")?;
        let marker = host.enter(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let marker = marker.with_context(|| format!("a marker's socket in {}", host.name()))?;
        let shared = Arc::new(Shared {
            host: host.clone(),
            marker: marker.local_addr()?,
            stop: AtomicBool::new(false),
            progress: Mutex::default(),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.host.enter(|| shared.listen(&socket))
        });
        Ok(Self {
            shared,
            marker,
            thread: Some(thread),
        })
    }

    /// This moment.
    ///
    /// # Errors
    /// The thread does not get to it.
    pub fn mark(&self) -> Result<Mark> {
        self.catch_up()?;
        Ok(Mark(self.shared.progress().seen.len()))
    }

    /// What has passed since `mark` and is `wanted`.
    ///
    /// # Errors
    /// The thread does not get to it.
    pub fn since(&self, mark: Mark, wanted: impl Fn(&Seen) -> bool) -> Result<Vec<Seen>> {
        self.catch_up()?;
        let progress = self.shared.progress();
        let late = progress.seen.iter().skip(mark.0).filter(|seen| wanted(seen));
        Ok(late.cloned().collect())
    }

    /// Waits until the thread has seen a marker that is sent now, and so everything before it.
    fn catch_up(&self) -> Result<()> {
        let number = {
            let mut progress = self.shared.progress();
            progress.markers_sent += 1;
            progress.markers_sent
        };
        self.marker
            .send_to(&[], self.shared.marker)
            .context("sending a marker")?;
        let what = format!("a marker in what passes by {}", self.shared.host.name());
        poll::wait_until(&what, CATCH_UP, || Ok(self.shared.progress().markers_seen >= number))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so on standard error.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, socket: &OwnedFd) {
        let mut names = BTreeMap::new();
        let mut buffer = [0; HEADERS];
        while !self.stop.load(Ordering::Relaxed) {
            // Nothing for a while, a signal, or a device that went down; each ends in another look.
            let Ok((length, Some(from))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else {
                continue;
            };
            let Some((source, destination, kind)) = buffer.get(..length).and_then(ends) else {
                continue;
            };
            let left = from.pkttype() == PACKET_OUTGOING;
            if source == self.marker {
                // It is seen twice, leaving and arriving.
                self.progress().markers_seen += u64::from(!left);
                continue;
            }
            let device = names
                .entry(from.ifindex())
                .or_insert_with(|| name(from.ifindex()))
                .clone();
            self.progress().seen.push(Seen {
                device,
                left,
                source,
                destination,
                kind,
            });
        }
    }
}

fn name(ifindex: usize) -> String {
    let name = u32::try_from(ifindex)
        .ok()
        .and_then(|index| nix::net::if_::if_indextoname(index).ok());
    name.map_or_else(|| ifindex.to_string(), |name| name.to_string_lossy().into_owned())
}

/// The ends of a UDP packet, and its first byte. `None` if it is none, or has options or extension headers.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, Option<u8>)> {
    let (source, destination, udp): (IpAddr, IpAddr, &[u8]) = match packet.first()? {
        0x45 => {
            let (header, rest) = packet.split_first_chunk::<20>()?;
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
            (header[9] == UDP).then_some(())?;
            (
                Ipv4Addr::new(s0, s1, s2, s3).into(),
                Ipv4Addr::new(d0, d1, d2, d3).into(),
                rest,
            )
        }
        version if version >> 4 == 6 => {
            let (header, rest) = packet.split_first_chunk::<40>()?;
            (header[6] == UDP).then_some(())?;
            let (_, addresses) = header.split_first_chunk::<8>()?;
            let (source, destination) = (addresses.first_chunk::<16>()?, addresses.last_chunk::<16>()?);
            (
                Ipv6Addr::from(*source).into(),
                Ipv6Addr::from(*destination).into(),
                rest,
            )
        }
        _ => return None,
    };
    let [s0, s1, d0, d1, ..] = *udp.first_chunk::<8>()?;
    let port = |high, low| u16::from_be_bytes([high, low]);
    Some((
        SocketAddr::new(source, port(s0, s1)),
        SocketAddr::new(destination, port(d0, d1)),
        udp.get(8).copied(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    const ETHERNET: usize = 14;

    #[test]
    fn the_ends_of_a_datagram_and_its_first_byte_are_read() {
        for (source, destination) in [
            ("192.0.2.2:1", "198.51.100.1:51820"),
            ("[2001:db8::2]:1", "[2001:db8::1]:51820"),
        ] {
            let (source, destination) = (source.parse().expect("valid"), destination.parse().expect("valid"));
            let frame = Frame::udp(source, destination, &[4, 0]).build();
            assert_eq!(ends(&frame[ETHERNET..]), Some((source, destination, Some(4))));
        }
    }

    #[test]
    fn what_is_no_datagram_or_not_all_there_has_no_ends() {
        let other = Frame::other(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), 6).build();
        assert_eq!(ends(&other[ETHERNET..]), None);
        let whole = Frame::udp(
            "192.0.2.2:1".parse().expect("valid"),
            "192.0.2.1:2".parse().expect("valid"),
            &[],
        )
        .build();
        for length in 0..28 {
            assert_eq!(ends(&whole[ETHERNET..ETHERNET + length]), None);
        }
    }
}
