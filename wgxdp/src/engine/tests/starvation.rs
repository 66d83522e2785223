use wgxdp_common::liveness::Flags;
use wgxdp_common::table::PathState::{Down, Held, Up};

use super::sim::{A, B, HOLD_DOWN, INTERVAL, MS, Net, PEER, S, Sim, US};
use crate::engine::Cause;

const NEAR: u64 = 200 * US;
const FAR: u64 = 200 * MS;
const EVER: u64 = u64::MAX;

#[test]
fn an_engine_that_slept_convicts_nobody_and_neither_does_the_kernel() {
    for rtt in [NEAR, 20 * MS, FAR] {
        for sleep in [
            30 * MS,
            50 * MS,
            70 * MS,
            100 * MS,
            150 * MS,
            190 * MS,
            250 * MS,
            S,
            60 * S,
        ] {
            for phase in [0, 7 * MS, 13 * MS] {
                let from = 5 * S + phase;
                let mut sim = Sim::new(vec![Net::new(rtt), Net::new(rtt)], true);
                sim.starved.push(from..from + sleep);
                sim.run(from + sleep + 5 * S);
                let fell = sim.reports.iter().filter(|(_, t)| t.to == Down).count();
                assert_eq!(
                    (fell, sim.latches.len()),
                    (0, 0),
                    "round trip {rtt}, slept {sleep}, from {from}"
                );
                assert_eq!(sim.lost(0..EVER), 0);
            }
        }
    }
}

/// A suspended machine loses what was in flight; one that had no time for the driver does not.
#[test]
fn an_engine_that_slept_between_deciding_and_asking_convicts_nobody() {
    for (rtt, loses) in [NEAR, 20 * MS, FAR]
        .into_iter()
        .flat_map(|rtt| [(rtt, false), (rtt, true)])
    {
        for sleep in [30 * MS, 70 * MS, 100 * MS, 150 * MS, 250 * MS, S, 60 * S] {
            for phase in [0, 7 * MS, 13 * MS] {
                let from = 5 * S + phase;
                let net = Net::new(rtt).cut(from..if loses { from + sleep } else { from });
                let mut sim = Sim::new(vec![net.clone(), net], false);
                sim.preempted = Some((from, sleep));
                sim.run(from + sleep + 5 * S);
                let fell = sim.reports.iter().filter(|(_, t)| t.to == Down).count();
                assert_eq!(
                    (fell, sim.latches.len()),
                    (0, 0),
                    "round trip {rtt}, slept {sleep}, from {from}, in-flight lost: {loses}"
                );
            }
        }
    }
}

#[test]
fn an_engine_that_sleeps_again_and_again_convicts_nobody() {
    for rtt in [NEAR, FAR] {
        let mut sim = Sim::new(vec![Net::new(rtt), Net::new(rtt)], true);
        sim.starved = (0..50)
            .map(|n| 5 * S + n * 230 * MS..5 * S + n * 230 * MS + 130 * MS)
            .collect();
        sim.run(20 * S);
        assert_eq!(
            (sim.arrivals(A, Down), sim.arrivals(B, Down)),
            (vec![], vec![]),
            "round trip {rtt}"
        );
        assert!(sim.latches.is_empty());
    }
}

#[test]
fn an_engine_that_is_started_late_convicts_nobody() {
    let mut sim = Sim::new(vec![Net::new(FAR), Net::new(FAR)], true);
    sim.starved.push(0..10 * S);
    sim.run(15 * S);
    assert_eq!((sim.arrivals(A, Down), sim.latches.len()), (vec![], 0));
}

#[test]
fn missed_probes_are_skipped_and_not_caught_up() {
    let mut sim = Sim::new(vec![Net::new(NEAR), Net::new(NEAR)], false);
    let awake = 65 * S + 3 * MS;
    sim.starved.push(5 * S..awake);
    sim.run(awake + INTERVAL - 1);
    for path in [A, B] {
        let after: Vec<u64> = sim
            .probes
            .iter()
            .filter(|(at, p)| *p == path && *at > 5 * S)
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(after[0], awake, "one at once");
        assert!(
            after.len() <= 2 && after.iter().skip(1).all(|at| at - awake >= INTERVAL / 4),
            "{after:?}"
        );
    }
}

