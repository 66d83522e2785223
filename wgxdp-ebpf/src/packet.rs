//! What the programs read of a packet: one parser for both address families, and the only access to packet memory.

use aya_ebpf::programs::{TcContext, XdpContext};
use wgxdp_common::count::Reason;
use wgxdp_common::echo::{self, Payload};
use wgxdp_common::net::{Address, Port};

/// A field of the socket buffer.
macro_rules! skb {
    ($ctx:expr, $field:ident) => {
        // SAFETY: the context is valid for the whole run; the verifier turns the load into one of the kernel's own field.
        unsafe { (*$ctx.skb.skb).$field }
    };
}
pub(crate) use skb;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// `ETH_P_IP` and `ETH_P_IPV6`, as `__sk_buff::protocol` holds them.
const PROTOCOL_V4: u32 = 0x0800_u16.to_be() as u32;
const PROTOCOL_V6: u32 = 0x86dd_u16.to_be() as u32;

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// IPv6 extension headers (RFC 8200): hop-by-hop, routing, fragment, ESP, AH, destination options.
const IPV6_FRAGMENT: u8 = 44;
const IPV6_EXTENSIONS: [u8; 5] = [0, 43, 50, 51, 60];

/// RFC 791.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    tos: u8,
    pub(crate) total_len: u16,
    id: u16,
    pub(crate) fragment: u16,
    ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// RFC 8200.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    version_class_flow: u32,
    pub(crate) payload_len: u16,
    pub(crate) next_header: u8,
    hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

/// RFC 768.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Udp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    len: u16,
    pub(crate) checksum: u16,
}

/// RFC 792, RFC 4443 section 4.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Echo {
    kind: u8,
    code: u8,
    pub(crate) checksum: u16,
    ident: u16,
    sequence: u16,
}

/// Types of which every bit pattern is a value.
///
/// # Safety
/// Integers only, `#[repr(C)]`, no padding.
pub(crate) unsafe trait Wire: Copy {}
// SAFETY: as the trait asks; sizes are asserted below.
unsafe impl Wire for Ipv4 {}
// SAFETY: as above.
unsafe impl Wire for Ipv6 {}
// SAFETY: as above.
unsafe impl Wire for Udp {}
// SAFETY: as above.
unsafe impl Wire for Echo {}
// SAFETY: bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}
const _: () =
    assert!(size_of::<Ipv4>() == 20 && size_of::<Ipv6>() == 40 && size_of::<Udp>() == 8 && size_of::<Echo>() == 8);

/// A program's context, as far as it says where the packet's directly accessible part is.
pub(crate) trait Bytes {
    /// The address of its first byte.
    fn start(&self) -> usize;
    /// The address behind its last byte.
    fn end(&self) -> usize;
}

impl Bytes for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

impl Bytes for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// A pointer to `offset` in the packet's directly accessible part, if a whole `T` is there; the verifier checks the comparison.
/// It is valid until the next helper that may move the packet.
#[inline(always)]
pub(crate) fn at<T: Wire>(ctx: &impl Bytes, offset: usize) -> Option<*mut T> {
    let start = ctx.start() + offset;
    (start + size_of::<T>() <= ctx.end()).then_some(start as *mut T)
}

/// A copy of what is at `offset`.
#[inline(always)]
pub(crate) fn read<T: Wire>(ctx: &impl Bytes, offset: usize) -> Option<T> {
    // SAFETY: `at` checked that the packet holds a whole `T` there, and any bits are a `T`. The address may be unaligned for `T`; BPF loads are what the
    // verifier makes of them, and it accepts unaligned ones where the machine does (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS), else rejects the program.
    at::<T>(ctx, offset).map(|p| unsafe { *p })
}

/// What is behind the IP header.
#[derive(Clone, Copy)]
pub(crate) enum Transport {
    /// UDP, with its ports.
    Udp { source: Port, destination: Port },
    /// An ICMP or ICMPv6 echo or echo reply with a payload of ours.
    Echo {
        reply: bool,
        ident: u16,
        sequence: u16,
        payload: Payload,
    },
}

/// A packet that the programs may act on.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) transport: Transport,
    pub(crate) v4: bool,
    /// Bytes of the IP packet as it is in the socket buffer: for a super-packet, all of it.
    pub(crate) len: u32,
}

/// Parses the packet whose IP header is at `L3`, pulling its headers into the directly accessible part if they are not there.
#[inline(always)]
pub(crate) fn parse<const L3: usize>(ctx: &TcContext) -> Result<Packet, Reason> {
    match skb!(ctx, protocol) {
        PROTOCOL_V4 => match parse_v4::<L3>(ctx) {
            Err(Reason::Truncated) if pull::<L3>(ctx) => parse_v4::<L3>(ctx),
            parsed => parsed,
        },
        PROTOCOL_V6 => match parse_v6::<L3>(ctx) {
            Err(Reason::Truncated) if pull::<L3>(ctx) => parse_v6::<L3>(ctx),
            parsed => parsed,
        },
        _ => Err(Reason::NotIp),
    }
}

