//! What can go wrong, in words for whoever runs the daemon.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// What can go wrong between user space and the kernel's BPF subsystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object speaks another version of the shared types.
    #[error(
        "the BPF object has ABI version {found:?}, this daemon speaks {expected}: rebuild both with `cargo xtask build`"
    )]
    Abi {
        /// The version in the object, if it names one.
        found: Option<u32>,
        /// Ours.
        expected: u32,
    },
    /// The object is not what the build script makes.
    #[error("the BPF object cannot be read: {0}")]
    Object(#[from] ::object::Error),
    /// The kernel did not take the object.
    #[error("the kernel did not load the BPF object: {0}")]
    Load(#[from] EbpfError),
    /// A program did not pass the verifier, or could not be attached.
    #[error("program {program}: {source}")]
    Program {
        /// The program's name.
        program: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A program could not be attached to a device.
    #[error("{program} cannot be attached to {interface}: {source}")]
    Attach {
        /// The program's name.
        program: &'static str,
        /// The device's name.
        interface: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map is full.
    #[error("no room for more {0}")]
    NoRoom(&'static str),
    /// The object has no such program or map.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// A file-system operation on the pins failed.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the kernel says of a map cannot be read.
    #[error("{}: {source}", path.display())]
    Info {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}
