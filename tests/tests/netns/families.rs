//! A tunnel of one address family goes on over an uplink that has only the other one: its packets are translated, both ways.

use anyhow::{Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};

use crate::command::status;
use crate::scene::{Scene, nothing_lost};
use crate::status::path;
use crate::{BOUND, alone};

/// Takes all addresses of this family from the branch's uplink, and with them its routes.
fn strip(lab: &Lab, uplink: Uplink, family: Family) -> Result<()> {
    let family = match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    };
    let device = uplink.name();
    lab.branch
        .run("ip", &[family, "addr", "flush", "dev", device, "scope", "global"])
        .map(drop)
}

/// The hub hears the branch over `uplink` in `family`.
fn await_address(scene: &Scene, uplink: Uplink, family: Family) -> Result<()> {
    let wanted = uplink.address(family);
    let what = format!("the hub to hear {wanted}");
    let heard = || {
        Ok(scene
            .lab
            .hub_wg
            .endpoint()?
            .is_some_and(|endpoint| endpoint.ip() == wanted))
    };
    scene.log_on_error(poll::wait_until(&what, BOUND, heard))
}

/// The preferred uplink has only WireGuard's own family, the standby only the other one.
fn goes_on_in_the_other_family(family: Family) -> Result<()> {
    let lab = Lab::raise(family)?;
    strip(&lab, Uplink::A, family.other())?;
    strip(&lab, Uplink::B, family)?;
    let settings = Settings {
        also_at: Some(lab.other_hub_endpoint()),
        ..Settings::default()
    };
    let mut scene = Scene::raise_in(lab, &settings)?;
    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    let mark = scene.traffic.tcp.mark();
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.log_on_error(scene.traffic.tcp.await_life(mark, BOUND))?;
    await_address(&scene, Uplink::B, family.other())?;
    scene.wireguard_noticed_nothing()?;
    let healed_ns = scene.lab.heal(severed)?;
    await_address(&scene, Uplink::A, family)?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(healed_ns)?.both()))
}

#[test]
fn a_tunnel_over_ipv4_goes_on_over_an_uplink_that_has_only_ipv6() -> Result<()> {
    let Some(_alone) = alone("IPv4 in IPv6's place") else {
        return Ok(());
    };
    goes_on_in_the_other_family(Family::V4)
}

#[test]
fn a_tunnel_over_ipv6_goes_on_over_an_uplink_that_has_only_ipv4() -> Result<()> {
    let Some(_alone) = alone("IPv6 in IPv4's place") else {
        return Ok(());
    };
    goes_on_in_the_other_family(Family::V6)
}

/// A family that an uplink loses while the daemon runs takes only the paths of that family with it.
#[test]
fn an_uplink_that_loses_its_address_in_one_family_goes_on_in_the_other() -> Result<()> {
    let Some(_alone) = alone("an address lost") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    strip(&lab, Uplink::B, Family::V4)?;
    strip(&lab, Uplink::B, Family::V6)?;
    let settings = Settings {
        also_at: Some(lab.other_hub_endpoint()),
        ..Settings::default()
    };
    let scene = Scene::raise_in(lab, &settings)?;
    strip(&scene.lab, Uplink::A, Family::V4)?;
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    await_address(&scene, Uplink::A, Family::V6)?;
    let shown = status(&scene.lab.branch)?;
    let lost = path(&shown, Uplink::A)?;
    ensure!(
        lost.get("state") == Some(&"down".into()),
        "the first path over isp-a is the one of IPv4: {shown}"
    );
    Ok(())
}
