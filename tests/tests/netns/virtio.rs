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

/// Both hosts with a card each and the tunnel between them.
struct Scene {
    left: Host,
    right: Host,
    cards: [String; 2],
    /// Of the left end and of the right one.
    public_keys: [String; 2],
    _ends: [WireGuard; 2],
}

impl Scene {
    /// Nothing where there is no guest whose cards may be taken.
    fn raise() -> Result<Option<Self>> {
        if !emulated() {
            eprintln!("SKIPPED: this host's network cards are not the tests' to take; the guests have two for this");
            return Ok(None);
        }
        // A host that has just ended may have them still.
        poll::wait_until("two virtio cards", BOUND, || Ok(cards()?.len() >= 2))?;
        let mut cards = cards()?.into_iter();
        let cards = [(); 2].map(|()| cards.next().unwrap_or_default());
        let (left, right) = (Host::new("left")?, Host::new("right")?);
        plug(&cards[0], &left, LEFT)?;
        plug(&cards[1], &right, RIGHT)?;
        let (ends, public_keys) = raise_tunnel(&left, &right)?;
        Ok(Some(Self {
            left,
            right,
            cards,
            public_keys,
            _ends: ends,
        }))
    }

    /// wgxdp at an end, with `guard` run by its card's driver; `peer` are more lines about the other end.
    fn start(&self, end: usize, peer: &str) -> Result<Daemon> {
        let (host, card) = ([&self.left, &self.right][end], &self.cards[end]);
        let (key, endpoint) = (&self.public_keys[1 - end], [RIGHT, LEFT][end]);
        let file = format!(
            "[[uplink]]\nname = \"card\"\ninterface = \"{card}\"\ngateway = \"none\"\nxdp = \"native\"\n\n\
             [[tunnel]]\ninterface = \"wg0\"\n\n[[tunnel.peer]]\npublic-key = \"{key}\"\nendpoints = [\"{endpoint}:{LISTEN_PORT}\"]\n{peer}"
        );
        host.write(CONFIG_FILE, &file)?;
        let mut daemon = Daemon::spawn(host, &["run", "--config", CONFIG_FILE])?;
        daemon.await_ready()?;
        daemon.await_line(&format!("card: guard is native on {card}"), 0, Duration::ZERO)?;
        Ok(daemon)
    }
}

/// WireGuard at both ends, each with the other's address.
fn raise_tunnel(left: &Host, right: &Host) -> Result<([WireGuard; 2], [String; 2])> {
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
    Ok((ends, [ours.public, theirs.public]))
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
    let Some(scene) = Scene::raise()? else {
        return Ok(());
    };
    let daemon = scene.start(0, "")?;
    let (left, right, card) = (&scene.left, &scene.right, &scene.cards[0]);
    let program = attached(left, card)?.context("nothing is attached")?;
    ensure!(
        program.run_by == RunBy::Driver && program.name == "guard",
        "{program:?}"
    );

    exchange(left, right, 100).with_context(|| daemon.log().text())?;
    ensure!(
        count(left, GUARD, Reason::Guarded)? >= 100,
        "the packets came by another way"
    );
    poll::wait_until("a proof at guard", BOUND, || Ok(count(left, GUARD, Reason::Proof)? > 0))?;
    let junk = right.enter(|| UdpSocket::bind((RIGHT, 0)))?;
    for _ in 0..10 {
        junk.send_to(b"junk", (LEFT, LISTEN_PORT))?;
    }
    await_count(left, GUARD, Reason::WrongType, 10)?;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    ensure!(attached(left, card)?.is_none(), "guard is left");
    exchange(left, right, 10)
}

/// The answers go back by XDP_TX, from where the driver took the requests.
#[test]
fn virtios_driver_has_guard_answer_in_band_probes_before_the_kernel_sees_them() -> Result<()> {
    let Some(_alone) = alone("answers by XDP_TX") else {
        return Ok(());
    };
    let Some(scene) = Scene::raise()? else {
        return Ok(());
    };
    let far = scene.start(1, "")?;
    let near = scene.start(0, "probe = { kind = \"stamp\" }\n")?;
    let (left, right) = (&scene.left, &scene.right);
    let answered = (|| {
        poll::wait_until("answers of guard's that prove the path", 2 * BOUND, || {
            Ok(count(right, GUARD, Reason::Answered)? >= 20 && count(left, GUARD, Reason::Proof)? >= 20)
        })?;
        let [by_guard, by_restore] =
            [GUARD, Place::Uplink(UplinkId(0))].map(|place| count(right, place, Reason::Answered));
        let (by_guard, by_restore) = (by_guard?, by_restore?);
        // Only the full-size ones are restore's: with one probe in five at most another leaves that is one.
        ensure!(
            by_restore <= 1 + by_guard / 5,
            "restore answered {by_restore} requests, guard {by_guard}"
        );
        exchange(left, right, 10)
    })();
    answered.with_context(|| format!("{}\n{}", near.log().text(), far.log().text()))?;
    for daemon in [near, far] {
        ensure!(daemon.stop(Signal::SIGTERM)?.success());
    }
    Ok(())
}
