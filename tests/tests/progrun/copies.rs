//! Copies of data packets. A test run redirects nothing, so here `steer` is attached to an anchor, and what leaves by the uplinks is caught at their far
//! ends: exact bytes of packet and copy, each with the link-layer address of its own gateway.
//!
//! ```text
//!  outlet ─▶ anchor ─▶ steer ─┬─▶ isp-a ════ far-a ─▶ inlet
//!                             └─▶ isp-b ════ far-b ─▶ inlet
//! ```

use anyhow::{Context as _, Result};
use wgxdp::dataplane::Hook::Steer;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::liveness::{Protect, Thresholds};
use wgxdp_common::table::Order;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::host::Host;
use wgxdp_tests::inlet::Inlet;
use wgxdp_tests::outlet::Outlet;
use wgxdp_tests::privilege::root_or_skip;

use crate::fixture::*;

const ANCHOR: &str = "anchor";
/// The gateways' link-layer addresses, of isp-a and isp-b.
const GATEWAYS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0xaa, 1], [0x02, 0, 0, 0, 0xbb, 1]];
const A_V4: &str = "192.0.2.2:51820";
const B_V4: &str = "203.0.113.2:51820";
const A_V6: &str = "[2001:db8:a::2]:51820";
const B_V6: &str = "[2001:db8:b::2]:51820";
const ANCHOR_V4_PORT: &str = "192.0.0.8:51820";
const ANCHOR_V6_PORT: &str = "[fd5e:9a1c:7d42::8]:51820";
const ETHERNET: usize = 14;
/// Far apart: a slow machine takes its time between making a path silent and sending by it.
const THRESHOLDS: Thresholds = Thresholds::new(30_000, 2_000_000);
/// Silence that makes a path suspect, and dead, in milliseconds.
const SUSPECT_MS: u64 = 40;
/// See [`SUSPECT_MS`].
const DEAD_MS: u64 = 2_100;
/// Where the identification is in a frame with an IPv4 header: random in a new one.
const IDENTIFICATION: std::ops::Range<usize> = 18..20;

/// The programs, attached, and everything that they send.
struct Street {
    fixture: Fixture,
    host: Host,
    anchor: Outlet,
    far: [Inlet; 2],
}

impl Street {
    fn raise(protect: Protect) -> Result<Option<Self>> {
        if !root_or_skip("sending copies") {
            return Ok(None);
        }
        let host = Host::new("street")?;
        host.ip([
            format!("link add {ANCHOR} type veth peer name spare"),
            format!("link set {ANCHOR} up"),
            "link set spare up".into(),
        ])?;
        for (letter, mac, v4, v6) in [
            ("a", GATEWAYS[0], "192.0.2.1", "2001:db8:a::1"),
            ("b", GATEWAYS[1], "203.0.113.1", "2001:db8:b::1"),
        ] {
            let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
            host.ip([
                format!("link add isp-{letter} type veth peer name far-{letter}"),
                format!("link set isp-{letter} up"),
                format!("link set far-{letter} up"),
                format!("neigh add {v4} lladdr {mac} dev isp-{letter} nud permanent"),
                format!("neigh add {v6} lladdr {mac} dev isp-{letter} nud permanent"),
            ])?;
        }
        let index = |device: &str| -> Result<u32> { Ok(host.enter(|| nix::net::if_::if_nametoindex(device))?) };
        let mut fixture = Fixture::load_protected(&config(index("isp-a")?, index("isp-b")?), protect)?;
        for peer in [V4_PEER, V6_PEER, TO_V6_PEER, TO_V4_PEER] {
            for slot in 0..3 {
                fixture.dataplane.set_thresholds(PathId::new(peer, slot), THRESHOLDS);
            }
        }
        let anchor = index(ANCHOR)?;
        // Where there is only clsact, a note says there whose it is.
        host.enter(|| std::fs::create_dir_all("/run/wgxdp"))?;
        host.enter(|| fixture.dataplane.attach(Steer, ANCHOR, anchor))?;
        Ok(Some(Self {
            fixture,
            anchor: Outlet::open(&host, ANCHOR)?,
            far: [
                Inlet::open(&host, "far-a", "isp-a")?,
                Inlet::open(&host, "far-b", "isp-b")?,
            ],
            host,
        }))
    }

    /// Makes a path silent for so long, with three probes unanswered.
    fn silence(&mut self, path: PathId, silence_ms: u64) {
        let Self { fixture, host, .. } = self;
        host.enter(|| fixture.silence(path, silence_ms));
    }

    /// What leaves by isp-a and by isp-b when WireGuard sends this packet.
    fn sent(&mut self, frame: &Frame) -> Result<[Vec<Vec<u8>>; 2]> {
        self.anchor.send(&[frame.build()])?;
        let [a, b] = &mut self.far;
        Ok([a.datagrams().context("at isp-a")?, b.datagrams().context("at isp-b")?])
    }

