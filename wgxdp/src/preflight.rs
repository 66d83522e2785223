//! What must hold before anything is touched. Each check takes the paths that it looks at, changes nothing (but the run directory and its
//! lock, which are taken back), and says what is missing, where, and what to do.
//!
//! | check | refuses |
//! |---|---|
//! | [`check_kernel`] | kernels older than [`OLDEST_KERNEL`] |
//! | [`check_capabilities`] | a process without what loading, attaching and probing need |
//! | [`check_bpffs`] | no bpffs, or one that cannot be written |
//! | [`Lock::acquire`] | a second daemon, or a run directory that cannot be made |

mod lock;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::{AccessFlags, faccessat};

pub use lock::Lock;

/// The oldest kernel that the programs are tested on.
pub const OLDEST_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Too old.
    #[error("this kernel is {found}, but wgxdp needs {OLDEST_KERNEL} or newer; boot a newer kernel")]
    KernelTooOld {
        /// The release, as `uname -r` prints it.
        found: String,
    },
    /// Not a release.
    #[error("cannot tell this kernel's version from its release {found:?}; wgxdp needs {OLDEST_KERNEL} or newer")]
    KernelUnknown {
        /// The release, as `uname -r` prints it.
        found: String,
    },
    /// The process may not do what it must.
    #[error(
        "missing {missing}; run wgxdp as root (sudo wgxdp …), or in its systemd unit set AmbientCapabilities={}",
        Capabilities::NEEDED.spaced()
    )]
    MissingCapabilities {
        /// Exactly those.
        missing: Capabilities,
    },
    /// The kernel does not say what the process may do.
    #[error("cannot read this process's capabilities from {}: {source}; is /proc mounted?", path.display())]
    CapabilitiesUnreadable {
        /// The status file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else than a bpffs is there, or nothing.
    #[error("no bpffs at {}; mount one: mount -t bpf bpf {}", path.display(), path.display())]
    BpffsAbsent {
        /// Where it should be.
        path: PathBuf,
    },
    /// Mounted read-only.
    #[error(
        "the bpffs at {} is read-only; remount it (mount -o remount,rw {}), or, where systemd's ProtectKernelTunables made it so, set \
         ReadWritePaths={} in the unit and create that directory before it starts",
        path.display(), path.display(), pins.display()
    )]
    BpffsReadOnly {
        /// The bpffs.
        path: PathBuf,
        /// Where wgxdp pins.
        pins: PathBuf,
    },
    /// There, but closed to this process.
    #[error("cannot write to the bpffs at {}: {source}; run wgxdp as root, or give its user that directory", path.display())]
    BpffsDenied {
        /// The bpffs, or the pin directory in it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A daemon runs already.
    #[error(
        "another wgxdp runs already{}: it holds {}; stop that one first{}", Process(*pid), path.display(), KillHint(*pid)
    )]
    AlreadyRunning {
        /// Its process, if it has said so.
        pid: Option<u32>,
        /// The lock.
        path: PathBuf,
    },
    /// No place for the lock and the state.
    #[error("cannot make the directory {}: {source}; run wgxdp as root, or set RuntimeDirectory=wgxdp in its systemd unit", path.display())]
    RunDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The lock cannot be taken for another reason than that it is taken.
    #[error("cannot lock {}: {source}; wgxdp must be able to write there", path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

struct Process(Option<u32>);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

struct KillHint(Option<u32>);

impl fmt::Display for KillHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, ", for example with kill {pid}"))
    }
}

/// Where the checks look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The process's status file.
    pub status: PathBuf,
    /// The bpffs.
    pub bpffs: PathBuf,
    /// Where wgxdp pins, somewhere in the bpffs.
    pub pins: PathBuf,
    /// The run directory, for the lock and the state.
    pub run: PathBuf,
}

/// This system's.
impl Default for Places {
    fn default() -> Self {
        Self {
            status: "/proc/thread-self/status".into(),
            bpffs: "/sys/fs/bpf".into(),
            pins: "/sys/fs/bpf/wgxdp".into(),
            run: "/run/wgxdp".into(),
        }
    }
}

/// All checks, in the order in which their failures make sense: a process without rights cannot tell whether the bpffs is usable.
/// The lock is the caller's from here on.
///
/// # Errors
/// The first check that fails.
pub fn check(places: &Places) -> Result<Lock, PreflightError> {
    check_kernel(&kernel_release())?;
    check_capabilities(&places.status)?;
    check_bpffs(&places.bpffs, &places.pins)?;
    Lock::acquire(&places.run)
}

