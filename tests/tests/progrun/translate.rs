//! From one address family to the other, on the way out and on the way in: exact bytes, but for the identification of a new IPv4 header, which
//! is random and put into the expected packet before both are compared whole.

use wgxdp::dataplane::Hook::{Restore, Steer};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::PathId;
use wgxdp_common::liveness::Flags;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;
use crate::rows::Table;

const STEER: Table = Table {
    hook: Steer,
    place: Place::Anchor,
    context: PLAIN,
};
const PLAIN: Context = Context::PLAIN;
const RESTORE: Table = Table {
    hook: Restore,
    place: Place::Uplink(A),
    context: Context::ON_LOOPBACK,
};
const A_V4: &str = "192.0.2.2:51820";
const A_V6: &str = "[2001:db8:a::2]:51820";
const ANCHOR_V4_PORT: &str = "192.0.0.8:51820";
const ANCHOR_V6_PORT: &str = "[fd5e:9a1c:7d42::8]:51820";
/// Where the identification is in a frame with an IPv4 header.
const IDENTIFICATION: std::ops::Range<usize> = 18..20;

/// WireGuard data of `len` bytes from one to the other.
fn data(source: &str, destination: &str, len: usize) -> Frame {
    Frame::message(socket(source), socket(destination), 4, [7, 8], len)
}

fn check(fixture: &mut Fixture, table: Table, name: &str, input: &Frame, reason: Reason, output: Frame) {
    let (outcome, reasons) = fixture.reasons_of(table.hook, table.place, &input.build(), table.context);
    assert_eq!(
        (reasons.as_slice(), outcome.verdict),
        ([reason].as_slice(), REDIRECT),
        "{name}"
    );
    let [high, low] = outcome.packet[IDENTIFICATION].try_into().expect("two bytes");
    assert_eq!(
        outcome.packet,
        output.identification(u16::from_be_bytes([high, low])).build(),
        "{name}"
    );
}

#[test]
fn a_path_of_the_other_family_carries_the_packet_in_a_header_of_its_own() {
    let Some(mut fixture) = Fixture::new() else { return };
    for len in [32, 33, 1452] {
        let (out, carried) = (data(ANCHOR_V4_PORT, TO_V6[0], len), data(A_V6, TO_V6[1], len));
        let (out, carried) = (out.class_and_hops(0xb9, 17), carried.class_and_hops(0xb9, 17));
        let reason = if len > 1452 { Reason::Oversize } else { Reason::Steered };
        check(
            &mut fixture,
            STEER,
            &format!("to IPv6, {len} bytes"),
            &out,
            reason,
            carried,
        );
        let (out, carried) = (data(ANCHOR_V6_PORT, TO_V4[0], len), data(A_V4, TO_V4[1], len));
        let (out, carried) = (out.class_and_hops(0xb9, 17), carried.class_and_hops(0xb9, 17));
        check(
            &mut fixture,
            STEER,
            &format!("to IPv4, {len} bytes"),
            &out,
            Reason::Steered,
            carried,
        );
    }
}

#[test]
fn with_that_path_out_of_use_the_packet_keeps_its_family() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (peer, canonical, anchor, uplink) in [
        (TO_V6_PEER, TO_V6[0], ANCHOR_V4_PORT, "203.0.113.2:51820"),
        (TO_V4_PEER, TO_V4[0], ANCHOR_V6_PORT, "[2001:db8:b::2]:51820"),
    ] {
        fixture.dataplane.set_path_flags(PathId::new(peer, 0), Flags::DRAINED);
        let (out, carried) = (data(anchor, canonical, 48), data(uplink, canonical, 48));
        check(&mut fixture, STEER, canonical, &out, Reason::Steered, carried);
    }
}

#[test]
fn what_comes_back_is_what_wireguard_would_have_seen_in_its_own_family() {
    let Some(mut fixture) = Fixture::new() else { return };
    for len in [32, 1424] {
        let arrives = data(TO_V6[1], A_V6, len).to_mac(LOOPBACK_MAC).class_and_hops(0x28, 51);
        let delivered = data(TO_V6[0], ANCHOR_V4_PORT, len)
            .to_mac(ANCHOR_MAC)
            .class_and_hops(0x28, 51);
        check(
            &mut fixture,
            RESTORE,
            &format!("from IPv6, {len} bytes"),
            &arrives,
            Reason::Restored,
            delivered,
        );
        let arrives = data(TO_V4[1], A_V4, len).to_mac(LOOPBACK_MAC).class_and_hops(0x28, 51);
        let delivered = data(TO_V4[0], ANCHOR_V6_PORT, len)
            .to_mac(ANCHOR_MAC)
            .class_and_hops(0x28, 51);
        check(
            &mut fixture,
            RESTORE,
            &format!("from IPv4, {len} bytes"),
            &arrives,
            Reason::Restored,
            delivered,
        );
    }
}

#[test]
fn a_complete_checksum_stays_true_across_families() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (source, destination) in [(TO_V6[1], A_V6), (TO_V4[1], A_V4)] {
        let arrives = data(source, destination, 48)
            .to_mac(LOOPBACK_MAC)
            .class_and_hops(0x28, 51);
        RESTORE.check_complete(&mut fixture, source, &arrives);
    }
}

#[test]
fn without_a_checksum_there_is_no_way_to_ipv6() {
    let Some(mut fixture) = Fixture::new() else { return };
    let out = data(ANCHOR_V4_PORT, TO_V6[0], 32).without_checksum().build();
    let (outcome, reasons) = fixture.reasons_of(Steer, Place::Anchor, &out, PLAIN);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (DROP, [Reason::NoChecksum].as_slice())
    );
    let arrives = data(TO_V4[1], A_V4, 32).without_checksum().to_mac(LOOPBACK_MAC).build();
    let (outcome, reasons) = fixture.reasons_of(Restore, Place::Uplink(A), &arrives, RESTORE.context);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (DROP, [Reason::NoChecksum].as_slice())
    );
}

#[test]
fn a_super_packet_is_translated_whole() {
    let Some(mut fixture) = Fixture::new() else { return };
    let table = Table {
        context: Context { gso: (3, 480), ..PLAIN },
        ..STEER
    };
    let (out, carried) = (data(ANCHOR_V4_PORT, TO_V6[0], 1200), data(A_V6, TO_V6[1], 1200));
    check(&mut fixture, table, "to IPv6", &out, Reason::Steered, carried);
    let (out, carried) = (data(ANCHOR_V6_PORT, TO_V4[0], 1200), data(A_V4, TO_V4[1], 1200));
    check(&mut fixture, table, "to IPv4", &out, Reason::Steered, carried);
}
