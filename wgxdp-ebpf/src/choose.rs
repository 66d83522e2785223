//! Which path carries a peer's packet: the quick answer for most of them, and the whole one. The rule is `wgxdp_common::liveness`.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use wgxdp_common::abi::MAX_PATHS_PER_PEER;
use wgxdp_common::count::Reason;
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::liveness::{Choice, Chooser, DEAD_MIN_UNANSWERED, SUSPECT_MIN_UNANSWERED, Second, Standing, is_calm};
use wgxdp_common::record::{Record, RecordKind};
use wgxdp_common::table::{Order, Path, Proof};

use crate::maps::{PATHS, PEERS, PROOFS, field, read, write};
use crate::packet::Packet;
use crate::{config, probe, records};

/// The peer's first path, if it is in order: no flag, no latch, large enough, and calm: it needs no clock to know that it is not dead and that
/// no copy is wanted.
///
/// Most packets end here, without a call.
#[inline(always)]
pub(crate) fn preferred(ctx: &TcContext, packet: &Packet, addressed: &EndpointEntry) -> Option<(PathId, *mut Path)> {
    let path = read(&raw const addressed.preferred);
    let entry: *mut Path = PATHS.get_ptr_mut(path.0)?;
    let proof: *mut Proof = PROOFS.get_ptr_mut(path.0)?;
    let flags = read(field!(entry, flags)).with(config::uplink_flags(read(field!(entry, uplink))));
    let largest = read(field!(entry, largest));
    let calm = is_calm(
        read(field!(entry, protect)),
        read(field!(proof, proof_ns)),
        read(field!(proof, sent_ns)),
        read(field!(proof, unanswered)),
        read(field!(entry, thresholds)),
    );
    let in_order = u64::from(flags.0) | read(field!(proof, latched_ns)) == 0
        && calm
        && (packet.len <= largest || packet.wire_len(ctx) <= largest);
    in_order.then_some((path, entry))
}

/// A path, and how it was chosen: one word, as a function of its own can return it.
#[derive(Clone, Copy)]
pub(crate) struct Chosen(u64);

impl Chosen {
    /// The peer has no path.
    const NONE: Self = Self(u64::MAX);
    /// For want of a live one.
    const FAIL_OPEN: u64 = 1 << 32;
    /// For want of a live one that the packet fits.
    const OVERSIZE: u64 = 1 << 33;
    /// Because the packet does not fit a better one.
    const ASIDE: u64 = 1 << 34;
    /// The packet shall be copied.
    const WANTS_COPY: u64 = 1 << 35;
    /// The packet is a copy.
    const COPY: u64 = 1 << 36;

    /// The first in the order, in order.
    #[inline(always)]
    pub(crate) const fn preferred(path: PathId) -> Self {
        Self(path.0 as u64)
    }

    /// For a copy.
    #[inline(always)]
    pub(crate) const fn copy(path: PathId) -> Self {
        Self(path.0 as u64 | Self::COPY)
    }

    pub(crate) const fn path(self) -> PathId {
        PathId(self.0 as u32)
    }

    /// Whether the peer's traffic is where this packet goes.
    pub(crate) const fn moves(self) -> bool {
        self.0 & (Self::FAIL_OPEN | Self::ASIDE | Self::COPY) == 0
    }

    /// Whether it shall be sent a second time.
    pub(crate) const fn wants_copy(self) -> bool {
        self.0 & Self::WANTS_COPY != 0
    }

    pub(crate) const fn reason(self) -> Reason {
        if self.0 & Self::FAIL_OPEN != 0 {
            Reason::FailOpen
        } else if self.0 & Self::OVERSIZE != 0 {
            Reason::Oversize
        } else if self.0 & Self::COPY != 0 {
            Reason::Copied
        } else {
            Reason::Steered
        }
    }
}

/// The path for a peer's packet of `len` bytes.
#[inline(always)]
pub(crate) fn choose(peer: PeerId, len: u32) -> Option<Chosen> {
    let chosen = Chosen(choose_of_all(peer.0, len));
    (chosen.0 != Chosen::NONE.0).then_some(chosen)
}

