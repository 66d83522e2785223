//! What to do, said once: the TOML file or the flags of `wgxdp run`, validated into types that cannot hold nonsense.
//!
//! ```toml
//! profile = "balanced"              # fast (10 ms) | balanced (50 ms) | thrifty (500 ms): from probe to probe
//! max-clients = 65536               # learned clients that are remembered, the latest ones; 1 to 16777216; --max-clients wins
//!
//! [[uplink]]                        # 1 to 16
//! name = "isp-a"                    # label in commands, metrics, logs; default: the interface's name
//! interface = "eth0"
//! cost = 10                         # lower is preferred; default: 10 for the first uplink, 20 for the second, …
//! address = "auto"                  # "auto" | an address | a list of one IPv4 and one IPv6 address
//! gateway = "auto"                  # "auto" | "none" (all is on the link) | an address | a list, as above
//! mtu = 1492                        # 576 to 65535: where the way beyond the interface takes less than interface and route say; unset: those two
//! metered = false                   # true: while the peer's active path is up its paths that stand by are probed once a second, and once a minute at full size
//! hotplug = false                   # true: a modem that may not be plugged in when wgxdp starts; else an interface that is not there then is taken for a mistake
//! xdp = "auto"                      # who runs `guard`: auto (the driver if it can) | native (the driver, or no start) | generic | off
//!
//! [[tunnel]]                        # 1 to 16
//! interface = "wg0"
//! policy = "failover"               # failover | duplicate (which is protect = "always")
//! protect = "suspect"               # when data packets are sent a second time, over another live path: off | suspect (while theirs is) | always
//!
//! mtu = "auto"                      # lower it to what fits while wgxdp runs, never raise it; unset: only a warning
//! clamp-mss = false                 # true: the MSS of SYNs that enter and leave the tunnel is lowered to what fits
//!
//! max-loss = "5%"                   # a path with more loss ("0.1%" to "50%", or as a share: 0.001 to 0.5), a longer mean round trip or more mean
//! max-rtt = "150ms"                 # deviation of it ("1ms" to "60s") is left for one that keeps all three, if there is one; each unset: anything will do
//! max-jitter = "30ms"
//!
//! [[tunnel.peer]]                   # peers not listed are clients: answered where they last spoke, never probed
//! public-key = "…base64…"
//! name = "hq"                       # optional
//! endpoints = ["198.51.100.1:51820"] # may mix IPv4 and IPv6; optional: WireGuard's own endpoint
//! probe = { kind = "icmp" }         # interval = "20ms" (default: the profile's), target = an address (default: the endpoint),
//!                                   # used where it is of the endpoint's family; everywhere if no endpoint is of its family
//!                                   # kind = "stamp": with a target or port to a STAMP reflector (RFC 8762) there, port = 862;
//!                                   # without in band, authentic, to the endpoint itself, which a wgxdp there answers
//!                                   # kind = "tcp", port = 443: a SYN to that port, whether it listens or refuses; what it opens is reset at once
//!
//! [detection]
//! false-failovers-per-week = 1.0     # how often a peer's lossy path may be taken for a dead one: the smaller, the longer it is given
//! hold-down = "10s"                 # a recovered path must stay clean this long before traffic returns
//! max-hold-down = "10m"             # that doubles with each failure soon after a return, up to this; no longer than hold-down: it does not
//!
//! [metrics]
//! listen = "127.0.0.1:9587"         # unset: off; port 0: any free port
//! ```
//!
//! Rules: a family that `address` or `gateway` does not name stays automatic. An uplink's name and interface, a tunnel's interface, a peer's
//! key, name and endpoints (within a tunnel) are unique; no interface is both uplink and tunnel. Uplinks × endpoints of one peer
//! are at most 8. IPv6 needs an MTU of 1280 (RFC 8200, section 5): with less, an uplink must not be told to have it. What belongs to the file's language but not to this version is refused by name, never ignored silently;
//! what is accepted without effect is in [`Config::warnings`].
//!
//! The way: `reader` knows TOML and lines, `file` the keys, `flags` the command line; both make a `draft`, and `validate` turns
//! that into a [`Config`]. Every problem that can be found is found at once.

mod address;
mod draft;
mod error;
mod file;
mod flags;
mod reader;
#[cfg(test)]
mod tests;
mod validate;
mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

pub use crate::engine::Objectives;
pub use error::{ConfigError, Fault, Notice, Place, Problem, Warning};
pub use flags::{Flags, UplinkFlag};
pub use value::{
    InterfaceName, PeerName, Policy, ProbeKind, Profile, Protect, PublicKey, TunnelMtu, UplinkName, ValueError, Word,
    XdpMode,
};

