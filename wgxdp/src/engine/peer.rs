//! One peer: its paths, best first, and which of them carries its traffic.
//!
//! An input may change several paths at once (two endpoints behind one uplink). So changes are collected first, then [`Peer::settle`] promotes a path on
//! probation if nothing better is left, and only then says who carries the traffic: a report never names a path that falls in the same breath.

use std::collections::BTreeMap;
use std::time::Duration;

use wgxdp_common::abi::MAX_PATHS_PER_PEER;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Choice, Chooser, Flags, Liveness};
use wgxdp_common::table::PathState;

use super::Action;
use super::path::Path;
use super::stall::Evidence;
use super::transition::{Cause, Event, Failovers, Transition, carries, next};

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) paths: Vec<Path>,
    pub(super) failovers: Failovers,
    /// What its packets tell of the path that carries them.
    pub(super) evidence: Evidence,
    /// Who carries the traffic, as last settled.
    pub(super) active: Option<PathId>,
    /// Who carried it last, if nobody does at the moment.
    carrier: Option<PathId>,
    /// Changes not yet reported.
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    path: PathId,
    from: PathState,
    to: PathState,
    cause: Cause,
}

impl Peer {
    pub(super) fn new(id: PeerId, paths: Vec<Path>, now_ns: u64, out: &mut Vec<Action>) -> Self {
        let mut peer = Self {
            id,
            paths,
            failovers: Failovers::default(),
            evidence: Evidence::default(),
            active: None,
            carrier: None,
            changes: Vec::new(),
        };
        peer.active = peer.choose();
        peer.carrier = peer.active;
        peer.set_paces(now_ns, out);
        peer
    }

    /// Who carries the traffic; `None`: nobody answers, all are tried.
    pub(super) fn active(&self) -> Option<PathId> {
        self.active
    }

    pub(super) fn place(&self, path: PathId) -> Option<usize> {
        self.paths.iter().position(|p| p.id == path)
    }

    /// Its uplink's flags changed. If it can be used again, a probe asks the path at `probe_at_ns`.
    pub(super) fn uplink_flagged(
        &mut self,
        place: usize,
        flags: Flags,
        probe_at_ns: u64,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        let was_usable = self.paths[place].is_usable();
        let against = self.paths[place].set_uplink_flags(flags, now_ns);
        self.flagged(place, was_usable, against, probe_at_ns, now_ns, out);
    }

    /// Takes what became of its uplinks meanwhile, if it has not yet. `turn` is when to ask a path whose uplink is back.
    pub(super) fn catch_up(
        &mut self,
        uplinks: &BTreeMap<UplinkId, Flags>,
        mut turn: impl FnMut() -> u64,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        for place in 0..self.paths.len() {
            let path = &self.paths[place];
            match uplinks.get(&path.uplink) {
                Some(flags) if *flags != path.uplink_flags() => {
                    let probe_at_ns = if *flags == Flags::NONE { turn() } else { now_ns };
                    self.uplink_flagged(place, *flags, probe_at_ns, now_ns, out);
                }
                Some(_) | None => {}
            }
        }
        self.settle(now_ns, out);
    }

    /// The same for the path's own flags.
    pub(super) fn path_flagged(&mut self, place: usize, flags: Flags, now_ns: u64, out: &mut Vec<Action>) {
        let was_usable = self.paths[place].is_usable();
        if let Some(against) = self.paths[place].set_own_flags(flags, now_ns, out) {
            self.flagged(place, was_usable, against, now_ns, now_ns, out);
        }
    }

    fn flagged(
        &mut self,
        place: usize,
        was_usable: bool,
        against: Flags,
        probe_at_ns: u64,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        match Cause::of_flags(against) {
            Some(cause) => self.step(place, Event::Flagged, cause, now_ns, out),
            None if !was_usable => {
                self.paths[place].want_probe(probe_at_ns);
                self.paths[place].probe_if_due(false, now_ns, out);
            }
            None => {}
        }
    }

    /// An authentic reply arrived.
    pub(super) fn reply(
        &mut self,
        place: usize,
        (sequence, rtt, at_ns): (u32, Duration, u64),
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        if self.paths[place].reply(sequence, rtt, at_ns, now_ns, out) {
            let responder = self.paths[place].responder;
            let asked = self.paths.iter_mut().filter(|path| path.responder == responder);
            asked.for_each(Path::vouch_for_full_size);
        }
        self.judge_answer(place, now_ns, out);
        self.paths[place].tell_status(out);
    }

    /// `steer` found the path dead. A finding from before the path was last cleared is history.
    pub(super) fn latched(&mut self, place: usize, silence: Duration, at_ns: u64, now_ns: u64, out: &mut Vec<Action>) {
        if at_ns >= self.paths[place].cleared_ns {
            self.convict(place, silence, at_ns, now_ns, out);
        }
    }

