//! Who is who: from the configuration and the tunnels as WireGuard describes them to peers and paths with their ids. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wgxdp_common::abi::{MAX_PATHS_PER_PEER, MAX_UPLINKS};
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::keyring::KeyName;
use wgxdp_common::table::{self, EndpointKey, EndpointRef, Order};

use crate::config::{Config, ProbeKind, Protect, PublicKey};
use crate::engine::{Objectives, PathSpec, PeerSpec};
use crate::host::wireguard;
use crate::mtu;
use crate::prober::Target;
use crate::stamp::key::id_of;

/// What identifies a peer's entry in the maps: with any of these changed it is another entry, so that no packet sees half of a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerPlan {
    /// The tunnel's place in the configuration.
    pub(super) tunnel: usize,
    /// The tunnel's listen port.
    pub(super) port: u16,
    /// Who.
    pub(super) key: PublicKey,
    /// The configured name.
    pub(super) name: Option<String>,
    /// The endpoint that WireGuard sees.
    pub(super) canonical: SocketAddr,
    /// Where packets really go, the preferred one first.
    pub(super) endpoints: Vec<SocketAddr>,
    /// What probes are made of.
    pub(super) kind: ProbeKind,
    /// The time between two probes.
    pub(super) interval: Duration,
    /// Where probes go; `None`: to the endpoint. See [`PeerPlan::paths`].
    pub(super) target: Option<IpAddr>,
    /// At which port a STAMP reflector listens there, or TCP is asked; `None`: neither.
    pub(super) target_port: Option<u16>,
    /// Uplinks, the preferred one first.
    pub(super) uplinks: Vec<u32>,
    /// When its data packets are copied.
    pub(super) protect: Protect,
}

/// Something that cannot be done, or not as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum PlanError {
    /// The interface is not up, or WireGuard gave it no port.
    #[error(
        "tunnel {0} has no listen port: is it up? Set ListenPort in its WireGuard configuration, or bring it up first"
    )]
    NoPort(String),
    /// A configured key is no peer of the tunnel.
    #[error(
        "tunnel {interface} has no peer {key}: check public-key, or add the peer to WireGuard first (`wg show {interface} peers` lists them)"
    )]
    NoPeer {
        /// The tunnel.
        interface: String,
        /// The key.
        key: String,
    },
    /// Two tunnels listen on one port: arriving packets would belong to both.
    #[error(
        "tunnels {first} and {second} both have listen port {port}, by which packets are told apart: give one of them another \
         ListenPort in its WireGuard configuration"
    )]
    SharedPort {
        /// A tunnel.
        first: String,
        /// The other one.
        second: String,
        /// Their port.
        port: u16,
    },
}

/// Peers that are probed although no file lists them, by their tunnels' places in the configuration.
pub(super) type Unlisted = BTreeSet<(usize, PublicKey)>;

/// Without a file to list them: everybody to whom WireGuard knows the way before anything is touched.
pub(super) fn unlisted(config: &Config, tunnels: &[wireguard::Tunnel]) -> Unlisted {
    if !config.probes_unlisted() {
        return Unlisted::new();
    }
    let with_endpoint = |(index, tunnel): (usize, &wireguard::Tunnel)| {
        let peers = tunnel.peers.iter().filter(|peer| peer.endpoint.is_some());
        peers
            .map(move |peer| (index, PublicKey::from(peer.public_key.0)))
            .collect::<Vec<_>>()
    };
    tunnels.iter().enumerate().flat_map(with_endpoint).collect()
}

/// What the configuration and the tunnels come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plans {
    /// Everybody who is listed, or to be probed all the same, and has an endpoint. All others are clients, which the programs learn.
    pub(super) peers: BTreeSet<PeerPlan>,
    /// Everybody in the configuration whom WireGuard does not have: a mistake at start, and later the operator's business.
    pub(super) missing: BTreeSet<PlanError>,
}

