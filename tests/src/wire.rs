//! A wire between two hosts that carries IP packets without a link-layer header: a tun device at either end, and a thread that copies
//! packets from one to the other. To a host this is what PPP and raw-IP modems are.
//!
//! ```text
//! near ── tun ◀──▶ file ◀── thread ──▶ file ◀──▶ tun ── far
//! ```
//!
//! The devices live as long as their files: dropped, a wire takes both along. Where one of them is deleted, the thread ends.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::Host;

/// No packet is longer.
const LARGEST: usize = 65_536;
/// Packets carried one way before the other way has its turn.
const BURST: usize = 64;
/// Milliseconds for which an idle thread waits before it looks whether to stop.
const LOOK: u16 = 50;

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the near end to the far one.
    Out,
    /// From the far end to the near one.
    Back,
}

/// A wire; dropped, it is gone with both devices.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    near: File,
    far: File,
    stop: AtomicBool,
    cut: AtomicBool,
}

impl Wire {
    /// Lays a wire between two hosts, each given with the name of the device to make there. Every packet passes by `inspect`, which may change it,
    /// and which says whether it goes on.
    ///
    /// # Errors
    /// The kernel has no tun devices, or there is such a device already.
    pub(crate) fn lay(
        near: (&Host, &str),
        far: (&Host, &str),
        inspect: impl FnMut(Way, &mut [u8]) -> bool + Send + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            near: tun(near)?,
            far: tun(far)?,
            stop: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || carry(&shared, inspect)
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hangs up, or connects again: the near device loses its carrier, and nothing passes either way.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn set_carrier(&self, carrier: bool) -> Result<()> {
        self.shared.cut.store(!carrier, Ordering::Relaxed);
        let value = libc::c_int::from(carrier);
        // SAFETY: the request reads one int, which lives through the call.
        let result = unsafe { libc::ioctl(self.shared.near.as_raw_fd(), libc::TUNSETCARRIER, &raw const value) };
        Errno::result(result).map(drop).context("TUNSETCARRIER")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so on standard error.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Makes a tun device, whose packets are then the file's.
fn tun((host, name): (&Host, &str)) -> Result<File> {
    let device = host.enter(|| -> Result<File> {
        // The device is made in the namespace in which its file was opened.
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").context("/dev/net/tun")?;
        ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long for a device");
        // SAFETY: a C structure of integers, for which all zeroes are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
        // SAFETY: the request reads and writes an ifreq, which lives through the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        Errno::result(result).context("TUNSETIFF")?;
        Ok(file)
    });
    device.with_context(|| format!("making the tun device {name} in {}", host.name()))
}

/// Carries packets until told to stop, or until a device is gone.
fn carry(shared: &Shared, mut inspect: impl FnMut(Way, &mut [u8]) -> bool) {
    let (mut near, mut far) = (&shared.near, &shared.far);
    let mut buffer = vec![0; LARGEST];
    let mut carry_on = || -> io::Result<()> {
        while !shared.stop.load(Ordering::Relaxed) {
            let mut ends = [near, far].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
            match poll(&mut ends, PollTimeout::from(LOOK)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut passes = |way, packet: &mut [u8]| !shared.cut.load(Ordering::Relaxed) && inspect(way, packet);
            carry_burst(&mut near, &mut far, &mut buffer, |packet| passes(Way::Out, packet))?;
            carry_burst(&mut far, &mut near, &mut buffer, |packet| passes(Way::Back, packet))?;
        }
        Ok(())
    };
    // EBADFD is the end of a device that was deleted; after any other error there is nothing to carry either.
    let _ = carry_on();
}

/// Carries what is waiting at one end; what the other end does not take, being down, is lost.
fn carry_burst(
    from: &mut &File,
    to: &mut &File,
    buffer: &mut [u8],
    mut passes: impl FnMut(&mut [u8]) -> bool,
) -> io::Result<()> {
    for _ in 0..BURST {
        let length = match from.read(buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error),
        };
        let packet = buffer.get_mut(..length).unwrap_or_default();
        if passes(packet) {
            let _ = to.write(packet);
        }
    }
    Ok(())
}
