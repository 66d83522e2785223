//! What follows from all listed peers together. Reckoned when they change, and not when a device does: then packets are moving, and there may be ten thousand of them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wgxdp_common::id::{PeerId, UplinkId};

use super::plan::PeerPlan;
use crate::mtu::Family;

/// The sums.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Everything that packets and probes are sent to.
    pub(super) destinations: BTreeSet<IpAddr>,
    /// By a tunnel's place in the configuration.
    pub(super) tunnels: Vec<OfTunnel>,
}

/// Of one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfTunnel {
    /// How many peers it has.
    pub(super) peers: usize,
    /// By which uplinks and in which families their paths lead.
    pub(super) ways: BTreeSet<(UplinkId, Family)>,
}

impl Census {
    /// Of these peers, in so many tunnels.
    pub(super) fn of(peers: &BTreeMap<PeerId, PeerPlan>, tunnels: usize) -> Self {
        let mut census = Self {
            destinations: peers.values().flat_map(PeerPlan::destinations).collect(),
            tunnels: vec![OfTunnel::default(); tunnels],
        };
        for (id, plan) in peers {
            let of = &mut census.tunnels[plan.tunnel];
            of.peers += 1;
            let paths = plan.paths(*id).into_iter();
            of.ways.extend(paths.map(|path| (path.uplink, path.family())));
        }
        census
    }

    /// Whether any peer has an endpoint in IPv6.
    pub(super) fn has_v6(&self) -> bool {
        let mut ways = self.tunnels.iter().flat_map(|of| &of.ways);
        ways.any(|(_, family)| *family == Family::V6)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ProbeKind, Protect, PublicKey};

    fn plan(tunnel: usize, endpoints: &[&str], target: Option<&str>) -> PeerPlan {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|endpoint| endpoint.parse().expect("an endpoint"))
            .collect();
        PeerPlan {
            tunnel,
            port: 51820,
            key: PublicKey::from([1; 32]),
            name: None,
            canonical: endpoints[0],
            endpoints,
            interval: Duration::from_secs(1),
            kind: ProbeKind::Icmp,
            target: target.map(|target| target.parse().expect("an address")),
            target_port: None,
            uplinks: vec![0, 2],
            protect: Protect::Suspect,
        }
    }

    #[test]
    fn peers_are_counted_by_tunnel_with_the_ways_that_they_go_and_all_that_they_are_sent_to() {
        let peers = [
            plan(0, &["192.0.2.1:1"], Some("192.0.2.9")),
            plan(0, &["192.0.2.2:1"], None),
            plan(1, &["192.0.2.1:2", "[2001:db8::1]:1"], None),
        ];
        let census = Census::of(&(0..).map(PeerId).zip(peers).collect(), 3);
        let destinations: Vec<_> = census.destinations.iter().map(ToString::to_string).collect();
        assert_eq!(destinations, ["192.0.2.1", "192.0.2.2", "192.0.2.9", "2001:db8::1"]);
        let v4 = [0, 2].map(|uplink| (UplinkId(uplink), Family::V4));
        let v6 = [0, 2].map(|uplink| (UplinkId(uplink), Family::V6));
        let of = |peers, ways: &[_]| OfTunnel {
            peers,
            ways: ways.iter().copied().collect(),
        };
        assert_eq!(census.tunnels, [of(2, &v4), of(1, &[v4, v6].concat()), of(0, &[])]);
        assert!(census.has_v6());
        assert!(!Census::of(&[(PeerId(0), plan(0, &["192.0.2.1:1"], None))].into(), 1).has_v6());
    }
}
