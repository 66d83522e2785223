//! What WireGuard's own packets tell of the paths that carry them: whether data leaves, and whether anything returns. Read from the counts that the programs keep
//! anyway, a few peers at a time: each is looked at once in [`ROUND`], or as often as steps of [`AT_ONCE`] each [`LEAST_STEP`] allow (ten thousand peers: once in 4 s).
//!
//! A look costs one reading of the active path's count. The others' are read only if data left and nothing came over that one.
//!
//! **Handshake age.** What arrives answers only in a session. Where the far end's packets pass and ours do not, it begins handshake after handshake, all of which arrive and none of which
//! completes: once WireGuard last completed one so long ago that no session is valid ([`SESSION`]), nothing that arrives counts any more.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, SystemTime};

use wgxdp_common::count::PathCount;
use wgxdp_common::id::{PathId, PeerId};

use super::Daemon;
use crate::clock::monotonic_ns;
use crate::engine::Input;
use crate::host::wireguard::SESSION;
use crate::mtu::Family;

/// From one look at a peer to the next.
const ROUND: Duration = Duration::from_secs(1);
/// Peers that are looked at in one step.
const AT_ONCE: usize = 64;
/// The least time between two steps.
const LEAST_STEP: Duration = Duration::from_millis(25);

/// What the counts said when they were last read.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pages: BTreeMap<PeerId, Page>,
    /// Whom the last step ended with; `None`: the next one begins a round.
    last: Option<PeerId>,
    /// When the next step is due.
    pub(super) next_ns: u64,
}

/// One peer's.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// Which path carried its traffic, and what was counted there.
    active: PathId,
    count: PathCount,
    /// Packets that had arrived over its other paths when that was last asked.
    elsewhere: u64,
    session: Session,
}

/// A peer's latest session, as far as WireGuard tells of it.
#[derive(Clone, Copy, Debug)]
struct Session {
    /// When its handshake was completed, by the clock on the wall, which may be set: it only says whether there is another one by now.
    handshake: Option<SystemTime>,
    /// When that was first seen (CLOCK_MONOTONIC).
    seen_ns: u64,
}

impl Session {
    /// As it is now, after it was like this before.
    fn now(before: Option<Self>, handshake: Option<SystemTime>, now_ns: u64) -> Self {
        let same = before.filter(|before| before.handshake == handshake);
        same.unwrap_or(Self {
            handshake,
            seen_ns: now_ns,
        })
    }

    /// Whether it may be valid still.
    fn carries(&self, now_ns: u64) -> bool {
        Duration::from_nanos(now_ns.saturating_sub(self.seen_ns)) < SESSION
    }
}

impl Ledger {
    /// The peer is gone; its number may become another's.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.pages.remove(&peer);
    }

    /// Whom to look at now, of all who are there.
    fn step<P>(&mut self, peers: &BTreeMap<PeerId, P>, now_ns: u64) -> Vec<PeerId> {
        let from = self.last.map_or(Unbounded, Excluded);
        let step: Vec<PeerId> = peers
            .range((from, Unbounded))
            .map(|(id, _)| *id)
            .take(AT_ONCE)
            .collect();
        self.last = step.last().copied().filter(|_| step.len() == AT_ONCE);
        let steps = peers.len() / AT_ONCE + 1;
        let pause = (ROUND / steps as u32).max(LEAST_STEP);
        self.next_ns = now_ns + pause.as_nanos() as u64;
        step
    }

    /// Turns to the page of a peer whose traffic `active` carries, which has `others`. Nothing follows from the first look at a path.
    fn turn<E>(
        &mut self,
        active: PathId,
        others: impl Iterator<Item = PathId>,
        family: Family,
        (handshake, now_ns): (Option<SystemTime>, u64),
        counted: impl Fn(PathId) -> Result<PathCount, E>,
    ) -> Result<Option<Input>, E> {
        let count = counted(active)?;
        let page = self.pages.get(&active.peer()).filter(|page| page.active == active);
        let sent = page.is_some_and(|page| has_more_than_keepalives(&page.count, &count, family));
        let mut received = page.is_some_and(|page| page.count.rx_packets != count.rx_packets);
        let mut elsewhere = page.map(|page| page.elsewhere);
        if page.is_none() || sent && !received {
            let arrived = others
                .map(|path| Ok(counted(path)?.rx_packets))
                .sum::<Result<u64, E>>()?;
            received |= elsewhere.replace(arrived).is_some_and(|before| before != arrived);
        }
        let session = Session::now(
            self.pages.get(&active.peer()).map(|page| page.session),
            handshake,
            now_ns,
        );
        let traffic = Input::Traffic {
            path: active,
            sent,
            received: received && session.carries(now_ns),
        };
        let is_known = page.is_some();
        self.pages.insert(
            active.peer(),
            Page {
                active,
                count,
                elsewhere: elsewhere.unwrap_or(0),
                session,
            },
        );
        Ok(is_known.then_some(traffic))
    }
}

