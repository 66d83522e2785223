//! An uplink goes, or returns, for all who use it: the one thing here that concerns thousands of peers at once.
//!
//! For the kernel either is one write; its peers are told a few at a time, and who is looked at meanwhile at once. What goes is written first. What returns is written only
//! when all who use it know that it went: every path over it must be on probation before the kernel sees it again.
//!
//! ```text
//!   it goes ────▶ written ──▶ peers are told ──▶ all know it ─┬─▶ written ──▶ peers are told
//!   it returns ───────────────────────────────────────────────┘
//! ```

use std::collections::BTreeSet;

use wgxdp_common::id::{PeerId, UplinkId};
use wgxdp_common::liveness::Flags;

use super::{Action, Engine};

/// Paths that are asked in the same breath when their uplink can be used again.
const ASKED_AT_ONCE: u64 = 16;
/// Nanoseconds between two of the others, lest thousands of probes hold up those that somebody's traffic depends on.
const ASKED_EVERY_NS: u64 = 1_000_000;

/// How many peers catch up at a time, and after how many nanoseconds the next do.
#[derive(Clone, Copy, Debug)]
struct Steps {
    peers: usize,
    every_ns: u64,
}

/// Of an uplink that went the kernel knows already: these take a hundredth of a processor, which may be one with real-time priority.
const UNHURRIED: Steps = Steps {
    peers: 16,
    every_ns: 4_000_000,
};
/// An uplink that is back may be the only one. Each step is less than a millisecond of work, so that other peers' probes leave in time.
const HURRIED: Steps = Steps {
    peers: 128,
    every_ns: 2_000_000,
};

/// Peers that may not know yet what became of their uplinks.
#[derive(Clone, Debug)]
pub(super) struct Behind {
    /// The first of them.
    from: PeerId,
    /// When the next few are told.
    at_ns: u64,
    steps: Steps,
    /// Uplinks that went, and not everybody knows.
    went: BTreeSet<UplinkId>,
    /// Those of them that can be used again once everybody does.
    back: BTreeSet<UplinkId>,
    /// When the next path over an uplink that is back is asked.
    ask_ns: u64,
}

impl Behind {
    fn nobody(now_ns: u64) -> Self {
        Self {
            from: PeerId(0),
            at_ns: now_ns,
            steps: UNHURRIED,
            went: BTreeSet::new(),
            back: BTreeSet::new(),
            ask_ns: 0,
        }
    }

    /// All are behind, because of these flags of an uplink.
    fn everybody(&mut self, uplink: UplinkId, flags: Flags, now_ns: u64) {
        if flags == Flags::NONE {
            self.steps = HURRIED;
            self.ask_ns = self.ask_ns.max(now_ns.saturating_sub(ASKED_AT_ONCE * ASKED_EVERY_NS));
        } else {
            self.went.insert(uplink);
        }
        self.from = PeerId(0);
        self.at_ns = now_ns + self.steps.every_ns;
    }

    /// Whether an uplink's return has to wait until all know that it went. Then it does, and they are told sooner.
    fn puts_off(&mut self, uplink: UplinkId) -> bool {
        let waits = self.went.contains(&uplink);
        if waits {
            self.back.insert(uplink);
            self.steps = HURRIED;
        }
        waits
    }
}

/// When it is the next path's turn to be asked.
fn take_turn(ask_ns: &mut u64) -> u64 {
    let turn_ns = *ask_ns;
    *ask_ns += ASKED_EVERY_NS;
    turn_ns
}

impl Engine {
    /// Whether an uplink went and there are peers that do not know it yet: a crowd is being told.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| !behind.went.is_empty())
    }

    /// When the next few are told; `None`: nobody is behind.
    pub(super) fn behind_ns(&self) -> Option<u64> {
        self.behind.as_ref().map(|behind| behind.at_ns)
    }

    pub(super) fn set_uplink_flags(&mut self, uplink: UplinkId, flags: Flags, actions: &mut Vec<Action>) {
        if let Some(behind) = &mut self.behind {
            behind.back.remove(&uplink);
        }
        if self.uplinks.get(&uplink) == Some(&flags) {
            return;
        }
        let waits = flags == Flags::NONE && self.behind.as_mut().is_some_and(|behind| behind.puts_off(uplink));
        if !waits {
            self.write_uplink_flags(uplink, flags, actions);
            self.catch_up_some(actions);
        }
    }

    /// For the kernel at once, and for everybody who is told from now on.
    fn write_uplink_flags(&mut self, uplink: UplinkId, flags: Flags, actions: &mut Vec<Action>) {
        self.uplinks.insert(uplink, flags);
        actions.push(Action::SetUplinkFlags { uplink, flags });
        let behind = self.behind.get_or_insert_with(|| Behind::nobody(self.now_ns));
        behind.everybody(uplink, flags, self.now_ns);
    }

    /// Tells a few peers what became of their uplinks. After the last one the uplinks are written that waited for it.
    pub(super) fn catch_up_some(&mut self, actions: &mut Vec<Action>) {
        let Some(behind) = &mut self.behind else { return };
        let mut rest = self.peers.range_mut(behind.from..);
        for (_, peer) in rest.by_ref().take(behind.steps.peers) {
            let turn = || take_turn(&mut behind.ask_ns);
            peer.catch_up(&self.uplinks, turn, self.now_ns, actions);
            self.agenda.note(peer);
        }
        if let Some((from, _)) = rest.next() {
            (behind.from, behind.at_ns) = (*from, self.now_ns + behind.steps.every_ns);
            return;
        }
        let back = std::mem::take(&mut behind.back);
        self.behind = None;
        for uplink in back {
            self.write_uplink_flags(uplink, Flags::NONE, actions);
        }
    }
}
