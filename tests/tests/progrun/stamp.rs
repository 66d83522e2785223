//! Probes to a STAMP reflector: how they leave, and what proves a path.

use std::net::{IpAddr, SocketAddr};

use wgxdp::dataplane::{Guard, Hook};
use wgxdp_common::abi::PROBE_MARK;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::PathId;
use wgxdp_common::stamp::{self, BASE_LEN, ErrorEstimate, ReflectorPacket, SenderPacket, Timestamp, out_of_band};
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;

const SEQUENCE: u16 = 0x0102;
const RANDOM: u64 = 0x11_2233_4455;

/// A family's first path: of whom, over uplink A; the reflector, the anchor's address and the uplink's.
struct Scene {
    path: PathId,
    reflector: SocketAddr,
    anchor: SocketAddr,
    uplink: SocketAddr,
}

fn scenes() -> [Scene; 2] {
    let scene = |peer, hub: &str, anchor: &str, uplink: &str| Scene {
        path: PathId::new(peer, 0),
        reflector: SocketAddr::new(socket(hub).ip(), stamp::PORT),
        anchor: SocketAddr::new(ip(anchor), IDENT),
        uplink: SocketAddr::new(ip(uplink), IDENT),
    };
    [
        scene(V4_PEER, HUB, ANCHOR_V4, "192.0.2.2"),
        scene(V6_PEER, HUB_V6, ANCHOR_V6, "2001:db8:a::2"),
    ]
}

impl Scene {
    fn probe(&self) -> SenderPacket {
        out_of_band::probe(self.path, SEQUENCE, RANDOM)
    }

    fn leaves(&self, fixture: &mut Fixture) {
        let frame = Frame::udp(self.anchor, self.reflector, &self.probe().to_bytes()).build();
        let outcome = fixture
            .run(Hook::Steer, &frame, marked(self.path))
            .expect("the run succeeds");
        assert_eq!(outcome.verdict, REDIRECT);
    }

    /// The reflector's answer to `probe`, as it arrives at `to`.
    fn answer(&self, probe: SenderPacket, to: SocketAddr) -> Vec<u8> {
        let answer = ReflectorPacket::answering(probe, 64, Timestamp(1), Timestamp(2), ErrorEstimate::UNKNOWN);
        self.datagram(&answer.to_bytes(), to)
    }

    fn datagram(&self, payload: &[u8], to: SocketAddr) -> Vec<u8> {
        Frame::udp(self.reflector, to, payload).to_mac(LOOPBACK_MAC).build()
    }
}

fn marked(path: PathId) -> Context {
    Context {
        mark: PROBE_MARK | path.0,
        ..Context::PLAIN
    }
}

#[test]
fn a_stamp_probe_leaves_by_its_path_stamped_and_nothing_but_its_source_is_changed() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        let probe = |source| Frame::udp(source, scene.reflector, &scene.probe().to_bytes()).build();
        let (outcome, reasons) =
            fixture.reasons_of(Hook::Steer, Place::Anchor, &probe(scene.anchor), marked(scene.path));
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (REDIRECT, [Reason::Probe].as_slice())
        );
        assert_eq!(outcome.packet, probe(scene.uplink));
        let proof = fixture.dataplane.tables().proof(scene.path);
        assert_eq!((proof.probes_sent, proof.unanswered, proof.probes_answered), (1, 1, 0));
    }
}

#[test]
fn a_datagram_without_the_right_mark_port_or_source_is_no_probe() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        let from = |source| Frame::udp(source, scene.reflector, &scene.probe().to_bytes()).build();
        let other_port = SocketAddr::new(scene.anchor.ip(), IDENT + 1);
        for (name, frame, context) in [
            ("no mark", from(scene.anchor), Context::PLAIN),
            (
                "another path's mark",
                from(scene.anchor),
                marked(PathId(scene.path.0 + 1)),
            ),
            ("another port", from(other_port), marked(scene.path)),
            ("not canonical", from(scene.uplink), marked(scene.path)),
        ] {
            let (outcome, reasons) = fixture.reasons_of(Hook::Steer, Place::Anchor, &frame, context);
            assert_eq!(
                (outcome.verdict, reasons.as_slice()),
                (NEXT, [Reason::OtherPort].as_slice()),
                "{name}"
            );
            assert_eq!(outcome.packet, frame, "{name}");
        }
        assert_eq!(fixture.dataplane.tables().proof(scene.path).probes_sent, 0);
    }
}

