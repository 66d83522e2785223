//! `steer`, TC egress on the anchor: gives WireGuard's packets and the probes their uplink.
//!
//! ```text
//! WireGuard → socket → rule → anchor ─▶ steer
//!   not ours (no UDP, other port, foreign source, fragment, …)          pass, counted
//!   a probe, by its mark        ─▶ stamp it ─▶ its path's uplink
//!   to a known endpoint         ─▶ the peer's first live path            (wgxdp_common::liveness)
//!   to any other destination    ─▶ the first usable uplink
//!                                   └▶ source := the uplink's address, destination := the path's endpoint ─▶ redirect
//! ```
//!
//! After the rewriting the source is no longer canonical, so that a packet cannot be steered twice.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use wgxdp_common::abi::{MAX_PATHS_PER_PEER, MAX_UPLINKS, PROBE_MARK, PROBE_MARK_MASK};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::liveness::{Choice, Chooser, DEAD_MIN_UNANSWERED, Flags, SUSPECT_MIN_UNANSWERED, Standing};
use wgxdp_common::net::{Endpoint, Port};
use wgxdp_common::record::{Record, RecordKind};
use wgxdp_common::table::{Config, EndpointKey, Order, Path, PeerState, Proof, Tunnel};

use crate::config::{self, Egress};
use crate::maps::{ENDPOINTS, PATH_COUNTS, PATHS, PEER_STATES, PEERS, PROOFS, field, read, write};
use crate::outcome::{Outcome, add, segments};
use crate::packet::{ETHERNET, Packet, Transport, parse, skb};
use crate::rewrite::{Ends, rewrite, send};
use crate::{probe, records};

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
    let packet = parse::<L3>(ctx)?;
    let canonical = if packet.v4 { config.anchor.v4 } else { config.anchor.v6 };
    match packet.transport {
        Transport::Udp { source, destination } => {
            let tunnel = config::tunnel(config, source).ok_or(Reason::OtherPort)?;
            if packet.source != canonical {
                return Err(Reason::ForeignSource);
            }
            let key = EndpointKey {
                endpoint: packet.destination,
                port: destination,
                tunnel: source,
            };
            // SAFETY: user space replaces entries and never edits them, and a removed peer's packets may go either way.
            match unsafe { ENDPOINTS.get(key) } {
                Some(entry) => steer_to_peer(ctx, config, &packet, entry.peer, source),
                None => fall_back(ctx, config, &packet, tunnel, source, destination),
            }
        }
        Transport::Echo {
            reply: false,
            ident,
            sequence,
            payload,
        } => {
            let mark = skb!(ctx, mark);
            let ours = mark & PROBE_MARK_MASK == PROBE_MARK
                && mark & !PROBE_MARK_MASK == payload.path.0
                && ident == config.anchor.probe_ident
                && packet.source == canonical;
            if !ours {
                return Err(Reason::NotUdp);
            }
            let uplink = probe::uplink(payload.path).ok_or(Reason::ProbeNoUplink)?;
            probe::leaves(payload, sequence).ok_or(Reason::ProbeNoUplink)?;
            let egress = config::egress(config, uplink, packet.destination, packet.v4).ok_or(Reason::ProbeNoUplink)?;
            let target = Endpoint {
                address: packet.destination,
                port: Port(0),
                reserved: [0; 2],
            };
            emit(ctx, &packet, &egress, Port(0), target)?;
            // The mark has done its work; rules and filters of the operator's need not see it.
            ctx.set_mark(0);
            Ok(Reason::Probe)
        }
        Transport::Echo { .. } => Err(Reason::NotUdp),
    }
}

/// Sends a packet by its peer's best path.
#[inline(always)]
fn steer_to_peer(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    peer: PeerId,
    source: Port,
) -> Result<Reason, Reason> {
    let chosen = Chosen(choose(peer.0));
    if chosen.0 == Chosen::NONE.0 {
        return Err(Reason::NoUplink);
    }
    let path = chosen.path();
    let path_entry: *mut Path = PATHS.get_ptr_mut(path.0).ok_or(Reason::NotConfigured)?;
    // SAFETY: a path's endpoint is written before anything refers to the path and not changed while something does.
    let endpoint = unsafe { (*path_entry).endpoint };
    let uplink = read(field!(path_entry, uplink));
    let egress = config::egress(config, uplink, endpoint.address, packet.v4).ok_or(Reason::NoUplink)?;
    emit(ctx, packet, &egress, source, endpoint)?;
    count_sent(ctx, path, packet.len);
    if chosen.is_fail_open() {
        return Ok(Reason::FailOpen);
    }
    note_active(peer, path);
    Ok(Reason::Steered)
}

/// A path, and whether it was chosen for want of a live one: one word, as a function of its own can return it.
#[derive(Clone, Copy)]
struct Chosen(u64);

impl Chosen {
    const NONE: Self = Self(u64::MAX);
    const FAIL_OPEN: u64 = 1 << 32;

    const fn path(self) -> PathId {
        PathId(self.0 as u32)
    }

    const fn is_fail_open(self) -> bool {
        self.0 & Self::FAIL_OPEN != 0
    }
}

