//! `steer`: what leaves by which path, and what is none of its business.

use wgxdp::dataplane::Hook::Steer;
use wgxdp_common::abi::PROBE_MARK;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::echo::Payload;
use wgxdp_common::id::PathId;
use wgxdp_common::liveness::Flags;
use wgxdp_common::table::Order;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;
use crate::rows::{Row, Table};

const PLAIN: Context = Context::PLAIN;

fn v4_packet() -> Frame {
    Frame::wireguard(socket("192.0.0.8:51820"), socket(HUB))
}

fn v6_packet() -> Frame {
    Frame::wireguard(socket("[fd5e:9a1c:7d42::8]:51820"), socket(HUB_V6))
}

const TABLE: Table = Table {
    hook: Steer,
    place: Place::Anchor,
    context: PLAIN,
};

fn check(fixture: &mut Fixture, rows: impl IntoIterator<Item = Row>) {
    TABLE.check(fixture, rows);
}

#[test]
fn what_wireguard_sends_leaves_by_the_first_path_and_nothing_else_is_touched() {
    let Some(mut fixture) = Fixture::new() else { return };
    let (a, a6) = ("192.0.2.2:51820", "[2001:db8:a::2]:51820");
    let canonical_v4 = || socket("192.0.0.8:51820");
    let canonical_v6 = || socket("[fd5e:9a1c:7d42::8]:51820");
    let steered = |destination| Some(Frame::wireguard(socket(a), socket(destination)));
    let empty = Frame::udp(canonical_v4(), socket(HUB), b"");
    let rows: [Row; 19] = [
        ("IPv4", v4_packet(), Reason::Steered, steered(HUB)),
        (
            "IPv6",
            v6_packet(),
            Reason::Steered,
            Some(Frame::wireguard(socket(a6), socket(HUB_V6))),
        ),
        (
            "no UDP checksum",
            v4_packet().without_checksum(),
            Reason::Steered,
            steered(HUB).map(Frame::without_checksum),
        ),
        (
            "no payload",
            empty,
            Reason::Steered,
            Some(Frame::udp(socket(a), socket(HUB), b"")),
        ),
        (
            "to the second endpoint, which is the same peer",
            Frame::wireguard(canonical_v4(), socket(HUB_SECOND)),
            Reason::Steered,
            steered(HUB),
        ),
        (
            "to nobody known",
            Frame::wireguard(canonical_v4(), socket("198.51.100.9:9")),
            Reason::Fallback,
            steered("198.51.100.9:9"),
        ),
        (
            "not UDP",
            Frame::other(ip(ANCHOR_V4), ip("198.51.100.1"), 6),
            Reason::NotUdp,
            None,
        ),
        (
            "not UDP, IPv6",
            Frame::other(ip(ANCHOR_V6), ip("2001:db8:c::1"), 6),
            Reason::NotUdp,
            None,
        ),
        (
            "other port",
            Frame::wireguard(socket("192.0.0.8:51821"), socket(HUB)),
            Reason::OtherPort,
            None,
        ),
        (
            "other port, IPv6",
            Frame::wireguard(socket("[fd5e:9a1c:7d42::8]:1"), socket(HUB_V6)),
            Reason::OtherPort,
            None,
        ),
        (
            "foreign source",
            Frame::wireguard(socket("192.0.0.9:51820"), socket(HUB)),
            Reason::ForeignSource,
            None,
        ),
        (
            "foreign source, IPv6",
            Frame::wireguard(socket("[fd5e:9a1c:7d42::9]:51820"), socket(HUB_V6)),
            Reason::ForeignSource,
            None,
        ),
        ("options", v4_packet().options(), Reason::Options, None),
        ("extension header", v6_packet().options(), Reason::Options, None),
        ("first fragment", v4_packet().fragment(0x2000), Reason::Fragment, None),
        ("last fragment", v4_packet().fragment(0x0005), Reason::Fragment, None),
        (
            "don't fragment is no fragment",
            v4_packet().fragment(0x4000),
            Reason::Steered,
            steered(HUB).map(|f| f.fragment(0x4000)),
        ),
        ("fragment, IPv6", v6_packet().fragment(0x0001), Reason::Fragment, None),
        (
            "an echo of somebody else's",
            Frame::echo(
                canonical_v6().ip(),
                ip("2001:db8:c::1"),
                false,
                1,
                1,
                Payload {
                    path: PathId(0),
                    nonce: 1,
                },
            ),
            Reason::NotUdp,
            None,
        ),
    ];
    check(&mut fixture, rows);
}

