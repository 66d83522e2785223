//! The laboratory's programs: what a kernel without netem lacks, and what benchmarks measure against.
//!
//! | program | does |
//! |---|---|
//! | `impair_egress`, `impair_ingress` | drop a part of what leaves and of what comes in: [`impair`] |
//! | `sink` | drops IPv4: what is sent there costs its receiver nothing more |
//! | `empty` | nothing: what calling a program costs |
//! | `empty_xdp` | the same in XDP; in tests, somebody else's program |
//! | `floor` | the least that sends a packet another way: [`mod@floor`] |
#![no_std]
#![no_main]

mod floor;
mod impair;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use wgxdp_ebpf as _;

/// `TC_ACT_UNSPEC`: as if this program were not there; a program after it in the chain still runs.
const NEXT: i32 = -1;

/// Nothing: what calling a program costs.
#[classifier]
fn empty(_: TcContext) -> i32 {
    NEXT
}

/// Nothing, in XDP.
#[xdp(frags)]
fn empty_xdp(_: XdpContext) -> xdp_action::Type {
    xdp_action::XDP_PASS
}

/// The least that sends a packet another way.
#[classifier]
fn floor(ctx: TcContext) -> i32 {
    floor::floor(&ctx)
}

/// Drops a part of what leaves through the device.
#[classifier]
fn impair_egress(ctx: TcContext) -> i32 {
    impair::impair(&ctx, impair::EGRESS)
}

/// Drops a part of what comes in through the device.
#[classifier]
fn impair_ingress(ctx: TcContext) -> i32 {
    impair::impair(&ctx, impair::INGRESS)
}

/// Drops IPv4.
#[classifier]
fn sink(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands a valid `__sk_buff` to the program, for as long as it runs.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    if protocol == floor::PROTOCOL_V4 {
        impair::DROP
    } else {
        NEXT
    }
}

/// The licence that GPL-only helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
