//! Several tunnels on one host share the anchor and the uplinks; a tunnel is followed to the port on which it listens.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{BRANCH_INNER, Family, HUB_INNER, Lab, Uplink};
use wgxdp_tests::traffic::answer::{Responder, ask};
use wgxdp_tests::wireguard::{Keys, LISTEN_PORT, Peer, Setup, WireGuard};

use crate::{BOUND, alone};

const SECOND: &str = "wg1";
/// Where the second tunnel's hub listens.
const SECOND_PORT: u16 = LISTEN_PORT + 1;
const SECOND_BRANCH: Ipv4Addr = Ipv4Addr::new(10, 58, 0, 1);
const SECOND_HUB: Ipv4Addr = Ipv4Addr::new(10, 58, 0, 2);

/// Another tunnel between the same hosts, whose branch listens on any port.
struct Second {
    branch: WireGuard,
    hub: WireGuard,
    hub_public_key: String,
}

impl Second {
    fn raise(lab: &Lab) -> Result<Self> {
        let (branch, hub) = (Keys::generate(), Keys::generate());
        let endpoint = (lab.hub_endpoint().ip(), SECOND_PORT).into();
        let peer = |keys, allowed_ip, endpoint| Peer {
            public_key: keys,
            allowed_ip,
            endpoint,
        };
        let at_hub = Setup {
            interface: SECOND,
            listen_port: Some(SECOND_PORT),
            keys: &hub,
            address: &format!("{SECOND_HUB}/24"),
            peers: &[peer(&branch.public, "10.58.0.1/32", None)],
        };
        let at_branch = Setup {
            interface: SECOND,
            listen_port: None,
            keys: &branch,
            address: &format!("{SECOND_BRANCH}/24"),
            peers: &[peer(&hub.public, "10.58.0.2/32", Some(endpoint))],
        };
        Ok(Self {
            hub: WireGuard::raise(&lab.hub, &at_hub)?,
            branch: WireGuard::raise(&lab.branch, &at_branch)?,
            hub_public_key: hub.public.clone(),
        })
    }

    /// Its part of the configuration.
    fn toml(&self, lab: &Lab) -> String {
        let (key, ip) = (&self.hub_public_key, lab.hub_endpoint().ip());
        let interval = Settings::default().probe_interval.as_millis();
        format!(
            "\n[[tunnel]]\ninterface = \"{SECOND}\"\n\n[[tunnel.peer]]\npublic-key = \"{key}\"\nname = \"second\"\n\
             endpoints = [\"{ip}:{SECOND_PORT}\"]\nprobe = {{ kind = \"icmp\", interval = \"{interval}ms\" }}\n"
        )
    }
}

/// Questions from `branch` are answered, and the hub hears them from `uplink` and from the port on which the branch listens.
fn carried_by(
    uplink: Uplink,
    lab: &Lab,
    (branch, from): (&WireGuard, Ipv4Addr),
    (hub, to): (&WireGuard, Ipv4Addr),
) -> Result<()> {
    let source = SocketAddr::new(uplink.address(Family::V4), branch.listen_port()?);
    poll::wait_until(&format!("the hub to hear {source}"), BOUND, || {
        ask((&lab.branch, from), to, BOUND)?;
        Ok(hub.endpoint()? == Some(source))
    })
}

fn first_carried_by(uplink: Uplink, lab: &Lab) -> Result<()> {
    carried_by(uplink, lab, (&lab.branch_wg, BRANCH_INNER), (&lab.hub_wg, HUB_INNER))
}

fn both_carried_by(uplink: Uplink, lab: &Lab, second: &Second) -> Result<()> {
    first_carried_by(uplink, lab)?;
    carried_by(uplink, lab, (&second.branch, SECOND_BRANCH), (&second.hub, SECOND_HUB))
}

fn both_outlive_the_uplink(lab: &mut Lab, second: &Second) -> Result<()> {
    both_carried_by(Uplink::A, lab, second)?;
    for cut in [Cut::Blackhole, Cut::CarrierLoss] {
        let severed = lab.cut(cut, Uplink::A)?;
        both_carried_by(Uplink::B, lab, second)?;
        lab.heal(severed)?;
        both_carried_by(Uplink::A, lab, second)?;
    }
    Ok(())
}

#[test]
fn two_tunnels_share_the_uplinks_one_of_them_on_a_random_port() -> Result<()> {
    let Some(_alone) = alone("two tunnels") else {
        return Ok(());
    };
    let mut lab = Lab::raise(Family::V4)?;
    let second = Second::raise(&lab)?;
    let settings = Settings {
        more: second.toml(&lab),
        ..Settings::default()
    };
    let daemon = Daemon::start(&lab, &settings)?;
    let _responders = (
        Responder::start(&lab.hub, HUB_INNER)?,
        Responder::start(&lab.hub, SECOND_HUB)?,
    );
    both_outlive_the_uplink(&mut lab, &second).with_context(|| daemon.log().text())
}

/// `steer` and `restore` know the tunnel's port once there is its rule, and it alone.
fn await_port(lab: &Lab, port: u16) -> Result<()> {
    poll::wait_until(&format!("the rule for port {port}"), BOUND, || {
        let rules = lab.branch.run("ip", &["rule", "show"])?;
        let ports: Vec<&str> = rules
            .split("sport ")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next())
            .collect();
        Ok(ports == [port.to_string()])
    })
}

fn moves_to_another_port(lab: &mut Lab) -> Result<()> {
    first_carried_by(Uplink::A, lab)?;
    let port = LISTEN_PORT + 2;
    lab.branch_wg.set(&["listen-port", &port.to_string()])?;
    await_port(lab, port)?;
    first_carried_by(Uplink::A, lab)?;
    let severed = lab.cut(Cut::Blackhole, Uplink::A)?;
    first_carried_by(Uplink::B, lab)?;
    lab.heal(severed)?;
    first_carried_by(Uplink::A, lab)?;
    ensure!(lab.branch_wg.listen_port()? == port, "the port has changed once more");
    Ok(())
}

#[test]
fn a_tunnel_whose_listen_port_changes_is_followed() -> Result<()> {
    let Some(_alone) = alone("a listen port that changes") else {
        return Ok(());
    };
    let mut lab = Lab::raise(Family::V4)?;
    let daemon = Daemon::start(&lab, &Settings::default())?;
    let _responder = Responder::start(&lab.hub, HUB_INNER)?;
    moves_to_another_port(&mut lab).with_context(|| daemon.log().text())
}
