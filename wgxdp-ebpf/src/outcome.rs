//! How a packet's visit ends, the one place that turns it into a verdict, and counting.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::programs::TcContext;
use wgxdp_common::count::{Place, Reason, Verdict, reason_index};

use crate::maps::{REASON_COUNTS, read, write};
use crate::packet::skb;

/// Why a packet met its end, and where.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) place: Place,
    pub(crate) reason: Reason,
}

/// The packet goes on, and the programs behind ours run: "next" in tcx (−1), which clsact's direct action knows as "unspecified" and
/// continues with, too.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;

impl Outcome {
    /// Counts the packet and says what the kernel shall do with it.
    #[inline(always)]
    pub(crate) fn verdict(self) -> i32 {
        self.count();
        match self.reason.verdict() {
            Verdict::Pass => NEXT,
            Verdict::Redirect | Verdict::Answer => TC_ACT_REDIRECT,
            Verdict::Drop => TC_ACT_SHOT,
        }
    }

    /// The same in XDP, where nothing is redirected: there is no socket buffer yet, and the anchor has no driver to hand a frame to.
    #[inline(always)]
    pub(crate) fn xdp_action(self) -> xdp_action::Type {
        self.count();
        match self.reason.verdict() {
            Verdict::Pass | Verdict::Redirect => xdp_action::XDP_PASS,
            Verdict::Answer => xdp_action::XDP_TX,
            Verdict::Drop => xdp_action::XDP_DROP,
        }
    }

    #[inline(always)]
    fn count(self) {
        if let Some(count) = REASON_COUNTS.get_ptr_mut(reason_index(self.place, self.reason)) {
            add(count, 1);
        }
    }
}

/// Adds to a counter that is this CPU's own.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, n: u64) {
    write(counter, read(counter) + n);
}

/// Packets on the wire that the socket buffer stands for: a super-packet will be cut, or was merged.
#[inline(always)]
pub(crate) fn segments(ctx: &TcContext) -> u64 {
    u64::from(skb!(ctx, gso_segs)).max(1)
}
