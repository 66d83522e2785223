//! Why the daemon did not start, or stopped: each names the fact, and what to do.

use std::io;

use super::plan::PlanError;
use super::refuse::Refusal;
use crate::host::wireguard;
use crate::{dataplane, host};

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's network.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A tunnel.
    #[error(transparent)]
    Tunnel(#[from] wireguard::Error),
    /// A tunnel's WireGuard hangs.
    #[error("WireGuard does not answer for {0} within 5 s: is its process stopped?")]
    SilentTunnel(String),
    /// The programs or their maps.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// The configuration and the tunnels do not fit.
    #[error("{0}")]
    Plan(String),
    /// The configuration and the uplinks do not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An uplink's device does not exist.
    #[error(
        "uplink {name}: there is no interface {interface}; `ip link` lists what there is (hotplug = true has wgxdp start without it)"
    )]
    NoInterface {
        /// The uplink.
        name: String,
        /// Its interface.
        interface: String,
    },
    /// An uplink's device is of a kind that packets cannot be steered to.
    #[error(
        "uplink {name}: interface {interface} has neither Ethernet nor plain IP packets, so nothing can be steered to it"
    )]
    LinkLayer {
        /// The uplink.
        name: String,
        /// Its interface.
        interface: String,
    },
    /// An uplink has no way to an endpoint.
    #[error(
        "uplink {name}: no gateway for {destination} on {interface}, whose addresses are {addresses}; add a default route by {interface}, or set gateway = \"ADDRESS\" (\"none\" if {destination} is on the link)"
    )]
    NoGateway {
        /// The uplink.
        name: String,
        /// Its interface.
        interface: String,
        /// Its addresses.
        addresses: String,
        /// The endpoint that cannot be reached.
        destination: std::net::IpAddr,
    },
    /// An uplink's device does not take `guard` as the configuration asks.
    #[error(
        "uplink {name}: xdp = \"{mode}\" cannot be had on {interface}: {refusal}; with xdp = \"auto\" wgxdp does without where it must"
    )]
    Guard {
        /// The uplink.
        name: String,
        /// Its interface.
        interface: String,
        /// What was asked for.
        mode: crate::config::XdpMode,
        /// Why not.
        refusal: Box<dataplane::Refusal>,
    },
    /// The sockets for the probes.
    #[error("no socket for the probes: {0}")]
    Prober(#[source] io::Error),
    /// A system call.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The metrics' address.
    #[error(transparent)]
    Metrics(#[from] crate::metrics::BindError),
    /// More peers than a probe's mark can tell apart.
    #[error("{0} peers are more than the probes' marks can tell apart")]
    TooManyPeers(usize),
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        Self::Plan(error.to_string())
    }
}