/// Whether any of the packets that left, as WireGuard sent them in this family, was larger than a keepalive, which is a data message of nothing.
fn has_more_than_keepalives(before: &PathCount, now: &PathCount, family: Family) -> bool {
    let left = |now: u64, before: u64| now.saturating_sub(before);
    let keepalives = left(now.tx_packets, before.tx_packets) * u64::from(family.overhead());
    left(now.tx_bytes, before.tx_bytes) > keepalives
}

impl Daemon {
    /// Looks at a few peers. Not in haste: what stalls is known after some twenty seconds.
    pub(super) fn read_traffic(&mut self) {
        let _rest = self.priority.rest();
        let now_ns = monotonic_ns();
        let mut actions = Vec::new();
        for peer in self.traffic.step(&self.peers, now_ns) {
            let (Some(active), Some(plan)) = (self.engine.active(peer), self.peers.get(&peer)) else {
                continue;
            };
            let others = plan
                .paths(peer)
                .into_iter()
                .map(|path| path.id)
                .filter(|path| *path != active);
            let family = Family::of(plan.canonical.ip());
            let counted = |path| self.dataplane.tables().path_count(path);
            let tunnel = self.tunnels.get(plan.tunnel);
            let of_wireguard = tunnel.and_then(|tunnel| tunnel.peer(plan.key.as_bytes()));
            let handshake = of_wireguard.and_then(|peer| peer.last_handshake);
            match self.traffic.turn(active, others, family, (handshake, now_ns), counted) {
                Ok(input) => input
                    .into_iter()
                    .for_each(|input| self.engine.handle(input, now_ns, &mut actions)),
                Err(e) => tracing::debug!("{}: {e}", self.names.path(active)),
            }
        }
        self.perform(actions);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    const A: PathId = PathId(0);
    const B: PathId = PathId(1);
    const KEEPALIVE: u64 = 60;

    /// Counts of both paths, and how often they were asked for.
    #[derive(Default)]
    struct Counts {
        paths: [PathCount; 2],
        handshake: Option<SystemTime>,
        now_ns: u64,
        asked: Cell<u32>,
    }

    impl Counts {
        fn send(&mut self, path: PathId, bytes: u64) {
            self.paths[path.0 as usize].tx_packets += 1;
            self.paths[path.0 as usize].tx_bytes += bytes;
        }

        fn receive(&mut self, path: PathId) {
            self.paths[path.0 as usize].rx_packets += 1;
        }

        /// Whether anything was sent, and received.
        fn told(&self, ledger: &mut Ledger, active: PathId) -> Option<(bool, bool)> {
            self.asked.set(0);
            let counted = |path: PathId| {
                self.asked.set(self.asked.get() + 1);
                Ok::<_, Infallible>(self.paths[path.0 as usize])
            };
            let others = [A, B].into_iter().filter(|path| *path != active);
            let Ok(input) = ledger.turn(active, others, Family::V4, (self.handshake, self.now_ns), counted);
            match input? {
                Input::Traffic { path, sent, received } if path == active => Some((sent, received)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn keepalives_are_no_data_and_whatever_arrives_over_any_path_is_an_answer() {
        let (mut ledger, mut counts) = (Ledger::default(), Counts::default());
        counts.send(A, 1500);
        counts.receive(B);
        assert_eq!(counts.told(&mut ledger, A), None, "what was before the first look");
        assert_eq!(
            (counts.told(&mut ledger, A), counts.asked.get()),
            (Some((false, false)), 1)
        );
        counts.send(A, KEEPALIVE);
        counts.send(A, KEEPALIVE);
        assert_eq!(
            (counts.told(&mut ledger, A), counts.asked.get()),
            (Some((false, false)), 1)
        );
        // The shortest that carries anything, beside a keepalive.
        counts.send(A, KEEPALIVE);
        counts.send(A, KEEPALIVE + 16);
        assert_eq!(
            (counts.told(&mut ledger, A), counts.asked.get()),
            (Some((true, false)), 2)
        );
        counts.send(A, 1500);
        counts.receive(A);
        assert_eq!(
            (counts.told(&mut ledger, A), counts.asked.get()),
            (Some((true, true)), 1)
        );
        counts.send(A, 1500);
        counts.receive(B);
        assert_eq!(counts.told(&mut ledger, A), Some((true, true)));
        counts.send(A, 1500);
        assert_eq!(counts.told(&mut ledger, A), Some((true, false)), "once");
    }

    #[test]
    fn what_arrives_is_no_answer_once_the_last_handshake_is_older_than_a_session_lasts() {
        let (mut ledger, mut counts) = (Ledger::default(), Counts::default());
        let day = Duration::from_secs(24 * 3600);
        let mut hear = |handshake: u64, after: Duration| {
            counts.handshake = Some(SystemTime::UNIX_EPOCH + day + Duration::from_secs(handshake));
            counts.now_ns += after.as_nanos() as u64;
            counts.send(A, 1500);
            counts.receive(A);
            counts.told(&mut ledger, A)
        };
        let (second, nearly) = (Duration::from_secs(1), SESSION - Duration::from_secs(1));
        assert_eq!(hear(1, second), None, "the first look");
        assert_eq!(hear(1, nearly), Some((true, true)));
        assert_eq!(hear(1, second), Some((true, false)), "no session is valid");
        assert_eq!(hear(2, second), Some((true, true)), "another handshake was completed");
        // A clock that is set back is another handshake's at most.
        assert_eq!(hear(0, nearly), Some((true, true)));
    }

    #[test]
    fn each_peer_is_looked_at_once_a_round_and_a_crowd_a_few_at_a_time() {
        for (count, longest) in [(1, 1000), (63, 1000), (64, 1000), (1000, 1000), (10_000, 4000)] {
            let peers: BTreeMap<PeerId, ()> = (0..count).map(|id| (PeerId(id), ())).collect();
            let mut ledger = Ledger::default();
            let mut seen = Vec::new();
            while seen.len() < peers.len() {
                let step = ledger.step(&peers, ledger.next_ns);
                assert!(step.len() <= AT_ONCE);
                seen.extend(step);
            }
            assert!(seen.iter().eq(peers.keys()), "{count} peers");
            let round = Duration::from_nanos(ledger.next_ns);
            assert!(round <= Duration::from_millis(longest), "{count} peers in {round:?}");
        }
    }

    #[test]
    fn where_traffic_moved_to_nothing_is_known_at_first_and_what_arrived_before_is_no_answer() {
        let (mut ledger, mut counts) = (Ledger::default(), Counts::default());
        counts.told(&mut ledger, A);
        counts.send(A, 1500);
        counts.receive(A);
        counts.send(B, 1500);
        assert_eq!(counts.told(&mut ledger, B), None);
        counts.send(B, 1500);
        assert_eq!(counts.told(&mut ledger, B), Some((true, false)));
    }
}
