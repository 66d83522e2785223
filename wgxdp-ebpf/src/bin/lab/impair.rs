//! Loss and narrow paths, for a kernel without netem.
//!
//! `impair_egress` and `impair_ingress` are attached to both sides of a router's device. [`LOSS`] holds one word for each
//! device, by ifindex: the loss in thousandths, egress in the upper half, ingress in the lower. Being one aligned word,
//! it changes both directions at one instant. [`LARGEST`] holds the largest IP packet that passes the device, either way, without an ICMP error.
//! What is dropped is counted in [`DROPPED`], in the order of [`LOSS`].

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::TcContext;

use crate::NEXT;

/// `TC_ACT_SHOT`: drop.
pub(crate) const DROP: i32 = 2;
/// Devices of one router, more than enough: ifindexes in a new namespace start at 1.
const DEVICES: u32 = 256;

/// Loss by ifindex: egress `<< 16 |` ingress, in thousandths; 1000 is a black hole.
#[map]
static LOSS: Array<u32> = Array::with_max_entries(DEVICES, 0);

/// Bytes of the largest IP packet that passes, by ifindex; 0 is no limit.
#[map]
static LARGEST: Array<u32> = Array::with_max_entries(DEVICES, 0);

/// Bytes before the IP header: those devices that are narrowed are Ethernet's.
const ETHERNET: u32 = 14;

/// Packets dropped: `2 * ifindex` at egress, `2 * ifindex + 1` at ingress.
#[map]
static DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * DEVICES, 0);

/// A direction: where it is in a word of [`LOSS`], and among a device's two counts in [`DROPPED`].
#[derive(Clone, Copy)]
pub(crate) struct Direction {
    shift: u32,
    count: u32,
}

pub(crate) const EGRESS: Direction = Direction { shift: 16, count: 0 };
pub(crate) const INGRESS: Direction = Direction { shift: 0, count: 1 };

/// Drops the packet, or does not.
#[inline(always)]
pub(crate) fn impair(ctx: &TcContext, direction: Direction) -> i32 {
    // SAFETY: the kernel hands a valid `__sk_buff` to the program, for as long as it runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if !is_too_large(ctx, ifindex) && !is_unlucky(ifindex, direction) {
        return NEXT;
    }
    if let Some(dropped) = DROPPED.get_ptr_mut(2 * ifindex + direction.count) {
        // SAFETY: the pointer is to this CPU's aligned u64 of an array map, which lives as long as the program; a
        // program is not moved to another CPU while it runs.
        unsafe { *dropped += 1 };
    }
    DROP
}

#[inline(always)]
fn is_unlucky(ifindex: u32, direction: Direction) -> bool {
    let per_mille = LOSS.get(ifindex).map_or(0, |loss| (*loss >> direction.shift) & 0xffff);
    // SAFETY: a helper without arguments and without effects on memory.
    per_mille != 0 && unsafe { bpf_get_prandom_u32() } % 1000 < per_mille
}

/// A packet that is still to be segmented counts as a whole.
#[inline(always)]
fn is_too_large(ctx: &TcContext, ifindex: u32) -> bool {
    let largest = LARGEST.get(ifindex).copied().unwrap_or(0);
    largest != 0 && ctx.len() > ETHERNET + largest
}
