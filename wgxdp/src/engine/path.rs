//! What the engine knows of one path. Decisions that concern more than one path are its peer's ([`super::peer`]).

use std::time::Duration;

use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::liveness::{self, DEAD_MIN_UNANSWERED, Flags, Liveness, SUSPECT_MIN_UNANSWERED, Standing};
use wgxdp_common::table::PathState;

use super::damping::Damping;
use super::full_size::FullSize;
use super::loss::Loss;
use super::objectives::Conduct;
use super::pace::Pace;
use super::rtt::Rtt;
use super::schedule::Schedule;
use super::thresholds::{Tuner, answer_ns};
use super::transition::{Cause, Patience, carries, is_held_back};
use super::{Action, PathSpec, PathView, Settings};

#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) uplink: UplinkId,
    /// See [`PathSpec::responder`].
    pub(super) responder: usize,
    pub(super) state: PathState,
    cause: Cause,
    since_ns: u64,
    /// What speaks against its uplink, and against this way over it.
    uplink_flags: Flags,
    own_flags: Flags,
    /// The last proof known here: what a reply said, or the kernel's own word.
    pub(super) proof_ns: u64,
    /// Probes that left since.
    unanswered: u64,
    /// Down: proofs up to here are from before, and no answer.
    pub(super) answer_after_ns: u64,
    /// When the path was last cleared of what the kernel had found; older findings are history.
    pub(super) cleared_ns: u64,
    /// Held: the last moment at which it was not clean.
    pub(super) clean_since_ns: u64,
    /// When the last probe was decided on.
    decided_ns: u64,
    /// The same of the last one that left, however much later that was.
    asked_ns: u64,
    /// The next probe's sequence number.
    sequence: u32,
    /// Probes that the socket refused.
    refused: u64,
    rtt: Rtt,
    loss: Loss,
    tuner: Tuner,
    damping: Damping,
    full_size: FullSize,
    padded: bool,
    /// Until then it counts as one that [stalls](super::stall); 0: it does not.
    stalled_until_ns: u64,
    pace: Pace,
    schedule: Schedule,
    /// When a probe out of turn is to leave.
    extra_ns: Option<u64>,
    /// What the last [`Action::SetStatus`] said.
    told: (PathState, u32),
}

