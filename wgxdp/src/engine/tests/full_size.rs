use wgxdp_common::table::PathState::{Down, Held, Up};

use super::sim::{A, B, HOLD_DOWN, INTERVAL, MS, Net, PEER, S, Sim, US};
use crate::engine::{Cause, MoveReason};

const NEAR: u64 = 200 * US;
const EVER: u64 = u64::MAX;
/// The most that passes until a clean path that swallows large packets is found out: three periods, each to the next probe's turn, `dead_after`, and the next wake-up.
const FOUND_WITHIN: u64 = 3 * (250 * MS + INTERVAL) + 65 * MS + 2 * INTERVAL;

#[test]
fn a_path_that_begins_to_swallow_large_packets_is_left_within_a_second() {
    for phase in (0..250).step_by(41) {
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
    sim.run(back + 10 * (250 * MS + INTERVAL) + INTERVAL);
    assert_eq!(sim.state(A), Held);
    sim.run(back + HOLD_DOWN + 3 * S);
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
    for loss in [1, 5, 20] {
        let mut net = Net::new(NEAR);
        net.loss = loss;
        let mut sim = Sim::new(vec![net, Net::new(NEAR)], false);
        sim.run(3600 * S);
        let by_mtu = sim.reports.iter().filter(|(_, report)| report.cause == Cause::Mtu);
        assert_eq!(by_mtu.count(), 0, "{loss} %");
    }
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
