//! `restore`, TC ingress on each uplink: gives arriving packets back the addresses that WireGuard knows.
//!
//! ```text
//! uplink ─▶ restore
//!   cannot be WireGuard's        ─▶ dropped, counted
//!   not ours (no UDP, other port, not to the uplink's address, fragment, …)  pass, counted
//!   an echo reply, authentic     ─▶ the path's proof moves ─▶ consumed
//!   from a known endpoint        ─▶ source := the peer's canonical endpoint ┐
//!   from anywhere else           ─▶ source as it is                        ├▶ destination := the anchor's address ─▶ anchor's ingress
//! ```
//!
//! A stranger's packet goes the same way, so that strict rp_filter lets it in by whichever uplink it came, but keeps its source: WireGuard's cookie and its
//! handshake limit are per source.

use aya_ebpf::programs::TcContext;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::net::{Endpoint, Port};
use wgxdp_common::table::{Config, EndpointKey, LinkKind, Uplink};

use crate::maps::{ENDPOINTS, PATH_COUNTS, PEERS, field};
use crate::outcome::{Outcome, add, segments};
use crate::packet::{ETHERNET, Packet, Transport, parse, skb};
use crate::rewrite::{Ends, receive, rewrite};
use crate::{config, message, probe};

/// `__sk_buff::pkt_type` of a frame for somebody else's link-layer address (linux/if_packet.h).
const PACKET_OTHERHOST: u32 = 3;

/// See the module.
#[inline(always)]
pub(crate) fn restore(ctx: &TcContext) -> Outcome {
    let Some(config) = config::current() else {
        return Outcome {
            place: Place::Elsewhere,
            reason: Reason::NotConfigured,
        };
    };
    let Some((id, uplink)) = config::uplink_by_ifindex(config, skb!(ctx, ifindex)) else {
        return Outcome {
            place: Place::Elsewhere,
            reason: Reason::NotConfigured,
        };
    };
    let restored = if uplink.link == LinkKind::IP {
        try_restore::<0>(ctx, config, id, uplink)
    } else {
        try_restore::<ETHERNET>(ctx, config, id, uplink)
    };
    let reason = match restored {
        Ok(reason) | Err(reason) => reason,
    };
    Outcome {
        place: Place::Uplink(id),
        reason,
    }
}

#[inline(always)]
fn try_restore<const L3: usize>(
    ctx: &TcContext,
    config: &Config,
    id: UplinkId,
    uplink: &Uplink,
) -> Result<Reason, Reason> {
    if skb!(ctx, pkt_type) == PACKET_OTHERHOST || skb!(ctx, vlan_present) != 0 {
        return Err(Reason::OtherHost);
    }
    let packet = parse::<L3>(ctx)?;
    let local = if packet.v4 {
        uplink.v4.address
    } else {
        uplink.v6.address
    };
    match packet.transport {
        Transport::Udp { source, destination } => {
            config::tunnel(config, destination).ok_or(Reason::OtherPort)?;
            if packet.destination != local {
                return Err(Reason::ForeignDestination);
            }
            message::check::<L3>(ctx, packet.v4)?;
            hand_over::<L3>(ctx, config, id, &packet, source, destination)
        }
        Transport::Echo {
            reply: true,
            ident,
            sequence,
            payload,
        } => {
            if ident != config.anchor.probe_ident || packet.destination != local {
                return Err(Reason::Unauthentic);
            }
            probe::arrives(payload, sequence, id).ok_or(Reason::Unauthentic)?;
            Ok(Reason::Proof)
        }
        Transport::Echo { .. } => Err(Reason::NotUdp),
    }
}

/// Rewrites a tunnel's packet and hands it to WireGuard by the anchor.
#[inline(always)]
fn hand_over<const L3: usize>(
    ctx: &TcContext,
    config: &Config,
    id: UplinkId,
    packet: &Packet,
    source: Port,
    port: Port,
) -> Result<Reason, Reason> {
    let anchor = &config.anchor;
    let local = Endpoint {
        address: if packet.v4 { anchor.v4 } else { anchor.v6 },
        port,
        reserved: [0; 2],
    };
    let key = EndpointKey {
        endpoint: packet.source,
        port: source,
        tunnel: port,
    };
    // SAFETY: user space replaces entries and never edits them.
    let (remote, path, reason) = match unsafe { ENDPOINTS.get(key) } {
        Some(entry) => {
            let peer = PEERS.get_ptr(entry.peer.0).ok_or(Reason::NotConfigured)?;
            // SAFETY: a peer's canonical endpoint is written before anything refers to the peer and not changed while something does.
            (unsafe { (*peer).canonical }, entry.path(id), Reason::Restored)
        }
        None => (
            Endpoint {
                address: packet.source,
                port: source,
                reserved: [0; 2],
            },
            None,
            Reason::Stranger,
        ),
    };
    rewrite::<L3>(
        ctx,
        packet,
        Ends {
            source: remote,
            destination: local,
        },
    )?;
    receive::<L3>(ctx, anchor, packet.v4)?;
    if let Some(path) = path {
        count_received(ctx, path, packet.len);
    }
    Ok(reason)
}

/// Counts a packet that arrived over a path; one that the device merged counts as what it was merged from.
#[inline(always)]
fn count_received(ctx: &TcContext, path: PathId, len: u32) {
    if let Some(count) = PATH_COUNTS.get_ptr_mut(path.0) {
        add(field!(count, rx_packets), segments(ctx));
        add(field!(count, rx_bytes), u64::from(len));
    }
}