/// The version of a kernel, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.1.
    pub major: u32,
    /// 1 of 6.1.
    pub minor: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl KernelVersion {
    /// From a release such as `6.1.0-13-amd64` or `6.12-rc1`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

/// The running kernel's release, as `uname -r` prints it; empty if even that fails.
#[must_use]
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether a kernel of this release is new enough.
///
/// # Errors
/// It is not, or its release says nothing.
pub fn check_kernel(release: &str) -> Result<KernelVersion, PreflightError> {
    let found = release.to_owned();
    match KernelVersion::parse(release) {
        Some(version) if version >= OLDEST_KERNEL => Ok(version),
        Some(_) => Err(PreflightError::KernelTooOld { found }),
        None => Err(PreflightError::KernelUnknown { found }),
    }
}

/// A set of capabilities, by their numbers in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    const NET_ADMIN: Self = Self(1 << 12);
    const NET_RAW: Self = Self(1 << 13);
    const SYS_ADMIN: Self = Self(1 << 21);
    const PERFMON: Self = Self(1 << 38);
    const BPF: Self = Self(1 << 39);
    /// Devices, routes, rules and attaching; loading; direct packet access and pointers; probe sockets.
    pub const NEEDED: Self = Self(Self::NET_ADMIN.0 | Self::BPF.0 | Self::PERFMON.0 | Self::NET_RAW.0);

    const NAMES: [(Self, &'static str); 4] = [
        (Self::NET_ADMIN, "CAP_NET_ADMIN"),
        (Self::BPF, "CAP_BPF"),
        (Self::PERFMON, "CAP_PERFMON"),
        (Self::NET_RAW, "CAP_NET_RAW"),
    ];

    /// Of [`Capabilities::NEEDED`], what a process with these lacks. `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON`, as in the kernel.
    #[must_use]
    pub const fn lacking(self) -> Self {
        let implied = if self.0 & Self::SYS_ADMIN.0 != 0 {
            Self::BPF.0 | Self::PERFMON.0
        } else {
            0
        };
        Self(Self::NEEDED.0 & !(self.0 | implied))
    }

    /// The names of those that matter here.
    fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(capability, _)| self.0 & capability.0 != 0)
            .map(|(_, name)| name)
    }

    fn spaced(self) -> String {
        self.names().collect::<Vec<_>>().join(" ")
    }
}

/// For a sentence: `CAP_BPF and CAP_NET_RAW`.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        match names.as_slice() {
            [] => f.write_str("nothing"),
            [one] => f.write_str(one),
            [most @ .., last] => write!(f, "{} and {last}", most.join(", ")),
        }
    }
}

/// Whether the process (or thread) with this status file has what is needed.
///
/// # Errors
/// It has not, or the file does not say.
pub fn check_capabilities(status: &Path) -> Result<(), PreflightError> {
    let effective = fs::read_to_string(status).and_then(|text| {
        let hex = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        bits.map(Capabilities)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no line CapEff"))
    });
    match effective.map(Capabilities::lacking) {
        Ok(Capabilities(0)) => Ok(()),
        Ok(missing) => Err(PreflightError::MissingCapabilities { missing }),
        Err(source) => Err(PreflightError::CapabilitiesUnreadable {
            path: status.to_owned(),
            source,
        }),
    }
}

/// Whether maps and links can be pinned at `pins`, somewhere in the bpffs at `root`. A sandbox may leave `pins` alone writable, as a mount of its own.
///
/// # Errors
/// There is no bpffs, or it cannot be written.
pub fn check_bpffs(root: &Path, pins: &Path) -> Result<(), PreflightError> {
    if !statfs(root).is_ok_and(|fs| is_bpffs(fs.filesystem_type())) {
        return Err(PreflightError::BpffsAbsent { path: root.to_owned() });
    }
    let place = if pins.is_dir() { pins } else { root };
    match faccessat(
        nix::fcntl::AT_FDCWD,
        place,
        AccessFlags::W_OK | AccessFlags::X_OK,
        AtFlags::AT_EACCESS,
    ) {
        Ok(()) => Ok(()),
        Err(Errno::EROFS) => Err(PreflightError::BpffsReadOnly {
            path: root.to_owned(),
            pins: pins.to_owned(),
        }),
        Err(errno) => Err(PreflightError::BpffsDenied {
            path: place.to_owned(),
            source: errno.into(),
        }),
    }
}

/// The type's width and sign differ from one C library to the next; its lower 32 bits do not.
fn is_bpffs(kind: FsType) -> bool {
    kind.0 as u32 == BPF_FS_MAGIC
}
