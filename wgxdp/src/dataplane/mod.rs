//! The data path as user space sees it: loading the programs, writing what they read, reading what they write.
//!
//! | module | |
//! |---|---|
//! | [`object`] | the object file, its ABI check, loading |
//! | [`table`] | array maps as memory: one word is one store |
//! | [`tables`] | every map by name, from a loaded object or from the pins of a running one |
//! | [`endpoints`] | which endpoint leads to which peer |
//! | [`clients`] | learned clients and the local addresses that they speak to |
//! | [`keyrings`] | whose in-band probes are authentic |
//! | [`adopt`] | what a killed run had learned |
//! | [`readings`] | the tables as the status and the metrics read them |
//! | [`memory`] | what the maps cost |
//! | [`pins`] | `/sys/fs/bpf/wgxdp/` |
//! | [`attach`] | tcx, or clsact where the kernel has no tcx |
//! | [`xdp`] | `guard`, where a device takes it |
//! | [`error`] | what the kernel may refuse |
//!
//! Everything is written before anything refers to it: paths and peers before the endpoints that lead to them, the configuration before the
//! programs are attached.

mod adopt;
mod attach;
mod clients;
mod endpoints;
mod error;
mod keyrings;
mod memory;
mod object;
mod pins;
mod readings;
mod table;
mod tables;
mod xdp;

