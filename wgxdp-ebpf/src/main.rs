//! The daemon's programs, and the one place where an outcome becomes a verdict.
//!
//! | program | hook | does |
//! |---|---|---|
//! | [`steer`](mod@steer) | TC egress of the anchor | gives WireGuard's packets and the probes their uplink |
//! | [`restore`](mod@restore) | TC ingress of each uplink | gives arriving packets back the addresses that WireGuard knows |
//! | [`clamp_mss`](mod@clamp) | TC ingress and egress of a tunnel | lowers the MSS of TCP connections to what fits |
//!
//! The first two end in an [`Outcome`](outcome::Outcome); nothing else counts packets. The third passes every packet on.
#![no_std]
#![no_main]

mod clamp;
mod config;
mod maps;
mod outcome;
mod packet;
mod probe;
mod records;
mod restore;
mod rewrite;
mod steer;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use wgxdp_common::abi::{ABI_VERSION, PROGRAM_RESTORE, PROGRAM_STEER};
use wgxdp_ebpf as _;

/// TC egress on the anchor.
#[classifier]
fn steer(ctx: TcContext) -> i32 {
    let outcome = steer::steer(&ctx);
    log(&ctx, PROGRAM_STEER, outcome);
    outcome.verdict()
}

/// TC ingress on each uplink.
#[classifier]
fn restore(ctx: TcContext) -> i32 {
    let outcome = restore::restore(&ctx);
    log(&ctx, PROGRAM_RESTORE, outcome);
    outcome.verdict()
}

/// TC ingress and egress on a tunnel's WireGuard interface.
#[classifier]
fn clamp_mss(ctx: TcContext) -> i32 {
    clamp::clamp(&ctx);
    outcome::NEXT
}

/// A line for each packet, for debugging the programs; nothing in a build without the feature.
#[cfg(feature = "log")]
#[inline(always)]
fn log(ctx: &TcContext, program: &str, outcome: outcome::Outcome) {
    aya_log_ebpf::debug!(
        ctx,
        "{}: {} bytes, reason {}",
        program,
        ctx.len(),
        outcome.reason as u32
    );
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn log(_: &TcContext, _: &str, _: outcome::Outcome) {}

/// Compared with the daemon's own at load.
#[unsafe(no_mangle)]
static WGXDP_ABI: u32 = ABI_VERSION;

/// The licence that GPL-only helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
