//! `wgxdp status` tells what is, with the daemon and without it; `wgxdp down` removes what a killed one left.

use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{CONFIG_FILE, Settings};
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};

use crate::command::{left_nothing, status, wgxdp};
use crate::scene::Scene;
use crate::{BOUND, alone};

/// The only peer.
pub(crate) fn peer(status: &Value) -> Result<&Value> {
    let peer = status.pointer("/tunnels/0/peers/0");
    peer.with_context(|| format!("no peer in {status}"))
}

/// The path over an uplink.
pub(crate) fn path(status: &Value, uplink: Uplink) -> Result<&Value> {
    let paths = peer(status)?.get("paths").and_then(Value::as_array);
    let mut paths = paths.into_iter().flatten();
    let found = paths.find(|path| path.get("uplink").and_then(Value::as_str) == Some(uplink.name()));
    found.with_context(|| format!("no path over {} in {status}", uplink.name()))
}

/// Waits until the kernel's tables show `uplink` as the active one, and its path up.
pub(crate) fn await_active(host: &Host, uplink: Uplink) -> Result<Value> {
    let what = format!("status to show {} active and up", uplink.name());
    poll::wait_for(&what, BOUND, || {
        let shown = status(host)?;
        let active = peer(&shown)?.get("active_uplink") == Some(&uplink.name().into());
        let up = path(&shown, uplink)?.get("state") == Some(&"up".into());
        Ok((active && up).then_some(shown))
    })
}

fn has(value: &Value, keys: &[&str]) -> Result<()> {
    for key in keys {
        ensure!(value.get(key).is_some(), "no {key:?} in {value}");
    }
    Ok(())
}

/// Every key that others rely on is there, with a value of its kind.
fn keeps_the_schema(status: &Value) -> Result<()> {
    has(status, &["daemon", "uplinks", "tunnels"])?;
    let list = |value: &Value, key: &str| {
        let list = value.get(key).and_then(Value::as_array).cloned();
        list.with_context(|| format!("{key:?} is no list in {value}"))
    };
    let uplinks = list(status, "uplinks")?;
    ensure!(uplinks.len() == 2, "{status}");
    for uplink in &uplinks {
        has(uplink, &["name", "interface", "address", "gateway", "state"])?;
    }
    for tunnel in list(status, "tunnels")? {
        has(&tunnel, &["interface", "listen_port", "peers"])?;
        for peer in list(&tunnel, "peers")? {
            has(&peer, &["name", "public_key", "active_uplink", "paths"])?;
            let paths = list(&peer, "paths")?;
            ensure!(paths.len() == 2, "{peer}");
            for path in &paths {
                let counters = ["tx_packets", "tx_bytes", "rx_packets", "rx_bytes"];
                has(path, &["uplink", "endpoint", "state", "rtt_ms", "loss"])?;
                ensure!(
                    counters.iter().all(|key| path.get(key).is_some_and(Value::is_u64)),
                    "{path}"
                );
                let state = path.get("state").and_then(Value::as_str).unwrap_or_default();
                ensure!(
                    ["up", "suspect", "down", "held", "drained"].contains(&state),
                    "a state called {state:?}"
                );
            }
        }
    }
    Ok(())
}

fn counter(status: &Value, uplink: Uplink, key: &str) -> Result<u64> {
    let value = path(status, uplink)?.get(key).and_then(Value::as_u64);
    value.with_context(|| format!("{key} in {status}"))
}

