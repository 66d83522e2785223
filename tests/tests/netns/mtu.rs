//! MTUs: the tunnel is compared with its tightest path, lowered to it if that is asked for and put back by whoever ends last, and TCP inside it is
//! clamped to what fits.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, HUB_INNER, Lab, Uplink};
use wgxdp_tests::wireguard::INTERFACE;

use crate::command::wgxdp;
use crate::{BOUND, alone};

/// What the laboratory gives the tunnel.
const TUNNEL_MTU: u32 = 1420;
/// A narrow uplink, and what it leaves for the tunnel over IPv4.
const NARROW: u32 = 1400;
const FITS: u32 = 1340;
/// Where the daemon remembers the MTUs that it changed.
const REMEMBERED: &str = "/run/wgxdp/mtu.json";

fn tunnel(lines: &str) -> Settings {
    Settings {
        tunnel: format!("{lines}\n"),
        ..Settings::default()
    }
}

fn set_mtu(host: &Host, device: &str, mtu: u32) -> Result<()> {
    host.ip([format!("link set {device} mtu {mtu}")])
}

fn mtu(host: &Host) -> Result<u32> {
    let path = format!("/sys/class/net/{INTERFACE}/mtu");
    let text = host.enter(|| fs::read_to_string(&path)).context(path)?;
    Ok(text.trim().parse()?)
}

fn await_mtu(host: &Host, wanted: u32) -> Result<()> {
    poll::wait_until(&format!("an MTU of {wanted}"), BOUND, || Ok(mtu(host)? == wanted))
}

fn remembered(host: &Host) -> bool {
    host.enter(|| Path::new(REMEMBERED).exists())
}

#[test]
fn a_tunnel_too_large_for_a_path_is_told_the_number_to_set_once_for_each_change() -> Result<()> {
    let Some(_alone) = alone("advice about MTUs") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let mut daemon = Daemon::start(&lab, &Settings::default())?;
    let log = daemon.log().clone();
    let told = || {
        let lines = log.since(0).into_iter();
        lines.filter(|line| line.contains("is too large for")).count()
    };
    ensure!(told() == 0, "{TUNNEL_MTU} fits 1500, and yet: {}", log.text());

    set_mtu(&lab.branch, Uplink::A.name(), NARROW)?;
    let line = daemon.await_line("is too large for isp-a, which takes 1400 bytes of IPv4", 0, BOUND)?;
    ensure!(
        line.contains("WARN") && line.contains("`ip link set wg0 mtu 1340`"),
        "{line}"
    );
    // The route by the other uplink becomes tighter still: another number, another word.
    lab.branch
        .ip(["route change default via 198.51.100.1 dev isp-b metric 200 mtu 1300"])?;
    let line = daemon.await_line("is too large for isp-b, which takes 1300 bytes of IPv4", 0, BOUND)?;
    ensure!(line.contains("`ip link set wg0 mtu 1240`"), "{line}");
    ensure!(told() == 2, "each change is said once: {}", log.text());

    // Something else changes, and is seen by the daemon before it ends.
    set_mtu(&lab.branch, Uplink::A.name(), NARROW + 1)?;
    lab.branch
        .ip(["route change default via 198.51.100.1 dev isp-b metric 200"])?;
    daemon.await_line("which takes 1401 bytes of IPv4", 0, BOUND)?;
    ensure!(told() == 3, "what stays as it is is not said again: {}", log.text());
    set_mtu(&lab.branch, INTERFACE, FITS)?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    ensure!(
        mtu(&lab.branch)? == FITS,
        "without `mtu = \"auto\"` the MTU is not ours to change"
    );
    Ok(())
}

#[test]
fn an_automatic_mtu_follows_what_fits_and_is_put_back_at_the_end() -> Result<()> {
    let Some(_alone) = alone("automatic MTUs") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let clean = Snapshot::take(&lab.branch)?;
    let daemon = Daemon::start(&lab, &tunnel("mtu = \"auto\""))?;
    ensure!(mtu(&lab.branch)? == TUNNEL_MTU, "what fits more is not raised");
    ensure!(!remembered(&lab.branch), "nothing was changed yet");

    set_mtu(&lab.branch, Uplink::A.name(), NARROW)?;
    await_mtu(&lab.branch, FITS)?;
    set_mtu(&lab.branch, Uplink::A.name(), 1500)?;
    await_mtu(&lab.branch, TUNNEL_MTU)?;
    set_mtu(&lab.branch, Uplink::B.name(), NARROW - 50)?;
    await_mtu(&lab.branch, FITS - 50)?;
    set_mtu(&lab.branch, Uplink::B.name(), NARROW)?;
    await_mtu(&lab.branch, FITS)?;

    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    ensure!(mtu(&lab.branch)? == TUNNEL_MTU, "it is put back");
    set_mtu(&lab.branch, Uplink::B.name(), 1500)?;
    ensure!(!remembered(&lab.branch), "{REMEMBERED} is left");
    let left = clean.difference(&Snapshot::take(&lab.branch)?);
    ensure!(left.is_empty(), "this is left:\n{left}");
    Ok(())
}

