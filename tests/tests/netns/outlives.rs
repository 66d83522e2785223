//! A tunnel outlives its uplinks: whatever happens to isp-a, traffic goes on over isp-b and returns with nothing lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::poll::observe_for;
use wgxdp_tests::topology::{Family, Uplink};

use crate::scene::{Scene, goes_on, nothing_lost};
use crate::{BOUND, alone, slack};

/// With isp-a cut, traffic and TCP go on over isp-b; healed, they return with nothing lost; nothing else changes.
fn outlives(cut: Cut, family: Family) -> Result<()> {
    cut_and_heal(&mut Scene::raise(family)?, cut)
}

pub(crate) fn cut_and_heal(scene: &mut Scene, cut: Cut) -> Result<()> {
    let handshakes = (
        scene.lab.branch_wg.latest_handshake()?,
        scene.lab.hub_wg.latest_handshake()?,
    );

    let severed = scene.lab.cut(cut, Uplink::A)?;
    let (cut_ns, mark) = (severed.at_ns, scene.traffic.tcp.mark());
    // From here on isp-a carries nothing, so what arrives came over isp-b.
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.log_on_error(scene.traffic.tcp.await_life(mark, BOUND))?;
    scene.await_uplink(Uplink::B)?;
    let seen = scene.traffic.observe_since(cut_ns)?.both();
    scene.log_on_error(goes_on(seen))?;
    scene.wireguard_noticed_nothing()?;
    if cut.is_impairment() {
        // The other cuts make the kernel itself withdraw routes.
        scene.foreign_routes_are_as_before()?;
    }

    let healed_ns = scene.lab.heal(severed)?;
    scene.await_uplink(Uplink::A)?;
    let seen = scene.traffic.observe_since(healed_ns)?.both();
    scene.log_on_error(nothing_lost(seen))?;
    scene.traffic.tcp.await_life(scene.traffic.tcp.mark(), BOUND)?;
    scene.wireguard_noticed_nothing()?;
    scene.foreign_routes_are_as_before()?;
    let after = (
        scene.lab.branch_wg.latest_handshake()?,
        scene.lab.hub_wg.latest_handshake()?,
    );
    ensure!(
        after == handshakes,
        "WireGuard shook hands again: {handshakes:?} → {after:?}"
    );
    Ok(())
}

macro_rules! laws {
    ($($law:ident: $cut:ident, $family:ident;)+) => {
        $(
            #[test]
            fn $law() -> Result<()> {
                let Some(_alone) = alone(stringify!($law)) else { return Ok(()) };
                outlives(Cut::$cut, Family::$family)
            }
        )+
    };
}

laws! {
    a_tunnel_over_ipv4_outlives_a_blackhole: Blackhole, V4;
    a_tunnel_over_ipv6_outlives_a_blackhole: Blackhole, V6;
    a_tunnel_over_ipv4_outlives_a_blackhole_towards_the_hub: BlackholeUp, V4;
    a_tunnel_over_ipv6_outlives_a_blackhole_towards_the_hub: BlackholeUp, V6;
    a_tunnel_over_ipv4_outlives_a_blackhole_towards_the_branch: BlackholeDown, V4;
    a_tunnel_over_ipv6_outlives_a_blackhole_towards_the_branch: BlackholeDown, V6;
    a_tunnel_over_ipv4_outlives_a_pulled_cable: CarrierLoss, V4;
    a_tunnel_over_ipv6_outlives_a_pulled_cable: CarrierLoss, V6;
    a_tunnel_over_ipv4_outlives_an_interface_set_down: AdminDown, V4;
    a_tunnel_over_ipv6_outlives_an_interface_set_down: AdminDown, V6;
    a_tunnel_over_ipv4_outlives_a_deleted_interface: Delete, V4;
    a_tunnel_over_ipv6_outlives_a_deleted_interface: Delete, V6;
    a_tunnel_over_ipv4_outlives_a_silent_gateway: GatewaySilent, V4;
    a_tunnel_over_ipv6_outlives_a_silent_gateway: GatewaySilent, V6;
}

#[test]
fn an_idle_standby_cut_and_healed_loses_nothing() -> Result<()> {
    let Some(_alone) = alone("cutting the standby") else {
        return Ok(());
    };
    let mut scene = Scene::raise(Family::V4)?;
    let severed = scene.lab.cut(Cut::Blackhole, Uplink::B)?;
    let cut_ns = severed.at_ns;
    observe_for(Duration::from_millis(500))?;
    scene.lab.heal(severed)?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(cut_ns)?.both()))?;
    scene.await_uplink(Uplink::A)
}

/// How long after both uplinks were healed the first packet may take, beside the machine's slack: a probe's interval
/// and the laboratory's round trip.
const AFTER_BOTH: Duration = Duration::from_millis(20 + 1);

fn both_uplinks_cut_and_restored(family: Family) -> Result<()> {
    let mut scene = Scene::raise(family)?;
    let handshakes = (
        scene.lab.branch_wg.latest_handshake()?,
        scene.lab.hub_wg.latest_handshake()?,
    );
    let mark = scene.traffic.tcp.mark();
    let severed = [
        scene.lab.cut(Cut::Blackhole, Uplink::A)?,
        scene.lab.cut(Cut::Blackhole, Uplink::B)?,
    ];
    let dark_ns = now_ns();
    observe_for(Duration::from_millis(500))?;
    let dark = scene.traffic.observe_since(dark_ns)?;
    ensure!(
        dark.up.silent && dark.down.silent,
        "with both uplinks cut something still came through: {dark:?}"
    );

    for severed in severed {
        scene.lab.heal(severed)?;
    }
    let healed_ns = now_ns();
    scene.log_on_error(scene.traffic.await_udp(healed_ns, BOUND))?;
    for (direction, stream) in [("up", &scene.traffic.up), ("down", &scene.traffic.down)] {
        let delivery = stream
            .first_delivery_since(healed_ns)
            .context("it has just been seen")?;
        let after = Duration::from_nanos(delivery.at_ns - healed_ns);
        scene.log_on_error((|| {
            ensure!(
                after < AFTER_BOTH + slack(),
                "{direction}: the first packet arrived {after:?} after both uplinks were healed"
            );
            Ok(())
        })())?;
    }
    scene.traffic.tcp.await_life(mark, BOUND)?;
    scene.await_uplink(Uplink::A)?;
    let after = (
        scene.lab.branch_wg.latest_handshake()?,
        scene.lab.hub_wg.latest_handshake()?,
    );
    ensure!(
        after == handshakes,
        "WireGuard shook hands again: {handshakes:?} → {after:?}"
    );
    scene.wireguard_noticed_nothing()?;
    scene.foreign_routes_are_as_before()
}

#[test]
fn both_uplinks_cut_and_restored_need_no_handshake_over_ipv4() -> Result<()> {
    let Some(_alone) = alone("cutting both uplinks") else {
        return Ok(());
    };
    both_uplinks_cut_and_restored(Family::V4)
}

#[test]
fn both_uplinks_cut_and_restored_need_no_handshake_over_ipv6() -> Result<()> {
    let Some(_alone) = alone("cutting both uplinks") else {
        return Ok(());
    };
    both_uplinks_cut_and_restored(Family::V6)
}
