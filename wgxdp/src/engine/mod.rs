//! The failover engine, without I/O: inputs and `now` go in, actions come out. No clock, no socket, no task, no BPF map is touched here.
//!
//! ```text
//!    ring buffer ──▶ Reply, Latched, Switched ─┐                   ┌─▶ SetUplinkFlags, SetPathFlags,
//!      link events ──────────▶ UplinkFlags ────┤                   │   SetThresholds, LiftLatch, SetStatus ──▶ maps
//!         prober ──▶ ProbeSent, ProbeFailed ───┼──▶  Engine  ──────┼─▶ SendProbe, SendFullSize ──▶ prober
//!         counts ──▶ Traffic ───────────────┤
//!   maps, at wake-up ──▶ Proof … Proof, Tick ──┘                   └─▶ Report ──▶ log
//! ```
//!
//! The kernel's `steer` decides for each packet, in time, by [`wgxdp_common::liveness`]; it needs nobody here. The engine decides what is
//! slower: the states that users see, the thresholds that `steer` judges by, when a path that answers again gets its traffic back, when the next probe
//! leaves. Both judge by the same pure rule with the same numbers, so they cannot disagree for long: what the kernel found is taken as it is.
//!
//! # States
//! See [`transition`](self::Transition) for the table. In short: *up* → *suspect* → *down* by silence, or *down* at once with the uplink;
//! *down* → *held* with the first answer, and *up* → *held* if its tunnel's objectives are violated and another path keeps them; *held* → *up* after a clean hold-down, or at once if the peer has nothing better. A path
//! carries [`Flags::HELD`] exactly while it is down or held.
//!
//! # What the driver owes the engine
//! - At each wake-up ([`Engine::next_wakeup`]): the records that are waiting, then an [`Input::Proof`] for every path that [`Engine::due`]
//!   names, then [`Input::Tick`], all with the same `now`. Silence convicts in `Tick` alone, so lost records cannot make the engine lie; and
//!   each path is due at least once an interval, so it costs one look at the map for each probe.
//! - Every action carried out in order, before the next input. Order matters: an uplink's death is one write, and it comes first.
//! - For every [`Action::SendProbe`] and [`Action::SendFullSize`] one [`Input::ProbeSent`] or [`Input::ProbeFailed`].
//!
//! # Scale
//! An input costs what its peer's paths cost, and a wake-up what is due: neither asks how many peers there are. An uplink that goes is one write; those who
//! use it catch up a few at a time, lest thousands of them take the processor from the packets that are moving, and each at the latest when it is next looked
//! at. So they do when it returns, which is one write as well, once all know that it went: every path must be on probation before the kernel sees its uplink again.
//!
//! # Invariants
//! Nothing is convicted by silence that was not asked: a starved, stopped or overslept engine finds the paths as it left them, skips the
//! probes it missed, and allows for the gap it made (see `thresholds`). Every input leads to a bounded number of actions.
//! A peer with a path up, suspect or held has an active path.

mod agenda;
mod behind;
mod damping;
mod full_size;
mod gilbert;
mod interface;
mod loss;
pub mod montecarlo;
mod objectives;
mod pace;
mod path;
mod peer;
mod report;
mod rtt;
mod schedule;
mod stall;
#[cfg(test)]
mod tests;
mod thresholds;
mod transition;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wgxdp_common::abi::MAX_PATHS_PER_PEER;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::Flags;

use self::agenda::Agenda;
use self::behind::Behind;
use self::full_size::FullSize;
use self::gilbert::Gilbert;
use self::loss::Loss;
use self::path::Path;
use self::peer::Peer;
use self::schedule::Schedule;

pub use self::interface::{Action, Input, PathSpec, PathView, PeerSpec, Settings};
pub use self::objectives::{Objectives, Violation};
pub use self::pace::Pace;
pub use self::report::Names;
pub use self::transition::{Cause, Failovers, MoveReason, Patience, Transition};

/// Seconds in a week.
const WEEK: f64 = 7.0 * 24.0 * 3600.0;

/// The engine. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Settings,
    peers: BTreeMap<PeerId, Peer>,
    uplinks: BTreeMap<UplinkId, Flags>,
    now_ns: u64,
    agenda: Agenda,
    behind: Option<Behind>,
    /// Peers whose wake-up was asked for out of turn, and when.
    hinted: BTreeSet<PeerId>,
    hint_ns: Option<u64>,
}