use std::collections::{self, BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use wgxdp_common::abi::{
    MAP_CLAMP, MAP_CLIENTS, MAP_CONFIG, MAP_PATH_COUNTS, MAP_RECORDS, MAX_PATHS_PER_PEER, PROGRAM_CLAMP_MSS,
    PROGRAM_RESTORE, PROGRAM_STEER,
};
use wgxdp_common::count::PathCount;
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::keyring::{KeyName, Keys, Request};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::{Config, EndpointKey, Order, Path, PathState, Peer, PeerState, Proof, UplinkFlags};

pub use attach::{Attachments, Hook, Mechanism};
pub use clients::Locals;
use endpoints::Endpoints;
pub use error::Error;
use keyrings::Keyrings;
pub use memory::Memory;
pub use object::{OBJECT, Room, load_programs};
pub use pins::{PIN_ROOT, Pins};
use table::field;
pub use tables::Tables;
use tables::typed;
pub use xdp::{Guard, Refusal};

use crate::engine::MoveReason;

/// The loaded programs and their maps.
pub struct Dataplane {
    ebpf: Ebpf,
    config: Array<MapData, Config>,
    endpoints: Endpoints,
    locals: Locals,
    keyrings: Keyrings,
    clamp: HashMap<MapData, u32, u32>,
    path_counts: PerCpuArray<MapData, PathCount>,
    tables: Tables,
    probe_slots: u32,
    attachments: Attachments,
}

impl Dataplane {
    /// Loads the programs with this much room, of `guard` those that are wanted. Nothing is attached or pinned yet.
    ///
    /// # Errors
    /// When the object or the kernel refuses.
    pub fn load(room: Room, guards: impl IntoIterator<Item = Guard>, pins: Pins) -> Result<Self, Error> {
        let mut ebpf = load_programs(room)?;
        for program in [PROGRAM_STEER, PROGRAM_RESTORE, PROGRAM_CLAMP_MSS] {
            typed_program::<SchedClassifier>(&mut ebpf, program)?
                .load()
                .map_err(refused(program))?;
        }
        for guard in guards {
            let program = guard.program();
            typed_program::<Xdp>(&mut ebpf, program)?
                .load()
                .map_err(refused(program))?;
        }
        let tables = Tables::open(&ebpf)?;
        let config = typed(&ebpf, MAP_CONFIG, Map::Array)?;
        let endpoints = Endpoints::new(&ebpf)?;
        let locals = Locals::new(&ebpf)?;
        let keyrings = Keyrings::new(&ebpf, room.keyrings)?;
        let clamp = typed(&ebpf, MAP_CLAMP, Map::HashMap)?;
        let path_counts = typed(&ebpf, MAP_PATH_COUNTS, Map::PerCpuArray)?;
        Ok(Self {
            ebpf,
            config,
            endpoints,
            locals,
            keyrings,
            clamp,
            path_counts,
            tables,
            probe_slots: object::probe_slots(room),
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

    /// Bytes of memory that the maps take, as the kernel reckons.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn memory(&self) -> Result<Memory, Error> {
        memory::of_maps(&self.ebpf)
    }

    /// Probes in flight that a path remembers; the answer to an older one counts as none.
    #[must_use]
    pub fn probe_slots(&self) -> u32 {
        self.probe_slots
    }

    /// Describes a peer that no endpoint leads to yet, with the paths in these slots (below [`MAX_PATHS_PER_PEER`]).
    pub fn describe_peer(&self, id: PeerId, peer: &Peer, paths: impl IntoIterator<Item = (u32, Path)>) {
        for (slot, path) in paths {
            assert!(
                slot < MAX_PATHS_PER_PEER as u32,
                "a peer has at most {MAX_PATHS_PER_PEER} paths"
            );
            self.tables.paths.write(PathId::new(id, slot).0, &path);
        }
        let unused = PeerState {
            active: 0,
            switches: 0,
            reserved: [0; 48],
        };
        self.tables.peer_states.write(id.0, &unused);
        self.tables.peers.write(id.0, peer);
    }

    /// Forgets what the programs noted of a peer that no program refers to any more, so that its number can be another's.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn forget_peer(&mut self, id: PeerId) -> Result<(), Error> {
        let all = (0..MAX_PATHS_PER_PEER as u32).map(|slot| PathId::new(id, slot));
        // Nothing was counted for a path that never had credit, and forgetting that takes a system call.
        let used = |path: &PathId| self.tables.proof(*path) != Proof::default();
        for path in all.filter(used).collect::<Vec<_>>() {
            self.tables.proofs.write(path.0, &Proof::default());
            self.path_counts
                .set(path.0, nothing_counted()?, 0)
                .map_err(|source| Error::Map {
                    map: MAP_PATH_COUNTS,
                    source,
                })?;
        }
        Ok(())
    }

    /// Changes the order of a peer's paths.
    pub fn set_order(&self, id: PeerId, order: Order) {
        self.tables.peers.store(id.0, field!(Peer, order), order);
        self.endpoints.prefer(id, EndpointEntry::preferred(id, order));
    }

    /// Makes an endpoint lead to a peer, whether it led to another before or nowhere.
    ///
    /// # Errors
    /// When the table is full.
    pub fn add_endpoint(&mut self, entry: &EndpointEntry) -> Result<(), Error> {
        self.endpoints.insert(entry, grace_period)
    }

    /// Lets endpoints lead nowhere. On return no program uses their entries any more, nor those that [`Dataplane::add_endpoint`] replaced
    /// before: it waits once for all of them, also if there are none. Endpoints that led nowhere before are fine.
    ///
    /// # Errors
    /// When the grace period cannot be waited for.
    pub fn remove_endpoints(&mut self, keys: impl IntoIterator<Item = EndpointKey>) -> Result<(), Error> {
        for key in keys {
            self.endpoints.remove(&key);
        }
        grace_period()?;
        self.endpoints.reclaim();
        Ok(())
    }

    /// The local addresses that tunnel packets may come to.
    #[must_use]
    pub fn locals(&self) -> &Locals {
        &self.locals
    }

    /// Has the programs know these addresses, each with the uplink whose device has it, and no others. Returns those for which there
    /// is no room.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn settle_locals(&mut self, wanted: &BTreeMap<IpAddr, Option<UplinkId>>) -> Result<BTreeSet<IpAddr>, Error> {
        self.locals.settle(wanted)
    }

    /// Has in-band probes of these peers, and of no others, sent, judged and answered with these keys. Returns for how many there is no room.
    ///
    /// # Errors
    /// When the map cannot be written, or the grace period not be waited for.
    pub fn settle_keys(&mut self, wanted: &collections::HashMap<KeyName, Keys>) -> Result<usize, Error> {
        self.keyrings.settle(wanted, grace_period)
    }

    /// The latest authentic request over each of a far end's paths; `None`: it has no keys here. A system call.
    #[must_use]
    pub fn requests(&self, of: &KeyName) -> Option<[Request; MAX_PATHS_PER_PEER]> {
        self.keyrings.requests(of)
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
        match self.clamp.remove(&ifindex) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Map { map: MAP_CLAMP, source }),
        }
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

    /// Adds to the reasons against a path.
    pub fn add_path_flags(&self, path: PathId, flags: Flags) {
        let before = self.tables.paths.read(path.0).flags;
        self.set_path_flags(path, before.with(flags));
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
        self.tables.paths.store(path.0, field!(Path, state), state as u16);
        self.tables.paths.store(path.0, field!(Path, loss_ppm), loss_ppm);
    }

    /// Notes for `wgxdp status` why the engine thinks so.
    pub fn set_reason(&self, path: PathId, reason: MoveReason) {
        self.tables.paths.store(path.0, field!(Path, reason), reason.number());
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

    /// Takes over the clients that a run before had learned, if it left its pins behind; `config` is the configuration in force. Returns how many.
    ///
    /// # Errors
    /// When a map cannot be read or written; what was taken over until then stays.
    pub fn adopt_clients(&self, config: &Config) -> Result<u64, Error> {
        let pins = self.attachments.pins();
        if !pins.map(MAP_CLIENTS).exists() {
            return Ok(0);
        }
        adopt::adopt(pins, &self.ebpf, config, &self.locals)
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
        let program = typed_program(&mut self.ebpf, hook.program())?;
        self.attachments.attach(program, hook, interface, ifindex)
    }

    /// Attaches `guard` to a device, replacing atomically what a run before left there. Never replaces somebody else's program.
    ///
    /// # Errors
    /// Why the device does not take it; then nothing of ours is attached there by XDP.
    pub fn attach_guard(&mut self, guard: Guard, interface: &str, ifindex: u32) -> Result<(), Refusal> {
        let program = typed_program(&mut self.ebpf, guard.program())?;
        xdp::attach(program, guard, interface, ifindex, self.attachments.pins())
    }

    /// Detaches from a device what a run before attached there by XDP, if anything.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn detach_guard(&self, ifindex: u32) -> Result<(), Error> {
        xdp::detach(self.attachments.pins(), ifindex)
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
        typed_program(&mut self.ebpf, hook.program())
    }

    /// The same for `guard`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn guard_program(&mut self, guard: Guard) -> Result<&mut Xdp, Error> {
        typed_program(&mut self.ebpf, guard.program())
    }

    /// The log lines of the programs themselves, for debugging them.
    #[cfg(feature = "bpf-log")]
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// What every CPU has counted of a new path.
fn nothing_counted() -> Result<PerCpuValues<PathCount>, Error> {
    let of_cpus = aya::util::nr_cpus().map_err(|(_, source)| source);
    let nothing = of_cpus.and_then(|cpus| vec![PathCount::default(); cpus].try_into());
    nothing.map_err(|source| Error::System {
        call: "counting the CPUs",
        source,
    })
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

fn typed_program<'a, P>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let found = ebpf.program_mut(program).ok_or(Error::Missing(program))?;
    found.try_into().map_err(refused(program))
}

fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> Error {
    move |e| Error::Program {
        program,
        source: Box::new(e),
    }
}
