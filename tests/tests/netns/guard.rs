//! `guard`, whoever runs it: the tunnel works, junk ends there, nobody else's program is touched, and all of it goes with the daemon.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use nix::sys::signal::Signal;
use wgxdp::dataplane::{Pins, Tables};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{CONFIG_FILE, Daemon, Settings};
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::Traffic;
use wgxdp_tests::wireguard::LISTEN_PORT;
use wgxdp_tests::xdp::{Foreign, RunBy, attached};

use crate::command::{left_nothing, wgxdp};
use crate::scene::{Scene, nothing_lost};
use crate::{BOUND, alone, pace};

const ISP_A: &str = "isp-a";
const GUARD: Place = Place::Guard(UplinkId(0));
const RESTORE: Place = Place::Uplink(UplinkId(0));

fn settings(xdp: &'static str) -> Settings {
    Settings {
        xdp: Some(xdp),
        ..Settings::default()
    }
}

/// How often that happened there, from the daemon's pins.
pub(crate) fn count(host: &Host, place: Place, reason: Reason) -> Result<u64> {
    host.enter(|| Ok(Tables::pinned(&Pins::default())?.reason_count(place, reason)?))
}

/// All that happened at either place, for messages.
fn counts(host: &Host) -> Result<Vec<(Place, Reason, u64)>> {
    let all = [GUARD, RESTORE]
        .into_iter()
        .flat_map(|place| Reason::ALL.iter().map(move |reason| (place, *reason)));
    let counted = all.map(|(place, reason)| Ok((place, reason, count(host, place, reason)?)));
    let happened = |row: &Result<(Place, Reason, u64)>| !matches!(row, Ok((_, _, 0)));
    counted.filter(happened).collect()
}

/// Waits until it happened that often.
pub(crate) fn await_count(host: &Host, place: Place, reason: Reason, wanted: u64) -> Result<()> {
    let what = format!("{wanted} times {reason:?} at {place:?}");
    let awaited = poll::wait_until(&what, BOUND, || Ok(count(host, place, reason)? == wanted));
    awaited.with_context(|| format!("{:?}", counts(host)))
}

/// Bytes of which no more is right than their beginning.
fn message(first: [u8; 4], len: usize) -> Vec<u8> {
    let mut message = vec![0x5a; len];
    message[..4].copy_from_slice(&first);
    message
}

/// Of `guard` on isp-a, who runs it.
fn run_by(host: &Host) -> Result<Option<RunBy>> {
    Ok(attached(host, ISP_A)?.map(|program| program.run_by))
}

/// The tunnel carries traffic and proofs, and what cannot be WireGuard ends before WireGuard: at `guard`, or, if that does not run or is not sure, at `restore`.
fn works(xdp: &'static str, who: Option<RunBy>, family: Family) -> Result<()> {
    let scene = Scene::raise_with(family, &settings(xdp))?;
    let branch = &scene.lab.branch;
    ensure!(run_by(branch)? == who, "{xdp}: {:?}", attached(branch, ISP_A)?);
    let from_ns = now_ns();

    let (first, unsure) = match who {
        Some(RunBy::Driver) => (GUARD, GUARD),
        Some(RunBy::Kernel) => (GUARD, RESTORE),
        None => (RESTORE, RESTORE),
    };
    let target = (Uplink::A.address(family), LISTEN_PORT);
    let socket = scene
        .lab
        .hub
        .enter(|| UdpSocket::bind((scene.lab.hub_endpoint().ip(), 0)))?;
    let junk = [
        (message(*b"junk", 60), first, Reason::WrongType),
        (message([1, 0, 0, 7], 148), first, Reason::Reserved),
        (message([4, 0, 0, 0], 33), unsure, Reason::WrongLength),
    ];
    for (payload, place, reason) in junk {
        for _ in 0..10 {
            socket.send_to(&payload, target)?;
        }
        scene.log_on_error(await_count(branch, place, reason, 10))?;
        for other in [GUARD, RESTORE].into_iter().filter(|other| *other != place) {
            ensure!(
                count(branch, other, reason)? == 0,
                "{xdp}: {reason:?} at {other:?}, too"
            );
        }
    }
    ensure!(
        count(branch, RESTORE, Reason::Stranger)? == 0,
        "{xdp}: junk got to WireGuard"
    );
    // The counter-case: what looks like WireGuard gets there.
    socket.send_to(&message([1, 0, 0, 0], 148), target)?;
    await_count(branch, RESTORE, Reason::Stranger, 1)?;

    // `restore` noted proofs, too, until `guard` was attached; `guard` that is off never does.
    let noted = if who.is_some() { GUARD } else { RESTORE };
    let before = count(branch, noted, Reason::Proof)?;
    poll::wait_until("another proof", BOUND, || {
        Ok(count(branch, noted, Reason::Proof)? > before)
    })?;
    for reason in [Reason::Proof, Reason::Guarded] {
        let happened = count(branch, GUARD, reason)? > 0;
        ensure!(happened == who.is_some(), "{xdp}: {:?}", counts(branch));
    }
    scene.log_on_error(scene.traffic.await_flow(BOUND))?;
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(from_ns)?.both()))?;
    scene.wireguard_noticed_nothing()?;

    let Scene { daemon, lab, clean, .. } = scene;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    left_nothing(xdp, &lab.branch, &clean)
}