impl Engine {
    /// All paths start up on credit, with `now_ns` as their proof (the driver stores the same in the map of proofs), and all uplinks unflagged
    /// until told otherwise. The first actions say everything that the maps must hold.
    #[must_use]
    pub fn new(settings: Settings, peers: &[PeerSpec], now_ns: u64, actions: &mut Vec<Action>) -> Self {
        let mut engine = Self {
            settings,
            peers: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            now_ns,
            agenda: Agenda::default(),
            behind: None,
            hinted: BTreeSet::new(),
            hint_ns: None,
        };
        engine.add_peers(peers, now_ns, actions);
        engine
    }

    /// Takes more peers into care, on the same terms as [`Engine::new`]. A peer of the same id is replaced.
    pub fn add_peers(&mut self, peers: &[PeerSpec], now_ns: u64, actions: &mut Vec<Action>) {
        let now_ns = self.now_ns.max(now_ns);
        self.now_ns = now_ns;
        let of_peer = |peer: &PeerSpec| peer.paths.len().min(MAX_PATHS_PER_PEER);
        let count = peers.iter().map(of_peer).sum();
        let mut index = 0..count;
        let mut new_uplinks = BTreeMap::new();
        for spec in peers {
            let paths = spec
                .paths
                .iter()
                .zip(index.by_ref().take(of_peer(spec)))
                .map(|(path, index)| {
                    let schedule = Schedule::new(now_ns, path.pace().interval, index, count);
                    let share = self.settings.share(of_peer(spec));
                    let loss = Loss::new(Gilbert::new(schedule.interval(), share), &spec.objectives);
                    let full_size = FullSize::new(path.pace(), share);
                    Path::new(path, schedule, loss, full_size, &self.settings, now_ns, actions)
                });
            let paths = paths.collect();
            let mut peer = Peer::new(spec.id, paths, now_ns, actions);
            for place in 0..peer.paths.len() {
                let uplink = peer.paths[place].uplink;
                match self.uplinks.get(&uplink) {
                    Some(flags) if *flags != Flags::NONE => peer.uplink_flagged(place, *flags, now_ns, now_ns, actions),
                    Some(_) => {}
                    None => _ = new_uplinks.insert(uplink, Flags::NONE),
                }
            }
            peer.settle(now_ns, actions);
            self.remove_peer(spec.id);
            self.agenda.note(&peer);
            self.peers.insert(spec.id, peer);
        }
        actions.extend(new_uplinks.iter().map(|(uplink, flags)| Action::SetUplinkFlags {
            uplink: *uplink,
            flags: *flags,
        }));
        self.uplinks.extend(new_uplinks);
    }

    /// Forgets a peer; inputs about its paths change nothing from now on.
    pub fn remove_peer(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.remove(&peer) {
            self.agenda.strike(&peer);
        }
        self.hinted.remove(&peer);
    }

    /// Takes one input; `actions` grows by what follows from it. A clock that goes backwards stands still here. Inputs about paths that
    /// the engine does not have (records of an earlier run) change nothing.
    pub fn handle(&mut self, input: Input, now_ns: u64, actions: &mut Vec<Action>) {
        let now_ns = self.now_ns.max(now_ns);
        self.now_ns = now_ns;
        // A time of another CPU may be a little ahead.
        let past = |at_ns: u64| at_ns.min(now_ns);
        match input {
            Input::UplinkFlags { uplink, flags } => {
                self.set_uplink_flags(uplink, Flags(flags.0 & Flags::UNUSABLE.0), actions);
            }
            Input::PathFlags { path, flags } => {
                self.with(path, actions, |peer, place, actions| {
                    peer.path_flagged(place, Flags(flags.0 & Flags::UNUSABLE.0), now_ns, actions);
                    peer.settle(now_ns, actions);
                });
            }
            Input::Reply {
                path,
                sequence,
                rtt,
                at_ns,
            } => {
                self.with(path, actions, |peer, place, actions| {
                    peer.reply(place, (sequence, rtt, past(at_ns)), now_ns, actions);
                    peer.settle(now_ns, actions);
                });
            }
            Input::Latched { path, silence, at_ns } => {
                self.with(path, actions, |peer, place, actions| {
                    peer.latched(place, silence, past(at_ns), now_ns, actions);
                    peer.settle(now_ns, actions);
                });
            }
            Input::Switched { path, .. } => {
                let active = self.active(path.peer());
                if active.is_some_and(|active| active != path) {
                    self.hinted.insert(path.peer());
                    self.hint_ns = Some(now_ns);
                }
            }
            Input::Proof {
                path,
                proof_ns,
                unanswered,
                latched_ns,
            } => {
                self.with(path, actions, |peer, place, actions| {
                    let proof = (past(proof_ns), unanswered, latched_ns.map(past));
                    peer.proof(place, proof, now_ns, actions);
                    peer.settle(now_ns, actions);
                });
            }
            Input::ProbeSent { path, sequence, at_ns } => {
                self.note_probe(path, |path| path.probe_sent(sequence, past(at_ns)));
            }
            Input::ProbeFailed { path, sequence } => {
                self.note_probe(path, |path| path.probe_failed(sequence));
            }
            Input::Traffic { path, sent, received } => {
                self.with(path, actions, |peer, place, actions| {
                    peer.traffic(place, (sent, received), now_ns, actions);
                    peer.settle(now_ns, actions);
                });
            }
            Input::Tick => self.tick(actions),
        }
    }