/// The path for a peer's packet. A function of its own, so that the verifier walks it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose(peer: u32) -> u64 {
    let peer = PeerId(peer);
    let Some(entry) = PEERS.get_ptr_mut(peer.0) else {
        return Chosen::NONE.0;
    };
    let order = read(field!(entry, order));
    let mut chooser = Chooser::default();
    let mut latch = 0_u64;
    let mut chosen = Chosen::NONE;
    for place in 0..MAX_PATHS_PER_PEER as u32 {
        let Some(slot) = order.slot(place) else { break };
        let path = PathId::new(peer, slot);
        let Some((standing, to_latch)) = standing(path) else {
            return Chosen::NONE.0;
        };
        latch |= to_latch << place;
        // A suspect path's copy on the next live path will be decided here.
        if chooser.offer(standing).is_some() {
            chosen = Chosen(u64::from(path.0));
            break;
        }
    }
    if latch != 0 {
        latch_dead(peer, order, latch);
    }
    if chosen.0 != Chosen::NONE.0 {
        return chosen.0;
    }
    match chooser.fail_open(clock()) {
        Choice::Live(place) | Choice::Suspect(place) | Choice::FailOpen(place) => {
            // The verifier does not know that a place is below eight.
            let Some(slot) = order.slot(place % MAX_PATHS_PER_PEER as u32) else {
                return Chosen::NONE.0;
            };
            u64::from(PathId::new(peer, slot).0) | Chosen::FAIL_OPEN
        }
        Choice::None => Chosen::NONE.0,
    }
}

/// What is known of a path now, and 1 if it was found dead just now and wants to be latched.
///
/// Silence counts only with unanswered probes. Without any, which is most of the time, the path may as well have proven itself this
/// moment, and the clock, the dearest call of all, is not read.
#[inline(always)]
fn standing(path: PathId) -> Option<(Standing, u64)> {
    let entry: *mut Path = PATHS.get_ptr_mut(path.0)?;
    let proof: *mut Proof = PROOFS.get_ptr_mut(path.0)?;
    let flags = read(field!(entry, flags)).with(config::uplink_flags(read(field!(entry, uplink))));
    let latched_ns = read(field!(proof, latched_ns));
    let (proof_ns, unanswered) = (read(field!(proof, proof_ns)), read(field!(proof, unanswered)));
    let now_ns = if unanswered == 0 { proof_ns } else { clock() };
    let standing = Standing::new(
        flags,
        latched_ns,
        now_ns,
        proof_ns,
        unanswered,
        read(field!(entry, thresholds)),
    );
    Some((standing, standing.wants_latch()))
}

const _: () = assert!(
    SUSPECT_MIN_UNANSWERED > 0 && DEAD_MIN_UNANSWERED > 0,
    "`standing` takes silence without unanswered probes for none"
);

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
fn clock() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Latches the paths in the places whose bits are set, and tells the daemon.
#[inline(always)]
fn latch_dead(peer: PeerId, order: Order, latch: u64) {
    let now_ns = clock();
    for place in 0..MAX_PATHS_PER_PEER as u32 {
        if latch >> place & 1 == 0 {
            continue;
        }
        let Some(slot) = order.slot(place) else { return };
        let path = PathId::new(peer, slot);
        let Some(proof): Option<*mut Proof> = PROOFS.get_ptr_mut(path.0) else {
            return;
        };
        // Two CPUs may both get here and both tell: the daemon takes the second record for what it is.
        write(field!(proof, latched_ns), now_ns);
        let silence_ns = now_ns.wrapping_sub(read(field!(proof, proof_ns)));
        let kind = RecordKind::LATCHED;
        records::emit(Record {
            at_ns: now_ns,
            value_ns: silence_ns,
            kind,
            path,
            from: PathId::NONE,
            sequence: 0,
        });
    }
}

/// Sends a packet to no known endpoint (a client whose address only WireGuard knows) by the tunnel's first usable uplink.
#[inline(always)]
fn fall_back(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    tunnel: &Tunnel,
    source: Port,
    destination: Port,
) -> Result<Reason, Reason> {
    for place in 0..MAX_UPLINKS {
        let Some(uplink) = tunnel.fallback(place) else { break };
        if config::uplink_flags(uplink).0 != Flags::NONE.0 {
            continue;
        }
        if let Some(egress) = config::egress(config, uplink, packet.destination, packet.v4) {
            let target = Endpoint {
                address: packet.destination,
                port: destination,
                reserved: [0; 2],
            };
            emit(ctx, packet, &egress, source, target)?;
            return Ok(Reason::Fallback);
        }
    }
    Err(Reason::NoUplink)
}

/// Rewrites the packet and sends it out.
#[inline(always)]
fn emit(ctx: &TcContext, packet: &Packet, egress: &Egress, port: Port, destination: Endpoint) -> Result<(), Reason> {
    let source = Endpoint {
        address: egress.source,
        port,
        reserved: [0; 2],
    };
    rewrite::<L3>(ctx, packet, Ends { source, destination })?;
    send(egress, packet.v4);
    Ok(())
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
fn note_active(peer: PeerId, path: PathId) {
    let Some(state): Option<*mut PeerState> = PEER_STATES.get_ptr_mut(peer.0) else {
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
