//! A path that answers small packets and swallows large ones is left within a second, and returned to when large ones pass again.

use std::time::Duration;

use anyhow::{Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::topology::{Family, Uplink};

use crate::scene::{Scene, goes_on};
use crate::{BOUND, alone, slack};

/// In what time a path that swallows is found out: the next full-size probe leaves, it is missing at the next probe's turn, and so are two more that leave with the probes from then on.
fn found_within(interval: Duration) -> Duration {
    let period = (5 * interval).max(Duration::from_millis(600));
    period + 5 * interval
}

fn swallows(family: Family) -> Result<()> {
    narrow_and_widen(&mut Scene::raise(family)?)
}

/// isp-a swallows large packets, and then does not. With the default probe interval.
pub(crate) fn narrow_and_widen(scene: &mut Scene) -> Result<()> {
    let within = found_within(Settings::default().probe_interval);
    // A device drops what is larger than its MTU as it arrives, and nobody is told.
    let hub = scene.lab.hub.clone();
    let takes = |mtu: &str| hub.run("ip", &["link", "set", Uplink::A.name(), "mtu", mtu]);
    let skip = scene.daemon.log().since(0).len();
    let (from_ns, mark) = (now_ns(), scene.traffic.tcp.mark());
    takes("1300")?;
    let line = scene
        .daemon
        .await_line("isp-a down: large packets get lost", skip, BOUND)?;
    let after = Duration::from_nanos(now_ns() - from_ns);
    ensure!(
        line.ends_with("→ isp-b") && after < within + slack(),
        "after {after:?}: {line}"
    );
    scene.await_uplink(Uplink::B)?;
    scene.log_on_error(scene.traffic.tcp.await_life(mark, BOUND))?;

    takes("1500")?;
    scene.daemon.await_line("isp-a answers again, held", skip, BOUND)?;
    scene.await_uplink(Uplink::A)?;
    // Of small packets none was ever missed, so what moved was moved for the large ones.
    scene.log_on_error(goes_on(scene.traffic.observe_since(from_ns)?.both()))?;
    scene.wireguard_noticed_nothing()?;
    scene.foreign_routes_are_as_before()
}

#[test]
fn a_path_over_ipv4_that_swallows_large_packets_is_left_until_they_pass_again() -> Result<()> {
    let Some(_alone) = alone("swallowing large packets over IPv4") else {
        return Ok(());
    };
    swallows(Family::V4)
}

#[test]
fn a_path_over_ipv6_that_swallows_large_packets_is_left_until_they_pass_again() -> Result<()> {
    let Some(_alone) = alone("swallowing large packets over IPv6") else {
        return Ok(());
    };
    swallows(Family::V6)
}
