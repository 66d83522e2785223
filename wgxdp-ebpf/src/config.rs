//! The configuration in force, seen whole: one word names the slot, and user space rewrites the other one only after a grace period.

use wgxdp_common::checksum::Difference;
use wgxdp_common::client::LocalId;
use wgxdp_common::id::UplinkId;
use wgxdp_common::liveness::Flags;
use wgxdp_common::net::{Address, Port};
use wgxdp_common::table::{Config, Has, Tunnel, Uplink};

use crate::maps::{CONFIG, GENERATION, UPLINK_FLAGS, field, read};

/// The configuration in force for this packet.
#[inline(always)]
pub(crate) fn current() -> Option<&'static Config> {
    let generation = read(GENERATION.get_ptr(0)?);
    CONFIG.get((generation & 1) as u32)
}

/// An entry of an array whose length is a power of two. The mask bounds the index once and for all: a comparison would do so only for the
/// register that is compared, and kernels before 6.9 forget it for the copy that the compiler spilled to the stack meanwhile.
#[inline(always)]
fn entry<T, const N: usize>(entries: &[T; N], index: usize) -> &T {
    const { assert!(N.is_power_of_two()) };
    &entries[index & (N - 1)]
}

/// The tunnel that listens on `port`.
#[inline(always)]
pub(crate) fn tunnel(config: &Config, port: Port) -> Option<&Tunnel> {
    let mut tunnels = config.tunnels.iter().take(config.tunnel_count as usize);
    let found = tunnels.find(|tunnel| tunnel.port == port)?;
    Some(entry(&config.tunnels, found.index as usize))
}

/// The uplink whose device has this index.
#[inline(always)]
pub(crate) fn uplink_by_ifindex(config: &Config, ifindex: u32) -> Option<(UplinkId, &Uplink)> {
    let mut uplinks = config.uplinks.iter().take(config.uplink_count as usize);
    let id = uplinks.find(|uplink| uplink.ifindex == ifindex)?.id;
    Some((id, entry(&config.uplinks, id.0 as usize)))
}

/// Whether what `guard` sends back on the uplink surely leaves.
#[inline(always)]
pub(crate) fn sends_back(config: &Config, id: UplinkId) -> bool {
    entry(&config.uplinks, id.0 as usize).sends_back != 0
}

/// The uplink's own address of a family, among the host's.
#[inline(always)]
pub(crate) fn own_local(config: &Config, id: UplinkId, v4: bool) -> LocalId {
    let uplink = entry(&config.uplinks, id.0 as usize);
    if v4 { uplink.v4.local } else { uplink.v6.local }
}

/// What speaks against using the uplink.
#[inline(always)]
pub(crate) fn uplink_flags(id: UplinkId) -> Flags {
    match UPLINK_FLAGS.get_ptr_mut(id.0) {
        Some(entry) => read(field!(entry, flags)),
        None => Flags::ABSENT,
    }
}

/// How to leave by an uplink: its device, the source address there and the next hop.
#[derive(Clone, Copy)]
pub(crate) struct Egress {
    pub(crate) ifindex: u32,
    pub(crate) source: Address,
    pub(crate) next_hop: Address,
    /// The family of both.
    pub(crate) v4: bool,
    /// How the source differs from the anchor's address.
    pub(crate) difference: Difference,
}

/// How a packet to `destination` leaves by uplink `id`; `None` while the uplink has no device or no address of that family.
#[inline(always)]
pub(crate) fn egress(config: &Config, id: UplinkId, destination: Address, v4: bool) -> Option<Egress> {
    let uplink = entry(&config.uplinks, id.0 as usize);
    let family = if v4 { &uplink.v4 } else { &uplink.v6 };
    if uplink.ifindex == 0 || family.has.0 == Has::NOTHING.0 {
        return None;
    }
    let next_hop = if family.has.0 == Has::GATEWAY.0 {
        family.gateway
    } else {
        destination
    };
    let source = family.address;
    Some(Egress {
        ifindex: uplink.ifindex,
        source: if v4 { source.as_v4() } else { source },
        next_hop: if v4 { next_hop.as_v4() } else { next_hop },
        v4,
        difference: Difference::NONE.with(family.difference),
    })
}
