//! An uplink goes, or returns, for all who use it: the one thing here that concerns thousands of peers at once.
//!
//! What goes is one write, after which its peers are told a few at a time. What returns is told to all first: see the scale of the [engine](super).

use wgxdp_common::id::{PeerId, UplinkId};
use wgxdp_common::liveness::Flags;

use super::{Action, Engine};

/// Paths that are asked in the same breath when their uplink can be used again.
const ASKED_AT_ONCE: u64 = 16;
/// Nanoseconds between two of the others, lest thousands of probes hold up those that somebody's traffic depends on.
const ASKED_EVERY_NS: u64 = 1_000_000;

/// Peers that catch up at a time with an uplink that went: as many in a step of 4 ms take a hundredth of a processor, which may be one with real-time priority.
const CAUGHT_UP_AT_ONCE: usize = 16;
const CATCH_UP_EVERY_NS: u64 = 4_000_000;

/// Peers that may not know yet what became of their uplinks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    /// The first of them.
    from: PeerId,
    /// When the next few are told.
    at_ns: u64,
}

impl Engine {
    /// Whether an uplink went and there are peers that do not know it yet: a crowd is being told.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// When the next few are told; `None`: nobody is behind.
    pub(super) fn behind_ns(&self) -> Option<u64> {
        self.behind.map(|behind| behind.at_ns)
    }

    pub(super) fn set_uplink_flags(&mut self, uplink: UplinkId, flags: Flags, actions: &mut Vec<Action>) {
        if self.uplinks.get(&uplink) == Some(&flags) {
            return;
        }
        if flags == Flags::NONE {
            // Bounded by the number of peers: each turn tells some.
            while self.is_behind() {
                self.catch_up_some(actions);
            }
        }
        self.uplinks.insert(uplink, flags);
        actions.push(Action::SetUplinkFlags { uplink, flags });
        if flags == Flags::NONE {
            self.uplink_returns(uplink, actions);
        } else {
            let (from, at_ns) = (PeerId(0), self.now_ns);
            self.behind = Some(Behind { from, at_ns });
            self.catch_up_some(actions);
        }
    }

    fn uplink_returns(&mut self, uplink: UplinkId, actions: &mut Vec<Action>) {
        let mut asked = 0_u64;
        for peer in self.peers.values_mut() {
            for place in 0..peer.paths.len() {
                if peer.paths[place].uplink == uplink {
                    let probe_at_ns = self.now_ns + asked.saturating_sub(ASKED_AT_ONCE) * ASKED_EVERY_NS;
                    peer.uplink_flagged(place, Flags::NONE, probe_at_ns, self.now_ns, actions);
                    asked += 1;
                }
            }
            peer.settle(self.now_ns, actions);
            self.agenda.note(peer);
        }
    }

    /// Tells a few peers what became of their uplinks.
    pub(super) fn catch_up_some(&mut self, actions: &mut Vec<Action>) {
        let Some(Behind { from, .. }) = self.behind else { return };
        let mut rest = self.peers.range_mut(from..);
        for (_, peer) in rest.by_ref().take(CAUGHT_UP_AT_ONCE) {
            peer.catch_up(&self.uplinks, self.now_ns, actions);
            self.agenda.note(peer);
        }
        self.behind = rest.next().map(|(from, _)| Behind {
            from: *from,
            at_ns: self.now_ns + CATCH_UP_EVERY_NS,
        });
    }
}
