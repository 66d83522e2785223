use proptest::prelude::*;
use wgxdp_common::liveness::Flags;
use wgxdp_common::table::PathState::{Down, Held, Up};

use super::sim::{A, B, HOLD_DOWN, MS, Net, PEER, S, Sim, US};
use crate::engine::stall::{Evidence, patience_ns};
use crate::engine::{Cause, MoveReason};

const NEAR: u64 = 200 * US;
const EVER: u64 = u64::MAX;
/// On a path that loses nothing: 20 s, the first packet that is missing, and the next look.
const FOUND_WITHIN: u64 = 22 * S;
/// How long a path that stalled is spared.
const SPARED: u64 = 200 * S;

/// A packet every 100 ms: what matters here are seconds.
fn sim(nets: Vec<Net>) -> Sim {
    let mut sim = Sim::new(nets, true);
    sim.packet_every = 100 * MS;
    sim
}

fn stalls(sim: &Sim) -> u64 {
    sim.engine.failovers(PEER).expect("the peer").get(MoveReason::Stall)
}

#[test]
fn the_more_is_lost_the_longer_nothing_may_come() {
    let rows = [
        (0, 20),
        (1000, 20),
        (10_000, 25),
        (50_000, 30),
        (200_000, 45),
        (500_000, 90),
    ];
    for (loss_ppm, seconds) in rows {
        assert_eq!(patience_ns(loss_ppm), seconds * S, "{loss_ppm} ppm");
    }
    assert!(patience_ns(1_000_000) > 3600 * S, "of such a path nothing is said");
}

#[test]
fn a_path_that_swallows_the_tunnels_packets_is_left_for_one_that_does_not() {
    let from = 5 * S;
    let mut sim = sim(vec![Net::new(NEAR).stall(from..EVER), Net::new(NEAR)]);
    sim.run(60 * S);
    let down = sim.arrivals(A, Down);
    assert!(
        down.len() == 1 && (from + 20 * S..from + FOUND_WITHIN).contains(&down[0]),
        "{down:?}"
    );
    let (_, transition) = sim.reports.last().expect("a report");
    assert_eq!(
        (transition.cause, transition.now_on, transition.moved),
        (Cause::Stall, Some(B), true)
    );
    assert_eq!((stalls(&sim), sim.moves(), sim.lost(down[0]..EVER)), (1, 1, 0));
    assert_eq!(sim.unanswered, [], "the far end answers");
}

#[test]
fn it_is_tried_again_much_later_and_each_time_that_it_is_left_again_later_still() {
    let mut sim = sim(vec![Net::new(NEAR).stall(5 * S..EVER), Net::new(NEAR)]);
    sim.run(1800 * S);
    let (down, up) = (sim.arrivals(A, Down), sim.arrivals(A, Up));
    let spared: Vec<u64> = down.iter().zip(&up).map(|(down, up)| (up - down) / S).collect();
    assert_eq!(spared, [210, 220, 240, 280, 360], "the hold-down doubles");
    // It had all the traffic for a tenth of the time at most.
    assert!(sim.lost(0..EVER) * 10 < sim.packets.len());
}

#[test]
fn its_traffic_returns_if_it_passes_again_when_it_is_tried() {
    let mut sim = sim(vec![Net::new(NEAR).stall(5 * S..60 * S), Net::new(NEAR)]);
    sim.run(60 * S + SPARED + HOLD_DOWN);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Up, Some(A)));
    sim.run(600 * S);
    assert_eq!((stalls(&sim), sim.moves()), (1, 2));
}

#[test]
fn a_far_end_that_is_down_moves_the_traffic_once_around_and_then_ever_more_seldom_and_is_told_once() {
    let net = || Net::new(NEAR).stall(5 * S..EVER);
    let mut sim = sim(vec![net(), net(), net()]);
    sim.run(SPARED);
    assert_eq!((stalls(&sim), sim.moves()), (2, 3), "{:?}", sim.reports);
    assert_eq!(
        sim.engine.active(PEER),
        Some(A),
        "where it was, because none of them is to blame"
    );
    sim.run(3600 * S);
    assert!(
        stalls(&sim) <= 2 * 5,
        "200 s, 400 s, 800 s and 1600 s lie between the turns: {}",
        stalls(&sim)
    );
    assert!(matches!(sim.unanswered[..], [(_, _, true)]), "{:?}", sim.unanswered);
}