#[test]
fn run_by_the_driver_guard_ends_junk_and_lets_the_tunnel_work() -> Result<()> {
    let Some(_alone) = alone("guard run by the driver") else {
        return Ok(());
    };
    works("native", Some(RunBy::Driver), Family::V4)?;
    works("native", Some(RunBy::Driver), Family::V6)
}

#[test]
fn run_by_the_kernel_guard_does_the_same_and_leaves_lengths_to_restore() -> Result<()> {
    let Some(_alone) = alone("guard run by the kernel") else {
        return Ok(());
    };
    works("generic", Some(RunBy::Kernel), Family::V4)
}

#[test]
fn without_guard_restore_does_all_of_it() -> Result<()> {
    let Some(_alone) = alone("guard off") else {
        return Ok(());
    };
    works("off", None, Family::V4)
}

#[test]
fn by_itself_guard_takes_a_driver_that_can_and_comes_back_with_its_device() -> Result<()> {
    let Some(_alone) = alone("guard on a device that comes back") else {
        return Ok(());
    };
    let mut scene = Scene::raise(Family::V4)?;
    let host = scene.lab.branch.clone();
    let log = scene.daemon.log().text();
    for uplink in Uplink::ALL {
        let line = format!("{0}: guard is native on {0}", uplink.name());
        ensure!(log.contains(&line), "no {line:?} in {log}");
    }
    let severed = scene.lab.cut(Cut::Delete, Uplink::A)?;
    scene.await_uplink(Uplink::B)?;
    scene.lab.heal(severed)?;
    poll::wait_until("guard on the new device", BOUND, || {
        Ok(run_by(&host)? == Some(RunBy::Driver))
    })?;
    scene.await_uplink(Uplink::A)
}

/// The id of the pinned link to isp-a.
fn link_id(host: &Host) -> Result<u32> {
    let ifindex = host.enter(|| nix::net::if_::if_nametoindex(ISP_A))?;
    host.enter(|| {
        let path = Pins::default().links().join(format!("guard-{ifindex}"));
        Ok(FdLink::from(PinnedLink::from_pin(path)?).info()?.id())
    })
}

