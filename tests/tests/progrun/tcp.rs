//! TCP-connect probes: how they leave, what proves a path, and what goes back.

use std::net::SocketAddr;
use std::time::Duration;

use wgxdp::dataplane::{Guard, Hook};
use wgxdp_common::abi::PROBE_MARK;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::PathId;
use wgxdp_common::tcp::{PORTS, RST, RST_ACK, SYN, SYN_ACK, TOO_LATE_NS};
use wgxdp_tests::frame::{Frame, SOURCE_MAC};
use wgxdp_tests::poll::observe_for;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;
use crate::rows::Table;

const ACK: u8 = 0x10;
/// The probe's own number, and the one with which TCP begins.
const SEQUENCE: u16 = 0x0102;
const INITIAL: u32 = 0xffff_ffff;
/// What acknowledges the SYN.
const NEXT_NUMBER: u32 = 0;
/// The numbers of a target, which mean nothing to us.
const THEIRS: u32 = 0x1122_3344;
/// An MSS of 536 bytes.
const OPTIONS: [u8; 4] = [2, 4, 2, 24];
const RESTORE: Table = Table {
    hook: Hook::Restore,
    place: Place::Uplink(A),
    context: Context::ON_LOOPBACK,
};

/// A family's first path: of whom, over uplink A; the target, and the probe's source before and after `steer`.
struct Scene {
    path: PathId,
    target: SocketAddr,
    anchor: SocketAddr,
    uplink: SocketAddr,
}

fn scenes() -> [Scene; 2] {
    let scene = |peer, hub: &str, anchor: &str, uplink: &str| Scene {
        path: PathId::new(peer, 0),
        target: SocketAddr::new(socket(hub).ip(), 443),
        anchor: SocketAddr::new(ip(anchor), PORTS),
        uplink: SocketAddr::new(ip(uplink), PORTS),
    };
    [
        scene(V4_PEER, HUB, ANCHOR_V4, "192.0.2.2"),
        scene(V6_PEER, HUB_V6, ANCHOR_V6, "2001:db8:a::2"),
    ]
}

impl Scene {
    fn probe(&self) -> Frame {
        Frame::tcp(self.anchor, self.target, SYN, &OPTIONS).numbers(INITIAL, SEQUENCE.into())
    }

    fn marked(&self) -> Context {
        Context {
            mark: PROBE_MARK | self.path.0,
            ..Context::PLAIN
        }
    }

    fn leaves(&self, fixture: &mut Fixture) {
        let outcome = fixture.run(Hook::Steer, &self.probe().build(), self.marked());
        assert_eq!(outcome.expect("the run succeeds").verdict, REDIRECT);
    }

    /// What the target says to the probe, with these flags.
    fn answer(&self, flags: u8) -> Frame {
        let answer = Frame::tcp(self.target, self.uplink, flags, &OPTIONS);
        answer.numbers(THEIRS, NEXT_NUMBER).to_mac(LOOPBACK_MAC)
    }

    /// What is sent back to a SYN-ACK.
    fn reset(&self) -> Vec<u8> {
        let mut reset = Frame::tcp(self.uplink, self.target, RST, &OPTIONS)
            .numbers(NEXT_NUMBER, 0)
            .build();
        reset[..12].copy_from_slice(&[SOURCE_MAC, LOOPBACK_MAC].concat());
        reset
    }

    fn answered(&self, fixture: &Fixture) -> u64 {
        fixture.dataplane.tables().proof(self.path).probes_answered
    }

    /// What answers no probe of ours, with these flags.
    fn wrong(&self, flags: u8) -> [(&'static str, Frame); 6] {
        let Self { target, uplink, .. } = *self;
        let beside = ip(if target.is_ipv4() { "192.0.2.3" } else { "2001:db8:a::3" });
        let frame = |from, to, number| {
            Frame::tcp(from, to, flags, &OPTIONS)
                .numbers(THEIRS, number)
                .to_mac(LOOPBACK_MAC)
        };
        let at = |socket: SocketAddr, port| SocketAddr::new(socket.ip(), port);
        let elsewhere = |port| SocketAddr::new(beside, port);
        [
            ("another number", frame(target, uplink, NEXT_NUMBER + 1)),
            ("the SYN's own number", frame(target, uplink, INITIAL)),
            ("from another port", frame(at(target, 444), uplink, NEXT_NUMBER)),
            ("to another port", frame(target, at(uplink, PORTS + 1), NEXT_NUMBER)),
            ("from somebody else", frame(elsewhere(443), uplink, NEXT_NUMBER)),
            ("to another address", frame(target, elsewhere(PORTS), NEXT_NUMBER)),
        ]
    }
}

#[test]
fn a_tcp_probe_leaves_by_its_path_stamped_without_its_number() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        let (outcome, reasons) = fixture.reasons_of(Hook::Steer, Place::Anchor, &scene.probe().build(), scene.marked());
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (REDIRECT, [Reason::Probe].as_slice())
        );
        let expected = Frame::tcp(scene.uplink, scene.target, SYN, &OPTIONS).numbers(INITIAL, 0);
        assert_eq!(outcome.packet, expected.build());
        assert_eq!(outcome.mark, 0);
        let proof = fixture.dataplane.tables().proof(scene.path);
        assert_eq!((proof.probes_sent, proof.unanswered, proof.probes_answered), (1, 1, 0));
    }
}