/// A function of its own, so that the verifier walks it once and not once for each way to get here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose_of_all(peer: u32, len: u32) -> u64 {
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
        let Some((standing, to_latch)) = standing(path, len) else {
            return Chosen::NONE.0;
        };
        latch |= to_latch << place;
        if chooser.offer(standing).is_some() {
            let aside = u64::from(chooser.passed_over()) * Chosen::ASIDE;
            let wants_copy = wants_copy(path, standing) * Chosen::WANTS_COPY;
            chosen = Chosen(u64::from(path.0) | aside | wants_copy);
            break;
        }
    }
    if latch != 0 {
        latch_dead(peer, order, latch);
    }
    if chosen.0 != Chosen::NONE.0 {
        return chosen.0;
    }
    let (place, how) = match chooser.make_do(clock()) {
        Choice::Live(place) | Choice::Suspect(place) | Choice::FailOpen(place) => (place, Chosen::FAIL_OPEN),
        Choice::Oversize(place) => (place, Chosen::OVERSIZE),
        Choice::None => return Chosen::NONE.0,
    };
    // The verifier does not know that a place is below eight.
    match order.slot(place % MAX_PATHS_PER_PEER as u32) {
        Some(slot) => u64::from(PathId::new(peer, slot).0) | how,
        None => Chosen::NONE.0,
    }
}

/// 1 if a packet that this path carries shall be sent a second time, else 0.
#[inline(always)]
fn wants_copy(path: PathId, standing: Standing) -> u64 {
    let entry: Option<*mut Path> = PATHS.get_ptr_mut(path.0);
    entry.map_or(0, |entry| read(field!(entry, protect)).wants_copy(standing.suspect()))
}

/// The path for the copy of a packet of `len` bytes that `first` carries.
#[inline(always)]
pub(crate) fn second(first: PathId, len: u32) -> Option<PathId> {
    let second = second_of_all(first.0, len);
    (second != Chosen::NONE.0).then_some(Chosen(second).path())
}

/// A function of its own, as [`choose_of_all`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn second_of_all(first: u32, len: u32) -> u64 {
    let first = PathId(first);
    let peer = first.peer();
    let (Some(entry), Some(uplink)) = (PEERS.get_ptr_mut(peer.0), probe::uplink(first)) else {
        return Chosen::NONE.0;
    };
    let order = read(field!(entry, order));
    let mut second = Second::new();
    for place in 0..MAX_PATHS_PER_PEER as u32 {
        let Some(slot) = order.slot(place) else { break };
        let path = PathId::new(peer, slot);
        // Whoever is dead here is latched when a packet would be its own.
        let (Some((standing, _)), Some(over)) = (standing(path, len), probe::uplink(path)) else {
            return Chosen::NONE.0;
        };
        second = second.or(place, standing, same(path.0, first.0), same(over.0, uplink.0));
    }
    match second.place().and_then(|place| order.slot(place)) {
        Some(slot) => u64::from(PathId::new(peer, slot).0),
        None => Chosen::NONE.0,
    }
}

/// 1 if the words are the same, else 0; without a branch, as all that the verifier walks for each path.
#[inline(always)]
const fn same(a: u32, b: u32) -> u64 {
    ((a ^ b) as u64).wrapping_sub(1) >> 63
}

/// What is known of a path now, and 1 if it was found dead just now and wants to be latched.
///
/// Silence counts only with unanswered probes. Without any the path may as well have proven itself this moment, and the clock is not read.
#[inline(always)]
fn standing(path: PathId, len: u32) -> Option<(Standing, u64)> {
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
    Some((
        standing.asked_for(len, read(field!(entry, largest))),
        standing.wants_latch(),
    ))
}

const _: () = assert!(
    SUSPECT_MIN_UNANSWERED > 0 && DEAD_MIN_UNANSWERED > 0,
    "`standing` takes silence without unanswered probes for none"
);

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub(crate) fn clock() -> u64 {
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
