//! `restore`: what WireGuard gets to see, and what proves a path.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use wgxdp::dataplane::Hook::Restore;
use wgxdp_common::abi::RECORDS_BYTES;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::echo::Payload;
use wgxdp_common::id::PathId;
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::record::{Record, RecordKind};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::frame::{DESTINATION_MAC, Frame};
use wgxdp_tests::progrun::Context;

use crate::fixture::*;
use crate::rows::Table;

/// Arrives on the loopback device, which is uplink A.
const ON_A: Context = Context::ON_LOOPBACK;
const TABLE: Table = Table {
    hook: Restore,
    place: Place::Uplink(A),
    context: ON_A,
};
const A_V4: &str = "192.0.2.2:51820";
const A_V6: &str = "[2001:db8:a::2]:51820";

fn from(source: &str, destination: &str) -> Frame {
    Frame::wireguard(socket(source), socket(destination)).to_mac(LOOPBACK_MAC)
}

#[test]
fn what_arrives_for_the_tunnel_gets_the_canonical_addresses_and_nothing_else_is_touched() {
    let Some(mut fixture) = Fixture::new() else { return };
    let delivered = |source: &str, port: &str| {
        let anchor = if source.starts_with('[') {
            format!("[{ANCHOR_V6}]:{port}")
        } else {
            format!("{ANCHOR_V4}:{port}")
        };
        Some(Frame::wireguard(socket(source), socket(&anchor)).to_mac(ANCHOR_MAC))
    };
    let stranger = "198.51.100.77:999";
    let rows = [
        ("IPv4", from(HUB, A_V4), Reason::Restored, delivered(HUB, "51820")),
        ("IPv6", from(HUB_V6, A_V6), Reason::Restored, delivered(HUB_V6, "51820")),
        (
            "no UDP checksum",
            from(HUB, A_V4).without_checksum(),
            Reason::Restored,
            delivered(HUB, "51820").map(Frame::without_checksum),
        ),
        (
            "from the second endpoint",
            from(HUB_SECOND, A_V4),
            Reason::Restored,
            delivered(HUB, "51820"),
        ),
        (
            "from a stranger, whose source stays",
            from(stranger, A_V4),
            Reason::Stranger,
            delivered(stranger, "51820"),
        ),
        (
            "from the hub's address, but another port",
            from("198.51.100.1:1", A_V4),
            Reason::Stranger,
            delivered("198.51.100.1:1", "51820"),
        ),
        (
            "for another host's link-layer address",
            from(HUB, A_V4).to_mac(DESTINATION_MAC),
            Reason::OtherHost,
            None,
        ),
        ("other port", from(HUB, "192.0.2.2:51821"), Reason::OtherPort, None),
        (
            "to another address",
            from(HUB, "192.0.2.3:51820"),
            Reason::ForeignDestination,
            None,
        ),
        (
            "to another address, IPv6",
            from(HUB_V6, "[2001:db8:a::3]:51820"),
            Reason::ForeignDestination,
            None,
        ),
        (
            "not UDP",
            Frame::other(ip("198.51.100.1"), ip("192.0.2.2"), 6).to_mac(LOOPBACK_MAC),
            Reason::NotUdp,
            None,
        ),
        ("options", from(HUB, A_V4).options(), Reason::Options, None),
        ("extension header", from(HUB_V6, A_V6).options(), Reason::Options, None),
        (
            "first fragment",
            from(HUB, A_V4).fragment(0x2000),
            Reason::Fragment,
            None,
        ),
        ("fragment, IPv6", from(HUB_V6, A_V6).fragment(1), Reason::Fragment, None),
    ];
    TABLE.check(&mut fixture, rows);
}

#[test]
fn a_truncated_packet_is_passed_as_it_is() {
    let Some(mut fixture) = Fixture::new() else { return };
    TABLE.check_truncated(&mut fixture, &from(HUB, A_V4), &from(HUB_V6, A_V6));
}

