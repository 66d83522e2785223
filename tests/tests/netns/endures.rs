//! The daemon endures what others do: it is stopped for a while, its rules, routes and device are removed, an uplink changes its address. And
//! it says each thing once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::topology::{Family, Uplink};

use crate::command::left_nothing;
use crate::scene::{Scene, nothing_lost};
use crate::status::{await_active, path};
use crate::{BOUND, alone, slack};

/// No gap is longer while something of ours is missing.
const REPAIRED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_stopped_daemon_convicts_nobody_and_the_log_has_one_line_per_transition() -> Result<()> {
    let Some(_alone) = alone("stopping the daemon") else {
        return Ok(());
    };
    let mut scene = Scene::raise(Family::V4)?;
    let host = scene.lab.branch.clone();
    let pid = Pid::from_raw(i32::try_from(scene.daemon.pid())?);
    let (calm_ns, skip) = (now_ns(), scene.daemon.log().since(0).len());
    kill(pid, Signal::SIGSTOP)?;
    observe_for(Duration::from_millis(1500))?;
    // Without the daemon's help.
    let shown = await_active(&host, Uplink::A);
    kill(pid, Signal::SIGCONT)?;
    let shown = scene.log_on_error(shown)?;
    ensure!(shown.pointer("/daemon/running") == Some(&true.into()), "{shown}");
    observe_for(Duration::from_millis(500))?;
    scene.log_on_error(await_active(&host, Uplink::A))?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(calm_ns)?.both()))?;
    let said = scene.daemon.log().since(skip);
    ensure!(
        said.is_empty(),
        "two calm seconds of traffic had something to say: {said:?}"
    );

    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    let line = scene.daemon.await_line("isp-a down after ", skip, BOUND)?;
    ensure!(line.contains(" silence → isp-b"), "{line}");
    scene.await_uplink(Uplink::B)?;
    scene.lab.heal(severed)?;
    scene.await_uplink(Uplink::A)?;
    let line = scene.daemon.await_line("isp-a up after 1 s clean", skip, BOUND);
    let line = scene.log_on_error(line)?;
    ensure!(line.ends_with(" → isp-a"), "{line}");
    let said = scene.daemon.log().since(skip);
    let once = |what: &str| said.iter().filter(|line| line.contains(what)).count() == 1;
    for what in ["isp-a down after ", "isp-a answers again, held for ", "isp-a up after "] {
        ensure!(once(what), "{what:?} was not said once:\n{}", said.join("\n"));
    }
    // Beside these three: that isp-a was suspect, and, on a busy machine, that either path was and answered again.
    ensure!(said.len() <= 10, "{} lines:\n{}", said.len(), said.join("\n"));
    Ok(())
}

/// Our rules and routes, in the words of `ip`.
fn policy(host: &Host) -> Result<String> {
    let mut text = String::new();
    for family in ["-4", "-6"] {
        text += &host.run("ip", &[family, "rule"])?;
        // A table that does not exist is an error of `ip`.
        text += &host
            .run("ip", &[family, "route", "show", "table", "5747"])
            .unwrap_or_default();
    }
    Ok(text)
}

