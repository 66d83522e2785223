use std::time::Duration;

use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::PathState::{Down, Held, Up};

use super::sim::{A, B, HOLD_DOWN, INTERVAL, MS, PEER, S, START, one_peer, settings};
use crate::engine::{Action, Cause, Engine, Input, MoveReason, PathSpec, Patience, PeerSpec, Transition};

const UPLINK_A: UplinkId = UplinkId(0);
const UPLINK_B: UplinkId = UplinkId(1);
const UPLINK_C: UplinkId = UplinkId(2);
const RTT: Duration = Duration::from_millis(1);

/// An engine with a clock.
struct Bench {
    engine: Engine,
    now: u64,
}

impl Bench {
    fn new(peers: &[PeerSpec]) -> Self {
        let engine = Engine::new(settings(), peers, START, &mut Vec::new());
        let mut bench = Self { engine, now: START + 1 };
        // Every path answers once: from here on it is judged by tight thresholds.
        for path in peers.iter().flat_map(|peer| &peer.paths) {
            for _ in 0..50 {
                bench.answer(path.id);
            }
        }
        bench
    }

    fn tell(&mut self, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.engine.handle(input, self.now, &mut actions);
        actions
    }

    fn flag(&mut self, uplink: UplinkId, flags: Flags) -> Vec<Action> {
        self.now += MS;
        self.tell(Input::UplinkFlags { uplink, flags })
    }

    fn answer(&mut self, path: PathId) -> Vec<Action> {
        self.now += MS;
        self.answer_of(path, self.now)
    }

    fn answer_of(&mut self, path: PathId, at_ns: u64) -> Vec<Action> {
        self.tell(Input::Reply {
            path,
            sequence: 0,
            rtt: RTT,
            at_ns,
        })
    }

    fn latch(&mut self, path: PathId, at_ns: u64) -> Vec<Action> {
        self.tell(Input::Latched {
            path,
            silence: Duration::from_millis(61),
            at_ns,
        })
    }

    fn state(&self, path: PathId) -> wgxdp_common::table::PathState {
        self.engine.path(path).expect("a path").state
    }
}

fn report(path: PathId, from_to: [wgxdp_common::table::PathState; 2], cause: Cause, now_on: Option<PathId>) -> Action {
    let [from, to] = from_to;
    Action::Report(Transition {
        peer: path.peer(),
        path,
        from,
        to,
        cause,
        patience: Patience::default(),
        now_on,
        moved: true,
    })
}

fn reports(actions: &[Action]) -> Vec<Transition> {
    let report = |action: &Action| match action {
        Action::Report(transition) => Some(*transition),
        _ => None,
    };
    actions.iter().filter_map(report).collect()
}

#[test]
fn the_first_actions_say_all_that_the_maps_must_hold() {
    let mut actions = Vec::new();
    let engine = Engine::new(settings(), &one_peer(2), START, &mut actions);
    let of_path = |path| {
        [
            Action::SetThresholds {
                path,
                thresholds: Thresholds::new(1_025_000, 1_060_000),
            },
            Action::SetPathFlags {
                path,
                flags: Flags::NONE,
            },
            Action::SetStatus {
                path,
                state: Up,
                loss_ppm: 0,
            },
        ]
    };
    let uplinks = [UPLINK_A, UPLINK_B].map(|uplink| Action::SetUplinkFlags {
        uplink,
        flags: Flags::NONE,
    });
    assert_eq!(actions, [&of_path(A)[..], &of_path(B), &uplinks].concat());
    assert_eq!((engine.active(PEER), engine.next_wakeup()), (Some(A), Some(START)));
}

#[test]
fn the_death_of_an_uplink_is_one_write_and_it_comes_first() {
    for (flag, cause, reason) in [
        (Flags::NO_CARRIER, Cause::NoCarrier, MoveReason::NoCarrier),
        (
            Flags::ADMIN_DOWN.with(Flags::NO_CARRIER),
            Cause::AdminDown,
            MoveReason::AdminDown,
        ),
        (Flags::ABSENT.with(Flags::NO_CARRIER), Cause::Absent, MoveReason::Absent),
    ] {
        let mut bench = Bench::new(&one_peer(2));
        let expected = [
            Action::SetUplinkFlags {
                uplink: UPLINK_A,
                flags: flag,
            },
            Action::SetPathFlags {
                path: A,
                flags: Flags::HELD,
            },
            Action::SetStatus {
                path: A,
                state: Down,
                loss_ppm: 0,
            },
            report(A, [Up, Down], cause, Some(B)),
        ];
        assert_eq!(bench.flag(UPLINK_A, flag), expected);
        assert_eq!(bench.engine.failovers(PEER).expect("the peer").get(reason), 1);
        assert_eq!(bench.engine.path(A).expect("a path").cause, cause);
    }
}

