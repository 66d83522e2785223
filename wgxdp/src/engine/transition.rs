//! The states of a path and what moves it between them. This is the one place that says so:
//!
//! | | silent | dead, flagged | surpassed | answered, not needed | answered, needed | clean | needed |
//! |---|---|---|---|---|---|---|---|
//! | **up** | suspect | down | held | · | · | · | · |
//! | **suspect** | · | down | · | up | up | · | · |
//! | **down** | · | · | · | held | up | · | · |
//! | **held** | · | down | · | · | · | up | up |
//! | **drained** | · | · | · | · | · | · | · |
//!
//! A path is *surpassed* when it violates an objective of its tunnel and another path, which is up, keeps them all. It is clean only while it violates none.
//!
//! A path is *needed* when no other path of its peer is up or suspect: a path on probation is better than none, so a peer's only path is never held.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::liveness::{DEAD_MIN_UNANSWERED, Flags};
use wgxdp_common::table::PathState;

use super::objectives::Violation;

/// What can happen to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Silent for longer than usual.
    Silent,
    /// Silent for too long, by the rule that the kernel judges by.
    Dead,
    /// Its uplink cannot carry anything.
    Flagged,
    /// It violates an objective that a better path keeps.
    Surpassed,
    /// It proved itself.
    Answered {
        /// No other path of the peer is up or suspect.
        needed: bool,
    },
    /// It stayed clean for the whole hold-down.
    Clean,
    /// The last other path that was up or suspect is not any more.
    Needed,
}

/// Where an event leads; `None`: nowhere.
pub(super) fn next(state: PathState, event: Event) -> Option<PathState> {
    use Event::{Answered, Clean, Dead, Flagged, Needed, Silent, Surpassed};
    use PathState::{Down, Drained, Held, Suspect, Up};
    match (state, event) {
        (Up, Silent) => Some(Suspect),
        (Up | Suspect | Held, Dead | Flagged) => Some(Down),
        (Suspect, Answered { .. }) | (Down, Answered { needed: true }) | (Held, Clean | Needed) => Some(Up),
        (Up, Surpassed) | (Down, Answered { needed: false }) => Some(Held),
        (Up, Answered { .. } | Clean | Needed)
        | (Suspect, Silent | Surpassed | Clean | Needed)
        | (Down, Silent | Dead | Flagged | Surpassed | Clean | Needed)
        | (Held, Silent | Surpassed | Answered { .. })
        | (Drained, Silent | Dead | Flagged | Surpassed | Answered { .. } | Clean | Needed) => None,
    }
}

/// Whether `steer` must pass over a path in this state even when it answers.
pub(super) fn is_held_back(state: PathState) -> bool {
    match state {
        PathState::Down | PathState::Held => true,
        PathState::Up | PathState::Suspect | PathState::Drained => false,
    }
}

/// Whether a path in this state can carry the peer's packets.
pub(super) fn carries(state: PathState) -> bool {
    match state {
        PathState::Up | PathState::Suspect => true,
        PathState::Down | PathState::Held | PathState::Drained => false,
    }
}

/// Why a path is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Given credit when the daemon started.
    Started,
    /// Silent for this long.
    Silence(Duration),
    /// Its uplink lost carrier.
    NoCarrier,
    /// Its uplink was set down by the administrator.
    AdminDown,
    /// Its uplink's device does not exist, or has no address of the endpoint's family.
    Absent,
    /// It violates an objective of its tunnel, and another path keeps it.
    Violates(Violation),
    /// It answers small probes and none of the tunnel's full size.
    Mtu,
    /// Probes pass, but the tunnel's packets leave by it and nothing returns.
    Stall,
    /// It proved itself.
    Answered,
    /// It proved itself, and must stay clean this long before traffic returns.
    OnProbation(Duration),
    /// The same, and this long because it has failed soon after its return before.
    OnLongerProbation(Duration),
    /// It stayed clean this long.
    HoldDownOver(Duration),
    /// It is on probation still, but no other path of the peer is better.
    NothingBetter,
}

impl Cause {
    /// Why an uplink with these flags carries nothing; `None` if it does.
    pub(super) fn of_flags(flags: Flags) -> Option<Self> {
        let causes = [
            (Flags::ABSENT, Self::Absent),
            (Flags::ADMIN_DOWN, Self::AdminDown),
            (Flags::NO_CARRIER, Self::NoCarrier),
        ];
        causes
            .into_iter()
            .find_map(|(flag, cause)| flags.any_of(flag).then_some(cause))
    }

