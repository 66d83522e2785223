//! Attaching the programs: by tcx (kernel 6.6), where a pinned link keeps the program when the daemon is gone; else by clsact, where a filter
//! does so by itself. What a run before left is replaced atomically, never detached first.

use std::path::{Path, PathBuf};
use std::{fs, io};

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use wgxdp_common::abi::{PROGRAM_CLAMP_MSS, PROGRAM_RESTORE, PROGRAM_STEER};

use super::pins::{remove_file, remove_link};
use super::{Error, Pins, xdp};

/// Where the daemon keeps what must outlive it but not a reboot.
const RUN_DIRECTORY: &str = "/run/wgxdp";
/// Priority and handle of our clsact filters, by which a run knows its own again.
const CLSACT_PRIORITY: u16 = 5747;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Which program where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// `steer`, on the anchor's egress.
    Steer,
    /// `restore`, on an uplink's ingress.
    Restore,
    /// `clamp_mss`, on what leaves a tunnel's interface: inner packets that arrived.
    ClampIngress,
    /// `clamp_mss`, on what enters a tunnel's interface.
    ClampEgress,
}

impl Hook {
    /// Every one.
    const ALL: [Self; 4] = [Self::Steer, Self::Restore, Self::ClampIngress, Self::ClampEgress];

    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Steer => PROGRAM_STEER,
            Self::Restore => PROGRAM_RESTORE,
            Self::ClampIngress | Self::ClampEgress => PROGRAM_CLAMP_MSS,
        }
    }

    /// What its links are called: unlike a program's name, each hook's own.
    const fn link(self) -> &'static str {
        match self {
            Self::Steer => PROGRAM_STEER,
            Self::Restore => PROGRAM_RESTORE,
            Self::ClampIngress => "clamp_mss-ingress",
            Self::ClampEgress => "clamp_mss-egress",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::Steer | Self::ClampEgress => TcAttachType::Egress,
            Self::Restore | Self::ClampIngress => TcAttachType::Ingress,
        }
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// A tcx link, pinned.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

/// Attaches programs and remembers their links as pins.
pub struct Attachments {
    pins: Pins,
}

impl Attachments {
    #[must_use]
    pub(super) fn new(pins: Pins) -> Self {
        Self { pins }
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(super) fn attach(
        &mut self,
        program: &mut SchedClassifier,
        hook: Hook,
        interface: &str,
        ifindex: u32,
    ) -> Result<Mechanism, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            program: hook.program(),
            interface: interface.into(),
            source,
        };
        self.pins.create_links()?;
        let path = self.pins.link(hook.link(), ifindex);
        match attach_tcx(program, hook, interface, &path) {
            Ok(()) => Ok(Mechanism::Tcx),
            Err(e) if is_unsupported(&e) => {
                attach_clsact(program, hook, interface, ifindex).map_err(|e| failed(Box::new(e)))
            }
            Err(e) => Err(failed(Box::new(e))),
        }
    }

    /// Detaches what a run of ours left at a hook where nothing belongs now; nothing there is fine.
    ///
    /// # Errors
    /// When the kernel or bpffs refuses.
    pub fn detach(&self, hook: Hook, interface: &str, ifindex: u32) -> Result<(), Error> {
        remove_file(&self.pins.link(hook.link(), ifindex))?;
        detach_clsact(hook, interface)
    }

    /// Forgets a device that is gone, with what its deletion left behind: the link, the note on its qdisc.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn device_gone(&self, ifindex: u32) -> Result<(), Error> {
        for hook in Hook::ALL {
            remove_file(&self.pins.link(hook.link(), ifindex))?;
        }
        xdp::detach(&self.pins, ifindex)?;
        remove_file(&qdisc_marker(ifindex))
    }

    /// Detaches everything that a run of ours attached, this one or one before, where `devices` are all there are. Returns the devices on which
    /// a clsact qdisc is there because of us.
    ///
    /// # Errors
    /// The first failure; the others are detached all the same.
    pub fn detach_all(pins: &Pins, devices: impl IntoIterator<Item = (u32, String)>) -> Result<Vec<u32>, Error> {
        let mut outcome = Ok(());
        let mut note = |result: Result<(), Error>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        for path in entries(&pins.links()) {
            note(remove_link(&path));
        }
        let mut qdiscs = Vec::new();
        for (ifindex, interface) in devices {
            for hook in Hook::ALL {
                note(detach_clsact(hook, &interface));
            }
            let marker = qdisc_marker(ifindex);
            if marker.exists() {
                qdiscs.push(ifindex);
                note(remove_file(&marker));
            }
        }
        // What is left now speaks of devices that went while nobody watched.
        for path in entries(Path::new(RUN_DIRECTORY)).iter().filter(|path| is_marker(path)) {
            note(remove_file(path));
        }
        outcome.map(|()| qdiscs)
    }
}

