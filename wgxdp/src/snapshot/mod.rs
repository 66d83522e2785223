//! What users see of wgxdp, as plain data: the JSON of `wgxdp status --json`, the source of its table and of the metrics.
//!
//! ```text
//!   Names      which id is called what        written by the daemon to /run/wgxdp/state.json
//!   Readings   the numbers, by id             the daemon's own maps, or the pinned ones
//!   Daemon     does one run?                  the lock
//!        └──────┴──→ Snapshot::take ──→ status (table, JSON), metrics
//! ```
//!
//! **The schema** (keys are only ever added):
//!
//! | key | value |
//! |---|---|
//! | `daemon.running` | whether a daemon holds the lock; `pid`, `version`, `since` (RFC 3339) stand beside it while known |
//! | `uplinks[].address`, `.gateway` | of IPv4, or of IPv6 where there is no IPv4 address; null where there is none |
//! | `uplinks[].addresses`, `.gateways` | of both families, IPv4 first |
//! | `uplinks[].state`, `.reason` | [`UplinkState`], and why it is not `up` ([`UplinkReason`], else null) |
//! | `peers[].name` | the configured name, else the beginning of the key; unique within the tunnel |
//! | `peers[].active_uplink` | the uplink that carried the last packet; null before the first |
//! | `paths[].state`, `.reason` | `up`, `suspect`, `down`, `held`, `drained`, and why the daemon gave a path up that is `down` or `held` ([`MoveReason`], else null) |
//! | `paths[].active` | whether this path carried the last packet |
//! | `paths[].rtt_ms`, `.loss` | smoothed round trip; fraction of the last probes that was lost; null while nobody measures it |
//! | `paths[].silence_ms` | since the path last proved itself; null if it never did |
//! | `paths[].tx_packets`, … | tunnel packets and their bytes, outer headers included, since the programs were loaded |
//! | `paths[].probes_sent`, `.probes_answered` | since the programs were loaded |
//!
//! **What is true to show.** A path's entry holds what the engine last called it, but the kernel decides on each packet by
//! itself. So:
//!
//! - While a daemon runs, the engine's word stands, unless it says `up` or `suspect` and the kernel by now knows worse: a daemon
//!   that is stopped or behind must not report a path that `steer` has left.
//! - Without a daemon the engine's word is history. The state is what the kernel's own liveness rule makes of the flags, the latch
//!   and the last proof at the moment of reading: what `steer` would go by. RTT and loss are null, for nobody measures them.
//! - A path that does not answer has no round-trip time, whatever the last one was.

#[cfg(test)]
pub(crate) mod fixture;
mod label;
mod names;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wgxdp_common::count::{PathCount, Place, Reason};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Liveness, assess};
use wgxdp_common::table;

use crate::engine::MoveReason;

pub use self::label::peer_labels;
pub use self::names::{Names, PathName, PeerName, STATE_FILE, STATE_FORMAT, StateFileError, TunnelName, UplinkName};

/// The numbers behind the names, each read at the moment of asking.
pub trait Readings {
    /// Why a number could not be read; says which.
    type Error: std::error::Error + Send + Sync + 'static;

    /// A path's configuration and what the engine says of it.
    fn path(&self, path: PathId) -> Result<table::Path, Self::Error>;
    /// What the kernel knows of a path's health.
    fn proof(&self, path: PathId) -> Result<table::Proof, Self::Error>;
    /// A path's traffic, summed over the CPUs.
    fn path_count(&self, path: PathId) -> Result<PathCount, Self::Error>;
    /// An uplink, from the configuration in force, and the reasons for not using it.
    fn uplink(&self, uplink: UplinkId) -> Result<(table::Uplink, Flags), Self::Error>;
    /// What `steer` last did for a peer.
    fn peer_state(&self, peer: PeerId) -> Result<table::PeerState, Self::Error>;
    /// Packets that met `reason` at `place`, summed over the CPUs.
    fn reason(&self, place: Place, reason: Reason) -> Result<u64, Self::Error>;
    /// Learned clients at the moment.
    fn clients(&self) -> Result<u64, Self::Error>;
}

/// Everything that `wgxdp status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The daemon.
    pub daemon: Daemon,
    /// Uplinks, in the order of the configuration.
    pub uplinks: Vec<Uplink>,
    /// Tunnels, in the order of the configuration.
    pub tunnels: Vec<Tunnel>,
}

/// Whether a daemon runs on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Whether one holds the lock.
    pub running: bool,
    /// Its process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::rfc3339_option")]
    pub since: Option<SystemTime>,
}

/// One local interface that can carry tunnel packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its label.
    pub name: String,
    /// Its interface.
    pub interface: String,
    /// Its IPv4 address, else its IPv6 address.
    pub address: Option<IpAddr>,
    /// The next hop of [`Self::address`]'s family; none where destinations are on the link.
    pub gateway: Option<IpAddr>,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its gateways, IPv4 first.
    pub gateways: Vec<IpAddr>,
    /// Whether it can be used.
    pub state: UplinkState,
    /// Why it is not [`UplinkState::Up`].
    pub reason: Option<UplinkReason>,
}

