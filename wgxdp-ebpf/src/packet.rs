//! What the programs read of a packet: one parser for both address families, and the only access to packet memory.

use core::mem::offset_of;

use aya_ebpf::programs::{TcContext, XdpContext};
use wgxdp_common::count::Reason;
use wgxdp_common::echo::{self, Payload};
use wgxdp_common::message::Message;
use wgxdp_common::net::{Address, Port};
use wgxdp_common::stamp::in_band::InBand;
use wgxdp_common::tcp;

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
pub(crate) const PROTOCOL_V4: u32 = 0x0800_u16.to_be() as u32;
pub(crate) const PROTOCOL_V6: u32 = 0x86dd_u16.to_be() as u32;

const IPPROTO_ICMP: u8 = 1;
pub(crate) const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// IPv6 extension headers (RFC 8200): hop-by-hop, routing, fragment, ESP, AH, destination options.
const IPV6_FRAGMENT: u8 = 44;
const IPV6_EXTENSIONS: [u8; 5] = [0, 43, 50, 51, 60];

/// RFC 791.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total_len: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// RFC 8200.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    pub(crate) version_class_flow: u32,
    pub(crate) payload_len: u16,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

/// RFC 768. Aligned as the headers before it, so that it is read in two words.
#[repr(C, align(4))]
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

/// RFC 9293, section 3.1.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    window: u16,
    pub(crate) checksum: u16,
    urgent: u16,
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
// SAFETY: as above.
unsafe impl Wire for Tcp {}
// SAFETY: bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: as above; its own layout assertions say so.
unsafe impl Wire for InBand {}
// SAFETY: words.
unsafe impl<const N: usize> Wire for [u32; N] {}
const _: () =
    assert!(size_of::<Ipv4>() == 20 && size_of::<Ipv6>() == 40 && size_of::<Udp>() == 8 && size_of::<Echo>() == 8);
const _: () = assert!(size_of::<Tcp>() == 20);

/// A program's context, as far as it says where the packet's directly accessible part is.
pub(crate) trait Bytes {
    /// The address of its first byte.
    fn start(&self) -> usize;
    /// The address behind its last byte.
    fn end(&self) -> usize;
    /// Bytes of the packet. In XDP only those of the directly accessible part: a frame in several buffers looks truncated.
    fn len(&self) -> u32;
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

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len()
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

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.data_end() - self.data()) as u32
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

/// The TTL or hop limit with which a datagram came.
#[inline(always)]
pub(crate) fn hops(ctx: &impl Bytes, packet: &Packet, udp: &Datagram) -> Option<u8> {
    let ip = udp.payload - size_of::<Udp>();
    let [hops] = if packet.v4 {
        read::<[u8; 1]>(ctx, ip - size_of::<Ipv4>() + offset_of!(Ipv4, ttl))?
    } else {
        read::<[u8; 1]>(ctx, ip - size_of::<Ipv6>() + offset_of!(Ipv6, hop_limit))?
    };
    Some(hops)
}

/// What is behind the IP header.
#[derive(Clone, Copy)]
pub(crate) enum Transport {
    /// UDP.
    Udp(Datagram),
    /// An ICMP or ICMPv6 echo or echo reply with a payload of ours.
    Echo {
        reply: bool,
        ident: u16,
        sequence: u16,
        payload: Payload,
    },
    /// A TCP segment that begins or refuses a connection.
    Tcp(Segment),
}

/// A TCP segment: a SYN, a SYN-ACK or a RST-ACK. Numbers are in network byte order.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source: Port,
    pub(crate) destination: Port,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    /// Where its header begins.
    pub(crate) start: usize,
}

/// A UDP datagram.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) source: Port,
    pub(crate) destination: Port,
    /// Where the payload begins.
    pub(crate) payload: usize,
    /// Bytes of the payload as the header says; of a super-packet, of all of it.
    pub(crate) len: u32,
    /// Whether the IP header says the same.
    pub(crate) exact: bool,
    /// The payload's first words as they stand in memory; of one that is too short to be WireGuard's, at most the first.
    pub(crate) opening: [u32; 3],
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

impl Packet {
    /// Bytes of the largest IP packet on the wire: a super-packet will be cut.
    #[inline(always)]
    pub(crate) fn wire_len(&self, ctx: &TcContext) -> u32 {
        let segment = skb!(ctx, gso_size);
        if segment == 0 {
            return self.len;
        }
        let header = if self.v4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
        header as u32 + size_of::<Udp>() as u32 + segment
    }
}

/// Which family's packet this is; `None` for neither.
#[inline(always)]
pub(crate) fn is_v4(ctx: &TcContext) -> Option<bool> {
    match skb!(ctx, protocol) {
        PROTOCOL_V4 => Some(true),
        PROTOCOL_V6 => Some(false),
        _ => None,
    }
}