/// The file that is read when the command line names none.
pub const DEFAULT_FILE: &str = "/etc/wgxdp/wgxdp.toml";
/// How long a recovered path must stay clean, unless the file says otherwise.
pub const DEFAULT_HOLD_DOWN: Duration = Duration::from_secs(10);
/// What the hold-down of a flapping path grows to, unless the file says otherwise.
pub const DEFAULT_MAX_HOLD_DOWN: Duration = Duration::from_secs(600);
/// How many failovers may be false, unless the file says otherwise.
pub const DEFAULT_FALSE_FAILOVERS_PER_WEEK: f64 = 1.0;
/// Clients that are remembered, unless the file or the flag says otherwise.
pub use wgxdp_common::abi::DEFAULT_MAX_CLIENTS;
/// What can be asked for: a map of 2²⁴ entries takes gigabytes already, so more is a slip of the finger.
pub const MAX_CLIENTS: RangeInclusive<u32> = 1..=16_777_216;
/// The cost of the first uplink that states none, and the step from one such uplink to the next.
pub const COST_STEP: u32 = 10;

/// A whole configuration, valid by construction: it can only be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    profile: Profile,
    uplinks: Vec<Uplink>,
    tunnels: Vec<Tunnel>,
    max_clients: u32,
    detection: Detection,
    metrics: Option<SocketAddr>,
    probes_unlisted: bool,
    warnings: Vec<Warning>,
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// The file cannot be read, or says something that cannot be done; all such problems are in the error.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        file::load(path)
    }

    /// Validates the text of a file; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        file::parse(text, path)
    }

    /// Validates what the flags of `wgxdp run` say. The order of uplinks is the order of preference.
    ///
    /// # Errors
    /// As [`Config::from_file`]; messages name flags instead of lines.
    pub fn from_flags(flags: &Flags) -> Result<Self, ConfigError> {
        flags.config()
    }

    /// How often paths are probed, unless a peer says otherwise.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// The uplinks, 1 to 16, in the order of the file.
    #[must_use]
    pub fn uplinks(&self) -> &[Uplink] {
        &self.uplinks
    }

    /// The uplinks with their places in [`Config::uplinks`], the preferred ones first; equal costs in the order of the file.
    #[must_use]
    pub fn uplinks_by_cost(&self) -> Vec<(usize, &Uplink)> {
        let mut uplinks: Vec<_> = self.uplinks.iter().enumerate().collect();
        uplinks.sort_by_key(|(index, uplink)| (uplink.cost, *index));
        uplinks
    }

    /// The tunnels, 1 to 16, in the order of the file.
    #[must_use]
    pub fn tunnels(&self) -> &[Tunnel] {
        &self.tunnels
    }

    /// The shortest interval between probes that any listed peer has. `None`: nobody is listed.
    #[must_use]
    pub fn shortest_interval(&self) -> Option<Duration> {
        let peers = self.tunnels.iter().flat_map(|tunnel| &tunnel.peers);
        peers.map(|peer| peer.probe.interval).min()
    }

    /// Learned clients that are remembered, within [`MAX_CLIENTS`].
    #[must_use]
    pub const fn max_clients(&self) -> u32 {
        self.max_clients
    }

    /// With room for this many learned clients instead, which must be within [`MAX_CLIENTS`].
    #[must_use]
    pub fn with_max_clients(mut self, max_clients: u32) -> Self {
        debug_assert!(MAX_CLIENTS.contains(&max_clients), "the command line checked it");
        self.max_clients = max_clients;
        self
    }

    /// When a path is given up and when it is trusted again.
    #[must_use]
    pub const fn detection(&self) -> Detection {
        self.detection
    }

    /// Where to serve metrics, if at all.
    #[must_use]
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Whether peers are probed that are not listed: the flags cannot list any.
    #[must_use]
    pub const fn probes_unlisted(&self) -> bool {
        self.probes_unlisted
    }

    /// How peers are probed that are not listed.
    #[must_use]
    pub const fn default_probe(&self) -> Probe {
        Probe {
            kind: ProbeKind::Icmp,
            interval: self.profile.probe_interval(),
            target: None,
            port: None,
        }
    }

    /// What is accepted but will not do what its author may expect; to be logged.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// A local interface that can carry tunnel packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// What it is called.
    pub name: UplinkName,
    /// The interface, which may come and go.
    pub interface: InterfaceName,
    /// Lower is preferred.
    pub cost: u32,
    /// The largest IP packet in bytes that fits the way beyond the interface, if that is less than interface and route say.
    pub mtu: Option<u32>,
    /// How IPv4 leaves.
    pub v4: FamilyChoice<Ipv4Addr>,
    /// How IPv6 leaves.
    pub v6: FamilyChoice<Ipv6Addr>,
    /// Each byte is paid for: probed less often while it carries nothing.
    pub metered: bool,
    /// That the interface is not there at the start is no mistake.
    pub hotplug: bool,
    /// Whether `guard`, the XDP program, runs on it.
    pub xdp: XdpMode,
}

