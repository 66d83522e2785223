//! The daemon follows WireGuard: a listen port that changes is steered from then on.

use anyhow::{Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Uplink};
use wgxdp_tests::wireguard::{INTERFACE, LISTEN_PORT};

use crate::scene::Scene;
use crate::status::await_active;
use crate::{BOUND, alone};

/// Not a neighbour of the first one.
const OTHER_PORT: u16 = 42_424;

#[test]
fn a_listen_port_that_changes_is_followed_and_the_old_one_is_nobodys() -> Result<()> {
    let Some(_alone) = alone("changing the listen port") else {
        return Ok(());
    };
    let mut scene = Scene::raise(Family::V4)?;
    let host = scene.lab.branch.clone();
    host.run("wg", &["set", INTERFACE, "listen-port", &OTHER_PORT.to_string()])?;
    let followed = poll::wait_until("a rule for the new port alone", BOUND, || {
        let rules = host.run("ip", &["rule", "show", "pref", "872"])?;
        Ok(rules.contains(&format!("sport {OTHER_PORT} ")) && !rules.contains(&format!("sport {LISTEN_PORT} ")))
    });
    scene.log_on_error(followed)?;
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    let shown = scene.log_on_error(await_active(&host, Uplink::A))?;
    ensure!(
        shown.pointer("/tunnels/0/listen_port") == Some(&OTHER_PORT.into()),
        "{shown}"
    );
    // And it is steered, not only routed.
    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.await_uplink(Uplink::B)?;
    scene.lab.heal(severed)?;
    scene.await_uplink(Uplink::A)
}
