//! Laws of who is who.

use std::path::Path;

use crate::host::wireguard::{Backend, Peer, Tunnel};

use super::*;

const KEY: [u8; 32] = [7; 32];

fn config(text: &str) -> Config {
    Config::from_toml(text, Path::new("wgxdp.toml")).expect("a valid configuration")
}

/// Two uplinks, and these tunnels.
fn with(tunnels: &str) -> Config {
    config(&format!(
        "[[uplink]]\ninterface = 'eth0'\n[[uplink]]\ninterface = 'eth1'\n{tunnels}"
    ))
}

fn listed(keys: &str) -> Config {
    let key = PublicKey::from(KEY);
    with(&format!(
        "[[tunnel]]\ninterface = 'wg0'\n[[tunnel.peer]]\npublic-key = '{key}'\n{keys}\n"
    ))
}

fn tunnel(name: &str, port: u16, endpoint: Option<&str>) -> Tunnel {
    let peer = Peer {
        public_key: wireguard_control::Key(KEY),
        endpoint: endpoint.map(|endpoint| endpoint.parse().expect("an endpoint")),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        persistent_keepalive: None,
        carries_v6: false,
    };
    Tunnel {
        name: name.into(),
        listen_port: Some(port),
        fwmark: 0,
        public_key: None,
        backend: Backend::Kernel,
        peers: vec![peer],
    }
}

fn only(config: &Config, endpoint: Option<&str>) -> PeerPlan {
    let plans = peers(config, &[tunnel("wg0", 51820, endpoint)], &Unlisted::new()).expect("a plan");
    plans.peers.into_iter().next().expect("one peer")
}

#[test]
fn two_tunnels_on_one_port_are_refused_by_name_and_on_two_ports_are_not() {
    let config = with("[[tunnel]]\ninterface = 'wg0'\n[[tunnel]]\ninterface = 'wg1'\n");
    let pair = |port| [tunnel("wg0", 51820, None), tunnel("wg1", port, None)];
    let refused = peers(&config, &pair(51820), &Unlisted::new()).expect_err("one port");
    assert_eq!(
        refused.to_string(),
        "tunnels wg0 and wg1 both have listen port 51820, by which packets are told apart: give one of them another ListenPort in its \
         WireGuard configuration"
    );
    assert!(peers(&config, &pair(51821), &Unlisted::new()).is_ok());
}

#[test]
fn a_peer_may_have_endpoints_of_both_families_whichever_one_wireguard_knows() {
    let config = listed("endpoints = ['192.0.2.1:1', '[2001:db8::1]:1']");
    for canonical in ["192.0.2.1:1", "[2001:db8::1]:1", "[2001:db8::99]:1"] {
        let plan = only(&config, Some(canonical));
        assert_eq!(plan.canonical, canonical.parse().unwrap());
        let families: Vec<_> = plan.paths(PeerId(0)).iter().map(PathPlan::family).collect();
        use crate::mtu::Family::{V4, V6};
        assert_eq!(families, [V4, V6, V4, V6]);
    }
}

#[test]
fn every_path_of_a_tunnel_copies_as_its_file_says() {
    use wgxdp_common::liveness::Protect;
    for (keys, expected) in [
        ("", Protect::SUSPECT),
        ("protect = 'off'", Protect::OFF),
        ("policy = 'duplicate'", Protect::ALWAYS),
    ] {
        let key = PublicKey::from(KEY);
        let peer = format!("[[tunnel.peer]]\npublic-key = '{key}'\nendpoints = ['192.0.2.1:1', '192.0.2.2:1']");
        let plan = only(&with(&format!("[[tunnel]]\ninterface = 'wg0'\n{keys}\n{peer}\n")), None);
        let (_, paths) = plan.entries(PeerId(0));
        assert_eq!(
            paths.iter().map(|path| path.protect).collect::<Vec<_>>(),
            [expected; 4],
            "{keys}"
        );
    }
}

#[test]
fn probes_go_to_the_port_and_target_that_they_have_and_stamp_s_without_either_to_the_endpoint_itself() {
    let targets = |probe: &str| {
        let plan = only(
            &listed(&format!("endpoints = ['192.0.2.1:1']\nprobe = {{ {probe} }}")),
            None,
        );
        plan.paths(PeerId(0))
            .iter()
            .map(|path| path.target.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        targets("kind = 'stamp'"),
        ["192.0.2.1:1 in band", "192.0.2.1:1 in band"]
    );
    assert_eq!(
        targets("kind = 'stamp', port = 862"),
        ["192.0.2.1:862", "192.0.2.1:862"]
    );
    assert_eq!(
        targets("kind = 'stamp', target = '192.0.2.9'"),
        ["192.0.2.9:862", "192.0.2.9:862"]
    );
    assert_eq!(
        targets("kind = 'stamp', target = '2001:db8::9', port = 7"),
        ["[2001:db8::9]:7", "[2001:db8::9]:7"]
    );
    assert_eq!(
        targets("kind = 'tcp', port = 443"),
        ["192.0.2.1:443 by TCP", "192.0.2.1:443 by TCP"]
    );
    assert_eq!(
        targets("kind = 'tcp', port = 22, target = '192.0.2.9'"),
        ["192.0.2.9:22 by TCP", "192.0.2.9:22 by TCP"]
    );
}

#[test]
fn a_target_is_probed_over_paths_of_its_family_and_over_all_if_there_are_none() {
    let targets = |endpoints: &str, target: &str| {
        let config = listed(&format!("endpoints = [{endpoints}]\nprobe = {{ target = '{target}' }}"));
        let plan = only(&config, None);
        let paths = plan.paths(PeerId(0));
        paths.iter().map(|path| path.target.to_string()).collect::<Vec<_>>()
    };
    let both = "'192.0.2.1:1', '[2001:db8::1]:1'";
    assert_eq!(
        targets(both, "192.0.2.9"),
        ["192.0.2.9", "2001:db8::1", "192.0.2.9", "2001:db8::1"]
    );
    assert_eq!(
        targets(both, "2001:db8::9"),
        ["192.0.2.1", "2001:db8::9", "192.0.2.1", "2001:db8::9"]
    );
    assert_eq!(targets("'192.0.2.1:1'", "2001:db8::9"), ["2001:db8::9", "2001:db8::9"]);
}
