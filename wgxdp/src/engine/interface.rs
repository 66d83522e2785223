//! What the engine is given and what it gives back, as plain data: its settings and peers, the driver's inputs, the actions that the driver must carry out.

use std::time::Duration;

use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::PathState;

use super::WEEK;
use super::damping::Damping;
use super::objectives::Objectives;
use super::pace::Pace;
use super::schedule::SHORTEST_INTERVAL;
use super::transition::{Cause, Patience, Transition};

/// What is the same for all peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How often in a week a peer's paths may be called dead that are not; each path has an equal share. Positive.
    pub false_failovers_per_week: f64,
    /// A path that answers again must stay clean this long before its traffic returns.
    pub hold_down: Duration,
    /// What that grows to, doubled with each failure soon after a return; no more than `hold_down`: it does not grow.
    pub max_hold_down: Duration,
    /// The sequence number of every path's first probe.
    pub first_sequence: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            false_failovers_per_week: 1.0,
            hold_down: Duration::from_secs(10),
            max_hold_down: Duration::from_secs(600),
            first_sequence: 0,
        }
    }
}

impl Settings {
    pub(super) fn damping(&self) -> Damping {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Damping::new(ns(self.hold_down), ns(self.max_hold_down))
    }

    /// What each of a peer's `paths` may cost in false verdicts, in a second.
    pub(super) fn share(&self, paths: usize) -> f64 {
        self.false_failovers_per_week / WEEK / paths as f64
    }
}

/// One path of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSpec {
    /// Its id, which belongs to its peer ([`PathId::peer`]).
    pub id: PathId,
    /// The uplink that it leaves by.
    pub uplink: UplinkId,
    /// The time between two probes, if it is not spared them.
    pub interval: Duration,
    /// Whether each byte by its uplink is paid for: then it is spared most of them while its peer does not need it (see [`Pace`]).
    pub metered: bool,
    /// Whether its probes can be padded to full size.
    pub padded: bool,
    /// Who answers its probes: the same as over the peer's other paths of this number.
    pub responder: usize,
}

impl PathSpec {
    pub(super) fn pace(&self) -> Pace {
        Pace {
            interval: self.interval.max(SHORTEST_INTERVAL),
            metered: self.metered,
        }
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Its id.
    pub id: PeerId,
    /// Its paths, best first, in the order that `steer` uses; at most [`MAX_PATHS_PER_PEER`] are taken.
    pub paths: Vec<PathSpec>,
    /// What its tunnel expects of them.
    pub objectives: Objectives,
}

/// What the engine is told. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A link event: the complete new set of [`Flags::ABSENT`], [`Flags::ADMIN_DOWN`] and [`Flags::NO_CARRIER`].
    UplinkFlags {
        /// Which uplink.
        uplink: UplinkId,
        /// What speaks against it now.
        flags: Flags,
    },
    /// A path alone cannot be used, or can again: the complete new set of the same flags. Its uplink has no address of the endpoint's family, say.
    PathFlags {
        /// Which path.
        path: PathId,
        /// What speaks against it now, besides its uplink's flags.
        flags: Flags,
    },
    /// A record: an authentic reply arrived, and the kernel moved the path's proof already.
    Reply {
        /// Which path answered.
        path: PathId,
        /// Which probe was answered.
        sequence: u32,
        /// The round trip, as the kernel measured it.
        rtt: Duration,
        /// When it arrived.
        at_ns: u64,
    },
    /// A record: `steer` found the path dead and latched it.
    Latched {
        /// Which path.
        path: PathId,
        /// How long it had been silent.
        silence: Duration,
        /// When.
        at_ns: u64,
    },
    /// A record: a peer's traffic moved. Only a hint: if the engine thinks otherwise it asks to be woken at once, and the proofs tell why.
    Switched {
        /// Who carries it now.
        path: PathId,
        /// Who did before.
        from: Option<PathId>,
        /// How long the path that was left had been silent.
        silence: Duration,
        /// When.
        at_ns: u64,
    },
    /// What the kernel's map says of a path.
    Proof {
        /// Which path.
        path: PathId,
        /// When it last proved itself.
        proof_ns: u64,
        /// Probes that left since.
        unanswered: u64,
        /// When `steer` latched it, if it is latched.
        latched_ns: Option<u64>,
    },
    /// A probe left.
    ProbeSent {
        /// By which path.
        path: PathId,
        /// Which probe.
        sequence: u32,
        /// When.
        at_ns: u64,
    },
    /// The socket refused a probe.
    ProbeFailed {
        /// By which path.
        path: PathId,
        /// Which probe.
        sequence: u32,
    },
    /// What the counts of a peer's packets say, compared with the last reading. To be told of the path that carries its traffic, every few seconds or oftener.
    Traffic {
        /// Which path.
        path: PathId,
        /// More than keepalives left by it.
        sent: bool,
        /// Something of the peer's arrived, over any path.
        received: bool,
    },
    /// The wake-up that was asked for, or any other.
    Tick,
}

/// What the driver must do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store an uplink's flags: all that concerns its paths at once.
    SetUplinkFlags {
        /// Which uplink.
        uplink: UplinkId,
        /// The complete new set.
        flags: Flags,
    },
    /// Store a path's own flags.
    SetPathFlags {
        /// Which path.
        path: PathId,
        /// The complete new set.
        flags: Flags,
    },
    /// Store the silence that makes a path suspect, and dead.
    SetThresholds {
        /// Which path.
        path: PathId,
        /// Both, in one word.
        thresholds: Thresholds,
    },
    /// Forget that `steer` found the path dead.
    LiftLatch {
        /// Which path.
        path: PathId,
    },
    /// Store what `wgxdp status` shows.
    SetStatus {
        /// Which path.
        path: PathId,
        /// Its state.
        state: PathState,
        /// Lost probes of the last hundred, in parts per million.
        loss_ppm: u32,
    },
    /// Send a probe, now.
    SendProbe {
        /// By which path.
        path: PathId,
        /// Its sequence number.
        sequence: u32,
    },
    /// Send a probe as large as the tunnel's largest packet, now.
    SendFullSize {
        /// By which path.
        path: PathId,
        /// Its sequence number, of the same row as the others'.
        sequence: u32,
    },
    /// Tell the operator ([`Names::line`]).
    Report(Transition),
    /// Tell the operator that nothing returns over a path, and that there is none left to try ([`Names::unanswered`]).
    ReportUnanswered {
        /// Which path.
        path: PathId,
        /// Nothing returned over the others either.
        everywhere: bool,
    },
}

/// What the engine knows of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathView {
    /// Its state.
    pub state: PathState,
    /// Why it is in that state.
    pub cause: Cause,
    /// Since when.
    pub since_ns: u64,
    /// Its smoothed round-trip time, once it has answered.
    pub rtt: Option<Duration>,
    /// Lost probes of the last hundred, in parts per million.
    pub loss_ppm: u32,
    /// What it is judged by.
    pub thresholds: Thresholds,
    /// How many probes it must miss to be dead, and why.
    pub patience: Patience,
    /// Probes that the socket refused.
    pub refused: u64,
}