#[test]
fn the_next_daemon_replaces_guard_in_place_or_changes_who_runs_it() -> Result<()> {
    let Some(_alone) = alone("replacing guard") else {
        return Ok(());
    };
    let Scene {
        traffic,
        daemon,
        lab,
        clean,
        ..
    } = Scene::raise_with(Family::V4, &settings("native"))?;
    let host = &lab.branch;
    let (program, link) = (attached(host, ISP_A)?.context("no guard")?, link_id(host)?);
    drop(daemon);
    ensure!(
        attached(host, ISP_A)?.as_ref() == Some(&program),
        "killed, it took guard along"
    );

    let from_ns = now_ns();
    let daemon = Daemon::start(&lab, &settings("native"))?;
    let next = attached(host, ISP_A)?.context("no guard")?;
    ensure!(
        next.id != program.id && next.name == program.name,
        "{program:?} → {next:?}"
    );
    ensure!(
        link_id(host)? == link,
        "the link is another one, so guard was detached meanwhile"
    );
    nothing_lost(traffic.observe_since(from_ns)?.both()).with_context(|| daemon.log().text())?;

    let mut running = daemon;
    for (xdp, who) in [
        ("generic", Some(RunBy::Kernel)),
        ("off", None),
        ("auto", Some(RunBy::Driver)),
    ] {
        drop(running);
        running = Daemon::start(&lab, &settings(xdp))?;
        ensure!(run_by(host)? == who, "{xdp}: {:?}", attached(host, ISP_A)?);
        traffic.await_flow(BOUND)?;
    }
    ensure!(running.stop(Signal::SIGTERM)?.success());
    left_nothing("four daemons", host, &clean)
}

#[test]
fn somebody_elses_program_stays_and_by_itself_wgxdp_does_without_guard_there() -> Result<()> {
    let Some(_alone) = alone("somebody else's XDP program") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let host = &lab.branch;
    let _foreign = Foreign::attach(host, ISP_A)?;
    let theirs = attached(host, ISP_A)?.context("it is not attached")?;
    ensure!(theirs.name == Foreign::NAME, "{theirs:?}");
    let traffic = Traffic::start(&lab, pace())?;
    let clean = Snapshot::take(host)?;

    for xdp in ["native", "generic"] {
        host.write(CONFIG_FILE, &settings(xdp).toml(&lab))?;
        let mode = format!("xdp = \"{xdp}\"");
        let words = [
            "uplink isp-a",
            &mode,
            "another XDP program is attached",
            "xdp = \"auto\"",
        ];
        wgxdp(host, &["run", "--config", CONFIG_FILE])?.refused(xdp, &words)?;
        left_nothing(xdp, host, &clean)?;
    }

    let mut daemon = Daemon::start(&lab, &settings("auto"))?;
    let line = daemon.await_line("isp-a: guard is off on isp-a", 0, BOUND)?;
    ensure!(line.contains("INFO") && line.contains("another XDP program"), "{line}");
    daemon.await_line("isp-b: guard is native on isp-b", 0, BOUND)?;
    traffic.await_flow(BOUND)?;
    ensure!(attached(host, ISP_A)?.as_ref() == Some(&theirs), "it was touched");
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    left_nothing("its end", host, &clean)
}

#[test]
fn a_device_that_cannot_run_guard_is_named_with_the_reason() -> Result<()> {
    let Some(_alone) = alone("devices without XDP") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let host = &lab.branch;
    host.ip(["link add plain type ifb", "tuntap add dev raw mode tun"])?;
    let clean = Snapshot::take(host)?;
    let file = |interface: &str, xdp: &str| {
        let uplink = format!("interface = \"{interface}\"\ngateway = \"none\"\nxdp = \"{xdp}\"");
        Settings::default()
            .toml(&lab)
            .replacen("interface = \"isp-b\"", &uplink, 1)
    };
    for (interface, xdp, reason) in [
        ("plain", "native", "its driver has no XDP"),
        ("raw", "native", "its packets have no Ethernet header"),
        ("raw", "generic", "its packets have no Ethernet header"),
    ] {
        host.write(CONFIG_FILE, &file(interface, xdp))?;
        let refused = format!("uplink isp-b: xdp = \"{xdp}\" cannot be had on {interface}: {reason}");
        wgxdp(host, &["run", "--config", CONFIG_FILE])?.refused(interface, &[&refused])?;
        left_nothing(interface, host, &clean)?;

        host.write(CONFIG_FILE, &file(interface, "auto"))?;
        let mut daemon = Daemon::spawn(host, &["run", "--config", CONFIG_FILE])?;
        daemon.await_ready()?;
        let said = format!("isp-b: guard is off on {interface}, restore does its work: {reason}");
        daemon.await_line(&said, 0, BOUND)?;
        ensure!(daemon.stop(Signal::SIGTERM)?.success());
        left_nothing(interface, host, &clean)?;
    }
    Ok(())
}