/// Makes more of the packet directly accessible; whether there was more.
#[inline(always)]
fn pull<const L3: usize>(ctx: &TcContext) -> bool {
    const MOST: usize = size_of::<Ipv6>() + echo::HEADER_LEN + echo::PAYLOAD_LEN;
    let accessible = ctx.data_end() - ctx.data();
    let wanted = (ctx.len() as usize).min(L3 + MOST);
    accessible < wanted && ctx.skb.pull_data(wanted as u32).is_ok()
}

#[inline(always)]
fn parse_v4<const L3: usize>(ctx: &TcContext) -> Result<Packet, Reason> {
    let ip = read::<Ipv4>(ctx, L3).ok_or(Reason::Truncated)?;
    if ip.version_ihl != 0x45 {
        return Err(if ip.version_ihl > 0x45 && ip.version_ihl < 0x50 {
            Reason::Options
        } else {
            Reason::NotIp
        });
    }
    // More fragments, or an offset.
    if u16::from_be(ip.fragment) & 0x3fff != 0 {
        return Err(Reason::Fragment);
    }
    let len = ctx.len() - L3 as u32;
    if u32::from(u16::from_be(ip.total_len)) > len {
        return Err(Reason::Truncated);
    }
    let transport = match ip.protocol {
        IPPROTO_UDP => parse_udp(ctx, L3 + size_of::<Ipv4>())?,
        IPPROTO_ICMP => parse_echo(
            ctx,
            L3 + size_of::<Ipv4>(),
            echo::icmp_type::V4_ECHO,
            echo::icmp_type::V4_ECHO_REPLY,
        )?,
        _ => return Err(Reason::NotUdp),
    };
    let (source, destination) = (Address::from_v4_word(ip.source), Address::from_v4_word(ip.destination));
    Ok(Packet {
        source,
        destination,
        transport,
        v4: true,
        len,
    })
}

#[inline(always)]
fn parse_v6<const L3: usize>(ctx: &TcContext) -> Result<Packet, Reason> {
    let ip = read::<Ipv6>(ctx, L3).ok_or(Reason::Truncated)?;
    let len = ctx.len() - L3 as u32;
    if u32::from(u16::from_be(ip.payload_len)) + size_of::<Ipv6>() as u32 > len {
        return Err(Reason::Truncated);
    }
    let transport = match ip.next_header {
        IPPROTO_UDP => parse_udp(ctx, L3 + size_of::<Ipv6>())?,
        IPPROTO_ICMPV6 => parse_echo(
            ctx,
            L3 + size_of::<Ipv6>(),
            echo::icmp_type::V6_ECHO,
            echo::icmp_type::V6_ECHO_REPLY,
        )?,
        IPV6_FRAGMENT => return Err(Reason::Fragment),
        next if IPV6_EXTENSIONS.contains(&next) => return Err(Reason::Options),
        _ => return Err(Reason::NotUdp),
    };
    Ok(Packet {
        source: Address(ip.source),
        destination: Address(ip.destination),
        transport,
        v4: false,
        len,
    })
}

#[inline(always)]
fn parse_udp(ctx: &TcContext, offset: usize) -> Result<Transport, Reason> {
    let udp = read::<Udp>(ctx, offset).ok_or(Reason::Truncated)?;
    if u32::from(u16::from_be(udp.len)) > ctx.len() - offset as u32 {
        return Err(Reason::Truncated);
    }
    Ok(Transport::Udp {
        source: Port(udp.source),
        destination: Port(udp.destination),
    })
}

#[inline(always)]
fn parse_echo(ctx: &TcContext, offset: usize, request: u8, reply: u8) -> Result<Transport, Reason> {
    let echo = read::<Echo>(ctx, offset).ok_or(Reason::Truncated)?;
    if echo.code != 0 || (echo.kind != request && echo.kind != reply) {
        return Err(Reason::NotUdp);
    }
    // A shorter one is not truncated: it is somebody else's.
    let payload = read::<[u8; echo::PAYLOAD_LEN]>(ctx, offset + echo::HEADER_LEN);
    let Some(payload) = payload.as_ref().and_then(Payload::from_bytes) else {
        let whole = ctx.len() as usize >= offset + echo::HEADER_LEN + echo::PAYLOAD_LEN;
        return Err(if whole && payload.is_none() {
            Reason::Truncated
        } else {
            Reason::NotUdp
        });
    };
    Ok(Transport::Echo {
        reply: echo.kind == reply,
        ident: echo.ident,
        sequence: echo.sequence,
        payload,
    })
}
