//! What is refused before anything is touched, beside what is not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use wgxdp_common::id::UplinkId;
use wgxdp_common::table::LinkKind;

use super::super::uplink::{Remembered, State};
use super::*;
use crate::config::PublicKey;
use crate::host::link::Link;

const KEY: [u8; 32] = [7; 32];

fn link(index: u32, name: &str, addresses: &[&str]) -> Link {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let v4 = addresses.iter().filter_map(|ip| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().filter_map(|ip| match ip {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    });
    Link {
        index,
        name: name.into(),
        kind: LinkKind::ETHERNET,
        driver: None,
        alias: None,
        mac: None,
        mtu: 1500,
        admin_up: true,
        carrier: true,
        noarp: false,
        v4: v4.collect(),
        v6: v6.collect(),
        gateway4: None,
        gateway6: None,
        route_mtu4: None,
        route_mtu6: None,
    }
}

/// Uplinks `isp-a` (eth0, with `mtu`) and `isp-b` (eth1), and a peer with these keys.
fn config(mtu: &str, peer: &str) -> Config {
    let text = format!(
        "[[uplink]]\nname = 'isp-a'\ninterface = 'eth0'\n{mtu}\n[[uplink]]\nname = 'isp-b'\ninterface = 'eth1'\n\
         [[tunnel]]\ninterface = 'wg0'\n[[tunnel.peer]]\npublic-key = '{}'\nname = 'hub'\n{peer}\n",
        PublicKey::from(KEY)
    );
    Config::from_toml(&text, Path::new("wgxdp.toml")).expect("a valid configuration")
}

fn plan(config: &Config, canonical: &str) -> PeerPlan {
    let canonical = canonical.parse().unwrap();
    let peer = &config.tunnels()[0].peers[0];
    let endpoints = peer.endpoints.clone();
    PeerPlan {
        tunnel: 0,
        port: 51820,
        key: PublicKey::from(KEY),
        name: Some("hub".into()),
        canonical,
        endpoints: if endpoints.is_empty() {
            vec![canonical]
        } else {
            endpoints
        },
        interval: std::time::Duration::from_millis(50),
        kind: crate::config::ProbeKind::Icmp,
        target: peer.probe.target,
        target_port: None,
        uplinks: vec![0, 1],
        protect: config.tunnels()[0].protect,
    }
}

/// The verdict of both checks on a host whose uplinks are these.
fn verdict(config: &Config, canonical: &str, links: [Link; 2]) -> Result<(), Refusal> {
    let view = View {
        links: BTreeMap::from(links.map(|link| (link.name.clone(), link))),
    };
    let uplinks: Vec<UplinkRuntime> = (0..)
        .map(UplinkId)
        .zip(config.uplinks())
        .map(|(id, uplink)| UplinkRuntime {
            state: State::of(id, uplink, &view, &mut Remembered::default()),
            remembered: Remembered::default(),
            attached: None,
            guard: Default::default(),
        })
        .collect();
    let plan = plan(config, canonical);
    families(config, [&plan], &uplinks, &view)?;
    ipv6_mtus(config, [&plan], &uplinks)
}

fn v4_only() -> [Link; 2] {
    [
        link(2, "eth0", &["192.0.2.10"]),
        link(3, "eth1", &["198.51.100.10", "198.51.100.11"]),
    ]
}

fn dual() -> [Link; 2] {
    [
        link(2, "eth0", &["192.0.2.10", "2001:db8:a::10"]),
        link(3, "eth1", &["198.51.100.10"]),
    ]
}

#[test]
fn an_endpoint_of_a_family_that_no_uplink_has_is_refused_with_their_addresses() {
    let mixed = config("", "endpoints = ['203.0.113.1:51820', '[2001:db8::1]:51820']");
    assert_eq!(
        verdict(&mixed, "203.0.113.1:51820", v4_only()).unwrap_err().to_string(),
        "peer hub: endpoint [2001:db8::1]:51820 is IPv6, but no uplink has an IPv6 address: isp-a (eth0) has 192.0.2.10, \
         isp-b (eth1) has 198.51.100.10, 198.51.100.11; give one of them such an address, or remove it"
    );
    let target = config(
        "",
        "endpoints = ['203.0.113.1:51820']\nprobe = { target = '2001:db8::1' }",
    );
    let message = verdict(&target, "203.0.113.1:51820", v4_only())
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("peer hub: target 2001:db8::1 is IPv6, but no uplink"),
        "{message}"
    );
}

#[test]
fn one_uplink_with_the_family_is_enough() {
    let mixed = config("", "endpoints = ['203.0.113.1:51820', '[2001:db8::1]:51820']");
    assert_eq!(verdict(&mixed, "203.0.113.1:51820", dual()), Ok(()));
}

#[test]
fn while_an_uplink_is_down_nobody_knows_what_it_will_have() {
    let mixed = config("", "endpoints = ['203.0.113.1:51820', '[2001:db8::1]:51820']");
    let [a, mut b] = v4_only();
    b.admin_up = false;
    assert_eq!(verdict(&mixed, "203.0.113.1:51820", [a, b]), Ok(()));
}

#[test]
fn what_wireguard_learned_by_itself_is_no_reason_to_refuse() {
    let learned = config("", "");
    assert_eq!(verdict(&learned, "[2001:db8::1]:51820", v4_only()), Ok(()));
}

#[test]
fn an_mtu_below_1280_is_refused_where_ipv6_is_used() {
    let endpoints = "endpoints = ['203.0.113.1:51820', '[2001:db8::1]:51820']";
    let small = config("mtu = 1279", endpoints);
    assert_eq!(
        verdict(&small, "203.0.113.1:51820", dual()).unwrap_err().to_string(),
        "uplink isp-a: mtu = 1279 is below 1280, the least that IPv6 needs (RFC 8200, section 5), but 2001:db8::1 shall be reached over it; \
         raise mtu, or take IPv6 off eth0"
    );
    let enough = config("mtu = 1280", endpoints);
    assert_eq!(verdict(&enough, "203.0.113.1:51820", dual()), Ok(()));
    let v4 = config("mtu = 1279", "endpoints = ['203.0.113.1:51820']");
    assert_eq!(
        verdict(&v4, "203.0.113.1:51820", dual()),
        Ok(()),
        "IPv6 is there but not used"
    );
    let [a, b] = v4_only();
    let [wide, _] = dual();
    let elsewhere = [
        a,
        Link {
            name: b.name,
            index: b.index,
            ..wide
        },
    ];
    assert_eq!(
        verdict(&small, "203.0.113.1:51820", elsewhere),
        Ok(()),
        "another uplink carries IPv6"
    );
}
