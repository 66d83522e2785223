//! wgxdp at the hub, too. There the hub has its address on both of its devices, as a host that is known by one address behind two providers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::poll;
use crate::topology::{Lab, Uplink};
use crate::wireguard::{INTERFACE, LISTEN_PORT};

/// Starts a daemon at the hub, with the branch as its peer at both of its addresses. `top`, `tunnel` and `peer` are lines of the configuration: the
/// first ones, and what else stands in those tables.
///
/// # Errors
/// The hub refused the addresses, or the daemon did not become ready.
pub fn start(lab: &Lab, top: &str, tunnel: &str, peer: &str) -> Result<Daemon> {
    let branch = lab.hub.run("wg", &["show", INTERFACE, "peers"])?;
    let endpoints = Uplink::ALL.map(|uplink| SocketAddr::new(uplink.address(lab.family()), LISTEN_PORT).to_string());
    let peer = format!(
        "[[tunnel.peer]]\npublic-key = \"{}\"\nname = \"branch\"\nendpoints = {endpoints:?}\n{peer}",
        branch.trim(),
    );
    start_with(lab, top, tunnel, &peer)
}

/// Starts a daemon at the hub that is told of no peer: it learns where the branch is.
///
/// # Errors
/// As [`start`].
pub fn start_as_concentrator(lab: &Lab) -> Result<Daemon> {
    start_with(lab, "", "", "")
}

fn start_with(lab: &Lab, top: &str, tunnel: &str, peer: &str) -> Result<Daemon> {
    for uplink in Uplink::ALL.map(Uplink::name) {
        lab.hub.ip([
            format!("addr add 203.0.113.1/32 dev {uplink}"),
            format!("addr add 2001:db8:c::1/128 dev {uplink} nodad"),
        ])?;
    }
    let toml = format!(
        "{top}\n{}[[tunnel]]\ninterface = \"{INTERFACE}\"\n{tunnel}\n{peer}",
        Uplink::ALL.map(uplink_toml).concat(),
    );
    Daemon::start_in(&lab.hub, &toml)
}

/// Waits until the hub knows what leads nowhere: from either of its uplinks to the branch's address on the other. Until then those two paths have credit.
///
/// # Errors
/// It did not learn that within `bound`.
pub fn await_knowledge(hub: &Daemon, bound: Duration) -> Result<()> {
    poll::wait_until("the hub to know what leads nowhere", bound, || {
        let down = |line: &&String| line.contains(" down after ");
        Ok(hub.log().since(0).iter().filter(down).count() >= 2)
    })
}

fn uplink_toml(uplink: Uplink) -> String {
    let gateways = match uplink {
        Uplink::A => ["10.1.0.1", "fd57:1::1"],
        Uplink::B => ["10.2.0.1", "fd57:2::1"],
    };
    format!(
        "[[uplink]]\nname = \"{0}\"\ninterface = \"{0}\"\naddress = [\"203.0.113.1\", \"2001:db8:c::1\"]\ngateway = {gateways:?}\n\n",
        uplink.name()
    )
}