#[test]
fn a_far_end_that_comes_back_is_forgotten_to_have_been_away() {
    let net = || Net::new(NEAR).stall(5 * S..100 * S).stall(150 * S..EVER);
    let mut sim = sim(vec![net(), net()]);
    sim.run(149 * S);
    assert_eq!(
        (stalls(&sim), sim.engine.active(PEER), sim.lost(100 * S..EVER)),
        (1, Some(A), 0)
    );
    sim.run(200 * S);
    assert_eq!(
        (stalls(&sim), sim.unanswered.len()),
        (2, 2),
        "the next time is another matter"
    );
}

#[test]
fn a_path_without_another_stays_and_it_is_told_once() {
    let mut alone = sim(vec![Net::new(NEAR).stall(5 * S..EVER)]);
    alone.run(300 * S);
    assert!(alone.reports.is_empty(), "{:?}", alone.reports);
    assert!(
        matches!(alone.unanswered[..], [(_, A, false)]),
        "{:?}",
        alone.unanswered
    );
    // As soon as there is one it is tried.
    let mut late = sim(vec![Net::new(NEAR).stall(5 * S..EVER), Net::new(NEAR).cut(0..100 * S)]);
    late.run(100 * S + HOLD_DOWN + 3 * S);
    assert_eq!((late.state(A), late.engine.active(PEER)), (Down, Some(B)));
}

#[test]
fn a_path_that_stalls_is_better_than_a_dead_one_and_left_again_when_that_is_back() {
    let nets = vec![Net::new(NEAR).stall(5 * S..EVER), Net::new(NEAR).cut(60 * S..70 * S)];
    let mut sim = sim(nets);
    sim.run(61 * S);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Up, Some(A)));
    sim.run(70 * S + HOLD_DOWN + S);
    assert_eq!((sim.state(A), sim.engine.active(PEER)), (Down, Some(B)));
}

#[test]
fn another_network_behind_the_uplink_is_another_path() {
    let mut sim = sim(vec![Net::new(NEAR).stall(5 * S..50 * S), Net::new(NEAR)]);
    sim.link(60 * S, 0, Flags::NO_CARRIER);
    sim.link(62 * S, 0, Flags::NONE);
    sim.run(63 * S);
    assert_eq!(sim.state(A), Held);
    sim.run(62 * S + HOLD_DOWN + S);
    assert_eq!(sim.engine.active(PEER), Some(A));
}

#[test]
fn while_the_daemon_does_not_look_nothing_is_learned() {
    for (asleep, moved) in [(S, 1), (15 * S, 0)] {
        let mut sim = sim(vec![Net::new(NEAR).stall(5 * S..EVER), Net::new(NEAR)]);
        let sleeps = (0..20).map(|n| 6 * S + n * 16 * S).map(|from| from..from + asleep);
        sim.starved.extend(sleeps);
        sim.run(60 * S);
        assert_eq!(stalls(&sim), moved, "asleep for {} s at a time", asleep / S);
    }
}

/// What one end of a tunnel keeps in mind, as drivers/net/wireguard/timers.c does; in tenths of a second.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// `timer_new_handshake`, armed with data and disarmed by whatever comes.
    handshake_at: Option<u32>,
    /// `timer_send_keepalive`, armed by data that comes and disarmed by whatever leaves.
    keepalive_at: Option<u32>,
    /// `timer_retransmit_handshake`, and how often it may run out.
    retry_at: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Message {
    Data,
    Keepalive,
    Initiation,
    Response,
}