#[test]
fn a_killed_daemon_s_mtu_is_put_back_by_the_next_one_s_end_or_by_down() -> Result<()> {
    let Some(_alone) = alone("automatic MTUs after SIGKILL") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let auto = tunnel("mtu = \"auto\"");
    set_mtu(&lab.branch, Uplink::A.name(), NARROW)?;
    let daemon = Daemon::start(&lab, &auto)?;
    await_mtu(&lab.branch, FITS)?;
    drop(daemon);
    ensure!(
        mtu(&lab.branch)? == FITS && remembered(&lab.branch),
        "killed, it puts nothing back"
    );

    let daemon = Daemon::start(&lab, &auto)?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    ensure!(
        mtu(&lab.branch)? == TUNNEL_MTU,
        "the next daemon takes the killed one's value for the original"
    );

    let daemon = Daemon::start(&lab, &auto)?;
    await_mtu(&lab.branch, FITS)?;
    drop(daemon);
    let ended = wgxdp(&lab.branch, &["down"])?;
    ended.succeeded()?;
    ensure!(ended.stdout.contains("put back the MTU of wg0"), "{}", ended.stdout);
    ensure!(mtu(&lab.branch)? == TUNNEL_MTU && !remembered(&lab.branch));
    Ok(())
}

#[test]
fn an_mtu_that_somebody_else_sets_meanwhile_stays() -> Result<()> {
    let Some(_alone) = alone("somebody else's MTU") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    set_mtu(&lab.branch, Uplink::A.name(), NARROW)?;
    let mut daemon = Daemon::start(&lab, &tunnel("mtu = \"auto\""))?;
    await_mtu(&lab.branch, FITS)?;
    set_mtu(&lab.branch, INTERFACE, 1380)?;
    daemon.await_line("somebody set its MTU to 1380, where it stays", 0, BOUND)?;
    // It does not fit, and that is said.
    daemon.await_line("MTU 1380 is too large for isp-a", 0, BOUND)?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    ensure!(mtu(&lab.branch)? == 1380, "theirs is theirs");
    Ok(())
}

/// The largest segments that both ends of a new connection through the tunnel send, without the 12 bytes of timestamps in each: the branch's and the hub's.
fn segments(lab: &Lab) -> Result<[u32; 2]> {
    const TIMESTAMPS: u32 = 12;
    let listener = lab.hub.enter(|| TcpListener::bind((HUB_INNER, 0)))?;
    let address = listener.local_addr()?;
    let opened = lab.branch.enter(|| TcpStream::connect_timeout(&address, BOUND))?;
    let (accepted, _) = listener.accept()?;
    let segment = |stream: &TcpStream| Ok::<_, anyhow::Error>(getsockopt(stream, sockopt::TcpMaxSeg)? + TIMESTAMPS);
    Ok([segment(&opened)?, segment(&accepted)?])
}

#[test]
fn tcp_through_a_clamped_tunnel_sends_what_fits_and_through_another_it_does_not() -> Result<()> {
    let Some(_alone) = alone("clamping the MSS") else {
        return Ok(());
    };
    // What fits, without what WireGuard would pad beyond it, less 40 bytes of headers.
    const CLAMPED: u32 = FITS / 16 * 16 - 40;
    const UNCLAMPED: u32 = TUNNEL_MTU - 40;
    let lab = Lab::raise(Family::V4)?;
    let clean = Snapshot::take(&lab.branch)?;
    let mut daemon = Daemon::start(&lab, &tunnel("clamp-mss = true"))?;
    ensure!(segments(&lab)? == [UNCLAMPED; 2], "all paths take full packets");
    let attached = clean.difference(&Snapshot::take(&lab.branch)?).to_string();
    ensure!(
        attached.contains("clamp_mss"),
        "the audit does not see it in\n{attached}"
    );

    set_mtu(&lab.branch, Uplink::A.name(), NARROW)?;
    daemon.await_line("clamped to inner packets of 1328 bytes", 0, BOUND)?;
    let seen = segments(&lab)?;
    ensure!(seen == [CLAMPED; 2], "{seen:?} and not {CLAMPED}");

    // Killed, it clamps on; without the key the next one detaches what was left.
    drop(daemon);
    ensure!(
        segments(&lab)? == [CLAMPED; 2],
        "nobody clamps while the daemon is dead"
    );
    let daemon = Daemon::start(&lab, &Settings::default())?;
    let seen = segments(&lab)?;
    ensure!(
        seen == [UNCLAMPED; 2],
        "without `clamp-mss` TCP is let alone, but {seen:?}"
    );
    ensure!(daemon.stop(Signal::SIGTERM)?.success());

    let daemon = Daemon::start(&lab, &tunnel("clamp-mss = true"))?;
    ensure!(segments(&lab)? == [CLAMPED; 2], "from the start");
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    set_mtu(&lab.branch, Uplink::A.name(), 1500)?;
    let left = clean.difference(&Snapshot::take(&lab.branch)?);
    ensure!(left.is_empty(), "this is left:\n{left}");
    Ok(())
}