#[test]
fn a_complete_checksum_stays_true() {
    let Some(mut fixture) = Fixture::new() else { return };
    TABLE.check_complete(&mut fixture, "IPv4", &from(HUB, A_V4));
    TABLE.check_complete(&mut fixture, "IPv6", &from(HUB_V6, A_V6));
    TABLE.check_complete(&mut fixture, "another address and port", &from(HUB_SECOND, A_V4));
}

#[test]
fn an_authentic_reply_moves_the_proof_tells_the_round_trip_and_ends_there() {
    let Some(mut fixture) = Fixture::new() else { return };
    let mut records = fixture.dataplane.records().expect("the ring buffer opens");
    let path = PathId::new(V4_PEER, 0);
    let payload = fixture.probe(path, 4, 0xfeed);
    let reply = reply(socket(HUB).ip(), ip("192.0.2.2"), IDENT, 4, payload);
    let before = now_ns();
    let (outcome, reasons) = fixture.reasons_of(Restore, Place::Uplink(A), &reply, ON_A);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (DROP, [Reason::Proof].as_slice())
    );

    let proof = fixture.dataplane.tables().proof(path);
    assert!((before..=now_ns()).contains(&proof.proof_ns));
    assert_eq!((proof.unanswered, proof.probes_answered), (0, 1));
    let item = records.next().expect("a record");
    // SAFETY: the programs put nothing but `Record`s into the ring buffer.
    let record = unsafe { item.as_ptr().cast::<Record>().read_unaligned() };
    assert_eq!(
        (record.kind, record.path, record.sequence),
        (RecordKind::REPLY, path, 4)
    );
    assert_eq!((record.at_ns, record.value_ns), (proof.proof_ns, proof.srtt_ns));
    assert_eq!(record.value_ns, proof.proof_ns - proof.sent_ns);
}

#[test]
fn a_reply_wakes_the_daemon_only_if_something_was_wrong_with_its_path() {
    let Some(mut fixture) = Fixture::new() else { return };
    let path = PathId::new(V4_PEER, 0);
    let mut records = fixture.dataplane.records().expect("the ring buffer opens");
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    // SAFETY: the ring buffer's own descriptor, which it outlives.
    let ready = unsafe { BorrowedFd::borrow_raw(records.as_raw_fd()) };
    let edges = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(ready, edges).expect("the ring buffer can be waited for");
    fixture
        .dataplane
        .set_thresholds(path, Thresholds::new(3_000_000, 9_000_000));
    fixture.silence(path, 4_000);
    let mut sequence = 2;
    let mut wakes = |fixture: &mut Fixture| {
        sequence += 1;
        let payload = fixture.probe(path, sequence, 0xfeed);
        let reply = reply(socket(HUB).ip(), ip("192.0.2.2"), IDENT, sequence, payload);
        assert_eq!(fixture.run(Restore, &reply, ON_A).expect("it runs").verdict, DROP);
        // The interrupt that wakes is this processor's own, so that it has happened by now.
        let mut events = [EpollEvent::empty()];
        epoll.wait(&mut events, EpollTimeout::ZERO).expect("an epoll") > 0
    };
    assert!(wakes(&mut fixture), "it was suspect");
    assert!(!wakes(&mut fixture), "it answers as it should");
    fixture.silence(path, 4_000);
    assert!(wakes(&mut fixture), "also while older records lie unread");
    fixture.dataplane.set_path_flags(path, Flags::HELD);
    assert!(wakes(&mut fixture), "it is counted how long a path stays clean");
    fixture.dataplane.set_path_flags(path, Flags::NONE);
    assert!(!wakes(&mut fixture), "it is one like others again");
    let told = std::iter::from_fn(|| records.next().map(drop)).count();
    assert_eq!(told, 5, "each is there to be read");

    let in_a_quarter = RECORDS_BYTES as usize / 4 / (size_of::<Record>() + 8);
    let quiet = (0..2 * in_a_quarter).take_while(|_| !wakes(&mut fixture)).count();
    assert_eq!(
        quiet,
        in_a_quarter + 1,
        "more than a quarter of the ring buffer should be read"
    );
}

