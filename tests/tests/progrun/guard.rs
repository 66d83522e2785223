//! `guard`: what it drops, what it consumes, and that it leaves everything else as it was, uncounted. And that `restore` judges alike.

use std::net::SocketAddr;

use wgxdp::dataplane::{Guard, Hook};
use wgxdp_common::count::{Place, Reason, Verdict};
use wgxdp_common::echo::Payload;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;

/// Arrives on the loopback device, which is uplink A.
const ON_A: Context = Context::ON_LOOPBACK;
/// Source and destination of what the tunnel receives, in both families.
const FAMILIES: [(&str, &str); 2] = [(HUB, "192.0.2.2:51820"), (HUB_V6, "[2001:db8:a::2]:51820")];
/// Where the UDP header is, in both families.
const UDP: [usize; 2] = [34, 54];

/// A frame, and what it is counted as; `None`: nothing, it is passed.
type Row = (String, Vec<u8>, Option<Reason>);

fn datagram(source: &str, destination: &str, payload: &[u8]) -> Frame {
    Frame::udp(socket(source), socket(destination), payload).to_mac(LOOPBACK_MAC)
}

/// A payload of `len` bytes that begins with `first`.
fn message(first: [u8; 4], len: usize) -> Vec<u8> {
    let mut message = vec![0xa5; len];
    let header = len.min(4);
    message[..header].copy_from_slice(&first[..header]);
    message
}

/// Every frame ends for its reason at `guard`, with its verdict, and is what it was.
fn check(fixture: &mut Fixture, guard: Guard, rows: &[Row]) {
    for (name, frame, reason) in rows {
        let (outcome, reasons) = fixture.reasons_of_guard(guard, frame);
        assert_eq!(reasons, Vec::from_iter(*reason), "{name}");
        let dropped = reason.is_some_and(|reason| reason.verdict() == Verdict::Drop);
        let verdict = if dropped { XDP_DROP } else { XDP_PASS };
        assert_eq!(outcome.verdict, verdict, "{name}");
        assert_eq!(outcome.packet, *frame, "{name}");
    }
}

/// What a first word and a length make of a datagram to the tunnel's port.
fn messages() -> Vec<Row> {
    use Reason::{Guarded, ProbeMalformed, Reserved, WrongLength, WrongType};
    let rows = [
        ([1, 0, 0, 0], vec![148], Guarded),
        ([1, 0, 0, 0], vec![4, 64, 92, 147, 149, 160, 296], WrongLength),
        ([2, 0, 0, 0], vec![92], Guarded),
        ([2, 0, 0, 0], vec![4, 64, 91, 93, 96, 148, 184], WrongLength),
        ([3, 0, 0, 0], vec![64], Guarded),
        ([3, 0, 0, 0], vec![4, 63, 65, 92, 128, 148], WrongLength),
        ([4, 0, 0, 0], vec![32, 48, 592, 1424, 1452], Guarded),
        ([4, 0, 0, 0], vec![0, 1, 3, 4, 16, 31, 33, 40, 47, 607], WrongLength),
        ([0, 0, 0, 0], vec![32, 64, 92, 148], WrongType),
        ([5, 0, 0, 0], vec![32, 64, 92, 148], WrongType),
        ([0x80, 0, 0, 0], vec![44], ProbeMalformed),
        ([1, 1, 0, 0], vec![148], Reserved),
        ([2, 0, 1, 0], vec![92], Reserved),
        ([3, 0, 0, 1], vec![64], Reserved),
        ([4, 0, 0, 0x80], vec![32, 1424], Reserved),
        // Both wrong: the word is looked at first.
        ([4, 1, 0, 0], vec![33], Reserved),
        ([9, 0, 0, 0], vec![33], WrongType),
    ];
    let each = |(source, destination): (&'static str, &'static str)| {
        rows.iter().flat_map(move |(first, lengths, reason)| {
            lengths.iter().map(move |len| {
                let frame = datagram(source, destination, &message(*first, *len)).build();
                (format!("{first:?}, {len} bytes, from {source}"), frame, Some(*reason))
            })
        })
    };
    FAMILIES.into_iter().flat_map(each).collect()
}

#[test]
fn what_cannot_be_wireguard_is_dropped_for_its_reason_and_what_can_be_is_left_to_restore() {
    let Some(mut fixture) = Fixture::new() else { return };
    check(&mut fixture, Guard::Native, &messages());
}

#[test]
fn restore_judges_as_guard_does() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (name, frame, reason) in messages() {
        let (outcome, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(A), &frame, ON_A);
        if reason == Some(Reason::Guarded) {
            assert_eq!((outcome.verdict, reasons), (REDIRECT, vec![Reason::Restored]), "{name}");
        } else {
            assert_eq!((outcome.verdict, reasons), (DROP, Vec::from_iter(reason)), "{name}");
            assert_eq!(outcome.packet, frame, "{name}");
        }
    }
}

