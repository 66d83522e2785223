//! `steer`, TC egress on the anchor: gives WireGuard's packets and the probes their uplink.
//!
//! ```text
//! WireGuard → socket → rule → anchor ─▶ steer
//!   not ours (no UDP, other port, foreign source, fragment, …)          pass, counted
//!   a probe, by its mark        ─▶ stamp it ─▶ its path's uplink             (in band: `in_band`)
//!   to a known endpoint         ─▶ the peer's first live path that it fits   (wgxdp_common::liveness)
//!                                  and if that is in doubt a copy by another (copy)
//!   to a learned client         ─▶ where it last spoke                       (wgxdp_common::client)
//!   to any other destination    ─▶ the first usable uplink
//!                                   └▶ source := an address of the uplink, destination := the path's endpoint ─▶ redirect
//! ```
//!
//! Every way ends in a [`Departure`], which is carried out in one place. After the rewriting the source is no longer canonical, so that a
//! packet cannot be steered twice.

use aya_ebpf::programs::TcContext;
use wgxdp_common::abi::{MAX_UPLINKS, PROBE_MARK, PROBE_MARK_MASK};
use wgxdp_common::checksum::Difference;
use wgxdp_common::client::{Local, LocalId};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::echo::Payload;
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::liveness::Flags;
use wgxdp_common::message::Message;
use wgxdp_common::net::{Address, Endpoint, Port};
use wgxdp_common::record::{Record, RecordKind};
use wgxdp_common::stamp::out_of_band;
use wgxdp_common::table::{Config, EndpointKey, Path, PeerState, Tunnel};
use wgxdp_common::tcp::SYN;

use crate::choose::{Chosen, choose, clock, preferred, second};
use crate::config::{self, Egress};
use crate::maps::{PATH_COUNTS, PATHS, PEER_STATES, PROOFS, field, read, write};
use crate::outcome::{Outcome, add, segments};
use crate::packet::{Datagram, ETHERNET, Packet, Transport, parse, skb};
use crate::rewrite::{Ends, rewrite, send};
use crate::{clients, copy, endpoints, in_band, packet, probe, records, tcp};

/// The anchor has Ethernet headers, whether it is a `dummy` or a `veth`.
const L3: usize = ETHERNET;

/// See the module.
#[inline(always)]
pub(crate) fn steer(ctx: &TcContext) -> Outcome {
    let reason = match try_steer(ctx) {
        Ok(reason) | Err(reason) => reason,
    };
    Outcome {
        place: Place::Anchor,
        reason,
    }
}

#[inline(always)]
fn try_steer(ctx: &TcContext) -> Result<Reason, Reason> {
    let config = config::current().ok_or(Reason::NotConfigured)?;
    // Once for each family, so that the compiler knows which words of an address are always the same.
    if packet::is_v4(ctx).ok_or(Reason::NotIp)? {
        depart::<true>(ctx, config)
    } else {
        depart::<false>(ctx, config)
    }
}

#[inline(always)]
fn depart<const V4: bool>(ctx: &TcContext, config: &Config) -> Result<Reason, Reason> {
    let packet = parse::<L3, V4>(ctx)?;
    let canonical = packet.source == if V4 { config.anchor.v4.as_v4() } else { config.anchor.v6 };
    match packet.transport {
        Transport::Udp(udp) => {
            let sent = Sent {
                ctx,
                config,
                packet: &packet,
                udp: &udp,
                canonical,
            };
            sent.steer()
        }
        Transport::Echo {
            reply: false,
            ident,
            sequence,
            payload,
        } if canonical => {
            if ident != config.anchor.probe_ident || !is_marked(ctx, payload) {
                return Err(Reason::NotUdp);
            }
            probes(ctx, config, &packet, payload, sequence, [Port(0); 2])?.carry_out(ctx, &packet)
        }
        Transport::Tcp(segment) if canonical && segment.flags == SYN => {
            let path = marked(ctx).ok_or(Reason::NotUdp)?;
            let (payload, sequence) = tcp::leaves(ctx, &packet, &segment, path)?;
            let ports = [segment.source, segment.destination];
            probes(ctx, config, &packet, payload, sequence, ports)?.carry_out(ctx, &packet)
        }
        Transport::Echo { .. } | Transport::Tcp(_) => Err(Reason::NotUdp),
    }
}

