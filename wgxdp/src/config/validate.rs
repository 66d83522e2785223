//! A draft's values compared with each other: what must differ, what must fit together, how much there is room for.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use wgxdp_common::abi::{MAX_PATHS_PER_PEER, MAX_TUNNELS, MAX_UPLINKS};
use wgxdp_common::stamp;

use super::draft::{Draft, DraftPeer, DraftProbe, DraftTunnel, DraftUplink};
use super::error::{ConfigError, Fault, Notice, Place, Problem, Warning};
use super::reader::Placed;
use super::value::{InterfaceName, Policy, ProbeKind, Profile, Protect};
use super::{AddressChoice, COST_STEP, Config, GatewayChoice, Peer, Probe, Tunnel, Uplink};
use crate::mtu::IPV6_LEAST;

/// The anchor, and its other end where it is a pair: not to be named as anything else.
const ANCHOR: [&str; 2] = ["wgxdp0", "wgxdp0p"];

/// The configuration, if there are no problems, neither those so far nor in the draft.
pub(super) fn finish(draft: Option<Draft>, path: Option<&Path>, problems: Vec<Problem>) -> Result<Config, ConfigError> {
    let mut check = Check {
        problems,
        warnings: Vec::new(),
        flags: path.is_none(),
    };
    let config = draft.and_then(|draft| check.draft(draft));
    let origin = path.map(Path::to_owned);
    match config {
        Some(mut config) if check.problems.is_empty() => {
            check.warnings.sort_by_key(|(place, _)| *place);
            let warn = |(place, notice)| Warning {
                origin: origin.clone(),
                place,
                notice,
            };
            config.warnings = check.warnings.into_iter().map(warn).collect();
            Ok(config)
        }
        _ => {
            check.problems.sort_by_key(|problem| problem.place);
            Err(ConfigError::Invalid {
                origin,
                problems: check.problems,
            })
        }
    }
}

struct Check {
    problems: Vec<Problem>,
    warnings: Vec<(Place, Notice)>,
    flags: bool,
}

/// What has been seen, and where.
struct Seen<T>(HashMap<T, Place>);

impl<T: Eq + Hash + Clone> Seen<T> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes it, or says where it was before.
    fn note(&mut self, placed: &Placed<T>) -> Option<Place> {
        if let Some(place) = self.0.get(&placed.value) {
            return Some(*place);
        }
        self.0.insert(placed.value.clone(), placed.place);
        None
    }
}

impl Check {
    fn add(&mut self, place: Place, fault: Fault) {
        self.problems.push(Problem { place, fault });
    }

    fn unique<T: Eq + Hash + Clone + ToString>(
        &mut self,
        seen: &mut Seen<T>,
        placed: &Placed<T>,
        what: &'static str,
        advice: &'static str,
    ) {
        if let Some(other) = seen.note(placed) {
            self.add(
                placed.place,
                Fault::Duplicate {
                    what,
                    found: placed.value.to_string(),
                    other,
                    advice,
                },
            );
        }
    }