#[test]
fn behind_gro_a_length_is_restores_to_judge() {
    let Some(mut fixture) = Fixture::new() else { return };
    let unsure = |reason: &Reason| *reason != Reason::WrongLength;
    let rows: Vec<Row> = messages()
        .into_iter()
        .map(|(name, frame, reason)| (name, frame, reason.filter(unsure)))
        .collect();
    check(&mut fixture, Guard::Generic, &rows);
}

/// Frames that are not for the tunnel, or not whole and plain; junk all of them, so that nothing but that saves them.
fn foreign((source, destination): (&str, &str), udp: usize) -> Vec<(&'static str, Vec<u8>)> {
    let with = |destination: &str| datagram(source, destination, b"junk");
    let at = |address: &str, port: u16| SocketAddr::new(ip(address), port).to_string();
    let (own, other) = if socket(source).is_ipv4() {
        ("192.0.2.2", "192.0.2.3")
    } else {
        ("2001:db8:a::2", "2001:db8:a::3")
    };
    // On uplink B it would be ours.
    let elsewhere = if socket(source).is_ipv4() {
        "203.0.113.2"
    } else {
        "2001:db8:b::2"
    };
    let plain = with(destination).build();
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    let mut lying = plain.clone();
    lying[udp + 4..udp + 6].copy_from_slice(&13_u16.to_be_bytes());
    let mut unknown = plain.clone();
    unknown[12..14].copy_from_slice(&[0x08, 0x06]);
    vec![
        ("another port", with(&at(own, PORT + 1)).build()),
        ("another address", with(&at(other, PORT)).build()),
        ("another uplink's address", with(&at(elsewhere, PORT)).build()),
        ("options", with(destination).options().build()),
        ("first fragment", with(destination).fragment(0x2000).build()),
        ("last fragment", with(destination).fragment(0x0005).build()),
        (
            "not UDP",
            Frame::other(ip(&socket(source).ip().to_string()), ip(own), 6).build(),
        ),
        ("VLAN tag", tagged),
        ("a UDP header that promises more than the IP header", lying),
        ("not IP", unknown),
        ("no more than an Ethernet header", plain[..14].to_vec()),
        (
            "in several buffers",
            datagram(source, destination, &[0xa5; 8000]).build(),
        ),
    ]
}

#[test]
fn what_is_not_for_the_tunnel_is_passed_untouched_and_uncounted() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (family, udp) in FAMILIES.into_iter().zip(UDP) {
        let rows: Vec<Row> = foreign(family, udp)
            .into_iter()
            .map(|(name, frame)| (format!("{name}, from {}", family.0), frame, None))
            .collect();
        for guard in Guard::ALL {
            check(&mut fixture, guard, &rows);
        }
        // The counter-case: the same junk, for the tunnel.
        let junk = datagram(family.0, family.1, b"junk").build();
        check(
            &mut fixture,
            Guard::Native,
            &[("junk".into(), junk, Some(Reason::WrongType))],
        );
    }
}

#[test]
fn a_frame_shorter_than_its_headers_say_is_passed_as_it_is() {
    let Some(mut fixture) = Fixture::new() else { return };
    for (source, destination) in FAMILIES {
        let frame = datagram(source, destination, b"junk and more of it").build();
        let rows: Vec<Row> = (14..frame.len())
            .map(|len| (format!("{len} bytes of {}", frame.len()), frame[..len].to_vec(), None))
            .collect();
        check(&mut fixture, Guard::Native, &rows);
    }
}

#[test]
fn a_udp_length_below_the_ip_headers_is_no_length_of_wireguards() {
    let Some(mut fixture) = Fixture::new() else { return };
    for ((source, destination), udp) in FAMILIES.into_iter().zip(UDP) {
        // 32 bytes by UDP, 48 by IP; and a UDP header that ends within itself.
        for len in [8 + 32_u16, 7, 0] {
            let mut frame = datagram(source, destination, &message([4, 0, 0, 0], 48)).build();
            frame[udp + 4..udp + 6].copy_from_slice(&len.to_be_bytes());
            let name = format!("{len} bytes by UDP, from {source}");
            check(&mut fixture, Guard::Native, &[(name, frame, Some(Reason::WrongLength))]);
        }
    }
}

#[test]
fn padding_behind_the_ip_packet_is_no_part_of_the_message() {
    let Some(mut fixture) = Fixture::new() else { return };
    let (source, destination) = FAMILIES[0];
    let padded = |payload: &[u8]| {
        let mut frame = datagram(source, destination, payload).build();
        frame.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        frame
    };
    let rows = [
        ("data".into(), padded(&message([4, 0, 0, 0], 32)), Some(Reason::Guarded)),
        ("one byte".into(), padded(&[4]), Some(Reason::WrongLength)),
        ("no byte".into(), padded(&[]), Some(Reason::WrongLength)),
    ];
    check(&mut fixture, Guard::Native, &rows);
}

