//! Whether a datagram to a tunnel's port can be WireGuard's: one judgement, for `guard` and `restore`.
//!
//! Its first word and its length must be those of a [`Message`], and the UDP header must speak of the same length as the IP header.
//!
//! `restore` also sees super-packets, which the device or a UDP_SEGMENT sender merged from datagrams of `gso_size` bytes and a last one of the rest.
//! One is dropped only if neither its first nor its last datagram can be WireGuard's: whoever guesses addresses and ports could otherwise have
//! good packets dropped by sending a bad one next to them. WireGuard itself sorts out what is in between.

use aya_ebpf::programs::TcContext;
use wgxdp_common::count::Reason;
use wgxdp_common::message::Message;

use crate::packet::{Datagram, skb};

/// What the datagram is; of a super-packet, its first datagram that can be WireGuard's.
///
/// # Errors
/// Why it cannot be.
#[inline(always)]
pub(crate) fn check(ctx: &TcContext, udp: &Datagram) -> Result<Message, Reason> {
    let segment = match skb!(ctx, gso_size) {
        0 => return check_single(udp),
        size => size.min(udp.len),
    };
    match check_single(&Datagram { len: segment, ..*udp }) {
        Err(_) if segment < udp.len => {
            let rest = udp.len.checked_rem(segment).unwrap_or(0);
            let len = if rest == 0 { segment } else { rest };
            // By the helper alone: the verifier follows no offset as large as this one may be.
            let word = ctx.load(udp.payload + (udp.len - len) as usize);
            // Less than a word is no message either.
            Message::classify(word.map_err(|_| Reason::WrongLength)?, len)
        }
        judged => judged,
    }
}

/// The same for one that is single, as XDP sees it.
///
/// # Errors
/// As [`check`].
#[inline(always)]
pub(crate) fn check_single(udp: &Datagram) -> Result<Message, Reason> {
    if !udp.exact || udp.len < size_of::<u32>() as u32 {
        return Err(Reason::WrongLength);
    }
    Message::classify(udp.opening[0], udp.len)
}
