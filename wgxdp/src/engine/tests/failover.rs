use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::PathState::{Down, Held, Suspect, Up};

use super::sim::{A, B, HOLD_DOWN, INTERVAL, MS, Net, PEER, S, Sim, US};
use crate::engine::{Cause, MoveReason};

const NEAR: u64 = 200 * US;
const FAR: u64 = 200 * MS;
const EVER: u64 = u64::MAX;
/// With 20 ms probes over a steady path.
const DEAD_AFTER: u64 = 65 * MS;

#[test]
fn a_blackhole_is_noticed_within_dead_after_whatever_its_moment_and_the_round_trip() {
    for rtt in [NEAR, 20 * MS, FAR] {
        for phase in (0..20).step_by(3) {
            let cut = 5 * S + phase * MS;
            let mut sim = Sim::new(vec![Net::new(rtt).cut(cut..EVER), Net::new(rtt)], true);
            sim.run(10 * S);
            let lost = sim.lost(0..10 * S);
            assert!(
                (40..=66).contains(&lost),
                "{lost} packets lost, round trip {rtt}, phase {phase}"
            );
            assert!(sim.lost(0..cut) == 0, "none before the cut");
            let down = sim.arrivals(A, Down);
            assert!(down.len() == 1 && down[0] <= cut + DEAD_AFTER + MS, "{down:?}");
            assert_eq!(
                (sim.state(A), sim.state(B), sim.engine.active(PEER)),
                (Down, Up, Some(B))
            );
        }
    }
}

#[test]
fn without_traffic_the_engine_notices_by_itself_and_flags_the_path() {
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(5 * S..EVER), Net::new(NEAR)], false);
    sim.run(5 * S + DEAD_AFTER + MS);
    assert_eq!(sim.state(A), Down);
    assert_eq!(sim.maps[&A].flags, Flags::HELD);
    assert_eq!(sim.latches, [], "no packet met its death");
    let (_, transition) = sim.reports.last().expect("a report");
    assert!(
        matches!(transition.cause, Cause::Silence(silence) if silence.as_millis() == 65),
        "{transition:?}"
    );
    assert!(transition.moved && transition.now_on == Some(B));
}

#[test]
fn a_short_cut_makes_a_path_suspect_and_moves_nothing() {
    let mut sim = Sim::new(
        vec![Net::new(NEAR).cut(5 * S + MS..5 * S + 36 * MS), Net::new(NEAR)],
        true,
    );
    sim.run(6 * S);
    let states: Vec<_> = sim.reports.iter().map(|(_, t)| (t.path, t.to, t.moved)).collect();
    assert_eq!(states, [(A, Suspect, false), (A, Up, false)]);
    assert_eq!(sim.moves(), 0);
}

#[test]
fn traffic_returns_only_after_a_clean_hold_down_and_nothing_is_lost_then() {
    let back = 6 * S;
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(5 * S..back), Net::new(NEAR)], true);
    sim.run(back + HOLD_DOWN + S);
    let held = sim.arrivals(A, Held);
    assert!(held.len() == 1 && held[0] <= back + INTERVAL + NEAR, "{held:?}");
    let up = sim.arrivals(A, Up);
    assert!(
        up.len() == 1 && (held[0] + HOLD_DOWN..=held[0] + HOLD_DOWN + INTERVAL).contains(&up[0]),
        "{up:?}"
    );
    assert_eq!(sim.lost(back..EVER), 0);
    assert!(
        sim.packets
            .iter()
            .all(|p| p.path == B || p.at < 5 * S + DEAD_AFTER + MS || p.at >= up[0]),
        "not sooner"
    );
    assert_eq!(sim.packets.last().expect("traffic").path, A);
    assert_eq!((sim.maps[&A].flags, sim.maps[&A].proof.latched_ns), (Flags::NONE, 0));
    let failovers = sim.engine.failovers(PEER).expect("the peer");
    assert_eq!(
        (failovers.get(MoveReason::Silence), failovers.get(MoveReason::Recovery)),
        (1, 1)
    );
}

#[test]
fn a_lost_probe_or_two_do_not_restart_the_hold_down() {
    let (back, again) = (6 * S, 11 * S);
    let net = Net::new(NEAR).cut(5 * S..back).cut(again + MS..again + 36 * MS);
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], true);
    sim.run(back + HOLD_DOWN + 2 * INTERVAL);
    assert_eq!((sim.state(A), sim.arrivals(A, Down).len()), (Up, 1));
}

