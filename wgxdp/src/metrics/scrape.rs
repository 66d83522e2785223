//! Everything that one scrape shows, read at one moment.

use std::collections::BTreeMap;
use std::time::SystemTime;

use wgxdp_common::abi::{PROGRAM_GUARD, PROGRAM_RESTORE, PROGRAM_STEER};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::{PeerId, UplinkId};

use super::Wakeups;
use crate::dataplane::Guard;
use crate::snapshot::{Daemon, Names, Readings, Snapshot, UplinkName, peer_labels};

/// What the maps do not know and the daemon does. Peers that have no name are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Failovers by peer and reason. The reasons are words in the program, so there is a bounded number of them.
    pub failovers: BTreeMap<(PeerId, &'static str), u64>,
    /// When each peer's latest handshake was; none for those that had none.
    pub handshakes: BTreeMap<PeerId, SystemTime>,
    /// Who runs `guard` on each uplink, if anybody.
    pub guards: BTreeMap<UplinkId, Option<Guard>>,
    /// Clients that are asked from here, because their own probes have stopped.
    pub asked: usize,
    /// How punctual the daemon's loop was.
    pub wakeups: Wakeups,
}

/// The numbers of one scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// Uplinks, tunnels, peers, paths.
    pub snapshot: Snapshot,
    /// What became of packets.
    pub programs: Vec<ProgramCount>,
    /// What the daemon knows of each peer.
    pub peers: Vec<PeerCounts>,
    /// Uplinks by name, and who runs `guard` there, if anybody.
    pub guards: Vec<(String, Option<Guard>)>,
    /// Learned clients.
    pub clients: Clients,
    /// How punctual the daemon's loop was.
    pub wakeups: Wakeups,
}

/// Learned clients, whose map is bounded: when it is full the oldest go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// Those that are known.
    pub known: u64,
    /// Those that had to go.
    pub forgotten: u64,
    /// Those with paths that are asked from here.
    pub asked: u64,
}

/// Packets that met one reason at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCount {
    /// The program.
    pub program: &'static str,
    /// The uplink's name; empty for the anchor, and for devices that are no uplink.
    pub uplink: String,
    /// The reason, which implies the verdict.
    pub reason: Reason,
    /// How many.
    pub packets: u64,
}

/// What the daemon knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCounts {
    /// The tunnel's interface.
    pub tunnel: String,
    /// The peer's label.
    pub peer: String,
    /// Failovers by reason.
    pub failovers: Vec<(&'static str, u64)>,
    /// When the latest handshake was.
    pub latest_handshake: Option<SystemTime>,
}

impl Scrape {
    /// Reads everything at `now_ns` (CLOCK_MONOTONIC).
    ///
    /// # Errors
    /// The first number that could not be read.
    pub fn take<R: Readings>(names: &Names, readings: &R, extras: &Extras, now_ns: u64) -> Result<Self, R::Error> {
        Ok(Self {
            snapshot: Snapshot::take(names, readings, Daemon::running(Some(names)), now_ns)?,
            programs: program_counts(names, readings)?,
            peers: peer_counts(names, extras),
            guards: guards(names, extras),
            clients: clients(names, readings, extras)?,
            wakeups: extras.wakeups.clone(),
        })
    }
}

/// Nobody counts who goes, but all who come.
fn clients<R: Readings>(names: &Names, readings: &R, extras: &Extras) -> Result<Clients, R::Error> {
    let known = readings.clients()?;
    let learned = |uplink: &UplinkName| readings.reason(Place::Uplink(uplink.id), Reason::ClientLearned);
    let learned: u64 = names.uplinks.iter().map(learned).sum::<Result<_, _>>()?;
    Ok(Clients {
        known,
        forgotten: learned.saturating_sub(known),
        asked: extras.asked as u64,
    })
}

