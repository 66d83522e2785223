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
        now = engine.next_wakeup().expect("somebody does not know yet");
        let mut actions = Vec::new();
        engine.handle(Input::Tick, now, &mut actions);
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

#[test]
fn an_uplink_is_back_for_the_kernel_only_after_every_path_of_it_is_on_probation() {
    let mut engine = crowd(PEERS, &[UPLINK_A, UPLINK_B]);
    engine.handle(flags(Flags::NO_CARRIER), START, &mut Vec::new());
    assert!(engine.is_behind(), "the law is about those who do not know yet");
    let mut actions = Vec::new();
    engine.handle(flags(Flags::NONE), START + MS, &mut actions);
    let back = |action: &Action| matches!(action, Action::SetUplinkFlags { flags, .. } if *flags == Flags::NONE);
    let before = actions.iter().position(back).expect("it is back");
    let held = |action: &&Action| matches!(action, Action::SetPathFlags { flags, .. } if flags.any_of(Flags::HELD));
    // The first 16 were told when it went.
    assert_eq!(actions[..before].iter().filter(held).count(), PEERS as usize - 16);
    assert!(!engine.is_behind());
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
    let mut engine = crowd(PEERS, &[UPLINK_A]);
    engine.handle(flags(Flags::NO_CARRIER), START, &mut Vec::new());
    let probed = |actions: &[Action]| {
        let probes = actions
            .iter()
            .filter(|action| matches!(action, Action::SendProbe { .. }));
        probes.count()
    };
    let mut actions = Vec::new();
    // Early enough that nobody's turn has come.
    engine.handle(flags(Flags::NONE), START + MS, &mut actions);
    assert!((16..=17).contains(&probed(&actions)), "{}", probed(&actions));
    let (mut now, mut all) = (START + MS, probed(&actions));
    while all < PEERS as usize {
        now = engine.next_wakeup().expect("somebody waits to be asked");
        let mut actions = Vec::new();
        engine.handle(Input::Tick, now, &mut actions);
        assert!(probed(&actions) <= 2, "one of the crowd, and one whose turn it is");
        all += probed(&actions);
    }
    assert!(now - START < S, "{} ms", (now - START) / MS);
}