/// Who is in the tunnels.
pub(super) fn peers(config: &Config, tunnels: &[wireguard::Tunnel], unlisted: &Unlisted) -> Result<Plans, PlanError> {
    let uplinks: Vec<u32> = config
        .uplinks_by_cost()
        .into_iter()
        .map(|(index, _)| index as u32)
        .collect();
    let mut plans = Plans::default();
    let mut ports = BTreeMap::new();
    for (index, (tunnel_config, tunnel)) in config.tunnels().iter().zip(tunnels).enumerate() {
        let interface = tunnel_config.interface.as_str();
        let port = tunnel.listen_port.ok_or_else(|| PlanError::NoPort(interface.into()))?;
        if let Some(first) = ports.insert(port, interface) {
            return Err(PlanError::SharedPort {
                first: first.into(),
                second: interface.into(),
                port,
            });
        }
        let found: BTreeMap<PublicKey, &wireguard::Peer> = tunnel
            .peers
            .iter()
            .map(|peer| (PublicKey::from(peer.public_key.0), peer))
            .collect();
        let configured: BTreeMap<_, _> = tunnel_config.peers.iter().map(|peer| (peer.public_key, peer)).collect();
        let missing = configured.keys().filter(|key| !found.contains_key(key));
        plans.missing.extend(missing.map(|key| PlanError::NoPeer {
            interface: interface.into(),
            key: key.to_string(),
        }));
        for (key, peer) in found {
            let peer_config = configured.get(&key);
            if peer_config.is_none() && !unlisted.contains(&(index, key)) {
                continue;
            }
            let mut endpoints = peer_config.map(|peer| peer.endpoints.clone()).unwrap_or_default();
            let Some(canonical) = peer.endpoint.or(endpoints.first().copied()) else {
                continue;
            };
            if endpoints.is_empty() {
                endpoints.push(canonical);
            }
            let probe = peer_config.map_or(config.default_probe(), |peer| peer.probe);
            plans.peers.insert(PeerPlan {
                tunnel: index,
                port,
                key,
                name: peer_config
                    .and_then(|peer| peer.name.as_ref())
                    .map(|name| name.as_str().into()),
                canonical,
                endpoints,
                kind: probe.kind,
                interval: probe.interval,
                target: probe.target,
                target_port: probe.port,
                uplinks: uplinks.clone(),
                protect: tunnel_config.protect,
            });
        }
    }
    Ok(plans)
}

/// One uplink × one endpoint of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathPlan {
    pub(super) id: PathId,
    pub(super) uplink: UplinkId,
    pub(super) endpoint: SocketAddr,
    pub(super) target: Target,
}

impl PathPlan {
    /// The family of what travels on it.
    pub(super) fn family(&self) -> mtu::Family {
        mtu::Family::of(self.endpoint.ip())
    }
}

impl PeerPlan {
    /// Its paths in order of preference: by uplink, then by endpoint; at most [`MAX_PATHS_PER_PEER`]. The configured target is probed over
    /// paths of its family, so that probes go the data's way; over all paths if none is.
    pub(super) fn paths(&self, id: PeerId) -> Vec<PathPlan> {
        let pairs = self
            .uplinks
            .iter()
            .flat_map(|uplink| self.endpoints.iter().map(move |endpoint| (*uplink, *endpoint)));
        let target = self.target;
        let fits_some = self
            .endpoints
            .iter()
            .any(|endpoint| target.is_some_and(|target| target.is_ipv4() == endpoint.is_ipv4()));
        let path = |(slot, (uplink, endpoint)): (u32, (u32, SocketAddr))| {
            let address = target
                .filter(|target| target.is_ipv4() == endpoint.is_ipv4() || !fits_some)
                .unwrap_or(endpoint.ip());
            PathPlan {
                id: PathId::new(id, slot),
                uplink: UplinkId(uplink),
                endpoint,
                target: self.target_at(address, endpoint),
            }
        };
        (0..).zip(pairs).take(MAX_PATHS_PER_PEER).map(path).collect()
    }

    fn target_at(&self, address: IpAddr, endpoint: SocketAddr) -> Target {
        match (self.kind, self.target_port) {
            (ProbeKind::Icmp, _) => Target::Icmp(address),
            (ProbeKind::Stamp, Some(port)) => Target::Stamp(SocketAddr::new(address, port)),
            (ProbeKind::Stamp, None) => Target::InBand(endpoint),
            // A configuration names one.
            (ProbeKind::Tcp, port) => Target::Tcp(SocketAddr::new(address, port.unwrap_or(endpoint.port()))),
        }
    }

