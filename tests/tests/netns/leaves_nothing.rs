//! What the daemon adds it removes, and nothing else; killed, it leaves what carries the traffic.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll::observe_for;
use wgxdp_tests::topology::{Family, Uplink};

use crate::scene::{Scene, nothing_lost};
use crate::{BOUND, alone};

/// After `signal` the daemon ends well, what it added is gone, and WireGuard goes on without it.
fn leaves_nothing(signal: Signal, family: Family, cut: bool) -> Result<()> {
    let mut scene = Scene::raise(family)?;
    let running = scene.clean.difference(&Snapshot::take(&scene.lab.branch)?);
    ensure!(
        running.removed.is_empty(),
        "the daemon removed what is not its own:\n{running}"
    );
    for trace in [
        "link: wgxdp0",
        "xdp isp-a: ",
        "xdp isp-b: ",
        "table 5747",
        "rule -4: 870",
        "rule -6: 870",
        "pin: /sys/fs/bpf/wgxdp",
        "process: wgxdp",
    ] {
        ensure!(
            running.to_string().contains(trace),
            "the audit does not see {trace:?} in\n{running}"
        );
    }
    let severed = if cut {
        Some(scene.lab.cut(Cut::Blackhole, Uplink::A)?)
    } else {
        None
    };
    if cut {
        scene.await_uplink(Uplink::B)?;
    }

    let Scene {
        traffic,
        daemon,
        mut lab,
        clean,
        ..
    } = scene;
    let ended = daemon.stop(signal)?;
    ensure!(ended.success(), "after {signal} wgxdp ended with {ended}");
    let left = clean.difference(&Snapshot::take(&lab.branch)?);
    ensure!(left.is_empty(), "after {signal} this is left:\n{left}");
    if let Some(severed) = severed {
        lab.heal(severed)?;
    }
    traffic.await_flow(BOUND)
}

#[test]
fn sigterm_leaves_nothing() -> Result<()> {
    let Some(_alone) = alone("SIGTERM") else { return Ok(()) };
    leaves_nothing(Signal::SIGTERM, Family::V4, false)
}

#[test]
fn sigint_leaves_nothing() -> Result<()> {
    let Some(_alone) = alone("SIGINT") else { return Ok(()) };
    leaves_nothing(Signal::SIGINT, Family::V6, false)
}

#[test]
fn sigterm_in_the_middle_of_a_failover_leaves_nothing() -> Result<()> {
    let Some(_alone) = alone("SIGTERM in a failover") else {
        return Ok(());
    };
    leaves_nothing(Signal::SIGTERM, Family::V4, true)
}

#[test]
fn a_killed_daemon_leaves_the_steering_and_the_next_one_takes_over() -> Result<()> {
    let Some(_alone) = alone("SIGKILL") else { return Ok(()) };
    let scene = Scene::raise(Family::V4)?;
    let Scene {
        traffic,
        daemon,
        mut lab,
        clean,
        ..
    } = scene;
    let killed_ns = now_ns();
    drop(daemon);
    observe_for(Duration::from_millis(500))?;
    nothing_lost(traffic.observe_since(killed_ns)?.both())?;

    let taken_over_ns = now_ns();
    let daemon = Daemon::start(&lab, &Settings::default())?;
    nothing_lost(traffic.observe_since(taken_over_ns)?.both())?;
    let severed = lab.cut(Cut::Blackhole, Uplink::A)?;
    traffic.await_udp(now_ns(), BOUND)?;
    lab.heal(severed)?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    let left = clean.difference(&Snapshot::take(&lab.branch)?);
    ensure!(left.is_empty(), "this is left:\n{left}");
    traffic.await_flow(BOUND)
}