fn what_others_remove_is_repaired(family: Family) -> Result<()> {
    let mut scene = Scene::raise(family)?;
    let host = scene.lab.branch.clone();
    let whole = policy(&host)?;
    ensure!(whole.contains("872:") && whole.contains(" dev wgxdp0 "), "{whole}");
    // What somebody does, and what the log calls it.
    let deeds: [(&[&str], &str); 5] = [
        (
            &["-4 rule delete pref 872", "-6 rule delete pref 872"],
            "ip rule ipproto udp sport 51820",
        ),
        // Without it strict rp_filter drops what comes back.
        (
            &["-4 rule delete pref 871", "-6 rule delete pref 871"],
            "ip rule from 192.0.0.8",
        ),
        (
            &["-4 route flush table 5747", "-6 route flush table 5747"],
            "ip route default src 192.0.0.8 table 5747",
        ),
        (&["link set wgxdp0 down"], "wgxdp0 up"),
        (&["link delete wgxdp0"], "device wgxdp0"),
    ];
    for (deed, word) in deeds {
        let (from_ns, skip) = (now_ns(), scene.daemon.log().since(0).len());
        for line in deed {
            host.run("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        let line = scene.daemon.await_line(word, skip, BOUND);
        let line = scene.log_on_error(line)?;
        let says = "somebody removed what is ours; repaired: ";
        ensure!(line.contains("WARN") && line.contains(says), "{line}");
        let repaired = poll::wait_until("rules and routes as they were", BOUND, || Ok(policy(&host)? == whole));
        repaired.with_context(|| format!("after {deed:?}: {:?} was\n{whole}", policy(&host)))?;
        scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
        let seen = scene.traffic.observe_since(from_ns)?.both();
        ensure!(
            !seen.silent && seen.gap < REPAIRED_WITHIN + slack(),
            "after {deed:?}: {seen:?}\n{}",
            scene.daemon.log().text()
        );
        scene.log_on_error(await_active(&host, Uplink::A))?;
    }
    scene.wireguard_noticed_nothing()?;

    // What was repaired works.
    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    scene.await_uplink(Uplink::B)?;
    scene.lab.heal(severed)?;
    let Scene {
        traffic,
        daemon,
        lab,
        clean,
        ..
    } = scene;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    left_nothing("repairs and the end", &lab.branch, &clean)?;
    traffic.await_flow(BOUND)
}

#[test]
fn what_others_remove_of_ours_is_repaired_and_traffic_goes_on_over_ipv4() -> Result<()> {
    let Some(_alone) = alone("removing what is the daemon's") else {
        return Ok(());
    };
    what_others_remove_is_repaired(Family::V4)
}

#[test]
fn what_others_remove_of_ours_is_repaired_and_traffic_goes_on_over_ipv6() -> Result<()> {
    let Some(_alone) = alone("removing what is the daemon's") else {
        return Ok(());
    };
    what_others_remove_is_repaired(Family::V6)
}

#[test]
fn an_uplink_that_changes_its_address_comes_back_by_itself() -> Result<()> {
    let Some(_alone) = alone("changing an address") else {
        return Ok(());
    };
    let scene = Scene::raise(Family::V4)?;
    let host = &scene.lab.branch;
    // As network managers set it: the new address stays when the old one goes.
    host.sysctl(&[("net/ipv4/conf/isp-a/promote_secondaries", "1")])?;
    let from_ns = now_ns();
    host.ip([
        "addr add 192.0.2.11/24 dev isp-a",
        "route replace default via 192.0.2.1 dev isp-a metric 100",
        "addr delete 192.0.2.10/24 dev isp-a",
        "route replace default via 192.0.2.1 dev isp-a metric 100",
    ])?;
    scene.log_on_error(scene.traffic.await_udp(now_ns(), BOUND))?;
    let seen = poll::wait_for("the hub to see the new address", BOUND, || {
        let seen = scene.lab.hub_wg.endpoint()?;
        Ok(seen.filter(|seen| seen.ip().to_string() == "192.0.2.11"))
    });
    scene.log_on_error(seen)?;
    let shown = scene.log_on_error(await_active(host, Uplink::A))?;
    ensure!(
        shown.pointer("/uplinks/0/address") == Some(&"192.0.2.11".into()),
        "{shown}"
    );
    ensure!(path(&shown, Uplink::A)?.get("rtt_ms").is_some(), "{shown}");
    let seen = scene.traffic.observe_since(from_ns)?.both();
    ensure!(
        !seen.silent && seen.gap < REPAIRED_WITHIN + slack(),
        "{seen:?}\n{}",
        scene.daemon.log().text()
    );
    scene.wireguard_noticed_nothing()
}
