//! The floor: the least that a program must do which sends UDP packets another way. It parses, looks one thing up in an array,
//! and redirects. It chooses nothing, changes nothing and counts nothing.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::bpf_redirect_neigh;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;
use wgxdp_common::table::Uplink;

use crate::NEXT;

/// Where packets leave, by the lowest bits of their destination port.
#[map]
static FLOOR: Array<Uplink> = Array::with_max_entries(WAYS, 0);
const WAYS: u32 = 16;

const ETHERNET: usize = 14;
const UDP: u8 = 17;
/// `ETH_P_IP` and `ETH_P_IPV6`, as `__sk_buff::protocol` holds them.
pub(crate) const PROTOCOL_V4: u32 = 0x0800_u16.to_be() as u32;
const PROTOCOL_V6: u32 = 0x86dd_u16.to_be() as u32;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// See the module.
#[inline(always)]
pub(crate) fn floor(ctx: &TcContext) -> i32 {
    try_floor(ctx).unwrap_or(NEXT)
}

#[inline(always)]
fn try_floor(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the kernel hands a valid `__sk_buff` to the program, for as long as it runs.
    let v4 = match unsafe { (*ctx.skb.skb).protocol } {
        PROTOCOL_V4 => true,
        PROTOCOL_V6 => false,
        _ => return None,
    };
    let (is_udp, len) = if v4 {
        let [version, .., protocol, _, _, _, _, _, _, _, _, _, _] = at::<20>(ctx, ETHERNET)?;
        (version == 0x45 && protocol == UDP, 20)
    } else {
        let [_, _, _, _, _, _, next, ..] = at::<40>(ctx, ETHERNET)?;
        (next == UDP, 40)
    };
    if !is_udp {
        return None;
    }
    let [_, _, _, port, ..] = at::<8>(ctx, ETHERNET + len)?;
    let way = FLOOR.get(u32::from(port) % WAYS)?;
    let (nh_family, next_hop) = if v4 {
        (AF_INET, [way.v4.gateway.v4_word(), 0, 0, 0])
    } else {
        (AF_INET6, way.v6.gateway.0)
    };
    let mut hop = bpf_redir_neigh {
        nh_family,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next_hop },
    };
    // SAFETY: `hop` lives through the call, which copies it, and its size is given.
    unsafe { bpf_redirect_neigh(way.ifindex, &raw mut hop, size_of::<bpf_redir_neigh>() as i32, 0) };
    Some(TC_ACT_REDIRECT)
}

/// The `N` bytes at `offset`, if they are there; the verifier checks the comparison.
#[inline(always)]
fn at<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[u8; N]> {
    let start = ctx.data() + offset;
    // SAFETY: the packet holds `N` bytes at `start`, and any bytes are bytes.
    (start + N <= ctx.data_end()).then(|| unsafe { *(start as *const [u8; N]) })
}