/// How a packet leaves, and what is noted of it.
struct Departure {
    egress: Egress,
    /// Our port.
    port: Port,
    to: Endpoint,
    /// How the addresses differ from the packet's.
    addresses: Difference,
    /// The path on which it is counted.
    path: PathId,
    /// Whether its peer's traffic is where this packet goes.
    moves: bool,
    reason: Reason,
}

impl Departure {
    /// Of what is no peer's data, to this address and from and to these ports.
    #[inline(always)]
    fn aside(egress: Egress, addresses: Difference, to: Address, [from, port]: [Port; 2], reason: Reason) -> Self {
        Self {
            egress,
            addresses,
            port: from,
            to: Endpoint {
                address: to,
                port,
                reserved: [0; 2],
            },
            path: PathId::NONE,
            moves: false,
            reason,
        }
    }

    /// Rewrites the packet, sends it out, and takes note.
    #[inline(always)]
    fn carry_out(&self, ctx: &TcContext, packet: &Packet) -> Result<Reason, Reason> {
        let source = Endpoint {
            address: self.egress.source,
            port: self.port,
            reserved: [0; 2],
        };
        let ends = Ends {
            source,
            destination: self.to,
            v4: self.egress.v4,
            addresses: self.addresses,
        };
        rewrite::<L3, false>(ctx, packet, &ends)?;
        send(&self.egress);
        if self.path.0 != PathId::NONE.0 {
            count_sent(ctx, self.path, packet.len);
        }
        if self.moves {
            note_active(self.path);
        }
        Ok(self.reason)
    }
}

/// What WireGuard sends.
struct Sent<'a> {
    ctx: &'a TcContext,
    config: &'a Config,
    packet: &'a Packet,
    udp: &'a Datagram,
    /// Whether its source is the canonical address.
    canonical: bool,
}