    /// Exactly these leave, by isp-a and by isp-b, each to its gateway.
    #[track_caller]
    fn check(&mut self, name: &str, input: &Frame, expected: [&[&Frame]; 2]) {
        let sent = self.sent(input).expect("both ends are heard");
        for ((frames, expected), gateway) in sent.iter().zip(expected).zip(GATEWAYS) {
            assert_eq!(frames.len(), expected.len(), "{name}: {frames:02x?}");
            for (frame, expected) in frames.iter().zip(expected) {
                let [high, low] = frame[IDENTIFICATION].try_into().expect("two bytes");
                let identified = Frame::clone(expected).identification(u16::from_be_bytes([high, low]));
                assert_eq!(frame[ETHERNET..], identified.build_ip(), "{name}");
                assert_eq!(frame[..6], gateway, "{name}");
            }
        }
    }
}

fn data(source: &str, destination: &str) -> Frame {
    Frame::message(socket(source), socket(destination), 4, [7, 8], 1200)
}

const fn path_by_a(peer: PeerId) -> PathId {
    PathId::new(peer, 0)
}

#[test]
fn while_a_path_is_suspect_its_data_leaves_twice_and_neither_spoils_the_other() -> Result<()> {
    let Some(mut street) = Street::raise(Protect::SUSPECT)? else {
        return Ok(());
    };
    let rows = [
        (
            "IPv4",
            V4_PEER,
            data(ANCHOR_V4_PORT, HUB),
            data(A_V4, HUB),
            data(B_V4, HUB),
        ),
        (
            "IPv6",
            V6_PEER,
            data(ANCHOR_V6_PORT, HUB_V6),
            data(A_V6, HUB_V6),
            data(B_V6, HUB_V6),
        ),
        (
            "the original to IPv6",
            TO_V6_PEER,
            data(ANCHOR_V4_PORT, TO_V6[0]),
            data(A_V6, TO_V6[1]),
            data(B_V4, TO_V6[0]),
        ),
        (
            "the original to IPv4",
            TO_V4_PEER,
            data(ANCHOR_V6_PORT, TO_V4[0]),
            data(A_V4, TO_V4[1]),
            data(B_V6, TO_V4[0]),
        ),
    ];
    for (name, peer, out, by_a, by_b) in rows {
        street.check(&format!("{name}, in order"), &out, [&[&by_a], &[]]);
        street.silence(path_by_a(peer), SUSPECT_MS);
        street.check(&format!("{name}, suspect"), &out, [&[&by_a], &[&by_b]]);
        street.silence(path_by_a(peer), DEAD_MS);
        street.check(&format!("{name}, dead"), &out, [&[], &[&by_b]]);
    }
    let reasons = street.fixture.reasons(Place::Anchor);
    assert!(reasons.contains(&(Reason::Copied, 4)), "{reasons:?}");
    let count = street.fixture.dataplane.tables().path_count(PathId::new(V4_PEER, 1))?;
    assert_eq!(count.tx_packets, 2, "the copy, and what followed the verdict");
    Ok(())
}

#[test]
fn handshakes_are_never_sent_twice_and_nothing_is_where_copies_are_off() -> Result<()> {
    for (protect, doubled) in [(Protect::OFF, false), (Protect::SUSPECT, true), (Protect::ALWAYS, true)] {
        let Some(mut street) = Street::raise(protect)? else {
            return Ok(());
        };
        for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32)] {
            let of = |source| Frame::message(socket(source), socket(HUB), kind, [7, 8], len);
            street.silence(path_by_a(V4_PEER), SUSPECT_MS);
            let (out, by_a, by_b) = (of(ANCHOR_V4_PORT), of(A_V4), of(B_V4));
            let copies = [&by_b];
            let copies = if doubled && kind == 4 { &copies[..] } else { &[] };
            street.check(&format!("type {kind}, {protect:?}"), &out, [&[&by_a], copies]);
        }
    }
    Ok(())
}

#[test]
fn with_always_data_leaves_twice_while_there_is_another_live_path_and_best_by_another_uplink() -> Result<()> {
    let Some(mut street) = Street::raise(Protect::ALWAYS)? else {
        return Ok(());
    };
    street
        .fixture
        .dataplane
        .set_order(V4_PEER, Order::from_slots([0, 2, 1]));
    let (out, by_a, by_b) = (data(ANCHOR_V4_PORT, HUB), data(A_V4, HUB), data(B_V4, HUB));
    let to_second = data(A_V4, HUB_SECOND);
    street.check("all live", &out, [&[&by_a], &[&by_b]]);
    street.silence(PathId::new(V4_PEER, 1), DEAD_MS);
    street.check("isp-b dead", &out, [&[&to_second, &by_a], &[]]);
    street.silence(PathId::new(V4_PEER, 2), DEAD_MS);
    street.check("one live", &out, [&[&by_a], &[]]);
    Ok(())
}
