//! Every map that user space reads while programs run: of an object loaded by this process, or pinned by another.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use wgxdp_common::abi::{
    MAP_CLIENTS, MAP_CONFIG, MAP_GENERATION, MAP_PATH_COUNTS, MAP_PATHS, MAP_PEER_STATES, MAP_PEERS, MAP_PROOFS,
    MAP_REASON_COUNTS, MAP_UPLINK_FLAGS,
};
use wgxdp_common::client::Whereabouts;
use wgxdp_common::count::{PathCount, Place, Reason, reason_index};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::table::{Config, EndpointKey, Order, OrderedBy, Path, Peer, PeerState, Proof, UplinkFlags};

use super::table::{Table, field};
use super::{Error, Pins};

/// The tables; cheap to clone, so that the metrics' task reads them while the daemon writes.
#[derive(Clone)]
pub struct Tables(Arc<Inner>);

/// What [`Tables`] shares.
pub struct Inner {
    pub(super) peers: Table<Peer>,
    pub(super) peer_states: Table<PeerState>,
    pub(super) paths: Table<Path>,
    pub(super) proofs: Table<Proof>,
    pub(super) uplink_flags: Table<UplinkFlags>,
    pub(super) generation: Table<u64>,
    pub(super) config: aya::maps::Array<MapData, Config>,
    pub(super) clients: HashMap<MapData, EndpointKey, Whereabouts>,
    pub(super) path_counts: PerCpuArray<MapData, PathCount>,
    pub(super) reason_counts: PerCpuArray<MapData, u64>,
}

impl std::ops::Deref for Tables {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Tables {
    /// The tables of a loaded object, or of pins.
    pub(super) fn open(source: &impl Source) -> Result<Self, Error> {
        let memory = |name| source.open(name);
        Ok(Self(Arc::new(Inner {
            peers: Table::new(&memory(MAP_PEERS)?, MAP_PEERS)?,
            peer_states: Table::new(&memory(MAP_PEER_STATES)?, MAP_PEER_STATES)?,
            paths: Table::new(&memory(MAP_PATHS)?, MAP_PATHS)?,
            proofs: Table::new(&memory(MAP_PROOFS)?, MAP_PROOFS)?,
            uplink_flags: Table::new(&memory(MAP_UPLINK_FLAGS)?, MAP_UPLINK_FLAGS)?,
            generation: Table::new(&memory(MAP_GENERATION)?, MAP_GENERATION)?,
            config: typed(source, MAP_CONFIG, Map::Array)?,
            clients: typed(source, MAP_CLIENTS, Map::LruHashMap)?,
            path_counts: typed(source, MAP_PATH_COUNTS, Map::PerCpuArray)?,
            reason_counts: typed(source, MAP_REASON_COUNTS, Map::PerCpuArray)?,
        })))
    }

    /// The tables that another process pinned.
    ///
    /// # Errors
    /// When there are none, or they are not to be read.
    pub fn pinned(pins: &Pins) -> Result<Self, Error> {
        Self::open(pins)
    }

    /// What the programs know of a path's health.
    #[must_use]
    pub fn proof(&self, path: PathId) -> Proof {
        self.proofs.read(path.0)
    }

    /// Clients with paths of their own, as the programs know them: one whose paths have just changed has two entries for a while.
    pub fn registered(&self) -> impl Iterator<Item = Peer> + '_ {
        let all = (0..self.peers.len()).map(|number| self.peers.read(number));
        all.filter(|peer| peer.ordered == OrderedBy::FAR_END)
    }

    /// The path that carries the peer's traffic; `None` before its first packet.
    #[must_use]
    pub fn active(&self, peer: PeerId) -> Option<PathId> {
        let active = self.peer_states.read(peer.0).active;
        Some(PathId(active.checked_sub(1)? as u32))
    }

    /// A peer's order, which for registered clients the programs write.
    #[must_use]
    pub fn order(&self, peer: PeerId) -> Order {
        self.peers.read(peer.0).order
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn config(&self) -> Result<Config, Error> {
        let generation = self.generation.load_word(0, field!(u64));
        let config = self.config.get(&((generation & 1) as u32), 0);
        config.map_err(|source| Error::Map {
            map: MAP_CONFIG,
            source,
        })
    }

    /// What was counted on a path, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn path_count(&self, path: PathId) -> Result<PathCount, Error> {
        let counts = self.path_counts.get(&path.0, 0).map_err(|source| Error::Map {
            map: MAP_PATH_COUNTS,
            source,
        })?;
        Ok(counts.iter().fold(PathCount::default(), |sum, count| PathCount {
            tx_packets: sum.tx_packets + count.tx_packets,
            tx_bytes: sum.tx_bytes + count.tx_bytes,
            rx_packets: sum.rx_packets + count.rx_packets,
            rx_bytes: sum.rx_bytes + count.rx_bytes,
        }))
    }

    /// Learned clients at the moment. Walks the map: to be asked now and then.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn clients(&self) -> Result<u64, Error> {
        let failed = |source| Error::Map {
            map: MAP_CLIENTS,
            source,
        };
        self.clients
            .keys()
            .try_fold(0, |count, key| key.map(|_| count + 1))
            .map_err(failed)
    }

    /// How often packets met their end for this reason there, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn reason_count(&self, place: Place, reason: Reason) -> Result<u64, Error> {
        let counts = self.reason_counts.get(&reason_index(place, reason), 0);
        Ok(counts
            .map_err(|source| Error::Map {
                map: MAP_REASON_COUNTS,
                source,
            })?
            .iter()
            .sum())
    }
}

/// Where maps come from: an object that this process loaded, or the pins of another's.
pub(super) trait Source {
    /// The map of that name, under a file descriptor of its own.
    fn open(&self, name: &'static str) -> Result<MapData, Error>;
}

impl Source for Ebpf {
    fn open(&self, name: &'static str) -> Result<MapData, Error> {
        let (Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::RingBuf(data)) = self.map(name).ok_or(Error::Missing(name))?
        else {
            return Err(Error::Missing(name));
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| Error::System {
            call: "fcntl(F_DUPFD_CLOEXEC)",
            source,
        })?;
        MapData::from_fd(fd).map_err(|source| Error::Map { map: name, source })
    }
}

impl Source for Pins {
    fn open(&self, name: &'static str) -> Result<MapData, Error> {
        MapData::from_pin(self.map(name)).map_err(|source| Error::Map { map: name, source })
    }
}

/// A map as aya's type of it; `kind` says which one it must be.
pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(
    source: &impl Source,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<M, Error> {
    M::try_from(kind(source.open(name)?)).map_err(|source| Error::Map { map: name, source })
}
