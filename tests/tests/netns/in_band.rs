//! In-band probes, with wgxdp at both ends: each answers the other's in the kernel, WireGuard at neither end sees any of them, and they need no daemon there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;
use wgxdp_tests::capture::{Capture, Mark, Seen};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::far_end;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::wireguard::INTERFACE;

use crate::guard::count;
use crate::scene::{Scene, goes_on, nothing_lost};
use crate::{BOUND, alone, slack};

/// Within which keys follow WireGuard's, beside the machine's slack.
const KEYS_FOLLOW: Duration = Duration::from_secs(1);
const ANCHOR: &str = "wgxdp0";

fn settings() -> Settings {
    Settings {
        probe: "kind = \"stamp\"",
        ..Settings::default()
    }
}

/// A laboratory under traffic with a daemon at each end.
fn raise(family: Family) -> Result<(Scene, Daemon)> {
    raise_with(family, &settings(), "")
}

/// The same with the same probes at both ends; `hub` ends the hub's file.
pub(crate) fn raise_with(family: Family, settings: &Settings, hub: &str) -> Result<(Scene, Daemon)> {
    let lab = Lab::raise(family)?;
    let peer = format!(
        "probe = {{ {}, interval = \"{}ms\" }}\n{hub}",
        settings.probe,
        settings.probe_interval.as_millis()
    );
    let hub = far_end::start(&lab, "", "", &peer)?;
    Ok((Scene::raise_in(lab, settings)?, hub))
}

/// How often an end answered probes, or took in answers, whoever saw them.
fn counted(host: &Host, reason: Reason) -> Result<u64> {
    let uplinks = [0, 1].map(UplinkId);
    let places = uplinks
        .into_iter()
        .flat_map(|uplink| [Place::Guard(uplink), Place::Uplink(uplink)]);
    places.map(|place| count(host, place, reason)).sum()
}

fn await_more(host: &Host, reason: Reason) -> Result<()> {
    let before = counted(host, reason)?;
    poll::wait_until(&format!("another {reason:?} at {}", host.name()), BOUND, || {
        Ok(counted(host, reason)? > before)
    })
}

/// What passes by a host from now on.
fn captured(host: &Host) -> Result<(Capture, Mark)> {
    let capture = Capture::start(host)?;
    let mark = capture.mark()?;
    Ok((capture, mark))
}

/// What begins as no message of WireGuard's does.
fn is_probe(seen: &Seen) -> bool {
    seen.kind.is_some_and(|kind| kind & 0x80 != 0)
}

fn outlives_a_blackhole(family: Family) -> Result<()> {
    let (mut scene, hub) = raise(family)?;
    let hosts = [scene.lab.branch.clone(), scene.lab.hub.clone()];
    let captures = hosts.iter().map(captured).collect::<Result<Vec<_>>>()?;
    for host in &hosts {
        await_more(host, Reason::Answered).with_context(|| hub.log().text())?;
        await_more(host, Reason::Proof).with_context(|| hub.log().text())?;
    }

    far_end::await_knowledge(&hub, BOUND)?;
    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    let both_logs = |outcome: Result<()>| {
        scene.log_on_error(outcome.with_context(|| format!("the hub's log:\n{}", hub.log().text())))
    };
    both_logs(scene.traffic.await_udp(now_ns(), BOUND))?;
    both_logs(goes_on(scene.traffic.observe_since(severed.at_ns)?.both()))?;
    scene.wireguard_noticed_nothing()?;
    scene.foreign_routes_are_as_before()?;

    for (capture, since) in captures {
        let arrived = |at_anchor| {
            capture.since(since, |seen| {
                !seen.left && is_probe(seen) && (seen.device == ANCHOR) == at_anchor
            })
        };
        ensure!(!arrived(false)?.is_empty(), "no probe arrived");
        let handed_over = arrived(true)?;
        ensure!(handed_over.is_empty(), "WireGuard was handed probes: {handed_over:?}");
    }
    Ok(())
}

#[test]
fn with_in_band_probes_a_tunnel_over_ipv4_outlives_a_blackhole_and_wireguard_sees_none_of_them() -> Result<()> {
    let Some(_alone) = alone("cutting an uplink") else {
        return Ok(());
    };
    outlives_a_blackhole(Family::V4)
}

#[test]
fn with_in_band_probes_a_tunnel_over_ipv6_outlives_a_blackhole_and_wireguard_sees_none_of_them() -> Result<()> {
    let Some(_alone) = alone("cutting an uplink") else {
        return Ok(());
    };
    outlives_a_blackhole(Family::V6)
}

#[test]
fn with_its_daemon_stopped_an_end_answers_and_follows_the_other_ends_probes_out_of_a_blackhole() -> Result<()> {
    let Some(_alone) = alone("stopping the hub's daemon") else {
        return Ok(());
    };
    let (mut scene, hub) = raise(Family::V4)?;
    await_more(&scene.lab.hub, Reason::Proof).with_context(|| hub.log().text())?;
    kill(Pid::from_raw(i32::try_from(hub.pid())?), Signal::SIGSTOP)?;
    // A calm while, in which nothing moves.
    let calm_ns = now_ns();
    observe_for(Duration::from_secs(1))?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(calm_ns)?.both()))?;

    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.log_on_error(goes_on(scene.traffic.observe_since(severed.at_ns)?.both()))
}

#[test]
fn the_keys_of_a_peer_go_with_it_and_come_back_with_it() -> Result<()> {
    let Some(_alone) = alone("removing a peer") else {
        return Ok(());
    };
    let (scene, hub) = raise(Family::V4)?;
    let host = scene.lab.hub.clone();
    await_more(&host, Reason::Answered).with_context(|| hub.log().text())?;
    let peer = host.run("wg", &["show", INTERFACE, "peers"])?.trim().to_owned();
    scene.lab.hub_wg.set(&["peer", &peer, "remove"])?;
    let removed = Instant::now();
    await_more(&host, Reason::ProbeStranger).with_context(|| hub.log().text())?;
    let after = removed.elapsed();
    ensure!(
        after < KEYS_FOLLOW + slack(),
        "keys were there for another {after:?}: {}",
        hub.log().text()
    );
    scene.lab.hub_wg.set(&["peer", &peer, "allowed-ips", "10.57.0.1/32"])?;
    await_more(&host, Reason::Answered).with_context(|| hub.log().text())
}
