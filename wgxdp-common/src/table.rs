//! The values of the maps. Who writes which:
//!
//! - **user space alone**: [`Config`], [`EndpointRef`], [`Peer`], [`Path`], [`UplinkFlags`];
//! - **the programs**: [`PeerState`], [`Proof`] (user space lifts its latch), [`ProbeSlot`].
//!
//! A packet sees configuration whole. [`Config`] lives in two slots, of which one 64-bit word names the one in force; a slot is rewritten
//! only after a grace period. A [`Path`]'s uplink and endpoint and a [`Peer`]'s canonical endpoint are written before anything refers to them
//! and not changed while something does; what does change (`order`, `thresholds`, `flags`, `largest`) is one aligned word each.

use core::net::SocketAddr;

use crate::abi::{MAX_PATHS_PER_PEER, MAX_TUNNELS, MAX_UPLINKS};
use crate::checksum::Difference;
use crate::client::LocalId;
use crate::id::{PathId, PeerId, UplinkId};
use crate::keyring::{Heard, KeyName};
use crate::liveness::{Flags, Protect, Thresholds};
use crate::net::{Address, Endpoint, Port};
use crate::{layout, pod};

/// What a link-layer header looks like on an uplink.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkKind(pub u32);

impl Tunnel {
    /// The uplink in place `index` (below [`MAX_UPLINKS`]) of the fallback order.
    #[must_use]
    #[inline(always)]
    pub const fn fallback(&self, index: usize) -> Option<UplinkId> {
        match self.fallback[index] {
            Order::NONE => None,
            uplink => Some(UplinkId(uplink as u32)),
        }
    }
}

impl PathState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Up, Self::Suspect, Self::Down, Self::Held, Self::Drained];

    /// The word that users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Held => "held",
            Self::Drained => "drained",
        }
    }

    /// From the number in [`Path::state`].
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u16 == number)
    }
}

impl LinkKind {
    /// The uplink has no device at the moment.
    pub const ABSENT: Self = Self(0);
    /// Ethernet headers.
    pub const ETHERNET: Self = Self(1);
    /// None: packets start with their IP header (tun, PPP, raw-IP modems).
    pub const IP: Self = Self(2);
}

/// An uplink's side of one address family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// The source address of what leaves by this uplink.
    pub address: Address,
    /// The next hop.
    pub gateway: Address,
    /// `address` among the host's local addresses.
    pub local: LocalId,
    /// Which of the two it has.
    pub has: Has,
    /// What a checksum moves by when `address` takes the place of the anchor's (`Difference::fold32`).
    pub difference: u32,
}

/// Which addresses an uplink has in a family: so that a program need not look at all words of an address to see that there is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has(pub u32);

impl Has {
    /// The family is not to be used.
    pub const NOTHING: Self = Self(0);
    /// A source address; every destination is on the link.
    pub const ADDRESS: Self = Self(1);
    /// A source address and a gateway.
    pub const GATEWAY: Self = Self(3);
}

impl Family {
    /// From addresses, of which unspecified ones mean that there is none. The rest is set by [`Family::placed`].
    #[must_use]
    pub const fn new(address: Address, gateway: Address) -> Self {
        let has = match (address.is_unspecified(), gateway.is_unspecified()) {
            (true, _) => Has::NOTHING,
            (false, true) => Has::ADDRESS,
            (false, false) => Has::GATEWAY,
        };
        Self {
            address,
            gateway,
            local: LocalId::NONE,
            has,
            difference: 0,
        }
    }

    /// On a host whose anchor has this address, with the address's id there.
    #[must_use]
    pub const fn placed(self, anchor: Address, local: LocalId) -> Self {
        Self {
            local,
            difference: Difference::NONE.of_address(anchor, self.address).fold32(),
            ..self
        }
    }
}

/// One local interface that can carry tunnel packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// IPv4.
    pub v4: Family,
    /// IPv6.
    pub v6: Family,
    /// The interface's index; 0 while there is none.
    pub ifindex: u32,
    /// The interface's link layer.
    pub link: LinkKind,
    /// The largest IP packet in bytes that fits.
    pub mtu: u32,
    /// The uplink's own [`UplinkId`]: a program that found the entry by searching reads here which one it is, and the verifier forgets the search.
    pub id: UplinkId,
    /// 1 if what `guard` sends back (XDP_TX) surely leaves, where a driver runs it; else `restore` answers.
    pub sends_back: u32,
    /// Always zero: 128 bytes, so that finding an entry is a shift.
    pub reserved: [u32; 5],
}