/// Peer, its endpoint, and uplink A's address.
const PROBED: [(PeerId, &str, &str); 2] = [(V4_PEER, HUB, "192.0.2.2"), (V6_PEER, HUB_V6, "2001:db8:a::2")];

#[test]
fn an_authentic_reply_is_noted_and_consumed_once_and_any_other_is_passed() {
    let Some(mut fixture) = Fixture::new() else { return };
    for guard in Guard::ALL {
        for (peer, endpoint, address) in PROBED {
            let path = PathId::new(peer, 0);
            let payload = fixture.probe(path, 4, 0xfeed);
            let answered = fixture.dataplane.tables().proof(path).probes_answered;
            let from_hub = |destination: &str, ident, sequence, payload| {
                reply(socket(endpoint).ip(), ip(destination), ident, sequence, payload)
            };
            let right = from_hub(address, IDENT, 4, payload);
            let (source, own) = (socket(endpoint).ip(), ip(address));
            let request = Frame::echo(source, own, false, IDENT, 4, payload).to_mac(LOOPBACK_MAC);
            let other_address = own.to_string().replace("::2", "::3").replace(".2.2", ".2.3");
            let passed: Vec<Row> = [
                (
                    "another nonce",
                    from_hub(address, IDENT, 4, Payload { nonce: 1, ..payload }),
                ),
                ("another sequence number", from_hub(address, IDENT, 5, payload)),
                ("another identifier", from_hub(address, IDENT + 1, 4, payload)),
                ("to another address", from_hub(&other_address, IDENT, 4, payload)),
                ("an echo, not its reply", request.build()),
                ("cut", right[..right.len() - 1].to_vec()),
            ]
            .map(|(name, frame)| (format!("{name}, to {address}"), frame, None))
            .into();
            check(&mut fixture, guard, &passed);
            assert_eq!(fixture.dataplane.tables().proof(path).probes_answered, answered);

            let once = [
                ("authentic".to_owned(), right.clone(), Some(Reason::Proof)),
                ("repeated".to_owned(), right, None),
            ];
            check(&mut fixture, guard, &once);
            let proof = fixture.dataplane.tables().proof(path);
            assert_eq!((proof.probes_answered, proof.unanswered), (answered + 1, 0));
        }
    }
}

#[test]
fn on_a_device_that_is_no_uplink_guard_passes_everything() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture
        .dataplane
        .publish(&config(0, 0))
        .expect("the configuration is published");
    let rows: Vec<Row> = messages()
        .into_iter()
        .map(|(name, frame, _)| (name, frame, None))
        .collect();
    check(&mut fixture, Guard::Native, &rows);
}

#[test]
fn a_merged_packet_is_dropped_only_if_neither_end_of_it_can_be_wireguards() {
    let Some(mut fixture) = Fixture::new() else { return };
    let data = |len| message([4, 0, 0, 0], len);
    let junk = |len| message([9, 9, 9, 9], len);
    let rows = [
        ("data", [data(96), data(96), data(96)].concat(), 96, Ok(())),
        ("shorter data last", [data(96), data(96), data(32)].concat(), 96, Ok(())),
        // The whole has no length of WireGuard's.
        (
            "a handshake last",
            [data(96), data(96), message([2, 0, 0, 0], 92)].concat(),
            96,
            Ok(()),
        ),
        (
            "a handshake first",
            [message([1, 0, 0, 0], 148), data(32)].concat(),
            148,
            Ok(()),
        ),
        ("full ones", [data(1452), data(1452), data(48)].concat(), 1452, Ok(())),
        ("junk first", [junk(96), data(96)].concat(), 96, Ok(())),
        ("junk last", [data(96), junk(96)].concat(), 96, Ok(())),
        (
            "junk alone",
            [junk(96), junk(96), junk(5)].concat(),
            96,
            Err(Reason::WrongType),
        ),
        (
            "data of 40 bytes",
            [data(40), data(40)].concat(),
            40,
            Err(Reason::WrongLength),
        ),
        (
            "less than a word last",
            [junk(96), vec![4, 0, 0]].concat(),
            96,
            Err(Reason::WrongLength),
        ),
        // Nothing was merged: the segments' size is beyond the payload.
        ("one datagram", data(96), 1000, Ok(())),
    ];
    for (source, destination) in FAMILIES {
        for (name, payload, gso_size, expected) in &rows {
            let frame = datagram(source, destination, payload).build();
            let context = Context {
                gso: (0, *gso_size),
                ..ON_A
            };
            let (outcome, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(A), &frame, context);
            let (verdict, reason) = match expected {
                Ok(()) => (REDIRECT, Reason::Restored),
                Err(reason) => (DROP, *reason),
            };
            assert_eq!(
                (outcome.verdict, reasons),
                (verdict, vec![reason]),
                "{name} from {source}"
            );
        }
    }
}