#[test]
fn a_path_that_cannot_be_used_alone_takes_no_other_with_it_and_returns_like_any() {
    let mut bench = Bench::new(&one_peer(2));
    let flagged = |flags| Input::PathFlags { path: A, flags };
    let held = |flags| Action::SetPathFlags { path: A, flags };
    let down = Action::SetStatus {
        path: A,
        state: Down,
        loss_ppm: 0,
    };
    let expected = [
        held(Flags::ABSENT),
        held(Flags::ABSENT.with(Flags::HELD)),
        down,
        report(A, [Up, Down], Cause::Absent, Some(B)),
    ];
    assert_eq!(bench.tell(flagged(Flags::ABSENT)), expected);
    assert_eq!(bench.tell(flagged(Flags::ABSENT)), [], "the same again");
    // Its uplink's coming and going does not bring it back.
    bench.flag(UPLINK_A, Flags::NO_CARRIER);
    let actions = bench.flag(UPLINK_A, Flags::NONE);
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::SendProbe { path: A, .. })),
        "{actions:?}"
    );
    bench.now += MS;
    let actions = bench.tell(flagged(Flags::NONE));
    assert_eq!(actions[0], held(Flags::HELD));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::SendProbe { path: A, .. })),
        "{actions:?}"
    );
}

#[test]
fn an_uplink_that_two_peers_share_is_flagged_once() {
    let mut peers = one_peer(2);
    let mut other = peers[0].clone();
    other.id = PeerId(1);
    other
        .paths
        .iter_mut()
        .for_each(|path| path.id = PathId::new(other.id, path.id.slot()));
    peers.push(other);
    let actions = Bench::new(&peers).flag(UPLINK_A, Flags::NO_CARRIER);
    let writes = actions
        .iter()
        .filter(|action| matches!(action, Action::SetUplinkFlags { .. }))
        .count();
    assert_eq!((writes, reports(&actions).len()), (1, 2));
}

#[test]
fn the_same_flags_again_and_flags_that_are_no_link_event_change_nothing() {
    let mut bench = Bench::new(&one_peer(2));
    assert_eq!(bench.flag(UPLINK_A, Flags::NONE), []);
    assert_eq!(bench.flag(UPLINK_A, Flags::DRAINED), []);
    bench.flag(UPLINK_A, Flags::NO_CARRIER);
    assert_eq!(bench.flag(UPLINK_A, Flags::NO_CARRIER.with(Flags::HELD)), []);
}

#[test]
fn one_reason_for_another_is_still_down_and_not_probed() {
    let mut bench = Bench::new(&one_peer(2));
    bench.flag(UPLINK_A, Flags::NO_CARRIER);
    let flags = Flags::ADMIN_DOWN;
    assert_eq!(
        bench.flag(UPLINK_A, flags),
        [Action::SetUplinkFlags {
            uplink: UPLINK_A,
            flags
        }]
    );
}

#[test]
fn a_flag_lifted_is_a_probe_at_once_and_the_first_answer_after_it_counts() {
    let mut bench = Bench::new(&one_peer(2));
    bench.flag(UPLINK_A, Flags::NO_CARRIER);
    bench.answer(A);
    assert_eq!(bench.state(A), Down, "an answer that came over a dead uplink");
    let actions = bench.flag(UPLINK_A, Flags::NONE);
    assert_eq!(
        actions[0],
        Action::SetUplinkFlags {
            uplink: UPLINK_A,
            flags: Flags::NONE
        }
    );
    assert!(
        matches!(
            actions[..],
            [
                ..,
                Action::SendProbe { path: A, .. },
                Action::SendFullSize { path: A, .. }
            ]
        ),
        "{actions:?}"
    );
    assert_eq!(bench.state(A), Down, "nothing is proven yet");
    bench.answer_of(A, bench.now);
    assert_eq!(bench.state(A), Down, "arrived before the flag was lifted, or with it");
    bench.answer(A);
    assert_eq!(bench.state(A), Held);
}

