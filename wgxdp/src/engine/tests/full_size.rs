use std::time::Duration;

use wgxdp_common::table::PathState::{Down, Held, Up};

use super::sim::{A, B, HOLD_DOWN, INTERVAL, MS, Net, PEER, S, Sim, US, one_peer, settings};
use crate::engine::{Action, Cause, Engine, Input, MoveReason};

const NEAR: u64 = 200 * US;
const EVER: u64 = u64::MAX;
/// From one full-size probe to the next on the path in use.
const PERIOD: u64 = 600 * MS;
/// The most that passes until a clean path that swallows large packets is found out: the time to the next large probe, and three intervals.
const FOUND_WITHIN: u64 = PERIOD + 4 * INTERVAL;

#[test]
fn a_path_that_begins_to_swallow_large_packets_is_left_at_once() {
    for phase in (0..600).step_by(41) {
        let from = 5 * S + phase * MS;
        let mut sim = Sim::new(vec![Net::new(NEAR).swallow(from..EVER), Net::new(NEAR)], true);
        sim.run(10 * S);
        let down = sim.arrivals(A, Down);
        assert!(
            down.len() == 1 && (from..from + FOUND_WITHIN).contains(&down[0]),
            "{down:?} from {from}"
        );
        let (_, transition) = sim.reports.last().expect("a report");
        assert_eq!(
            (transition.cause, transition.now_on, transition.moved),
            (Cause::Mtu, Some(B), true)
        );
        assert_eq!(sim.lost(0..EVER), 0, "small ones pass all the time");
        let failovers = sim.engine.failovers(PEER).expect("the peer");
        assert_eq!((failovers.get(MoveReason::Mtu), sim.moves()), (1, 1));
    }
}

#[test]
fn a_path_whose_probes_cannot_be_padded_is_not_asked_at_full_size() {
    for padded in [true, false] {
        let mut peers = one_peer(1);
        peers[0].paths[0].padded = padded;
        let mut actions = Vec::new();
        let mut engine = Engine::new(settings(), &peers, 0, &mut actions);
        for at in (0..2 * S).step_by(INTERVAL as usize) {
            engine.handle(Input::Tick, at, &mut actions);
        }
        let asked = |full: bool| {
            let is = |action: &&Action| match action {
                Action::SendFullSize { .. } => full,
                Action::SendProbe { .. } => !full,
                _ => false,
            };
            actions.iter().any(|action| is(&action))
        };
        assert_eq!((asked(false), asked(true)), (true, padded));
    }
}

#[test]
fn one_that_begins_to_as_soon_as_it_answered_is_left_as_well() {
    let from = 100 * MS;
    let mut sim = Sim::new(vec![Net::new(NEAR).swallow(from..EVER), Net::new(NEAR)], true);
    sim.run(from + FOUND_WITHIN);
    assert_eq!(sim.arrivals(A, Down).len(), 1);
}

/// The profile `balanced`, 20 ms away.
#[test]
fn probes_of_50_ms_find_it_within_800_ms_wherever_in_their_period_it_begins() {
    let mut found: Vec<u64> = (0..600)
        .step_by(3)
        .map(|phase| {
            let from = 5 * S + phase * MS;
            let nets = vec![Net::new(20 * MS).swallow(from..EVER), Net::new(20 * MS)];
            let mut sim = Sim::every(nets, Duration::from_millis(50));
            sim.run(10 * S);
            let down = sim.arrivals(A, Down);
            assert_eq!(down.len(), 1, "from {from}");
            down[0] - from
        })
        .collect();
    found.sort_unstable();
    let percentile = |per_cent: usize| found[(found.len() * per_cent).div_ceil(100) - 1];
    let (p50, p99) = (percentile(50), percentile(99));
    assert!(p50 < 500 * MS && p99 < 800 * MS, "p50 {p50} ns, p99 {p99} ns");
}

