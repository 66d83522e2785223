extern crate std;

use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

use super::tlv::{HEADER_LEN, Malformed, Tlv, Tlvs, flag, kind};
use super::*;

fn sender() -> SenderPacket {
    SenderPacket {
        sequence: 0x0102_0304,
        timestamp: Timestamp(0x1112_1314_1516_1718),
        error: ErrorEstimate(0x2122),
        session: 0x3132,
    }
}

#[test]
fn a_senders_packet_is_that_of_rfc_8762_figure_2_with_the_identifier_of_rfc_8972_figure_1() {
    let mut expected = [0; 44];
    expected[..16].copy_from_slice(b"\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x31\x32");
    assert_eq!(sender().to_bytes(), expected);
    assert_eq!(SenderPacket::parse(&expected), Ok(sender()));
}

#[test]
fn a_stateless_reflectors_answer_is_that_of_rfc_8762_figure_5() {
    let (received, left) = (Timestamp(0x4142_4344_4546_4748), Timestamp(0x5152_5354_5556_5758));
    let answer = ReflectorPacket::answering(sender(), 0x61, received, left, ErrorEstimate(0x7172));
    let expected = *b"\x01\x02\x03\x04\x51\x52\x53\x54\x55\x56\x57\x58\x71\x72\x31\x32\
        \x41\x42\x43\x44\x45\x46\x47\x48\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x00\x00\x61\x00\x00\x00";
    assert_eq!(answer.to_bytes(), expected);
    assert_eq!(ReflectorPacket::from_bytes(&expected), answer);
}

#[test]
fn what_is_too_short_or_corrupt_is_no_senders_packet() {
    assert_eq!(SenderPacket::parse(&sender().to_bytes()[..43]), Err(NotSenders::Short));
    let corrupt = SenderPacket {
        error: ErrorEstimate(0x2100),
        ..sender()
    };
    assert_eq!(SenderPacket::parse(&corrupt.to_bytes()), Err(NotSenders::Corrupt));
}

/// 1 January 1970 and RFC 5905's figure 4: day zero of Unix is second 2,208,988,800 of NTP.
#[test]
fn timestamps_are_ntps_and_ptps() {
    assert_eq!(Timestamp::ntp(0), Timestamp(2_208_988_800 << 32));
    assert_eq!(Timestamp::ntp(1_500_000_000), Timestamp(2_208_988_801 << 32 | 1 << 31));
    // NTP's first era ends on 7 February 2036; seconds go on from zero.
    assert_eq!(
        Timestamp::ntp((2_u64.pow(32) - 2_208_988_800) * 1_000_000_000),
        Timestamp(0)
    );
    assert_eq!(Timestamp::ptp(1_500_000_000), Timestamp(1 << 32 | 500_000_000));
}

#[test]
fn an_error_estimate_is_that_of_rfc_4656() {
    assert_eq!(
        ErrorEstimate::new(ErrorEstimate::SYNCHRONISED, 0b10_0001, 3).0,
        0b1010_0001_0000_0011
    );
    assert_eq!(ErrorEstimate::new(ErrorEstimate::PTP, 0, 1).0, 0b0100_0000_0000_0001);
    assert!(ErrorEstimate::UNKNOWN.is_sound());
    assert!(!ErrorEstimate::new(ErrorEstimate::PTP, 63, 0).is_sound());
}

#[test]
fn a_walk_over_tlvs_ends_with_the_first_malformed_one() {
    let bytes = b"\x80\x01\x00\x02ab\x40\xfc\x00\x00\x00\x04\x00\x05four";
    let walked: Vec<_> = Tlvs::new(bytes).collect();
    let padding = Tlv {
        flags: 0x80,
        kind: kind::PADDING,
        value: b"ab",
    };
    let private = Tlv {
        flags: flag::MALFORMED,
        kind: kind::PRIVATE,
        value: b"",
    };
    assert_eq!(walked, [Ok(padding), Ok(private), Err(Malformed)]);
    assert_eq!(Tlvs::new(b"\x80\x01\x00").collect::<Vec<_>>(), [Err(Malformed)]);
    assert_eq!(Tlvs::new(b"").count(), 0);
}

