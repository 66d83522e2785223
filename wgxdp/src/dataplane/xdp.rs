//! Attaching `guard`: by an XDP link (kernel 5.9), pinned, which a restarted daemon updates in place, so that the device's driver notices nothing.
//!
//! A link never replaces another's program: the kernel refuses (`dev_xdp_attach`, net/core/dev.c). A device has one program at most,
//! run by the driver or by the kernel behind it, and each way has a program of ours, so that a pin's name tells which one it was.

use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpError, XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use wgxdp_common::abi::{PROGRAM_GUARD, PROGRAM_GUARD_GENERIC};

use super::pins::remove_link;
use super::{Error, Pins};

/// Who runs `guard` on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// The driver.
    Native,
    /// The kernel, when the driver has made a socket buffer already; any device takes it.
    Generic,
}

impl Guard {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Native => PROGRAM_GUARD,
            Self::Generic => PROGRAM_GUARD_GENERIC,
        }
    }

    /// The word that users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn mode(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// Why a device does not take `guard`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// EBUSY, EEXIST.
    #[error(
        "another XDP program is attached there, or to a device on top of it, and stays (`ip -details link` shows it)"
    )]
    Occupied,
    /// EOPNOTSUPP.
    #[error("its driver has no XDP, or none beside the offloads that are on (`ethtool -K {0} lro off` may help)")]
    Unsupported(String),
    /// EINVAL.
    #[error(
        "its driver takes no XDP program as it is set up (try a smaller MTU, or `ethtool -K {interface} lro off`): {source}"
    )]
    Unsuitable {
        /// The device's name.
        interface: String,
        /// Why, in the driver's words where it has some.
        source: ProgramError,
    },
    /// ERANGE.
    #[error("its MTU, or that of its other end, is too large for XDP")]
    TooLarge,
    /// Frames begin with their IP header.
    #[error("its packets have no Ethernet header")]
    NotEthernet,
    /// Another reason of the kernel's.
    #[error("the kernel refused: {0}")]
    Kernel(#[source] io::Error),
    /// Before the kernel was asked.
    #[error(transparent)]
    Program(ProgramError),
    /// What was attached is no link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The link is not to be kept.
    #[error("the link cannot be pinned: {0}")]
    Pin(#[from] aya::pin::PinError),
    /// The programs or their pins.
    #[error(transparent)]
    Dataplane(#[from] Error),
}

impl Refusal {
    fn new(interface: &str, source: ProgramError) -> Self {
        let interface = interface.into();
        match errno(&source) {
            Some(libc::EBUSY | libc::EEXIST) => Self::Occupied,
            Some(libc::EOPNOTSUPP) => Self::Unsupported(interface),
            Some(libc::EINVAL) => Self::Unsuitable { interface, source },
            Some(libc::ERANGE) => Self::TooLarge,
            Some(other) => Self::Kernel(io::Error::from_raw_os_error(other)),
            None => Self::Program(source),
        }
    }
}

/// The kernel's reason. aya repeats over netlink what `bpf_link_create` refused with EINVAL, and then has the driver's own words.
fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(e) => e.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(e)) => e.raw_os_error(),
        ProgramError::IOError(e) => e.raw_os_error(),
        _ => None,
    }
}

/// Updates the link that a run before pinned, or makes a new one and pins it. A program of ours that was run the other way goes first.
pub(super) fn attach(
    program: &mut Xdp,
    guard: Guard,
    interface: &str,
    ifindex: u32,
    pins: &Pins,
) -> Result<(), Refusal> {
    pins.create_links()?;
    for other in Guard::ALL.into_iter().filter(|other| *other != guard) {
        remove_link(&pins.link(other.program(), ifindex))?;
    }
    let path = pins.link(guard.program(), ifindex);
    if update(program, &path) {
        return Ok(());
    }
    remove_link(&path)?;
    let refusal = |e| Refusal::new(interface, e);
    let id = program.attach_to_if_index(ifindex, guard.mode()).map_err(refusal)?;
    let link: FdLink = program.take_link(id).map_err(refusal)?.try_into()?;
    link.pin(&path)?;
    Ok(())
}

/// Whether there was a link to put the program into. One whose device was deleted refuses (ENOLINK).
fn update(program: &mut Xdp, path: &Path) -> bool {
    let link = PinnedLink::from_pin(path).map(FdLink::from).and_then(XdpLink::try_from);
    link.is_ok_and(|link| program.attach_to_link(link).is_ok())
}

/// Removes our links to the device, and with the last reference to it the program.
pub(super) fn detach(pins: &Pins, ifindex: u32) -> Result<(), Error> {
    Guard::ALL
        .into_iter()
        .try_for_each(|guard| remove_link(&pins.link(guard.program(), ifindex)))
}
