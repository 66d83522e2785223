//! Changing a packet's addresses and ports, and sending it elsewhere: one path for IPv4 and IPv6, for UDP, echoes and TCP. Where the new
//! addresses are of the other family, the header is [translated](crate::translate).
//!
//! Addresses, ports and the IPv4 header's checksum are written directly. The transport checksum is not ours to compute: whether it is
//! complete, partial or absent is known to the kernel alone, so `bpf_l4_csum_replace` gets the difference (RFC 1624). That helper also moves
//! the socket buffer's own sum (CHECKSUM_COMPLETE) by the difference, which is right for IPv4, where the addresses, the header's checksum and
//! the transport's are three changes in what was summed. In IPv6 the first and the last cancel out; `bpf_csum_update`, which does nothing unless
//! the sum is complete, takes the move back. (Kernels since 6.16 have BPF_F_IPV6 for it; this is right on all of them.)

use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{bpf_csum_update, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head};
use aya_ebpf::programs::TcContext;
use wgxdp_common::checksum::Difference;
use wgxdp_common::count::Reason;
use wgxdp_common::net::{Endpoint, Port};
use wgxdp_common::table::Anchor;

use crate::config::Egress;
use crate::packet::{ETHERNET, Echo, Ipv4, Ipv6, Packet, Tcp, Transport, Udp, at};
use crate::translate;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// The packet's ends as they shall be. Ports are for UDP; an echo has none, and TCP's are right already.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    /// The family of both.
    pub(crate) v4: bool,
    /// How the addresses differ from the packet's.
    pub(crate) addresses: Difference,
}

/// Rewrites the packet whose IP header is at `L3` from what `packet` found to `ends`, which are of one family. Only a packet that was received can
/// have a complete sum (linux/skbuff.h: not used on output).
#[inline(always)]
pub(crate) fn rewrite<const L3: usize, const RECEIVED: bool>(
    ctx: &TcContext,
    packet: &Packet,
    ends: &Ends,
) -> Result<(), Reason> {
    let addresses = ends.addresses;
    let l4 = match (packet.v4, ends.v4) {
        (true, true) => {
            write_v4::<L3>(ctx, ends, addresses).ok_or(Reason::RewriteFailed)?;
            return write_transport(ctx, L3 + size_of::<Ipv4>(), packet, ends, addresses);
        }
        (false, false) => {
            write_v6::<L3>(ctx, ends).ok_or(Reason::RewriteFailed)?;
            write_transport(ctx, L3 + size_of::<Ipv6>(), packet, ends, addresses)?;
            if RECEIVED {
                sum_moved(ctx, addresses);
            }
            return Ok(());
        }
        (true, false) => translate::to_v6::<L3>(ctx, ends)?,
        (false, true) => translate::to_v4::<L3>(ctx, packet, ends)?,
    };
    write_transport(ctx, l4, packet, ends, addresses)
}

/// Tells the kernel that what the packet's own sum covers changed by this: nothing unless that sum is complete.
#[inline(always)]
pub(crate) fn sum_moved(ctx: &TcContext, difference: Difference) {
    // SAFETY: a helper on the valid context; its error says that the sum is not complete, and there is nothing to do then.
    unsafe { bpf_csum_update(ctx.skb.skb, difference.fold32()) };
}

#[inline(always)]
fn write_v4<const L3: usize>(ctx: &TcContext, ends: &Ends, addresses: Difference) -> Option<()> {
    let ip = at::<Ipv4>(ctx, L3)?;
    // SAFETY: `at` checked the bounds; nothing moved the packet since. Alignment as in `packet::read`.
    unsafe {
        (*ip).checksum = addresses.apply((*ip).checksum);
        (*ip).source = ends.source.address.v4_word();
        (*ip).destination = ends.destination.address.v4_word();
    }
    Some(())
}

#[inline(always)]
fn write_v6<const L3: usize>(ctx: &TcContext, ends: &Ends) -> Option<()> {
    let ip = at::<Ipv6>(ctx, L3)?;
    // SAFETY: as in `write_v4`.
    unsafe {
        (*ip).source = ends.source.address.0;
        (*ip).destination = ends.destination.address.0;
    }
    Some(())
}