#[test]
fn a_packet_shorter_than_its_headers_say_is_passed_as_it_is() {
    let Some(mut fixture) = Fixture::new() else { return };
    TABLE.check_truncated(&mut fixture, &v4_packet(), &v6_packet());
}

#[test]
fn a_path_to_another_endpoint_changes_address_and_port() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture.dataplane.set_order(V4_PEER, Order::from_slots([2, 0]));
    let leaves = Frame::wireguard(socket("192.0.2.2:51820"), socket(HUB_SECOND));
    check(
        &mut fixture,
        [("by the other endpoint", v4_packet(), Reason::Steered, Some(leaves))],
    );
}

#[test]
fn a_packet_takes_the_first_live_path_that_it_fits_and_if_none_the_first() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture.dataplane.set_order(V4_PEER, Order::from_slots([0, 1]));
    let of = |len: usize, source: &str| Frame::udp(socket(source), socket(HUB), &vec![4; len - 28]);
    let (out, by_a, by_b) = ("192.0.0.8:51820", "192.0.2.2:51820", "203.0.113.2:51820");
    let (a, b) = (PathId::new(V4_PEER, 0), PathId::new(V4_PEER, 1));
    fixture.dataplane.set_largest(a, 1400);
    fixture.dataplane.set_largest(b, 1440);
    let active = |fixture: &Fixture| fixture.dataplane.tables().active(V4_PEER);
    check(
        &mut fixture,
        [("fits the first", of(1400, out), Reason::Steered, Some(of(1400, by_a)))],
    );
    assert_eq!(active(&fixture), Some(a));
    check(
        &mut fixture,
        [
            ("fits the second", of(1401, out), Reason::Steered, Some(of(1401, by_b))),
            ("still fits it", of(1440, out), Reason::Steered, Some(of(1440, by_b))),
            ("fits none", of(1441, out), Reason::Oversize, Some(of(1441, by_a))),
        ],
    );
    assert_eq!(active(&fixture), Some(a), "the peer's traffic has not moved");
    fixture.dataplane.set_uplink_flags(A, Flags::NO_CARRIER);
    check(
        &mut fixture,
        [(
            "fits no live one",
            of(1441, out),
            Reason::Oversize,
            Some(of(1441, by_b)),
        )],
    );
}

#[test]
fn of_a_super_packet_what_counts_is_each_packet_that_it_stands_for() {
    let Some(mut fixture) = Fixture::new() else { return };
    let path = PathId::new(V4_PEER, 0);
    let of = |source: &str| Frame::udp(socket(source), socket(HUB), &[4; 3000]).build();
    let (out, by_a) = (of("192.0.0.8:51820"), of("192.0.2.2:51820"));
    for (segment, reason) in [(1472, Reason::Steered), (1473, Reason::Oversize)] {
        let context = Context {
            gso: (3, segment),
            ..PLAIN
        };
        let (outcome, reasons) = fixture.reasons_of(Steer, Place::Anchor, &out, context);
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (REDIRECT, [reason].as_slice()),
            "{segment}"
        );
        assert_eq!(outcome.packet, by_a, "whole and identical but for its addresses");
    }
    let count = fixture
        .dataplane
        .tables()
        .path_count(path)
        .expect("the map is readable");
    assert_eq!((count.tx_packets, count.tx_bytes), (6, 2 * 3028));
}

