use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::PathState;

use super::sim::{INTERVAL, MS, S, START, settings};
use crate::engine::transition::{carries, is_held_back};
use crate::engine::{Action, Engine, Input, Objectives, PathSpec, PeerSpec};

const PEERS: u32 = 3;
const UPLINKS: u32 = 3;

/// Two peers with a path over each of three uplinks, the last of them metered, in opposite orders, and one with a single path.
fn peers() -> Vec<PeerSpec> {
    let spec = |peer: u32| {
        let id = PeerId(peer);
        let interval = Duration::from_nanos(INTERVAL * u64::from(1 + peer * 4));
        let path = |n| {
            let uplink = if peer == 0 { n } else { UPLINKS - 1 - n };
            PathSpec {
                id: PathId::new(id, n),
                uplink: UplinkId(uplink),
                interval,
                metered: uplink == UPLINKS - 1,
                padded: true,
                responder: 0,
            }
        };
        PeerSpec {
            id,
            paths: (0..if peer == 2 { 1 } else { UPLINKS }).map(path).collect(),
            objectives: Objectives {
                max_loss_ppm: Some(50_000),
                max_rtt: Some(Duration::from_millis(100)),
                max_jitter: None,
            },
        }
    };
    (0..PEERS).map(spec).collect()
}

/// An input, its times relative to now.
#[derive(Clone, Copy, Debug)]
enum Step {
    UplinkFlags {
        uplink: u32,
        flags: u32,
    },
    Reply {
        path: PathId,
        sequence: u32,
        rtt: u64,
        at: i64,
    },
    Latched {
        path: PathId,
        silence: u64,
        at: i64,
    },
    Switched {
        path: PathId,
        from: Option<PathId>,
        at: i64,
    },
    Proof {
        path: PathId,
        proof: i64,
        unanswered: u64,
        latched: Option<i64>,
    },
    ProbeSent {
        path: PathId,
        sequence: u32,
        at: i64,
    },
    ProbeFailed {
        path: PathId,
        sequence: u32,
    },
    Traffic {
        path: PathId,
        sent: bool,
        received: bool,
    },
    Tick,
}

impl Step {
    fn input(self, now_ns: u64) -> Input {
        let time = |offset: i64| now_ns.saturating_add_signed(offset);
        match self {
            Self::UplinkFlags { uplink, flags } => Input::UplinkFlags {
                uplink: UplinkId(uplink),
                flags: Flags(flags),
            },
            Self::Reply {
                path,
                sequence,
                rtt,
                at,
            } => Input::Reply {
                path,
                sequence,
                rtt: Duration::from_nanos(rtt),
                at_ns: time(at),
            },
            Self::Latched { path, silence, at } => Input::Latched {
                path,
                silence: Duration::from_nanos(silence),
                at_ns: time(at),
            },
            Self::Switched { path, from, at } => Input::Switched {
                path,
                from,
                silence: Duration::ZERO,
                at_ns: time(at),
            },
            Self::Proof {
                path,
                proof,
                unanswered,
                latched,
            } => Input::Proof {
                path,
                proof_ns: time(proof),
                unanswered,
                latched_ns: latched.map(time),
            },
            Self::ProbeSent { path, sequence, at } => Input::ProbeSent {
                path,
                sequence,
                at_ns: time(at),
            },
            Self::ProbeFailed { path, sequence } => Input::ProbeFailed { path, sequence },
            Self::Traffic { path, sent, received } => Input::Traffic { path, sent, received },
            Self::Tick => Input::Tick,
        }
    }
}

/// Also of paths that do not exist.
fn path() -> impl Strategy<Value = PathId> {
    (0..PEERS, 0..UPLINKS + 1).prop_map(|(peer, slot)| PathId::new(PeerId(peer), slot))
}

/// Moments around now: mostly recent, sometimes nonsense.
fn offset() -> impl Strategy<Value = i64> {
    let ms = MS as i64;
    prop_oneof![4 => -100 * ms..1, 3 => Just(0), 1 => -100_000 * ms..100_000 * ms, 1 => any::<i64>()]
}

fn sequence() -> impl Strategy<Value = u32> {
    (0u32..40).prop_map(|n| settings().first_sequence.wrapping_add(n))
}

fn unanswered() -> impl Strategy<Value = u64> {
    // A count of probes: what cannot be reached in a million years need not be told from a negative number.
    prop_oneof![0u64..6, 0..u64::MAX / 4]
}