#[test]
fn tcp_that_is_no_probe_passes_the_anchor_untouched() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        let with = |source, flags| Frame::tcp(source, scene.target, flags, &OPTIONS).numbers(INITIAL, SEQUENCE.into());
        let too_long = scene.probe().numbers(INITIAL, 0x1_0000);
        for (name, frame, context) in [
            ("no mark", scene.probe(), Context::PLAIN),
            ("not canonical", with(scene.uplink, SYN), scene.marked()),
            ("a SYN-ACK", with(scene.anchor, SYN_ACK), scene.marked()),
            ("an ACK", with(scene.anchor, ACK), scene.marked()),
            ("an acknowledgement number", too_long, scene.marked()),
        ] {
            let frame = frame.build();
            let (outcome, reasons) = fixture.reasons_of(Hook::Steer, Place::Anchor, &frame, context);
            assert_eq!(
                (outcome.verdict, reasons.as_slice()),
                (NEXT, [Reason::NotUdp].as_slice()),
                "{name}"
            );
            assert_eq!(outcome.packet, frame, "{name}");
        }
        assert_eq!(fixture.dataplane.tables().proof(scene.path).probes_sent, 0);
    }
}

#[test]
fn a_refusal_proves_a_path_once_and_nothing_else_does() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        scene.leaves(&mut fixture);
        for (name, frame) in [SYN_ACK, RST_ACK].into_iter().flat_map(|flags| scene.wrong(flags)) {
            RESTORE.check(&mut fixture, [(name, frame, Reason::NotUdp, None)]);
        }
        let flags = [("an ACK", ACK), ("a SYN", SYN), ("a RST", RST)];
        RESTORE.check(
            &mut fixture,
            flags.map(|(name, flags)| (name, scene.answer(flags), Reason::NotUdp, None)),
        );
        assert_eq!(scene.answered(&fixture), 0);
        let refusal = scene.answer(RST_ACK);
        let (outcome, reasons) = fixture.reasons_of(RESTORE.hook, RESTORE.place, &refusal.build(), RESTORE.context);
        assert_eq!(
            (outcome.verdict, reasons.as_slice()),
            (DROP, [Reason::Proof].as_slice())
        );
        RESTORE.check(&mut fixture, [("again", refusal, Reason::Unauthentic, None)]);
        assert_eq!(scene.answered(&fixture), 1);
        assert_eq!(fixture.dataplane.tables().proof(scene.path).unanswered, 0);
    }
}

#[test]
fn a_syn_ack_proves_a_path_once_and_goes_back_as_a_rst_each_time() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        scene.leaves(&mut fixture);
        for reason in [Reason::ProofReset, Reason::Reset] {
            let frame = scene.answer(SYN_ACK).build();
            let (outcome, reasons) = fixture.reasons_of(RESTORE.hook, RESTORE.place, &frame, RESTORE.context);
            assert_eq!((outcome.verdict, reasons.as_slice()), (REDIRECT, [reason].as_slice()));
            assert_eq!(outcome.packet, scene.reset());
            assert_eq!(scene.answered(&fixture), 1);
        }
        RESTORE.check_complete(&mut fixture, "a complete checksum", &scene.answer(SYN_ACK));
    }
}

#[test]
fn an_answer_over_another_uplink_than_the_probes_proves_nothing() {
    let Some(mut fixture) = Fixture::new() else { return };
    let [scene, _] = scenes();
    scene.leaves(&mut fixture);
    let over_b = config(0, 1);
    fixture
        .dataplane
        .publish(&over_b)
        .expect("the configuration is published");
    let to_b = SocketAddr::new(ip("203.0.113.2"), PORTS);
    for (flags, reason) in [(RST_ACK, Reason::Unauthentic), (SYN_ACK, Reason::Reset)] {
        let frame = Frame::tcp(scene.target, to_b, flags, &OPTIONS).numbers(THEIRS, NEXT_NUMBER);
        let frame = frame.to_mac(LOOPBACK_MAC).build();
        let (_, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(B), &frame, Context::ON_LOOPBACK);
        assert_eq!(reasons, [reason]);
    }
    assert_eq!(scene.answered(&fixture), 0);
}

/// The first answer may have been lost, and this be another.
#[test]
fn an_answer_that_comes_too_late_proves_nothing() {
    let Some(mut fixture) = Fixture::new() else { return };
    let [scene, _] = scenes();
    scene.leaves(&mut fixture);
    observe_for(Duration::from_nanos(TOO_LATE_NS)).expect("nobody interrupts");
    for (flags, reason) in [(RST_ACK, Reason::Unauthentic), (SYN_ACK, Reason::Reset)] {
        let frame = scene.answer(flags).build();
        let (_, reasons) = fixture.reasons_of(RESTORE.hook, RESTORE.place, &frame, RESTORE.context);
        assert_eq!(reasons, [reason]);
    }
    assert_eq!(scene.answered(&fixture), 0);
}

#[test]
fn guard_passes_all_tcp_uncounted() {
    let Some(mut fixture) = Fixture::new() else { return };
    for scene in scenes() {
        scene.leaves(&mut fixture);
        for guard in Guard::ALL {
            for flags in [SYN, SYN_ACK, RST_ACK, ACK] {
                let frame = scene.answer(flags).build();
                let (outcome, reasons) = fixture.reasons_of_guard(guard, &frame);
                assert_eq!(
                    (outcome.verdict, outcome.packet, reasons),
                    (XDP_PASS, frame, Vec::new())
                );
            }
        }
        assert_eq!(scene.answered(&fixture), 0);
    }
}