    fn draft(&mut self, draft: Draft) -> Option<Config> {
        let (uplinks, tunnels) = (draft.uplinks.len(), draft.tunnels.len());
        if uplinks == 0 {
            self.add(
                Place::Whole,
                if self.flags {
                    Fault::NoUplinkFlag
                } else {
                    Fault::NoUplink
                },
            );
        }
        if uplinks > MAX_UPLINKS {
            self.add(Place::Whole, Fault::TooManyUplinks(uplinks));
        } else if uplinks > MAX_PATHS_PER_PEER {
            self.warnings
                .push((Place::Whole, Notice::MoreUplinksThanPaths(uplinks)));
        }
        if tunnels == 0 {
            self.add(
                Place::Whole,
                if self.flags {
                    Fault::NoTunnelFlag
                } else {
                    Fault::NoTunnel
                },
            );
        }
        if tunnels > MAX_TUNNELS {
            self.add(Place::Whole, Fault::TooManyTunnels(tunnels));
        }
        let mut carriers = Seen::new();
        let checked_uplinks = self.uplinks(draft.uplinks, &mut carriers);
        let checked_tunnels = self.tunnels(draft.tunnels, uplinks, draft.profile, &carriers);
        if let [uplink] = checked_uplinks.as_slice()
            && uplinks == 1
        {
            self.warnings
                .push((Place::Whole, Notice::OneUplink(uplink.name.to_string())));
        }
        let whole = checked_uplinks.len() == uplinks && checked_tunnels.len() == tunnels;
        whole.then_some(Config {
            profile: draft.profile,
            uplinks: checked_uplinks,
            tunnels: checked_tunnels,
            max_clients: draft.max_clients,
            detection: draft.detection,
            metrics: draft.metrics,
            probes_unlisted: self.flags,
            warnings: Vec::new(),
        })
    }

    fn uplinks(&mut self, uplinks: Vec<Option<DraftUplink>>, carriers: &mut Seen<InterfaceName>) -> Vec<Uplink> {
        let mut names = Seen::new();
        let mut checked = Vec::new();
        for (uplink, position) in uplinks.into_iter().zip(1..) {
            let Some(uplink) = uplink else { continue };
            let interface = uplink.interface.value.as_str();
            if interface == "lo" {
                self.reserved(
                    &uplink.interface,
                    "an uplink",
                    "it leads nowhere beyond this host; name another interface",
                );
            }
            self.not_the_anchor(&uplink.interface, "an uplink");
            self.ipv6_fits(&uplink);
            // A name taken from the interface repeats whenever the interface does; one message is enough.
            let repeated = carriers.0.contains_key(&uplink.interface.value);
            self.unique(
                carriers,
                &uplink.interface,
                "uplink interface",
                "an interface is one uplink, remove one of the two",
            );
            if !repeated || uplink.name.place != uplink.interface.place || uplink.name.value.as_str() != interface {
                self.unique(&mut names, &uplink.name, "uplink name", "give each uplink its own name");
            }
            checked.push(Uplink {
                name: uplink.name.value,
                interface: uplink.interface.value,
                cost: uplink.cost.unwrap_or(COST_STEP.saturating_mul(position)),
                mtu: uplink.mtu.map(|placed| placed.value),
                v4: uplink.v4,
                v6: uplink.v6,
                metered: uplink.metered.is_some_and(|placed| placed.value),
                hotplug: uplink.hotplug,
                xdp: uplink.xdp,
            });
        }
        checked
    }

    fn tunnels(
        &mut self,
        tunnels: Vec<Option<DraftTunnel>>,
        uplinks: usize,
        profile: Profile,
        carriers: &Seen<InterfaceName>,
    ) -> Vec<Tunnel> {
        let mut interfaces = Seen::new();
        let mut checked = Vec::new();
        for tunnel in tunnels.into_iter().flatten() {
            self.not_the_anchor(&tunnel.interface, "a tunnel");
            if tunnel.interface.value.as_str() == "lo" {
                self.reserved(
                    &tunnel.interface,
                    "a tunnel",
                    "it is not a WireGuard interface; name one, such as \"wg0\"",
                );
            }
            if let Some(other) = carriers.0.get(&tunnel.interface.value) {
                let found = tunnel.interface.value.to_string();
                self.add(tunnel.interface.place, Fault::TunnelIsUplink { found, other: *other });
            }
            self.unique(
                &mut interfaces,
                &tunnel.interface,
                "tunnel interface",
                "remove one of the two",
            );
            let protect = self.protect(tunnel.policy, tunnel.protect);
            checked.push(Tunnel {
                interface: tunnel.interface.value,
                policy: tunnel.policy,
                protect,
                mtu: tunnel.mtu,
                clamp_mss: tunnel.clamp_mss,
                objectives: tunnel.objectives,
                peers: self.peers(tunnel.peers, uplinks, profile),
            });
        }
        checked
    }