impl Uplink {
    /// How packets to `destination`'s family leave.
    #[must_use]
    pub fn family_of(&self, destination: IpAddr) -> FamilyChoice<IpAddr> {
        match destination {
            IpAddr::V4(_) => self.v4.map(IpAddr::from),
            IpAddr::V6(_) => self.v6.map(IpAddr::from),
        }
    }
}

/// An uplink's side of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyChoice<A> {
    /// The source address.
    pub address: AddressChoice<A>,
    /// The next hop.
    pub gateway: GatewayChoice<A>,
}

impl<A> FamilyChoice<A> {
    /// Everything as the kernel has it.
    pub const AUTO: Self = Self {
        address: AddressChoice::Auto,
        gateway: GatewayChoice::Auto,
    };

    fn map<B>(self, into: impl Fn(A) -> B) -> FamilyChoice<B> {
        FamilyChoice {
            address: match self.address {
                AddressChoice::Auto => AddressChoice::Auto,
                AddressChoice::Fixed(address) => AddressChoice::Fixed(into(address)),
            },
            gateway: match self.gateway {
                GatewayChoice::Auto => GatewayChoice::Auto,
                GatewayChoice::OnLink => GatewayChoice::OnLink,
                GatewayChoice::Via(address) => GatewayChoice::Via(into(address)),
            },
        }
    }
}

/// Which of the interface's addresses is the source of what leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressChoice<A> {
    /// The one that the kernel would choose.
    Auto,
    /// This one.
    Fixed(A),
}

/// What packets are handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayChoice<A> {
    /// The gateway of the interface's default route; none needed on a point-to-point interface.
    Auto,
    /// Every destination is on the link.
    OnLink,
    /// This router.
    Via(A),
}

/// A WireGuard interface whose packets are steered.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// The WireGuard interface.
    pub interface: InterfaceName,
    /// Which live paths carry its packets.
    pub policy: Policy,
    /// When data packets are sent twice.
    pub protect: Protect,
    /// Who sets the interface's MTU; `None`: not wgxdp.
    pub mtu: Option<TunnelMtu>,
    /// Whether the MSS of TCP connections through it is lowered to what fits.
    pub clamp_mss: bool,
    /// What it expects of its paths.
    pub objectives: Objectives,
    /// The peers of which the file says something; others are clients, unless [`Config::probes_unlisted`].
    pub peers: Vec<Peer>,
}

impl Tunnel {
    /// What the file says of the peer with this key.
    #[must_use]
    pub fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.public_key == *key)
    }
}

/// A WireGuard peer of which the file says something.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its key.
    pub public_key: PublicKey,
    /// What it is called.
    pub name: Option<PeerName>,
    /// Where it listens, the preferred one first; empty: where WireGuard says.
    pub endpoints: Vec<SocketAddr>,
    /// How its paths are probed.
    pub probe: Probe,
}

/// How paths are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What a probe is made of.
    pub kind: ProbeKind,
    /// From one probe to the next, on each path.
    pub interval: Duration,
    /// Where probes go; `None`: to the path's endpoint.
    pub target: Option<IpAddr>,
    /// At which port a STAMP reflector listens there, or TCP is asked; `None`: [`ProbeKind::Stamp`] means in band.
    pub port: Option<u16>,
}

/// When a path is given up and when it is trusted again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// How many failovers of a peer may be false; positive and finite.
    pub false_failovers_per_week: f64,
    /// How long a recovered path must stay clean before traffic returns.
    pub hold_down: Duration,
    /// What that grows to for a path that fails again and again; no more than `hold_down`: it does not grow.
    pub max_hold_down: Duration,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            false_failovers_per_week: DEFAULT_FALSE_FAILOVERS_PER_WEEK,
            hold_down: DEFAULT_HOLD_DOWN,
            max_hold_down: DEFAULT_MAX_HOLD_DOWN,
        }
    }
}
