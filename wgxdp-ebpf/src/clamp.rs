//! `clamp_mss`: TCP's SYN and SYN-ACK, entering and leaving a tunnel, offer no larger segments than fit its paths.
//!
//! - The MSS option (RFC 9293, section 3.7.1) becomes at most the inner packet that fits less the IP header and the TCP header without options, 40
//!   bytes in IPv4 and 60 in IPv6 (RFC 879, RFC 6691); it is never raised. Both directions are lowered, so that neither end sends what does
//!   not fit, whoever opens the connection.
//! - **A SYN without the option is left alone.** Its receiver must take 536 bytes in IPv4 and 1220 in IPv6 for granted (RFC 9293): those fit every path that
//!   carries 1280 bytes of IPv6, and nearly every one of IPv4, while an option that is put in moves the packet.
//! - Left alone, too: fragments, IPv6 with extension headers, and options that contradict themselves. Such a packet is no SYN of an
//!   ordinary connection, and the end that it is for judges it better.
//!
//! A WireGuard interface has no link-layer header: packets begin with their IP header, also those of a tun device. The SYN is read and written by helpers at offsets,
//! never by pointers, so that the verifier has nothing to prove about a position that the packet itself determines.

use core::ffi::c_void;
use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_loop, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use wgxdp_common::tcp::{PROTOCOL, RST, SYN};

use crate::maps::CLAMP;
use crate::packet::{Ipv4, Ipv6, Tcp, Wire, skb};

/// Kinds of options (RFC 9293, section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Bytes of the MSS option.
const MSS_LEN: u8 = 4;
/// Bytes of options that a TCP header has room for: the most that can be without operation.
const MOST_OPTIONS: u32 = 40;
/// No less than Linux itself would send by (`TCP_MIN_MSS`), however narrow a path claims to be.
const LEAST_MSS: u32 = 88;

/// Bytes of a TCP header without options.
const TCP: u32 = 20;

const _: () = assert!(size_of::<Tcp>() == TCP as usize);

/// Where a SYN's TCP header is, and what its IP header takes away from the MSS.
#[derive(Clone, Copy)]
struct Syn {
    /// Offset of the TCP header.
    start: u32,
    /// Offset behind its options.
    end: u32,
    /// Bytes of the IP header without options, and of the TCP header without options.
    headers: u32,
}

/// Lowers the MSS of a SYN that passes a tunnel's interface, if it is larger than what fits there.
#[inline(always)]
pub(crate) fn clamp(ctx: &TcContext) {
    let Some(syn) = syn(ctx) else { return };
    let ifindex = skb!(ctx, ifindex);
    // SAFETY: the value is one aligned word, which user space replaces as a whole.
    let Some(inner) = (unsafe { CLAMP.get(ifindex) }) else {
        return;
    };
    let most = inner.saturating_sub(syn.headers).max(LEAST_MSS);
    if let Some(offset) = mss_value(ctx, syn) {
        lower(ctx, syn, offset, most as u16);
    }
}

/// The packet, if it is a whole SYN or SYN-ACK.
#[inline(always)]
fn syn(ctx: &TcContext) -> Option<Syn> {
    let v4 = load::<Ipv4>(ctx.skb.skb, 0)?;
    let (start, end, headers) = match v4.version_ihl >> 4 {
        4 => in_v4(v4)?,
        6 => in_v6(load::<Ipv6>(ctx.skb.skb, 0)?)?,
        _ => return None,
    };
    let tcp = load::<Tcp>(ctx.skb.skb, start)?;
    let len = u32::from(tcp.data_offset >> 4) * 4;
    let whole = len >= TCP && start + len <= end && end <= ctx.len();
    (tcp.flags & (SYN | RST) == SYN && whole).then_some(Syn {
        start,
        end: start + len,
        headers: headers + TCP,
    })
}

/// Where TCP begins in an IPv4 packet that holds it whole, where the packet ends, and the bytes of its header without options.
#[inline(always)]
fn in_v4(ip: Ipv4) -> Option<(u32, u32, u32)> {
    const HEADER: u32 = size_of::<Ipv4>() as u32;
    let start = u32::from(ip.version_ihl & 0xf) * 4;
    // More fragments, or an offset.
    let fragment = u16::from_be(ip.fragment) & 0x3fff != 0;
    let plain = ip.protocol == PROTOCOL && !fragment && start >= HEADER;
    plain.then_some((start, u32::from(u16::from_be(ip.total_len)), HEADER))
}

