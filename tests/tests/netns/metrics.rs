//! The metrics of a running daemon, scraped in the branch.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;
use wgxdp_tests::scrape::{get, sample};
use wgxdp_tests::topology::{Family, Uplink};

use crate::scene::Scene;
use crate::{BOUND, alone, emulated};

// The same judge as for the unit tests of the text.
#[path = "../../../wgxdp/src/metrics/parser.rs"]
mod parser;

const ADDRESS: &str = "127.0.0.1:9587";

fn scrape(host: &Host) -> Result<String> {
    let answer = get(host, ADDRESS, "/metrics")?;
    ensure!(
        answer.status.starts_with("HTTP/1.1 200"),
        "{}: {}",
        answer.status,
        answer.body
    );
    let media = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    ensure!(answer.headers.contains(media), "{}", answer.headers);
    ensure!(answer.body.ends_with("# EOF\n"), "no end: {}", answer.body);
    Ok(answer.body)
}

fn expect(text: &str, name: &str, labels: &[(&str, &str)], wanted: f64) -> Result<()> {
    let found = sample(text, name, labels);
    ensure!(
        found == Some(wanted),
        "{name}{labels:?} is {found:?}, not {wanted}, in\n{text}"
    );
    Ok(())
}

/// Waits until every one of these has grown beyond what `before` says.
fn await_growth(host: &Host, before: &str, rows: &[(&str, &[(&str, &str)])]) -> Result<()> {
    for (name, labels) in rows {
        let first = sample(before, name, labels).with_context(|| format!("no {name}{labels:?} in\n{before}"))?;
        let what = format!("{name}{labels:?} to grow beyond {first}");
        poll::wait_until(&what, BOUND, || {
            Ok(sample(&scrape(host)?, name, labels).is_some_and(|now| now > first))
        })?;
    }
    Ok(())
}

/// The Python client's parser accepts it; a guest has no Python, and says so.
fn is_open_metrics(text: &str) -> Result<()> {
    if emulated() {
        eprintln!("in the guest there is no Python: its parser does not judge the metrics here");
        return Ok(());
    }
    let Some(mut parser) = parser::Parser::find() else {
        return Ok(());
    };
    let families = parser
        .parse(text)
        .map_err(|error| anyhow::anyhow!("not OpenMetrics: {error}\n{text}"))?;
    let failovers = families.iter().find(|family| family.name == "wgxdp_failovers");
    ensure!(failovers.is_some_and(|family| !family.samples.is_empty()), "{text}");
    Ok(())
}

#[test]
fn metrics_tell_of_paths_packets_and_failovers() -> Result<()> {
    let Some(_alone) = alone("metrics") else { return Ok(()) };
    let settings = Settings {
        // Nothing returns while this law looks.
        hold_down: Duration::from_secs(60),
        more: format!("\n[metrics]\nlisten = \"{ADDRESS}\"\n"),
        ..Settings::default()
    };
    let mut scene = Scene::raise_with(Family::V4, &settings)?;
    let host = scene.lab.branch.clone();
    let health = get(&host, ADDRESS, "/healthz")?;
    ensure!(health.status.starts_with("HTTP/1.1 200"), "{}", health.status);
    let lost = get(&host, ADDRESS, "/")?;
    ensure!(lost.status.starts_with("HTTP/1.1 404"), "{}", lost.status);

    let (a, b) = (("uplink", "isp-a"), ("uplink", "isp-b"));
    let up = ("state", "up");
    poll::wait_until("both paths up, with their round-trip times", BOUND, || {
        let text = scrape(&host)?;
        Ok([a, b].iter().all(|uplink| {
            sample(&text, "wgxdp_path_state", &[*uplink, up]) == Some(1.0)
                && sample(&text, "wgxdp_path_rtt_seconds", &[*uplink]).is_some_and(|rtt| rtt > 0.0 && rtt < 5.0)
        }))
    })?;
    let text = scrape(&host)?;
    is_open_metrics(&text)?;
    expect(&text, "wgxdp_uplink_up", &[a], 1.0)?;
    expect(&text, "wgxdp_path_active", &[a], 1.0)?;
    expect(&text, "wgxdp_path_active", &[b], 0.0)?;
    expect(&text, "wgxdp_path_state", &[a, ("state", "down")], 0.0)?;
    ensure!(sample(&text, "wgxdp_path_probe_loss_ratio", &[b]).is_some(), "{text}");
    // There from the start, so that the first one is an increase.
    expect(&text, "wgxdp_failovers_total", &[("reason", "silence")], 0.0)?;
    expect(&text, "wgxdp_failovers_total", &[], 0.0)?;
    let handshake = sample(&text, "wgxdp_peer_latest_handshake_seconds", &[("peer", "hub")]);
    let known = scene.lab.branch_wg.latest_handshake()?;
    ensure!(
        handshake.is_some_and(|at| at as u64 == known),
        "{handshake:?} is not {known}"
    );
    let (tx, rx) = (("direction", "tx"), ("direction", "rx"));
    await_growth(
        &host,
        &text,
        &[
            ("wgxdp_path_packets_total", &[a, tx]),
            ("wgxdp_path_packets_total", &[a, rx]),
            ("wgxdp_path_bytes_total", &[a, tx]),
            ("wgxdp_path_bytes_total", &[a, rx]),
            ("wgxdp_path_probes_answered_total", &[b]),
            ("wgxdp_program_packets_total", &[("program", "steer")]),
            ("wgxdp_program_packets_total", &[("program", "restore"), a]),
        ],
    )?;
    for verdict in ["drop", "pass"] {
        let found = sample(&text, "wgxdp_program_packets_total", &[("verdict", verdict)]);
        ensure!(
            found.is_some(),
            "no packets by reason for the verdict {verdict} in\n{text}"
        );
    }

    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    scene.await_uplink(Uplink::B)?;
    poll::wait_until("the failover in the metrics", BOUND, || {
        let failovers = sample(&scrape(&host)?, "wgxdp_failovers_total", &[("reason", "silence")]);
        Ok(failovers == Some(1.0))
    })?;
    let text = scrape(&host)?;
    is_open_metrics(&text)?;
    expect(&text, "wgxdp_path_state", &[a, ("state", "down")], 1.0)?;
    expect(&text, "wgxdp_path_active", &[b], 1.0)?;
    expect(&text, "wgxdp_failovers_total", &[], 1.0)?;
    await_growth(&host, &text, &[("wgxdp_path_packets_total", &[b, tx])])?;
    scene.lab.heal(severed).map(drop)
}
