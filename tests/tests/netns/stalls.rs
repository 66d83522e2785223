//! A path that answers probes and swallows the tunnel's own packets is left as soon as WireGuard's law says so.

use std::time::Duration;

use anyhow::{Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::topology::{Family, Uplink};

use crate::command::status;
use crate::scene::Scene;
use crate::status::path;
use crate::{BOUND, alone, slack};

/// For how long data may leave and nothing come, on a path that loses nothing.
const PATIENCE: Duration = Duration::from_secs(20);
/// So much longer if a busy machine lost a probe: one handshake more must be missing.
const ATTEMPT: Duration = Duration::from_secs(5);
/// From one look at the counts to the next: one until the first packet that is missing is seen, one until the last.
const LOOK: Duration = Duration::from_secs(1);

#[test]
fn a_path_that_lets_probes_pass_and_blocks_the_tunnels_port_is_left_and_says_why() -> Result<()> {
    let Some(_alone) = alone("blocking the tunnel's port") else {
        return Ok(());
    };
    let mut scene = Scene::raise(Family::V4)?;
    let skip = scene.daemon.log().since(0).len();
    let from_ns = scene.lab.block_tunnel(Uplink::A)?;
    let line = scene.daemon.await_line("isp-a down", skip, PATIENCE + BOUND)?;
    let after = Duration::from_nanos(now_ns() - from_ns);
    ensure!(
        line.ends_with("isp-a down: data leaves and nothing returns, though probes pass → isp-b"),
        "{line}"
    );
    ensure!(
        after >= PATIENCE && after < PATIENCE + ATTEMPT + 2 * LOOK + slack(),
        "after {after:?}"
    );
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.await_uplink(Uplink::B)?;
    let shown = status(&scene.lab.branch)?;
    ensure!(path(&shown, Uplink::A)?["reason"] == "stall", "{shown}");
    scene.wireguard_noticed_nothing()?;
    scene.foreign_routes_are_as_before()
}