    /// The kernel's own word on a path. It may be the first that is heard of a latch or of an answer: records can be lost.
    pub(super) fn proof(
        &mut self,
        place: usize,
        (proof_ns, unanswered, latched_ns): (u64, u64, Option<u64>),
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        let path = &mut self.paths[place];
        match latched_ns {
            Some(at_ns) if at_ns >= path.cleared_ns => {
                // A path that answered meanwhile was silent for at least as long as it takes to be dead.
                let silence_ns = at_ns.saturating_sub(path.proof_ns).max(path.dead_after_ns());
                self.convict(place, Duration::from_nanos(silence_ns), at_ns, now_ns, out);
            }
            Some(_) if carries(path.state) => out.push(Action::LiftLatch { path: path.id }),
            Some(_) | None => {}
        }
        self.paths[place].learn(proof_ns, unanswered);
        self.judge_answer(place, now_ns, out);
    }

    /// Time passed: what does the silence of the path say?
    pub(super) fn judge(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        let path = &mut self.paths[place];
        path.pass_time(now_ns, out);
        let silence = Duration::from_nanos(path.silence_ns(now_ns));
        match path.assess(now_ns) {
            Liveness::Dead => {
                let proof_ns = path.proof_ns;
                return self.convict(place, silence, proof_ns, now_ns, out);
            }
            Liveness::Suspect => self.step(place, Event::Silent, Cause::Silence(silence), now_ns, out),
            Liveness::Live => self.judge_answer(place, now_ns, out),
        }
        self.judge_full_size(place, now_ns, out);
        self.judge_stall(place, now_ns, out);
        match self.paths[place].state {
            PathState::Up => self.judge_conduct(place, now_ns, out),
            PathState::Held => self.judge_probation(place, now_ns, out),
            PathState::Suspect | PathState::Down | PathState::Drained => {}
        }
    }

    /// Does the path violate an objective that another one keeps?
    fn judge_conduct(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        let better = |path: &Path| path.state == PathState::Up && path.conduct().is_better();
        if let Some(violation) = self.paths[place].conduct().violation()
            && self.paths.iter().any(better)
        {
            self.step(place, Event::Surpassed, Cause::Violates(violation), now_ns, out);
        }
    }

    /// Has a held path been clean for long enough?
    fn judge_probation(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        let path = &mut self.paths[place];
        if path.conduct().violation().is_some() {
            path.clean_since_ns = now_ns;
            return;
        }
        if path.is_silent_for_dead_after(now_ns) {
            // Not asked often enough to be dead: what was not seen to be clean does not count. A lost probe or two are not unclean, or a path
            // that loses one in a hundred would never get its traffic back.
            path.clean_since_ns = now_ns;
        }
        if now_ns.saturating_sub(path.clean_since_ns) < path.hold_down_ns() {
            return;
        }
        if path.assess(now_ns) == Liveness::Suspect {
            // Traffic does not return to a path in doubt: the next probe tells.
            return path.put_off_return(now_ns);
        }
        let cause = Cause::HoldDownOver(Duration::from_nanos(path.hold_down_ns()));
        self.step(place, Event::Clean, cause, now_ns, out);
    }

    /// A path that swallows large packets is given up for any that carries the peer's packets and is heard: one of which much is lost may be silent for long before it is
    /// given up. Without one, small packets are better than none.
    fn judge_full_size(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        let is_heard = |path: &Path| carries(path.state) && path.is_heard(now_ns);
        if self.paths[place].swallows_full_size() && self.others(place).any(is_heard) {
            self.paths[place].answer_after_ns = now_ns;
            self.step(place, Event::Dead, Cause::Mtu, now_ns, out);
        }
    }

    /// Whether another path can carry the peer's packets.
    fn carried_without(&self, place: usize) -> bool {
        self.others(place).any(|path| carries(path.state))
    }

    /// All paths but this one.
    pub(super) fn others(&self, place: usize) -> impl Iterator<Item = &Path> {
        let others = self.paths.iter().enumerate().filter(move |(other, _)| *other != place);
        others.map(|(_, path)| path)
    }

