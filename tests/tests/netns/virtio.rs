//! `guard` run by a real driver: virtio-net, on the two network cards that a guest has, joined by a hub of QEMU's own.
//!
//! ```text
//! ┌─ left ────────┐                  ┌─ right ───────┐
//! │ wgxdp  wg0    │ virtio ── virtio │    wg0        │
//! │ 10.57.0.1     │ .1            .2 │    10.57.0.2  │
//! └───────────────┘   192.0.2.0/24   └───────────────┘
//! ```

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;
use wgxdp_tests::daemon::{CONFIG_FILE, Daemon};
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;
use wgxdp_tests::topology::{BRANCH_INNER, HUB_INNER};
use wgxdp_tests::wireguard::{Keys, LISTEN_PORT, Peer, Setup, WireGuard};
use wgxdp_tests::xdp::{RunBy, attached};

use crate::guard::{await_count, count};
use crate::{BOUND, alone, emulated};

const LEFT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GUARD: Place = Place::Guard(UplinkId(0));

/// The network cards with virtio's driver.
fn cards() -> Result<Vec<String>> {
    let mut cards = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let driver = fs::canonicalize(entry.path().join("device/driver"));
        if driver.is_ok_and(|driver| driver.ends_with(Path::new("virtio_net"))) {
            cards.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    cards.sort();
    Ok(cards)
}

/// Gives a card to a host; it comes back when that ends.
fn plug(card: &str, host: &Host, address: Ipv4Addr) -> Result<()> {
    let moved = Command::new("ip")
        .args(["link", "set", card, "netns", &host.netns_path()])
        .status()?;
    ensure!(moved.success(), "moving {card} failed");
    host.ip([
        format!("addr add {address}/24 dev {card}"),
        format!("link set {card} up"),
    ])
}

/// WireGuard at both ends, each with the other's address.
fn raise_tunnel(left: &Host, right: &Host) -> Result<([WireGuard; 2], String)> {
    let (ours, theirs) = (Keys::generate(), Keys::generate());
    let raise =
        |host: &Host, keys: &Keys, inner: Ipv4Addr, public_key: &str, peer_inner: Ipv4Addr, endpoint: Ipv4Addr| {
            let peer = Peer {
                public_key,
                allowed_ip: &format!("{peer_inner}/32"),
                endpoint: Some((endpoint, LISTEN_PORT).into()),
            };
            WireGuard::raise(host, &Setup::new(keys, &format!("{inner}/24"), &[peer]))
        };
    let ends = [
        raise(left, &ours, BRANCH_INNER, &theirs.public, HUB_INNER, RIGHT)?,
        raise(right, &theirs, HUB_INNER, &ours.public, BRANCH_INNER, LEFT)?,
    ];
    Ok((ends, theirs.public))
}

/// Datagrams through the tunnel, there and back, until `wanted` came back.
fn exchange(left: &Host, right: &Host, wanted: u32) -> Result<()> {
    let near = left.enter(|| UdpSocket::bind((BRANCH_INNER, 0)))?;
    let far = right.enter(|| UdpSocket::bind((HUB_INNER, 7)))?;
    for socket in [&near, &far] {
        socket.set_nonblocking(true)?;
    }
    let (mut buffer, mut back) = ([0; 1200], 0);
    poll::wait_until("datagrams there and back through the tunnel", 2 * BOUND, || {
        near.send_to(&[0x77; 1200], (HUB_INNER, 7))?;
        while let Ok((len, from)) = far.recv_from(&mut buffer) {
            far.send_to(&buffer[..len], from)?;
        }
        while near.recv_from(&mut buffer).is_ok() {
            back += 1;
        }
        Ok(back >= wanted)
    })
}

#[test]
fn virtios_driver_runs_guard_and_the_tunnel_works() -> Result<()> {
    let Some(_alone) = alone("guard on virtio-net") else {
        return Ok(());
    };
    if !emulated() {
        eprintln!("SKIPPED: this host's network cards are not the tests' to take; the guests have two for this");
        return Ok(());
    }
    let cards = cards()?;
    let [card, other, ..] = &cards[..] else {
        anyhow::bail!("the guest has no two virtio cards: {cards:?}");
    };
    let [left, right] = ["left", "right"].map(Host::new);
    let (left, right) = (left?, right?);
    plug(card, &left, LEFT)?;
    plug(other, &right, RIGHT)?;
    let (_ends, key) = raise_tunnel(&left, &right)?;
    let file = format!(
        "[[uplink]]\nname = \"card\"\ninterface = \"{card}\"\ngateway = \"none\"\nxdp = \"native\"\n\n\
         [[tunnel]]\ninterface = \"wg0\"\n\n[[tunnel.peer]]\npublic-key = \"{key}\"\nendpoints = [\"{RIGHT}:{LISTEN_PORT}\"]\n"
    );
    left.write(CONFIG_FILE, &file)?;
    let mut daemon = Daemon::spawn(&left, &["run", "--config", CONFIG_FILE])?;
    daemon.await_ready()?;
    daemon.await_line(&format!("card: guard is native on {card}"), 0, Duration::ZERO)?;
    let program = attached(&left, card)?.context("nothing is attached")?;
    ensure!(
        program.run_by == RunBy::Driver && program.name == "guard",
        "{program:?}"
    );

    exchange(&left, &right, 100).with_context(|| daemon.log().text())?;
    ensure!(
        count(&left, GUARD, Reason::Guarded)? >= 100,
        "the packets came by another way"
    );
    poll::wait_until(
        "a proof at guard",
        BOUND,
        || Ok(count(&left, GUARD, Reason::Proof)? > 0),
    )?;
    let junk = right.enter(|| UdpSocket::bind((RIGHT, 0)))?;
    for _ in 0..10 {
        junk.send_to(b"junk", (LEFT, LISTEN_PORT))?;
    }
    await_count(&left, GUARD, Reason::WrongType, 10)?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    ensure!(attached(&left, card)?.is_none(), "guard is left");
    exchange(&left, &right, 10)
}
