//! `clamp_mss`: the MSS of SYNs is lowered to what fits, and nothing else is touched.

use wgxdp::dataplane::Hook;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;

/// The inner packet that fits, and what it leaves for segments in IPv4 and IPv6.
const INNER: u32 = 1392;
const V4_MOST: u16 = 1352;
const V6_MOST: u16 = 1332;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

const NOP: [u8; 1] = [1];
const END: [u8; 1] = [0];
const WINDOW_SCALE: [u8; 3] = [3, 3, 7];
const SACK_PERMITTED: [u8; 2] = [4, 2];
const TIMESTAMPS: [u8; 10] = [8, 10, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0];

/// The tunnel's interface is the loopback device. Its packets have no link-layer header: the program finds the IP header in the first byte.
const ON_TUNNEL: Context = Context::ON_LOOPBACK;

fn mss(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [2, 4, high, low]
}

/// Options one after the other, filled up with ends to a multiple of four.
fn options(parts: &[&[u8]]) -> Vec<u8> {
    let mut options = parts.concat();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

fn v4(flags: u8, parts: &[&[u8]]) -> Frame {
    Frame::tcp(
        socket("10.57.0.1:40000"),
        socket("10.57.0.2:80"),
        flags,
        &options(parts),
    )
}

fn v6(flags: u8, parts: &[&[u8]]) -> Frame {
    Frame::tcp(
        socket("[fd00::1]:40000"),
        socket("[fd00::2]:80"),
        flags,
        &options(parts),
    )
}

/// The fixture with a clamped interface.
fn clamped() -> Option<Fixture> {
    let mut fixture = Fixture::new()?;
    fixture.dataplane.set_clamp(1, INNER).expect("the map takes it");
    Some(fixture)
}

/// The packet goes on as `expected`, in both directions.
#[track_caller]
fn check(fixture: &mut Fixture, name: &str, input: &[u8], expected: &[u8]) {
    for hook in [Hook::ClampIngress, Hook::ClampEgress] {
        let outcome = fixture.run(hook, input, ON_TUNNEL).expect("the run succeeds");
        assert_eq!(outcome.verdict, NEXT, "{name}");
        assert_eq!(outcome.packet, expected, "{name}");
    }
}

#[track_caller]
fn untouched(fixture: &mut Fixture, name: &str, input: &Frame) {
    let input = input.build_ip();
    check(fixture, name, &input, &input);
}

type Row = (&'static str, Frame, Frame);

fn lowered() -> [Row; 10] {
    let (large, small4, small6) = (mss(1460), mss(V4_MOST), mss(V6_MOST));
    let linux = |value| [&mss(value)[..], &SACK_PERMITTED, &TIMESTAMPS, &NOP, &WINDOW_SCALE].concat();
    let behind = |value| [&SACK_PERMITTED[..], &TIMESTAMPS, &WINDOW_SCALE, &NOP, &mss(value)].concat();
    [
        ("a SYN of IPv4", v4(SYN, &[&large]), v4(SYN, &[&small4])),
        ("a SYN of IPv6", v6(SYN, &[&large]), v6(SYN, &[&small6])),
        ("a SYN-ACK of IPv4", v4(SYN_ACK, &[&large]), v4(SYN_ACK, &[&small4])),
        ("a SYN-ACK of IPv6", v6(SYN_ACK, &[&large]), v6(SYN_ACK, &[&small6])),
        (
            "a SYN as Linux sends it",
            v4(SYN, &[&linux(1460)]),
            v4(SYN, &[&linux(V4_MOST)]),
        ),
        (
            "behind everything else, at an even offset",
            v6(SYN, &[&behind(1440)]),
            v6(SYN, &[&behind(V6_MOST)]),
        ),
        (
            "behind a no-operation, at an odd offset",
            v4(SYN, &[&NOP, &large]),
            v4(SYN, &[&NOP, &small4]),
        ),
        (
            "at an odd offset in IPv6",
            v6(SYN, &[&WINDOW_SCALE, &large]),
            v6(SYN, &[&WINDOW_SCALE, &small6]),
        ),
        (
            "as the last of forty bytes",
            v4(SYN, &[&[1; 36], &large]),
            v4(SYN, &[&[1; 36], &small4]),
        ),
        (
            "behind IPv4 options, which the MSS does not count",
            v4(SYN, &[&large]).options(),
            v4(SYN, &[&small4]).options(),
        ),
    ]
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_fits_and_the_checksum_with_it() {
    let Some(mut fixture) = clamped() else { return };
    for (name, input, output) in lowered() {
        check(&mut fixture, name, &input.build_ip(), &output.build_ip());
    }
    for large in [V4_MOST + 1, 1460, 8960, 0xffff] {
        let (input, output) = (v4(SYN, &[&NOP, &mss(large)]), v4(SYN, &[&NOP, &mss(V4_MOST)]));
        check(&mut fixture, &format!("{large}"), &input.build_ip(), &output.build_ip());
    }
}

#[test]
fn an_mss_that_fits_is_never_raised() {
    let Some(mut fixture) = clamped() else { return };
    for value in [0, 1, 536, V4_MOST - 1, V4_MOST] {
        untouched(&mut fixture, "IPv4", &v4(SYN, &[&mss(value)]));
    }
    untouched(&mut fixture, "IPv6", &v6(SYN_ACK, &[&mss(V6_MOST)]));
}

#[test]
fn what_is_no_syn_with_an_mss_is_untouched() {
    let Some(mut fixture) = clamped() else { return };
    let large = mss(1460);
    let rows = [
        ("no options", v4(SYN, &[])),
        ("no options, IPv6", v6(SYN, &[])),
        ("other options", v4(SYN, &[&SACK_PERMITTED, &TIMESTAMPS, &WINDOW_SCALE])),
        ("nothing but no-operations", v4(SYN, &[&[1; 40]])),
        ("behind the end of the options", v4(SYN, &[&END, &large])),
        ("an ACK", v4(0x10, &[&large])),
        ("a FIN, IPv6", v6(0x11, &[&large])),
        ("a SYN that resets", v4(SYN | 0x04, &[&large])),
        ("UDP", Frame::udp(socket("10.57.0.1:1"), socket("10.57.0.2:2"), &large)),
        ("a first fragment", v4(SYN, &[&large]).fragment(0x2000)),
        ("a later fragment", v4(SYN, &[&large]).fragment(0x0010)),
        ("a fragment, IPv6", v6(SYN, &[&large]).fragment(1)),
        ("an extension header", v6(SYN, &[&large]).options()),
    ];
    for (name, frame) in rows {
        untouched(&mut fixture, name, &frame);
    }
}

#[test]
fn options_that_contradict_themselves_are_untouched() {
    let Some(mut fixture) = clamped() else { return };
    let large = mss(1460);
    let rows: [(&str, &[&[u8]]); 9] = [
        ("length 0 in front", &[&[3, 0], &large]),
        ("length 1 in front", &[&[3, 1], &large]),
        ("length beyond the header in front", &[&[3, 11, 0, 0], &large]),
        ("an MSS of length 0", &[&[2, 0, 0xff, 0xff]]),
        ("an MSS of length 2", &[&[2, 2, 0xff, 0xff]]),
        ("an MSS of length 3", &[&[2, 3, 0xff, 0xff]]),
        ("an MSS of length 5", &[&[2, 5, 0xff, 0xff], &[0xff, 0, 0, 0]]),
        ("an MSS that runs beyond the header", &[&[1, 2, 4, 0xff]]),
        ("an MSS without a length", &[&[1, 1, 1, 2]]),
    ];
    for (name, parts) in rows {
        untouched(&mut fixture, name, &v4(SYN, parts));
        untouched(&mut fixture, name, &v6(SYN, parts));
    }
}

#[test]
fn a_syn_that_is_not_whole_is_untouched() {
    let Some(mut fixture) = clamped() else { return };
    for whole in [v4(SYN, &[&mss(1460)]).build_ip(), v6(SYN, &[&mss(1460)]).build_ip()] {
        for len in 20..whole.len() {
            let cut = whole.get(..len).expect("shorter");
            check(&mut fixture, &format!("cut at {len}"), cut, cut);
        }
        // The IP header says that the packet ends before its options, or the TCP header that it is shorter than it can be.
        let (length, tcp) = if whole.len() == 44 { (2, 20) } else { (4, 40) };
        let mut short = whole.clone();
        if let [_, low] = short.get_mut(length..length + 2).expect("a length") {
            *low -= 1;
        }
        check(&mut fixture, "a length that is too short", &short, &short);
        let mut small = whole.clone();
        *small.get_mut(tcp + 12).expect("a data offset") = 0x40;
        check(&mut fixture, "a data offset of 4", &small, &small);
    }
    let mut ihl = v4(SYN, &[&mss(1460)]).build_ip();
    *ihl.first_mut().expect("a byte") = 0x44;
    check(&mut fixture, "an IPv4 header of 16 bytes", &ihl, &ihl);
}

#[test]
fn an_interface_that_is_not_clamped_is_left_alone() {
    let Some(mut fixture) = clamped() else { return };
    let syn = v4(SYN, &[&mss(1460)]);
    fixture.dataplane.remove_clamp(1).expect("the map gives it back");
    untouched(&mut fixture, "no longer clamped", &syn);
    fixture.dataplane.set_clamp(2, INNER).expect("the map takes it");
    untouched(&mut fixture, "another interface is", &syn);
    fixture.dataplane.remove_clamp(9).expect("there was none");
}

#[test]
fn a_path_that_claims_to_be_too_narrow_for_tcp_leaves_it_the_least_that_linux_takes() {
    let Some(mut fixture) = clamped() else { return };
    fixture.dataplane.set_clamp(1, 0).expect("the map takes it");
    let (input, output) = (v6(SYN, &[&mss(1440)]), v6(SYN, &[&mss(88)]));
    check(&mut fixture, "88", &input.build_ip(), &output.build_ip());
}

#[test]
fn a_new_value_counts_from_the_next_syn_on() {
    let Some(mut fixture) = clamped() else { return };
    let input = v4(SYN, &[&mss(1460)]).build_ip();
    for inner in [1392, 1280, 1420] {
        fixture.dataplane.set_clamp(1, inner).expect("the map takes it");
        let output = v4(SYN, &[&mss(inner as u16 - 40)]).build_ip();
        check(&mut fixture, &format!("{inner}"), &input, &output);
    }
}
