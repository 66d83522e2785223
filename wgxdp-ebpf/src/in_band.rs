//! In-band probes (`wgxdp_common::stamp::in_band`): composed by `steer`, judged by `guard` or `restore`, which answer them.
//!
//! ```text
//! steer            the prober's request ─▶ time, report, name, tag ─▶ noted in the path's slot ─▶ its uplink
//! guard, restore   shape ─▶ whose ─▶ tag ─┬─ a request ─▶ later than the last one? ─▶ noted, or registered ─▶ the answer
//!                                         └─ an answer ─▶ to a probe in flight? ─▶ the path's proof moves ─▶ consumed
//! ```
//!
//! **A request is evidence, too.** It came over the path, and its report says when the far end last heard us there: that moment is a proof, as if a reply had come
//! then. A far end that hears us no more says so by a report that grows old, and the path is as dead for us as for it. And where the far end's traffic goes by another path
//! than ours (ACTIVE), its request counts as a probe that ours left unanswered. So with a daemon that is stopped the far end's probes still move the deadlines, and no
//! path dies that proves itself.
//!
//! **A request registers.** Where it came from is one of its author's paths; where we know of none there, the daemon is told, and makes it one. Of a peer whose paths came
//! to be that way the far end orders them: the path that it says carries its traffic is from then on the first to carry ours.
//!
//! What takes many instructions is in functions of its own, so that it is there once and not once for each family and kind of link.

use aya_ebpf::bindings::BPF_F_MARK_MANGLED_0;
use aya_ebpf::helpers::{bpf_csum_diff, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use wgxdp_common::client::{LocalId, Whereabouts};
use wgxdp_common::count::Reason;
use wgxdp_common::echo::Payload;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::keyring::{Heard, KeyName, Keyring, Keys, Request, is_later};
use wgxdp_common::net::{Endpoint, Port};
use wgxdp_common::siphash::Key;
use wgxdp_common::stamp::in_band::{self, Author, InBand, Report, SEQUENCE_BIT};
use wgxdp_common::stamp::{ErrorEstimate, Timestamp, tlv};
use wgxdp_common::table::{EndpointKey, OrderedBy, Peer, PeerState, Proof};

use crate::choose::clock;
use crate::maps::{KEYRINGS, PATHS, PEER_STATES, PEERS, PROOFS, WORKBENCH, field, read, unix_offset_ns, write};
use crate::outcome::add;
use crate::packet::{Datagram, Packet};
use crate::{endpoints, probe, records};

/// Whether the datagram begins as a probe; no message of WireGuard's does.
#[inline(always)]
pub(crate) fn is_claimed(udp: &Datagram) -> bool {
    u32::from_be(udp.opening[0]) & SEQUENCE_BIT != 0
}

/// A probe that arrived, and how. Too large for a stack that others need, too.
pub(crate) struct Incoming {
    /// The probe; after a request was judged, its answer.
    pub(crate) probe: InBand,
    /// From where, and to which tunnel.
    from: EndpointKey,
    uplink: UplinkId,
    /// To which of our addresses.
    local: LocalId,
    ttl: u8,
}

impl Incoming {
    /// One that is still to be read, on this CPU's workbench: nothing that handles probes interrupts itself there.
    #[inline(always)]
    pub(crate) fn new(
        packet: &Packet,
        udp: &Datagram,
        uplink: UplinkId,
        local: LocalId,
        ttl: u8,
    ) -> Option<&'static mut Self> {
        // SAFETY: this CPU's own entry, of which nobody else has a reference (above); the kernel makes it of zeros, which are a value.
        let incoming = unsafe { &mut *WORKBENCH.get_ptr_mut(0)? };
        incoming.from = EndpointKey {
            endpoint: packet.source,
            port: udp.source,
            tunnel: udp.destination,
        };
        incoming.uplink = uplink;
        incoming.local = local;
        incoming.ttl = ttl;
        Some(incoming)
    }
}

/// What becomes of the probe on the workbench: [`Reason::Answered`] (then the answer has taken its place), [`Reason::Proof`], or why it ends here.
#[inline(always)]
pub(crate) fn judge(_on_the_workbench: &mut Incoming) -> Reason {
    // SAFETY: the function returns the number of a reason.
    unsafe { core::mem::transmute::<u32, Reason>(judge_incoming() as u32) }
}

/// A function of its own, and a global one: the verifier walks it once, and not once for each way to get here. It may have no argument but numbers; what it is about is on the workbench.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_incoming() -> u64 {
    let Some(incoming) = WORKBENCH.get_ptr_mut(0) else {
        return Reason::NotConfigured as u64;
    };
    // SAFETY: this CPU's own entry, of which only `judge`'s caller has a reference, which it lent.
    judged(unsafe { &mut *incoming }) as u64
}