/// The same in an IPv6 packet without extension headers.
#[inline(always)]
fn in_v6(ip: Ipv6) -> Option<(u32, u32, u32)> {
    const HEADER: u32 = size_of::<Ipv6>() as u32;
    let end = HEADER + u32::from(u16::from_be(ip.payload_len));
    (ip.next_header == PROTOCOL).then_some((HEADER, end, HEADER))
}

/// Where the walk over the options has come to.
struct Walk {
    skb: *mut __sk_buff,
    /// Of the next option.
    offset: u32,
    /// Behind the last one.
    end: u32,
    /// The MSS's own offset, once it is found; 0 before, where no option can be.
    found: u32,
}

/// The offset of the MSS in the options. They are walked by `bpf_loop` (kernel 5.17), of which the verifier looks at one step alone: of a loop
/// it follows every way through forty options, and gives up.
#[inline(always)]
fn mss_value(ctx: &TcContext, syn: Syn) -> Option<u32> {
    let mut walk = Walk {
        skb: ctx.skb.skb,
        offset: syn.start + TCP + unknown_zero(ctx),
        end: syn.end,
        found: 0,
    };
    let step: extern "C" fn(u32, *mut Walk) -> i64 = step;
    // SAFETY: `step` has the signature that the helper wants, and `walk` lives through the call.
    unsafe { bpf_loop(MOST_OPTIONS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    (walk.found != 0).then_some(walk.found)
}

/// Zero, of which the verifier knows nothing. Kernels before 6.7 look at a single step of `bpf_loop` and take what is true of that one for true of all: from an
/// offset whose lowest bits they know they conclude that the MSS is never at an odd one, and remove the code for it as dead.
#[inline(always)]
fn unknown_zero(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the whole run, and its length is one aligned word. Volatile, so that both reads are made.
    let len = || unsafe { (&raw const (*ctx.skb.skb).len).read_volatile() };
    len().wrapping_sub(len())
}

/// Looks at one option; 0 goes on, 1 ends the walk.
extern "C" fn step(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `bpf_loop` hands on what `mss_value` gave it, which nobody else uses meanwhile.
    let walk = unsafe { &mut *walk };
    i64::from(advance(walk).is_none())
}

/// Goes on to the next option; `None` where there is nothing more to look for.
#[inline(always)]
fn advance(walk: &mut Walk) -> Option<()> {
    let Walk { skb, offset, end, .. } = *walk;
    let within = |offset: u32| (offset <= end).then_some(());
    within(offset + 1)?;
    let [kind] = load::<[u8; 1]>(skb, offset)?;
    if kind == END {
        return None;
    }
    if kind == NO_OPERATION {
        walk.offset = offset + 1;
        return Some(());
    }
    within(offset + 2)?;
    let [len] = load::<[u8; 1]>(skb, offset + 1)?;
    within(offset + u32::from(len))?;
    if kind == MAXIMUM_SEGMENT_SIZE && len == MSS_LEN {
        walk.found = offset + 2;
    }
    walk.offset = offset + u32::from(len);
    (len >= 2 && kind != MAXIMUM_SEGMENT_SIZE).then_some(())
}

/// Makes the MSS at `offset` this one, unless it is smaller. If the kernel refuses the second of the two changes, the checksum is wrong and the
/// SYN is lost; it is sent again.
#[inline(always)]
fn lower(ctx: &TcContext, syn: Syn, offset: u32, most: u16) {
    let Some(old) = load::<[u8; 2]>(ctx.skb.skb, offset) else {
        return;
    };
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    // At an odd offset the two bytes belong to two words of the sum, each in the other's half (RFC 1071, section 2B).
    let odd = (offset - syn.start) & 1 != 0;
    let word = |[first, second]: [u8; 2]| {
        let bytes = if odd { [second, first] } else { [first, second] };
        u64::from(u16::from_ne_bytes(bytes))
    };
    let checksum = syn.start + offset_of!(Tcp, checksum) as u32;
    // SAFETY: helpers on the valid context, which check the offsets; `new` lives through the call, and its size is given. No pointer into the packet
    // is kept.
    unsafe {
        if bpf_l4_csum_replace(ctx.skb.skb, checksum, word(old), word(new), size_of::<u16>() as u64) == 0 {
            bpf_skb_store_bytes(ctx.skb.skb, offset, new.as_ptr().cast(), size_of_val(&new) as u32, 0);
        }
    }
}

/// A copy of what is at `offset`, wherever in the socket buffer that is.
#[inline(always)]
fn load<T: Wire>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: a helper on the valid context; it checks the offset and writes `T`'s size to memory that holds a `T`.
    let result = unsafe { bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32) };
    // SAFETY: the helper succeeded, so every byte is written, and any bits are a `T`.
    (result == 0).then(|| unsafe { value.assume_init() })
}
