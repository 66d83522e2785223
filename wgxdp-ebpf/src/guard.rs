//! `guard`, XDP on each uplink: drops what cannot be WireGuard, and notes proofs, before the kernel spends a socket buffer on them.
//!
//! ```text
//! uplink ─▶ guard
//!   not for a tunnel of ours     ─▶ passed, not even counted: this must cost next to nothing
//!   cannot be WireGuard's        ─▶ dropped, counted
//!   a probe's authentic reply    ─▶ the path's proof moves ─▶ consumed
//!   an in-band probe             ─▶ judged (`in_band`) ─▶ answered or consumed
//!   may be WireGuard's           ─▶ counted ─▶ passed: `restore` rewrites it
//! ```
//!
//! An optional accelerator: it does nothing that `restore` does not do, too, and whatever it is not sure of it leaves to `restore`: frames in
//! several buffers, VLAN tags, options, fragments, and all of TCP.
//!
//! XDP sees a frame before the kernel has looked for whom it is. Its link-layer address is not compared all the same: `guard` acts only on packets to
//! the uplink's own IP address, and one of these in another host's frame the kernel would drop (`ip_rcv_core`, PACKET_OTHERHOST).
//!
//! Run by the driver, `guard` sees what came over the wire. Run by the kernel ("generic") it comes behind GRO: what looks like one datagram
//! may be several, without a word on where one ends. There (`MERGED`) a wrong length is `restore`'s to judge, which knows.

use aya_ebpf::programs::XdpContext;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;
use wgxdp_common::stamp::in_band::LEN;
use wgxdp_common::stamp::out_of_band;
use wgxdp_common::table::Config;

use crate::in_band::Incoming;
use crate::outcome::Outcome;
use crate::packet::{self, Datagram, ETHERNET, Packet, Transport, parse_v4, parse_v6, read};
use crate::{config, in_band, message, probe, send_back};

/// `ETH_P_IP` and `ETH_P_IPV6` as they stand in the frame, and where.
const V4: [u8; 2] = [0x08, 0x00];
const V6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE: usize = 12;

/// See the module. `None`: none of our business.
#[inline(always)]
pub(crate) fn guard<const MERGED: bool>(ctx: &XdpContext) -> Option<Outcome> {
    let packet = match read::<[u8; 2]>(ctx, ETHERTYPE)? {
        V4 => parse_v4::<ETHERNET>(ctx),
        V6 => parse_v6::<ETHERNET>(ctx),
        _ => return None,
    }
    .ok()?;
    let config = config::current()?;
    let (id, reason) = match packet.transport {
        Transport::Udp(udp) if config::tunnel(config, udp.destination).is_none() => {
            if udp.destination.0 != config.anchor.probe_ident {
                return None;
            }
            let id = uplink_of(ctx, config, &packet)?;
            probe::answers(&udp, read(ctx, udp.payload + out_of_band::REPEATED), id)?;
            (id, Reason::Proof)
        }
        Transport::Udp(udp) => {
            let id = uplink_of(ctx, config, &packet)?;
            match message::check_single(&udp) {
                Ok(_) => (id, Reason::Guarded),
                Err(Reason::WrongLength) if MERGED => return None,
                Err(Reason::WrongType) if in_band::is_claimed(&udp) => {
                    (id, probed::<MERGED>(ctx, config, id, &packet, &udp)?)
                }
                Err(reason) => (id, reason),
            }
        }
        Transport::Echo {
            reply: true,
            ident,
            sequence,
            payload,
        } if ident == config.anchor.probe_ident => {
            let id = uplink_of(ctx, config, &packet)?;
            probe::arrives(payload, sequence, id)?;
            (id, Reason::Proof)
        }
        Transport::Echo { .. } | Transport::Tcp(_) => return None,
    };
    Some(Outcome {
        place: Place::Guard(id),
        reason,
    })
}

/// What becomes of an in-band probe. `restore` has the padded ones, which are too long to be summed up here, and requests where what is sent back from here may be
/// lost.
#[inline(always)]
fn probed<const MERGED: bool>(
    ctx: &XdpContext,
    config: &Config,
    id: UplinkId,
    packet: &Packet,
    udp: &Datagram,
) -> Option<Reason> {
    if udp.len as usize > LEN {
        return None;
    }
    if (udp.len as usize) < LEN {
        return Some(Reason::ProbeMalformed);
    }
    let local = config::own_local(config, id, packet.v4);
    let incoming = Incoming::new(packet, udp, id, local, packet::hops(ctx, packet, udp)?)?;
    incoming.probe = read(ctx, udp.payload)?;
    if !incoming.probe.is_well_formed() {
        return Some(Reason::ProbeMalformed);
    }
    if !incoming.probe.is_answer() && (MERGED || !config::sends_back(config, id)) {
        return None;
    }
    match in_band::judge(incoming) {
        Reason::Answered => Some(send_back::by_driver(ctx, packet, udp, &incoming.probe)),
        judged => Some(judged),
    }
}

/// The uplink on which the packet arrived, if it is for that uplink's address.
#[inline(always)]
fn uplink_of(ctx: &XdpContext, config: &Config, packet: &Packet) -> Option<UplinkId> {
    let (id, uplink) = config::uplink_by_ifindex(config, ctx.ingress_ifindex() as u32)?;
    let family = if packet.v4 { &uplink.v4 } else { &uplink.v6 };
    (packet.destination == family.address).then_some(id)
}
