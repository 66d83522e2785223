//! In-band probes: what leaves, what is answered to the byte and what is refused, by `guard` as by `restore`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wgxdp::dataplane::{Guard, Hook};
use wgxdp_common::abi::PROBE_MARK;
use wgxdp_common::count::{Place, Reason, Verdict};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::keyring::Heard;
use wgxdp_common::stamp::in_band::{Arrival, Author, InBand, KeyId, LEN, Report};
use wgxdp_common::stamp::{ErrorEstimate, Timestamp, tlv};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::frame::{Frame, SOURCE_MAC};
use wgxdp_tests::progrun::Context;

use crate::fixture::*;

/// A peer, its endpoint, the anchor's address and uplink A's, with the tunnel's port; and where the UDP payload is.
pub(crate) const ENDS: [(PeerId, &str, &str, &str, usize); 2] = [
    (V4_PEER, HUB, "192.0.0.8", "192.0.2.2:51820", 42),
    (V6_PEER, HUB_V6, ANCHOR_V6, "[2001:db8:a::2]:51820", 62),
];
/// What the far end calls the path.
pub(crate) const FAR_PATH: PathId = PathId(13);

/// Who sees what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Guard,
    Restore,
}

impl By {
    pub(crate) const ALL: [Self; 2] = [Self::Guard, Self::Restore];

    /// What it did to a frame that arrived on uplink A: the verdict as a word, the frame afterwards, and what it counted.
    pub(crate) fn run(self, fixture: &mut Fixture, frame: &[u8]) -> (Option<Verdict>, Vec<u8>, Vec<Reason>) {
        let (outcome, reasons) = match self {
            Self::Guard => fixture.reasons_of_guard(Guard::Native, frame),
            Self::Restore => fixture.reasons_of(Hook::Restore, Place::Uplink(A), frame, Context::ON_LOOPBACK),
        };
        let verdict = match (self, outcome.verdict) {
            (Self::Guard, XDP_TX) | (Self::Restore, REDIRECT) => Some(Verdict::Answer),
            (Self::Guard, XDP_DROP) | (Self::Restore, DROP) => Some(Verdict::Drop),
            _ => None,
        };
        (verdict, outcome.packet, reasons)
    }

    /// It ends the frame for this reason, untouched.
    pub(crate) fn refuses(self, fixture: &mut Fixture, frame: &Frame, reason: Reason, name: &str) {
        let frame = frame.build();
        assert_eq!(
            self.run(fixture, &frame),
            (Some(Verdict::Drop), frame.clone(), vec![reason]),
            "{self:?}: {name}"
        );
    }
}

/// With `guard` allowed to send back.
pub(crate) fn fixture() -> Option<Fixture> {
    let mut fixture = Fixture::new()?;
    let mut config = config(1, 1);
    config.uplinks[0].sends_back = 1;
    fixture
        .dataplane
        .publish(&config)
        .expect("the configuration is published");
    Some(fixture)
}

/// A far end that says nothing but who it is.
pub(crate) fn author(peer: PeerId) -> Author {
    Author {
        key_id: key_name(peer).far,
        active: false,
        report: None,
        error: ErrorEstimate::UNKNOWN,
    }
}

/// The far end's request at this moment of its clock, sealed.
pub(crate) fn request(peer: PeerId, timestamp: u64, author: Author) -> InBand {
    InBand::request(7, Timestamp(timestamp), FAR_PATH, author).sealed(keys(peer).theirs)
}

pub(crate) fn bytes(probe: &InBand) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    probe.write(&mut bytes).expect("it fits");
    bytes
}

/// It arrives on uplink A.
pub(crate) fn arriving(source: &str, destination: &str, payload: &[u8]) -> Frame {
    Frame::udp(socket(source), socket(destination), payload).to_mac(LOOPBACK_MAC)
}

/// The prober's probe over a path, as `steer` lets it leave.
fn leaves(fixture: &mut Fixture, path: PathId, sequence: u32, anchor: &str, endpoint: &str) -> (InBand, Vec<u8>) {
    let blank = Author {
        key_id: KeyId::default(),
        ..author(V4_PEER)
    };
    let payload = bytes(&InBand::request(sequence, Timestamp::default(), path, blank));
    let source = std::net::SocketAddr::new(ip(anchor), IDENT);
    let context = Context {
        mark: PROBE_MARK | path.0,
        ..Context::default()
    };
    let frame = Frame::udp(source, socket(endpoint), &payload).build();
    let (outcome, reasons) = fixture.reasons_of(Hook::Steer, Place::Anchor, &frame, context);
    assert_eq!(
        (outcome.verdict, reasons, outcome.mark),
        (REDIRECT, vec![Reason::Probe], 0),
        "{path:?}"
    );
    let probe = InBand::parse(&outcome.packet[outcome.packet.len() - LEN..]).expect("a probe left");
    (probe, outcome.packet)
}