#[test]
fn a_silent_path_is_left_at_its_deadline_and_stays_latched_until_released() {
    let Some(mut fixture) = Fixture::new() else { return };
    let by_a = || Some(Frame::wireguard(socket("192.0.2.2:51820"), socket(HUB)));
    let by_b = || Some(Frame::wireguard(socket("203.0.113.2:51820"), socket(HUB)));
    let path = PathId::new(V4_PEER, 0);
    fixture.dataplane.set_order(V4_PEER, Order::from_slots([0, 1]));

    fixture.silence(path, 45);
    check(
        &mut fixture,
        [("suspect is live", v4_packet(), Reason::Steered, by_a())],
    );
    fixture.silence(path, 61);
    check(&mut fixture, [("dead", v4_packet(), Reason::Steered, by_b())]);
    assert_ne!(fixture.dataplane.tables().proof(path).latched_ns, 0);

    let payload = fixture.probe(path, 9, 77);
    let reply = reply(socket(HUB).ip(), ip("192.0.2.2"), IDENT, 9, payload);
    let (_, reasons) = fixture.reasons_of(
        wgxdp::dataplane::Hook::Restore,
        Place::Uplink(A),
        &reply,
        Context::ON_LOOPBACK,
    );
    assert_eq!(reasons, [Reason::Proof]);
    check(
        &mut fixture,
        [(
            "one lucky reply does not bring traffic back",
            v4_packet(),
            Reason::Steered,
            by_b(),
        )],
    );
    fixture.dataplane.lift_latch(path);
    check(&mut fixture, [("released", v4_packet(), Reason::Steered, by_a())]);
}

#[test]
fn silence_without_unanswered_probes_moves_nothing() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture.dataplane.credit(PathId::new(V4_PEER, 0), 1);
    let by_a = Frame::wireguard(socket("192.0.2.2:51820"), socket(HUB));
    check(
        &mut fixture,
        [("the prober is stopped", v4_packet(), Reason::Steered, Some(by_a))],
    );
}

#[test]
fn an_uplinks_flag_moves_every_peer_and_its_removal_brings_them_back() {
    let Some(mut fixture) = Fixture::new() else { return };
    let by = |v4: &str, v6: &str| {
        [
            (
                "IPv4",
                v4_packet(),
                Reason::Steered,
                Some(Frame::wireguard(socket(v4), socket(HUB))),
            ),
            (
                "IPv6",
                v6_packet(),
                Reason::Steered,
                Some(Frame::wireguard(socket(v6), socket(HUB_V6))),
            ),
        ]
    };
    for flag in [Flags::ABSENT, Flags::ADMIN_DOWN, Flags::NO_CARRIER, Flags::DRAINED] {
        fixture.dataplane.set_uplink_flags(A, flag);
        check(&mut fixture, by("203.0.113.2:51820", "[2001:db8:b::2]:51820"));
        fixture.dataplane.set_uplink_flags(A, Flags::NONE);
        check(&mut fixture, by("192.0.2.2:51820", "[2001:db8:a::2]:51820"));
    }
}