fn program_counts<R: Readings>(names: &Names, readings: &R) -> Result<Vec<ProgramCount>, R::Error> {
    let mut counts = Vec::new();
    let mut add = |program, place, uplink: &str| {
        for reason in Reason::ALL.iter().copied() {
            let packets = readings.reason(place, reason)?;
            // A reason that the table below did not expect here is shown all the same once it has happened.
            if packets != 0 || given_by(reason).includes(program) {
                counts.push(ProgramCount {
                    program,
                    uplink: uplink.to_owned(),
                    reason,
                    packets,
                });
            }
        }
        Ok(())
    };
    add(PROGRAM_STEER, Place::Anchor, "")?;
    for uplink in &names.uplinks {
        add(PROGRAM_RESTORE, Place::Uplink(uplink.id), &uplink.name)?;
        // By whomever it is run.
        add(PROGRAM_GUARD, Place::Guard(uplink.id), &uplink.name)?;
    }
    add(PROGRAM_RESTORE, Place::Elsewhere, "")?;
    Ok(counts)
}

fn peer_counts(names: &Names, extras: &Extras) -> Vec<PeerCounts> {
    let in_tunnel = |tunnel: &crate::snapshot::TunnelName| {
        let of_peer = |peer: PeerId| {
            let from = (peer, "");
            let failovers = extras
                .failovers
                .range(from..)
                .take_while(move |((id, _), _)| *id == peer);
            failovers.map(|((_, reason), count)| (*reason, *count)).collect()
        };
        let labelled = tunnel.peers.iter().zip(peer_labels(&tunnel.peers));
        let counts = labelled.map(|(peer, label)| PeerCounts {
            tunnel: tunnel.interface.clone(),
            peer: label,
            failovers: of_peer(peer.id),
            latest_handshake: extras.handshakes.get(&peer.id).copied(),
        });
        counts.collect::<Vec<_>>()
    };
    names.tunnels.iter().flat_map(in_tunnel).collect()
}

fn guards(names: &Names, extras: &Extras) -> Vec<(String, Option<Guard>)> {
    let known = |uplink: &UplinkName| Some((uplink.name.clone(), *extras.guards.get(&uplink.id)?));
    names.uplinks.iter().filter_map(known).collect()
}

/// Which programs can give a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenBy {
    Steer,
    Restore,
    Guard,
    SteerAndRestore,
    RestoreAndGuard,
}

impl GivenBy {
    fn includes(self, program: &str) -> bool {
        match self {
            Self::Steer => program == PROGRAM_STEER,
            Self::Restore => program == PROGRAM_RESTORE,
            Self::Guard => program == PROGRAM_GUARD,
            Self::SteerAndRestore => program == PROGRAM_STEER || program == PROGRAM_RESTORE,
            Self::RestoreAndGuard => program == PROGRAM_RESTORE || program == PROGRAM_GUARD,
        }
    }
}

pub(super) const fn given_by(reason: Reason) -> GivenBy {
    match reason {
        Reason::NotIp
        | Reason::NotUdp
        | Reason::OtherPort
        | Reason::Options
        | Reason::Fragment
        | Reason::Truncated
        | Reason::NoChecksum
        | Reason::RewriteFailed
        | Reason::NotConfigured => GivenBy::SteerAndRestore,
        Reason::ForeignSource
        | Reason::NoUplink
        | Reason::Steered
        | Reason::FailOpen
        | Reason::Oversize
        | Reason::Copied
        | Reason::Returned
        | Reason::Diverted
        | Reason::Fallback
        | Reason::Probe
        | Reason::ProbeNoKeys
        | Reason::ProbeNoUplink => GivenBy::Steer,
        Reason::ForeignDestination
        | Reason::OtherHost
        | Reason::Unauthentic
        | Reason::Restored
        | Reason::Client
        | Reason::ClientLearned
        | Reason::ClientMoved
        | Reason::Stranger
        | Reason::ProofReset
        | Reason::Reset => GivenBy::Restore,
        Reason::WrongType
        | Reason::Reserved
        | Reason::WrongLength
        | Reason::Proof
        | Reason::Answered
        | Reason::ProbeMalformed
        | Reason::ProbeStranger
        | Reason::ProbeForged
        | Reason::ProbeReplayed
        | Reason::ProbeUnasked => GivenBy::RestoreAndGuard,
        Reason::Guarded => GivenBy::Guard,
    }
}
