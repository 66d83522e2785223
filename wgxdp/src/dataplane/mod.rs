//! The data path as user space sees it: loading the programs, writing what they read, reading what they write.
//!
//! | module | |
//! |---|---|
//! | [`object`] | the object file, its ABI check, loading |
//! | [`table`] | array maps as memory: one word is one store |
//! | [`tables`] | every map by name, from a loaded object or from the pins of a running one |
//! | [`readings`] | the tables as the status and the metrics read them |
//! | [`pins`] | `/sys/fs/bpf/wgxdp/` |
//! | [`attach`] | tcx, or clsact where the kernel has no tcx |
//!
//! Everything is written before anything refers to it: paths and peers before the endpoints that lead to them, the configuration before the
//! programs are attached.

mod attach;
mod object;
mod pins;
mod readings;
mod table;
mod tables;

use std::io;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError};
use wgxdp_common::abi::{
    MAP_CLAMP, MAP_CONFIG, MAP_ENDPOINTS, MAP_RECORDS, MAX_PATHS_PER_PEER, PROGRAM_CLAMP_MSS, PROGRAM_RESTORE,
    PROGRAM_STEER,
};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::{
    Config, EndpointKey, EndpointRef, Order, Path, PathState, Peer, PeerState, Proof, UplinkFlags,
};

pub use attach::{Attachments, Hook, Mechanism};
pub use object::{OBJECT, load_programs};
pub use pins::{PIN_ROOT, Pins};
use table::field;
pub use tables::Tables;
use tables::typed;

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
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The loaded programs and their maps.
pub struct Dataplane {
    ebpf: Ebpf,
    config: Array<MapData, Config>,
    endpoints: HashMap<MapData, EndpointKey, EndpointRef>,
    clamp: HashMap<MapData, u32, u32>,
    tables: Tables,
    attachments: Attachments,
}

impl Dataplane {
    /// Loads the programs with room for `max_peers` peers. Nothing is attached or pinned yet.
    ///
    /// # Errors
    /// When the object or the kernel refuses.
    pub fn load(max_peers: u32, pins: Pins) -> Result<Self, Error> {
        let mut ebpf = load_programs(max_peers)?;
        for program in [PROGRAM_STEER, PROGRAM_RESTORE, PROGRAM_CLAMP_MSS] {
            classifier(&mut ebpf, program)?.load().map_err(|e| Error::Program {
                program,
                source: Box::new(e),
            })?;
        }
        let tables = Tables::open(&ebpf)?;
        let config = typed(&ebpf, MAP_CONFIG, Map::Array)?;
        let endpoints = typed(&ebpf, MAP_ENDPOINTS, Map::HashMap)?;
        let clamp = typed(&ebpf, MAP_CLAMP, Map::HashMap)?;
        Ok(Self {
            ebpf,
            config,
            endpoints,
            clamp,
            tables,
            attachments: Attachments::new(pins),
        })
    }

    /// Puts `config` into force, whole: a packet sees all of the old or all of the new. Returns when no program looks at the old one any more.
    ///
    /// # Errors
    /// When a map cannot be written; the old configuration is then still in force.
    pub fn publish(&mut self, config: &Config) -> Result<(), Error> {
        let generation = self.tables.generation.load_word(0, field!(u64)).wrapping_add(1);
        self.config
            .set((generation & 1) as u32, config, 0)
            .map_err(|source| Error::Map {
                map: MAP_CONFIG,
                source,
            })?;
        self.tables.generation.store(0, field!(u64), generation);
        grace_period()
    }

    /// Describes a peer that no endpoint leads to yet, with its paths in `paths`' order of slots.
    pub fn describe_peer(&self, id: PeerId, peer: &Peer, paths: &[Path]) {
        assert!(
            paths.len() <= MAX_PATHS_PER_PEER,
            "a validated peer has at most {MAX_PATHS_PER_PEER} paths"
        );
        for (slot, path) in (0..).zip(paths) {
            self.tables.paths.write(PathId::new(id, slot).0, path);
        }
        let unused = PeerState {
            active: 0,
            switches: 0,
            reserved: [0; 48],
        };
        self.tables.peer_states.write(id.0, &unused);
        self.tables.peers.write(id.0, peer);
    }

    /// Changes the order of a peer's paths.
    pub fn set_order(&self, id: PeerId, order: Order) {
        self.tables.peers.store(id.0, field!(Peer, order), order);
    }

    /// Makes an endpoint lead to a peer.
    ///
    /// # Errors
    /// When the map is full.
    pub fn add_endpoint(&mut self, key: EndpointKey, entry: EndpointRef) -> Result<(), Error> {
        self.endpoints.insert(key, entry, 0).map_err(|source| Error::Map {
            map: MAP_ENDPOINTS,
            source,
        })
    }

