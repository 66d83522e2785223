//! The daemon's programs, and the one place where an outcome becomes a verdict.
//!
//! | program | hook | does |
//! |---|---|---|
//! | [`steer`](mod@steer) | TC egress of the anchor | gives WireGuard's packets and the probes their uplink |
//! | [`restore`](mod@restore) | TC ingress of each uplink | gives arriving packets back the addresses that WireGuard knows |
//! | [`guard`](mod@guard) | XDP of each uplink, where that can be | drops what cannot be WireGuard and notes proofs before a socket buffer is made |
//! | [`clamp_mss`](mod@clamp) | TC ingress and egress of a tunnel | lowers the MSS of TCP connections to what fits |
//!
//! Each is inlined into the entry that the macro makes for it: a call and its return, which the kernel guards against speculation, are a twentieth of
//! a packet's cost. The first three end in an [`Outcome`](outcome::Outcome); nothing else counts packets. The last passes every packet on.
#![no_std]
#![no_main]

mod choose;
mod clamp;
mod clients;
mod config;
mod copy;
mod endpoints;
mod guard;
mod in_band;
mod maps;
mod message;
mod outcome;
mod packet;
mod probe;
mod records;
mod restore;
mod rewrite;
mod send_back;
mod steer;
mod tcp;
mod translate;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use wgxdp_common::abi::{ABI_VERSION, PROGRAM_GUARD, PROGRAM_GUARD_GENERIC, PROGRAM_RESTORE, PROGRAM_STEER};
use wgxdp_ebpf as _;

/// TC egress on the anchor.
#[classifier]
#[inline(always)]
fn steer(ctx: TcContext) -> i32 {
    let outcome = steer::steer(&ctx);
    log(&ctx, PROGRAM_STEER, outcome);
    outcome.verdict()
}

/// TC ingress on each uplink.
#[classifier]
#[inline(always)]
fn restore(ctx: TcContext) -> i32 {
    let outcome = restore::restore(&ctx);
    log(&ctx, PROGRAM_RESTORE, outcome);
    outcome.verdict()
}

/// XDP on an uplink, run by its driver. "frags": it may be attached where frames come in several buffers.
#[xdp(frags)]
#[inline(always)]
fn guard(ctx: XdpContext) -> xdp_action::Type {
    guarded::<false>(&ctx, PROGRAM_GUARD)
}

/// XDP on an uplink, run by the kernel. Not "frags": behind such a program `restore` finds packets without their link-layer header's length
/// (seen on 6.18). For this one the kernel makes frames linear.
#[xdp]
#[inline(always)]
fn guard_generic(ctx: XdpContext) -> xdp_action::Type {
    guarded::<true>(&ctx, PROGRAM_GUARD_GENERIC)
}

#[inline(always)]
fn guarded<const MERGED: bool>(ctx: &XdpContext, program: &str) -> xdp_action::Type {
    let Some(outcome) = guard::guard::<MERGED>(ctx) else {
        return xdp_action::XDP_PASS;
    };
    log(ctx, program, outcome);
    outcome.xdp_action()
}

/// TC ingress and egress on a tunnel's WireGuard interface.
#[classifier]
#[inline(always)]
fn clamp_mss(ctx: TcContext) -> i32 {
    clamp::clamp(&ctx);
    outcome::NEXT
}

/// A line for each packet, for debugging the programs; nothing in a build without the feature.
#[cfg(feature = "log")]
#[inline(always)]
fn log(ctx: &(impl EbpfContext + packet::Bytes), program: &str, outcome: outcome::Outcome) {
    aya_log_ebpf::debug!(
        ctx,
        "{}: {} bytes, reason {}",
        program,
        packet::Bytes::len(ctx),
        outcome.reason as u32
    );
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn log(_: &impl EbpfContext, _: &str, _: outcome::Outcome) {}

/// Compared with the daemon's own at load.
#[unsafe(no_mangle)]
static WGXDP_ABI: u32 = ABI_VERSION;

/// The licence that GPL-only helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