#[inline(always)]
fn judged(incoming: &mut Incoming) -> Reason {
    let name = KeyName::new(incoming.probe.key_id(), incoming.from.tunnel);
    let Some(ring): Option<*mut Keyring> = KEYRINGS.get_ptr_mut(name) else {
        return Reason::ProbeStranger;
    };
    // SAFETY: user space adds and removes entries, and reuses a removed one's memory only when no program uses it any more.
    let keys: &Keys = unsafe { &(*ring).keys };
    if !is_authentic(&incoming.probe, &keys.theirs) {
        return Reason::ProbeForged;
    }
    let now_ns = clock();
    if incoming.probe.is_answer() {
        return match note_answer(incoming, &name, now_ns) {
            Some(()) => Reason::Proof,
            None => Reason::ProbeUnasked,
        };
    }
    // SAFETY: a place is below the length; only an address is computed.
    let latest = unsafe {
        (&raw mut (*ring).requests)
            .cast::<Request>()
            .add(Keyring::place(incoming.probe.path()))
    };
    if !is_later(incoming.probe.timestamp(), read(field!(latest, timestamp))) {
        return Reason::ProbeReplayed;
    }
    // Packets of one flow come to one CPU: none but a duplicate made on the way could be judged here twice at once, and be answered twice.
    let report = read(field!(latest, heard)).report(now_ns);
    write(field!(latest, timestamp), incoming.probe.timestamp().0);
    write(field!(latest, heard), Heard::new(incoming.probe.sequence(), now_ns));
    match own_path(incoming, &name) {
        Some(path) => note_request(incoming, path, now_ns),
        None => register(incoming, &name, latest, now_ns),
    }
    let arrival = in_band::Arrival {
        at: timestamp(now_ns),
        ttl: incoming.ttl,
    };
    let author = Author {
        key_id: keys.own,
        active: false,
        report,
        error: ErrorEstimate::UNKNOWN,
    };
    incoming.probe.turn(arrival, timestamp(clock()), author);
    seal(&mut incoming.probe, &keys.ours);
    Reason::Answered
}

/// Moves the proof of the path that was asked. `None`: it was not, or not here, or not this peer.
#[inline(always)]
fn note_answer(incoming: &Incoming, name: &KeyName, now_ns: u64) -> Option<()> {
    let Incoming { probe, uplink, .. } = incoming;
    let path = probe.path();
    if !is_of(path.peer(), name) {
        return None;
    }
    let payload = Payload {
        path,
        nonce: probe.sender_timestamp().0,
    };
    probe::arrives(payload, slot_sequence(probe), *uplink)?;
    let proof: *mut Proof = PROOFS.get_ptr_mut(path.0)?;
    write(field!(proof, heard), Heard::new(probe.sequence(), now_ns));
    Some(())
}

/// Our path to where a request came from, if it is one of its author's.
#[inline(always)]
fn own_path(incoming: &Incoming, name: &KeyName) -> Option<PathId> {
    let entry = endpoints::find(&incoming.from)?;
    if !is_of(entry.endpoint.peer, name) {
        return None;
    }
    let path = entry.endpoint.path(incoming.uplink)?;
    let local = read(field!(PATHS.get_ptr_mut(path.0)?, local));
    (local.0 == LocalId::NONE.0 || local.0 == incoming.local.0).then_some(path)
}

/// Takes a request for the evidence that it is about our own path there.
#[inline(always)]
fn note_request(incoming: &Incoming, path: PathId, now_ns: u64) {
    let Some(proof): Option<*mut Proof> = PROOFS.get_ptr_mut(path.0) else {
        return;
    };
    write(field!(proof, heard), Heard::new(incoming.probe.sequence(), now_ns));
    if let Some(report) = incoming.probe.report() {
        prove_since(proof, report, now_ns);
    }
    if !incoming.probe.is_active() {
        return;
    }
    let Some(peer): Option<*mut Peer> = PEERS.get_ptr_mut(path.peer().0) else {
        return;
    };
    if read(field!(peer, ordered)).0 == OrderedBy::FAR_END.0 {
        follow(peer, path, incoming.from.tunnel);
    } else {
        leave_behind(path.peer(), path);
    }
}

