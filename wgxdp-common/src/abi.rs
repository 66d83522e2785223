//! Names and sizes: the one place where maps and programs are named.

/// Raised whenever the meaning or the shape of any map changes. The object file carries it in the symbol [`ABI_SYMBOL`],
/// checked at load; the pin directory carries it in its name.
pub const ABI_VERSION: u32 = 4;

/// The symbol in the object file's `.rodata` that holds [`ABI_VERSION`].
pub const ABI_SYMBOL: &str = "WGXDP_ABI";

/// TC egress on the anchor.
pub const PROGRAM_STEER: &str = "steer";
/// TC ingress on each uplink.
pub const PROGRAM_RESTORE: &str = "restore";
/// XDP on an uplink, run by its driver.
pub const PROGRAM_GUARD: &str = "guard";
/// The same, run by the kernel behind the driver ("generic", "skb mode").
pub const PROGRAM_GUARD_GENERIC: &str = "guard_generic";
/// TC ingress and egress on a tunnel's WireGuard interface.
pub const PROGRAM_CLAMP_MSS: &str = "clamp_mss";

/// [`crate::table::Config`], two slots; [`MAP_GENERATION`] says which one is in force.
pub const MAP_CONFIG: &str = "CONFIG";
/// One [`u64`]: the slot of [`MAP_CONFIG`] in force is its lowest bit.
pub const MAP_GENERATION: &str = "GENERATION";
/// [`crate::endpoints::Bucket`] by the hash of a [`crate::table::EndpointKey`].
pub const MAP_BUCKETS: &str = "BUCKETS";
/// [`crate::endpoints::EndpointEntry`] by its number, less one.
pub const MAP_ENDPOINTS: &str = "ENDPOINTS";
/// LRU: [`crate::table::EndpointKey`] → [`crate::client::Whereabouts`].
pub const MAP_CLIENTS: &str = "CLIENTS";
/// LRU: [`crate::client::HandshakeKey`] → [`crate::client::Whereabouts`].
pub const MAP_HANDSHAKES: &str = "HANDSHAKES";
/// LRU: [`crate::client::SessionKey`], the value says nothing.
pub const MAP_SESSIONS: &str = "SESSIONS";
/// [`crate::net::Address`] → [`crate::client::LocalId`].
pub const MAP_LOCALS: &str = "LOCALS";
/// [`crate::client::Local`] by [`crate::client::LocalId`].
pub const MAP_ADDRESSES: &str = "ADDRESSES";
/// [`crate::table::Peer`] by peer id.
pub const MAP_PEERS: &str = "PEERS";
/// [`crate::table::PeerState`] by peer id, written by `steer`.
pub const MAP_PEER_STATES: &str = "PEER_STATES";
/// [`crate::table::Path`] by path id, written by user space alone.
pub const MAP_PATHS: &str = "PATHS";
/// [`crate::table::Proof`] by path id, written by the programs (user space lifts the latch).
pub const MAP_PROOFS: &str = "PROOFS";
/// [`crate::table::UplinkFlags`] by uplink id, written by user space alone.
pub const MAP_UPLINK_FLAGS: &str = "UPLINK_FLAGS";
/// [`crate::table::ProbeSlot`], as many for each path as [`PROBE_SLOTS_SYMBOL`] says.
pub const MAP_PROBES: &str = "PROBES";
/// LRU: [`crate::tcp::Question`] → [`crate::tcp::Asked`].
pub const MAP_TCP_PROBES: &str = "TCP_PROBES";
/// [`crate::keyring::KeyName`] → [`crate::keyring::Keyring`].
pub const MAP_KEYRINGS: &str = "KEYRINGS";
/// Where a program handles an in-band probe, one entry per CPU: nobody else's business.
pub const MAP_WORKBENCH: &str = "WORKBENCH";
/// [`crate::count::PathCount`] by path id, per CPU.
pub const MAP_PATH_COUNTS: &str = "PATH_COUNTS";
/// `u64` by [`crate::count::reason_index`], per CPU.
pub const MAP_REASON_COUNTS: &str = "REASON_COUNTS";
/// The largest inner packet in bytes that TCP may send, a `u32` by the index of the tunnel's interface; no entry: any.
pub const MAP_CLAMP: &str = "CLAMP";
/// Ring buffer of [`crate::record::Record`] and [`crate::record::Registration`].
pub const MAP_RECORDS: &str = "RECORDS";

