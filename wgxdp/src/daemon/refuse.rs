//! What the configuration asks of the uplinks and they do not have, known as soon as they are seen.

use std::net::IpAddr;

use tracing::warn;
use wgxdp_common::liveness::Flags;

use super::UplinkRuntime;
use super::plan::PeerPlan;
use super::uplink::describe;
use crate::config::{Config, Peer};
use crate::host::view::View;
use crate::mtu::{Family, IPV6_LEAST};

/// Why the uplinks cannot do what the configuration asks of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody can send there.
    #[error(
        "peer {peer}: {what} is {family}, but no uplink has an {family} address: {uplinks}; give one of them such an address, or remove it"
    )]
    NoFamily {
        /// The peer.
        peer: String,
        /// The endpoint or the target.
        what: String,
        /// Its family.
        family: Family,
        /// The uplinks with their addresses.
        uplinks: String,
    },
    /// The configured MTU of an uplink is too small for IPv6, which is used there.
    #[error(
        "uplink {uplink}: mtu = {mtu} is below {IPV6_LEAST}, the least that IPv6 needs (RFC 8200, section 5), but {endpoint} shall be reached over it; \
         raise mtu, or take IPv6 off {interface}"
    )]
    Ipv6Mtu {
        /// The uplink.
        uplink: String,
        /// Its interface.
        interface: String,
        /// What is configured.
        mtu: u32,
        /// An IPv6 endpoint.
        endpoint: IpAddr,
    },
}

/// Refuses an endpoint or a target whose family no uplink has. While an uplink is down nobody knows what it will have, and what WireGuard
/// learned by itself is nobody's mistake: those are warnings.
pub(super) fn families<'a>(
    config: &Config,
    plans: impl IntoIterator<Item = &'a PeerPlan>,
    uplinks: &[UplinkRuntime],
    view: &View,
) -> Result<(), Refusal> {
    let has = |family| uplinks.iter().any(|uplink| uplink.state.mtus.family(family).is_some());
    let certain = uplinks.iter().all(|uplink| uplink.state.flags == Flags::NONE);
    let mut learned = None;
    for plan in plans {
        let missing = plan.destinations().find(|ip| !has(Family::of(*ip)));
        let Some(ip) = missing else { continue };
        let refusal = Refusal::NoFamily {
            peer: plan.label(),
            what: destination(plan, ip),
            family: Family::of(ip),
            uplinks: addresses(config, view),
        };
        let written = config.tunnels()[plan.tunnel]
            .peer(&plan.key)
            .is_some_and(|peer| is_written(peer, ip));
        if written && certain {
            return Err(refusal);
        }
        learned.get_or_insert(refusal);
    }
    if let Some(refusal) = learned {
        warn!("{refusal}");
    }
    Ok(())
}

/// Refuses an uplink that has IPv6, is needed for it, and is told to be too small for it.
pub(super) fn ipv6_mtus<'a>(
    config: &Config,
    plans: impl IntoIterator<Item = &'a PeerPlan>,
    uplinks: &[UplinkRuntime],
) -> Result<(), Refusal> {
    let mut destinations = plans.into_iter().flat_map(PeerPlan::destinations);
    let Some(endpoint) = destinations.find(|ip| Family::of(*ip) == Family::V6) else {
        return Ok(());
    };
    for (uplink, runtime) in config.uplinks().iter().zip(uplinks) {
        if let Some(mtu) = uplink.mtu.filter(|mtu| *mtu < IPV6_LEAST)
            && runtime.state.mtus.v6.is_some()
        {
            return Err(Refusal::Ipv6Mtu {
                uplink: uplink.name.to_string(),
                interface: uplink.interface.to_string(),
                mtu,
                endpoint,
            });
        }
    }
    Ok(())
}

fn is_written(peer: &Peer, ip: IpAddr) -> bool {
    peer.endpoints.iter().any(|endpoint| endpoint.ip() == ip) || peer.probe.target == Some(ip)
}

/// As it stands in the configuration.
fn destination(plan: &PeerPlan, ip: IpAddr) -> String {
    match plan.endpoints.iter().find(|endpoint| endpoint.ip() == ip) {
        Some(endpoint) => format!("endpoint {endpoint}"),
        None => format!("target {ip}"),
    }
}

fn addresses(config: &Config, view: &View) -> String {
    let uplinks = config.uplinks().iter().map(|uplink| {
        let interface = uplink.interface.as_str();
        let addresses = view.get(interface).map_or_else(|| "no device".into(), describe);
        format!("{} ({interface}) has {addresses}", uplink.name.as_str())
    });
    uplinks.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