#[test]
fn traffic_returns_with_the_last_write_after_the_latch_is_lifted() {
    let mut bench = Bench::new(&one_peer(1));
    bench.latch(A, bench.now);
    assert_eq!((bench.state(A), bench.engine.active(PEER)), (Down, None));
    let expected = [
        Action::LiftLatch { path: A },
        Action::SetPathFlags {
            path: A,
            flags: Flags::NONE,
        },
        Action::SetStatus {
            path: A,
            state: Up,
            loss_ppm: 0,
        },
        report(A, [Down, Up], Cause::Answered, Some(A)),
    ];
    assert_eq!(bench.answer(A), expected);
    assert_eq!(
        bench
            .engine
            .failovers(PEER)
            .expect("the peer")
            .iter()
            .map(|(_, n)| n)
            .sum::<u64>(),
        0,
        "it came home"
    );
}

#[test]
fn what_the_kernel_latched_is_down_with_the_silence_that_it_saw() {
    let mut bench = Bench::new(&one_peer(2));
    let cause = Cause::Silence(Duration::from_millis(61));
    let expected = [
        Action::SetPathFlags {
            path: A,
            flags: Flags::HELD,
        },
        Action::SetStatus {
            path: A,
            state: Down,
            loss_ppm: 0,
        },
        report(A, [Up, Down], cause, Some(B)),
    ];
    assert_eq!(bench.latch(A, bench.now), expected);
    assert_eq!(bench.latch(A, bench.now), [], "said once");
}

#[test]
fn a_record_of_a_latch_that_was_lifted_since_is_history() {
    let mut bench = Bench::new(&one_peer(1));
    let before = bench.now;
    bench.latch(A, before);
    bench.answer(A);
    assert_eq!(bench.latch(A, before), []);
    assert_eq!(bench.state(A), Up);
    bench.now += MS;
    bench.latch(A, bench.now);
    assert_eq!(bench.state(A), Down, "but a new one is not");
}

#[test]
fn a_latch_that_outlived_its_lifting_is_lifted_again() {
    let mut bench = Bench::new(&one_peer(2));
    let proof = |bench: &Bench, latched_ns| Input::Proof {
        path: A,
        proof_ns: bench.now,
        unanswered: 0,
        latched_ns,
    };
    let stale = proof(&bench, Some(START - S));
    assert_eq!(bench.tell(stale), [Action::LiftLatch { path: A }]);
    let clean = proof(&bench, None);
    assert_eq!(bench.tell(clean), []);
}

#[test]
fn an_answer_from_before_the_death_or_grown_old_since_raises_nobody() {
    let mut bench = Bench::new(&one_peer(2));
    let before = bench.now;
    bench.now += 70 * MS;
    let at = bench.now;
    bench.latch(A, at);
    bench.answer_of(A, before + MS);
    assert_eq!(bench.state(A), Down, "older than the latch");
    bench.now += S;
    bench.answer_of(A, at + MS);
    assert_eq!(bench.state(A), Down, "a second old by now");
    bench.answer(A);
    assert_eq!(bench.state(A), Held);
}

#[test]
fn hold_down_counts_from_the_first_answer() {
    let mut bench = Bench::new(&one_peer(2));
    bench.latch(A, bench.now);
    bench.answer(A);
    let since = bench.now;
    for _ in 0..HOLD_DOWN / INTERVAL - 1 {
        bench.now += INTERVAL - MS;
        bench.answer(A);
        assert_eq!(reports(&bench.tell(Input::Tick)), []);
    }
    bench.now = since + HOLD_DOWN;
    bench.answer_of(A, bench.now);
    let cause = Cause::HoldDownOver(Duration::from_nanos(HOLD_DOWN));
    assert_eq!(
        bench.tell(Input::Tick).iter().find(|a| matches!(a, Action::Report(_))),
        Some(&report(A, [Held, Up], cause, Some(A)))
    );
}

