//! What the programs tell the daemon through the ring buffer: one record for an event, never one for a packet of the tunnel. The two kinds differ in length.

use crate::client::LocalId;
use crate::id::{PathId, UplinkId};
use crate::keyring::KeyName;
use crate::net::Endpoint;
use crate::{layout, pod};

/// One event. What `value` means depends on `kind`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Nanoseconds: the round trip of a reply, the silence of a dead path or of the one that was left.
    pub value_ns: u64,
    /// What.
    pub kind: RecordKind,
    /// Which path: that answered, died, or carries the traffic now.
    pub path: PathId,
    /// [`RecordKind::SWITCHED`]: the path that carried it before, or [`PathId::NONE`].
    pub from: PathId,
    /// [`RecordKind::REPLY`]: the probe's sequence number, in the machine's byte order.
    pub sequence: u32,
}

/// What a [`Record`] is about.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKind(pub u32);

impl RecordKind {
    /// An authentic reply to a probe arrived; the path's proof has moved already.
    pub const REPLY: Self = Self(1);
    /// `steer` found the path dead and latched it.
    pub const LATCHED: Self = Self(2);
    /// A peer's traffic moved from one path to another.
    pub const SWITCHED: Self = Self(3);
}

/// Authentic probes come from where no path of their author's leads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// When, by `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Whose.
    pub name: KeyName,
    /// From where.
    pub source: Endpoint,
    /// Over which uplink of ours.
    pub uplink: UplinkId,
    /// To which of our addresses.
    pub local: LocalId,
    /// What the author calls the path.
    pub theirs: PathId,
    /// 1 if the author's traffic goes by it, else 0.
    pub active: u32,
    /// Always zero.
    pub reserved: u32,
}

layout!(Registration, 64, {
    at_ns @ 0, name @ 8, source @ 24, uplink @ 44, local @ 48, theirs @ 52, active @ 56, reserved @ 60
});
const _: () = assert!(
    size_of::<Registration>() != size_of::<Record>(),
    "by their lengths they are told apart"
);
layout!(Record, 32, { at_ns @ 0, value_ns @ 8, kind @ 16, path @ 20, from @ 24, sequence @ 28 });
pod!(Record, RecordKind, Registration);