impl Sent<'_> {
    #[inline(always)]
    fn steer(&self) -> Result<Reason, Reason> {
        let Self {
            config, packet, udp, ..
        } = *self;
        if !self.canonical {
            config::tunnel(config, udp.source).ok_or(Reason::OtherPort)?;
            // A user-space WireGuard may insist on the address that it was spoken to.
            clients::local_id(packet.source).ok_or(Reason::ForeignSource)?;
        }
        clients::note_session(udp);
        let key = EndpointKey {
            endpoint: packet.destination,
            port: udp.destination,
            tunnel: udp.source,
        };
        match endpoints::find(&key) {
            Some(entry) => self.to_peer(entry),
            None => {
                let departure = match config::tunnel(config, udp.source) {
                    Some(tunnel) => self.to_client(tunnel, &key)?,
                    None if in_band::is_claimed(udp) => self.in_band_probe()?,
                    None => self.stamp_probe()?,
                };
                departure.carry_out(self.ctx, packet)
            }
        }
    }

    /// By the peer's best path.
    #[inline(always)]
    fn to_peer(&self, addressed: &EndpointEntry) -> Result<Reason, Reason> {
        let peer = addressed.endpoint.peer;
        let (chosen, path) = if let Some(path) = copy::take(self.ctx, peer) {
            (Chosen::copy(path), path_entry(path)?)
        } else if let Some((path, entry)) = preferred(self.ctx, self.packet, addressed) {
            (Chosen::preferred(path), entry)
        } else {
            let len = self.packet.wire_len(self.ctx);
            let chosen = choose(peer, len).ok_or(Reason::NoUplink)?;
            // Handshake messages are never sent twice.
            if chosen.wants_copy()
                && self.udp.opening[0] == Message::Data.word()
                && let Some(second) = second(chosen.path(), len)
            {
                copy::send(self.ctx, second);
            }
            (chosen, path_entry(chosen.path())?)
        };
        // The compiler knows the packet's family here, and now the path's.
        // SAFETY: a path's family is written before anything refers to the path and not changed while something does.
        match (self.packet.v4, unsafe { (*path).v4 } != 0) {
            (true, true) => self.by_path::<true>(addressed, chosen, path),
            (false, false) => self.by_path::<false>(addressed, chosen, path),
            (true, false) => self.by_path::<false>(addressed, chosen, path),
            (false, true) => self.by_path::<true>(addressed, chosen, path),
        }
    }

    /// By a path of this family.
    #[inline(always)]
    fn by_path<const V4: bool>(
        &self,
        addressed: &EndpointEntry,
        chosen: Chosen,
        path: *mut Path,
    ) -> Result<Reason, Reason> {
        // SAFETY: as in `to_peer`.
        let (to, difference) = unsafe { ((*path).endpoint, (*path).difference) };
        let to = if V4 { to.as_v4() } else { to };
        let uplink = read(field!(path, uplink));
        let mut egress = config::egress(self.config, uplink, to.address, V4).ok_or(Reason::NoUplink)?;
        let source = self.source_of(path, &mut egress, uplink);
        let departure = Departure {
            addresses: source.with(addressed.difference).with(difference),
            egress,
            port: self.udp.source,
            to,
            path: chosen.path(),
            moves: chosen.moves(),
            reason: chosen.reason(),
        };
        departure.carry_out(self.ctx, self.packet)
    }

    /// To somebody without a configured endpoint: a client, where it last spoke; else by the tunnel's first usable uplink.
    #[inline(always)]
    fn to_client(&self, tunnel: &Tunnel, key: &EndpointKey) -> Result<Departure, Reason> {
        let Self {
            config, packet, udp, ..
        } = *self;
        let heard = clients::whereabouts(key, udp);
        let local = heard.and_then(|heard| clients::local(heard.local()));
        let (uplink, mut egress, reason) = match heard.and_then(|heard| open(config, heard.uplink(), packet)) {
            Some((uplink, egress)) => (uplink, egress, Reason::Returned),
            None => {
                let (uplink, egress) = first_open(config, tunnel, packet).ok_or(Reason::NoUplink)?;
                let reason = if heard.is_some() {
                    Reason::Diverted
                } else {
                    Reason::Fallback
                };
                (uplink, egress, reason)
            }
        };
        let addresses = self.source_at(&mut egress, uplink, local);
        let ports = [udp.source, udp.destination];
        Ok(Departure::aside(egress, addresses, packet.destination, ports, reason))
    }

    /// A STAMP probe of the prober's, from its port.
    #[inline(always)]
    fn stamp_probe(&self) -> Result<Departure, Reason> {
        let udp = self.udp;
        let probe = out_of_band::read(udp.opening).filter(|_| udp.source.0 == self.config.anchor.probe_ident);
        match probe {
            Some((payload, sequence)) if is_marked(self.ctx, payload) => probes(
                self.ctx,
                self.config,
                self.packet,
                payload,
                sequence,
                [udp.source, udp.destination],
            ),
            _ => Err(Reason::OtherPort),
        }
    }

    /// An in-band probe of the prober's, from its port. It leaves from the tunnel's, to which WireGuard alone is bound.
    #[inline(always)]
    fn in_band_probe(&self) -> Result<Departure, Reason> {
        let Self {
            ctx,
            config,
            packet,
            udp,
            ..
        } = *self;
        let path = marked(ctx).filter(|_| udp.source.0 == config.anchor.probe_ident);
        let path = path.ok_or(Reason::OtherPort)?;
        let request = in_band::outgoing().ok_or(Reason::NotConfigured)?;
        in_band::load(ctx, udp, request)?;
        let removed = in_band::removed(request);
        let port = in_band::tunnel(path).ok_or(Reason::ProbeNoUplink)?;
        let entry = path_entry(path)?;
        let uplink = read(field!(entry, uplink));
        let mut egress = config::egress(config, uplink, packet.destination, packet.v4).ok_or(Reason::ProbeNoUplink)?;
        match in_band::compose(request, path) {
            Reason::Probe => {}
            refused => return Err(refused),
        }
        in_band::store(ctx, udp, request, removed)?;
        // As in `probes`.
        ctx.set_mark(0);
        let (addresses, ports) = (self.source_of(entry, &mut egress, uplink), [port, udp.destination]);
        Ok(Departure::aside(
            egress,
            addresses,
            packet.destination,
            ports,
            Reason::Probe,
        ))
    }

    /// Has the packet come from where all of the path's do: see [`Path::local`]. Returns how the source will differ.
    #[inline(always)]
    fn source_of(&self, path: *mut Path, egress: &mut Egress, uplink: UplinkId) -> Difference {
        let local = read(field!(path, local));
        if local.0 == LocalId::NONE.0 {
            self.source_to(egress)
        } else {
            self.source_at(egress, uplink, clients::local(local))
        }
    }

    /// Has the packet come from this address of ours, if it is one that can leave by the uplink. Returns how the source will differ.
    #[inline(always)]
    fn source_at(&self, egress: &mut Egress, uplink: UplinkId, local: Option<Local>) -> Difference {
        if let Some(local) = local
            && (local.uplink == uplink.0 || local.uplink == Local::ANY_UPLINK)
            && local.address != egress.source
            && local.address.is_v4() == egress.v4
        {
            egress.source = local.address;
            return Difference::NONE.of_address(self.packet.source, local.address);
        }
        self.source_to(egress)
    }

    /// How the source will differ; nearly always user space has worked it out before.
    #[inline(always)]
    fn source_to(&self, egress: &Egress) -> Difference {
        if self.canonical && self.packet.v4 == egress.v4 {
            egress.difference
        } else {
            Difference::NONE.of_address(self.packet.source, egress.source)
        }
    }
}

