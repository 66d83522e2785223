//! Stalls: a path that answers probes and swallows the tunnel's own packets is not live. A firewall blocks that port and lets ICMP pass, say.
//!
//! Nothing is sent to find out. WireGuard answers by its own law (J. Donenfeld, *WireGuard: Next Generation Kernel Network Tunnel*, 2017, sections 6.4 and 6.5; in the kernel
//! drivers/net/wireguard/timers.c), so that a peer from which nothing comes got nothing:
//!
//! ```text
//!    0 s  data leaves, and is lost
//!   10 s  who got it would have answered by now, at the least with a keepalive    KEEPALIVE_TIMEOUT, wg_timers_data_received()
//!   15 s  a handshake begins, and is lost                                         + REKEY_TIMEOUT, wg_timers_data_sent()
//!   20 s  it begins again: the path has stalled                                   + REKEY_TIMEOUT, wg_expired_retransmit_handshake()
//! ```
//!
//! So by then an answer and an attempt are missing, and something left once more. Of a path that loses packets more attempts must be missing, as many as loss alone
//! would explain less than once a week ([`unexplained`]):
//!
//! ```text
//!   loss      0 %   1 %   5 %   20 %
//!   after    20 s  25 s  30 s   45 s
//! ```
//!
//! - Keepalives are no data: nobody answers them. So a peer to which nothing else is sent is never judged, and a download, which they acknowledge, is answered by itself.
//! - Any packet of the peer's, over any path, is an answer.
//! - Sending must go on, as WireGuard's does: a pause of more than [`LONGEST_PAUSE`] (it was stopped, or gave up) begins anew. So does a pause of ours ([`LONGEST_GAP`]).
//! - The path is left if there is another one to try, for [`TRIAL`] times as long as it took to find out: only the tunnel's packets can tell whether it stalls still, and they
//!   pay for the question. Afterwards it is on probation like any, with [damping](super::damping).
//! - If nothing returns over the last one to try either, it is the far end that does not answer. The paths that were left for it are cleared, and the next turn
//!   around is not before [`TRIAL`] times as long, doubled with each turn that was in vain.

use std::mem;
use std::time::Duration;

use wgxdp_common::id::PathId;

use super::Action;
use super::loss::unexplained;
use super::peer::Peer;
use super::transition::{Cause, Event, carries};

/// Whoever received data answers within this time (drivers/net/wireguard/messages.h).
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A handshake begins so much later if no answer came, and again each time that this passes without one (the same file; up to a third of a second later).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// WireGuard sends again within 15 s and a third while nothing comes, and the counts are read now and then.
const LONGEST_PAUSE: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT.saturating_mul(2));
/// Between two readings of the counts anything may have happened if more passes.
const LONGEST_GAP: Duration = KEEPALIVE_TIMEOUT;
/// A path that stalls still takes, each time that it is tried, so much less time than it was spared.
const TRIAL: u64 = 10;
/// Turns in vain that double the time to the next one.
const DOUBLINGS: u32 = 4;

/// How long data may leave by a path that loses `loss_ppm` of its probes while nothing comes, in nanoseconds.
pub(super) fn patience_ns(loss_ppm: u32) -> u64 {
    // The answer to the data is the first that is missing.
    let attempts = unexplained(loss_ppm, KEEPALIVE_TIMEOUT).saturating_sub(1).max(1);
    let first = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT;
    ns(first).saturating_add(u64::from(attempts).saturating_mul(ns(REKEY_TIMEOUT)))
}

fn ns(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// What a peer's packets tell. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    unanswered: Option<Unanswered>,
    /// When the counts were last read.
    read_ns: u64,
    /// Paths that were left since anything came.
    left: Vec<PathId>,
    /// Whether the operator knows that there is no path left to try.
    told: bool,
    /// Turns around the paths since anything came, and when the next may begin.
    turns: u32,
    next_turn_ns: u64,
}

/// Data that left by the active path.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    since_ns: u64,
    latest_ns: u64,
}

