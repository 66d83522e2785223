//! The maps, and reading words that user space may write at the same time.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use wgxdp_common::abi::{
    DEFAULT_MAX_CLIENTS, DEFAULT_MAX_KEYRINGS, DEFAULT_MAX_PEERS, MAX_LOCALS, MAX_PATHS_PER_PEER, MAX_TUNNELS,
    MAX_UPLINKS, PROBE_SLOTS, RECORDS_BYTES, SESSIONS_PER_CLIENT, TCP_PROBES as TCP_PROBE_ENTRIES,
};
use wgxdp_common::client::{HandshakeKey, Local, LocalId, SessionKey, Whereabouts};
use wgxdp_common::count::{PathCount, REASON_COUNTS as REASONS};
use wgxdp_common::endpoints::{Bucket, EndpointEntry, buckets};
use wgxdp_common::keyring::{KeyName, Keyring};
use wgxdp_common::net::Address;
use wgxdp_common::table::{Config, EndpointKey, Path, Peer, PeerState, ProbeSlot, Proof, UplinkFlags};
use wgxdp_common::tcp::{Asked, Question};

use crate::in_band::Incoming;

// The loader sizes what depends on the number of peers and clients; these are the sizes when it does not.
const PEER_ENTRIES: u32 = DEFAULT_MAX_PEERS;
const PATH_ENTRIES: u32 = PEER_ENTRIES * MAX_PATHS_PER_PEER as u32;
const CLIENT_ENTRIES: u32 = DEFAULT_MAX_CLIENTS;

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(2, 0);
#[map]
pub(crate) static GENERATION: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub(crate) static BUCKETS: Array<Bucket> = Array::with_max_entries(buckets(PATH_ENTRIES), BPF_F_MMAPABLE);
/// Buckets, less one: [`wgxdp_common::abi::BUCKET_MASK_SYMBOL`].
#[unsafe(no_mangle)]
static WGXDP_BUCKET_MASK: Global<u32> = Global::new(buckets(PATH_ENTRIES) - 1);
#[map]
pub(crate) static ENDPOINTS: Array<EndpointEntry> = Array::with_max_entries(PATH_ENTRIES, BPF_F_MMAPABLE);
#[map]
pub(crate) static CLIENTS: LruHashMap<EndpointKey, Whereabouts> = LruHashMap::with_max_entries(CLIENT_ENTRIES, 0);
#[map]
pub(crate) static HANDSHAKES: LruHashMap<HandshakeKey, Whereabouts> = LruHashMap::with_max_entries(CLIENT_ENTRIES, 0);
#[map]
pub(crate) static SESSIONS: LruHashMap<SessionKey, u32> =
    LruHashMap::with_max_entries(CLIENT_ENTRIES * SESSIONS_PER_CLIENT, 0);
#[map]
pub(crate) static LOCALS: HashMap<Address, LocalId> = HashMap::with_max_entries(MAX_LOCALS, 0);
#[map]
pub(crate) static ADDRESSES: Array<Local> = Array::with_max_entries(MAX_LOCALS, BPF_F_MMAPABLE);
#[map]
pub(crate) static PEERS: Array<Peer> = Array::with_max_entries(PEER_ENTRIES, BPF_F_MMAPABLE);
#[map]
pub(crate) static PEER_STATES: Array<PeerState> = Array::with_max_entries(PEER_ENTRIES, BPF_F_MMAPABLE);
#[map]
pub(crate) static PATHS: Array<Path> = Array::with_max_entries(PATH_ENTRIES, BPF_F_MMAPABLE);
#[map]
pub(crate) static PROOFS: Array<Proof> = Array::with_max_entries(PATH_ENTRIES, BPF_F_MMAPABLE);
#[map]
pub(crate) static UPLINK_FLAGS: Array<UplinkFlags> = Array::with_max_entries(MAX_UPLINKS as u32, BPF_F_MMAPABLE);
#[map]
pub(crate) static PROBES: Array<ProbeSlot> = Array::with_max_entries(PATH_ENTRIES * PROBE_SLOTS, 0);
#[map]
pub(crate) static TCP_PROBES: LruHashMap<Question, Asked> = LruHashMap::with_max_entries(TCP_PROBE_ENTRIES, 0);
/// Probes that a path remembers, a power of two: [`wgxdp_common::abi::PROBE_SLOTS_SYMBOL`].
#[unsafe(no_mangle)]
static WGXDP_PROBE_SLOTS: Global<u32> = Global::new(PROBE_SLOTS);
#[map]
pub(crate) static KEYRINGS: HashMap<KeyName, Keyring> = HashMap::with_max_entries(DEFAULT_MAX_KEYRINGS, 0);
/// What CLOCK_MONOTONIC lacks of Unix time: [`wgxdp_common::abi::UNIX_OFFSET_SYMBOL`].
#[unsafe(no_mangle)]
static WGXDP_UNIX_OFFSET_NS: Global<u64> = Global::new(0);
/// Where this CPU handles an in-band probe.
#[map]
pub(crate) static WORKBENCH: PerCpuArray<Incoming> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static PATH_COUNTS: PerCpuArray<PathCount> = PerCpuArray::with_max_entries(PATH_ENTRIES, 0);
#[map]
pub(crate) static REASON_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS, 0);
#[map]
pub(crate) static CLAMP: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TUNNELS as u32, 0);
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(RECORDS_BYTES, 0);

/// Buckets in [`BUCKETS`], less one. The map of such variables is frozen before the programs are loaded, so that the verifier takes them for constants.
#[inline(always)]
pub(crate) fn bucket_mask() -> u32 {
    WGXDP_BUCKET_MASK.load()
}

/// Probes that a path remembers.
#[inline(always)]
pub(crate) fn probe_slots() -> u32 {
    WGXDP_PROBE_SLOTS.load()
}

/// Nanoseconds from Unix's epoch to that of CLOCK_MONOTONIC.
#[inline(always)]
pub(crate) fn unix_offset_ns() -> u64 {
    WGXDP_UNIX_OFFSET_NS.load()
}

/// Reads a field once, as it is now: somebody else may write it.
#[inline(always)]
pub(crate) fn read<T: Copy>(field: *const T) -> T {
    // SAFETY: `field` points into a map's value, which lives as long as the program's run, and is aligned as its type asks; `T`
    // is one machine word or less, so that the read is not torn.
    unsafe { field.read_volatile() }
}

/// Writes a field once; readers on other CPUs see the old or the new.
#[inline(always)]
pub(crate) fn write<T: Copy>(field: *mut T, value: T) {
    // SAFETY: as for `read`; the map's memory is shared and every writer writes whole words.
    unsafe { field.write_volatile(value) }
}

/// The address of a field of a map's value, without a reference to what others write.
macro_rules! field {
    ($value:expr, $field:ident) => {
        // SAFETY: the map look-up that gave the pointer checked it; only an address is computed.
        unsafe { &raw mut (*$value).$field }
    };
}
pub(crate) use field;
