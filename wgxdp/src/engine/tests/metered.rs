use wgxdp_common::id::PathId;
use wgxdp_common::liveness::{Flags, Liveness, assess};
use wgxdp_common::table::PathState::{Down, Held, Suspect, Up};

use super::sim::{A, B, HOLD_DOWN, INTERVAL, MS, Net, PEER, S, START, Sim, US};

const NEAR: u64 = 200 * US;
const FAR: u64 = 200 * MS;
const EVER: u64 = u64::MAX;
/// Within which a path that is asked each `INTERVAL` over a steady network is found dead.
const DEAD_WITHIN: u64 = 65 * MS + 2 * INTERVAL;

/// Of a cut that makes a path suspect and not dead: one or two probes are lost.
const DOUBT: u64 = 39 * MS;

/// An ordinary path and a metered one that stands by.
fn with_standby(a: Net, b: Net) -> Sim {
    Sim::metered(vec![a, b], &[B])
}

/// When the path was asked in that time.
fn asked(sent: &[(u64, PathId)], path: PathId, from: u64, until: u64) -> Vec<u64> {
    let asked = sent.iter().filter(|(at, p)| *p == path && (from..until).contains(at));
    asked.map(|(at, _)| *at).collect()
}

/// How the kernel would judge a path.
fn judged(sim: &Sim, path: PathId) -> Liveness {
    let maps = &sim.maps[&path];
    let now_ns = START + sim.now();
    assess(now_ns, maps.proof.proof_ns, maps.proof.unanswered, maps.thresholds)
}

#[test]
fn a_metered_path_that_stands_by_is_asked_once_a_second_and_once_a_minute_at_full_size() {
    let mut sim = with_standby(Net::new(NEAR), Net::new(NEAR));
    sim.run(250 * S);
    assert_eq!(asked(&sim.probes, B, 10 * S, 250 * S).len(), 240);
    assert_eq!(asked(&sim.full_size, B, 10 * S, 250 * S).len(), 4);
    assert_eq!(asked(&sim.probes, A, 10 * S, 250 * S).len() as u64, 240 * S / INTERVAL);
    assert!(sim.reports.is_empty(), "{:?}", sim.reports);
}

#[test]
fn a_metered_path_in_use_is_asked_like_any_other() {
    let count = |metered: &[PathId]| {
        let mut sim = Sim::metered(vec![Net::new(NEAR), Net::new(NEAR)], metered);
        sim.run(60 * S);
        (
            asked(&sim.probes, A, 0, EVER).len(),
            asked(&sim.full_size, A, 0, EVER).len(),
        )
    };
    assert_eq!(count(&[A]), count(&[]));
}

#[test]
fn when_the_active_path_turns_suspect_the_metered_one_is_asked_at_once_and_then_at_the_interval() {
    for phase in (0..1000).step_by(137) {
        let cut = 5 * S + phase * MS;
        let mut sim = with_standby(Net::new(NEAR).cut(cut..EVER), Net::new(NEAR));
        sim.run(cut + 2 * S);
        let suspect = sim.arrivals(A, Suspect)[0];
        let before = asked(&sim.probes, B, cut - S, suspect);
        assert!(before.len() <= 2, "{before:?}");
        let after = asked(&sim.probes, B, suspect, suspect + 10 * INTERVAL);
        let expected: Vec<u64> = (0..10).map(|n| suspect + n * INTERVAL).collect();
        assert_eq!(after, expected, "suspect at {suspect}");
    }
}

#[test]
fn when_the_active_path_loses_its_carrier_the_metered_one_is_asked_at_once() {
    let lost = 5 * S + 3 * MS;
    let mut sim = with_standby(Net::new(NEAR), Net::new(NEAR));
    sim.link(lost, 0, Flags::NO_CARRIER);
    sim.run(lost + S);
    assert_eq!(sim.engine.active(PEER), Some(B));
    let after = asked(&sim.probes, B, lost, EVER);
    assert_eq!(after[..3], [lost, lost + INTERVAL, lost + 2 * INTERVAL]);
}