/// Whether an uplink can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UplinkState {
    /// It can.
    Up,
    /// The device is there and cannot carry anything.
    Down,
    /// There is no device, or it has no address.
    Absent,
    /// It could, but the operator took it out of service.
    Drained,
}

/// Why an uplink is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UplinkReason {
    /// No interface of that name exists.
    NoDevice,
    /// The interface has no address that could be used.
    NoAddress,
    /// Set down by the administrator.
    AdminDown,
    /// No carrier.
    NoCarrier,
    /// Taken out of service by the operator.
    Drained,
}

/// A WireGuard interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name.
    pub interface: String,
    /// Its listen port.
    pub listen_port: u16,
    /// Its peers.
    pub peers: Vec<Peer>,
}

/// A WireGuard peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// What it is called: see [`peer_labels`].
    pub name: String,
    /// Its public key, in base64.
    pub public_key: String,
    /// The uplink that carried the last packet.
    pub active_uplink: Option<String>,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// One uplink × one endpoint of one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The uplink's name.
    pub uplink: String,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Its state.
    #[serde(with = "names::path_state")]
    pub state: table::PathState,
    /// Why the daemon gave it up, while it is given up.
    pub reason: Option<MoveReason>,
    /// Whether it carried the peer's last packet.
    pub active: bool,
    /// Round-trip time in milliseconds, smoothed.
    pub rtt_ms: Option<f64>,
    /// The fraction of the last probes that was lost.
    pub loss: Option<f64>,
    /// Milliseconds since it last proved itself.
    pub silence_ms: Option<f64>,
    /// Tunnel packets sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Tunnel packets received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Probes sent.
    pub probes_sent: u64,
    /// Probes answered.
    pub probes_answered: u64,
}

impl Daemon {
    /// Nobody holds the lock.
    #[must_use]
    pub fn stopped() -> Self {
        Self::default()
    }

    /// The daemon that wrote `names` holds the lock; one that has written none is about to, or about to leave.
    #[must_use]
    pub fn running(names: Option<&Names>) -> Self {
        Self {
            running: true,
            pid: names.map(|names| names.pid),
            version: names.map(|names| names.version.clone()),
            since: names.map(|names| names.started_at),
        }
    }
}

impl Snapshot {
    /// Of a host without anything to show but the daemon.
    #[must_use]
    pub fn empty(daemon: Daemon) -> Self {
        Self {
            daemon,
            uplinks: Vec::new(),
            tunnels: Vec::new(),
        }
    }

    /// Reads everything that `names` knows, at `now_ns` (CLOCK_MONOTONIC).
    ///
    /// # Errors
    /// The first number that could not be read.
    pub fn take<R: Readings>(names: &Names, readings: &R, daemon: Daemon, now_ns: u64) -> Result<Self, R::Error> {
        let flags_of = |id| readings.uplink(id).map(|(_, flags)| flags);
        let mut uplinks = Vec::with_capacity(names.uplinks.len());
        for uplink in &names.uplinks {
            let (entry, flags) = readings.uplink(uplink.id)?;
            uplinks.push(Uplink::new(uplink, &entry, flags));
        }
        let mut tunnels = Vec::with_capacity(names.tunnels.len());
        for tunnel in &names.tunnels {
            let mut peers = Vec::with_capacity(tunnel.peers.len());
            for (peer, label) in tunnel.peers.iter().zip(peer_labels(&tunnel.peers)) {
                let active = readings.peer_state(peer.id)?.active;
                let mut paths = Vec::with_capacity(peer.paths.len());
                for path in &peer.paths {
                    let reading = PathReading {
                        entry: readings.path(path.id)?,
                        proof: readings.proof(path.id)?,
                        count: readings.path_count(path.id)?,
                        uplink_flags: flags_of(path.uplink)?,
                    };
                    let is_active = active == u64::from(path.id.0) + 1;
                    let uplink = names.uplink_name(path.uplink).to_owned();
                    paths.push(reading.show(uplink, path.endpoint, is_active, daemon.running, now_ns));
                }
                let active_uplink = paths.iter().find(|path| path.active).map(|path| path.uplink.clone());
                peers.push(Peer {
                    name: label,
                    public_key: peer.public_key.clone(),
                    active_uplink,
                    paths,
                });
            }
            tunnels.push(Tunnel {
                interface: tunnel.interface.clone(),
                listen_port: tunnel.listen_port,
                peers,
            });
        }
        Ok(Self {
            daemon,
            uplinks,
            tunnels,
        })
    }
}

impl Uplink {
    fn new(name: &UplinkName, entry: &table::Uplink, flags: Flags) -> Self {
        let known = |address: wgxdp_common::net::Address| (!address.is_unspecified()).then(|| address.to_ip());
        let families = [entry.v4, entry.v6].map(|family| (known(family.address), known(family.gateway)));
        let primary = families.iter().find(|(address, _)| address.is_some());
        let reason = UplinkReason::of(entry, flags);
        Self {
            name: name.name.clone(),
            interface: name.interface.clone(),
            address: primary.and_then(|(address, _)| *address),
            gateway: primary.and_then(|(_, gateway)| *gateway),
            addresses: families.iter().filter_map(|(address, _)| *address).collect(),
            gateways: families.iter().filter_map(|(_, gateway)| *gateway).collect(),
            state: reason.map_or(UplinkState::Up, UplinkReason::state),
            reason,
        }
    }

