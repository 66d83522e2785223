//! The laboratory's own laws: what it claims to do to plain WireGuard, it does; and it leaves nothing behind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, io};

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::access::Kind;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll::{self, observe_for};
use wgxdp_tests::privilege::kind_or_skip;
use wgxdp_tests::process::Process;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::Traffic;

use crate::{BOUND, alone, pace};

const OBSERVED: Duration = Duration::from_millis(700);

/// Plain WireGuard carries the traffic, over isp-a, undisturbed.
fn plain_wireguard_works(family: Family) -> Result<()> {
    let lab = Lab::raise(family)?;
    let traffic = Traffic::start(&lab, pace())?;
    let from_ns = now_ns();
    observe_for(OBSERVED)?;
    let seen = traffic.observe_since(from_ns)?.both();
    ensure!(seen.sent > 100 && seen.lost == 0 && !seen.silent, "{seen:?}");
    ensure!(
        lab.uplink_in_use()? == Some(Uplink::A),
        "the hub sees {:?}",
        lab.hub_wg.endpoint()?
    );
    Ok(())
}

#[test]
fn plain_wireguard_carries_traffic_over_ipv4() -> Result<()> {
    let Some(_alone) = alone("plain WireGuard over IPv4") else {
        return Ok(());
    };
    plain_wireguard_works(Family::V4)
}

#[test]
fn plain_wireguard_carries_traffic_over_ipv6() -> Result<()> {
    let Some(_alone) = alone("plain WireGuard over IPv6") else {
        return Ok(());
    };
    plain_wireguard_works(Family::V6)
}

/// Each cut silences plain WireGuard in exactly the directions that it names, and healing brings the traffic back.
fn a_cut_silences_plain_wireguard(cut: Cut, family: Family, up: bool, down: bool) -> Result<()> {
    a_cut_silences(Lab::raise(family)?, cut, up, down)
}

fn a_cut_silences(mut lab: Lab, cut: Cut, up: bool, down: bool) -> Result<()> {
    let traffic = Traffic::start(&lab, pace())?;
    let severed = lab.cut(cut, Uplink::A)?;
    let from_ns = now_ns();
    let mark = traffic.tcp.mark();
    observe_for(OBSERVED)?;
    let seen = traffic.observe_since(from_ns)?;
    ensure!(seen.up.silent == up && seen.down.silent == down, "{cut:?}: {seen:?}");
    ensure!(!traffic.tcp.alive_since(mark) || !up, "{cut:?}: TCP went on");
    let dropped = lab.dropped(Uplink::A)?;
    ensure!(
        (dropped > 0) == cut.is_impairment(),
        "{cut:?}: {dropped} packets dropped by the router"
    );
    lab.heal(severed)?;
    traffic.await_flow(BOUND)
}

#[test]
fn a_blackhole_silences_plain_wireguard_both_ways() -> Result<()> {
    let Some(_alone) = alone("a black hole") else {
        return Ok(());
    };
    a_cut_silences_plain_wireguard(Cut::Blackhole, Family::V4, true, true)?;
    a_cut_silences_plain_wireguard(Cut::Blackhole, Family::V6, true, true)
}

#[test]
fn a_blackhole_one_way_silences_that_way_alone() -> Result<()> {
    let Some(_alone) = alone("black holes one way") else {
        return Ok(());
    };
    a_cut_silences_plain_wireguard(Cut::BlackholeUp, Family::V4, true, false)?;
    a_cut_silences_plain_wireguard(Cut::BlackholeDown, Family::V4, false, true)
}

#[test]
fn a_pulled_cable_and_a_silent_gateway_silence_plain_wireguard() -> Result<()> {
    let Some(_alone) = alone("a pulled cable and a silent gateway") else {
        return Ok(());
    };
    a_cut_silences_plain_wireguard(Cut::CarrierLoss, Family::V4, true, true)?;
    a_cut_silences_plain_wireguard(Cut::GatewaySilent, Family::V4, true, true)
}

#[test]
fn a_modem_that_hangs_up_and_one_whose_provider_is_silent_silence_plain_wireguard() -> Result<()> {
    let Some(_alone) = alone("cuts of a tun device") else {
        return Ok(());
    };
    for cut in [Cut::CarrierLoss, Cut::GatewaySilent] {
        a_cut_silences(Lab::raise_over([Kind::Tun; 2], Family::V4)?, cut, true, true)?;
    }
    Ok(())
}

#[test]
fn an_uplink_that_was_cut_and_healed_is_as_before() -> Result<()> {
    let Some(_alone) = alone("healing") else { return Ok(()) };
    is_as_before(Kind::Veth)
}

#[test]
fn a_tun_device_that_was_cut_and_healed_is_as_before() -> Result<()> {
    let Some(_alone) = alone("healing a tun device") else {
        return Ok(());
    };
    is_as_before(Kind::Tun)
}

#[test]
fn a_vlan_that_was_cut_and_healed_is_as_before() -> Result<()> {
    let Some(_alone) = alone("healing a VLAN") else {
        return Ok(());
    };
    if !kind_or_skip(Kind::Vlan)? {
        return Ok(());
    }
    is_as_before(Kind::Vlan)
}

