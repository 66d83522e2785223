//! STAMP (RFC 8762) with somebody else's implementation at the other end, both ways round: [stamp-suite](https://github.com/asmie/stamp-suite), which
//! `cargo xtask setup` builds.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wgxdp_common::stamp::{BASE_LEN, ErrorEstimate, PORT, ReflectorPacket, SenderPacket, Timestamp};
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Settings, binary};
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;
use wgxdp_tests::process::Process;
use wgxdp_tests::topology::{Family, Lab};

use crate::outlives::cut_and_heal;
use crate::scene::Scene;
use crate::swallows::narrow_and_widen;
use crate::{BOUND, alone};

fn stamp_suite() -> Result<PathBuf> {
    let version = include_str!("../../stamp-suite.version").trim();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../.tools/stamp-suite-{version}/bin"));
    let program = folder.join("stamp-suite");
    ensure!(
        program.is_file(),
        "no {}: run `cargo xtask setup` once",
        program.display()
    );
    Ok(program)
}

/// Somebody else's reflector.
fn theirs(host: &Host, address: IpAddr) -> Result<Command> {
    let mut command = host.command(stamp_suite()?);
    command.args(["--is-reflector", "--local-addr", &address.to_string()]);
    command.args(["--local-port", &PORT.to_string()]);
    Ok(command)
}

/// Ours.
fn ours(host: &Host, address: IpAddr) -> Result<Command> {
    let mut command = host.command(binary()?);
    command.args(["reflect", "--listen", &SocketAddr::new(address, PORT).to_string()]);
    Ok(command)
}

fn start(mut reflector: Command) -> Result<Process> {
    reflector
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process::spawn("the reflector", reflector)
}

/// A socket for the reflector at `address`, which answers.
fn await_answers(host: &Host, address: IpAddr) -> Result<UdpSocket> {
    let socket = host.enter(|| UdpSocket::bind((address, 0)))?;
    socket.connect((address, PORT))?;
    socket.set_nonblocking(true)?;
    poll::wait_until("the reflector's first answer", BOUND, || {
        // Before it listens, the kernel answers that nobody does.
        let _ = socket.send(&probe(0).to_bytes());
        Ok(socket.recv(&mut [0; BASE_LEN]).is_ok())
    })?;
    Ok(socket)
}

fn probe(sequence: u32) -> SenderPacket {
    SenderPacket {
        sequence,
        timestamp: Timestamp(0xfeed),
        error: ErrorEstimate::UNKNOWN,
        session: 0,
    }
}

/// Sequence number and length of the first answer that comes but those to what [`await_answers`] sent.
fn first_answer(socket: &UdpSocket) -> Result<(u32, usize)> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(BOUND))?;
    let mut received = [0; 2 * 1024];
    loop {
        let len = socket.recv(&mut received)?;
        let base = received[..len]
            .first_chunk()
            .context("an answer is shorter than any probe")?;
        match ReflectorPacket::from_bytes(base).sender_sequence {
            0 => {}
            sequence => return Ok((sequence, len)),
        }
    }
}

/// The hub's kernel is silent, so that nothing but the reflector answers, small probes and large ones.
fn keeps_a_tunnel_alive(family: Family, reflector: fn(&Host, IpAddr) -> Result<Command>) -> Result<()> {
    let lab = Lab::raise(family)?;
    lab.hub.sysctl(&[
        ("net/ipv4/icmp_echo_ignore_all", "1"),
        ("net/ipv6/icmp/echo_ignore_all", "1"),
    ])?;
    let address = lab.hub_endpoint().ip();
    let _reflector = start(reflector(&lab.hub, address)?)?;
    let socket = await_answers(&lab.hub, address)?;
    let mut large = [0; 1400];
    ensure!(probe(1).write(&mut large).is_ok(), "a large probe cannot be written");
    socket.send(&large)?;
    let answer = first_answer(&socket)?;
    ensure!(answer == (1, large.len()), "the large probe was answered by {answer:?}");
    let settings = Settings {
        probe: "kind = \"stamp\", port = 862",
        ..Settings::default()
    };
    let mut scene = Scene::raise_in(lab, &settings)?;
    cut_and_heal(&mut scene, Cut::Blackhole)?;
    narrow_and_widen(&mut scene)
}

