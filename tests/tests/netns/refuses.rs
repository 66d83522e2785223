//! What cannot be done is refused: a clear message, exit code 1, nothing left behind, and the tunnel's traffic undisturbed.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::daemon::{CONFIG_FILE, Daemon, Settings};
use wgxdp_tests::host::Host;
use wgxdp_tests::topology::{Family, Lab};
use wgxdp_tests::traffic::Traffic;
use wgxdp_tests::wireguard::Keys;

use crate::command::{left_nothing, wgxdp, wgxdp_arranged};
use crate::scene::{Scene, nothing_lost};
use crate::{BOUND, alone, pace};

const RUN: [&str; 3] = ["run", "--config", CONFIG_FILE];

/// What is written instead of what, and the essential words of the refusal.
type Row = (&'static str, String, &'static [&'static str]);

/// Starts wgxdp with the laboratory's file in which `from` is replaced by `to`, and sees it refused.
fn refused(lab: &Lab, (from, to, words): &Row) -> Result<()> {
    let good = Settings::default().toml(lab);
    ensure!(good.contains(from), "no {from:?} in the laboratory's file");
    let bad = good.replacen(from, to, 1);
    lab.branch.write(CONFIG_FILE, &bad)?;
    wgxdp(&lab.branch, &RUN)?
        .refused(&format!("{to:?}"), words)
        .with_context(|| format!("the file was:\n{bad}"))
}

fn row(from: &'static str, to: &str, words: &'static [&'static str]) -> Row {
    (from, to.to_owned(), words)
}

/// What the file itself says.
fn files() -> Vec<Row> {
    vec![
        row(
            "cost = 10",
            "cots = 10",
            &["/run/wgxdp.toml:4: ", "unknown key \"cots\"", "did you mean \"cost\"?"],
        ),
        row(
            "cost = 10",
            "address = \"192.0.2.300\"",
            &["/run/wgxdp.toml:4: ", "\"192.0.2.300\" is not an IP address"],
        ),
        row(
            "public-key = \"",
            "public-key = \"AAAA",
            &["/run/wgxdp.toml:15: ", "public-key"],
        ),
        row(
            "\"1000ms\"",
            "\"soon\"",
            &["/run/wgxdp.toml:21: ", "\"soon\"", "not a duration"],
        ),
        row(
            "name = \"isp-b\"",
            "name = \"isp-a\"",
            &["/run/wgxdp.toml:7: ", "\"isp-a\" is already used on line 2"],
        ),
        row("[[tunnel]]", "[[tunnel", &["/run/wgxdp.toml:11", "not TOML"]),
    ]
}

/// What the file says of this host.
fn hosts() -> Result<Vec<Row>> {
    let stranger = format!("public-key = \"{}\" #", Keys::generate().public);
    Ok(vec![
        row(
            "interface = \"isp-b\"",
            "interface = \"isp-c\"",
            &["uplink isp-b", "there is no interface isp-c", "`ip link`"],
        ),
        row(
            "interface = \"wg0\"",
            "interface = \"wg9\"",
            &["there is no interface wg9"],
        ),
        row(
            "interface = \"wg0\"",
            "interface = \"other\"",
            &["other is not a WireGuard interface", "\"veth\""],
        ),
        (
            "public-key = ",
            stranger,
            &["tunnel wg0 has no peer", "`wg show wg0 peers`"],
        ),
    ])
}

/// Beside the tunnel: a device that is none, and a WireGuard interface that has no port before it is up (where the kernel has
/// WireGuard: wireguard-go's always has one).
fn raise_others(host: &Host) -> Result<bool> {
    host.ip(["link add other type veth peer name other-peer"])?;
    Ok(host.run("ip", &["link", "add", "wg1", "type", "wireguard"]).is_ok())
}

#[test]
fn what_cannot_be_done_is_refused_and_nothing_is_left() -> Result<()> {
    let Some(_alone) = alone("refusing what cannot be done") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let host = &lab.branch;
    let portless = raise_others(host)?;
    let traffic = Traffic::start(&lab, pace())?;
    traffic.await_flow(BOUND)?;
    let from_ns = now_ns();
    let clean = Snapshot::take(host)?;

    for row in files() {
        refused(&lab, &row)?;
    }
    left_nothing("unreadable files", host, &clean)?;
    for row in hosts()? {
        refused(&lab, &row)?;
        left_nothing(&row.1, host, &clean)?;
    }
    if portless {
        let row = row(
            "interface = \"wg0\"",
            "interface = \"wg1\"",
            &["wg1 has no listen port", "ListenPort"],
        );
        refused(&lab, &row)?;
        left_nothing("a tunnel without a port", host, &clean)?;
    }
    let good = Settings::default().toml(&lab);
    lab.branch.write(CONFIG_FILE, &good)?;
    an_uplink_without_gateway(host)?;
    missing_capabilities(host)?;
    bpffs(host)?;
    left_nothing("refusals for want of a right or of bpffs", host, &clean)?;

    let taken = host.enter(|| TcpListener::bind("127.0.0.1:0"))?;
    let address = taken.local_addr()?.to_string();
    lab.branch
        .write(CONFIG_FILE, &format!("{good}\n[metrics]\nlisten = \"{address}\"\n"))?;
    wgxdp(host, &RUN)?.refused("the metrics' address in use", &["cannot listen on", &address, "in use"])?;
    left_nothing("a refusal for the metrics' address", host, &clean)?;

    nothing_lost(traffic.observe_since(from_ns)?.both())
}

fn an_uplink_without_gateway(host: &Host) -> Result<()> {
    host.run("ip", &["route", "delete", "default", "dev", "isp-b"])?;
    let clean = Snapshot::take(host)?;
    wgxdp(host, &RUN)?.refused(
        "an uplink without gateway",
        &["uplink isp-b", "no gateway for 203.0.113.1", "gateway = \"ADDRESS\""],
    )?;
    left_nothing("a missing gateway", host, &clean)?;
    host.ip(["route add default via 198.51.100.1 dev isp-b metric 200"])
}

/// By their numbers in `linux/capability.h`: those that wgxdp lacks then, and how it says so.
const RIGHTS: [(&[libc::c_ulong], &str); 3] = [
    // CAP_BPF, and CAP_SYS_ADMIN that implies it.
    (&[39, 21], "missing CAP_BPF"),
    (&[13], "missing CAP_NET_RAW;"),
    (&[12, 13], "missing CAP_NET_ADMIN and CAP_NET_RAW;"),
];

fn missing_capabilities(host: &Host) -> Result<()> {
    for (dropped, words) in RIGHTS {
        let ended = wgxdp_arranged(host, &RUN, |command| drop_capabilities(command, dropped))?;
        ended.refused(
            words,
            &[words, "sudo wgxdp", "AmbientCapabilities=CAP_NET_ADMIN CAP_BPF"],
        )?;
    }
    Ok(())
}

/// The program starts without these capabilities, and with all others that this process has.
fn drop_capabilities(command: &mut Command, capabilities: &'static [libc::c_ulong]) {
    let arrange = move || {
        for capability in capabilities {
            // SAFETY: prctl with integer arguments.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(arrange) };
}

fn bpffs(host: &Host) -> Result<()> {
    let place = "/sys/fs/bpf";
    let none: Option<&str> = None;
    let remount = |flags| host.enter(|| mount(none, place, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, none));
    remount(MsFlags::MS_RDONLY).context("remounting bpffs read-only")?;
    let read_only = wgxdp(host, &RUN)?;
    remount(MsFlags::empty()).context("remounting bpffs")?;
    read_only.refused(
        "a read-only bpffs",
        &["bpffs at /sys/fs/bpf is read-only", "remount,rw"],
    )?;

    host.enter(|| umount(place)).context("unmounting bpffs")?;
    let absent = wgxdp(host, &RUN)?;
    host.enter(|| mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), none))
        .context("mounting bpffs")?;
    absent.refused("no bpffs", &["/sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf"])
}

#[test]
fn one_uplink_is_a_warning_and_is_protected_all_the_same() -> Result<()> {
    let Some(_alone) = alone("one uplink only") else {
        return Ok(());
    };
    let lab = Lab::raise(Family::V4)?;
    let traffic = Traffic::start(&lab, pace())?;
    traffic.await_flow(BOUND)?;
    let clean = Snapshot::take(&lab.branch)?;
    let mut daemon = Daemon::spawn(&lab.branch, &["run", "--tunnel", "wg0", "--uplink", "isp-a"])?;
    daemon.await_ready()?;
    let from_ns = now_ns();
    let warning = daemon.await_line("the only uplink", 0, BOUND)?;
    ensure!(
        warning.contains("WARN") && warning.contains("add a second one"),
        "{warning}"
    );
    ensure!(
        Snapshot::take(&lab.branch)? != clean,
        "it says that it is ready, and does nothing"
    );
    traffic.await_udp(now_ns(), BOUND)?;
    nothing_lost(traffic.observe_since(from_ns)?.both()).with_context(|| daemon.log().text())?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    left_nothing("its end", &lab.branch, &clean)?;
    traffic.await_flow(BOUND)
}

#[test]
fn a_second_wgxdp_is_refused_and_the_first_goes_on() -> Result<()> {
    let Some(_alone) = alone("a second wgxdp") else {
        return Ok(());
    };
    let scene = Scene::raise(Family::V4)?;
    let host = &scene.lab.branch;
    let pid = format!("(pid {})", scene.daemon.pid());
    let (running, from_ns) = (Snapshot::take(host)?, now_ns());
    let skip = scene.daemon.log().since(0).len();
    for args in [&RUN[..], &["down"], &["run", "--tunnel", "wg0", "--uplink", "isp-b"]] {
        let words = ["another wgxdp runs already", &pid, "/run/wgxdp/lock"];
        wgxdp(host, args)?.refused(&args.join(" "), &words)?;
        let difference = running.difference(&Snapshot::take(host)?);
        ensure!(difference.is_empty(), "{args:?} changed the host:\n{difference}");
    }
    let said = scene.daemon.log().since(skip);
    ensure!(said.is_empty(), "the first one noticed: {said:?}");
    ensure!(
        host.enter(|| File::open("/run/wgxdp/state.json")).is_ok(),
        "the names of the first one are gone"
    );
    scene.log_on_error(nothing_lost(scene.traffic.observe_since(from_ns)?.both()))?;
    ensure!(scene.daemon.stop(Signal::SIGTERM)?.success());
    left_nothing("the first one's end", &scene.lab.branch, &scene.clean)
}
