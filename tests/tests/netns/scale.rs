//! Ten thousand peers beside the one that matters: they can be there, come and go while its traffic flows, and a failover is what it was without them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::crowd::Crowd;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::poll;
use wgxdp_tests::privilege::emulated;
use wgxdp_tests::topology::{Family, Lab, Uplink};

use crate::alone;
use crate::command::status;
use crate::outlives::cut_and_heal;
use crate::scene::{Scene, nothing_lost};

/// How long a crowd may take to be noticed: WireGuard is asked seldom when its answers take long.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

fn crowd() -> Crowd {
    // A guest has a small part of the memory, and each instruction takes many times as long.
    Crowd(if emulated() { 1_000 } else { 10_000 })
}

/// A scene with the crowd in WireGuard and in the configuration from the beginning.
fn crowded() -> Result<Scene> {
    let lab = Lab::raise(Family::V4)?;
    crowd().join(&lab.branch_wg, 0..crowd().0)?;
    let settings = Settings {
        more: crowd().toml(),
        ..Settings::default()
    };
    Scene::raise_in(lab, &settings)
}

/// The peers that `wgxdp status` shows, and the uplink that the hub's traffic is on.
fn shown(status: &Value) -> Result<(usize, String)> {
    let peers = status.pointer("/tunnels/0/peers").and_then(Value::as_array);
    let peers = peers.with_context(|| format!("no peers in {status}"))?;
    let hub = peers.iter().find(|peer| peer.get("name") == Some(&"hub".into()));
    let active = hub.and_then(|hub| hub.get("active_uplink")?.as_str().map(String::from));
    Ok((peers.len(), active.context("the hub is on no uplink")?))
}

#[test]
fn peers_by_the_thousand_come_and_go_and_traffic_loses_nothing() -> Result<()> {
    let Some(_alone) = alone("a crowd of peers") else {
        return Ok(());
    };
    let mut scene = crowded()?;
    let all = crowd().0 as usize + 1;
    ensure!(shown(&status(&scene.lab.branch)?)? == (all, "isp-a".to_owned()));

    let half = crowd().0 / 2;
    let (calm_ns, skip) = (now_ns(), scene.daemon.log().since(0).len());
    crowd().leave(&scene.lab.branch_wg, 0..half)?;
    let left = scene
        .daemon
        .await_line(&format!("0 changed, {half} gone"), skip, NOTICED_WITHIN);
    scene.log_on_error(left)?;
    await_shown(&scene, all - half as usize)?;
    crowd().join(&scene.lab.branch_wg, 0..half)?;
    let joined = scene
        .daemon
        .await_line(&format!("{half} new, 0 changed"), skip, NOTICED_WITHIN);
    scene.log_on_error(joined)?;
    await_shown(&scene, all)?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(calm_ns)?.both()))?;
    scene.wireguard_noticed_nothing()?;
    scene.foreign_routes_are_as_before()
}

/// The names of a crowd are told after its entries.
fn await_shown(scene: &Scene, peers: usize) -> Result<()> {
    let what = format!("{peers} peers in the status, the hub on isp-a");
    poll::wait_until(&what, NOTICED_WITHIN, || {
        Ok(shown(&status(&scene.lab.branch)?)? == (peers, "isp-a".to_owned()))
    })
}

#[test]
fn with_peers_by_the_thousand_a_tunnel_outlives_a_blackhole_and_a_pulled_cable() -> Result<()> {
    let Some(_alone) = alone("a crowd of peers") else {
        return Ok(());
    };
    let mut scene = crowded()?;
    cut_and_heal(&mut scene, Cut::Blackhole)?;
    let skip = scene.daemon.log().since(0).len();
    cut_and_heal(&mut scene, Cut::CarrierLoss)?;
    // One line for the crowd, not one for each.
    let said = scene.daemon.log().since(skip);
    let down = format!("isp-a down: no carrier ({} paths)", crowd().0 + 1);
    ensure!(
        said.iter().any(|line| line.contains(&down)),
        "no {down:?} in:\n{}",
        said.join("\n")
    );
    ensure!(said.len() < 200, "{} lines", said.len());
    ensure!(shown(&status(&scene.lab.branch)?)? == (crowd().0 as usize + 1, Uplink::A.name().to_owned()));
    Ok(())
}
