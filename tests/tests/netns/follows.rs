//! The daemon follows the host: a listen port that changes is steered from then on, and a modem that was not there at the start is used once it is plugged in.

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::Traffic;
use wgxdp_tests::wireguard::{INTERFACE, LISTEN_PORT};

use crate::scene::Scene;
use crate::status::await_active;
use crate::{BOUND, alone, pace};

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

#[test]
fn an_uplink_that_may_be_absent_at_the_start_is_used_once_it_comes() -> Result<()> {
    let Some(_alone) = alone("plugging in an uplink") else {
        return Ok(());
    };
    let mut lab = Lab::raise(Family::V4)?;
    let severed = lab.cut(Cut::Delete, Uplink::A)?;
    let interface = "interface = \"isp-a\"";
    let toml = Settings::default().toml(&lab);
    let toml = toml.replace(interface, &format!("{interface}\nhotplug = true"));
    let mut daemon = Daemon::start_in(&lab.branch, &toml)?;
    daemon.await_line("uplink isp-a: interface isp-a is not there", 0, BOUND)?;
    let traffic = Traffic::start(&lab, pace())?;
    let on = |lab: &Lab, uplink| {
        let what = format!("the tunnel on {}", Uplink::name(uplink));
        let there = poll::wait_until(&what, BOUND, || Ok(lab.uplink_in_use()? == Some(uplink)));
        there.with_context(|| daemon.log().text())
    };
    on(&lab, Uplink::B)?;
    lab.heal(severed)?;
    on(&lab, Uplink::A)?;
    traffic.await_flow(BOUND)
}