fn step() -> impl Strategy<Value = Step> {
    let rtt = prop_oneof![9 => 0..300 * MS, 1 => any::<u64>()];
    let reply = (path(), sequence(), rtt, offset());
    let proof = (path(), offset(), unanswered(), prop::option::of(offset()));
    prop_oneof![
        2 => (0..UPLINKS + 1, 0u32..40).prop_map(|(uplink, flags)| Step::UplinkFlags { uplink, flags }),
        2 => (0..UPLINKS).prop_map(|uplink| Step::UplinkFlags { uplink, flags: 0 }),
        6 => reply.prop_map(|(path, sequence, rtt, at)| Step::Reply { path, sequence, rtt, at }),
        2 => (path(), any::<u64>(), offset()).prop_map(|(path, silence, at)| Step::Latched { path, silence, at }),
        1 => (path(), prop::option::of(path()), offset()).prop_map(|(path, from, at)| Step::Switched { path, from, at }),
        6 => proof.prop_map(|(path, proof, unanswered, latched)| Step::Proof { path, proof, unanswered, latched }),
        4 => (path(), sequence(), offset()).prop_map(|(path, sequence, at)| Step::ProbeSent { path, sequence, at }),
        1 => (path(), sequence()).prop_map(|(path, sequence)| Step::ProbeFailed { path, sequence }),
        6 => (path(), prop::bool::weighted(0.9), prop::bool::weighted(0.1)).prop_map(|(path, sent, received)| Step::Traffic { path, sent, received }),
        8 => Just(Step::Tick),
    ]
}

/// How far the clock moves before an input, backwards too.
fn pause() -> impl Strategy<Value = i64> {
    let (ms, s) = (MS as i64, S as i64);
    prop_oneof![3 => Just(0), 6 => 0..30 * ms, 2 => 0..200 * ms, 1 => 0..100 * s, 1 => -s..0]
}

/// What the maps hold, as the actions say.
#[derive(Default)]
struct Maps {
    uplinks: BTreeMap<UplinkId, Flags>,
    flags: BTreeMap<PathId, Flags>,
    thresholds: BTreeMap<PathId, Thresholds>,
    status: BTreeMap<PathId, (PathState, u32)>,
    reported: BTreeMap<PathId, PathState>,
    moves: BTreeMap<PeerId, u64>,
}