#[test]
fn a_reflector_marks_what_it_does_not_understand_and_what_is_malformed() {
    let mut bytes = *b"\x80\x01\x00\x01a\x00\x04\x00\x01b\x80\x01\x00\x09short";
    tlv::reflect(&mut bytes);
    assert_eq!(&bytes, b"\x00\x01\x00\x01a\x80\x04\x00\x01b\x40\x01\x00\x09short");
    let mut scrap = *b"\x80\x01\x00\x00\x80\x01";
    tlv::reflect(&mut scrap);
    assert_eq!(
        &scrap, b"\x00\x01\x00\x00\x80\x01",
        "a part of a header has no flags that are known to be some"
    );
}

#[test]
fn a_senders_packet_fills_its_length_with_one_padding_tlv() {
    let mut payload = [0xff; BASE_LEN + HEADER_LEN + 3];
    assert_eq!(sender().write(&mut payload), Ok(()));
    assert_eq!(SenderPacket::parse(&payload), Ok(sender()));
    assert_eq!(payload[BASE_LEN..], *b"\x80\x01\x00\x03\0\0\0");
    assert_eq!(sender().write(&mut payload[..BASE_LEN]), Ok(()));
    for len in [BASE_LEN - 1, BASE_LEN + 1, BASE_LEN + HEADER_LEN - 1] {
        assert_eq!(sender().write(&mut payload[..len]), Err(tlv::DoesNotFit), "{len}");
    }
}

proptest! {
    #[test]
    fn a_senders_packet_survives_the_wire_whatever_follows(sequence: u32, time: u64, error in 1_u16..256, session: u16, behind: Vec<u8>) {
        let packet = SenderPacket { sequence, timestamp: Timestamp(time), error: ErrorEstimate(error), session };
        let payload = [packet.to_bytes().as_slice(), &behind].concat();
        prop_assert_eq!(SenderPacket::parse(&payload), Ok(packet));
    }

    /// Otherwise two reflectors could be made to answer each other for ever.
    #[test]
    fn an_answer_is_never_taken_for_a_senders_packet(sequence: u32, time: u64, ttl: u8, received: u64, left: u64) {
        let packet = SenderPacket { sequence, timestamp: Timestamp(time), ..sender() };
        let answer = ReflectorPacket::answering(packet, ttl, Timestamp(received), Timestamp(left), ErrorEstimate::UNKNOWN);
        prop_assert_eq!(SenderPacket::parse(&answer.to_bytes()), Err(NotSenders::Reflected));
    }

    #[test]
    fn whatever_is_put_into_tlvs_is_found_there(values in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6)) {
        let mut bytes = Vec::new();
        for (kind, value) in &values {
            bytes.extend(tlv::header(*kind, value.len() as u16));
            bytes.extend(value);
        }
        let walked: Vec<_> = Tlvs::new(&bytes).map(|tlv| tlv.map(|tlv| (tlv.kind, tlv.value.to_vec()))).collect();
        prop_assert_eq!(walked, values.into_iter().map(Ok).collect::<Vec<_>>());
    }

    #[test]
    fn reflecting_junk_changes_flags_alone(junk in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut bytes = junk.clone();
        tlv::reflect(&mut bytes);
        let mut may_change = vec![false; junk.len()];
        let mut at = 0;
        for tlv in Tlvs::new(&junk) {
            if at + HEADER_LEN <= junk.len() {
                may_change[at] = true;
            }
            at += HEADER_LEN + tlv.map_or(junk.len(), |tlv| tlv.value.len());
        }
        prop_assert!((0..junk.len()).all(|i| may_change[i] || bytes[i] == junk[i]));
    }
}
