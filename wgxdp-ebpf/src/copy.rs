//! A data packet's copy, for a second path.
//!
//! `bpf_clone_redirect` resolves no neighbour, and a packet can be redirected with one (`bpf_redirect_neigh`) only by the program that has it in hand. So the
//! clone goes to the anchor, out of which the packet was just going: its TC egress hook runs `steer` for it, too, which knows it by a tag and sends it
//! by the path that the tag names, as it sends any packet.
//!
//! `tc_index` is a word for TC's own use: it stays with a clone, and unlike the mark no rule, route or other program of the operator's reads it. The kernel gives the original
//! its headers to itself when it makes the clone (`bpf_try_make_head_writable`), and the clone its own before `steer` writes to it, so that neither sees the other's.

use aya_ebpf::programs::TcContext;
use wgxdp_common::abi::{COPY_TAG, COPY_TAG_MASK};
use wgxdp_common::id::{PathId, PeerId};

use crate::packet::skb;

/// Sends a copy of the packet, which was not changed yet, by this path of its peer. Pointers into the packet are void afterwards.
///
/// A copy for which there is no memory is no copy: the packet itself goes its way.
#[inline(always)]
pub(crate) fn send(ctx: &TcContext, path: PathId) {
    let was = skb!(ctx, tc_index);
    set_tc_index(ctx, COPY_TAG | path.slot());
    let _ = ctx.clone_redirect(skb!(ctx, ifindex), 0);
    set_tc_index(ctx, was);
}

/// The path of the peer's by which this packet shall leave because it is a copy. It is none any more afterwards.
#[inline(always)]
pub(crate) fn take(ctx: &TcContext, peer: PeerId) -> Option<PathId> {
    let tag = skb!(ctx, tc_index);
    if tag & COPY_TAG_MASK != COPY_TAG {
        return None;
    }
    set_tc_index(ctx, 0);
    Some(PathId::new(peer, tag & !COPY_TAG_MASK))
}

#[inline(always)]
fn set_tc_index(ctx: &TcContext, tc_index: u32) {
    // SAFETY: the context is valid for the whole run; the verifier turns the store into one to the kernel's own field.
    unsafe { (*ctx.skb.skb).tc_index = tc_index }
}