/// Puts the path before all others of its peer, for whatever the peer is sent from now on.
#[inline(always)]
fn follow(peer: *mut Peer, path: PathId, tunnel: Port) {
    let order = read(field!(peer, order));
    let followed = order.with_first(path.slot());
    if followed.0 != order.0 {
        write(field!(peer, order), followed);
    }
    // SAFETY: written before anything refers to the peer and not changed while something does.
    let Endpoint { address, port, .. } = unsafe { (*peer).canonical };
    let canonical = EndpointKey {
        endpoint: address,
        port,
        tunnel,
    };
    let Some(entry) = endpoints::place(&canonical) else {
        return;
    };
    // SAFETY: as above, for the entry.
    let leads_to = unsafe { (*entry).endpoint.peer };
    if leads_to.0 == path.peer().0 && read(field!(entry, preferred)).0 != path.0 {
        write(field!(entry, preferred), path);
    }
}

/// Tells the daemon of a path that its author asks for by asking over it.
#[inline(always)]
fn register(incoming: &Incoming, name: &KeyName, latest: *mut Request, now_ns: u64) {
    let here = Whereabouts::new(&incoming.from, incoming.uplink, incoming.local);
    let (told, told_ns) = (read(field!(latest, told)), read(field!(latest, told_ns)));
    if !Request::wants_telling(told, told_ns, here, now_ns) {
        return;
    }
    write(field!(latest, told), here);
    write(field!(latest, told_ns), now_ns);
    records::tell(|to| {
        // SAFETY: memory of the ring buffer's for one registration. Field by field, because a program's stack has no room for another.
        unsafe {
            (*to).at_ns = now_ns;
            (*to).name = *name;
            (*to).source.address = incoming.from.endpoint;
            (*to).source.port = incoming.from.port;
            (*to).source.reserved = [0; 2];
            (*to).uplink = incoming.uplink;
            (*to).local = incoming.local;
            (*to).theirs = incoming.probe.path();
            (*to).active = u32::from(incoming.probe.is_active());
            (*to).reserved = 0;
        }
    });
}

/// A proof of the moment at which the far end last heard us, if that is later than the last one. What it heard before our latest probe left is no news beside that probe, which is answered or goes
/// unanswered: in a black hole of our direction alone such a report would call off a suspicion that is true.
#[inline(always)]
fn prove_since(proof: *mut Proof, report: Report, now_ns: u64) {
    if report.age_ms == u16::MAX {
        return;
    }
    let heard_ns = now_ns.saturating_sub(u64::from(report.age_ms) * 1_000_000);
    if heard_ns <= read(field!(proof, proof_ns)) || heard_ns < read(field!(proof, sent_ns)) {
        return;
    }
    write(field!(proof, unanswered), 0);
    write(field!(proof, proof_ns), heard_ns);
}

/// The far end's traffic goes by `path`: if ours goes by another one, that has left a probe unanswered.
#[inline(always)]
fn leave_behind(peer: PeerId, path: PathId) {
    let Some(state): Option<*mut PeerState> = PEER_STATES.get_ptr_mut(peer.0) else {
        return;
    };
    let active = read(field!(state, active));
    if active == 0 || active == u64::from(path.0) + 1 {
        return;
    }
    if let Some(proof) = PROOFS.get_ptr_mut((active - 1) as u32) {
        let proof: *mut Proof = proof;
        add(field!(proof, unanswered), 1);
    }
}

/// A probe that is still to be read, on this CPU's workbench: see [`Incoming::new`].
#[inline(always)]
pub(crate) fn outgoing() -> Option<&'static mut InBand> {
    // SAFETY: as in `Incoming::new`.
    WORKBENCH.get_ptr_mut(0).map(|bench| unsafe { &mut (*bench).probe })
}

/// Makes the prober's request on the workbench one that can leave over `path`, now. [`Reason::Probe`], or why it cannot.
#[inline(always)]
pub(crate) fn compose(_on_the_workbench: &mut InBand, path: PathId) -> Reason {
    // SAFETY: as in `judge`.
    unsafe { core::mem::transmute::<u32, Reason>(compose_outgoing(path.0) as u32) }
}

/// A function of its own, as [`judge_incoming`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn compose_outgoing(path: u32) -> u64 {
    match outgoing() {
        Some(probe) => composed(probe, PathId(path)) as u64,
        None => Reason::NotConfigured as u64,
    }
}

#[inline(always)]
fn composed(probe: &mut InBand, path: PathId) -> Reason {
    let Some(name) = name(path.peer()) else {
        return Reason::ProbeNoUplink;
    };
    let Some(ring) = KEYRINGS.get_ptr(name) else {
        return Reason::ProbeNoKeys;
    };
    // SAFETY: as in `judge`.
    let keys: &Keys = unsafe { &(*ring).keys };
    let now_ns = clock();
    let author = Author {
        key_id: keys.own,
        active: is_active(path),
        report: heard(path).report(now_ns),
        error: ErrorEstimate::UNKNOWN,
    };
    probe.leave(timestamp(now_ns), author);
    seal(probe, &keys.ours);
    let payload = Payload {
        path,
        nonce: probe.timestamp().0,
    };
    match probe::leaves(payload, slot_sequence(probe)) {
        Some(()) => Reason::Probe,
        None => Reason::ProbeNoUplink,
    }
}