#[test]
fn a_path_that_died_while_the_engine_slept_is_convicted_when_its_answers_are_due() {
    for rtt in [NEAR, FAR] {
        let awake = 65 * S;
        let mut sim = Sim::new(vec![Net::new(rtt).cut(30 * S..EVER), Net::new(rtt)], true);
        sim.starved.push(5 * S..awake);
        sim.run(awake + rtt + 100 * MS);
        assert_eq!(
            (sim.state(A), sim.engine.active(PEER)),
            (Down, Some(B)),
            "round trip {rtt}"
        );
        assert!(sim.arrivals(A, Down)[0] > awake, "not before it was asked");
    }
}

#[test]
fn a_limping_prober_does_not_keep_a_dead_path_alive() {
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(10 * S..EVER), Net::new(NEAR)], true);
    // Awake for a moment every 47 ms: each wake-up finds that a slot was missed.
    sim.starved = (0..1000)
        .map(|n| 5 * S + n * 47 * MS + 1..5 * S + (n + 1) * 47 * MS)
        .collect();
    sim.run(10 * S);
    assert!(sim.arrivals(A, Down).is_empty(), "slow, but alive");
    sim.run(10 * S + 300 * MS);
    assert_eq!((sim.state(A), sim.state(B)), (Down, Up));
}

#[test]
fn time_that_was_not_watched_is_not_clean() {
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(5 * S..6 * S), Net::new(NEAR)], true);
    let awake = 30 * S;
    sim.starved.push(8 * S..awake);
    sim.run(awake + HOLD_DOWN - MS);
    assert_eq!(sim.state(A), Held);
    sim.run(awake + HOLD_DOWN + 2 * INTERVAL);
    assert_eq!(sim.state(A), Up);
}

#[test]
fn lost_records_delay_nothing_but_reports() {
    // With nine records lost in ten the path is taken for one that loses nine probes in ten, and given the time that such a one needs.
    for record_loss in [20, 50, 100] {
        let back = 7 * S;
        let mut sim = Sim::new(vec![Net::new(NEAR).cut(5 * S..back), Net::new(NEAR)], true);
        sim.record_loss = record_loss;
        sim.run(5 * S + 2 * S);
        assert_eq!(
            (sim.state(A), sim.engine.active(PEER)),
            (Down, Some(B)),
            "{record_loss} % lost"
        );
        sim.run(back + INTERVAL + INTERVAL / 2 + MS);
        assert_eq!(sim.state(A), Held, "{record_loss} % lost");
        sim.run(back + HOLD_DOWN + S);
        assert_eq!(
            (sim.state(A), sim.engine.active(PEER)),
            (Up, Some(A)),
            "{record_loss} % lost"
        );
        assert_eq!((sim.maps[&A].flags, sim.maps[&A].proof.latched_ns), (Flags::NONE, 0));
        assert_eq!(sim.packets.last().expect("traffic").path, A);
        assert_eq!(sim.lost(back..EVER), 0);
    }
}

#[test]
fn after_every_wake_up_what_the_kernel_latched_is_down_or_held_and_nothing_else_is_flagged() {
    let mut flapping = Net::new(NEAR);
    flapping.loss = 30;
    flapping.cuts = (2..60).map(|s| s * S..s * S + 300 * MS).collect();
    let mut other = Net::new(FAR);
    other.loss = 30;
    let mut sim = Sim::new(vec![flapping, other], true);
    sim.record_loss = 60;
    sim.starved = vec![20 * S..20 * S + 400 * MS, 33 * S..36 * S];
    for step in 1..3000 {
        sim.run(step * INTERVAL);
        if sim.starved.iter().any(|sleep| sleep.contains(&(step * INTERVAL))) {
            continue;
        }
        for (path, maps) in &sim.maps {
            let held_back = matches!(maps.state, Down | Held);
            assert_eq!(maps.state, sim.state(*path));
            assert_eq!(maps.flags == Flags::HELD, held_back, "{maps:?}");
        }
    }
    assert!(sim.reports.len() > 50, "this was no quiet minute");
}

#[test]
fn a_latch_that_only_the_map_tells_of_is_believed() {
    let mut sim = Sim::new(vec![Net::new(NEAR).cut(5 * S..5 * S + 90 * MS), Net::new(NEAR)], true);
    sim.record_loss = 100;
    sim.run(4 * S);
    sim.record_loss = 0;
    sim.run(5 * S + 50 * MS);
    sim.record_loss = 100;
    sim.run(7 * S);
    let cause = sim.reports.iter().find(|(_, t)| t.to == Down).map(|(_, t)| t.cause);
    assert!(matches!(cause, Some(Cause::Silence(_))), "{cause:?}");
    assert_eq!((sim.state(A), sim.maps[&A].flags), (Held, Flags::HELD));
}