#[test]
fn probes_to_somebody_elses_reflector_keep_a_tunnel_alive() -> Result<()> {
    let Some(_alone) = alone("stamp-suite as reflector") else {
        return Ok(());
    };
    keeps_a_tunnel_alive(Family::V4, theirs)
}

#[test]
fn probes_to_our_reflector_keep_a_tunnel_alive() -> Result<()> {
    let Some(_alone) = alone("wgxdp reflect") else {
        return Ok(());
    };
    keeps_a_tunnel_alive(Family::V6, ours)
}

/// A host of its own with our reflector on its loopback address.
fn reflecting(address: IpAddr) -> Result<(Host, Process, UdpSocket)> {
    let host = Host::new("far-end")?;
    host.ip(["link set lo up"])?;
    let reflector = start(ours(&host, address)?)?;
    let socket = await_answers(&host, address)?;
    Ok((host, reflector, socket))
}

#[test]
fn somebody_elses_sender_is_content_with_our_reflector() -> Result<()> {
    let Some(_alone) = alone("stamp-suite as sender") else {
        return Ok(());
    };
    for address in [IpAddr::from([127, 0, 0, 1]), "::1".parse()?] {
        let (host, _reflector, _) = reflecting(address)?;
        let address = address.to_string();
        let mut sender = host.command(stamp_suite()?);
        sender.args([
            "--local-addr",
            &address,
            "--remote-addr",
            &address,
            "--count",
            "5",
            "--send-delay",
            "10",
        ]);
        sender.args([
            "--extra-padding",
            "40",
            "--location",
            "--ssid",
            "7",
            "--output-format",
            "json",
        ]);
        let output = sender.output().context("starting stamp-suite")?;
        let summary: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("stamp-suite said {}", String::from_utf8_lossy(&output.stderr)))?;
        // Of the TLVs, extra padding (type 1) is understood, a location (type 2) is marked as not understood.
        for (pointer, expected) in [
            ("/packets_sent", 5),
            ("/packets_lost", 0),
            ("/measurements/tlv_validation/rejected_replies", 0),
            ("/measurements/tlv_validation/flags/malformed", 0),
            ("/measurements/tlv_validation/by_type/1/observed", 5),
            ("/measurements/tlv_validation/by_type/1/flags/unrecognized", 0),
            ("/measurements/tlv_validation/by_type/2/flags/unrecognized", 5),
        ] {
            ensure!(
                summary.pointer(pointer) == Some(&expected.into()),
                "{pointer} is not {expected}: {summary}"
            );
        }
    }
    Ok(())
}

/// What comes first is answered first, so an answer to the last says that the others had none.
#[test]
fn our_reflector_answers_at_equal_size_and_nothing_but_probes() -> Result<()> {
    let Some(_alone) = alone("wgxdp reflect and junk") else {
        return Ok(());
    };
    let (_host, _reflector, socket) = reflecting(IpAddr::from([127, 0, 0, 1]))?;
    let answer = ReflectorPacket::answering(probe(1), 64, Timestamp(1), Timestamp(2), ErrorEstimate::UNKNOWN);
    let corrupt = SenderPacket {
        error: ErrorEstimate(0),
        ..probe(2)
    };
    let large = [probe(3).to_bytes().as_slice(), &[0xff; 1000]].concat();
    for datagram in [
        &b""[..],
        &[0; BASE_LEN - 1],
        &answer.to_bytes(),
        &corrupt.to_bytes(),
        &large,
    ] {
        socket.send(datagram)?;
    }
    let (sequence, len) = first_answer(&socket)?;
    ensure!(
        (sequence, len) == (3, large.len()),
        "probe {sequence} was answered with {len} bytes"
    );
    Ok(())
}