#[test]
fn a_metered_path_that_lives_is_never_doubted_for_having_been_asked_seldom() {
    for rtt in [NEAR, 20 * MS, FAR] {
        for phase in (0..1000).step_by(173) {
            let cut = 8 * S + phase * MS;
            // Now and then in doubt, then dead for a while, then back.
            let a = (0..5).fold(Net::new(NEAR), |net, n| {
                let from = cut + n * 333 * MS;
                net.cut(from..from + DOUBT)
            });
            let mut sim = with_standby(a.cut(cut + 3 * S..cut + 4 * S), Net::new(rtt));
            let mut now = 4 * S;
            while now < cut + 4 * S + HOLD_DOWN + 4 * S {
                now += MS;
                sim.run(now);
                assert_eq!(
                    judged(&sim, B),
                    Liveness::Live,
                    "round trip {rtt}, cut at {cut}, at {now}"
                );
            }
            assert!(sim.arrivals(A, Suspect).len() > 2 && !sim.arrivals(A, Down).is_empty());
            assert!(sim.reports.iter().all(|(_, report)| report.path == A));
            assert_eq!(sim.engine.active(PEER), Some(A), "the traffic is back");
        }
    }
}

#[test]
fn traffic_on_a_metered_path_is_protected_like_any_other() {
    let cut = 10 * S + 7 * MS;
    let a = Net::new(NEAR).cut(5 * S..8 * S);
    let mut sim = with_standby(a, Net::new(NEAR).cut(cut..EVER));
    sim.run(cut);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Held, Some(B)));
    sim.run(cut + S);
    assert_eq!((sim.state(B), sim.engine.active(PEER)), (Down, Some(A)));
    assert_eq!(sim.lost(cut + DEAD_WITHIN..EVER), 0);
}

#[test]
fn when_the_traffic_returns_the_rate_falls_back() {
    let mut sim = with_standby(Net::new(NEAR).cut(5 * S..6 * S), Net::new(NEAR));
    sim.run(60 * S);
    let back = sim.arrivals(A, Up)[0];
    assert_eq!(sim.engine.active(PEER), Some(A));
    assert_eq!(asked(&sim.probes, B, back - S, back).len() as u64, S / INTERVAL);
    assert_eq!(
        asked(&sim.probes, B, back + INTERVAL, back + INTERVAL + 20 * S).len(),
        20
    );
}

#[test]
fn a_metered_path_that_died_unseen_is_found_out_at_the_interval_once_it_is_needed() {
    let cut = 5 * S + 300 * MS;
    let mut sim = with_standby(Net::new(NEAR).cut(cut..EVER), Net::new(NEAR).cut(5 * S..EVER));
    sim.run(cut + S);
    let suspect = sim.arrivals(A, Suspect)[0];
    let down = sim.arrivals(B, Down);
    assert!(
        down.len() == 1 && down[0] - suspect <= DEAD_WITHIN,
        "{down:?}, needed at {suspect}"
    );
}

#[test]
fn doubts_about_the_active_path_do_not_keep_a_dead_metered_one_alive() {
    let a = (0..100).fold(Net::new(NEAR), |net, n| {
        let from = 5 * S + n * 100 * MS;
        net.cut(from..from + DOUBT)
    });
    let mut sim = with_standby(a, Net::new(NEAR).cut(5 * S..EVER));
    sim.run(5 * S + 3250 * MS + 100 * MS + DEAD_WITHIN);
    assert!(sim.arrivals(A, Suspect).len() > 10, "{:?}", sim.reports);
    assert_eq!(sim.state(B), Down);
}

#[test]
fn a_doubt_that_arose_in_haste_is_resolved_by_answers_or_their_lack_and_not_by_the_rate_falling_back() {
    let a = || Net::new(NEAR).cut(5 * S..6 * S);
    let mut clean = with_standby(a(), Net::new(NEAR));
    clean.run(30 * S);
    let back = clean.arrivals(A, Up)[0];
    let cut = back - 40 * MS;
    let mut sim = with_standby(a(), Net::new(NEAR).cut(cut..EVER));
    sim.run(back);
    assert_eq!((sim.state(A), sim.state(B)), (Up, Suspect));
    sim.run(back + 30 * S);
    assert!(sim.arrivals(B, Up).is_empty(), "without an answer");
    let down = sim.arrivals(B, Down);
    assert!(
        down.len() == 1 && down[0] - cut <= DEAD_WITHIN,
        "{down:?}, cut at {cut}"
    );
}