impl End {
    /// What leaves at that time; `data`: an application sends.
    fn leaves(&mut self, now: u32, data: bool) -> Vec<Message> {
        let mut out = Vec::new();
        if data {
            self.handshake_at.get_or_insert(now + 150);
            out.push(Message::Data);
        }
        if self.handshake_at.is_some_and(|at| at <= now) {
            self.handshake_at = None;
            self.retry_at = Some((now + 50, 18));
            out.push(Message::Initiation);
        }
        if let Some((at, left)) = self.retry_at
            && at <= now
        {
            self.retry_at = left.checked_sub(1).map(|left| (now + 50, left));
            out.extend((left > 0).then_some(Message::Initiation));
        }
        if self.keepalive_at.is_some_and(|at| at <= now) {
            out.push(Message::Keepalive);
        }
        if !out.is_empty() {
            self.keepalive_at = None;
        }
        out
    }

    /// What leaves in return for what comes.
    fn takes(&mut self, message: Message, now: u32) -> Option<Message> {
        if message != Message::Initiation {
            self.handshake_at = None;
        }
        match message {
            Message::Data => _ = self.keepalive_at.get_or_insert(now + 100),
            Message::Keepalive => {}
            Message::Initiation => return Some(Message::Response),
            Message::Response => {
                self.retry_at = None;
                return Some(Message::Keepalive);
            }
        }
        None
    }
}

/// Two ends whose applications send in the tenths of a second that are given, ours and theirs, over a path that carries nothing from `dead_from` on. Returns for how long, at
/// most, ours sent in vain by the evidence, before that and after, in seconds.
fn converse(ours: &[u32], theirs: &[u32], dead_from: u32) -> (u64, u64) {
    let (mut here, mut there) = (End::default(), End::default());
    let mut evidence = Evidence::default();
    let (mut sent, mut received) = (false, false);
    let mut longest = (0, 0);
    for now in 0..3000 {
        let passes = now < dead_from;
        let mut left = here.leaves(now, ours.contains(&now));
        let mut came = there.leaves(now, theirs.contains(&now));
        if passes {
            came.extend(left.clone().into_iter().filter_map(|message| there.takes(message, now)));
            let answers: Vec<_> = came.iter().filter_map(|message| here.takes(*message, now)).collect();
            for answer in &answers {
                there.takes(*answer, now);
            }
            left.extend(answers);
            received |= !came.is_empty();
        }
        sent |= left.iter().any(|message| *message != Message::Keepalive);
        if now % 10 == 9 {
            let now_ns = u64::from(now + 1) * 100 * MS + 1000 * S;
            let silence = evidence.note(sent, received, now_ns).unwrap_or(0) / S;
            let longest = if passes { &mut longest.0 } else { &mut longest.1 };
            *longest = silence.max(*longest);
            (sent, received) = (false, false);
        }
    }
    longest
}

#[test]
fn one_packet_into_a_void_is_evidence_because_wireguard_goes_on() {
    assert_eq!(converse(&[100], &[], 3000), (0, 0), "a keepalive answers it");
    let (before, after) = converse(&[100], &[], 50);
    assert!(before == 0 && after >= 20, "{after} s");
    assert_eq!(
        converse(&[], &[100, 400], 50),
        (0, 0),
        "who sends nothing is not judged"
    );
    let download: Vec<u32> = (0..3000).step_by(3).collect();
    assert_eq!(converse(&[], &download, 3000), (0, 0));
    let (before, _) = converse(&download, &[], 3000);
    assert!(
        (9..=11).contains(&before),
        "an upload is answered by keepalives: {before} s"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whoever_keeps_wireguards_law_is_never_convicted_and_a_void_is(
        ours in prop::collection::vec(0u32..3000, 0..60),
        theirs in prop::collection::vec(0u32..3000, 0..60),
        dead_from in 0u32..2000,
    ) {
        let (before, after) = converse(&ours, &theirs, dead_from);
        prop_assert!(before < 15, "{before} s");
        let sends_into_it = ours.iter().any(|at| (dead_from..2500).contains(at));
        prop_assert!(after >= 20 || !sends_into_it, "{after} s");
    }
}