#[test]
fn a_reply_with_anything_wrong_proves_nothing() {
    let Some(mut fixture) = Fixture::new() else { return };
    let path = PathId::new(V4_PEER, 0);
    let payload = fixture.probe(path, 4, 0xfeed);
    let reply = |destination: &str, ident, sequence, payload| {
        reply(socket(HUB).ip(), ip(destination), ident, sequence, payload)
    };
    let other_nonce = Payload {
        nonce: 0xfeee,
        ..payload
    };
    let other_path = Payload {
        path: PathId::new(V4_PEER, 1),
        ..payload
    };
    let no_path = Payload {
        path: PathId(u32::MAX),
        ..payload
    };
    let proof = fixture.dataplane.tables().proof(path);
    for (name, frame) in [
        ("another nonce", reply("192.0.2.2", IDENT, 4, other_nonce)),
        (
            "no nonce",
            reply("192.0.2.2", IDENT, 5, Payload { nonce: 0, ..payload }),
        ),
        ("another sequence number", reply("192.0.2.2", IDENT, 5, payload)),
        ("another path", reply("192.0.2.2", IDENT, 4, other_path)),
        ("a path that does not exist", reply("192.0.2.2", IDENT, 4, no_path)),
        ("another identifier", reply("192.0.2.2", IDENT + 1, 4, payload)),
        ("to another address", reply("192.0.2.3", IDENT, 4, payload)),
    ] {
        let (outcome, reasons) = fixture.reasons_of(Restore, Place::Uplink(A), &frame, ON_A);
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (NEXT, [Reason::Unauthentic].as_slice()),
            "{name}"
        );
        assert_eq!(fixture.dataplane.tables().proof(path), proof, "{name}");
    }

    // Over another uplink than the probe's.
    fixture
        .dataplane
        .publish(&config(0, 1))
        .expect("the configuration is published");
    let (_, reasons) = fixture.reasons_of(
        Restore,
        Place::Uplink(B),
        &reply("203.0.113.2", IDENT, 4, payload),
        ON_A,
    );
    assert_eq!(reasons, [Reason::Unauthentic]);
    fixture
        .dataplane
        .publish(&config(1, 1))
        .expect("the configuration is published");

    // The right one proves the path, and its repetition nothing.
    let right = reply("192.0.2.2", IDENT, 4, payload);
    for expected in [Reason::Proof, Reason::Unauthentic] {
        let (_, reasons) = fixture.reasons_of(Restore, Place::Uplink(A), &right, ON_A);
        assert_eq!(reasons, [expected]);
    }
    assert_eq!(fixture.dataplane.tables().proof(path).probes_answered, 1);
}

#[test]
fn ipv6_replies_prove_too() {
    let Some(mut fixture) = Fixture::new() else { return };
    let path = PathId::new(V6_PEER, 0);
    let payload = fixture.probe(path, 4, 0xbeef);
    let reply = reply(socket(HUB_V6).ip(), ip("2001:db8:a::2"), IDENT, 4, payload);
    let (outcome, reasons) = fixture.reasons_of(Restore, Place::Uplink(A), &reply, ON_A);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (DROP, [Reason::Proof].as_slice())
    );
}

#[test]
fn what_arrives_is_counted_on_its_path() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (source, slot) in [(HUB, 0), (HUB_SECOND, 2)] {
        let frame = from(source, A_V4).build();
        fixture.run(Restore, &frame, ON_A).expect("the run succeeds");
        let count = fixture
            .dataplane
            .tables()
            .path_count(PathId::new(V4_PEER, slot))
            .expect("the map is readable");
        assert_eq!((count.rx_packets, count.rx_bytes), (1, frame.len() as u64 - 14));
    }
}

#[test]
fn a_device_that_is_no_uplink_loses_nothing() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture
        .dataplane
        .publish(&config(0, 0))
        .expect("the configuration is published");
    let frame = from(HUB, A_V4).build();
    let (outcome, reasons) = fixture.reasons_of(Restore, Place::Elsewhere, &frame, ON_A);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (NEXT, [Reason::NotConfigured].as_slice())
    );
    assert_eq!(outcome.packet, frame);
}