#[test]
fn all_is_well_and_a_large_probe_leaves_each_600_ms_or_a_tenth_as_often() {
    let mut sim = Sim::new(vec![Net::new(NEAR), Net::new(NEAR)], true);
    sim.run(600 * S - 1);
    let sent = |path| sim.full_size.iter().filter(|(_, p)| *p == path).count();
    assert_eq!((sent(A), sent(B)), (1000, 100));
}

#[test]
fn its_traffic_returns_when_large_packets_pass_again_and_the_hold_down_is_over() {
    let back = 20 * S;
    let mut sim = Sim::new(vec![Net::new(NEAR).swallow(5 * S..back), Net::new(NEAR)], true);
    sim.run(back);
    assert_eq!(
        sim.state(A),
        Down,
        "though it answered small ones for much longer than the hold-down"
    );
    // It stands by, and is asked a tenth as often.
    sim.run(back + 10 * PERIOD + 2 * INTERVAL);
    assert_eq!(sim.state(A), Held);
    sim.run(back + 10 * PERIOD + HOLD_DOWN + S);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Up, Some(A)));
}

#[test]
fn one_that_falls_back_into_it_on_probation_starts_anew() {
    let (back, again) = (10 * S, 15 * S);
    let net = Net::new(NEAR).swallow(5 * S..back).swallow(again..EVER);
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], true);
    sim.run(again + 10 * FOUND_WITHIN);
    assert_eq!((sim.state(A), sim.arrivals(A, Down).len()), (Down, 2));
}

#[test]
fn a_far_end_that_never_answers_large_probes_is_not_convicted_for_it() {
    let net = || Net::new(NEAR).swallow(0..EVER);
    let mut sim = Sim::new(vec![net(), net()], true);
    sim.run(300 * S);
    assert!(sim.reports.is_empty(), "{:?}", sim.reports);
}

/// A provider that was too narrow from the beginning, or became so while the daemon was away.
#[test]
fn a_path_that_never_let_large_packets_through_is_left_if_another_does() {
    let back = 60 * S;
    let mut sim = Sim::new(vec![Net::new(NEAR).swallow(0..back), Net::new(NEAR)], true);
    // The other one is asked once at the start; ten missing ones are enough.
    sim.run(PERIOD + 12 * INTERVAL);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Down, Some(B)));
    assert_eq!((by_mtu(&sim).len(), sim.lost(0..EVER)), (1, 0));
    sim.run(back + 10 * PERIOD + HOLD_DOWN + S);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Up, Some(A)));
    assert_eq!(sim.moves(), 2);
}

#[test]
fn it_is_asked_anew_when_the_other_path_comes_up_later() {
    let nets = vec![Net::new(NEAR).swallow(0..EVER), Net::new(NEAR).cut(0..100 * S)];
    let mut sim = Sim::new(nets, true);
    sim.run(100 * S);
    assert!(by_mtu(&sim).is_empty(), "small packets are better than none");
    sim.run(100 * S + 11 * PERIOD + HOLD_DOWN);
    assert_eq!((by_mtu(&sim).len(), sim.engine.active(PEER)), (1, Some(B)));
}

/// Many answers are on their way then, each to a probe that left before the large one.
#[test]
fn a_far_away_path_that_comes_up_late_is_asked_at_full_size_no_more_often_than_another() {
    let far = || Net::new(10 * INTERVAL);
    let mut sim = Sim::new(vec![far().cut(0..5 * S), far()], true);
    sim.run(60 * S);
    let asked = |path| {
        sim.full_size
            .iter()
            .filter(|(at, p)| *p == path && *at >= 5 * S)
            .count()
    };
    assert!(asked(A) <= 110 && asked(B) <= 110, "{} and {}", asked(A), asked(B));
    assert!(by_mtu(&sim).is_empty());
}

/// What much is lost of, in long bursts, is given up late.
#[test]
fn it_is_not_left_for_one_that_is_silent_however_long_that_takes_to_be_dead() {
    let (silent, narrow) = (60 * S, 60 * S + 100 * MS);
    let mut net = Net::new(NEAR).cut(silent..EVER);
    net.cuts.extend((1..60).map(|n| n * S..n * S + 60 * MS));
    let mut sim = Sim::new(vec![Net::new(NEAR).swallow(narrow..EVER), net], true);
    sim.run(70 * S);
    let died = sim.arrivals(B, Down).last().copied().expect("at last");
    assert!(
        died > narrow + FOUND_WITHIN,
        "{died}: it had to be silent for longer than that"
    );
    assert_eq!((by_mtu(&sim).len(), sim.lost(silent..EVER)), (0, 0));
}

