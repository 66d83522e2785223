//! Frames sent as they are, out of one device, many with one system call (packet(7)).

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike as _, bind, sendmmsg, socket,
};

use crate::host::Host;

/// Most frames of one system call.
pub(crate) const BATCH: usize = 64;
/// How long a full queue is left alone.
const REFUSED: Duration = Duration::from_micros(50);

/// A packet socket that only sends.
#[derive(Debug)]
pub struct Outlet {
    socket: OwnedFd,
    headers: MultiHeaders<()>,
}

impl Outlet {
    /// Out of this device of `host`. What it sends passes the device's egress programs, as everything else does.
    ///
    /// # Errors
    /// Not root, or there is no such device.
    pub fn open(host: &Host, device: &str) -> Result<Self> {
        let opened = host.enter(|| {
            let ifindex = nix::net::if_::if_nametoindex(device)?;
            // Protocol 0: nothing is received, and the kernel reads a frame's protocol from its Ethernet header.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &address(ifindex, 0))?;
            nix::Result::Ok(socket)
        });
        Ok(Self {
            socket: opened.with_context(|| format!("a packet socket at {device} in {} (needs root)", host.name()))?,
            headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Sends frames, all of them: what a full queue refuses is offered again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<()> {
        for batch in frames.chunks(BATCH) {
            let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|frame| [IoSlice::new(frame.as_ref())]).collect();
            let mut left = slices.as_slice();
            while !left.is_empty() {
                let sent = self.offer(left)?;
                if sent == 0 {
                    thread::sleep(REFUSED);
                }
                left = &left[sent..];
            }
        }
        Ok(())
    }

    /// How many of these frames were taken.
    fn offer(&mut self, frames: &[[IoSlice<'_>; 1]]) -> Result<usize> {
        let (nobody, flags) = ([None; BATCH], MsgFlags::empty());
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            frames,
            &nobody[..frames.len()],
            [],
            flags,
        );
        match sent {
            Ok(sent) => Ok(sent.count()),
            Err(Errno::ENOBUFS) => Ok(0),
            Err(error) => Err(error).context("sending frames"),
        }
    }
}

/// A device, for a packet socket that receives this protocol (in network byte order; 0 for none).
pub(crate) fn address(ifindex: u32, protocol: u16) -> LinkAddr {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to an address of the family and length that it claims.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size_of_val(&address) as u32)) };
    address.expect("the family is AF_PACKET")
}