/// Its moment is between then and now.
fn is_recent(timestamp: Timestamp, since: SystemTime) -> bool {
    let ntp = |at: SystemTime| Timestamp::ntp(at.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64);
    // The programs' offset was taken when they were loaded; meanwhile the clock may have been slewed a little.
    let slack = Duration::from_millis(100);
    (ntp(since - slack).0..=ntp(SystemTime::now() + slack).0).contains(&timestamp.0)
}

#[test]
fn what_leaves_is_the_tunnels_own_five_tuple_with_time_name_report_and_tag() {
    let Some(mut fixture) = fixture() else { return };
    for (peer, endpoint, anchor, local, _) in ENDS {
        let since = SystemTime::now();
        let path = PathId::new(peer, 0);
        let (probe, frame) = leaves(&mut fixture, path, 0x8000_0005, anchor, endpoint);
        assert!(is_recent(probe.timestamp(), since), "{:x?}", probe.timestamp());
        let own = Author {
            key_id: keys(peer).own,
            ..author(peer)
        };
        let expected = InBand::request(5, probe.timestamp(), path, own).sealed(keys(peer).ours);
        assert_eq!(probe, expected);
        assert_eq!(
            frame,
            Frame::udp(socket(local), socket(endpoint), &bytes(&expected)).build()
        );
        let proof = fixture.dataplane.tables().proof(path);
        assert_eq!((proof.probes_sent, proof.unanswered), (1, 1));
    }
}

#[test]
fn without_its_mark_its_keys_or_the_probers_port_nothing_leaves_as_a_probe() {
    let Some(mut fixture) = fixture() else { return };
    let payload = bytes(&request(V4_PEER, 1, author(V4_PEER)));
    let with = |port: u16, mark: u32| {
        let source = std::net::SocketAddr::new(ip(ANCHOR_V4), port);
        (Frame::udp(source, socket(HUB), &payload).build(), mark)
    };
    let mark = |peer| PROBE_MARK | PathId::new(peer, 0).0;
    let rows = [
        ("no mark", with(IDENT, 0), Reason::OtherPort, NEXT),
        ("another port", with(IDENT + 1, mark(V4_PEER)), Reason::OtherPort, NEXT),
        ("no keys", with(IDENT, mark(TO_V4_PEER)), Reason::ProbeNoKeys, DROP),
        (
            "no such path",
            with(IDENT, PROBE_MARK | 0xff_ffff),
            Reason::ProbeNoUplink,
            DROP,
        ),
    ];
    for (name, (frame, mark), reason, verdict) in rows {
        let context = Context {
            mark,
            ..Context::default()
        };
        let (outcome, reasons) = fixture.reasons_of(Hook::Steer, Place::Anchor, &frame, context);
        assert_eq!((outcome.verdict, reasons), (verdict, vec![reason]), "{name}");
        assert_eq!(outcome.packet, frame, "{name}");
    }
}

/// The peer's request is answered; returns the answer.
fn answered(fixture: &mut Fixture, by: By, frame: &Frame) -> InBand {
    let (verdict, answered, reasons) = by.run(fixture, &frame.build());
    assert_eq!(
        (verdict, reasons),
        (Some(Verdict::Answer), vec![Reason::Answered]),
        "{by:?}"
    );
    let payload = if answered[12] == 0x08 { ENDS[0].4 } else { ENDS[1].4 };
    InBand::parse(&answered[payload..]).expect("an in-band packet")
}