    /// Whether the last known proof is an answer that changes something.
    fn judge_answer(&mut self, place: usize, now_ns: u64, out: &mut Vec<Action>) {
        let path = &self.paths[place];
        let answers = match path.state {
            // A proof that has grown old since is no reason to go there.
            PathState::Down => {
                path.is_usable()
                    && path.proof_ns > path.answer_after_ns
                    && !path.is_silent_for_dead_after(now_ns)
                    && !(path.swallows_full_size() && self.carried_without(place))
                    && !self.is_spared(place, now_ns)
            }
            PathState::Suspect => path.assess(now_ns) == Liveness::Live,
            PathState::Up | PathState::Held | PathState::Drained => false,
        };
        if !answers {
            return;
        }
        let needed = !self.paths.iter().any(|p| carries(p.state));
        let cause = match (self.paths[place].state, needed) {
            (PathState::Down, false) => self.paths[place].probation(),
            (PathState::Down, true) if self.paths.len() > 1 => Cause::NothingBetter,
            _ => Cause::Answered,
        };
        self.step(place, Event::Answered { needed }, cause, now_ns, out);
    }

    fn convict(&mut self, place: usize, silence: Duration, answer_after_ns: u64, now_ns: u64, out: &mut Vec<Action>) {
        if self.paths[place].state != PathState::Down {
            self.paths[place].answer_after_ns = answer_after_ns;
        }
        self.step(place, Event::Dead, Cause::Silence(silence), now_ns, out);
    }

    pub(super) fn step(&mut self, place: usize, event: Event, cause: Cause, now_ns: u64, out: &mut Vec<Action>) {
        let path = &mut self.paths[place];
        let from = path.state;
        if let Some(to) = next(from, event) {
            path.enter(to, cause, now_ns, out);
            self.changes.push(Change {
                path: path.id,
                from,
                to,
                cause,
            });
        }
    }

    /// Draws the consequences of what changed, and reports it.
    pub(super) fn settle(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        if self.changes.is_empty() {
            return;
        }
        if !self.paths.iter().any(|p| carries(p.state)) {
            let held = (0..self.paths.len()).filter(|place| self.paths[*place].state == PathState::Held);
            if let Some(place) = held.min_by_key(|place| self.paths[*place].assess(now_ns)) {
                self.step(place, Event::Needed, Cause::NothingBetter, now_ns, out);
                if self.paths[place].assess(now_ns) == Liveness::Suspect {
                    let silence = Duration::from_nanos(self.paths[place].silence_ns(now_ns));
                    self.step(place, Event::Silent, Cause::Silence(silence), now_ns, out);
                }
            }
        }
        let was_on = self.active;
        self.active = self.choose();
        if self.active != was_on {
            self.evidence.restart();
        }
        let mover = self.mover(was_on);
        if let Some(active) = self.active {
            let carrier = self.carrier.replace(active);
            if let Some(mover) = mover.filter(|_| carrier != Some(active)) {
                self.failovers.count(self.changes[mover].cause.move_reason());
            }
        }
        for (index, Change { path, from, to, cause }) in self.changes.drain(..).enumerate() {
            let moved = mover == Some(index);
            let told = self.paths.iter().find(|p| p.id == path);
            out.push(Action::Report(Transition {
                peer: self.id,
                path,
                from,
                to,
                cause,
                patience: told.map(Path::patience).unwrap_or_default(),
                now_on: self.active,
                moved,
            }));
        }
        self.set_paces(now_ns, out);
    }

    /// While all is well only the path in use needs to be asked often; otherwise any may be the next one.
    fn set_paces(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let is_well = |path: &Path| Some(path.id) == self.active && path.state == PathState::Up;
        let well = self.paths.iter().any(is_well);
        for path in &mut self.paths {
            path.set_pace(!well || self.active == Some(path.id), now_ns, out);
        }
    }

    /// Sends the probes that are due.
    pub(super) fn probe(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        for path in &mut self.paths {
            path.probe_if_due(self.active == Some(path.id), now_ns, out);
        }
    }

    /// Which of the changes moved the traffic: the fall of the path that carried it, else the return of the one that does.
    fn mover(&self, was_on: Option<PathId>) -> Option<usize> {
        if self.active.is_none() || self.active == was_on {
            return None;
        }
        let fell = |change: &Change| Some(change.path) == was_on && !carries(change.to);
        let returned = |change: &Change| Some(change.path) == self.active && carries(change.to);
        self.changes
            .iter()
            .position(fell)
            .or_else(|| self.changes.iter().position(returned))
    }

    /// By the kernel's own rule.
    fn choose(&self) -> Option<PathId> {
        let mut chooser = Chooser::default();
        let mut offered = self.paths.iter().take(MAX_PATHS_PER_PEER);
        match offered
            .find_map(|path| chooser.offer(path.standing()))
            .unwrap_or_else(|| chooser.make_do(0))
        {
            Choice::Live(place) | Choice::Suspect(place) | Choice::Oversize(place) => {
                Some(self.paths[place as usize].id)
            }
            Choice::FailOpen(_) | Choice::None => None,
        }
    }
}