/// Waits until the tunnel's packets and bytes over `uplink` have grown in both directions.
fn await_growth(host: &Host, uplink: Uplink) -> Result<()> {
    let before = status(host)?;
    poll::wait_until("the counters to grow", BOUND, || {
        let now = status(host)?;
        for key in ["tx_packets", "tx_bytes", "rx_packets", "rx_bytes"] {
            if counter(&now, uplink, key)? <= counter(&before, uplink, key)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn expect(value: &Value, pointer: &str, wanted: impl Into<Value>) -> Result<()> {
    let wanted = wanted.into();
    ensure!(
        value.pointer(pointer) == Some(&wanted),
        "{pointer} is not {wanted} in {value}"
    );
    Ok(())
}

#[test]
fn status_tells_what_carries_the_tunnel_and_what_is_down() -> Result<()> {
    let Some(_alone) = alone("status with a daemon") else {
        return Ok(());
    };
    let mut scene = Scene::raise(Family::V4)?;
    let host = scene.lab.branch.clone();
    let shown = scene.log_on_error(await_active(&host, Uplink::A))?;
    keeps_the_schema(&shown)?;
    expect(&shown, "/daemon/running", true)?;
    expect(&shown, "/daemon/pid", scene.daemon.pid())?;
    expect(&shown, "/uplinks/0/address", "192.0.2.10")?;
    expect(&shown, "/uplinks/1/gateway", "198.51.100.1")?;
    expect(&shown, "/uplinks/1/state", "up")?;
    expect(&shown, "/tunnels/0/listen_port", 51820)?;
    expect(&shown, "/tunnels/0/peers/0/name", "hub")?;
    expect(&shown, "/tunnels/0/peers/0/public_key", scene.lab.hub_public_key())?;
    expect(path(&shown, Uplink::B)?, "/endpoint", "203.0.113.1:51820")?;
    await_growth(&host, Uplink::A)?;
    poll::wait_until("a round-trip time of both paths", BOUND, || {
        let shown = status(&host)?;
        let mut known = 0;
        for uplink in Uplink::ALL {
            if let Some(rtt_ms) = path(&shown, uplink)?.get("rtt_ms").and_then(Value::as_f64) {
                ensure!(rtt_ms > 0.0 && rtt_ms < 5000.0, "{rtt_ms} ms in {shown}");
                known += 1;
            }
        }
        Ok(known == 2)
    })?;
    let table = wgxdp(&host, &["status"])?;
    table.succeeded()?;
    for word in [
        "isp-a",
        "isp-b",
        "192.0.2.1",
        "wg0",
        "hub via isp-a",
        "203.0.113.1:51820",
    ] {
        ensure!(table.stdout.contains(word), "no {word:?} in\n{}", table.stdout);
    }

    let _severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    let shown = scene.log_on_error(await_active(&host, Uplink::B))?;
    keeps_the_schema(&shown)?;
    expect(path(&shown, Uplink::A)?, "/state", "down")?;
    expect(path(&shown, Uplink::A)?, "/rtt_ms", Value::Null)?;
    // The link itself is fine: the uplink is, only its path is not.
    expect(&shown, "/uplinks/0/state", "up")?;
    await_growth(&host, Uplink::B)
}

#[test]
fn a_killed_daemons_steering_is_seen_by_status_and_removed_by_down() -> Result<()> {
    let Some(_alone) = alone("status and down without a daemon") else {
        return Ok(());
    };
    let Scene {
        traffic,
        daemon,
        lab,
        clean,
        ..
    } = Scene::raise(Family::V4)?;
    let host = &lab.branch;
    drop(daemon);
    let shown = status(host)?;
    keeps_the_schema(&shown)?;
    expect(&shown, "/daemon/running", false)?;
    expect(peer(&shown)?, "/active_uplink", "isp-a")?;
    await_growth(host, Uplink::A)?;
    let table = wgxdp(host, &["status"])?;
    table.succeeded()?;
    ensure!(table.stdout.contains("isp-b"), "{}", table.stdout);

    // A start that is refused does not tear down what carries the traffic.
    let taken = host.enter(|| TcpListener::bind("127.0.0.1:0"))?;
    let address = taken.local_addr()?.to_string();
    let steering = Snapshot::take(host)?;
    let start = ["run", "--tunnel", "wg0", "--uplink", "isp-a", "--uplink"];
    let refusals: [(&[&str], &str); 2] = [
        (&["isp-b", "--metrics", &address], "in use"),
        (&["isp-c"], "there is no interface isp-c"),
    ];
    for (more, word) in refusals {
        wgxdp(host, &[&start, more].concat())?.refused("a start beside the steering", &[word])?;
        let difference = steering.difference(&Snapshot::take(host)?);
        ensure!(
            difference.is_empty(),
            "{more:?}: the refused start touched the steering:\n{difference}"
        );
        keeps_the_schema(&status(host)?)?;
    }

    let down = wgxdp(host, &["down"])?;
    down.succeeded()?;
    ensure!(
        down.stdout.contains("removed") && down.stdout.contains("device wgxdp0"),
        "{down:?}"
    );
    left_nothing("`wgxdp down`", host, &clean)?;
    traffic.await_flow(BOUND)?;
    ensure!(lab.uplink_in_use()? == Some(Uplink::A));

    let nothing = wgxdp(host, &["status", "--json"])?;
    ensure!(nothing.code == Some(3), "{nothing:?}");
    let shown: Value = serde_json::from_str(&nothing.stdout)?;
    expect(&shown, "/daemon/running", false)?;
    expect(&shown, "/uplinks", Vec::<Value>::new())?;
    ensure!(nothing.stderr.contains("not running"), "{nothing:?}");
    let again = wgxdp(host, &["down"])?;
    again.succeeded()?;
    ensure!(again.stdout.contains("nothing"), "{again:?}");
    left_nothing("a second `wgxdp down`", host, &clean)
}

#[test]
fn doctor_names_what_stands_in_the_way_and_reckons_the_probes_traffic_and_changes_nothing() -> Result<()> {
    let Some(_alone) = alone("the doctor") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    lab.branch.write(CONFIG_FILE, &Settings::default().toml(&lab))?;
    let before = Snapshot::take(&lab.branch)?;
    let doctor = || wgxdp(&lab.branch, &["doctor", "--config", CONFIG_FILE]);
    let well = doctor()?;
    well.succeeded()?;
    let expected = [
        "ok  uplink isp-a: isp-a, MTU 1500, 192.0.2.10".to_owned(),
        format!("ok  hub at {}: a probe every", lab.hub_endpoint()),
    ];
    for line in expected {
        ensure!(well.stdout.contains(&line), "no {line:?} in:\n{}", well.stdout);
    }
    ensure!(!well.stdout.contains("bad"), "{}", well.stdout);
    left_nothing("the doctor's visit", &lab.branch, &before)?;

    lab.branch.run("ip", &["link", "set", Uplink::A.name(), "down"])?;
    let ill = doctor()?;
    let named = ill.stdout.lines().find(|line| line.starts_with("bad"));
    ensure!(
        ill.code == Some(1) && named.is_some_and(|line| line.contains("ip link set isp-a up")),
        "{ill:?}"
    );
    Ok(())
}