    /// When the engine wants its next [`Input::Tick`], in nanoseconds of CLOCK_MONOTONIC; right after one, always later than it. `None`: nothing
    /// changes with time alone, because no uplink is usable.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        [self.agenda.first_ns(), self.hint_ns, self.behind_ns()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The paths that the next [`Input::Tick`] will judge, and wants the [`Input::Proof`] of: those that wanted to be woken until then, and
    /// all of a peer about which there was a hint.
    pub fn due(&self, now_ns: u64) -> impl Iterator<Item = PathId> + use<> {
        let hinted = self.hinted.iter().flat_map(|peer| self.agenda.of_peer(*peer));
        let due: BTreeSet<PathId> = self.agenda.until(self.now_ns.max(now_ns)).chain(hinted).collect();
        due.into_iter()
    }

    /// Who carries the peer's traffic; `None`: no path answers, so all usable ones are tried.
    #[must_use]
    pub fn active(&self, peer: PeerId) -> Option<PathId> {
        self.peers.get(&peer)?.active()
    }

    /// What is known of a path.
    #[must_use]
    pub fn path(&self, path: PathId) -> Option<PathView> {
        let peer = self.peers.get(&path.peer())?;
        Some(peer.paths[peer.place(path)?].view())
    }

    /// How often the peer's traffic moved from one path to another.
    #[must_use]
    pub fn failovers(&self, peer: PeerId) -> Option<Failovers> {
        Some(self.peers.get(&peer)?.failovers)
    }

    /// A probe that left or did not decides nothing.
    fn note_probe(&mut self, path: PathId, note: impl FnOnce(&mut Path)) {
        if let Some(peer) = self.peers.get_mut(&path.peer())
            && let Some(place) = peer.place(path)
        {
            note(&mut peer.paths[place]);
            self.agenda.note(peer);
        }
    }

    fn with(&mut self, path: PathId, actions: &mut Vec<Action>, act: impl FnOnce(&mut Peer, usize, &mut Vec<Action>)) {
        if let Some(peer) = self.peers.get_mut(&path.peer())
            && let Some(place) = peer.place(path)
        {
            peer.catch_up(&self.uplinks, || self.now_ns, self.now_ns, actions);
            act(peer, place, actions);
            self.agenda.note(peer);
        }
    }

    /// Judges first, and only then sends probes: a failover does not wait behind them.
    fn tick(&mut self, actions: &mut Vec<Action>) {
        let due: BTreeSet<PathId> = self.due(self.now_ns).collect();
        let concerned: BTreeSet<PeerId> = due.iter().map(|path| path.peer()).collect();
        self.hint_ns = None;
        self.hinted.clear();
        for id in &concerned {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            peer.catch_up(&self.uplinks, || self.now_ns, self.now_ns, actions);
            for place in 0..peer.paths.len() {
                if due.contains(&peer.paths[place].id) {
                    peer.judge(place, self.now_ns, actions);
                }
            }
            peer.settle(self.now_ns, actions);
            self.agenda.note(peer);
        }
        if self.behind_ns().is_some_and(|at_ns| at_ns <= self.now_ns) {
            self.catch_up_some(actions);
        }
        let to_probe: BTreeSet<PeerId> = self.agenda.until(self.now_ns).map(PathId::peer).collect();
        for id in to_probe {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.probe(self.now_ns, actions);
            self.agenda.note(peer);
        }
    }
}

/// Every id that a path of the peer may have.
fn path_range(peer: PeerId) -> Range<PathId> {
    PathId::new(peer, 0)..PathId::new(PeerId(peer.0 + 1), 0)
}
