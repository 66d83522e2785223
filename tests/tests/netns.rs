//! The laws of the main job, in the laboratory: a tunnel outlives its uplinks, and nothing but the daemon's own things ever changes.
//!
//! The tests run one after the other, whatever the number of test threads: they measure time. Gaps are bounded generously here; how short they
//! are is the benchmarks' business.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::privilege::root_or_skip;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::{Traffic, analysis::Report};
use wgxdp_tests::wireguard::LISTEN_PORT;

/// No wait is longer.
const BOUND: Duration = Duration::from_secs(15);
/// No gap is longer; generous, for a loaded machine.
const LONGEST_GAP: Duration = Duration::from_secs(1);

fn alone(what: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    root_or_skip(what).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A laboratory under traffic with a daemon that is ready, and what must not change while it runs.
struct Scene {
    traffic: Traffic,
    daemon: Daemon,
    lab: Lab,
    /// What was on the branch before the daemon.
    clean: Snapshot,
    /// The branch's routes before the daemon.
    routes: Snapshot,
}

impl Scene {
    fn raise(family: Family) -> Result<Self> {
        let lab = Lab::raise(family)?;
        let (clean, routes) = (Snapshot::take(&lab.branch)?, Snapshot::foreign_routes(&lab.branch)?);
        let daemon = Daemon::start(&lab, &Settings::default())?;
        let traffic = Traffic::start(&lab)?;
        let scene = Self {
            traffic,
            daemon,
            lab,
            clean,
            routes,
        };
        scene.await_uplink(Uplink::A)?;
        scene.wireguard_noticed_nothing()?;
        scene.foreign_routes_are_as_before()?;
        Ok(scene)
    }

    fn await_uplink(&self, uplink: Uplink) -> Result<()> {
        let what = format!("the tunnel on {}", uplink.name());
        let awaited = poll::wait_until(&what, BOUND, || Ok(self.lab.uplink_in_use()? == Some(uplink)));
        awaited.with_context(|| self.daemon.log().text())
    }

    /// The configured endpoint and both listen ports. (The endpoint at which the hub sees the branch moves, which is the hub's own doing.)
    fn wireguard_noticed_nothing(&self) -> Result<()> {
        let endpoint = self.lab.branch_wg.endpoint()?;
        ensure!(
            endpoint == Some(self.lab.hub_endpoint()),
            "the branch's endpoint has become {endpoint:?}"
        );
        for (end, wireguard) in [("branch", &self.lab.branch_wg), ("hub", &self.lab.hub_wg)] {
            let port = wireguard.listen_port()?;
            ensure!(port == LISTEN_PORT, "the {end}'s listen port has become {port}");
        }
        Ok(())
    }

    fn foreign_routes_are_as_before(&self) -> Result<()> {
        let difference = self.routes.difference(&Snapshot::foreign_routes(&self.lab.branch)?);
        ensure!(
            difference.is_empty(),
            "routes that are not the daemon's have changed:\n{difference}"
        );
        Ok(())
    }

    fn log_on_error<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| self.daemon.log().text())
    }
}

/// With isp-a cut, traffic and TCP go on over isp-b; healed, they return with nothing lost; nothing else changes.
fn outlives(cut: Cut, family: Family) -> Result<()> {
    let mut scene = Scene::raise(family)?;
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

fn goes_on(seen: Report) -> Result<()> {
    ensure!(
        !seen.silent && seen.gap < LONGEST_GAP,
        "the tunnel fell silent: {seen:?}"
    );
    Ok(())
}

fn nothing_lost(seen: Report) -> Result<()> {
    ensure!(
        seen.sent > 0 && seen.lost == 0 && !seen.silent,
        "the return lost packets: {seen:?}"
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

/// How long after both uplinks were healed the first packet may take: a probe's interval, the laboratory's round trip, and a loaded machine's slack.
const AFTER_BOTH: Duration = Duration::from_millis(20 + 1 + 200);

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
                after < AFTER_BOTH,
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