impl Path {
    /// A path up on credit. Says everything that the maps must hold of it.
    pub(super) fn new(
        spec: &PathSpec,
        schedule: Schedule,
        loss: Loss,
        full_size: FullSize,
        settings: &Settings,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> Self {
        let tuner = Tuner::new(schedule.interval_ns(), loss.gilbert().needed());
        let told = (PathState::Up, 0);
        out.push(Action::SetThresholds {
            path: spec.id,
            thresholds: tuner.thresholds(),
        });
        out.push(Action::SetPathFlags {
            path: spec.id,
            flags: Flags::NONE,
        });
        out.push(Action::SetStatus {
            path: spec.id,
            state: told.0,
            loss_ppm: told.1,
        });
        Self {
            id: spec.id,
            uplink: spec.uplink,
            responder: spec.responder,
            state: told.0,
            cause: Cause::Started,
            since_ns: now_ns,
            uplink_flags: Flags::NONE,
            own_flags: Flags::NONE,
            proof_ns: now_ns,
            unanswered: 0,
            answer_after_ns: now_ns,
            cleared_ns: now_ns,
            clean_since_ns: now_ns,
            decided_ns: now_ns,
            asked_ns: now_ns,
            sequence: settings.first_sequence,
            refused: 0,
            rtt: Rtt::default(),
            loss,
            tuner,
            damping: settings.damping(),
            full_size,
            padded: spec.padded,
            stalled_until_ns: 0,
            pace: spec.pace(),
            schedule,
            extra_ns: None,
            told,
        }
    }

    pub(super) fn view(&self) -> PathView {
        PathView {
            state: self.state,
            cause: self.cause,
            since_ns: self.since_ns,
            rtt: self.rtt.smoothed(),
            loss_ppm: self.loss.ppm(),
            thresholds: self.tuner.thresholds(),
            patience: self.patience(),
            refused: self.refused,
        }
    }

    /// What it takes to be dead, and why.
    pub(super) fn patience(&self) -> Patience {
        let gilbert = self.loss.gilbert();
        let (loss, burst) = gilbert.seen();
        Patience {
            probes: gilbert.needed(),
            loss_ppm: (loss * 1e6) as u32,
            burst_permille: (burst * 1e3) as u32,
        }
    }

    /// How it stands to its tunnel's objectives.
    pub(super) fn conduct(&self) -> &Conduct {
        self.loss.conduct()
    }

    /// Whether a probe sent there could arrive.
    pub(super) fn is_usable(&self) -> bool {
        !self.against().any_of(Flags::UNUSABLE)
    }

    /// What speaks against its uplink, as far as it was told.
    pub(super) fn uplink_flags(&self) -> Flags {
        self.uplink_flags
    }

    fn against(&self) -> Flags {
        self.uplink_flags.with(self.own_flags)
    }

    /// As the kernel shall have them: its own, and whether it is held back.
    fn kernel_flags(&self, state: PathState) -> Flags {
        let held = if is_held_back(state) { Flags::HELD } else { Flags::NONE };
        held.with(self.own_flags)
    }

    pub(super) fn silence_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.proof_ns)
    }

    /// What the kernel's rule says of it.
    pub(super) fn assess(&self, now_ns: u64) -> Liveness {
        liveness::assess(now_ns, self.proof_ns, self.unanswered, self.tuner.thresholds())
    }

    pub(super) fn is_silent_for_dead_after(&self, now_ns: u64) -> bool {
        self.silence_ns(now_ns) >= self.dead_after_ns()
    }

    /// Whether its last proof is no older than it would be had three probes been lost, however many a loss of it takes to be dead.
    pub(super) fn is_heard(&self, now_ns: u64) -> bool {
        let interval_ns = self.schedule.interval_ns();
        self.silence_ns(now_ns) < DEAD_MIN_UNANSWERED * interval_ns + answer_ns(interval_ns, &self.rtt)
    }

    pub(super) fn dead_after_ns(&self) -> u64 {
        self.tuner.thresholds().dead_after_ns()
    }

    /// As the kernel's chooser sees it, once the actions are carried out.
    pub(super) fn standing(&self) -> Standing {
        let liveness = match self.state {
            PathState::Up | PathState::Held => Liveness::Live,
            PathState::Suspect => Liveness::Suspect,
            PathState::Down | PathState::Drained => Liveness::Dead,
        };
        let flags = self.kernel_flags(self.state).with(self.uplink_flags);
        Standing::judged(flags, self.state == PathState::Down, liveness)
    }

    /// Goes to another state and says so.
    ///
    /// Going down, the path is flagged, so that one lucky reply does not bring traffic back even if no packet met its death and latched it.
    /// Going up, the latch is lifted first and the flag cleared last. In between the path is like any other on probation; what puts traffic
    /// there is one write to a word that user space alone writes, after a proof so fresh that `steer` finds nothing to latch.
    pub(super) fn enter(&mut self, to: PathState, cause: Cause, now_ns: u64, out: &mut Vec<Action>) {
        let (path, flags) = (self.id, self.kernel_flags(to));
        match (carries(self.state), carries(to)) {
            (true, false) => self.damping.failed(now_ns),
            (false, true) => self.damping.returned(now_ns),
            (true, true) | (false, false) => {}
        }
        match (is_held_back(self.state), is_held_back(to)) {
            (false, true) => out.push(Action::SetPathFlags { path, flags }),
            (true, false) => {
                self.cleared_ns = now_ns;
                out.push(Action::LiftLatch { path });
                out.push(Action::SetPathFlags { path, flags });
            }
            (true, true) | (false, false) => {}
        }
        if to == PathState::Held {
            self.cleared_ns = now_ns;
            self.clean_since_ns = now_ns;
        }
        (self.state, self.cause, self.since_ns) = (to, cause, now_ns);
        self.tell_status(out);
    }

    /// Takes the uplink's flags; returns all that speaks against the path. Proofs from before say nothing of after.
    pub(super) fn set_uplink_flags(&mut self, flags: Flags, now_ns: u64) -> Flags {
        self.uplink_flags = flags;
        self.answer_after_ns = now_ns;
        self.full_size.forget();
        self.clear_stall();
        self.extra_ns = None;
        if !self.is_usable() {
            self.loss.interrupt();
        }
        self.against()
    }

    /// Takes the path's own flags, in the same way; `None` if they are the same as before.
    pub(super) fn set_own_flags(&mut self, flags: Flags, now_ns: u64, out: &mut Vec<Action>) -> Option<Flags> {
        if self.own_flags == flags {
            return None;
        }
        self.own_flags = flags;
        out.push(Action::SetPathFlags {
            path: self.id,
            flags: self.kernel_flags(self.state),
        });
        Some(self.set_uplink_flags(self.uplink_flags, now_ns))
    }

    /// How long it must stay clean before its traffic returns.
    pub(super) fn hold_down_ns(&self) -> u64 {
        self.damping.hold_down_ns()
    }

    /// What it is told when it answers again.
    pub(super) fn probation(&self) -> Cause {
        let hold_down = Duration::from_nanos(self.hold_down_ns());
        if self.damping.is_longer() {
            Cause::OnLongerProbation(hold_down)
        } else {
            Cause::OnProbation(hold_down)
        }
    }

    /// Clean for the whole hold-down, but in doubt at its end: looks again in an interval.
    pub(super) fn put_off_return(&mut self, now_ns: u64) {
        self.clean_since_ns = (now_ns + self.schedule.interval_ns()).saturating_sub(self.hold_down_ns());
    }

    /// Wants a probe out of turn to leave then.
    pub(super) fn want_probe(&mut self, at_ns: u64) {
        self.extra_ns = Some(at_ns);
    }

    /// Asks the path as often as it is time for, at once if that is oftener than before; `hurried`: its peer's traffic is there, or may soon be.
    /// A doubt that arose while the path was asked often is resolved so: thresholds grown at once would resolve it without an answer.
    pub(super) fn set_pace(&mut self, hurried: bool, now_ns: u64, out: &mut Vec<Action>) {
        let interval = self.pace.interval(hurried);
        if interval == self.schedule.interval() || (!hurried && self.state == PathState::Suspect) {
            return;
        }
        self.schedule.set_interval(interval, now_ns);
        self.loss.set_interval(interval);
        let (interval_ns, needed) = (self.schedule.interval_ns(), self.loss.gilbert().needed());
        self.tuner
            .set_interval(interval_ns, self.sequence, now_ns, needed, &self.rtt);
        self.retune(now_ns, out);
    }

    /// An authentic reply; whether to a full-size probe.
    pub(super) fn reply(
        &mut self,
        sequence: u32,
        rtt: Duration,
        at_ns: u64,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> bool {
        let is_full_size = self.full_size.answered(sequence, rtt);
        if !is_full_size {
            self.rtt.sample(rtt);
            self.loss.answered(sequence);
            self.loss.sampled(&self.rtt);
            self.tuner.answered(sequence);
        }
        if at_ns > self.proof_ns {
            self.learn(at_ns, self.loss.sent_after(at_ns));
        }
        self.retune(now_ns, out);
        is_full_size
    }

    /// Who answers its probes answered a full-size one over another path.
    pub(super) fn vouch_for_full_size(&mut self) {
        self.full_size.vouch();
    }

    /// The kernel's word on the last proof. An older one than is known here was read before the newer was stored.
    pub(super) fn learn(&mut self, proof_ns: u64, unanswered: u64) {
        if proof_ns >= self.proof_ns {
            (self.proof_ns, self.unanswered) = (proof_ns, unanswered);
        }
    }

    /// A probe left.
    pub(super) fn probe_sent(&mut self, sequence: u32, at_ns: u64) {
        if !self.full_size.sent(sequence, at_ns) {
            self.loss.sent(sequence, at_ns);
            self.asked_ns = self.decided_ns;
        }
        self.unanswered = self.unanswered.saturating_add(u64::from(at_ns > self.proof_ns));
    }

    /// A probe did not leave: what was not sent cannot be missing.
    pub(super) fn probe_failed(&mut self, sequence: u32) {
        if !self.full_size.failed(sequence) {
            self.loss.forget(sequence);
        }
        self.refused += 1;
    }

    /// Whatever follows from the passing of time alone, except the state.
    pub(super) fn pass_time(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.loss.expire(now_ns, &self.rtt);
        self.full_size.judge(
            now_ns,
            self.schedule.interval_ns(),
            &self.rtt,
            self.loss.gilbert().onset(),
        );
        self.retune(now_ns, out);
        self.tell_status(out);
    }

    /// Sends a probe if one is due; `in_use`: the peer's traffic goes there.
    pub(super) fn probe_if_due(&mut self, in_use: bool, now_ns: u64, out: &mut Vec<Action>) {
        if self.is_usable() && self.next_probe_ns() <= now_ns {
            self.probe(in_use, now_ns, out);
        }
    }

    fn next_probe_ns(&self) -> u64 {
        self.extra_ns
            .map_or(self.schedule.next_ns(), |at_ns| at_ns.min(self.schedule.next_ns()))
    }

    /// Sends a probe now. Should the path have gone unasked for a while, the thresholds go first: they must allow for the gap before
    /// the kernel counts another unanswered probe.
    fn probe(&mut self, in_use: bool, now_ns: u64, out: &mut Vec<Action>) {
        self.tuner
            .resume(self.sequence, now_ns, self.asked_ns, self.proof_ns, &self.rtt);
        self.retune(now_ns, out);
        self.decided_ns = now_ns;
        let (path, sequence) = (self.id, self.next_sequence());
        out.push(Action::SendProbe { path, sequence });
        if self.padded && self.full_size.is_due(in_use, now_ns) {
            let sequence = self.next_sequence();
            self.full_size.leaves(sequence, now_ns);
            out.push(Action::SendFullSize { path, sequence });
        }
        self.extra_ns = None;
        self.schedule.advance(now_ns);
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }

    /// Whether it answers small packets alone.
    pub(super) fn swallows_full_size(&self) -> bool {
        self.full_size.swallows()
    }

    /// It stalled, and is not to be tried until then.
    pub(super) fn note_stall(&mut self, until_ns: u64) {
        self.stalled_until_ns = until_ns;
    }

    /// It is not known to stall.
    pub(super) fn clear_stall(&mut self) {
        self.stalled_until_ns = 0;
    }

    /// Whether it swallows the tunnel's packets, as far as is known.
    pub(super) fn is_stalled(&self, now_ns: u64) -> bool {
        now_ns < self.stalled_until_ns
    }

    /// Lost probes of the last hundred, in parts per million.
    pub(super) fn loss_ppm(&self) -> u32 {
        self.loss.ppm()
    }

    /// When time alone will change something here; `None` while its uplink is unusable.
    pub(super) fn wakeup(&self) -> Option<u64> {
        if !self.is_usable() {
            return None;
        }
        let thresholds = self.tuner.thresholds();
        let suspect = || self.proof_ns.saturating_add(thresholds.suspect_after_ns());
        let unwatched = || self.proof_ns.saturating_add(thresholds.dead_after_ns());
        let dead = || (self.unanswered >= DEAD_MIN_UNANSWERED).then(unwatched);
        let silence = match self.state {
            PathState::Up => (self.unanswered >= SUSPECT_MIN_UNANSWERED).then(suspect),
            // On probation time that nobody watched is to be seen, once.
            PathState::Held if self.clean_since_ns < unwatched() => Some(unwatched()),
            PathState::Suspect | PathState::Held => dead(),
            PathState::Down | PathState::Drained => None,
        };
        let hold_down_ns = self.hold_down_ns();
        let clean = (self.state == PathState::Held && hold_down_ns > 0)
            .then(|| self.clean_since_ns.saturating_add(hold_down_ns));
        [Some(self.next_probe_ns()), silence, clean].into_iter().flatten().min()
    }

    pub(super) fn tell_status(&mut self, out: &mut Vec<Action>) {
        let status = (self.state, self.loss.ppm());
        if status != self.told {
            self.told = status;
            out.push(Action::SetStatus {
                path: self.id,
                state: status.0,
                loss_ppm: status.1,
            });
        }
    }

    fn retune(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        if let Some(thresholds) = self.tuner.retune(now_ns, self.loss.gilbert().needed(), &self.rtt) {
            out.push(Action::SetThresholds {
                path: self.id,
                thresholds,
            });
        }
    }
}
