//! A tunnel lives by TCP-connect probes where the far end's kernel answers nothing else, and leaves no half-open connections there.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::access::Kind::{self, Tun, Veth};
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::privilege::kind_or_skip;
use wgxdp_tests::topology::{Family, Lab, Uplink};

use crate::command::status;
use crate::outlives::cut_and_heal;
use crate::scene::Scene;
use crate::status::path;
use crate::{BOUND, alone};

const PORT: u16 = 443;
/// Connections that the server is seen to forget.
const MANY: u64 = 20;
/// Much longer than a path that nobody answers lives.
const LONG: Duration = Duration::from_secs(2);

fn lives_by_tcp(kind: Kind, family: Family) -> Result<()> {
    if !kind_or_skip(kind)? {
        return Ok(());
    }
    let lab = Lab::raise_over([kind; 2], family)?;
    lab.hub.sysctl(&[
        ("net/ipv4/icmp_echo_ignore_all", "1"),
        ("net/ipv6/icmp/echo_ignore_all", "1"),
    ])?;
    let address = lab.hub_endpoint().ip();
    let listener = lab.hub.enter(|| TcpListener::bind((address, PORT)))?;
    let settings = Settings {
        probe: "kind = \"tcp\", port = 443",
        ..Settings::default()
    };
    let mut scene = Scene::raise_in(lab, &settings)?;
    scene.log_on_error(forgets(&scene.lab.hub))?;
    cut_and_heal(&mut scene, Cut::Blackhole)?;
    listener.set_nonblocking(true)?;
    let accepted = listener.accept().map_err(|e| e.kind());
    ensure!(
        matches!(accepted, Err(ErrorKind::WouldBlock)),
        "a probe became a connection: {accepted:?}"
    );

    // Who refuses is alive, too.
    drop(listener);
    observe_for(LONG)?;
    for uplink in Uplink::ALL {
        let what = format!("{} up with the port closed", uplink.name());
        let is_up = || Ok(path(&status(&scene.lab.branch)?, uplink)?.get("state") == Some(&"up".into()));
        scene.log_on_error(poll::wait_until(&what, BOUND, is_up))?;
    }
    Ok(())
}

/// The server is reset again and again, and has no half-open connection in between.
fn forgets(server: &Host) -> Result<()> {
    let before = resets(server)?;
    poll::wait_until("resets", BOUND, || Ok(resets(server)? >= before + MANY))?;
    poll::wait_until("a moment without half-open connections", BOUND, || {
        Ok(half_open(server)? == 0)
    })
}

/// Half-open connections that a host was told to forget, ever (`EmbryonicRsts`, a column of netstat's).
fn resets(host: &Host) -> Result<u64> {
    let netstat = shown(host, "netstat")?;
    let mut rows = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = columns
        .find(|(name, _)| *name == "EmbryonicRsts")
        .with_context(|| format!("no EmbryonicRsts in {netstat}"))?;
    Ok(value.parse()?)
}

/// Connections in SYN_RECV (state 3).
fn half_open(host: &Host) -> Result<usize> {
    let sockets = shown(host, "tcp")? + &shown(host, "tcp6")?;
    let states = sockets.lines().filter_map(|line| line.split_whitespace().nth(3));
    Ok(states.filter(|state| *state == "03").count())
}

/// A file of a host's /proc/net.
fn shown(host: &Host, file: &str) -> Result<String> {
    let path = format!("/proc/thread-self/net/{file}");
    let text = host.enter(|| fs::read_to_string(&path));
    text.with_context(|| format!("{path} in {}", host.name()))
}

#[test]
fn a_tunnel_over_ipv4_lives_by_tcp_probes_and_leaves_nothing_half_open() -> Result<()> {
    let Some(_alone) = alone("TCP probes over IPv4") else {
        return Ok(());
    };
    lives_by_tcp(Veth, Family::V4)
}

/// On a tun device the packets are bytes that a program carries: a checksum that was rewritten wrongly would be a probe unanswered.
#[test]
fn a_tunnel_over_ipv6_and_tun_lives_by_tcp_probes_and_leaves_nothing_half_open() -> Result<()> {
    let Some(_alone) = alone("TCP probes over IPv6 and tun") else {
        return Ok(());
    };
    lives_by_tcp(Tun, Family::V6)
}