    /// Under what a move of the peer's traffic for this cause is counted.
    #[must_use]
    pub fn move_reason(self) -> MoveReason {
        match self {
            Self::Silence(_) => MoveReason::Silence,
            Self::NoCarrier => MoveReason::NoCarrier,
            Self::AdminDown => MoveReason::AdminDown,
            Self::Absent => MoveReason::Absent,
            Self::Violates(_) => MoveReason::Brownout,
            Self::Mtu => MoveReason::Mtu,
            Self::Stall => MoveReason::Stall,
            Self::Started
            | Self::Answered
            | Self::OnProbation(_)
            | Self::OnLongerProbation(_)
            | Self::HoldDownOver(_)
            | Self::NothingBetter => MoveReason::Recovery,
        }
    }
}

/// Why a peer's traffic moved from one path to another, as metrics count it, or why a path carries none, as `wgxdp status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// The path that carried it fell silent.
    Silence,
    /// Its uplink lost carrier.
    NoCarrier,
    /// Its uplink was set down by the administrator.
    AdminDown,
    /// Its uplink is gone.
    Absent,
    /// It violated an objective of its tunnel.
    Brownout,
    /// It swallowed large packets.
    Mtu,
    /// It swallowed the tunnel's packets.
    Stall,
    /// A better path, or the only one, came back.
    Recovery,
}

impl MoveReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Silence,
        Self::NoCarrier,
        Self::AdminDown,
        Self::Absent,
        Self::Brownout,
        Self::Mtu,
        Self::Stall,
        Self::Recovery,
    ];

    /// As the map of paths has it, where 0 means none.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16 + 1
    }

    /// The reason of that number, if there is one.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// The word that users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::NoCarrier => "no_carrier",
            Self::AdminDown => "admin_down",
            Self::Absent => "absent",
            Self::Brownout => "brownout",
            Self::Mtu => "mtu",
            Self::Stall => "stall",
            Self::Recovery => "recovery",
        }
    }
}

/// How often a peer's traffic moved, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failovers([u64; MoveReason::ALL.len()]);

impl Failovers {
    /// Moves for this reason.
    #[must_use]
    pub fn get(&self, reason: MoveReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its number of moves.
    pub fn iter(&self) -> impl Iterator<Item = (MoveReason, u64)> + '_ {
        MoveReason::ALL.into_iter().map(|reason| (reason, self.get(reason)))
    }

    pub(super) fn count(&mut self, reason: MoveReason) {
        self.0[reason as usize] += 1;
    }
}

/// How many probes in a row a path must miss to be dead, and what it did to deserve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// At least three.
    pub probes: u64,
    /// The loss that its judge reckons with, in parts per million.
    pub loss_ppm: u32,
    /// The mean length of a run of losses, in thousandths of a probe.
    pub burst_permille: u32,
}

impl Patience {
    /// Of a path that loses nothing worth speaking of.
    const LEAST: u64 = DEAD_MIN_UNANSWERED;
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            probes: Self::LEAST,
            loss_ppm: 0,
            burst_permille: 1000,
        }
    }
}

/// `needs 12 probes: loss 20 %, bursts of 1.3`; nothing for a path that is judged by three like any.
impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.probes == Self::LEAST {
            return Ok(());
        }
        let (loss, burst) = (f64::from(self.loss_ppm) / 1e4, f64::from(self.burst_permille) / 1e3);
        let decimals = usize::from(loss < 10.0);
        write!(
            f,
            "needs {} probes: loss {loss:.decimals$} %, bursts of {burst:.1}",
            self.probes
        )
    }
}

/// One path's change of state, and what it means for its peer's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The peer.
    pub peer: PeerId,
    /// The path.
    pub path: PathId,
    /// The state it left.
    pub from: PathState,
    /// The state it is in.
    pub to: PathState,
    /// Why.
    pub cause: Cause,
    /// What it took, or would take, to be dead.
    pub patience: Patience,
    /// Who carries the peer's traffic from now on; `None`: no path is left, all are tried.
    pub now_on: Option<PathId>,
    /// Whether it was this change that put the traffic there.
    pub moved: bool,
}
