//! Sending an answer back where the request came from: the addresses change places, link-layer ones too, so that nothing has to be looked up.
//!
//! The hop limit stays what the request had left of it. The prober sends with the highest, which is more than two ways take; a SYN-ACK comes from a host that
//! sends with 64 or more, of which a way takes less than half.

use core::mem::offset_of;

use aya_ebpf::helpers::{bpf_csum_diff, bpf_redirect};
use aya_ebpf::programs::{TcContext, XdpContext};
use wgxdp_common::checksum::Difference;
use wgxdp_common::count::Reason;
use wgxdp_common::net::{Address, Endpoint, Port};
use wgxdp_common::stamp::in_band::{self, InBand};
use wgxdp_common::tcp::RST;

use crate::packet::{Bytes, Datagram, ETHERNET, IPPROTO_UDP, Ipv4, Ipv6, Packet, Segment, Tcp, Udp, at, skb};
use crate::rewrite::{Ends, replace_checksum, rewrite};

/// From TC ingress. The answer is in the packet already.
#[inline(always)]
pub(crate) fn by_redirect<const L3: usize>(ctx: &TcContext, packet: &Packet, udp: &Datagram) -> Result<Reason, Reason> {
    redirect::<L3>(ctx, packet, [udp.destination, udp.source])?;
    Ok(Reason::Answered)
}

/// From TC ingress: makes a SYN-ACK the RST that has its sender forget the connection (RFC 9293, section 3.10.7.1: `<SEQ=SEG.ACK><CTL=RST>`). It stays as long as it is;
/// options mean nothing in a RST.
#[inline(always)]
pub(crate) fn reset<const L3: usize>(ctx: &TcContext, packet: &Packet, segment: &Segment) -> Result<(), Reason> {
    let tcp = at::<Tcp>(ctx, segment.start).ok_or(Reason::RewriteFailed)?;
    // SAFETY: `at` checked the bounds; nothing moved the packet since. Alignment as in `packet::read`.
    unsafe {
        (*tcp).source = segment.destination.0;
        (*tcp).destination = segment.source.0;
        (*tcp).sequence = segment.acknowledgement;
        (*tcp).acknowledgement = 0;
        (*tcp).flags = RST;
    }
    // The ports change places and the acknowledgement number moves: from what is summed only the sequence number and the flags go.
    let word = |flags| u32::from(u16::from_ne_bytes([segment.data_offset, flags]));
    let difference = Difference::NONE
        .of(segment.sequence, 0)
        .of(word(segment.flags), word(RST));
    replace_checksum(ctx, segment.start + offset_of!(Tcp, checksum), difference, 0)?;
    redirect::<L3>(ctx, packet, [segment.destination, segment.source])
}

/// Sends the packet back from TC ingress, from and to these ports.
#[inline(always)]
fn redirect<const L3: usize>(ctx: &TcContext, packet: &Packet, [from, to]: [Port; 2]) -> Result<(), Reason> {
    let end = |address: Address, port: Port| Endpoint {
        address,
        port,
        reserved: [0; 2],
    };
    let ends = Ends {
        source: end(packet.destination, from),
        destination: end(packet.source, to),
        v4: packet.v4,
        addresses: Difference::NONE,
    };
    rewrite::<L3, true>(ctx, packet, &ends)?;
    if L3 != 0 {
        swap_link_layer(ctx).ok_or(Reason::RewriteFailed)?;
    }
    let back = skb!(ctx, ifindex);
    // SAFETY: a helper with integer arguments.
    unsafe { bpf_redirect(back, 0) };
    Ok(())
}

/// From XDP, by XDP_TX. What the device that the frame came from left out of the checksum (CHECKSUM_PARTIAL, as between the ends of a veth) is forgotten on that way:
/// it is summed up anew.
#[inline(always)]
pub(crate) fn by_driver(ctx: &XdpContext, packet: &Packet, udp: &Datagram, answer: &InBand) -> Reason {
    let swapped = if packet.v4 {
        swap_v4(ctx).and_then(|()| write_datagram::<{ ETHERNET + size_of::<Ipv4>() }>(ctx, packet, udp, answer))
    } else {
        swap_v6(ctx).and_then(|()| write_datagram::<{ ETHERNET + size_of::<Ipv6>() }>(ctx, packet, udp, answer))
    };
    match swapped.and_then(|()| swap_link_layer(ctx)) {
        Some(()) => Reason::Answered,
        None => Reason::RewriteFailed,
    }
}

#[inline(always)]
fn swap_link_layer(ctx: &impl Bytes) -> Option<()> {
    let header = at::<[u8; ETHERNET]>(ctx, 0)?;
    // SAFETY: `at` checked the bounds; nothing moved the packet since.
    unsafe {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        *header = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1];
    }
    Some(())
}

#[inline(always)]
fn swap_v4(ctx: &XdpContext) -> Option<()> {
    let ip = at::<Ipv4>(ctx, ETHERNET)?;
    // SAFETY: as in `swap_link_layer`. Alignment as in `packet::read`. The header's sum does not depend on the order.
    unsafe { ((*ip).source, (*ip).destination) = ((*ip).destination, (*ip).source) };
    Some(())
}

#[inline(always)]
fn swap_v6(ctx: &XdpContext) -> Option<()> {
    let ip = at::<Ipv6>(ctx, ETHERNET)?;
    // SAFETY: as in `swap_v4`.
    unsafe { ((*ip).source, (*ip).destination) = ((*ip).destination, (*ip).source) };
    Some(())
}

#[inline(always)]
fn write_datagram<const L4: usize>(ctx: &XdpContext, packet: &Packet, udp: &Datagram, answer: &InBand) -> Option<()> {
    let payload = at::<InBand>(ctx, L4 + size_of::<Udp>())?;
    let header = at::<Udp>(ctx, L4)?;
    let checksum = checksum(packet, udp, answer);
    // SAFETY: as in `swap_v4`.
    unsafe {
        *payload = *answer;
        (*header).source = udp.destination.0;
        (*header).destination = udp.source.0;
        (*header).checksum = checksum;
    }
    Some(())
}

/// The checksum of the datagram with its pseudo-header (RFC 768; RFC 8200, section 8.1), in network byte order. None of it depends on which end is the source.
#[inline(always)]
fn checksum(packet: &Packet, udp: &Datagram, answer: &InBand) -> u16 {
    const LEN: u16 = ((size_of::<Udp>() + in_band::LEN) as u16).to_be();
    const PROTOCOL: u16 = (IPPROTO_UDP as u16).to_be();
    // SAFETY: the helper reads as many bytes as it is told, of a structure of that size; the other side is empty.
    let payload = unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            (&raw const *answer).cast_mut().cast(),
            in_band::LEN as u32,
            0,
        )
    };
    let ports = [u32::from(udp.source.0), u32::from(udp.destination.0)];
    let sum = Difference::NONE
        .of_words(packet.source.0)
        .of_words(packet.destination.0)
        .of_words([ports[0], ports[1], u32::from(LEN), u32::from(LEN)])
        .with(u32::from(PROTOCOL))
        .with(payload as u32);
    match sum.apply(!0) {
        0 => !0,
        checksum => checksum,
    }
}