/// Every map of the object, in the order in which they are pinned.
pub const MAPS: [&str; 22] = [
    MAP_CONFIG,
    MAP_GENERATION,
    MAP_BUCKETS,
    MAP_ENDPOINTS,
    MAP_CLIENTS,
    MAP_HANDSHAKES,
    MAP_SESSIONS,
    MAP_LOCALS,
    MAP_ADDRESSES,
    MAP_PEERS,
    MAP_PEER_STATES,
    MAP_PATHS,
    MAP_PROOFS,
    MAP_UPLINK_FLAGS,
    MAP_PROBES,
    MAP_TCP_PROBES,
    MAP_KEYRINGS,
    MAP_WORKBENCH,
    MAP_PATH_COUNTS,
    MAP_REASON_COUNTS,
    MAP_CLAMP,
    MAP_RECORDS,
];

/// Uplinks of one host.
pub const MAX_UPLINKS: usize = 16;
/// Tunnels of one host.
pub const MAX_TUNNELS: usize = 16;
/// Paths of one peer; `steer` looks at no more.
pub const MAX_PATHS_PER_PEER: usize = 8;
/// Peers for which the maps have room when the loader says nothing else.
pub const DEFAULT_MAX_PEERS: u32 = 64;
/// Learned clients for which there is room when the operator says nothing else.
pub const DEFAULT_MAX_CLIENTS: u32 = 65_536;
/// Session indices that are remembered for each client: the present one, the one before and the next, and one to spare.
pub const SESSIONS_PER_CLIENT: u32 = 4;
/// Local addresses of the host.
pub const MAX_LOCALS: u32 = 1024;
/// The variable in the object file's `.rodata` that holds the number of buckets, less one; the loader sets it.
pub const BUCKET_MASK_SYMBOL: &str = "WGXDP_BUCKET_MASK";
/// The most probes in flight that a path remembers: 64 at 10 ms cover a round trip of 640 ms.
pub const PROBE_SLOTS: u32 = 64;
/// The fewest, however many paths there are.
pub const MIN_PROBE_SLOTS: u32 = 8;
/// The variable in the object file's `.rodata` that holds how many it is, a power of two; the loader sets it.
pub const PROBE_SLOTS_SYMBOL: &str = "WGXDP_PROBE_SLOTS";
/// TCP probes that are remembered, on all paths together: those of 1,000 paths at 20 ms for 300 ms.
pub const TCP_PROBES: u32 = 16_384;
/// Peers with keys for which there is room when the loader says nothing else.
pub const DEFAULT_MAX_KEYRINGS: u32 = DEFAULT_MAX_PEERS;
/// The variable in the object file's `.rodata` that holds what CLOCK_MONOTONIC lacks of Unix time, in nanoseconds; the loader sets it once, so that the programs'
/// timestamps only grow.
pub const UNIX_OFFSET_SYMBOL: &str = "WGXDP_UNIX_OFFSET_NS";
/// Bytes of the ring buffer.
pub const RECORDS_BYTES: u32 = 256 * 1024;

/// The fwmark of a probe is [`PROBE_MARK`] in the bits of [`PROBE_MARK_MASK`], and its path's id in the others.
pub const PROBE_MARK: u32 = 0x5700_0000;
/// See [`PROBE_MARK`].
pub const PROBE_MARK_MASK: u32 = 0xff00_0000;

/// `tc_index` of a data packet's copy, between its making and its leaving, is [`COPY_TAG`] in the bits of [`COPY_TAG_MASK`], and the slot of its path in
/// the others. WireGuard's packets come with 0.
pub const COPY_TAG: u32 = 0x5700;
/// See [`COPY_TAG`].
pub const COPY_TAG_MASK: u32 = 0xffff & !(MAX_PATHS_PER_PEER as u32 - 1);