fn is_as_before(kind: Kind) -> Result<()> {
    let mut lab = Lab::raise_over([kind, Kind::Veth], Family::V4)?;
    let before = Snapshot::foreign_routes(&lab.branch)?;
    for cut in Cut::ALL {
        let severed = lab.cut(cut, Uplink::A)?;
        lab.heal(severed)?;
        poll::wait_until(&format!("the routes after {cut:?}"), BOUND, || {
            Ok(before.difference(&Snapshot::foreign_routes(&lab.branch)?).is_empty())
        })
        .with_context(|| {
            format!(
                "{:?}",
                Snapshot::foreign_routes(&lab.branch).map(|after| before.difference(&after))
            )
        })?;
    }
    Ok(())
}

#[test]
fn a_snapshot_sees_what_was_added_and_that_it_went() -> Result<()> {
    let Some(_alone) = alone("a snapshot") else {
        return Ok(());
    };
    let host = Host::new("audited")?;
    let before = Snapshot::take(&host)?;
    host.ip([
        "link add left type veth peer name right",
        "link set left up",
        "link set right up",
        "addr add 192.0.2.1/24 dev left",
        "neigh add 192.0.2.2 lladdr 02:57:00:00:00:02 nud permanent dev left",
        "route add 198.51.100.0/24 via 192.0.2.2 table 57",
        "rule add pref 57 lookup 57",
    ])?;
    host.run("ip", &["-6", "rule", "add", "pref", "58", "lookup", "57"])?;
    host.run("tc", &["qdisc", "add", "dev", "left", "clsact"])?;
    host.enter(|| std::fs::create_dir("/sys/fs/bpf/ours"))?;
    let child = idler(&host)?;
    let added = before.difference(&Snapshot::take(&host)?);
    ensure!(added.removed.is_empty(), "{added}");
    let shown = added.to_string();
    for trace in [
        "link: left",
        "neigh -4: 192.0.2.2",
        "table 57",
        "rule -4: 57:",
        "rule -6: 58:",
        "qdisc: qdisc clsact",
        "pin: /sys/fs/bpf/ours",
        "process: ip",
    ] {
        ensure!(shown.contains(trace), "no {trace:?} in\n{shown}");
    }

    drop(child);
    host.enter(|| std::fs::remove_dir("/sys/fs/bpf/ours"))?;
    host.ip(["link delete left", "rule delete pref 57"])?;
    host.run("ip", &["-6", "rule", "delete", "pref", "58"])?;
    let left = before.difference(&Snapshot::take(&host)?);
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

#[test]
fn a_dropped_host_takes_its_devices_along() -> Result<()> {
    let Some(_alone) = alone("dropping a host") else {
        return Ok(());
    };
    let (stays, goes) = (Host::new("stays")?, Host::new("goes")?);
    stays.ip([format!(
        "link add near type veth peer name far netns {}",
        goes.netns_path()
    )])?;
    ensure!(stays.run("ip", &["link", "show", "near"]).is_ok());
    drop(goes);
    poll::wait_until("the end of the other namespace", BOUND, || {
        Ok(stays.run("ip", &["link", "show", "near"]).is_err())
    })
}

#[test]
fn a_dropped_process_is_gone() -> Result<()> {
    let Some(_alone) = alone("dropping a process") else {
        return Ok(());
    };
    let child = idler(&Host::new("host")?)?;
    let proc = PathBuf::from(format!("/proc/{}", child.pid()));
    ensure!(proc.exists());
    drop(child);
    ensure!(!proc.exists());
    Ok(())
}

/// Tells the test below that it is the laboratory to be killed.
const VICTIM: &str = "WGXDP_LABORATORY_VICTIM";

#[test]
fn a_laboratory_that_is_killed_leaves_no_process() -> Result<()> {
    let Some(_alone) = alone("killing a laboratory") else {
        return Ok(());
    };
    if env::var_os(VICTIM).is_some() {
        let host = Host::new("victim")?;
        let child = idler(&host)?;
        writeln!(io::stdout(), "child {}", child.pid())?;
        return observe_for(Duration::from_secs(60));
    }
    let mut victim = Command::new(env::current_exe()?);
    victim
        .args([
            "--exact",
            "laboratory::a_laboratory_that_is_killed_leaves_no_process",
            "--nocapture",
        ])
        .env(VICTIM, "1");
    let mut victim = victim.stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(victim.stdout.take().context("no pipe")?)
        .lines()
        .map_while(Result::ok);
    let pid = lines
        .filter_map(|line| Some(line.split_once("child ")?.1.to_owned()))
        .next();
    victim.kill()?;
    victim.wait()?;
    let proc = PathBuf::from("/proc").join(pid.context("the victim did not say who its child is")?);
    // Ended, it may still wait for init to take notice, but then it has no program any more.
    poll::wait_until("the end of the orphan", BOUND, || {
        Ok(std::fs::read_link(proc.join("exe")).is_err())
    })
}

/// A process that waits for ever, of a program that every laboratory has.
fn idler(host: &Host) -> Result<Process> {
    let mut command = host.command("ip");
    command
        .args(["monitor", "link"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Process::spawn("ip monitor", command)
}
