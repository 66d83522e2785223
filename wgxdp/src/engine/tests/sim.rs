//! A host in miniature: the kernel's half of the liveness rule, two or more uplinks with a network behind each, a driver as the engine's
//! documentation asks for, and a tunnel that sends a packet each millisecond.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{self, Choice, Chooser, Flags, Liveness, Standing, Thresholds};
use wgxdp_common::table::{PathState, Proof};

use crate::engine::{Action, Engine, Input, Objectives, PathSpec, PeerSpec, Settings, Transition};

pub(super) const US: u64 = 1000;
pub(super) const MS: u64 = 1000 * US;
pub(super) const S: u64 = 1000 * MS;
/// The virtual clock does not begin at zero.
pub(super) const START: u64 = 1000 * S;
pub(super) const INTERVAL: u64 = 20 * MS;
pub(super) const HOLD_DOWN: u64 = 10 * S;
pub(super) const PEER: PeerId = PeerId(0);
pub(super) const A: PathId = PathId(0);
pub(super) const B: PathId = PathId(1);

pub(super) fn settings() -> Settings {
    Settings {
        hold_down: Duration::from_nanos(HOLD_DOWN),
        first_sequence: u32::MAX - 5,
        ..Settings::default()
    }
}

/// One peer with a path over each of `count` uplinks.
pub(super) fn one_peer(count: u32) -> Vec<PeerSpec> {
    let path = |n| PathSpec {
        id: PathId(n),
        uplink: UplinkId(n),
        interval: Duration::from_nanos(INTERVAL),
        metered: false,
        padded: true,
        responder: 0,
    };
    vec![PeerSpec {
        id: PEER,
        paths: (0..count).map(path).collect(),
        objectives: Objectives::default(),
    }]
}

/// The network behind an uplink. Times are since [`START`].
#[derive(Clone, Debug)]
pub(super) struct Net {
    /// From then on, this is the round trip.
    pub(super) rtt: Vec<(u64, u64)>,
    /// Nothing passes, either way.
    pub(super) cuts: Vec<Range<u64>>,
    /// Large packets do not pass, either way.
    pub(super) swallows: Vec<Range<u64>>,
    /// The tunnel's own packets do not pass, either way; probes do.
    pub(super) stalls: Vec<Range<u64>>,
    /// Lost round trips in a hundred.
    pub(super) loss: u64,
}

impl Net {
    pub(super) fn new(rtt: u64) -> Self {
        Self {
            rtt: vec![(0, rtt)],
            cuts: Vec::new(),
            swallows: Vec::new(),
            stalls: Vec::new(),
            loss: 0,
        }
    }

    pub(super) fn cut(mut self, cut: Range<u64>) -> Self {
        self.cuts.push(cut);
        self
    }

    pub(super) fn swallow(mut self, during: Range<u64>) -> Self {
        self.swallows.push(during);
        self
    }

    pub(super) fn stall(mut self, during: Range<u64>) -> Self {
        self.stalls.push(during);
        self
    }

    fn rtt_at(&self, at: u64) -> u64 {
        self.rtt
            .iter()
            .rev()
            .find(|(from, _)| *from <= at)
            .expect("a round trip from 0")
            .1
    }

    fn is_cut(&self, at: u64) -> bool {
        self.cuts.iter().any(|cut| cut.contains(&at))
    }

    fn is_stalled(&self, at: u64) -> bool {
        self.stalls.iter().any(|stall| stall.contains(&at))
    }
}

/// What the kernel's maps hold of a path.
#[derive(Clone, Debug)]
pub(super) struct Maps {
    pub(super) uplink: UplinkId,
    pub(super) flags: Flags,
    pub(super) thresholds: Thresholds,
    pub(super) proof: Proof,
    pub(super) state: PathState,
    pub(super) loss_ppm: u32,
}

enum Event {
    Reply {
        path: PathId,
        sequence: u32,
        sent_ns: u64,
    },
    Packet,
    /// The counts are read.
    Look,
    Link {
        uplink: UplinkId,
        flags: Flags,
    },
}

/// A packet of the tunnel: when, by which path, and whether it arrived.
pub(super) struct Packet {
    pub(super) at: u64,
    pub(super) path: PathId,
    pub(super) arrived: bool,
}