#[test]
fn a_second_death_restarts_the_hold_down() {
    let (back, again) = (6 * S, 11 * S);
    let net = Net::new(NEAR).cut(5 * S..back).cut(again + MS..again + 100 * MS);
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], true);
    sim.run(again + HOLD_DOWN);
    assert_eq!((sim.state(A), sim.arrivals(A, Down).len()), (Held, 2));
    sim.run(again + HOLD_DOWN + 200 * MS);
    assert_eq!(sim.state(A), Up);
}

#[test]
fn traffic_is_back_one_interval_and_a_round_trip_after_the_last_cut_ends() {
    for rtt in [NEAR, 20 * MS, FAR] {
        let back = 10 * S + 7 * MS;
        let cut = || Net::new(rtt).cut(5 * S..back);
        let mut sim = Sim::new(vec![cut(), cut()], true);
        sim.run(back);
        assert_eq!(
            (sim.state(A), sim.state(B), sim.engine.active(PEER)),
            (Down, Down, None)
        );
        assert!(sim.reports.iter().any(|(_, t)| t.now_on.is_none()), "said so");
        let tried = |path| sim.packets.iter().any(|p| p.path == path && p.at > 6 * S);
        assert!(tried(A) && tried(B), "all are tried");
        sim.run(back + INTERVAL + rtt);
        assert!(sim.engine.active(PEER).is_some(), "round trip {rtt}");
        assert_eq!(sim.lost(back..EVER), 0);
    }
}

#[test]
fn a_path_on_probation_is_better_than_none() {
    let second = 7 * S;
    let mut sim = Sim::new(
        vec![Net::new(NEAR).cut(5 * S..6 * S), Net::new(NEAR).cut(second..EVER)],
        true,
    );
    sim.run(second);
    assert_eq!((sim.state(A), sim.state(B)), (Held, Up));
    sim.run(second + DEAD_AFTER + MS);
    assert_eq!(
        (sim.state(A), sim.state(B), sim.engine.active(PEER)),
        (Up, Down, Some(A))
    );
    sim.run(20 * S);
    assert!(sim.lost(second..EVER) <= 66);
    let moved: Vec<_> = sim
        .reports
        .iter()
        .filter(|(_, t)| t.moved)
        .map(|(_, t)| (t.path, t.now_on))
        .collect();
    assert_eq!(
        moved,
        [(A, Some(B)), (B, Some(A))],
        "each move is told once, by the path that fell"
    );
}

#[test]
fn a_lone_path_is_never_held() {
    let back = 6 * S;
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(5 * S..back)], true);
    sim.run(back + INTERVAL + NEAR);
    assert_eq!(sim.state(A), Up);
    assert!(sim.arrivals(A, Held).is_empty());
    assert_eq!(sim.engine.path(A).expect("a path").cause, Cause::Answered);
    assert_eq!(sim.moves(), 0, "there was nowhere to go");
}

#[test]
fn a_path_that_flaps_each_second_loses_its_traffic_once_and_gets_it_back_once() {
    let mut flapping = Net::new(NEAR);
    flapping.cuts = (5..35).map(|s| s * S..s * S + 500 * MS).collect();
    let calm = 34 * S + 500 * MS;
    let mut sim = Sim::new(vec![flapping, Net::new(NEAR)], true);
    sim.run(calm);
    assert_eq!((sim.moves(), sim.engine.active(PEER)), (1, Some(B)));
    assert!(
        sim.arrivals(A, Held).len() >= 25,
        "each answer counts, and none is believed at once"
    );
    assert!(sim.lost(0..calm) <= 66);
    sim.run(calm + HOLD_DOWN + 100 * MS);
    assert_eq!((sim.moves(), sim.engine.active(PEER)), (2, Some(A)));
    assert_eq!(sim.lost(6 * S..EVER), 0);
}