    /// Lets an endpoint lead nowhere; no program uses the entry any more on return. An endpoint that led nowhere before is fine.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn remove_endpoint(&mut self, key: &EndpointKey) -> Result<(), Error> {
        if removed(self.endpoints.remove(key), MAP_ENDPOINTS)? {
            grace_period()?;
        }
        Ok(())
    }

    /// Sets the largest inner packet in bytes that TCP may send through the tunnel of this interface.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_clamp(&mut self, ifindex: u32, inner: u32) -> Result<(), Error> {
        self.clamp
            .insert(ifindex, inner, 0)
            .map_err(|source| Error::Map { map: MAP_CLAMP, source })
    }

    /// Lets TCP send what it likes through the tunnel of this interface. One that was not clamped is fine.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn remove_clamp(&mut self, ifindex: u32) -> Result<(), Error> {
        removed(self.clamp.remove(&ifindex), MAP_CLAMP).map(drop)
    }

    /// Sets the reasons against an uplink: one write, whatever the number of peers.
    pub fn set_uplink_flags(&self, uplink: UplinkId, flags: Flags) {
        self.tables
            .uplink_flags
            .store(uplink.0, field!(UplinkFlags, flags), flags);
    }

    /// Sets the reasons against a path.
    pub fn set_path_flags(&self, path: PathId, flags: Flags) {
        self.tables.paths.store(path.0, field!(Path, flags), flags);
    }

    /// Sets the silence that makes a path suspect and dead.
    pub fn set_thresholds(&self, path: PathId, thresholds: Thresholds) {
        self.tables.paths.store(path.0, field!(Path, thresholds), thresholds);
    }

    /// Sets the largest packet in bytes, as WireGuard sends it, that fits a path.
    pub fn set_largest(&self, path: PathId, largest: u32) {
        self.tables.paths.store(path.0, field!(Path, largest), largest);
    }

    /// Notes for `wgxdp status` what the engine thinks of a path.
    pub fn set_status(&self, path: PathId, state: PathState, loss_ppm: u32) {
        self.tables.paths.store(path.0, field!(Path, state), state as u32);
        self.tables.paths.store(path.0, field!(Path, loss_ppm), loss_ppm);
    }

    /// Gives a path credit: as if it had proven itself at `now_ns` and were not latched.
    pub fn credit(&self, path: PathId, now_ns: u64) {
        self.tables.proofs.store(path.0, field!(Proof, proof_ns), now_ns);
        self.tables.proofs.store(path.0, field!(Proof, latched_ns), 0);
    }

    /// Lets `steer` use a path again that it found dead.
    pub fn lift_latch(&self, path: PathId) {
        self.tables.proofs.store(path.0, field!(Proof, latched_ns), 0);
    }

    /// What can be read while the programs run.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The ring buffer of [`wgxdp_common::record::Record`]. It has one consumer: take it once.
    ///
    /// # Errors
    /// When the map cannot be opened.
    pub fn records(&self) -> Result<RingBuf<MapData>, Error> {
        typed(&self.ebpf, MAP_RECORDS, Map::RingBuf)
    }

    /// Pins the maps, so that `wgxdp status` can read them and traffic outlives this process. In place of those of a run before.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn pin_maps(&self) -> Result<(), Error> {
        self.attachments.pins().pin_maps(&self.ebpf)
    }

    /// Attaches a program to a device, replacing atomically what a run before left there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, hook: Hook, interface: &str, ifindex: u32) -> Result<Mechanism, Error> {
        let program = classifier(&mut self.ebpf, hook.program())?;
        self.attachments.attach(program, hook, interface, ifindex)
    }

    /// The attachments, to detach them.
    pub fn attachments(&mut self) -> &mut Attachments {
        &mut self.attachments
    }

    /// A loaded program, for BPF_PROG_TEST_RUN.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn program(&mut self, hook: Hook) -> Result<&mut SchedClassifier, Error> {
        classifier(&mut self.ebpf, hook.program())
    }

    /// The log lines of the programs themselves, for debugging them.
    #[cfg(feature = "bpf-log")]
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Whether an entry was there to be removed.
fn removed(outcome: Result<(), MapError>, map: &'static str) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Map { map, source }),
    }
}

/// Waits until every program that runs now has ended: `membarrier` waits for an RCU grace period (kernel/sched/membarrier.c).
fn grace_period() -> Result<(), Error> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call with integer arguments.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::System {
        call: "membarrier(MEMBARRIER_CMD_GLOBAL)",
        source: io::Error::last_os_error(),
    })
}

fn classifier<'a>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let found = ebpf.program_mut(program).ok_or(Error::Missing(program))?;
    found.try_into().map_err(|e| Error::Program {
        program,
        source: Box::new(e),
    })
}