/// The port of the path's tunnel.
#[inline(always)]
pub(crate) fn tunnel(path: PathId) -> Option<Port> {
    Some(name(path.peer())?.tunnel)
}

/// As a path's slots know it: its lower half, in network byte order.
#[inline(always)]
fn slot_sequence(probe: &InBand) -> u16 {
    (probe.sequence() as u16).to_be()
}

/// By which name a peer is known.
#[inline(always)]
fn name(peer: PeerId) -> Option<KeyName> {
    // SAFETY: a peer's name is written before anything refers to the peer and not changed while something does.
    PEERS.get_ptr(peer.0).map(|peer| unsafe { (*peer).name })
}

#[inline(always)]
fn is_of(peer: PeerId, is: &KeyName) -> bool {
    name(peer).is_some_and(|name| name.is(is))
}

#[inline(always)]
fn is_active(path: PathId) -> bool {
    let state: Option<*mut PeerState> = PEER_STATES.get_ptr_mut(path.peer().0);
    state.is_some_and(|state| read(field!(state, active)) == u64::from(path.0) + 1)
}

#[inline(always)]
fn heard(path: PathId) -> Heard {
    let proof: Option<*mut Proof> = PROOFS.get_ptr_mut(path.0);
    proof.map_or(Heard::default(), |proof| read(field!(proof, heard)))
}

/// This host's clock at a moment of CLOCK_MONOTONIC.
#[inline(always)]
fn timestamp(now_ns: u64) -> Timestamp {
    Timestamp::ntp(unix_offset_ns() + now_ns)
}

#[inline(never)]
fn is_authentic(probe: &InBand, key: &Key) -> bool {
    probe.is_authentic(*key)
}

#[inline(never)]
fn seal(probe: &mut InBand, key: &Key) {
    probe.seal(*key);
}

/// Reads the probe in a datagram that begins as one. A longer one has padding and nothing else behind it.
///
/// # Errors
/// It is none.
#[inline(always)]
pub(crate) fn load(ctx: &TcContext, udp: &Datagram, probe: &mut InBand) -> Result<(), Reason> {
    let behind = (udp.len as usize)
        .checked_sub(in_band::LEN)
        .ok_or(Reason::ProbeMalformed)?;
    if behind != 0 {
        let header: [u8; tlv::HEADER_LEN] = ctx
            .load(udp.payload + in_band::LEN)
            .map_err(|_| Reason::ProbeMalformed)?;
        let [_, kind, high, low] = header;
        let padding = usize::from(u16::from_be_bytes([high, low])) + tlv::HEADER_LEN;
        if kind != tlv::kind::PADDING || padding != behind {
            return Err(Reason::ProbeMalformed);
        }
    }
    let (to, len) = ((&raw mut *probe).cast(), in_band::LEN as u32);
    // SAFETY: the helper writes as many bytes as it is told, into a structure of that size of which any bits are a value.
    let read = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), udp.payload as u32, to, len) } == 0;
    if read && probe.is_well_formed() {
        Ok(())
    } else {
        Err(Reason::ProbeMalformed)
    }
}

/// What the bytes of a probe take from a checksum; see [`store`].
#[inline(always)]
pub(crate) fn removed(probe: &InBand) -> i64 {
    // SAFETY: the helper reads as many bytes as it is told, of a structure of that size; the other side is empty.
    unsafe {
        bpf_csum_diff(
            (&raw const *probe).cast_mut().cast(),
            in_band::LEN as u32,
            core::ptr::null_mut(),
            0,
            0,
        )
    }
}

/// Writes a probe over another one, of which `removed` says what it takes from the checksum with it.
#[inline(always)]
pub(crate) fn store(ctx: &TcContext, udp: &Datagram, probe: &InBand, removed: i64) -> Result<(), Reason> {
    const CHECKSUM_BEFORE_PAYLOAD: usize = 2;
    let refused = |_| Reason::RewriteFailed;
    // SAFETY: as in `removed`.
    let difference = unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            (&raw const *probe).cast_mut().cast(),
            in_band::LEN as u32,
            removed as u32,
        )
    };
    ctx.skb.store(udp.payload, probe, 0).map_err(refused)?;
    let checksum = udp.payload - CHECKSUM_BEFORE_PAYLOAD;
    let zero = u64::from(BPF_F_MARK_MANGLED_0);
    ctx.skb
        .l4_csum_replace(checksum, 0, u64::from(difference as u32), zero)
        .map_err(refused)
}