#[test]
fn carrier_loss_moves_traffic_at_once_and_carrier_back_is_probed_at_once() {
    let (cut, told, back) = (5 * S + 5 * MS / 2, 5 * S + 7 * MS / 2, 8 * S + MS / 2);
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(cut..back), Net::new(NEAR)], true);
    sim.link(told, 0, Flags::NO_CARRIER);
    sim.link(back, 0, Flags::NONE);
    sim.run(back - 1);
    assert_eq!(sim.lost(0..EVER), 1, "the packet that left before the event");
    assert_eq!(
        (sim.state(A), sim.engine.path(A).expect("a path").cause),
        (Down, Cause::NoCarrier)
    );
    assert!(
        sim.probes.iter().all(|(at, path)| *path == B || *at <= told),
        "no probe into the void"
    );
    sim.run(back + NEAR);
    assert_eq!(sim.state(A), Held);
    sim.run(back + HOLD_DOWN + S);
    assert_eq!((sim.state(A), sim.lost(back..EVER)), (Up, 0));
    assert_eq!(
        sim.engine.failovers(PEER).expect("the peer").get(MoveReason::NoCarrier),
        1
    );
}

#[test]
fn both_carriers_lost_and_one_back_takes_a_round_trip() {
    let (cut, back) = (5 * S, 8 * S);
    let net = || Net::new(FAR).cut(cut..back);
    let mut sim = Sim::new(vec![net(), net()], true);
    for uplink in [0, 1] {
        sim.link(cut, uplink, Flags::NO_CARRIER);
    }
    sim.link(back, 1, Flags::NONE);
    sim.run(back);
    assert_eq!(sim.engine.active(PEER), None);
    sim.run(back + FAR);
    assert_eq!(
        (sim.state(A), sim.state(B), sim.engine.active(PEER)),
        (Down, Up, Some(B))
    );
}

#[test]
fn a_round_trip_that_jumps_by_two_intervals_kills_nobody_and_widens_the_margin() {
    let mut net = Net::new(FAR);
    net.rtt.push((5 * S, FAR + 2 * INTERVAL));
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], true);
    sim.run(5 * S + FAR + 2 * INTERVAL + 10 * MS);
    assert!(sim.engine.path(A).expect("a path").thresholds.dead_after_ns() > DEAD_AFTER + 20 * MS);
    sim.run(10 * S);
    assert!(sim.arrivals(A, Down).is_empty());
    assert_eq!(sim.maps[&A].thresholds, Thresholds::new(30_000, 65_000), "steady again");
}

#[test]
fn loss_is_shown_and_a_little_of_it_kills_nobody() {
    let mut net = Net::new(NEAR);
    net.loss = 5;
    let mut sim = Sim::new(vec![net, Net::new(NEAR)], true);
    sim.run(60 * S);
    let loss_ppm = sim.maps[&A].loss_ppm;
    assert!((10_000..=120_000).contains(&loss_ppm), "{loss_ppm} of 50000");
    assert_eq!((sim.maps[&B].loss_ppm, sim.moves()), (0, 0));
}

#[test]
fn the_paths_probes_are_spread_over_the_interval() {
    let mut sim = Sim::new(
        vec![Net::new(NEAR), Net::new(NEAR), Net::new(NEAR), Net::new(NEAR)],
        false,
    );
    sim.run(10 * S);
    assert!(sim.probes.windows(2).all(|pair| pair[1].0 - pair[0].0 == INTERVAL / 4));
    assert_eq!(sim.probes.len(), 4 * 500 + 1);
}

#[test]
fn a_path_that_dies_after_each_return_is_trusted_later_each_time() {
    // Dead for a second whenever it has carried traffic for a second.
    let mut sim = Sim::new(vec![Net::new(NEAR), Net::new(NEAR)], true);
    let mut held_for = Vec::new();
    for _ in 0..4 {
        sim.run(sim.now() + S);
        assert_eq!(sim.state(A), Up);
        let cut = sim.now();
        sim.nets[0].cuts.push(cut..cut + S);
        sim.run(cut + 2 * S);
        let held = *sim.arrivals(A, Held).last().expect("it answers again");
        while sim.state(A) != Up {
            sim.run(sim.now() + INTERVAL);
        }
        held_for.push((*sim.arrivals(A, Up).last().expect("up") - held) / S);
    }
    assert_eq!(held_for, [10, 20, 40, 80]);
    let said = sim
        .reports
        .iter()
        .filter(|(_, t)| matches!(t.cause, Cause::OnLongerProbation(_)));
    assert_eq!(said.count(), 3, "and it is said why");
}
