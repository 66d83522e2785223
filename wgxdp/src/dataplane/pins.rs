//! `/sys/fs/bpf/wgxdp/`: what lets traffic outlive the daemon, and `wgxdp status` read without it.
//!
//! ```text
//! /sys/fs/bpf/wgxdp/v2/            the ABI version
//!     maps/CONFIG …                every map
//!     links/steer-<ifindex>        tcx links; a restarted daemon updates them in place
//!     links/restore-<ifindex>
//!     links/guard-<ifindex>        XDP links; guard_generic-<ifindex> where the kernel runs it and not the driver
//!     links/clamp_mss-ingress-<ifindex>, links/clamp_mss-egress-<ifindex>
//! ```

use std::path::{Path, PathBuf};
use std::{fs, io};

use aya::Ebpf;
use aya::programs::links::PinnedLink;
use wgxdp_common::abi::{ABI_VERSION, MAPS};

use super::Error;
use super::tables::Source as _;

/// The directory of all pins.
pub const PIN_ROOT: &str = "/sys/fs/bpf/wgxdp";

/// The pins of this ABI version below a root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Default for Pins {
    fn default() -> Self {
        Self {
            root: PathBuf::from(PIN_ROOT),
        }
    }
}

impl Pins {
    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// Where the links are pinned.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Where a program's link to a device is pinned.
    pub(super) fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links().join(format!("{program}-{ifindex}"))
    }

    /// Pins every map in place of those of a run before.
    pub(super) fn pin_maps(&self, ebpf: &Ebpf) -> Result<(), Error> {
        create(&self.version().join("maps"))?;
        for name in MAPS {
            let path = self.map(name);
            remove_file(&path)?;
            ebpf.open(name)?.pin(&path).map_err(|e| Error::Pin {
                path: path.clone(),
                source: io::Error::other(e),
            })?;
        }
        Ok(())
    }

    /// Makes the links' directory.
    pub(super) fn create_links(&self) -> Result<(), Error> {
        create(&self.links())
    }

    /// Removes the maps' pins and every directory that is empty then.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn remove_maps(&self) -> Result<(), Error> {
        for name in MAPS {
            remove_file(&self.map(name))?;
        }
        let version = self.version();
        for directory in [version.join("maps"), self.links(), version, self.root.clone()] {
            match fs::remove_dir(&directory) {
                Ok(()) => {}
                // Not empty: something that is not ours, or belongs to another version.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTEMPTY)) => {}
                Err(source) => {
                    return Err(Error::Pin {
                        path: directory,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether a run left its maps here.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.version().exists()
    }
}

fn create(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|source| Error::Pin {
        path: directory.into(),
        source,
    })
}

/// Removes a link's pin; one that is not there is fine. If it held the last reference, the program is detached on return: closing a link's last
/// descriptor does that at once, while a pin that goes leaves it to a work queue (`bpf_link_put`, kernel/bpf/syscall.c).
pub(super) fn remove_link(path: &Path) -> Result<(), Error> {
    let link = PinnedLink::from_pin(path);
    remove_file(path)?;
    drop(link);
    Ok(())
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}