impl Maps {
    /// Carries actions out, and checks what can be seen of each of them alone.
    fn carry_out(&mut self, actions: &[Action]) -> Result<(), TestCaseError> {
        let mut lifted = Vec::new();
        let mut moved = Vec::new();
        for (index, action) in actions.iter().enumerate() {
            match *action {
                Action::SetUplinkFlags { uplink, flags } => {
                    prop_assert_eq!(index, 0, "an uplink's flags come first");
                    self.uplinks.insert(uplink, flags);
                }
                Action::SetPathFlags { path, flags } => {
                    prop_assert!(
                        flags == Flags::HELD || lifted.contains(&path),
                        "cleared before the latch was lifted"
                    );
                    prop_assert_ne!(self.flags.insert(path, flags), Some(flags), "nothing new");
                }
                Action::SetThresholds { path, thresholds } => {
                    prop_assert_ne!(
                        self.thresholds.insert(path, thresholds),
                        Some(thresholds),
                        "nothing new"
                    );
                }
                Action::LiftLatch { path } => lifted.push(path),
                Action::SetStatus { path, state, loss_ppm } => {
                    prop_assert!(loss_ppm <= 1_000_000);
                    prop_assert_ne!(self.status.insert(path, (state, loss_ppm)), Some((state, loss_ppm)));
                }
                Action::SendProbe { path, .. } | Action::SendFullSize { path, .. } => {
                    let uplink = uplink(path);
                    prop_assert!(
                        !self.uplinks[&uplink].any_of(Flags::UNUSABLE),
                        "a probe that must be lost"
                    );
                }
                Action::ReportUnanswered { .. } => {}
                Action::Report(t) => {
                    prop_assert_eq!(self.reported.insert(t.path, t.to), Some(t.from), "a report is missing");
                    if t.moved {
                        prop_assert!(t.now_on.is_some() && !moved.contains(&t.peer), "{:?}", t);
                        moved.push(t.peer);
                        *self.moves.entry(t.peer).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

fn uplink(path: PathId) -> UplinkId {
    let paths = peers().into_iter().flat_map(|peer| peer.paths);
    paths.into_iter().find(|spec| spec.id == path).expect("a path").uplink
}

/// What must hold after every input.
fn check(engine: &Engine, maps: &Maps) -> Result<(), TestCaseError> {
    for peer in peers() {
        let mut carrying = Vec::new();
        for spec in &peer.paths {
            let view = engine.path(spec.id).expect("a path");
            let flags = maps.flags[&spec.id];
            prop_assert_eq!(
                flags == Flags::HELD,
                is_held_back(view.state),
                "flagged exactly while down or held"
            );
            prop_assert_eq!(
                maps.status[&spec.id],
                (view.state, view.loss_ppm),
                "the status is the state"
            );
            prop_assert_eq!(maps.reported[&spec.id], view.state, "every change is reported");
            prop_assert_eq!(
                maps.thresholds[&spec.id],
                view.thresholds,
                "both judge by the same numbers"
            );
            if maps.uplinks[&spec.uplink].any_of(Flags::UNUSABLE) {
                prop_assert_eq!(view.state, PathState::Down, "no uplink, no path");
            }
            if carries(view.state) {
                carrying.push(spec.id);
            }
            if view.state == PathState::Held {
                let better = peer
                    .paths
                    .iter()
                    .any(|p| carries(engine.path(p.id).expect("a path").state));
                prop_assert!(better, "held although nothing is better");
            }
        }
        prop_assert_eq!(engine.active(peer.id), carrying.first().copied(), "the first that can");
        let failovers: u64 = engine
            .failovers(peer.id)
            .expect("a peer")
            .iter()
            .map(|(_, count)| count)
            .sum();
        prop_assert!(failovers <= maps.moves.get(&peer.id).copied().unwrap_or(0));
    }
    check_agenda(engine)
}

/// The agenda is what asking every path would give.
fn check_agenda(engine: &Engine) -> Result<(), TestCaseError> {
    let paths = engine.peers.values().flat_map(|peer| &peer.paths);
    let wakeups: BTreeMap<PathId, u64> = paths.filter_map(|path| Some((path.id, path.wakeup()?))).collect();
    let first = wakeups.values().copied().chain(engine.hint_ns).min();
    prop_assert_eq!(engine.next_wakeup(), first);
    for later in [0, MS, S] {
        let due_ns = engine.now_ns + later;
        let is_due = |(path, at_ns): &(&PathId, &u64)| **at_ns <= due_ns || engine.hinted.contains(&path.peer());
        let expected: Vec<PathId> = wakeups.iter().filter(is_due).map(|(path, _)| *path).collect();
        prop_assert_eq!(engine.due(due_ns).collect::<Vec<_>>(), expected);
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_the_maps_agree_with_the_engine_and_the_engine_with_itself(
        steps in prop::collection::vec((pause(), step()), 0..120),
        revived in 0..PEERS,
    ) {
        let peers = peers();
        let bound = 1 + 8 * peers.iter().map(|peer| peer.paths.len()).sum::<usize>();
        let mut maps = Maps::default();
        let mut actions = Vec::new();
        let mut now = START;
        let mut engine = Engine::new(settings(), &peers, now, &mut actions);
        // The first actions hold every uplink and path, and have an order of their own.
        for path in peers.iter().flat_map(|peer| &peer.paths) {
            maps.reported.insert(path.id, PathState::Up);
            maps.flags.insert(path.id, Flags::NONE);
            maps.thresholds.insert(path.id, engine.path(path.id).expect("a path").thresholds);
            maps.status.insert(path.id, (PathState::Up, 0));
            maps.uplinks.insert(path.uplink, Flags::NONE);
        }
        let mut latest = now;
        for (pause, step) in steps {
            now = now.saturating_add_signed(pause);
            latest = latest.max(now);
            actions.clear();
            engine.handle(step.input(now), now, &mut actions);
            prop_assert!(actions.len() <= bound, "{} actions from {:?}", actions.len(), step);
            maps.carry_out(&actions)?;
            check(&engine, &maps)?;
            if matches!(step, Step::Tick) {
                prop_assert!(engine.next_wakeup().is_none_or(|at| at > latest), "{:?}", step);
let mut uplinks = (0..UPLINKS).map(|uplink| maps.uplinks[&UplinkId(uplink)]);
                let usable = uplinks.any(|flags| !flags.any_of(Flags::UNUSABLE));
                prop_assert_eq!(engine.next_wakeup().is_some(), usable);
            }
        }

        // From wherever that led: a path that proves itself over a usable uplink gives its peer an active path.
        let spec = &peers[revived as usize].paths[0];
        let now = latest + MS;
        actions.clear();
        engine.handle(Input::UplinkFlags { uplink: spec.uplink, flags: Flags::NONE }, now, &mut actions);
        maps.carry_out(&actions)?;
        actions.clear();
        let proof = Input::Proof { path: spec.id, proof_ns: now + MS, unanswered: 0, latched_ns: None };
        engine.handle(proof, now + MS, &mut actions);
        maps.carry_out(&actions)?;
        check(&engine, &maps)?;
        prop_assert!(engine.active(PeerId(revived)).is_some());
    }

    #[test]
    fn nothing_is_convicted_by_silence_that_was_not_asked(
        steps in prop::collection::vec((0..10 * S, any::<bool>()), 0..100),
    ) {
        let mut now = START;
        let mut actions = Vec::new();
        let mut engine = Engine::new(settings(), &peers(), now, &mut actions);
        for (pause, refused) in steps {
            now += pause;
            actions.clear();
            engine.handle(Input::Tick, now, &mut actions);
            for action in actions.clone() {
                if let Action::SendProbe { path, sequence } | Action::SendFullSize { path, sequence } = action
                    && refused
                {
                    engine.handle(Input::ProbeFailed { path, sequence }, now, &mut actions);
                }
            }
            prop_assert!(!actions.iter().any(|action| matches!(action, Action::Report(_))));
        }
    }
}
