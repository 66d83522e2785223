//! Telling the daemon.

use wgxdp_common::record::{Record, Registration};

use crate::maps::RECORDS;

/// Puts a record into the ring buffer. If it is full the record is lost: the daemon reads the proofs themselves before it judges.
#[inline(always)]
pub(crate) fn emit(record: Record) {
    if let Some(mut entry) = RECORDS.reserve::<Record>(0) {
        entry.write(record);
        entry.submit(0);
    }
}

/// The same for a registration, which `fill` writes whole. A full ring buffer means that it is told again with one of the next probes.
#[inline(always)]
pub(crate) fn tell(fill: impl FnOnce(*mut Registration)) {
    if let Some(mut entry) = RECORDS.reserve::<Registration>(0) {
        fill(entry.as_mut_ptr());
        entry.submit(0);
    }
}
