//! A tunnel outlives its uplinks whatever kinds of device they are: every pair of Ethernet, plain IP (tun) and VLAN,
//! but for two of Ethernet, whose laws are in `outlives`. On a tun device the packets are bytes
//! that a program carries: a transport checksum that was left to the hardware, or rewritten wrongly, would be a packet lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use wgxdp_tests::access::Kind::{self, Tun, Veth, Vlan};
use wgxdp_tests::capture::{Capture, Seen};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::{Cut, Severed};
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::privilege::kind_or_skip;
use wgxdp_tests::topology::{Family, Uplink};
use wgxdp_tests::wireguard::LISTEN_PORT;

use crate::command::status;
use crate::scene::{Scene, nothing_lost};
use crate::status::path;
use crate::{BOUND, alone};

/// How long the hub listens for packets from the wrong uplink.
const OBSERVED: Duration = Duration::from_millis(200);

/// The preferred uplink is used; hung up, the other one is; connected again, it is used again with nothing lost; and again the other one when nothing passes
/// beyond the provider.
fn serves(preferred: Kind, standby: Kind, family: Family) -> Result<()> {
    for kind in [preferred, standby] {
        if !kind_or_skip(kind)? {
            return Ok(());
        }
    }
    let mut scene = Scene::raise_over([preferred, standby], family, &Settings::default())?;
    for uplink in Uplink::ALL {
        scene.log_on_error(proven(&scene, uplink))?;
    }
    let capture = Capture::start(&scene.lab.hub)?;
    scene.log_on_error(all_from(&scene, &capture, Uplink::A))?;
    let severed = moves_to_the_standby(&mut scene, &capture, Cut::CarrierLoss)?;
    let healed_ns = scene.lab.heal(severed)?;
    scene.await_uplink(Uplink::A)?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(healed_ns)?.both()))?;
    scene.log_on_error(all_from(&scene, &capture, Uplink::A))?;
    let _cut = moves_to_the_standby(&mut scene, &capture, Cut::Blackhole)?;
    scene.wireguard_noticed_nothing()
}

/// With the preferred uplink cut, all goes on over the other one, TCP too.
fn moves_to_the_standby(scene: &mut Scene, capture: &Capture, cut: Cut) -> Result<Severed> {
    let severed = scene.lab.cut(cut, Uplink::A)?;
    let mark = scene.traffic.tcp.mark();
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.log_on_error(scene.traffic.tcp.await_life(mark, BOUND))?;
    scene.await_uplink(Uplink::B)?;
    scene.log_on_error(all_from(scene, capture, Uplink::B))?;
    Ok(severed)
}

/// Probes come back over `uplink`.
fn proven(scene: &Scene, uplink: Uplink) -> Result<()> {
    let what = format!("a round trip over {}", uplink.name());
    poll::wait_until(&what, BOUND, || {
        let shown = status(&scene.lab.branch)?;
        let path = path(&shown, uplink)?;
        Ok(path.get("state") == Some(&"up".into()) && path.get("rtt_ms").is_some_and(serde_json::Value::is_number))
    })
}

/// For a while the hub hears its peer over `uplink` alone, from that uplink's address.
fn all_from(scene: &Scene, capture: &Capture, uplink: Uplink) -> Result<()> {
    let mark = capture.mark()?;
    observe_for(OBSERVED)?;
    let tunnel = |seen: &Seen| !seen.left && seen.destination.port() == LISTEN_PORT;
    let heard = capture.since(mark, tunnel)?;
    ensure!(!heard.is_empty(), "the hub heard nothing over {}", uplink.name());
    let address = uplink.address(scene.lab.family());
    let stray = heard
        .iter()
        .find(|seen| seen.device != uplink.name() || seen.source.ip() != address);
    ensure!(stray.is_none(), "with {} in use the hub heard {stray:?}", uplink.name());
    Ok(())
}

macro_rules! laws {
    ($($law:ident: $preferred:ident, $standby:ident, $family:ident;)+) => {
        $(
            #[test]
            fn $law() -> Result<()> {
                let Some(_alone) = alone(stringify!($law)) else { return Ok(()) };
                serves($preferred, $standby, Family::$family)
            }
        )+
    };
}

laws! {
    a_tunnel_is_served_by_veth_and_tun: Veth, Tun, V4;
    a_tunnel_is_served_by_tun_and_veth: Tun, Veth, V4;
    a_tunnel_is_served_by_tun_and_tun: Tun, Tun, V4;
    a_tunnel_over_ipv6_is_served_by_veth_and_tun: Veth, Tun, V6;
    a_tunnel_over_ipv6_is_served_by_tun_and_veth: Tun, Veth, V6;
    a_tunnel_is_served_by_vlan_and_veth: Vlan, Veth, V4;
    a_tunnel_is_served_by_veth_and_vlan: Veth, Vlan, V4;
    a_tunnel_is_served_by_vlan_and_tun: Vlan, Tun, V4;
    a_tunnel_is_served_by_tun_and_vlan: Tun, Vlan, V4;
}