impl Evidence {
    /// The counts were read; returns for how long data has left in vain, if some left now.
    pub(super) fn note(&mut self, sent: bool, received: bool, now_ns: u64) -> Option<u64> {
        let watched = now_ns.saturating_sub(mem::replace(&mut self.read_ns, now_ns)) <= ns(LONGEST_GAP);
        if received {
            *self = Self {
                read_ns: now_ns,
                ..Self::default()
            };
            return None;
        }
        if !watched {
            self.restart();
        }
        if !sent {
            return None;
        }
        let goes_on = |before: &Unanswered| now_ns.saturating_sub(before.latest_ns) <= ns(LONGEST_PAUSE);
        let since_ns = self.unanswered.filter(goes_on).map_or(now_ns, |before| before.since_ns);
        self.unanswered = Some(Unanswered {
            since_ns,
            latest_ns: now_ns,
        });
        Some(now_ns.saturating_sub(since_ns))
    }

    /// What left until now says nothing of what leaves from now on: it goes by another path.
    pub(super) fn restart(&mut self) {
        self.unanswered = None;
    }

    /// A turn around the paths was in vain; the next one is not before this time and more has passed.
    fn rest(&mut self, rest_ns: u64, now_ns: u64) {
        let factor = 1 << self.turns.min(DOUBLINGS);
        self.next_turn_ns = now_ns.saturating_add(rest_ns.saturating_mul(factor));
        self.turns = self.turns.saturating_add(1);
    }
}

impl Peer {
    /// Since the counts were last read more than keepalives were `sent` by the path, or not, and something of the peer's `received` by any path, or not.
    pub(super) fn traffic(&mut self, place: usize, (sent, received): (bool, bool), now_ns: u64, out: &mut Vec<Action>) {
        let path = &mut self.paths[place];
        if self.active != Some(path.id) {
            return;
        }
        if received {
            path.clear_stall();
        }
        let patience_ns = patience_ns(path.loss_ppm());
        let stalled = self.evidence.note(sent, received, now_ns);
        if stalled.is_some_and(|silence_ns| silence_ns >= patience_ns) && now_ns >= self.evidence.next_turn_ns {
            self.stalled(place, patience_ns.saturating_mul(TRIAL), now_ns, out);
        }
    }

    /// Leaves a path that has stalled, for as long as that, if there is another one to try.
    fn stalled(&mut self, place: usize, spared_ns: u64, now_ns: u64, out: &mut Vec<Action>) {
        let path = self.paths[place].id;
        if self.carried_without_stall(place, now_ns) {
            self.paths[place].note_stall(now_ns.saturating_add(spared_ns));
            self.evidence.left.push(path);
            return self.leave_stalled(place, now_ns, out);
        }
        let left = mem::take(&mut self.evidence.left);
        let everywhere = !left.is_empty();
        if !mem::replace(&mut self.evidence.told, true) {
            out.push(Action::ReportUnanswered { path, everywhere });
        }
        if everywhere {
            for path in self.paths.iter_mut().filter(|path| left.contains(&path.id)) {
                path.clear_stall();
            }
            self.evidence.rest(spared_ns, now_ns);
        }
    }

    fn leave_stalled(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        self.paths[place].answer_after_ns = now_ns;
        self.step(place, Event::Dead, Cause::Stall, now_ns, out);
    }

    /// A path that stalled and was needed all the same is left again when another one can carry the peer's packets.
    pub(super) fn judge_stall(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        if carries(self.paths[place].state) && self.is_spared(place, now_ns) {
            self.leave_stalled(place, now_ns, out);
        }
    }

    /// Whether the path stalled not long ago, and there is another one that did not.
    pub(super) fn is_spared(&self, place: usize, now_ns: u64) -> bool {
        self.paths[place].is_stalled(now_ns) && self.carried_without_stall(place, now_ns)
    }

    fn carried_without_stall(&self, place: usize, now_ns: u64) -> bool {
        self.others(place)
            .any(|path| carries(path.state) && !path.is_stalled(now_ns))
    }
}
