//! Laws of thousands of peers: work is proportional to what happens.

use std::time::Duration;

use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::Flags;
use wgxdp_common::table::PathState;

use super::sim::{MS, S, START, settings};
use crate::engine::{Action, Engine, Input, Objectives, PathSpec, PeerSpec};

const UPLINK_A: UplinkId = UplinkId(0);
const UPLINK_B: UplinkId = UplinkId(1);
const PEERS: u32 = 1_000;

/// So many peers, each with a path over each of these uplinks that is probed once a minute.
fn crowd(peers: u32, uplinks: &[UplinkId]) -> Engine {
    let path = |id, (slot, uplink): (u32, &UplinkId)| PathSpec {
        id: PathId::new(id, slot),
        uplink: *uplink,
        interval: Duration::from_secs(60),
        metered: false,
        padded: true,
        responder: 0,
    };
    let peer = |id| PeerSpec {
        id,
        objectives: Objectives::default(),
        paths: (0..).zip(uplinks).map(|of_uplink| path(id, of_uplink)).collect(),
    };
    let peers: Vec<_> = (0..peers).map(PeerId).map(peer).collect();
    Engine::new(settings(), &peers, START, &mut Vec::new())
}

/// What speaks against uplink A from now on.
fn flags(flags: Flags) -> Input {
    Input::UplinkFlags {
        uplink: UPLINK_A,
        flags,
    }
}

/// How many reports say that a path went down.
fn downs(actions: &[Action]) -> usize {
    let down = |action: &&Action| matches!(action, Action::Report(told) if told.to == PathState::Down);
    actions.iter().filter(down).count()
}

#[test]
fn an_uplinks_death_is_one_write_and_its_peers_follow_a_few_at_a_time() {
    let mut engine = crowd(PEERS, &[UPLINK_A, UPLINK_B]);
    let mut actions = Vec::new();
    engine.handle(flags(Flags::NO_CARRIER), START, &mut actions);
    let died = Action::SetUplinkFlags {
        uplink: UPLINK_A,
        flags: Flags::NO_CARRIER,
    };
    assert_eq!(actions[0], died);
    assert!((1..=16).contains(&downs(&actions)), "{}", downs(&actions));
    let (mut now, mut all) = (START, downs(&actions));
    while engine.is_behind() {
        (now, actions) = wake(&mut engine);
        // Besides, somebody's turn to be probed may have come.
        assert!(downs(&actions) <= 18, "{}", downs(&actions));
        all += downs(&actions);
    }
    assert_eq!(all, PEERS as usize);
    assert!(now - START < 300 * MS, "{} ms", (now - START) / MS);
}

#[test]
fn who_is_looked_at_knows_what_became_of_its_uplinks() {
    let mut engine = crowd(PEERS, &[UPLINK_A, UPLINK_B]);
    engine.handle(flags(Flags::NO_CARRIER), START, &mut Vec::new());
    let last = PeerId(PEERS - 1);
    let [a, b] = [0, 1].map(|slot| PathId::new(last, slot));
    assert_eq!(engine.active(last), Some(a), "it has not been told yet");
    // The kernel knew at once.
    let switched = Input::Switched {
        path: b,
        from: Some(a),
        silence: Duration::ZERO,
        at_ns: START,
    };
    engine.handle(switched, START, &mut Vec::new());
    engine.handle(Input::Tick, START, &mut Vec::new());
    assert_eq!(engine.active(last), Some(b));
}

/// What comes of the next wake-up, and when that is.
fn wake(engine: &mut Engine) -> (u64, Vec<Action>) {
    let now = engine.next_wakeup().expect("somebody waits for something");
    let mut actions = Vec::new();
    engine.handle(Input::Tick, now, &mut actions);
    (now, actions)
}

/// An engine of that many peers who all know that uplink A went, and the time by then.
fn without_a(peers: u32, uplinks: &[UplinkId]) -> (Engine, u64) {
    let mut engine = crowd(peers, uplinks);
    engine.handle(flags(Flags::NO_CARRIER), START, &mut Vec::new());
    let mut now = START;
    while engine.is_behind() {
        now = wake(&mut engine).0;
    }
    (engine, now)
}

