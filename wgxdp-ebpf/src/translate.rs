//! From one address family to the other: the header of a UDP packet that stays the same datagram (RFC 7915, sections 4.1 and 5.1,
//! without fragments and options, which never get here).
//!
//! `bpf_skb_change_proto` makes or takes the 20 bytes of room between the link-layer header and the transport's; the header is then written
//! anew. Traffic class and hop limit are kept: we are the host and not a router on the way. As WireGuard's own IPv4 packets, the new ones may
//! be fragmented, so they have an identification (RFC 6864).
//!
//! The UDP length and its place in the pseudo-header are the same in both families, so the transport's checksum moves by the addresses
//! alone. A complete sum covers the header, too: a valid IPv4 header adds nothing to it (RFC 1071), an IPv6 header all of its words.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_skb_change_proto};
use aya_ebpf::programs::TcContext;
use wgxdp_common::checksum::Difference;
use wgxdp_common::count::Reason;

use crate::packet::{ETHERNET, IPPROTO_UDP, Ipv4, Ipv6, PROTOCOL_V4, PROTOCOL_V6, Packet, Udp, at, read};
use crate::rewrite::{Ends, sum_moved};

/// Turns the IPv4 header at `L3` into an IPv6 header with these ends; returns where the transport's begins.
#[inline(always)]
pub(crate) fn to_v6<const L3: usize>(ctx: &TcContext, ends: &Ends) -> Result<usize, Reason> {
    let was = read::<Ipv4>(ctx, L3).ok_or(Reason::RewriteFailed)?;
    let udp = read::<Udp>(ctx, L3 + size_of::<Ipv4>()).ok_or(Reason::RewriteFailed)?;
    if udp.checksum == 0 {
        return Err(Reason::NoChecksum);
    }
    let header = Ipv6 {
        version_class_flow: (6 << 28 | u32::from(was.tos) << 20).to_be(),
        payload_len: (u16::from_be(was.total_len) - size_of::<Ipv4>() as u16).to_be(),
        next_header: IPPROTO_UDP,
        hop_limit: was.ttl,
        source: ends.source.address.0,
        destination: ends.destination.address.0,
    };
    change_protocol(ctx, PROTOCOL_V6)?;
    write::<L3, Ipv6>(ctx, header, PROTOCOL_V6)?;
    let lengths =
        u32::from(header.payload_len) | u32::from(u16::from_ne_bytes([header.next_header, header.hop_limit])) << 16;
    let sum = Difference::NONE
        .of(!0, header.version_class_flow)
        .of(!0, lengths)
        .of_words(header.source)
        .of_words(header.destination);
    sum_moved(ctx, sum);
    Ok(L3 + size_of::<Ipv6>())
}

/// Turns the IPv6 header at `L3` into an IPv4 header with these ends; returns where the transport's begins.
#[inline(always)]
pub(crate) fn to_v4<const L3: usize>(ctx: &TcContext, packet: &Packet, ends: &Ends) -> Result<usize, Reason> {
    let was = read::<Ipv6>(ctx, L3).ok_or(Reason::RewriteFailed)?;
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_prandom_u32() } as u16;
    let mut header = Ipv4 {
        version_ihl: 0x45,
        tos: (u32::from_be(was.version_class_flow) >> 20) as u8,
        total_len: (u16::from_be(was.payload_len) + size_of::<Ipv4>() as u16).to_be(),
        id,
        fragment: 0,
        ttl: was.hop_limit,
        protocol: IPPROTO_UDP,
        checksum: 0,
        source: ends.source.address.v4_word(),
        destination: ends.destination.address.v4_word(),
    };
    let words = [
        u32::from(u16::from_ne_bytes([header.version_ihl, header.tos])) | u32::from(header.total_len) << 16,
        u32::from(id),
        u32::from(u16::from_ne_bytes([header.ttl, header.protocol])),
        header.source,
    ];
    header.checksum = Difference::NONE.of_words(words).of(!0, header.destination).apply(!0);
    change_protocol(ctx, PROTOCOL_V4)?;
    write::<L3, Ipv4>(ctx, header, PROTOCOL_V4)?;
    // The kernel took the header's first half out of the sum; the second half was written over.
    let [_, _, _, last] = packet.source.0;
    let [a, b, c, d] = packet.destination.0;
    sum_moved(
        ctx,
        Difference::NONE.of(last, !0).of(a, !0).of(b, !0).of(c, !0).of(d, !0),
    );
    Ok(L3 + size_of::<Ipv4>())
}

#[inline(always)]
fn change_protocol(ctx: &TcContext, protocol: u32) -> Result<(), Reason> {
    // SAFETY: a helper on the valid context; it moves the packet, of which no pointer is kept.
    match unsafe { bpf_skb_change_proto(ctx.skb.skb, protocol as u16, 0) } {
        0 => Ok(()),
        _ => Err(Reason::RewriteFailed),
    }
}

/// Writes the header at `L3` and, where there is a link-layer header, its type.
#[inline(always)]
fn write<const L3: usize, H: crate::packet::Wire>(ctx: &TcContext, header: H, protocol: u32) -> Result<(), Reason> {
    let place = at::<H>(ctx, L3).ok_or(Reason::RewriteFailed)?;
    // SAFETY: `at` checked the bounds; nothing moved the packet since. Alignment as in `packet::read`.
    unsafe { *place = header };
    if L3 == ETHERNET {
        let place = at::<[u8; 2]>(ctx, ETHERNET - 2).ok_or(Reason::RewriteFailed)?;
        // SAFETY: as above.
        unsafe { *place = (protocol as u16).to_ne_bytes() };
    }
    Ok(())
}