/// Parses the packet of this family whose IP header is at `L3`, pulling its headers into the directly accessible part if they are not there.
#[inline(always)]
pub(crate) fn parse<const L3: usize, const V4: bool>(ctx: &TcContext) -> Result<Packet, Reason> {
    match parse_accessible::<L3, V4>(ctx) {
        Err(Reason::Truncated) if pull::<L3>(ctx) => parse_accessible::<L3, V4>(ctx),
        parsed => parsed,
    }
}

#[inline(always)]
fn parse_accessible<const L3: usize, const V4: bool>(ctx: &TcContext) -> Result<Packet, Reason> {
    if V4 { parse_v4::<L3>(ctx) } else { parse_v6::<L3>(ctx) }
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
pub(crate) fn parse_v4<const L3: usize>(ctx: &impl Bytes) -> Result<Packet, Reason> {
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
    let whole = u32::from(u16::from_be(ip.total_len));
    if whole > len {
        return Err(Reason::Truncated);
    }
    let transport = match ip.protocol {
        // The length counts the header (RFC 791).
        IPPROTO_UDP => parse_udp(
            ctx,
            L3 + size_of::<Ipv4>(),
            whole.saturating_sub(size_of::<Ipv4>() as u32),
        )?,
        IPPROTO_ICMP => parse_echo(
            ctx,
            L3 + size_of::<Ipv4>(),
            echo::icmp_type::V4_ECHO,
            echo::icmp_type::V4_ECHO_REPLY,
        )?,
        tcp::PROTOCOL => parse_tcp(ctx, L3 + size_of::<Ipv4>())?,
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
pub(crate) fn parse_v6<const L3: usize>(ctx: &impl Bytes) -> Result<Packet, Reason> {
    let ip = read::<Ipv6>(ctx, L3).ok_or(Reason::Truncated)?;
    let len = ctx.len() - L3 as u32;
    let behind = u32::from(u16::from_be(ip.payload_len));
    if behind + size_of::<Ipv6>() as u32 > len {
        return Err(Reason::Truncated);
    }
    let transport = match ip.next_header {
        // The length does not count the header (RFC 8200).
        IPPROTO_UDP => parse_udp(ctx, L3 + size_of::<Ipv6>(), behind)?,
        IPPROTO_ICMPV6 => parse_echo(
            ctx,
            L3 + size_of::<Ipv6>(),
            echo::icmp_type::V6_ECHO,
            echo::icmp_type::V6_ECHO_REPLY,
        )?,
        tcp::PROTOCOL => parse_tcp(ctx, L3 + size_of::<Ipv6>())?,
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

/// `behind_ip`: bytes that the IP header says are behind it.
#[inline(always)]
fn parse_udp(ctx: &impl Bytes, offset: usize, behind_ip: u32) -> Result<Transport, Reason> {
    let udp = read::<Udp>(ctx, offset).ok_or(Reason::Truncated)?;
    let whole = u32::from(u16::from_be(udp.len));
    if whole > behind_ip {
        return Err(Reason::Truncated);
    }
    let payload = offset + size_of::<Udp>();
    let len = whole.saturating_sub(size_of::<Udp>() as u32);
    let opening = if len >= Message::SHORTEST_DATA_LEN {
        read::<[u32; 3]>(ctx, payload).ok_or(Reason::Truncated)?
    } else if len >= size_of::<u32>() as u32 {
        [read::<[u32; 1]>(ctx, payload).ok_or(Reason::Truncated)?[0], 0, 0]
    } else {
        [0; 3]
    };
    Ok(Transport::Udp(Datagram {
        source: Port(udp.source),
        destination: Port(udp.destination),
        payload,
        len,
        exact: whole == behind_ip,
        opening,
    }))
}

#[inline(always)]
fn parse_echo(ctx: &impl Bytes, offset: usize, request: u8, reply: u8) -> Result<Transport, Reason> {
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

#[inline(always)]
fn parse_tcp(ctx: &impl Bytes, start: usize) -> Result<Transport, Reason> {
    let tcp = read::<Tcp>(ctx, start).ok_or(Reason::Truncated)?;
    if !matches!(tcp.flags, tcp::SYN | tcp::SYN_ACK | tcp::RST_ACK) {
        return Err(Reason::NotUdp);
    }
    Ok(Transport::Tcp(Segment {
        source: Port(tcp.source),
        destination: Port(tcp.destination),
        sequence: tcp.sequence,
        acknowledgement: tcp.acknowledgement,
        data_offset: tcp.data_offset,
        flags: tcp.flags,
        start,
    }))
}