/// How many paths can be used, as far as their peers know: time alone changes something there.
fn usable(engine: &Engine) -> usize {
    engine.due(u64::MAX).count()
}

const BACK: Action = Action::SetUplinkFlags {
    uplink: UPLINK_A,
    flags: Flags::NONE,
};

#[test]
fn an_uplink_is_back_for_the_kernel_only_after_every_path_of_it_is_on_probation_which_takes_many_short_steps() {
    let mut engine = crowd(PEERS, &[UPLINK_A, UPLINK_B]);
    engine.handle(flags(Flags::NO_CARRIER), START, &mut Vec::new());
    assert!(engine.is_behind(), "the law is about those who do not know yet");
    let mut actions = Vec::new();
    engine.handle(flags(Flags::NONE), START + MS, &mut actions);
    assert_eq!(actions, [], "it has to wait");
    let held = |action: &&Action| matches!(action, Action::SetPathFlags { flags, .. } if flags.any_of(Flags::HELD));
    // The first 16 were told when it went.
    let (mut now, mut all) = (START, 16);
    while engine.is_behind() {
        assert!(!actions.contains(&BACK));
        (now, actions) = wake(&mut engine);
        let told = actions.iter().filter(held).count();
        assert!(told <= 128, "{told}");
        all += told;
    }
    assert_eq!((all, actions.last()), (PEERS as usize, Some(&BACK)));
    assert!(now - START < 30 * MS, "{} ms", (now - START) / MS);
}

#[test]
fn an_uplink_that_goes_again_before_all_know_is_not_back() {
    let mut engine = crowd(PEERS, &[UPLINK_A]);
    for gone_or_back in [Flags::NO_CARRIER, Flags::NONE, Flags::NO_CARRIER] {
        engine.handle(flags(gone_or_back), START, &mut Vec::new());
    }
    while engine.is_behind() {
        assert!(!wake(&mut engine).1.contains(&BACK));
    }
    assert_eq!((usable(&engine), engine.next_wakeup()), (0, None));
}

#[test]
fn an_uplink_of_which_all_know_that_it_went_is_back_at_once_while_another_ones_death_is_told() {
    let (mut engine, now) = without_a(PEERS, &[UPLINK_A, UPLINK_B]);
    let (uplink, flags_of_b) = (UPLINK_B, Flags::NO_CARRIER);
    let b_goes = Input::UplinkFlags {
        uplink,
        flags: flags_of_b,
    };
    engine.handle(b_goes, now, &mut Vec::new());
    assert!(engine.is_behind());
    let mut actions = Vec::new();
    engine.handle(flags(Flags::NONE), now, &mut actions);
    assert_eq!(actions[0], BACK);
}

#[test]
fn ten_thousand_peers_learn_in_short_steps_that_their_uplink_is_back_and_each_ends_where_one_alone_would() {
    const PEERS: u32 = 10_000;
    let back_and_heard = |peers: u32| {
        let (mut engine, mut now) = without_a(peers, &[UPLINK_A, UPLINK_B]);
        let mut actions = Vec::new();
        engine.handle(flags(Flags::NONE), now, &mut actions);
        assert_eq!(actions[0], BACK, "for the kernel it is one write, which comes first");
        let (since, mut known) = (now, usable(&engine));
        assert!(known <= PEERS as usize + 128, "{known}");
        while known < 2 * peers as usize {
            let before = known;
            now = wake(&mut engine).0;
            known = usable(&engine);
            assert!(known - before <= 128, "{} in one step", known - before);
        }
        assert!(now - since < 200 * MS, "{} ms", (now - since) / MS);
        for path in (0..peers).map(|peer| PathId::new(PeerId(peer), 0)) {
            let proof = Input::Proof {
                path,
                proof_ns: now + MS,
                unanswered: 0,
                latched_ns: None,
            };
            engine.handle(proof, now + MS, &mut Vec::new());
        }
        engine
    };
    let view = |engine: &Engine, peer| {
        let path = engine.path(PathId::new(peer, 0)).expect("a path");
        (path.state, path.cause, engine.active(peer).map(PathId::slot))
    };
    let alone = view(&back_and_heard(1), PeerId(0));
    assert_eq!((alone.0, alone.2), (PathState::Held, Some(1)));
    let engine = back_and_heard(PEERS);
    assert!((0..PEERS).all(|peer| view(&engine, PeerId(peer)) == alone));
}