    /// Whether the device itself could carry packets, drained or not.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.state, UplinkState::Up | UplinkState::Drained)
    }
}

impl UplinkReason {
    /// The gravest first.
    fn of(entry: &table::Uplink, flags: Flags) -> Option<Self> {
        if entry.ifindex == 0 {
            return Some(Self::NoDevice);
        }
        let rows = [
            (Flags::ADMIN_DOWN, Self::AdminDown),
            (Flags::NO_CARRIER, Self::NoCarrier),
            (Flags::ABSENT, Self::NoAddress),
            (Flags::DRAINED, Self::Drained),
        ];
        rows.into_iter()
            .find(|(flag, _)| flags.any_of(*flag))
            .map(|(_, reason)| reason)
    }

    /// The state that it leads to.
    #[must_use]
    pub const fn state(self) -> UplinkState {
        match self {
            Self::NoDevice | Self::NoAddress => UplinkState::Absent,
            Self::AdminDown | Self::NoCarrier => UplinkState::Down,
            Self::Drained => UplinkState::Drained,
        }
    }

    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoDevice => "no device",
            Self::NoAddress => "no address",
            Self::AdminDown => "set down",
            Self::NoCarrier => "no carrier",
            Self::Drained => "drained",
        }
    }
}

impl UplinkState {
    /// The word that users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Absent => "absent",
            Self::Drained => "drained",
        }
    }
}

/// All that is known of a path at one moment.
struct PathReading {
    entry: table::Path,
    proof: table::Proof,
    count: PathCount,
    uplink_flags: Flags,
}

impl PathReading {
    fn liveness(&self, now_ns: u64) -> Liveness {
        assess(
            now_ns,
            self.proof.proof_ns,
            self.proof.unanswered,
            self.entry.thresholds,
        )
    }

    /// What `steer` would go by now.
    fn kernel_state(&self, now_ns: u64) -> table::PathState {
        let flags = self.entry.flags.with(self.uplink_flags);
        let latched = self.proof.latched_ns != 0;
        match self.liveness(now_ns) {
            _ if flags.any_of(Flags::DRAINED) => table::PathState::Drained,
            _ if flags.any_of(Flags::UNUSABLE.with(Flags::SILENT)) => table::PathState::Down,
            Liveness::Dead => table::PathState::Down,
            _ if latched && self.proof.proof_ns <= self.proof.latched_ns => table::PathState::Down,
            _ if latched || flags.any_of(Flags::HELD) => table::PathState::Held,
            Liveness::Suspect => table::PathState::Suspect,
            Liveness::Live => table::PathState::Up,
        }
    }

    /// The rule of the module's documentation.
    fn state(&self, daemon_runs: bool, now_ns: u64) -> table::PathState {
        let kernel = self.kernel_state(now_ns);
        match table::PathState::from_number(self.entry.state) {
            Some(engine @ (table::PathState::Up | table::PathState::Suspect)) if daemon_runs => engine.max(kernel),
            Some(engine) if daemon_runs => engine,
            _ => kernel,
        }
    }

    /// The engine's reason for a state, where the state is its own and means that the path was given up.
    fn reason(&self, state: table::PathState) -> Option<MoveReason> {
        let given_up = matches!(state, table::PathState::Down | table::PathState::Held);
        let reason = MoveReason::from_number(self.entry.reason).filter(|reason| *reason != MoveReason::Recovery);
        reason.filter(|_| given_up && self.entry.state == state as u16)
    }

    fn show(&self, uplink: String, endpoint: SocketAddr, active: bool, daemon_runs: bool, now_ns: u64) -> Path {
        let ms = |ns: u64| ns as f64 / 1e6;
        let state = self.state(daemon_runs, now_ns);
        let answers = state != table::PathState::Down && self.liveness(now_ns) != Liveness::Dead;
        let Self {
            entry, proof, count, ..
        } = self;
        Path {
            uplink,
            endpoint,
            state,
            reason: self.reason(state).filter(|_| daemon_runs),
            active,
            rtt_ms: (daemon_runs && answers && proof.srtt_ns != 0).then(|| ms(proof.srtt_ns)),
            loss: (daemon_runs && proof.probes_sent != 0).then(|| f64::from(entry.loss_ppm.min(1_000_000)) / 1e6),
            silence_ms: (proof.proof_ns != 0).then(|| ms(now_ns.saturating_sub(proof.proof_ns))),
            tx_packets: count.tx_packets,
            tx_bytes: count.tx_bytes,
            rx_packets: count.rx_packets,
            rx_bytes: count.rx_bytes,
            probes_sent: proof.probes_sent,
            probes_answered: proof.probes_answered,
        }
    }
}