#[test]
fn an_authentic_request_is_answered_at_equal_size_with_every_byte_in_its_place() {
    let Some(mut fixture) = fixture() else { return };
    for (round, by) in (1..).zip(By::ALL) {
        for (peer, endpoint, _, local, payload) in ENDS {
            let since = SystemTime::now();
            let asked = request(peer, round << 32, author(peer));
            let frame = arriving(endpoint, local, &bytes(&asked))
                .class_and_hops(0x28, 57)
                .build();
            let (verdict, sent, reasons) = by.run(&mut fixture, &frame);
            assert_eq!(
                (verdict, reasons),
                (Some(Verdict::Answer), vec![Reason::Answered]),
                "{by:?}"
            );

            let answer = InBand::parse(&sent[payload..]).expect("an in-band packet");
            assert!(is_recent(answer.timestamp(), since) && is_recent(answer.received(), since));
            // The first round is what the second one's report is about, whoever heard it.
            let heard = answer.report().map(|report| report.sequence);
            assert_eq!(heard, (round == 2).then_some(0x8000_0007));
            let arrival = Arrival {
                at: answer.received(),
                ttl: 57,
            };
            let own = Author {
                key_id: keys(peer).own,
                report: answer.report(),
                ..author(peer)
            };
            let expected = asked.answer(arrival, answer.timestamp(), own).sealed(keys(peer).ours);
            assert_eq!(answer, expected);
            let back = Frame::udp(socket(local), socket(endpoint), &bytes(&expected)).to_mac(SOURCE_MAC);
            let mut back = back.class_and_hops(0x28, 57).build();
            back[6..12].copy_from_slice(&LOOPBACK_MAC);
            assert_eq!(sent, back, "{by:?} from {endpoint}");
        }
    }
}

#[test]
fn a_padded_request_is_answered_at_its_size_and_guard_leaves_it_to_restore() {
    let Some(mut fixture) = fixture() else { return };
    for (peer, endpoint, _, local, at) in ENDS {
        let mut payload = [0; 1200];
        request(peer, 1, author(peer)).write(&mut payload).expect("it fits");
        let frame = arriving(endpoint, local, &payload).build();
        let (verdict, sent, reasons) = By::Guard.run(&mut fixture, &frame);
        assert_eq!((verdict, sent, reasons), (None, frame.clone(), vec![]));
        let (verdict, sent, reasons) = By::Restore.run(&mut fixture, &frame);
        assert_eq!((verdict, reasons), (Some(Verdict::Answer), vec![Reason::Answered]));
        let mut expected = payload;
        expected[..LEN].copy_from_slice(&sent[at..at + LEN]);
        let mut back = Frame::udp(socket(local), socket(endpoint), &expected)
            .to_mac(SOURCE_MAC)
            .build();
        back[6..12].copy_from_slice(&LOOPBACK_MAC);
        assert_eq!(sent, back, "from {endpoint}");
    }
}

#[test]
fn guard_leaves_requests_to_restore_where_what_it_sends_back_may_be_lost() {
    let Some(mut fixture) = Fixture::new() else { return };
    let frame = arriving(HUB, ENDS[0].3, &bytes(&request(V4_PEER, 1, author(V4_PEER)))).build();
    for guard in Guard::ALL {
        let (outcome, reasons) = fixture.reasons_of_guard(guard, &frame);
        assert_eq!(
            (outcome.verdict, outcome.packet, reasons),
            (XDP_PASS, frame.clone(), vec![])
        );
    }
    answered(
        &mut fixture,
        By::Restore,
        &arriving(HUB, ENDS[0].3, &bytes(&request(V4_PEER, 1, author(V4_PEER)))),
    );
}