#[inline(always)]
fn write_transport(
    ctx: &TcContext,
    l4: usize,
    packet: &Packet,
    ends: &Ends,
    addresses: Difference,
) -> Result<(), Reason> {
    match packet.transport {
        Transport::Udp(udp) => {
            let ports = Difference::NONE
                .of(u32::from(udp.source.0), u32::from(ends.source.port.0))
                .of(u32::from(udp.destination.0), u32::from(ends.destination.port.0));
            let changed = udp.source != ends.source.port || udp.destination != ends.destination.port;
            if changed {
                write_ports(ctx, l4, ends.source.port, ends.destination.port).ok_or(Reason::RewriteFailed)?;
            }
            let checksum = l4 + core::mem::offset_of!(Udp, checksum);
            let zero = u64::from(BPF_F_MARK_MANGLED_0);
            replace_checksum(ctx, checksum, addresses, zero | u64::from(BPF_F_PSEUDO_HDR))?;
            if changed {
                replace_checksum(ctx, checksum, ports, zero)?;
            }
        }
        // ICMP's checksum does not cover the addresses, ICMPv6's does. Probes are sent in the family of their target: never translated.
        Transport::Echo { .. } if packet.v4 => {}
        Transport::Echo { .. } => {
            let checksum = l4 + core::mem::offset_of!(Echo, checksum);
            replace_checksum(ctx, checksum, addresses, u64::from(BPF_F_PSEUDO_HDR))?;
        }
        Transport::Tcp(_) => {
            let checksum = l4 + core::mem::offset_of!(Tcp, checksum);
            replace_checksum(ctx, checksum, addresses, u64::from(BPF_F_PSEUDO_HDR))?;
        }
    }
    Ok(())
}

#[inline(always)]
fn write_ports(ctx: &TcContext, l4: usize, source: Port, destination: Port) -> Option<()> {
    let udp = at::<Udp>(ctx, l4)?;
    // SAFETY: as in `write_v4`.
    unsafe {
        (*udp).source = source.0;
        (*udp).destination = destination.0;
    }
    Some(())
}

/// Tells the checksum at `offset` how what it covers changed; `flags` are `bpf_l4_csum_replace`'s.
#[inline(always)]
pub(crate) fn replace_checksum(
    ctx: &TcContext,
    offset: usize,
    difference: Difference,
    flags: u64,
) -> Result<(), Reason> {
    let difference = u64::from(difference.fold32());
    ctx.skb
        .l4_csum_replace(offset, 0, difference, flags)
        .map_err(|_| Reason::RewriteFailed)
}

/// Sends the packet out, with the link-layer header that the next hop's neighbour entry gives.
#[inline(always)]
pub(crate) fn send(egress: &Egress) {
    let mut hop = if egress.v4 {
        bpf_redir_neigh {
            nh_family: AF_INET,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: [egress.next_hop.v4_word(), 0, 0, 0],
            },
        }
    } else {
        bpf_redir_neigh {
            nh_family: AF_INET6,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: egress.next_hop.0,
            },
        }
    };
    // SAFETY: `hop` lives through the call, which copies it, and its size is given.
    unsafe { bpf_redirect_neigh(egress.ifindex, &raw mut hop, size_of::<bpf_redir_neigh>() as i32, 0) };
}

/// Hands the packet to WireGuard as if it had arrived on the anchor: with the anchor's link-layer address, or the kernel would take it for
/// another host's.
#[inline(always)]
pub(crate) fn receive<const L3: usize>(ctx: &TcContext, anchor: &Anchor, v4: bool) -> Result<(), Reason> {
    if L3 == 0 {
        // SAFETY: a helper on the valid context; it makes room and moves the packet, of which no pointer is kept.
        if unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET as u32, 0) } != 0 {
            return Err(Reason::RewriteFailed);
        }
    }
    let protocol = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let header = at::<[u8; ETHERNET]>(ctx, 0).ok_or(Reason::RewriteFailed)?;
    // SAFETY: `at` checked the bounds; nothing moved the packet since.
    unsafe {
        let [d0, d1, d2, d3, d4, d5] = anchor.mac;
        let [_, _, _, _, _, _, s0, s1, s2, s3, s4, s5, _, _] = *header;
        *header = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, protocol[0], protocol[1]];
        bpf_redirect(anchor.ifindex, u64::from(BPF_F_INGRESS));
    }
    Ok(())
}
