//! Who is who: from the configuration and the tunnels as WireGuard describes them to peers and paths with their ids. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wgxdp_common::abi::{MAX_PATHS_PER_PEER, MAX_UPLINKS};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::{self, EndpointKey, EndpointRef, Order, PathState};

use crate::config::{Config, PublicKey};
use crate::engine::{PathSpec, PeerSpec};
use crate::host::wireguard;
use crate::mtu;

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
    /// The time between two probes.
    pub(super) interval: Duration,
    /// Where probes go; `None`: to the endpoint. See [`PeerPlan::paths`].
    pub(super) target: Option<IpAddr>,
    /// Uplinks, the preferred one first.
    pub(super) uplinks: Vec<u32>,
}

/// Something that cannot be done, or not as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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

/// Everybody in the tunnels who has an endpoint. Peers without one are served by the fallback until WireGuard learns theirs.
pub(super) fn peers(config: &Config, tunnels: &[wireguard::Tunnel]) -> Result<BTreeSet<PeerPlan>, PlanError> {
    let uplinks: Vec<u32> = config
        .uplinks_by_cost()
        .into_iter()
        .map(|(index, _)| index as u32)
        .collect();
    let mut plans = BTreeSet::new();
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
        for peer in &tunnel_config.peers {
            if !found.contains_key(&peer.public_key) {
                return Err(PlanError::NoPeer {
                    interface: interface.into(),
                    key: peer.public_key.to_string(),
                });
            }
        }
        for (key, peer) in found {
            let peer_config = tunnel_config.peer(&key);
            let mut endpoints = peer_config.map(|peer| peer.endpoints.clone()).unwrap_or_default();
            let Some(canonical) = peer.endpoint.or(endpoints.first().copied()) else {
                continue;
            };
            if endpoints.is_empty() {
                endpoints.push(canonical);
            }
            let probe = peer_config.map_or(config.default_probe(), |peer| peer.probe);
            plans.insert(PeerPlan {
                tunnel: index,
                port,
                key,
                name: peer_config
                    .and_then(|peer| peer.name.as_ref())
                    .map(|name| name.as_str().into()),
                canonical,
                endpoints,
                interval: probe.interval,
                target: probe.target,
                uplinks: uplinks.clone(),
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
    pub(super) target: IpAddr,
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
        let path = |(slot, (uplink, endpoint)): (u32, (u32, SocketAddr))| PathPlan {
            id: PathId::new(id, slot),
            uplink: UplinkId(uplink),
            endpoint,
            target: target
                .filter(|target| target.is_ipv4() == endpoint.is_ipv4() || !fits_some)
                .unwrap_or(endpoint.ip()),
        };
        (0..).zip(pairs).take(MAX_PATHS_PER_PEER).map(path).collect()
    }

    /// The largest packet in bytes, as WireGuard sends it, that fits a path of this MTU.
    pub(super) fn largest(&self, path: &PathPlan, mtu: u32) -> u32 {
        mtu::largest(mtu, path.family(), mtu::Family::of(self.canonical.ip()))
    }

    /// What it is called in the log.
    pub(super) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.key.short())
    }

    /// For the engine.
    pub(super) fn spec(&self, id: PeerId) -> PeerSpec {
        let path = |path: PathPlan| PathSpec {
            id: path.id,
            uplink: path.uplink,
            interval: self.interval,
        };
        PeerSpec {
            id,
            paths: self.paths(id).into_iter().map(path).collect(),
        }
    }

    /// For the maps: the peer and its paths. Until somebody says otherwise a path is given all the time in the world, and takes any packet.
    pub(super) fn entries(&self, id: PeerId) -> (table::Peer, Vec<table::Path>) {
        let paths = self.paths(id);
        let order = Order::from_slots(0..paths.len() as u32);
        let peer = table::Peer {
            order,
            canonical: self.canonical.into(),
            reserved: [0; 36],
        };
        let path = |path: PathPlan| table::Path {
            thresholds: Thresholds::new(u32::MAX, u32::MAX),
            flags: Flags::NONE,
            state: PathState::Up as u32,
            loss_ppm: 0,
            uplink: path.uplink,
            endpoint: path.endpoint.into(),
            largest: u32::MAX,
            reserved: [0; 16],
        };
        (peer, paths.into_iter().map(path).collect())
    }

    /// What leads to the peer: its endpoints, and the one that WireGuard sees if that is none of them.
    pub(super) fn endpoint_entries(&self, id: PeerId) -> Vec<(EndpointKey, EndpointRef)> {
        let paths = self.paths(id);
        let mut endpoints = self.endpoints.clone();
        if !endpoints.contains(&self.canonical) {
            endpoints.push(self.canonical);
        }
        let entry = |endpoint: SocketAddr| {
            let key = EndpointKey {
                endpoint: endpoint.ip().into(),
                port: endpoint.port().into(),
                tunnel: self.port.into(),
            };
            let here = paths.iter().filter(|path| path.endpoint == endpoint);
            (
                key,
                here.fold(EndpointRef::new(id), |entry, path| {
                    entry.with_path(path.uplink, path.id.slot())
                }),
            )
        };
        endpoints.into_iter().map(entry).collect()
    }

    /// Everything that its packets and probes are sent to.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().map(SocketAddr::ip).chain(self.target)
    }
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