#[test]
fn what_is_forged_truncated_oversized_reflected_or_another_peers_is_refused_and_changes_nothing() {
    let Some(mut fixture) = fixture() else { return };
    for (by, (peer, endpoint, anchor, local, _)) in By::ALL.into_iter().flat_map(|by| ENDS.map(|ends| (by, ends))) {
        let other = if peer == V4_PEER { V6_PEER } else { V4_PEER };
        let good = request(peer, 50 << 32, author(peer));
        let from_far = |payload: &[u8]| arriving(endpoint, local, payload);
        // Whatever the tag covers, from the first byte to the tag itself; but for those by which it is no probe, or another's.
        for byte in (1..LEN).filter(|byte| !(45..=52).contains(byte) && !(56..64).contains(byte)) {
            let mut forged = bytes(&good);
            forged[byte] ^= 0x10;
            by.refuses(
                &mut fixture,
                &from_far(&forged),
                Reason::ProbeForged,
                &format!("byte {byte} changed"),
            );
        }
        for byte in 45..=52 {
            let mut malformed = bytes(&good);
            malformed[byte] ^= 0x10;
            by.refuses(
                &mut fixture,
                &from_far(&malformed),
                Reason::ProbeMalformed,
                &format!("byte {byte} changed"),
            );
        }
        for len in [4, 44, LEN - 1] {
            by.refuses(
                &mut fixture,
                &from_far(&bytes(&good)[..len]),
                Reason::ProbeMalformed,
                "truncated",
            );
        }
        let reflected = leaves(&mut fixture, PathId::new(peer, 0), 9, anchor, endpoint).0;
        by.refuses(
            &mut fixture,
            &from_far(&bytes(&reflected)),
            Reason::ProbeStranger,
            "our own, reflected",
        );
        let stranger = Author {
            key_id: KeyId(1),
            ..author(peer)
        };
        by.refuses(
            &mut fixture,
            &from_far(&bytes(&request(peer, 51 << 32, stranger))),
            Reason::ProbeStranger,
            "a stranger's",
        );
        let posing = request(other, 51 << 32, author(peer));
        by.refuses(
            &mut fixture,
            &from_far(&bytes(&posing)),
            Reason::ProbeForged,
            "another peer's, in this one's name",
        );
        let renamed = InBand::request(9, reflected.timestamp(), reflected.path(), author(peer)).sealed(keys(peer).ours);
        by.refuses(
            &mut fixture,
            &from_far(&bytes(&renamed)),
            Reason::ProbeForged,
            "with our own key",
        );
        for padding in [1, tlv::HEADER_LEN, 8] {
            let mut oversized = bytes(&good).to_vec();
            oversized.resize(LEN + padding, 0);
            let frame = from_far(&oversized);
            match by {
                By::Restore => by.refuses(&mut fixture, &frame, Reason::ProbeMalformed, "oversized"),
                By::Guard => assert_eq!(by.run(&mut fixture, &frame.build()), (None, frame.build(), vec![])),
            }
        }
        let proof = fixture.dataplane.tables().proof(PathId::new(peer, 0));
        assert_eq!((proof.probes_answered, proof.heard), (0, Heard::default()), "{by:?}");
    }
    // Nothing of all that was heard.
    for (peer, endpoint, _, local, _) in ENDS {
        let answer = answered(
            &mut fixture,
            By::Guard,
            &arriving(endpoint, local, &bytes(&request(peer, 1, author(peer)))),
        );
        assert_eq!(answer.report(), None);
    }
}

#[test]
fn a_request_is_answered_once_and_none_after_a_later_one_of_the_same_path_whoever_sees_it() {
    let Some(mut fixture) = fixture() else { return };
    let (peer, endpoint, _, local, _) = ENDS[0];
    let at = |timestamp: u64| arriving(endpoint, local, &bytes(&request(peer, timestamp, author(peer))));
    answered(&mut fixture, By::Guard, &at(10));
    for by in By::ALL {
        by.refuses(&mut fixture, &at(10), Reason::ProbeReplayed, "again");
        by.refuses(&mut fixture, &at(9), Reason::ProbeReplayed, "overtaken");
    }
    answered(&mut fixture, By::Restore, &at(11));
    // Another path of the same peer counts for itself.
    let elsewhere =
        InBand::request(7, Timestamp(5), PathId::new(FAR_PATH.peer(), 0), author(peer)).sealed(keys(peer).theirs);
    answered(&mut fixture, By::Guard, &arriving(endpoint, local, &bytes(&elsewhere)));
}

#[test]
fn an_authentic_answer_moves_the_proof_once_and_is_never_answered() {
    let Some(mut fixture) = fixture() else { return };
    for (by, (peer, endpoint, anchor, local, _)) in By::ALL.into_iter().flat_map(|by| ENDS.map(|ends| (by, ends))) {
        let path = PathId::new(peer, 0);
        let before = fixture.dataplane.tables().proof(path);
        let asked = leaves(&mut fixture, path, 21, anchor, endpoint).0;
        let arrival = Arrival {
            at: Timestamp(1),
            ttl: 60,
        };
        let answer = asked
            .answer(arrival, Timestamp(2), author(peer))
            .sealed(keys(peer).theirs);
        let frame = arriving(endpoint, local, &bytes(&answer));
        by.refuses(&mut fixture, &frame, Reason::Proof, "the answer is consumed");
        let proof = fixture.dataplane.tables().proof(path);
        assert_eq!(
            (proof.probes_answered, proof.unanswered),
            (before.probes_answered + 1, 0)
        );
        assert!(proof.proof_ns > before.proof_ns);
        by.refuses(&mut fixture, &frame, Reason::ProbeUnasked, "a second time");
        // Authentic, but about a path that is another peer's.
        let other = if peer == V4_PEER { V6_PEER } else { V4_PEER };
        let asked = InBand::request(22, asked.timestamp(), PathId::new(other, 0), author(peer));
        let answer = asked
            .answer(arrival, Timestamp(2), author(peer))
            .sealed(keys(peer).theirs);
        by.refuses(
            &mut fixture,
            &arriving(endpoint, local, &bytes(&answer)),
            Reason::ProbeUnasked,
            "across peers",
        );
        // What was heard is told with the next probe.
        let next = leaves(&mut fixture, path, 22, anchor, endpoint).0;
        assert_eq!(next.report().map(|report| report.sequence), Some(0x8000_0015));
    }
}