/// What answers no probe of ours, whoever looks at it.
fn wrong(scene: &Scene) -> [(&'static str, Vec<u8>); 7] {
    let probe = scene.probe();
    let nonce = SenderPacket {
        timestamp: Timestamp(probe.timestamp.0 ^ 1),
        ..probe
    };
    let beyond = SenderPacket {
        sequence: 0x1_0000 | probe.sequence,
        ..probe
    };
    let sequence = out_of_band::probe(scene.path, SEQUENCE + 1, RANDOM);
    let path = out_of_band::probe(PathId(scene.path.0 + 1), SEQUENCE, RANDOM);
    let no_path = out_of_band::probe(PathId(0xff_ffff), SEQUENCE, RANDOM);
    let right = ReflectorPacket::answering(probe, 64, Timestamp(1), Timestamp(2), ErrorEstimate::UNKNOWN);
    let answer = |probe| scene.answer(probe, scene.uplink);
    [
        ("another nonce", answer(nonce)),
        ("another sequence number", answer(sequence)),
        ("a sequence number that is longer", answer(beyond)),
        ("another path", answer(path)),
        ("a path that does not exist", answer(no_path)),
        (
            "the probe itself, sent back",
            scene.datagram(&probe.to_bytes(), scene.uplink),
        ),
        (
            "too short",
            scene.datagram(&right.to_bytes()[..BASE_LEN - 1], scene.uplink),
        ),
    ]
}

/// An address that is not the uplink's, in its family.
fn beside(uplink: SocketAddr) -> SocketAddr {
    let ip = match uplink.ip() {
        IpAddr::V4(_) => ip("192.0.2.3"),
        IpAddr::V6(_) => ip("2001:db8:a::3"),
    };
    SocketAddr::new(ip, uplink.port())
}

#[test]
fn restore_takes_the_answer_to_a_probe_once_and_nothing_else() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        scene.leaves(&mut fixture);
        let mut check = |name, frame: &[u8], verdict, reason| {
            let (outcome, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(A), frame, Context::ON_LOOPBACK);
            assert_eq!(
                (outcome.verdict, reasons.as_slice()),
                (verdict, [reason].as_slice()),
                "{name}"
            );
            fixture.dataplane.tables().proof(scene.path).probes_answered
        };
        for (name, frame) in wrong(&scene) {
            assert_eq!(check(name, &frame, NEXT, Reason::Unauthentic), 0);
        }
        let elsewhere = scene.answer(scene.probe(), beside(scene.uplink));
        assert_eq!(check("to another address", &elsewhere, NEXT, Reason::Unauthentic), 0);
        let other_port = SocketAddr::new(scene.uplink.ip(), IDENT + 1);
        let other_port = scene.answer(scene.probe(), other_port);
        assert_eq!(check("to another port", &other_port, NEXT, Reason::OtherPort), 0);
        let right = scene.answer(scene.probe(), scene.uplink);
        assert_eq!(check("the answer", &right, DROP, Reason::Proof), 1);
        assert_eq!(check("again", &right, NEXT, Reason::Unauthentic), 1);
        assert_eq!(fixture.dataplane.tables().proof(scene.path).unanswered, 0);
    }
}

#[test]
fn guard_takes_the_answer_to_a_probe_once_and_passes_everything_else_uncounted() {
    let Some(mut fixture) = Fixture::new() else { return };
    for guard in Guard::ALL {
        for scene in scenes() {
            scene.leaves(&mut fixture);
            let mut check = |name, frame: &[u8], verdict, reason: Option<Reason>| {
                let (outcome, reasons) = fixture.reasons_of_guard(guard, frame);
                assert_eq!((outcome.verdict, reasons), (verdict, Vec::from_iter(reason)), "{name}");
            };
            for (name, frame) in wrong(&scene) {
                check(name, &frame, XDP_PASS, None);
            }
            let elsewhere = scene.answer(scene.probe(), beside(scene.uplink));
            check("to another address", &elsewhere, XDP_PASS, None);
            let right = scene.answer(scene.probe(), scene.uplink);
            check("the answer", &right, XDP_DROP, Some(Reason::Proof));
            check("again", &right, XDP_PASS, None);
        }
    }
}

#[test]
fn an_answer_over_another_uplink_than_the_probes_proves_nothing() {
    let Some(mut fixture) = Fixture::new() else { return };
    let [scene, _] = scenes();
    scene.leaves(&mut fixture);
    fixture
        .dataplane
        .publish(&config(0, 1))
        .expect("the configuration is published");
    let to_b = scene.answer(scene.probe(), SocketAddr::new(ip("203.0.113.2"), IDENT));
    let (_, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(B), &to_b, Context::ON_LOOPBACK);
    assert_eq!(reasons, [Reason::Unauthentic]);
}