    /// What it is called in the log.
    pub(super) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.key.short())
    }

    /// For the engine, with what its tunnel expects, and whether an uplink is metered.
    pub(super) fn spec(&self, id: PeerId, objectives: Objectives, is_metered: impl Fn(UplinkId) -> bool) -> PeerSpec {
        let paths = self.paths(id);
        let path = |path: &PathPlan| PathSpec {
            id: path.id,
            uplink: path.uplink,
            interval: self.interval,
            metered: is_metered(path.uplink),
            padded: self.kind != ProbeKind::Tcp,
            responder: paths
                .iter()
                .position(|other| other.target == path.target)
                .unwrap_or_default(),
        };
        PeerSpec {
            id,
            paths: paths.iter().map(path).collect(),
            objectives,
        }
    }

    /// By which the programs know its in-band probes, and the keys for ours.
    fn key_name(&self) -> KeyName {
        KeyName::new(id_of(self.key.as_bytes()), self.port.into())
    }

    /// They stand in their order.
    fn order(paths: &[PathPlan]) -> Order {
        Order::from_slots(0..paths.len() as u32)
    }

    /// For the maps: the peer and its paths. Until somebody says otherwise a path is given all the time in the world, and takes any packet.
    pub(super) fn entries(&self, id: PeerId) -> (table::Peer, Vec<table::Path>) {
        let paths = self.paths(id);
        let order = Self::order(&paths);
        let peer = table::Peer {
            order,
            canonical: self.canonical.into(),
            reserved: [0; 16],
            ordered: table::OrderedBy::USER_SPACE,
            name: self.key_name(),
        };
        let canonical = self.canonical.ip().into();
        let path = |path: PathPlan| table::Path {
            protect: self.protect.into(),
            ..table::Path::new(path.uplink, path.endpoint.into(), canonical)
        };
        (peer, paths.into_iter().map(path).collect())
    }

    /// What leads to the peer: its endpoints, and the one that WireGuard sees if that is none of them.
    pub(super) fn endpoint_entries(&self, id: PeerId) -> Vec<EndpointEntry> {
        let paths = self.paths(id);
        let order = Self::order(&paths);
        let leading: Vec<_> = paths.iter().map(|path| (path.id, path.uplink, path.endpoint)).collect();
        endpoint_entries(id, self.port, self.canonical, &leading, order)
    }

    /// Everything that its packets and probes are sent to.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().map(SocketAddr::ip).chain(self.target)
    }
}

/// What leads to a peer with these paths, in this order: their endpoints, and the one that WireGuard sees if that is none of them.
pub(super) fn endpoint_entries(
    id: PeerId,
    port: u16,
    canonical: SocketAddr,
    paths: &[(PathId, UplinkId, SocketAddr)],
    order: Order,
) -> Vec<EndpointEntry> {
    let endpoints: BTreeSet<SocketAddr> = paths
        .iter()
        .map(|(_, _, endpoint)| *endpoint)
        .chain([canonical])
        .collect();
    let entry = |endpoint: SocketAddr| {
        let key = EndpointKey::of(endpoint, port.into());
        let here = paths.iter().filter(|(_, _, of_path)| *of_path == endpoint);
        let endpoint = here.fold(EndpointRef::new(id), |entry, (path, uplink, _)| {
            entry.with_path(*uplink, path.slot())
        });
        EndpointEntry::new(key, endpoint, canonical.ip().into(), order)
    };
    endpoints.into_iter().map(entry).collect()
}

/// The fallback order of every tunnel: all uplinks by cost.
pub(super) fn fallback(config: &Config) -> [u8; MAX_UPLINKS] {
    let mut order = [Order::NONE; MAX_UPLINKS];
    for (place, (index, _)) in order.iter_mut().zip(config.uplinks_by_cost()) {
        *place = index as u8;
    }
    order
}

#[cfg(test)]
mod tests;