#[test]
fn a_death_in_the_middle_of_a_return_is_written_at_once_and_all_end_without_the_uplink() {
    let (mut engine, now) = without_a(PEERS, &[UPLINK_A]);
    engine.handle(flags(Flags::NONE), now, &mut Vec::new());
    let some = usable(&engine);
    assert!(
        (1..PEERS as usize).contains(&some),
        "{some}: the law is about the middle"
    );
    let mut actions = Vec::new();
    engine.handle(flags(Flags::NO_CARRIER), now, &mut actions);
    let died = Action::SetUplinkFlags {
        uplink: UPLINK_A,
        flags: Flags::NO_CARRIER,
    };
    assert_eq!(actions[0], died);
    while engine.is_behind() {
        assert!(!wake(&mut engine).1.contains(&BACK));
    }
    assert_eq!(usable(&engine), 0);
}

#[test]
fn of_thousands_of_peers_a_wake_up_concerns_those_that_are_due_and_a_hint_its_own_peer() {
    const PEERS: u32 = 5_000;
    let mut engine = crowd(PEERS, &[UPLINK_A, UPLINK_B]);
    let (mut now, mut probes) = (START, 0);
    // Slots of 10,000 paths in a minute: 6 ms apart.
    for _ in 0..100 {
        now = engine.next_wakeup().expect("a slot");
        let due: Vec<_> = engine.due(now).collect();
        assert_eq!(due.len(), 1, "{due:?}");
        let mut actions = Vec::new();
        engine.handle(Input::Tick, now, &mut actions);
        let probed = actions
            .iter()
            .filter(|action| matches!(action, Action::SendProbe { path, .. } if *path == due[0]));
        probes += probed.count();
    }
    assert_eq!((probes, now - START), (100, 99 * 6 * MS));
    let last = PeerId(PEERS - 1);
    let switched = Input::Switched {
        path: PathId::new(last, 1),
        from: Some(PathId::new(last, 0)),
        silence: Duration::ZERO,
        at_ns: now,
    };
    engine.handle(switched, now, &mut Vec::new());
    assert_eq!(
        engine.due(now).collect::<Vec<_>>(),
        [PathId::new(last, 0), PathId::new(last, 1)]
    );
    engine.remove_peer(last);
    assert_eq!(engine.due(now).count(), 0, "of a peer that is gone nothing is due");
    assert_eq!(engine.due(u64::MAX).count(), 2 * (PEERS as usize - 1));
}

#[test]
fn when_an_uplink_returns_a_few_paths_are_asked_at_once_and_the_crowd_one_after_the_other() {
    let (mut engine, since) = without_a(PEERS, &[UPLINK_A]);
    let probed = |actions: &[Action]| {
        let probes = actions
            .iter()
            .filter(|action| matches!(action, Action::SendProbe { .. }));
        probes.count()
    };
    let mut actions = Vec::new();
    engine.handle(flags(Flags::NONE), since, &mut actions);
    assert!((16..=17).contains(&probed(&actions)), "{}", probed(&actions));
    let (mut now, mut all) = (since, probed(&actions));
    while all < PEERS as usize {
        (now, actions) = wake(&mut engine);
        // Those whose turn came while the uplink was away are asked as soon as they know of it.
        assert!(
            probed(&actions) <= 2,
            "{} asked at once: one of the crowd, and one whose turn it is",
            probed(&actions)
        );
        all += probed(&actions);
    }
    assert!(now - since < S, "{} ms", (now - since) / MS);
}
