//! Tests inside QEMU, on kernels from Debian's packages, with nothing in the guest but what a test needs.
//!
//! ```text
//! kernel.rs     Debian package → target/vm/kernels/RELEASE/            kept, so that later runs need no network
//! modules.rs    the modules that the tests use, in the order in which they load
//! initramfs.rs  init, programs, their libraries, modules, the plan  →  cpio.rs  →  target/vm/RELEASE.cpio
//! qemu.rs       one guest, bounded in time; its second serial line carries what init and the tests print
//! serial.rs     what the guest said → which test ended how
//! ```
//!
//! The guest's init is `tests/src/bin/vm-init.rs`; it does what the file `/plan` says and powers off. A guest that does not
//! say that a test ended well has failed.

mod cpio;
mod initramfs;
mod kernel;
mod modules;
mod qemu;
mod serial;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::test::tally::Tally;

pub(crate) use self::kernel::{Kernel, Series};

/// A program for a guest to run to its end: a test, or the laboratory.
#[derive(Clone, Debug)]
pub(crate) struct GuestTest {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) args: Vec<String>,
}

/// What a guest's tests came to.
#[derive(Debug)]
pub(crate) struct GuestResult {
    pub(crate) tally: Tally,
    /// Why they are a failure, if they are.
    pub(crate) failure: Option<String>,
}

/// Debian's newest kernel of this series; none where its archive has none.
pub(crate) fn kernel(series: Series) -> Result<Option<Kernel>> {
    kernel::obtain(series)
}

/// What is booted: a kernel, the root for it, and what its init will run.
pub(crate) struct Guest {
    kernel: Kernel,
    image: PathBuf,
    tests: Vec<GuestTest>,
    processors: u32,
}

impl Guest {
    /// Builds its root. The first of `programs` is the guest's init. One at a time.
    ///
    /// One processor is the safe choice: where QEMU emulates several, one may run code that another is just patching, which real ones never do (an `int3` of a jump label killed a 6.12
    /// at its boot, on a busy host).
    pub(crate) fn prepare(kernel: Kernel, programs: &[&Path], tests: Vec<GuestTest>, processors: u32) -> Result<Self> {
        let image = initramfs::build(&kernel, programs, &tests)?;
        Ok(Self {
            kernel,
            image,
            tests,
            processors,
        })
    }

    /// Boots it and runs the tests. `show` gets what they print, line by line.
    pub(crate) fn run(&self, show: &mut dyn FnMut(&str)) -> Result<GuestResult> {
        qemu::run(self, show)
    }
}