/// What the name of such a file begins with.
const QDISC_MARKER: &str = "clsact-";

/// The file that says that a device has its clsact qdisc from us.
fn qdisc_marker(ifindex: u32) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(format!("{QDISC_MARKER}{ifindex}"))
}

fn is_marker(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(QDISC_MARKER)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the link cannot be pinned: {0}")]
    Pin(#[from] aya::pin::PinError),
    #[error(transparent)]
    Tc(#[from] TcError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Updates the link that a run before pinned, or makes a new one and pins it.
fn attach_tcx(program: &mut SchedClassifier, hook: Hook, interface: &str, path: &Path) -> Result<(), AttachError> {
    if path.exists() {
        // A link whose device was deleted refuses the update (ENOLINK): make a new one.
        if let Ok(link) = PinnedLink::from_pin(path)
            && let Ok(link) = SchedClassifierLink::try_from(FdLink::from(link))
            && program.attach_to_link(link).is_ok()
        {
            return Ok(());
        }
        fs::remove_file(path)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, hook.direction(), options)?;
    let link = program.take_link(id)?;
    let link: FdLink = link.try_into()?;
    link.pin(path)?;
    Ok(())
}

/// Whether the kernel has no tcx, rather than a reason against this attachment.
fn is_unsupported(error: &AttachError) -> bool {
    let AttachError::Program(ProgramError::SyscallError(error)) = error else {
        return false;
    };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn attach_clsact(
    program: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
    ifindex: u32,
) -> Result<Mechanism, AttachError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => fs::write(qdisc_marker(ifindex), "")?,
        Err(e) if errno(&e) == Some(libc::EEXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let options = NlOptions {
        priority: CLSACT_PRIORITY,
        handle: CLSACT_HANDLE,
        classid: None,
    };
    let attached = program.attach_with_options(interface, hook.direction(), TcAttachOptions::Netlink(options));
    let id = match attached {
        Ok(id) => id,
        Err(ProgramError::TcError(e)) if errno(&e) == Some(libc::EEXIST) => {
            // A run before left its filter in this very place: replace it atomically.
            let before =
                SchedClassifierLink::attached(interface, hook.direction(), CLSACT_PRIORITY, CLSACT_HANDLE, None)?;
            program.attach_to_link(before)?
        }
        Err(e) => return Err(e.into()),
    };
    // The filter stays when the daemon goes; `detach_all` removes it.
    std::mem::forget(program.take_link(id)?);
    Ok(Mechanism::Clsact)
}

/// The kernel's reason, where netlink told one.
fn errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(e) => e.raw_os_error(),
        TcError::IoError(e) => e.raw_os_error(),
        _ => None,
    }
}

/// Removes our filter, known by its program's name; one that is not there is fine.
fn detach_clsact(hook: Hook, interface: &str) -> Result<(), Error> {
    match tc::qdisc_detach_program(interface, hook.direction(), hook.program()) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // No such device, or no clsact qdisc on it: nothing of ours.
        Err(e)
            if matches!(
                errno(&e),
                Some(libc::ENODEV | libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(Error::Attach {
            program: hook.program(),
            interface: interface.into(),
            source: Box::new(e),
        }),
    }
}
