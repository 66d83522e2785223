//! Whether a datagram to a tunnel's port can be WireGuard's: one judgement, for `guard` and `restore`.
//!
//! Its first word and its length must be those of a [`Message`], and the UDP header must speak of the same length as the IP header.
//!
//! `restore` also sees super-packets, which the device or a UDP_SEGMENT sender merged from datagrams of `gso_size` bytes and a last one of the rest.
//! One is dropped only if neither its first nor its last datagram can be WireGuard's: whoever guesses addresses and ports could otherwise have
//! good packets dropped by sending a bad one next to them. WireGuard itself sorts out what is in between.

use aya_ebpf::programs::{TcContext, XdpContext};
use wgxdp_common::count::Reason;
use wgxdp_common::message::Message;

use crate::packet::{Bytes, Ipv4, Ipv6, Udp, read, skb};

/// Bytes of the first word.
const WORD: u32 = size_of::<u32>() as u32;

/// Of the packet whose IP header, without options, is at `L3`. For a super-packet, its first datagram that can be.
///
/// # Errors
/// Why it cannot be WireGuard's; [`Reason::Truncated`] if it is shorter than its headers say.
#[inline(always)]
pub(crate) fn check<const L3: usize>(ctx: &TcContext, v4: bool) -> Result<Message, Reason> {
    let (offset, len) = payload::<L3>(ctx, v4)?;
    let segment = match skb!(ctx, gso_size) {
        0 => len,
        size => size.min(len),
    };
    let first = read::<[u8; 4]>(ctx, offset).or_else(|| ctx.load(offset).ok());
    match judge(first, segment) {
        Err(_) if segment < len => {
            let rest = len.checked_rem(segment).unwrap_or(0);
            let last = if rest == 0 { segment } else { rest };
            // By the helper alone: the verifier follows no offset as large as this one may be.
            judge(ctx.load(offset + (len - last) as usize).ok(), last)
        }
        judged => judged,
    }
}

/// The same for a frame that is a single datagram, as XDP sees it.
///
/// # Errors
/// As [`check`].
#[inline(always)]
pub(crate) fn check_frame<const L3: usize>(ctx: &XdpContext, v4: bool) -> Result<Message, Reason> {
    let (offset, len) = payload::<L3>(ctx, v4)?;
    judge(read(ctx, offset), len)
}

/// A datagram of `len` bytes that begins with `word`, if it has one.
#[inline(always)]
fn judge(word: Option<[u8; 4]>, len: u32) -> Result<Message, Reason> {
    if len < WORD {
        return Err(Reason::WrongLength);
    }
    Message::classify(u32::from_ne_bytes(word.ok_or(Reason::Truncated)?), len)
}

/// Where the UDP payload begins, and its bytes.
#[inline(always)]
fn payload<const L3: usize>(ctx: &impl Bytes, v4: bool) -> Result<(usize, u32), Reason> {
    // The length fields: IPv4's counts its own header (RFC 791), IPv6's does not (RFC 8200).
    let (udp, behind_ip) = if v4 {
        let header = size_of::<Ipv4>();
        (L3 + header, length(ctx, L3 + 2)?.saturating_sub(header as u32))
    } else {
        (L3 + size_of::<Ipv6>(), length(ctx, L3 + 4)?)
    };
    let len = length(ctx, udp + 4)?;
    if len > behind_ip {
        return Err(Reason::Truncated);
    }
    if len < behind_ip {
        return Err(Reason::WrongLength);
    }
    let header = size_of::<Udp>();
    let len = len.checked_sub(header as u32).ok_or(Reason::Truncated)?;
    Ok((udp + header, len))
}

/// A header's 16-bit length field.
#[inline(always)]
fn length(ctx: &impl Bytes, offset: usize) -> Result<u32, Reason> {
    let field = read::<[u8; 2]>(ctx, offset).ok_or(Reason::Truncated)?;
    Ok(u32::from(u16::from_be_bytes(field)))
}
