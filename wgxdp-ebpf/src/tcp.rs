//! TCP-connect probes: remembered when they leave, and found again by their answers. What they are, and who can forge an answer, is in `wgxdp_common::tcp`.
//!
//! ```text
//! steer    a SYN with a path's mark      ─▶ remembered, as any probe stamped (`probe`), on its way
//! restore  answers no probe of ours      ─▶ passed
//!          RST-ACK, in time              ─▶ the path's proof moves ─▶ consumed
//!          SYN-ACK                       ─▶ in time, the path's proof moves ─▶ sent back as a RST
//! ```
//!
//! `guard` leaves all of it to `restore`: answers to probes are few, and other people's TCP is much.

use core::mem::offset_of;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::programs::TcContext;
use wgxdp_common::checksum::Difference;
use wgxdp_common::count::Reason;
use wgxdp_common::echo::Payload;
use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::tcp::{Asked, Question, RST_ACK, SYN, SYN_ACK, TOO_LATE_NS, is_probes, sequence};

use crate::maps::{TCP_PROBES, read};
use crate::packet::{Packet, Segment, Tcp, at};
use crate::rewrite::replace_checksum;
use crate::{probe, send_back};

/// Remembers the SYN that leaves over `path`, and takes out of it which probe it is: what the path's slot will know it by, and its sequence number.
#[inline(always)]
pub(crate) fn leaves(
    ctx: &TcContext,
    packet: &Packet,
    segment: &Segment,
    path: PathId,
) -> Result<(Payload, u16), Reason> {
    let sequence = sequence(segment.acknowledgement).ok_or(Reason::NotUdp)?;
    let question = Question {
        target: packet.destination,
        sequence: segment.sequence,
        target_port: segment.destination,
        port: segment.source,
    };
    // A full map lets the oldest go; there is nothing else that could fail.
    let _ = TCP_PROBES.insert(question, Asked::new(path, sequence), u64::from(BPF_ANY));
    let tcp = at::<Tcp>(ctx, segment.start).ok_or(Reason::RewriteFailed)?;
    // SAFETY: `at` checked the bounds; nothing moved the packet since. Alignment as in `packet::read`.
    unsafe { (*tcp).acknowledgement = 0 };
    let removed = Difference::NONE.of(segment.acknowledgement, 0);
    replace_checksum(ctx, segment.start + offset_of!(Tcp, checksum), removed, 0)?;
    let nonce = question.nonce();
    Ok((Payload { path, nonce }, sequence))
}

/// What becomes of a segment that arrived over `uplink`, to its address.
#[inline(always)]
pub(crate) fn arrives<const L3: usize>(
    ctx: &TcContext,
    packet: &Packet,
    segment: &Segment,
    uplink: UplinkId,
) -> Result<Reason, Reason> {
    // An answer acknowledges; a SYN's number means nothing.
    if segment.flags == SYN || !is_probes(segment.destination) {
        return Err(Reason::NotUdp);
    }
    let question = Question {
        target: packet.source,
        sequence: u32::from_be(segment.acknowledgement).wrapping_sub(1).to_be(),
        target_port: segment.source,
        port: segment.destination,
    };
    let asked = TCP_PROBES.get_ptr(question).map(read).ok_or(Reason::NotUdp)?;
    let proven = proves(asked, question.nonce(), uplink).is_some();
    match (segment.flags, proven) {
        (RST_ACK, true) => Ok(Reason::Proof),
        (SYN_ACK, _) => {
            send_back::reset::<L3>(ctx, packet, segment)?;
            Ok(if proven { Reason::ProofReset } else { Reason::Reset })
        }
        _ => Err(Reason::Unauthentic),
    }
}

#[inline(always)]
fn proves(asked: Asked, nonce: u64, over: UplinkId) -> Option<()> {
    let (path, sequence) = (asked.path(), asked.sequence());
    if probe::age_ns(path, sequence)? >= TOO_LATE_NS {
        return None;
    }
    probe::arrives(Payload { path, nonce }, sequence, over)
}
