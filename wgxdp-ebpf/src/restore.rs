//! `restore`, TC ingress on each uplink: gives arriving packets back the addresses that WireGuard knows.
//!
//! ```text
//! uplink ─▶ restore
//!   cannot be WireGuard's        ─▶ dropped, counted
//!   not ours (no UDP, other port, not to the uplink's address, fragment, …)  pass, counted
//!   a probe's reply, authentic   ─▶ the path's proof moves ─▶ consumed
//!   a SYN-ACK to a probe         ─▶ the path's proof moves ─▶ sent back as a RST (`tcp`)
//!   an in-band probe             ─▶ judged (`in_band`) ─▶ answered or consumed
//!   from a known endpoint        ─▶ source := the peer's canonical endpoint ┐
//!   from anywhere else           ─▶ source as it is, and heard there       ├▶ destination := the anchor's address ─▶ anchor's ingress
//! ```
//!
//! A stranger's packet goes the same way, so that strict rp_filter lets it in by whichever uplink it came, but keeps its source: WireGuard's cookie and its
//! handshake limit are per source. Where it was heard is where it is answered, as far as `wgxdp_common::client` lets it move anything.

use aya_ebpf::programs::TcContext;
use wgxdp_common::checksum::Difference;
use wgxdp_common::client::{LocalId, Whereabouts};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::net::Endpoint;
use wgxdp_common::stamp::out_of_band;
use wgxdp_common::table::{Config, EndpointKey, LinkKind, Uplink};

use crate::in_band::Incoming;
use crate::maps::{PATH_COUNTS, PEERS, field};
use crate::outcome::{Outcome, add, segments};
use crate::packet::{Datagram, ETHERNET, Packet, Transport, parse, skb};
use crate::rewrite::{Ends, receive, rewrite};
use crate::{clients, config, endpoints, in_band, message, packet, probe, send_back, tcp};

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
    // Once for each kind of link and for each family, so that the compiler knows what is always the same.
    let restored = match (uplink.link == LinkKind::IP, packet::is_v4(ctx)) {
        (true, Some(true)) => try_restore::<0, true>(ctx, config, id, uplink),
        (true, Some(false)) => try_restore::<0, false>(ctx, config, id, uplink),
        (false, Some(true)) => try_restore::<ETHERNET, true>(ctx, config, id, uplink),
        (false, Some(false)) => try_restore::<ETHERNET, false>(ctx, config, id, uplink),
        (_, None) => Err(Reason::NotIp),
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
fn try_restore<const L3: usize, const V4: bool>(
    ctx: &TcContext,
    config: &Config,
    id: UplinkId,
    uplink: &Uplink,
) -> Result<Reason, Reason> {
    if skb!(ctx, pkt_type) == PACKET_OTHERHOST || skb!(ctx, vlan_present) != 0 {
        return Err(Reason::OtherHost);
    }
    let packet = parse::<L3, V4>(ctx)?;
    let family = if packet.v4 { &uplink.v4 } else { &uplink.v6 };
    match packet.transport {
        Transport::Udp(udp) if config::tunnel(config, udp.destination).is_none() => {
            if udp.destination.0 != config.anchor.probe_ident {
                return Err(Reason::OtherPort);
            }
            if packet.destination != family.address {
                return Err(Reason::Unauthentic);
            }
            let repeated = ctx.load(udp.payload + out_of_band::REPEATED).ok();
            probe::answers(&udp, repeated, id).ok_or(Reason::Unauthentic)?;
            Ok(Reason::Proof)
        }
        Transport::Udp(udp) => {
            let anchor = if V4 { config.anchor.v4.as_v4() } else { config.anchor.v6 };
            let (local, from_local) = if packet.destination == family.address {
                (family.local, Difference::NONE.without(family.difference))
            } else {
                let local = clients::local_id(packet.destination).ok_or(Reason::ForeignDestination)?;
                (local, Difference::NONE.of_address(packet.destination, anchor))
            };
            match message::check(ctx, &udp) {
                Err(Reason::WrongType) if in_band::is_claimed(&udp) => {
                    return probed::<L3>(ctx, id, local, &packet, &udp);
                }
                judged => judged?,
            };
            let arrived = Arrived {
                ctx,
                config,
                packet: &packet,
                udp: &udp,
                uplink: id,
                local,
                from_local,
            };
            arrived.hand_over::<L3>()
        }
        Transport::Echo {
            reply: true,
            ident,
            sequence,
            payload,
        } => {
            if ident != config.anchor.probe_ident || packet.destination != family.address {
                return Err(Reason::Unauthentic);
            }
            probe::arrives(payload, sequence, id).ok_or(Reason::Unauthentic)?;
            Ok(Reason::Proof)
        }
        Transport::Tcp(segment) if packet.destination == family.address => {
            tcp::arrives::<L3>(ctx, &packet, &segment, id)
        }
        Transport::Echo { .. } | Transport::Tcp(_) => Err(Reason::NotUdp),
    }
}

/// What becomes of an in-band probe.
#[inline(always)]
fn probed<const L3: usize>(
    ctx: &TcContext,
    id: UplinkId,
    local: LocalId,
    packet: &Packet,
    udp: &Datagram,
) -> Result<Reason, Reason> {
    let ttl = packet::hops(ctx, packet, udp).ok_or(Reason::Truncated)?;
    let incoming = Incoming::new(packet, udp, id, local, ttl).ok_or(Reason::NotConfigured)?;
    in_band::load(ctx, udp, &mut incoming.probe)?;
    let removed = in_band::removed(&incoming.probe);
    match in_band::judge(incoming) {
        Reason::Answered => {}
        judged => return Ok(judged),
    }
    in_band::store(ctx, udp, &incoming.probe, removed)?;
    send_back::by_redirect::<L3>(ctx, packet, udp)
}

/// A tunnel's packet, and where it came in.
struct Arrived<'a> {
    ctx: &'a TcContext,
    config: &'a Config,
    packet: &'a Packet,
    udp: &'a Datagram,
    uplink: UplinkId,
    local: LocalId,
    /// How the anchor's address differs from the one that it came to.
    from_local: Difference,
}

