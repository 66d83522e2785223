//! Telling the daemon.
//!
//! To wake it up costs an interrupt on the processor at hand and a turn of its loop: dear, if each answer to a probe did. Its loop wakes up for each probe anyway and reads what
//! is there. So what changes nothing wakes nobody, unless it fills the ring buffer. And because the kernel by itself wakes nobody either while older records lie unread, whatever must be
//! read soon says so.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use wgxdp_common::abi::RECORDS_BYTES;
use wgxdp_common::record::{Record, Registration};

use crate::maps::RECORDS;

/// Puts a record into the ring buffer, and wakes the daemon up. If the buffer is full the record is lost: the daemon reads the proofs themselves before it judges.
#[inline(always)]
pub(crate) fn emit(record: Record) {
    put(record, BPF_RB_FORCE_WAKEUP.into());
}

/// The same of what can wait until the daemon wakes up.
#[inline(always)]
pub(crate) fn leave(record: Record) {
    let filling = RECORDS.query(BPF_RB_AVAIL_DATA.into()) > u64::from(RECORDS_BYTES / 4);
    let wakeup = if filling { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    put(record, wakeup.into());
}

#[inline(always)]
fn put(record: Record, wakeup: u64) {
    if let Some(mut entry) = RECORDS.reserve::<Record>(0) {
        entry.write(record);
        entry.submit(wakeup);
    }
}

/// [`emit`] for a registration, which `fill` writes whole. A full ring buffer means that it is told again with one of the next probes.
#[inline(always)]
pub(crate) fn tell(fill: impl FnOnce(*mut Registration)) {
    if let Some(mut entry) = RECORDS.reserve::<Registration>(0) {
        fill(entry.as_mut_ptr());
        entry.submit(BPF_RB_FORCE_WAKEUP.into());
    }
}