    /// Two keys that say the same must not say different things.
    fn protect(&mut self, policy: Policy, asked: Option<Placed<Protect>>) -> Protect {
        let implied = match policy {
            Policy::Failover => return asked.map_or(Protect::Suspect, |placed| placed.value),
            Policy::Duplicate => Protect::Always,
        };
        if let Some(Placed { place, value }) = asked.filter(|placed| placed.value != implied) {
            self.add(place, Fault::DuplicateUnprotected(value));
        }
        implied
    }

    fn peers(&mut self, peers: Vec<Option<DraftPeer>>, uplinks: usize, profile: Profile) -> Vec<Peer> {
        let (mut keys, mut names, mut endpoints) = (Seen::new(), Seen::new(), Seen::new());
        let mut checked = Vec::new();
        for peer in peers.into_iter().flatten() {
            self.unique(
                &mut keys,
                &peer.public_key,
                "public-key",
                "list each peer of a tunnel once",
            );
            if let Some(name) = &peer.name {
                self.unique(&mut names, name, "peer name", "give each peer of a tunnel its own name");
            }
            for endpoint in &peer.endpoints {
                self.unique(
                    &mut endpoints,
                    endpoint,
                    "endpoint",
                    "an endpoint leads to one peer, list it once",
                );
            }
            let count = peer.endpoints.len().max(1);
            // Too many uplinks for one endpoint are the uplinks' fault, and a warning; more than there is room for is an error already.
            if uplinks.saturating_mul(count) > MAX_PATHS_PER_PEER && uplinks <= MAX_UPLINKS {
                self.add(
                    peer.place,
                    Fault::TooManyPaths {
                        uplinks,
                        endpoints: count,
                    },
                );
            }
            let probe = Probe {
                kind: peer.probe.kind.unwrap_or(ProbeKind::Icmp),
                interval: peer.probe.interval.unwrap_or(profile.probe_interval()),
                target: peer.probe.target.map(|placed| placed.value),
                port: port(&peer.probe),
            };
            checked.push(Peer {
                public_key: peer.public_key.value,
                name: peer.name.map(|placed| placed.value),
                endpoints: peer.endpoints.into_iter().map(|placed| placed.value).collect(),
                probe,
            });
        }
        checked
    }

    /// An MTU with which IPv6 cannot be, on an uplink that is told to have it.
    fn ipv6_fits(&mut self, uplink: &DraftUplink) {
        let Some(Placed { place, value: mtu }) = uplink.mtu.filter(|mtu| mtu.value < IPV6_LEAST) else {
            return;
        };
        if uplink.v6.address != AddressChoice::Auto {
            self.add(place, Fault::Ipv6Mtu(mtu, "address"));
        } else if matches!(uplink.v6.gateway, GatewayChoice::Via(_)) {
            self.add(place, Fault::Ipv6Mtu(mtu, "gateway"));
        }
    }

    fn not_the_anchor(&mut self, interface: &Placed<InterfaceName>, what: &'static str) {
        if ANCHOR.contains(&interface.value.as_str()) {
            self.reserved(interface, what, "wgxdp makes it itself; name another interface");
        }
    }

    fn reserved(&mut self, interface: &Placed<InterfaceName>, what: &'static str, why: &'static str) {
        self.add(
            interface.place,
            Fault::Reserved {
                found: interface.value.to_string(),
                what,
                why,
            },
        );
    }
}

/// At which port the reflector listens that STAMP probes are meant for, or the port of TCP's; `None`: they are for the far end itself, in band, or have none.
fn port(probe: &DraftProbe) -> Option<u16> {
    match probe.kind {
        Some(ProbeKind::Stamp) if probe.target.is_some() => Some(probe.port.unwrap_or(stamp::PORT)),
        _ => probe.port,
    }
}