impl Arrived<'_> {
    /// Rewrites it and hands it to WireGuard by the anchor.
    #[inline(always)]
    fn hand_over<const L3: usize>(&self) -> Result<Reason, Reason> {
        let Self { packet, udp, .. } = *self;
        let key = EndpointKey {
            endpoint: packet.source,
            port: udp.source,
            tunnel: udp.destination,
        };
        let Some(entry) = endpoints::find(&key) else {
            let here = Whereabouts::new(&key, self.uplink, self.local);
            let reason = clients::hear(&key, udp, here);
            let source = Endpoint {
                address: packet.source,
                port: udp.source,
                reserved: [0; 2],
            };
            self.receive::<L3>(source, packet.v4, self.from_local)?;
            return Ok(reason);
        };
        let peer = PEERS.get_ptr(entry.endpoint.peer.0).ok_or(Reason::NotConfigured)?;
        // SAFETY: a peer's canonical endpoint is written before anything refers to the peer and not changed while something does.
        let canonical = unsafe { (*peer).canonical };
        let from_source = self.from_local.with(entry.difference);
        // The compiler knows the packet's family here, and now WireGuard's.
        if packet.v4 && canonical.address.is_v4() {
            self.receive::<L3>(canonical.as_v4(), true, from_source)?;
        } else if !packet.v4 && !canonical.address.is_v4() {
            self.receive::<L3>(canonical, false, from_source)?;
        } else {
            self.translate::<L3>(canonical)?;
        }
        if let Some(path) = entry.endpoint.path(self.uplink) {
            count_received(self.ctx, path, packet.len);
        }
        Ok(Reason::Restored)
    }

    /// Where WireGuard sees the peer in the other family.
    #[inline(always)]
    fn translate<const L3: usize>(&self, canonical: Endpoint) -> Result<(), Reason> {
        let (v4, anchor) = (!self.packet.v4, &self.config.anchor);
        let local = if v4 { anchor.v4 } else { anchor.v6 };
        let addresses = Difference::NONE
            .of_address(self.packet.source, canonical.address)
            .of_address(self.packet.destination, local);
        self.receive::<L3>(canonical, v4, addresses)
    }

    /// As if it came from `source` to the anchor.
    #[inline(always)]
    fn receive<const L3: usize>(&self, source: Endpoint, v4: bool, addresses: Difference) -> Result<(), Reason> {
        let anchor = &self.config.anchor;
        let destination = Endpoint {
            address: if v4 { anchor.v4.as_v4() } else { anchor.v6 },
            port: self.udp.destination,
            reserved: [0; 2],
        };
        let ends = Ends {
            source,
            destination,
            v4,
            addresses,
        };
        rewrite::<L3, true>(self.ctx, self.packet, &ends)?;
        receive::<L3>(self.ctx, anchor, v4)
    }
}

/// Counts a packet that arrived over a path; one that the device merged counts as what it was merged from.
#[inline(always)]
fn count_received(ctx: &TcContext, path: PathId, len: u32) {
    if let Some(count) = PATH_COUNTS.get_ptr_mut(path.0) {
        add(field!(count, rx_packets), segments(ctx));
        add(field!(count, rx_bytes), u64::from(len));
    }
}