#[inline(always)]
fn path_entry(path: PathId) -> Result<*mut Path, Reason> {
    PATHS.get_ptr_mut(path.0).ok_or(Reason::NotConfigured)
}

/// The path whose mark the packet has.
#[inline(always)]
fn marked(ctx: &TcContext) -> Option<PathId> {
    let mark = skb!(ctx, mark);
    (mark & PROBE_MARK_MASK == PROBE_MARK).then_some(PathId(mark & !PROBE_MARK_MASK))
}

/// Whether the packet has the mark of the path that it says it tests.
#[inline(always)]
fn is_marked(ctx: &TcContext, payload: Payload) -> bool {
    marked(ctx).is_some_and(|path| path.0 == payload.path.0)
}

/// What the prober sends, over the path that it tests. An echo has no ports; TCP's stay.
#[inline(always)]
fn probes(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    payload: Payload,
    sequence: u16,
    ports: [Port; 2],
) -> Result<Departure, Reason> {
    let uplink = probe::uplink(payload.path).ok_or(Reason::ProbeNoUplink)?;
    probe::leaves(payload, sequence).ok_or(Reason::ProbeNoUplink)?;
    let egress = config::egress(config, uplink, packet.destination, packet.v4).ok_or(Reason::ProbeNoUplink)?;
    // The mark has done its work; rules and filters of the operator's need not see it.
    ctx.set_mark(0);
    Ok(Departure::aside(
        egress,
        egress.difference,
        packet.destination,
        ports,
        Reason::Probe,
    ))
}

/// How a packet leaves by an uplink, if nothing speaks against that.
#[inline(always)]
fn open(config: &Config, uplink: UplinkId, packet: &Packet) -> Option<(UplinkId, Egress)> {
    if config::uplink_flags(uplink).0 != Flags::NONE.0 {
        return None;
    }
    let egress = config::egress(config, uplink, packet.destination, packet.v4)?;
    Some((uplink, egress))
}

#[inline(always)]
fn first_open(config: &Config, tunnel: &Tunnel, packet: &Packet) -> Option<(UplinkId, Egress)> {
    for place in 0..MAX_UPLINKS {
        if let Some(open) = open(config, tunnel.fallback(place)?, packet) {
            return Some(open);
        }
    }
    None
}

/// Counts a packet that left by a path; a super-packet counts as what it will be cut into.
#[inline(always)]
fn count_sent(ctx: &TcContext, path: PathId, len: u32) {
    if let Some(count) = PATH_COUNTS.get_ptr_mut(path.0) {
        add(field!(count, tx_packets), segments(ctx));
        add(field!(count, tx_bytes), u64::from(len));
    }
}

/// Notes which path carries the peer's traffic, and tells when it is another one than before.
#[inline(always)]
fn note_active(path: PathId) {
    let Some(state): Option<*mut PeerState> = PEER_STATES.get_ptr_mut(path.peer().0) else {
        return;
    };
    let active = u64::from(path.0) + 1;
    let before = read(field!(state, active));
    if before == active {
        return;
    }
    write(field!(state, active), active);
    if before == 0 {
        return;
    }
    write(field!(state, switches), read(field!(state, switches)) + 1);
    let (from, now_ns) = (PathId((before - 1) as u32), clock());
    let silence = PROOFS
        .get_ptr_mut(from.0)
        .map_or(0, |proof| now_ns.saturating_sub(read(field!(proof, proof_ns))));
    records::emit(Record {
        at_ns: now_ns,
        value_ns: silence,
        kind: RecordKind::SWITCHED,
        path,
        from,
        sequence: 0,
    });
}
