//! Probes, echoes, STAMP's and SYNs: stamped by `steer` when they leave, proven by `guard` or `restore` when the authentic reply arrives.

use wgxdp_common::echo::Payload;
use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::liveness::Standing;
use wgxdp_common::record::{Record, RecordKind};
use wgxdp_common::stamp::{BASE_LEN, out_of_band};
use wgxdp_common::table::{Path, ProbeSlot, Proof};

use crate::choose::clock;
use crate::maps::{PATHS, PROBES, PROOFS, field, probe_slots, read, write};
use crate::outcome::add;
use crate::packet::Datagram;
use crate::records;

/// Where a path remembers the probe with this sequence number (network byte order).
#[inline(always)]
fn slot(path: PathId, sequence: u16) -> Option<*mut ProbeSlot> {
    let slots = probe_slots();
    let place = u32::from(u16::from_be(sequence)) & (slots - 1);
    PROBES.get_ptr_mut(path.0.checked_mul(slots)?.checked_add(place)?)
}

/// The uplink over which a path leads.
#[inline(always)]
pub(crate) fn uplink(path: PathId) -> Option<UplinkId> {
    PATHS.get_ptr_mut(path.0).map(|entry| read(field!(entry, uplink)))
}

/// Notes that a probe leaves now. `None` if there is no such path.
#[inline(always)]
pub(crate) fn leaves(payload: Payload, sequence: u16) -> Option<()> {
    let slot = slot(payload.path, sequence)?;
    let proof = PROOFS.get_ptr_mut(payload.path.0)?;
    let now_ns = clock();
    write(field!(slot, sent_ns), now_ns);
    write(field!(slot, sequence), u32::from(sequence));
    write(field!(slot, nonce), payload.nonce);
    add(field!(proof, unanswered), 1);
    add(field!(proof, probes_sent), 1);
    write(field!(proof, sent_ns), now_ns);
    Some(())
}

/// Nanoseconds since the probe in this one's place left.
#[inline(always)]
pub(crate) fn age_ns(path: PathId, sequence: u16) -> Option<u64> {
    let slot = slot(path, sequence)?;
    let now_ns = clock();
    Some(now_ns.saturating_sub(read(field!(slot, sent_ns))))
}

/// Notes a reply that arrived over `uplink` if it is authentic: the same path, sequence number and nonce as a probe in flight, once.
#[inline(always)]
pub(crate) fn arrives(payload: Payload, sequence: u16, over: UplinkId) -> Option<()> {
    let slot = slot(payload.path, sequence)?;
    let authentic = payload.nonce != 0
        && read(field!(slot, nonce)) == payload.nonce
        && read(field!(slot, sequence)) == u32::from(sequence)
        && uplink(payload.path)? == over;
    if !authentic {
        return None;
    }
    let proof = PROOFS.get_ptr_mut(payload.path.0)?;
    write(field!(slot, nonce), 0);
    let now_ns = clock();
    let rtt_ns = now_ns.saturating_sub(read(field!(slot, sent_ns)));
    let was_in_order = is_in_order(payload.path, proof, now_ns);
    prove(proof, now_ns, rtt_ns);
    let record = Record {
        at_ns: now_ns,
        value_ns: rtt_ns,
        kind: RecordKind::REPLY,
        path: payload.path,
        from: PathId::NONE,
        sequence: u32::from(u16::from_be(sequence)),
    };
    if was_in_order {
        records::leave(record);
    } else {
        records::emit(record);
    }
    Some(())
}

/// Whether the path carries traffic and nobody doubts it: then that it answers again changes nothing.
#[inline(always)]
fn is_in_order(path: PathId, proof: *mut Proof, now_ns: u64) -> bool {
    let Some(entry) = PATHS.get_ptr_mut(path.0) else {
        return false;
    };
    let entry: *mut Path = entry;
    let standing = Standing::new(
        read(field!(entry, flags)),
        read(field!(proof, latched_ns)),
        now_ns,
        read(field!(proof, proof_ns)),
        read(field!(proof, unanswered)),
        read(field!(entry, thresholds)),
    );
    standing.carries() && !standing.is_suspect()
}

/// The same for a datagram to the prober's port: a STAMP reflector's answer, which repeats these words of the probe.
#[inline(always)]
pub(crate) fn answers(udp: &Datagram, repeated: Option<[u32; 3]>, over: UplinkId) -> Option<()> {
    if udp.len < BASE_LEN as u32 {
        return None;
    }
    let (payload, sequence) = out_of_band::read(repeated?)?;
    arrives(payload, sequence, over)
}

/// Moves the path's proof, and its smoothed round trip as RFC 6298 (2.2, 2.3) does.
#[inline(always)]
fn prove(proof: *mut Proof, now_ns: u64, rtt_ns: u64) {
    let srtt_ns = read(field!(proof, srtt_ns));
    let smoothed = if srtt_ns == 0 {
        rtt_ns
    } else {
        srtt_ns - srtt_ns / 8 + rtt_ns / 8
    };
    write(field!(proof, srtt_ns), smoothed);
    write(field!(proof, unanswered), 0);
    write(field!(proof, proof_ns), now_ns);
    add(field!(proof, probes_answered), 1);
}