#[test]
fn what_one_far_end_answers_says_nothing_of_another() {
    let mut peers = one_peer(2);
    peers[0].paths[1].responder = 1;
    let nets = vec![Net::new(NEAR).swallow(0..EVER), Net::new(NEAR)];
    let mut sim = Sim::of(peers, nets, true, 1);
    sim.run(300 * S);
    assert!(sim.reports.is_empty(), "{:?}", sim.reports);
}

#[test]
fn a_path_that_carries_small_packets_is_better_than_none() {
    let mut alone = Sim::new(vec![Net::new(NEAR).swallow(5 * S..EVER)], true);
    alone.run(20 * S);
    assert!(alone.reports.is_empty(), "{:?}", alone.reports);
    // Left for the other one, then needed.
    let nets = vec![Net::new(NEAR).swallow(5 * S..EVER), Net::new(NEAR).cut(10 * S..20 * S)];
    let mut sim = Sim::new(nets, true);
    sim.run(11 * S);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Up, Some(A)));
    assert!(sim.lost(11 * S..EVER) == 0);
    sim.run(20 * S + HOLD_DOWN + S);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Down, Some(B)));
}

#[test]
fn both_paths_swallowing_move_the_traffic_once_and_not_to_and_fro() {
    let net = || Net::new(NEAR).swallow(5 * S..EVER);
    let mut sim = Sim::new(vec![net(), net()], true);
    sim.run(60 * S);
    assert!(sim.moves() <= 1, "{:?}", sim.reports);
}

#[test]
fn random_loss_is_not_taken_for_swallowing() {
    for loss in [0, 1, 5, 20] {
        let mut sim = Sim::new(vec![Net { loss, ..Net::new(NEAR) }, Net::new(NEAR)], false);
        sim.run(1200 * S);
        assert_eq!(by_mtu(&sim).len(), 0, "{loss} %");
    }
}

/// Each burst takes what is on its way, large and small.
#[test]
fn bursts_of_loss_are_not_taken_for_swallowing() {
    let mut net = Net::new(NEAR);
    net.cuts = (0..1000).map(|n| n * 777 * MS..(n * 777 + 39) * MS).collect();
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], false);
    sim.run(777 * S);
    assert_eq!(by_mtu(&sim).len(), 0);
}

/// What is lost besides delays the verdict, and no more.
#[test]
fn a_lossy_path_that_swallows_large_packets_is_found_out_all_the_same() {
    let from = 600 * S;
    for (loss, within) in [(1, S), (5, 2 * S), (20, 5 * S)] {
        let net = Net {
            loss,
            ..Net::new(NEAR).swallow(from..EVER)
        };
        let mut sim = Sim::new(vec![net, Net::new(NEAR)], false);
        sim.run(from + within);
        assert_eq!(by_mtu(&sim).len(), 1, "{loss} %");
    }
}

/// When paths were left because they swallow large packets.
fn by_mtu(sim: &Sim) -> Vec<u64> {
    let by_mtu = sim.reports.iter().filter(|(_, report)| report.cause == Cause::Mtu);
    by_mtu.map(|(at, _)| *at).collect()
}

#[test]
fn what_a_black_hole_took_is_not_held_against_the_path_afterwards() {
    let net = Net::new(NEAR).cut(5 * S..6 * S);
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], true);
    sim.run(6 * S + HOLD_DOWN + S);
    let causes: Vec<_> = sim
        .reports
        .iter()
        .filter(|(_, report)| report.to == Down)
        .map(|(_, report)| report.cause)
        .collect();
    assert!(matches!(causes[..], [Cause::Silence(_)]), "{causes:?}");
    assert_eq!(sim.state(A), Up);
}