#[test]
fn no_report_names_a_path_that_falls_in_the_same_breath() {
    let mut peers = one_peer(2);
    // The second endpoint behind the first uplink comes before the second uplink.
    let second = PathSpec {
        id: PathId(2),
        ..peers[0].paths[0]
    };
    peers[0].paths.insert(1, second);
    let actions = Bench::new(&peers).flag(UPLINK_A, Flags::NO_CARRIER);
    let told: Vec<_> = reports(&actions).iter().map(|t| (t.path, t.now_on, t.moved)).collect();
    assert_eq!(told, [(A, Some(B), true), (PathId(2), Some(B), false)]);
}

#[test]
fn a_switch_that_contradicts_the_engine_wakes_it_and_one_that_agrees_does_not() {
    let mut bench = Bench::new(&one_peer(2));
    bench.tell(Input::Tick);
    let planned = bench.engine.next_wakeup();
    let switched = |path, from, at_ns| Input::Switched {
        path,
        from: Some(from),
        silence: Duration::ZERO,
        at_ns,
    };
    bench.tell(switched(A, B, bench.now));
    assert_eq!(bench.engine.next_wakeup(), planned);
    assert_eq!(bench.tell(switched(B, A, bench.now)), [], "a hint is no verdict");
    assert_eq!(bench.engine.next_wakeup(), Some(bench.now));
    bench.now += 1;
    bench.tell(Input::Tick);
    assert_eq!(bench.engine.next_wakeup(), planned, "once");
}

#[test]
fn a_probe_that_the_socket_refused_is_neither_sent_nor_lost() {
    let mut bench = Bench::new(&one_peer(2));
    for sequence in 0..10 {
        bench.now += INTERVAL;
        bench.tell(Input::ProbeFailed { path: A, sequence });
    }
    bench.now += 10 * S;
    bench.tell(Input::Tick);
    let view = bench.engine.path(A).expect("a path");
    assert_eq!((view.state, view.loss_ppm, view.refused), (Up, 0, 10));
}

#[test]
fn what_is_said_of_a_path_that_does_not_exist_is_ignored() {
    let mut bench = Bench::new(&one_peer(2));
    let at_ns = bench.now;
    for path in [PathId(5), PathId(80), PathId::NONE] {
        for input in [
            Input::Reply {
                path,
                sequence: 1,
                rtt: RTT,
                at_ns,
            },
            Input::Latched {
                path,
                silence: RTT,
                at_ns,
            },
            Input::Proof {
                path,
                proof_ns: at_ns,
                unanswered: 9,
                latched_ns: Some(at_ns),
            },
            Input::ProbeSent {
                path,
                sequence: 1,
                at_ns,
            },
            Input::ProbeFailed { path, sequence: 1 },
        ] {
            assert_eq!(bench.tell(input), [], "{input:?}");
        }
        assert_eq!(bench.engine.path(path), None);
    }
    assert_eq!(
        bench.flag(UPLINK_C, Flags::ABSENT),
        [Action::SetUplinkFlags {
            uplink: UPLINK_C,
            flags: Flags::ABSENT
        }]
    );
}

#[test]
fn sequence_numbers_grow_by_one_and_wrap() {
    let mut bench = Bench::new(&one_peer(1));
    let mut sequences = Vec::new();
    for _ in 0..10 {
        bench.now += INTERVAL;
        let actions = bench.tell(Input::Tick);
        sequences.extend(actions.into_iter().filter_map(|action| match action {
            Action::SendProbe { sequence, .. } | Action::SendFullSize { sequence, .. } => Some(sequence),
            _ => None,
        }));
    }
    let first = settings().first_sequence;
    // A full-size one left with the first.
    assert_eq!(sequences, (0..11).map(|n| first.wrapping_add(n)).collect::<Vec<_>>());
}

#[test]
fn a_path_is_due_with_its_own_slot_and_all_of_its_peer_are_after_a_hint() {
    let mut bench = Bench::new(&one_peer(2));
    bench.tell(Input::Tick);
    let slot = bench.engine.next_wakeup().expect("a slot");
    assert_eq!(bench.engine.due(slot - 1).count(), 0);
    assert_eq!(bench.engine.due(slot).count(), 1);
    bench.tell(Input::Switched {
        path: B,
        from: Some(A),
        silence: Duration::ZERO,
        at_ns: bench.now,
    });
    assert_eq!(bench.engine.due(bench.now).collect::<Vec<_>>(), [A, B]);
}