pub(super) struct Sim {
    pub(super) engine: Engine,
    pub(super) maps: BTreeMap<PathId, Maps>,
    pub(super) uplinks: BTreeMap<UplinkId, Flags>,
    /// By uplink.
    pub(super) nets: Vec<Net>,
    /// The driver does not run.
    pub(super) starved: Vec<Range<u64>>,
    /// The first probe that is to leave at this time or later does so this much later: between the decision and its execution the driver was kept from running.
    pub(super) preempted: Option<(u64, u64)>,
    /// Records that get lost, in a hundred.
    pub(super) record_loss: u64,
    pub(super) packets: Vec<Packet>,
    pub(super) reports: Vec<(u64, Transition)>,
    /// When each probe left, but for the full-size ones.
    pub(super) probes: Vec<(u64, PathId)>,
    /// The same of these.
    pub(super) full_size: Vec<(u64, PathId)>,
    /// When the engine said that there is no path left to try, and whether nothing returns over any.
    pub(super) unanswered: Vec<(u64, PathId, bool)>,
    /// Between two of the tunnel's packets.
    pub(super) packet_every: u64,
    /// Packets of which the counts were read.
    looked_at: usize,
    /// When `steer` latched a path.
    pub(super) latches: Vec<(u64, PathId)>,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    waiting: Vec<Input>,
    active: Option<PathId>,
    random: u64,
}

impl Sim {
    /// With a packet each millisecond if `traffic`.
    pub(super) fn new(nets: Vec<Net>, traffic: bool) -> Self {
        Self::expecting(nets, traffic, Objectives::default(), 1)
    }

    /// The same for a tunnel with objectives, and the randomness of this seed.
    pub(super) fn expecting(nets: Vec<Net>, traffic: bool, objectives: Objectives, seed: u64) -> Self {
        let mut peers = one_peer(nets.len() as u32);
        peers[0].objectives = objectives;
        Self::of(peers, nets, traffic, seed)
    }

    /// The same where some uplinks are metered.
    pub(super) fn metered(nets: Vec<Net>, metered: &[PathId]) -> Self {
        let mut peers = one_peer(nets.len() as u32);
        for path in &mut peers[0].paths {
            path.metered = metered.contains(&path.id);
        }
        Self::of(peers, nets, true, 1)
    }

    /// The same where all paths are asked this often, without traffic.
    pub(super) fn every(nets: Vec<Net>, interval: Duration) -> Self {
        let mut peers = one_peer(nets.len() as u32);
        peers[0].paths.iter_mut().for_each(|path| path.interval = interval);
        Self::of(peers, nets, false, 1)
    }

