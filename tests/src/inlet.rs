//! Frames as they arrive at one device (packet(7)), whole and in order.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::host::Host;
use crate::outlet::{Outlet, address};

/// How long the next frame may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// No frame is longer, super-packets included.
const LARGEST: usize = 65_536 + 64;
/// `sll_pkttype` of frames that leave (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
/// What ends a look: an Ethernet type for experiments (IEEE 802, 0x88b5), sent from the device's other end.
const END: [u8; 60] = {
    let mut frame = [0; 60];
    (frame[12], frame[13]) = (0x88, 0xb5);
    frame
};

/// One end of a veth pair, which hears all that arrives, and the other end, from where the mark comes that ends a look.
#[derive(Debug)]
pub struct Inlet {
    socket: OwnedFd,
    mark: Outlet,
}

impl Inlet {
    /// At this device of `host`, whose other end is there, too.
    ///
    /// # Errors
    /// Not root, or there is no such device.
    pub fn open(host: &Host, device: &str, other_end: &str) -> Result<Self> {
        let opened = host.enter(|| -> nix::Result<OwnedFd> {
            let ifindex = nix::net::if_::if_nametoindex(device)?;
            // Only where it is bound to: of no protocol until then.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &address(ifindex, SockProtocol::EthAll as u16))?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE.as_secs() as i64))?;
            Ok(socket)
        });
        Ok(Self {
            socket: opened.with_context(|| format!("a packet socket at {device} in {} (needs root)", host.name()))?,
            mark: Outlet::open(host, other_end)?,
        })
    }

    /// The frames with a UDP packet that have arrived since the last look.
    ///
    /// # Errors
    /// The mark does not arrive.
    pub fn datagrams(&mut self) -> Result<Vec<Vec<u8>>> {
        self.mark.send(&[END])?;
        let (mut arrived, mut buffer) = (Vec::new(), vec![0; LARGEST]);
        loop {
            let (length, from) =
                recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer).context("waiting for a mark")?;
            if from.is_none_or(|from| from.pkttype() == PACKET_OUTGOING) {
                continue;
            }
            match buffer.get(..length).unwrap_or_default() {
                frame if frame == END => return Ok(arrived),
                frame if is_udp(frame) => arrived.push(frame.to_vec()),
                _ => {}
            }
        }
    }
}

/// IPv4 or IPv6 with UDP right behind the IP header.
fn is_udp(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&17),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&17),
        _ => false,
    }
}