/// The virtual device `wgxdp0` that WireGuard's outer packets are routed to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The canonical local IPv4 address.
    pub v4: Address,
    /// The canonical local IPv6 address.
    pub v6: Address,
    /// The device's index.
    pub ifindex: u32,
    /// The device's link-layer address.
    pub mac: [u8; 6],
    /// Identifier of the ICMP echo probes of this run (RFC 792) and source port of its UDP probes, in network byte order.
    pub probe_ident: u16,
}

/// A WireGuard interface, known by its listen port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The listen port; zero in unused entries.
    pub port: Port,
    /// The entry's own place among the tunnels; see [`Uplink::id`].
    pub index: u16,
    /// Uplinks in order of preference, for destinations that no peer is known by: one [`UplinkId`] in each byte, 0xff for none.
    pub fallback: [u8; MAX_UPLINKS],
}

/// Everything that is one for the whole host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The anchor.
    pub anchor: Anchor,
    /// Uplinks by [`UplinkId`].
    pub uplinks: [Uplink; MAX_UPLINKS],
    /// Tunnels; only the first `tunnel_count` are in use.
    pub tunnels: [Tunnel; MAX_TUNNELS],
    /// Uplinks in use.
    pub uplink_count: u32,
    /// Tunnels in use.
    pub tunnel_count: u32,
}

/// By what `steer` knows a peer when a packet leaves for one of its endpoints, and `restore` when one arrives from there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Where the peer listens.
    pub endpoint: Address,
    /// Its port there.
    pub port: Port,
    /// Our tunnel's listen port.
    pub tunnel: Port,
}

impl EndpointKey {
    /// Of this endpoint, for the tunnel with this listen port.
    #[must_use]
    pub fn of(endpoint: SocketAddr, tunnel: Port) -> Self {
        Self {
            endpoint: endpoint.ip().into(),
            port: endpoint.port().into(),
            tunnel,
        }
    }
}

/// Whose endpoint it is, and which path a packet from there came over. Written before packets can match it, replaced and never edited.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRef {
    /// For each uplink, in the four bits at `4 × uplink`, the slot of the path uplink × this endpoint; [`EndpointRef::NO_SLOT`]
    /// where there is none.
    pub slots: u64,
    /// The peer.
    pub peer: PeerId,
    /// Always zero.
    pub reserved: u32,
}

impl EndpointRef {
    /// No path leads to this endpoint over that uplink.
    pub const NO_SLOT: u32 = 0xf;

    /// An endpoint of `peer` to which no path leads yet.
    #[must_use]
    pub const fn new(peer: PeerId) -> Self {
        Self {
            slots: u64::MAX,
            peer,
            reserved: 0,
        }
    }

    /// With the path in `slot` leading here over `uplink` (below [`MAX_UPLINKS`]).
    #[must_use]
    pub const fn with_path(mut self, uplink: UplinkId, slot: u32) -> Self {
        let shift = uplink.0 * 4;
        self.slots = self.slots & !(0xf << shift) | (slot as u64) << shift;
        self
    }

    /// The path that leads here over `uplink` (below [`MAX_UPLINKS`]).
    #[must_use]
    #[inline(always)]
    pub const fn path(&self, uplink: UplinkId) -> Option<PathId> {
        match (self.slots >> (uplink.0 * 4)) as u32 & 0xf {
            Self::NO_SLOT => None,
            slot => Some(PathId::new(self.peer, slot)),
        }
    }
}

/// A peer's order of preference: in byte `i` the slot of its `i`-th best path, [`Order::NONE`] where there are no more.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order(pub u64);

impl Order {
    /// No path in this place, nor in those behind it.
    pub const NONE: u8 = 0xff;
    /// No path at all.
    pub const EMPTY: Self = Self(u64::MAX);