    /// Whatever the first of these peers is like.
    pub(super) fn of(peers: Vec<PeerSpec>, nets: Vec<Net>, traffic: bool, seed: u64) -> Self {
        let mut actions = Vec::new();
        let engine = Engine::new(settings(), &peers, START, &mut actions);
        let maps = peers[0].paths.iter().map(|path| {
            let proof = Proof {
                proof_ns: START,
                ..Proof::default()
            };
            let (flags, thresholds) = (Flags::DRAINED, Thresholds::new(0, 0));
            (
                path.id,
                Maps {
                    uplink: path.uplink,
                    flags,
                    thresholds,
                    proof,
                    state: PathState::Drained,
                    loss_ppm: 0,
                },
            )
        });
        let mut sim = Self {
            engine,
            maps: maps.collect(),
            uplinks: BTreeMap::new(),
            nets,
            starved: Vec::new(),
            preempted: None,
            record_loss: 0,
            packets: Vec::new(),
            reports: Vec::new(),
            probes: Vec::new(),
            full_size: Vec::new(),
            latches: Vec::new(),
            unanswered: Vec::new(),
            packet_every: MS,
            looked_at: 0,
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            waiting: Vec::new(),
            active: None,
            random: 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed),
        };
        sim.carry_out(actions);
        if traffic {
            sim.at(0, Event::Packet);
            sim.at(0, Event::Look);
        }
        sim
    }

    /// A link event at that time.
    pub(super) fn link(&mut self, at: u64, uplink: u32, flags: Flags) {
        self.at(
            at,
            Event::Link {
                uplink: UplinkId(uplink),
                flags,
            },
        );
    }

    /// Runs to that time.
    pub(super) fn run(&mut self, until: u64) {
        loop {
            let event = self.queue.keys().next().copied();
            let wakeup = self
                .engine
                .next_wakeup()
                .map(|at| self.awake((at - START.min(at)).max(self.now)));
            let next = [event.map(|(at, _)| at), wakeup].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = next;
            match event {
                Some(key) if key.0 == next => {
                    let event = self.queue.remove(&key).expect("just seen");
                    self.happen(event);
                }
                _ => self.wake(),
            }
        }
        self.now = until;
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn state(&self, path: PathId) -> PathState {
        self.engine.path(path).expect("a path").state
    }

    pub(super) fn moves(&self) -> u64 {
        self.engine
            .failovers(PEER)
            .expect("the peer")
            .iter()
            .map(|(_, count)| count)
            .sum()
    }

    /// Reports of a path's arrival in that state, by time.
    pub(super) fn arrivals(&self, path: PathId, state: PathState) -> Vec<u64> {
        self.reports
            .iter()
            .filter(|(_, t)| t.path == path && t.to == state)
            .map(|(at, _)| *at)
            .collect()
    }

    /// Packets that did not arrive.
    pub(super) fn lost(&self, during: Range<u64>) -> usize {
        self.packets
            .iter()
            .filter(|p| during.contains(&p.at) && !p.arrived)
            .count()
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    /// The first moment from `at` on at which the driver runs.
    fn awake(&self, at: u64) -> u64 {
        self.starved
            .iter()
            .find(|sleep| sleep.contains(&at))
            .map_or(at, |sleep| sleep.end)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < chance
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Reply {
                path,
                sequence,
                sent_ns,
            } => {
                let at_ns = START + self.now;
                let proof = &mut self.maps.get_mut(&path).expect("a path").proof;
                (proof.proof_ns, proof.unanswered) = (at_ns, 0);
                let rtt = Duration::from_nanos(self.now - sent_ns);
                self.record(Input::Reply {
                    path,
                    sequence,
                    rtt,
                    at_ns,
                });
            }
            Event::Packet => {
                self.steer();
                self.at(self.now + self.packet_every, Event::Packet);
            }
            Event::Look => {
                self.look();
                self.at(self.now + S, Event::Look);
            }
            Event::Link { uplink, flags } => self.tell(Input::UplinkFlags { uplink, flags }),
        }
    }

    /// What the counts say: each packet that arrives is answered at once.
    fn look(&mut self) {
        let packets = &self.packets[self.looked_at..];
        self.looked_at = self.packets.len();
        let Some(path) = self.engine.active(PEER) else { return };
        let (sent, received) = (
            packets.iter().any(|p| p.path == path),
            packets.iter().any(|p| p.arrived),
        );
        self.tell(Input::Traffic { path, sent, received });
    }

    /// What `steer` does with a packet.
    fn steer(&mut self) {
        let now_ns = START + self.now;
        let mut chooser = Chooser::default();
        let mut choice = None;
        let paths: Vec<PathId> = self.maps.keys().copied().collect();
        for path in &paths {
            let maps = self.maps.get_mut(path).expect("a path");
            let flags = maps.flags.with(self.uplinks[&maps.uplink]);
            let liveness = liveness::assess(now_ns, maps.proof.proof_ns, maps.proof.unanswered, maps.thresholds);
            let silence = Duration::from_nanos(now_ns - maps.proof.proof_ns);
            let newly = liveness == Liveness::Dead && maps.proof.latched_ns == 0 && flags == Flags::NONE;
            if newly {
                maps.proof.latched_ns = now_ns;
                self.latches.push((self.now, *path));
            }
            let latched = maps.proof.latched_ns != 0;
            if newly {
                self.record(Input::Latched {
                    path: *path,
                    silence,
                    at_ns: now_ns,
                });
            }
            choice = chooser.offer(Standing::judged(flags, latched, liveness));
            if choice.is_some() {
                break;
            }
        }
        let choice = choice.unwrap_or_else(|| chooser.make_do(now_ns));
        let (Choice::Live(place) | Choice::Suspect(place) | Choice::Oversize(place) | Choice::FailOpen(place)) = choice
        else {
            return;
        };
        let path = paths[place as usize];
        let uplink = self.maps[&path].uplink;
        let net = &self.nets[uplink.0 as usize];
        let passes = !net.is_cut(self.now) && !net.is_stalled(self.now);
        let arrived = passes && !self.uplinks[&uplink].any_of(Flags::UNUSABLE);
        self.packets.push(Packet {
            at: self.now,
            path,
            arrived,
        });
        if let Some(from) = self.active.replace(path).filter(|from| *from != path) {
            let silence = Duration::from_nanos(now_ns - self.maps[&from].proof.proof_ns);
            self.record(Input::Switched {
                path,
                from: Some(from),
                silence,
                at_ns: now_ns,
            });
        }
    }

    fn record(&mut self, record: Input) {
        if !self.percent(self.record_loss) {
            self.tell(record);
        }
    }

    fn tell(&mut self, input: Input) {
        if self.awake(self.now) == self.now {
            self.handle(input);
        } else {
            self.waiting.push(input);
        }
    }

    fn wake(&mut self) {
        for input in std::mem::take(&mut self.waiting) {
            self.handle(input);
        }
        let paths: Vec<PathId> = self.engine.due(START + self.now).collect();
        for path in paths {
            let Proof {
                proof_ns,
                unanswered,
                latched_ns,
                ..
            } = self.maps[&path].proof;
            let latched_ns = (latched_ns != 0).then_some(latched_ns);
            self.handle(Input::Proof {
                path,
                proof_ns,
                unanswered,
                latched_ns,
            });
        }
        self.handle(Input::Tick);
    }

    fn handle(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.engine.handle(input, START + self.now, &mut actions);
        let late = input == Input::Tick && self.engine.next_wakeup().is_some_and(|at| at <= START + self.now);
        assert!(!late, "asks to be woken at once, for ever");
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::SetUplinkFlags { uplink, flags } => {
                    self.uplinks.insert(uplink, flags);
                }
                Action::SetPathFlags { path, flags } => self.path(path).flags = flags,
                Action::SetThresholds { path, thresholds } => self.path(path).thresholds = thresholds,
                Action::LiftLatch { path } => self.path(path).proof.latched_ns = 0,
                Action::SetStatus { path, state, loss_ppm } => {
                    let maps = self.path(path);
                    (maps.state, maps.loss_ppm) = (state, loss_ppm);
                }
                Action::SendProbe { path, sequence } => self.send_probe(path, sequence, false),
                Action::SendFullSize { path, sequence } => self.send_probe(path, sequence, true),
                Action::Report(transition) => self.reports.push((self.now, transition)),
                Action::ReportUnanswered { path, everywhere } => self.unanswered.push((self.now, path, everywhere)),
            }
        }
    }

    fn path(&mut self, path: PathId) -> &mut Maps {
        self.maps.get_mut(&path).expect("a path")
    }

    /// What others do while the driver does not run, although it is in the middle of something.
    fn be_preempted(&mut self) {
        let Some((_, time)) = self.preempted.take_if(|(from, _)| *from <= self.now) else {
            return;
        };
        let until = self.now + time;
        self.starved.push(self.now..until);
        while let Some(event) = self.queue.first_entry().filter(|event| event.key().0 < until) {
            self.now = event.key().0;
            let event = event.remove();
            self.happen(event);
        }
        self.now = until;
    }

    fn send_probe(&mut self, path: PathId, sequence: u32, full_size: bool) {
        self.be_preempted();
        let now = self.now;
        let maps = self.path(path);
        maps.proof.unanswered += 1;
        let uplink = maps.uplink;
        assert!(
            !self.uplinks[&uplink].any_of(Flags::UNUSABLE),
            "a probe that must be lost"
        );
        let net = &self.nets[uplink.0 as usize];
        let arrives = now + net.rtt_at(now);
        let swallowed = full_size && net.swallows.iter().any(|during| during.contains(&now));
        let cut = swallowed || net.is_cut(now) || net.is_cut(arrives);
        let loss = net.loss;
        let sent = if full_size {
            &mut self.full_size
        } else {
            &mut self.probes
        };
        sent.push((now, path));
        if !cut && !self.percent(loss) {
            self.at(
                arrives,
                Event::Reply {
                    path,
                    sequence,
                    sent_ns: now,
                },
            );
        }
        self.handle(Input::ProbeSent {
            path,
            sequence,
            at_ns: START + now,
        });
    }
}