#[test]
fn with_no_live_path_packets_leave_all_the_same_and_first_by_one_that_answers() {
    let Some(mut fixture) = Fixture::new() else { return };
    let (a, b) = (PathId::new(V4_PEER, 0), PathId::new(V4_PEER, 1));
    fixture.dataplane.set_order(V4_PEER, Order::from_slots([0, 1]));
    fixture.silence(a, 1000);
    fixture.silence(b, 1000);
    let (outcome, reasons) = fixture.reasons_of(Steer, Place::Anchor, &v4_packet().build(), PLAIN);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (REDIRECT, [Reason::FailOpen].as_slice())
    );

    // `isp-b` is latched and held, but it answers.
    fixture.dataplane.set_path_flags(b, Flags::HELD);
    let payload = fixture.probe(b, 5, 55);
    let reply = reply(socket(HUB).ip(), ip("203.0.113.2"), IDENT, 5, payload);
    fixture
        .dataplane
        .publish(&config(0, 1))
        .expect("the configuration is published");
    let context = Context::ON_LOOPBACK;
    let (_, reasons) = fixture.reasons_of(wgxdp::dataplane::Hook::Restore, Place::Uplink(B), &reply, context);
    assert_eq!(reasons, [Reason::Proof]);
    let by_b = Frame::wireguard(socket("203.0.113.2:51820"), socket(HUB));
    check(
        &mut fixture,
        [(
            "probation is better than nothing",
            v4_packet(),
            Reason::FailOpen,
            Some(by_b),
        )],
    );
}

#[test]
fn without_a_device_on_any_uplink_the_packet_is_passed_untouched() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture
        .dataplane
        .publish(&config(0, 0))
        .expect("the configuration is published");
    check(&mut fixture, [("no device", v4_packet(), Reason::NoUplink, None)]);
}

#[test]
fn a_probe_leaves_by_its_own_path_stamped_and_unmarked() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (slot, source) in [(0, "192.0.2.2"), (1, "203.0.113.2")] {
        let path = PathId::new(V4_PEER, slot);
        let payload = Payload {
            path,
            nonce: 0x1122_3344_5566_7788,
        };
        let probe = |source| Frame::echo(ip(source), socket(HUB).ip(), false, IDENT, 3, payload).build();
        let context = Context {
            mark: PROBE_MARK | path.0,
            ..PLAIN
        };
        let before = now_ns();
        let (outcome, reasons) = fixture.reasons_of(Steer, Place::Anchor, &probe(ANCHOR_V4), context);
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (REDIRECT, [Reason::Probe].as_slice())
        );
        assert_eq!(outcome.packet, probe(source));
        assert_eq!(outcome.mark, 0);
        let proof = fixture.dataplane.tables().proof(path);
        assert_eq!((proof.probes_sent, proof.unanswered, proof.probes_answered), (1, 1, 0));
        assert!((before..=now_ns()).contains(&proof.sent_ns));
    }
    let path = PathId::new(V6_PEER, 1);
    let payload = Payload { path, nonce: 9 };
    let probe = |source| Frame::echo(ip(source), socket(HUB_V6).ip(), false, IDENT, 3, payload).build();
    let context = Context {
        mark: PROBE_MARK | path.0,
        ..PLAIN
    };
    let (outcome, _) = fixture.reasons_of(Steer, Place::Anchor, &probe(ANCHOR_V6), context);
    assert_eq!(outcome.packet, probe("2001:db8:b::2"));
}

#[test]
fn an_echo_without_the_right_mark_identifier_or_source_is_no_probe() {
    let Some(mut fixture) = Fixture::new() else { return };
    let payload = Payload {
        path: PathId(0),
        nonce: 1,
    };
    let echo = |source, ident| Frame::echo(ip(source), socket(HUB).ip(), false, ident, 3, payload).build();
    for (name, frame, mark) in [
        ("no mark", echo(ANCHOR_V4, IDENT), 0),
        ("another path's mark", echo(ANCHOR_V4, IDENT), PROBE_MARK | 1),
        ("another identifier", echo(ANCHOR_V4, IDENT + 1), PROBE_MARK),
        ("foreign source", echo("192.0.0.9", IDENT), PROBE_MARK),
    ] {
        let (outcome, reasons) = fixture.reasons_of(Steer, Place::Anchor, &frame, Context { mark, ..PLAIN });
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (NEXT, [Reason::NotUdp].as_slice()),
            "{name}"
        );
        assert_eq!(outcome.packet, frame, "{name}");
    }
    assert_eq!(fixture.dataplane.tables().proof(PathId(0)).probes_sent, 0);
}
