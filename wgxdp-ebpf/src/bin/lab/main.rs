//! The laboratory's programs: what a kernel without netem lacks, and the floor that benchmarks measure against.
//!
//! `impair_egress` and `impair_ingress` are attached to both sides of a router's device. [`LOSS`] holds one word for each
//! device, by ifindex: the loss in thousandths, egress in the upper half, ingress in the lower. Being one aligned word,
//! it changes both directions at one instant. What is dropped is counted in [`DROPPED`], in the same order.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::TcContext;

/// `TC_ACT_UNSPEC`: as if this program were not there; a program after it in the chain still runs.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`: drop.
const DROP: i32 = 2;
/// Devices of one router, more than enough: ifindexes in a new namespace start at 1.
const DEVICES: u32 = 256;

/// Loss by ifindex: egress `<< 16 |` ingress, in thousandths; 1000 is a black hole.
#[map]
static LOSS: Array<u32> = Array::with_max_entries(DEVICES, 0);

/// Packets dropped: `2 * ifindex` at egress, `2 * ifindex + 1` at ingress.
#[map]
static DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * DEVICES, 0);

/// Nothing: what calling a program costs.
#[classifier]
fn empty(_: TcContext) -> i32 {
    NEXT
}

/// Drops a part of what leaves through the device.
#[classifier]
fn impair_egress(ctx: TcContext) -> i32 {
    impair(&ctx, 16, 0)
}

/// Drops a part of what comes in through the device.
#[classifier]
fn impair_ingress(ctx: TcContext) -> i32 {
    impair(&ctx, 0, 1)
}

#[inline(always)]
fn impair(ctx: &TcContext, shift: u32, direction: u32) -> i32 {
    // SAFETY: the kernel hands a valid `__sk_buff` to the program, for as long as it runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(loss) = LOSS.get(ifindex) else { return NEXT };
    let per_mille = (*loss >> shift) & 0xffff;
    // SAFETY: a helper without arguments and without effects on memory.
    if per_mille == 0 || unsafe { bpf_get_prandom_u32() } % 1000 >= per_mille {
        return NEXT;
    }
    if let Some(dropped) = DROPPED.get_ptr_mut(2 * ifindex + direction) {
        // SAFETY: the pointer is to this CPU's aligned u64 of an array map, which lives as long as the program; a
        // program is not moved to another CPU while it runs.
        unsafe { *dropped += 1 };
    }
    DROP
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that GPL-only helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