    /// From slots, best first; at most [`MAX_PATHS_PER_PEER`] are taken.
    #[must_use]
    pub fn from_slots(slots: impl IntoIterator<Item = u32>) -> Self {
        let mut bytes = [Self::NONE; MAX_PATHS_PER_PEER];
        for (byte, slot) in bytes.iter_mut().zip(slots) {
            *byte = slot as u8;
        }
        Self(u64::from_le_bytes(bytes))
    }

    /// With `slot` before all others; the same if it is not among them.
    #[must_use]
    #[inline(always)]
    pub const fn with_first(self, slot: u32) -> Self {
        let mut place = 0;
        while place < MAX_PATHS_PER_PEER as u32 {
            let shift = place * 8;
            if (self.0 >> shift) as u8 as u32 == slot {
                // Those before it move up by one place; those behind it stay.
                let before = (1_u64 << shift) - 1;
                let through = before << 8 | 0xff;
                return Self(self.0 & !through | (self.0 & before) << 8 | slot as u64);
            }
            place += 1;
        }
        self
    }

    /// The slot in place `index` (below [`MAX_PATHS_PER_PEER`]).
    #[must_use]
    #[inline(always)]
    pub const fn slot(self, index: u32) -> Option<u32> {
        match (self.0 >> (index * 8)) as u8 {
            Self::NONE => None,
            slot => Some(slot as u32),
        }
    }
}

/// Who puts a peer's paths in order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderedBy(pub u32);

impl OrderedBy {
    /// User space.
    pub const USER_SPACE: Self = Self(0);
    /// The far end: the path that its probes say carries its traffic is the first.
    pub const FAR_END: Self = Self(1);
}

/// A peer, as the programs need it. User space alone writes here, but for the order of a peer that is [`OrderedBy::FAR_END`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The order of its paths.
    pub order: Order,
    /// The endpoint that WireGuard sees, whichever one the packets really use.
    pub canonical: Endpoint,
    /// Always zero.
    pub reserved: [u8; 16],
    /// Who puts its paths in order.
    pub ordered: OrderedBy,
    /// By which its in-band probes are known, and under which the keys for ours are.
    pub name: KeyName,
}

/// What `steer` last did for a peer.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// The [`crate::id::PathId`] that carried the last packet, plus one; zero before the first.
    pub active: u64,
    /// Times that `active` changed from one path to another.
    pub switches: u64,
    /// Always zero.
    pub reserved: [u8; 48],
}

/// One uplink × one endpoint of one peer. User space alone writes here.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Silence that makes the path suspect, and dead.
    pub thresholds: Thresholds,
    /// Reasons for not using it.
    pub flags: Flags,
    /// What the engine calls the path, a [`PathState`]; for `wgxdp status`, unused by the programs.
    pub state: u16,
    /// Why, one more than the number of its reason, or 0 before it ever changed; for `wgxdp status`, too.
    pub reason: u16,
    /// Lost probes of the last ones, in parts per million; for `wgxdp status`, unused by the programs.
    pub loss_ppm: u32,
    /// The uplink.
    pub uplink: UplinkId,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The largest IP packet in bytes, as WireGuard sends it (in the family of the peer's canonical endpoint), that fits the path.
    pub largest: u32,
    /// 1 if the endpoint is IPv4, else 0.
    pub v4: u32,
    /// What a checksum moves by when the endpoint's address takes the place of the canonical one (`Difference::fold32`).
    pub difference: u32,
    /// When data packets that this path carries are copied. One for all paths of a tunnel.
    pub protect: Protect,
    /// The local address from which packets leave, if it is not the uplink's own; else [`LocalId::NONE`].
    pub local: LocalId,
}

impl Path {
    /// A path over `uplink` to `endpoint` of a peer that WireGuard sees at `canonical`; nothing speaks against it, every packet fits, it
    /// is given all the time in the world, and there are no copies.
    #[must_use]
    pub const fn new(uplink: UplinkId, endpoint: Endpoint, canonical: Address) -> Self {
        Self {
            thresholds: Thresholds::NEVER,
            flags: Flags::NONE,
            state: PathState::Up as u16,
            reason: 0,
            loss_ppm: 0,
            uplink,
            endpoint,
            largest: u32::MAX,
            v4: endpoint.address.is_v4() as u32,
            difference: Difference::NONE.of_address(canonical, endpoint.address).fold32(),
            protect: Protect::OFF,
            local: LocalId::NONE,
        }
    }
}