/// A request of the peer that heard us so long ago, and says whether its traffic goes this way.
fn reporting(fixture: &mut Fixture, timestamp: u64, local: &str, age_ms: u16, active: bool) {
    let report = Some(Report {
        sequence: 0x8000_0001,
        age_ms,
    });
    let author = Author {
        active,
        report,
        ..author(V4_PEER)
    };
    let frame = arriving(HUB, local, &bytes(&request(V4_PEER, timestamp, author)));
    answered(fixture, By::Guard, &frame);
}

#[test]
fn a_request_proves_our_path_for_the_moment_at_which_the_far_end_last_heard_us() {
    let Some(mut fixture) = fixture() else { return };
    let (path, local) = (PathId::new(V4_PEER, 0), ENDS[0].3);
    let since_proof_ms = |fixture: &Fixture| (now_ns() - fixture.dataplane.tables().proof(path).proof_ns) / 1_000_000;
    let unanswered = |fixture: &Fixture| fixture.dataplane.tables().proof(path).unanswered;
    fixture.silence(path, 10_000);
    reporting(&mut fixture, 1, local, 5_000, false);
    assert!(since_proof_ms(&fixture) >= 9_000, "our latest probe left after that");
    reporting(&mut fixture, 2, local, u16::MAX, false);
    assert!(since_proof_ms(&fixture) >= 9_000, "not heard for ages");
    assert_eq!(unanswered(&fixture), 3);
    reporting(&mut fixture, 3, local, 0, false);
    assert!(since_proof_ms(&fixture) < 4_000);
    assert_eq!(unanswered(&fixture), 0);
    reporting(&mut fixture, 4, local, 9_000, false);
    assert!(since_proof_ms(&fixture) < 9_000, "an older word takes nothing back");
}

#[test]
fn a_far_end_whose_traffic_goes_elsewhere_counts_as_probes_that_our_path_left_unanswered() {
    let Some(mut fixture) = fixture() else { return };
    let ours = PathId::new(V4_PEER, 0);
    let data = Frame::wireguard(socket("192.0.0.8:51820"), socket(HUB)).build();
    let (outcome, _) = fixture.reasons_of(Hook::Steer, Place::Anchor, &data, Context::default());
    assert_eq!(outcome.verdict, REDIRECT);
    let unanswered = |fixture: &Fixture| fixture.dataplane.tables().proof(ours).unanswered;
    // By way of its second endpoint it comes over another of our paths.
    let elsewhere = |fixture: &mut Fixture, timestamp, active| {
        let author = Author {
            active,
            ..author(V4_PEER)
        };
        let frame = arriving(HUB_SECOND, ENDS[0].3, &bytes(&request(V4_PEER, timestamp, author)));
        answered(fixture, By::Guard, &frame);
    };
    elsewhere(&mut fixture, 1, false);
    assert_eq!(unanswered(&fixture), 0, "its traffic does not go there");
    elsewhere(&mut fixture, 2, true);
    elsewhere(&mut fixture, 3, true);
    assert_eq!(unanswered(&fixture), 2);
    reporting(&mut fixture, 4, ENDS[0].3, 0, true);
    assert_eq!(unanswered(&fixture), 0, "our path proves itself");
}

#[test]
fn without_keys_nobody_is_answered_and_other_keys_begin_anew() {
    let Some(mut fixture) = fixture() else { return };
    let frame = || arriving(HUB, ENDS[0].3, &bytes(&request(V4_PEER, 10, author(V4_PEER))));
    answered(&mut fixture, By::Guard, &frame());
    fixture.dataplane.settle_keys(&[].into()).expect("the keys are removed");
    By::Guard.refuses(&mut fixture, &frame(), Reason::ProbeStranger, "removed");
    let others = keys(V6_PEER);
    fixture
        .dataplane
        .settle_keys(&[(key_name(V4_PEER), others)].into())
        .expect("there are keys again");
    By::Guard.refuses(&mut fixture, &frame(), Reason::ProbeForged, "by the keys before");
    let asked = InBand::request(1, Timestamp(1), FAR_PATH, author(V4_PEER)).sealed(others.theirs);
    answered(&mut fixture, By::Guard, &arriving(HUB, ENDS[0].3, &bytes(&asked)));
}
