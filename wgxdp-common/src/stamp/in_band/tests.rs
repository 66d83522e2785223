extern crate std;

use proptest::prelude::*;
use std::vec;

use super::*;
use crate::count::Reason;
use crate::message::Message;
use crate::stamp::{ReflectorPacket, SenderPacket};

const KEY: Key = Key { k0: 1, k1: 2 };

fn author(active: bool, report: Option<Report>) -> Author {
    Author {
        key_id: KeyId(u64::from_ne_bytes(*b"KEYIDENT")),
        active,
        report,
        error: ErrorEstimate(0x0102),
    }
}

fn request() -> InBand {
    let report = Report {
        sequence: 0x8182_8384,
        age_ms: 0x2122,
    };
    InBand::request(
        5,
        Timestamp(0x1112_1314_1516_1718),
        PathId(0x3132_3334),
        author(true, Some(report)),
    )
    .sealed(KEY)
}

fn answer_to(request: &InBand) -> InBand {
    let arrival = Arrival {
        at: Timestamp(0x4142_4344_4546_4748),
        ttl: 63,
    };
    request
        .answer(arrival, Timestamp(0x5152_5354_5556_5758), author(false, None))
        .sealed(KEY)
}

fn bytes_of(probe: &InBand) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    probe.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_request_has_these_bytes() {
    let bytes = bytes_of(&request());
    assert_eq!(
        &bytes[..16],
        b"\x80\0\0\x05\x11\x12\x13\x14\x15\x16\x17\x18\x01\x02\0\0"
    );
    assert_eq!(bytes[16..44], [0; 28]);
    assert_eq!(
        &bytes[44..72],
        b"\x80\xfc\0\x20\0\0\x7e\xd9\x01\x05\x21\x22KEYIDENT\x31\x32\x33\x34\x81\x82\x83\x84"
    );
    assert_eq!(SenderPacket::parse(&bytes).unwrap().sequence, 0x8000_0005);
}

#[test]
fn an_answer_has_these_bytes() {
    let bytes = bytes_of(&answer_to(&request()));
    assert_eq!(
        &bytes[..16],
        b"\x80\0\0\x05\x51\x52\x53\x54\x55\x56\x57\x58\x01\x02\0\0"
    );
    assert_eq!(
        &bytes[16..44],
        b"\x41\x42\x43\x44\x45\x46\x47\x48\x80\0\0\x05\x11\x12\x13\x14\x15\x16\x17\x18\x01\x02\0\0\x3f\0\0\0"
    );
    assert_eq!(
        &bytes[44..72],
        b"\0\xfc\0\x20\0\0\x7e\xd9\x01\x02\0\0KEYIDENT\x31\x32\x33\x34\0\0\0\0"
    );
    let base = bytes.first_chunk().unwrap();
    assert_eq!(
        ReflectorPacket::from_bytes(base).sender_timestamp,
        request().timestamp()
    );
}

/// `openssl mac -macopt hexkey:01000000000000000200000000000000 -macopt size:8 SIPHASH` of the 72 bytes above.
#[test]
fn the_tag_is_what_openssl_computes() {
    assert_eq!(bytes_of(&request())[72..], 0xB63C_5A22_9719_AF29_u64.to_be_bytes());
}

#[test]
fn request_and_answer_say_what_they_were_made_of() {
    let (request, answer) = (request(), answer_to(&request()));
    assert!(request.is_active() && !request.is_answer());
    assert!(answer.is_answer() && !answer.is_active());
    assert_eq!(
        request.report().map(|report| (report.sequence, report.age_ms)),
        Some((0x8182_8384, 0x2122))
    );
    assert_eq!(answer.report(), None);
    assert_eq!((answer.sequence(), answer.path()), (request.sequence(), request.path()));
    assert_eq!(answer.sender_timestamp(), request.timestamp());
    assert_eq!(answer.received(), Timestamp(0x4142_4344_4546_4748));
    assert_eq!(answer.key_id(), KeyId(u64::from_ne_bytes(*b"KEYIDENT")));
}

#[test]
fn padding_fills_a_packet_and_is_not_covered() {
    let mut payload = vec![0xff; 1452];
    request().write(&mut payload).unwrap();
    assert_eq!(payload[..LEN], bytes_of(&request()));
    assert_eq!(payload[LEN..LEN + 4], [0x80, 1, 0x05, 0x58]);
    assert!(payload[LEN + 4..].iter().all(|byte| *byte == 0));
    payload[1451] = 1;
    assert!(InBand::parse(&payload).unwrap().is_authentic(KEY));
}

#[test]
fn there_is_no_probe_that_is_shorter_nor_one_with_a_part_of_a_padding() {
    for len in [0, LEN - 1, LEN + 1, LEN + 3, LEN + 4 + 65536] {
        assert_eq!(request().write(&mut vec![0; len]), Err(DoesNotFit), "{len}");
    }
    assert_eq!(InBand::parse(&bytes_of(&request())[..LEN - 1]), None);
}

#[test]
fn a_probe_of_another_version_vendor_type_or_length_is_not_ours() {
    for (at, reason) in [
        (0, "the sequence number's top bit"),
        (45, "type"),
        (47, "length"),
        (51, "enterprise"),
        (52, "version"),
    ] {
        let mut bytes = bytes_of(&request());
        bytes[at] ^= 0x80;
        assert_eq!(InBand::parse(&bytes), None, "{reason}");
    }
}

proptest! {
    #[test]
    fn no_probe_looks_like_wireguards(sequence: u32, padding in 0_u32..1400) {
        let probe = InBand::request(sequence, Timestamp(0), PathId(0), author(true, None)).sealed(KEY);
        let first = u32::from_ne_bytes(*bytes_of(&probe).first_chunk().unwrap());
        prop_assert_eq!(Message::classify(first, LEN as u32 + padding), Err(Reason::WrongType));
    }

    #[test]
    fn one_changed_bit_anywhere_makes_a_probe_a_forgery(bit in 0_usize..8 * LEN, answer: bool) {
        let probe = if answer { answer_to(&request()) } else { request() };
        prop_assert!(probe.is_authentic(KEY));
        let mut words = probe.words();
        words[bit / 64] ^= 1 << (bit % 64);
        prop_assert!(!InBand::from_words(words).is_authentic(KEY));
    }

    #[test]
    fn another_key_makes_a_probe_a_forgery(k0: u64, k1: u64) {
        let key = Key { k0, k1 };
        prop_assert_eq!(request().is_authentic(key), key == KEY);
    }

    #[test]
    fn a_probe_survives_the_wire(sequence: u32, time: u64, path: u32, active: bool, report in prop::option::of((any::<u32>(), any::<u16>()))) {
        let report = report.map(|(sequence, age_ms)| Report { sequence, age_ms });
        let probe = InBand::request(sequence, Timestamp(time), PathId(path), author(active, report)).sealed(KEY);
        let read = InBand::parse(&bytes_of(&probe)).unwrap();
        prop_assert_eq!(read, probe);
        prop_assert_eq!((read.sequence(), read.timestamp(), read.path()), (sequence | SEQUENCE_BIT, Timestamp(time), PathId(path)));
        prop_assert_eq!((read.is_active(), read.report()), (active, report));
    }
}