/// What the kernel knows of a path's health, in a cache line of its own. Times are `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// When the path last proved itself.
    pub proof_ns: u64,
    /// When `steer` found the path dead; 0 while it is not latched. User space alone writes the 0.
    pub latched_ns: u64,
    /// When the latest probe left.
    pub sent_ns: u64,
    /// Probes that left since the last proof.
    pub unanswered: u64,
    /// Round-trip time, smoothed as in RFC 6298 (1/8).
    pub srtt_ns: u64,
    /// Probes sent, ever.
    pub probes_sent: u64,
    /// Authentic replies, ever.
    pub probes_answered: u64,
    /// The last authentic in-band packet that came over the path, request or answer.
    pub heard: Heard,
}

/// A probe in flight.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeSlot {
    /// The nonce that an authentic reply repeats; 0 once it has come, or before any was sent.
    pub nonce: u64,
    /// When it left.
    pub sent_ns: u64,
    /// Its sequence number, in network byte order.
    pub sequence: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Reasons, each a bit, for not using an uplink; one word, so that an uplink's death is one write.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkFlags {
    /// The flags.
    pub flags: Flags,
    /// Always zero.
    pub reserved: [u32; 15],
}

/// A path's state as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum PathState {
    /// Carries traffic, or could.
    Up = 0,
    /// Silent for longer than usual.
    Suspect = 1,
    /// Silent for too long, or without a usable uplink.
    Down = 2,
    /// Answers again, but must stay clean for the hold-down first.
    Held = 3,
    /// Taken out of service by the operator.
    Drained = 4,
}

layout!(Family, 44, { address @ 0, gateway @ 16, local @ 32, has @ 36, difference @ 40 });
layout!(Uplink, 128, { v4 @ 0, v6 @ 44, ifindex @ 88, link @ 92, mtu @ 96, id @ 100, sends_back @ 104, reserved @ 108 });
layout!(Anchor, 44, { v4 @ 0, v6 @ 16, ifindex @ 32, mac @ 36, probe_ident @ 42 });
layout!(Tunnel, 20, { port @ 0, index @ 2, fallback @ 4 });
layout!(Config, 44 + 128 * 16 + 20 * 16 + 8, { anchor @ 0, uplinks @ 44, tunnels @ 2092, uplink_count @ 2412, tunnel_count @ 2416 });
layout!(EndpointKey, 20, { endpoint @ 0, port @ 16, tunnel @ 18 });
layout!(EndpointRef, 16, { slots @ 0, peer @ 8, reserved @ 12 });
layout!(Peer, 64, { order @ 0, canonical @ 8, reserved @ 28, ordered @ 44, name @ 48 });
layout!(PeerState, 64, { active @ 0, switches @ 8, reserved @ 16 });
layout!(Path, 64, { thresholds @ 0, flags @ 8, state @ 12, reason @ 14, loss_ppm @ 16, uplink @ 20, endpoint @ 24, largest @ 44, v4 @ 48, difference @ 52, protect @ 56, local @ 60 });
layout!(Proof, 64, {
    proof_ns @ 0, latched_ns @ 8, sent_ns @ 16, unanswered @ 24, srtt_ns @ 32, probes_sent @ 40, probes_answered @ 48, heard @ 56
});
layout!(ProbeSlot, 24, { nonce @ 0, sent_ns @ 8, sequence @ 16, reserved @ 20 });
layout!(UplinkFlags, 64, { flags @ 0, reserved @ 4 });
const _: () = assert!(MAX_PATHS_PER_PEER == size_of::<Order>(), "an order is one slot a byte");

pod!(
    Order,
    OrderedBy,
    Config,
    Has,
    Uplink,
    Anchor,
    Tunnel,
    EndpointKey,
    EndpointRef,
    Peer,
    PeerState,
    Path,
    Proof,
    ProbeSlot,
    UplinkFlags
);

#[cfg(test)]
mod tests;
