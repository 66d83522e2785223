//! Tells far ends at once by which path a peer's packets shall come now.
//!
//! A far end without wgxdp answers where its WireGuard last heard us. While it alone sends (a download), nothing of ours would leave by the new path before
//! our WireGuard's next keepalive, up to 10 s later, and until then it sends into the path that died. So when the engine says that a peer's traffic moved, and no packet of the
//! peer has left by the new path since, WireGuard is made to [send a keepalive](wireguard::send_keepalives).
//!
//! One packet may be lost: as long as nothing arrives by the new path it is sent again, [`TRIES`] times in all, [`PATIENCE`] apart.
//!
//! To send one WireGuard is read whole, which with thousands of peers takes the processor from the packets that are moving. So who has no session as far as is known, and therefore sends
//! nothing, is not told; the others are told in crowds of [`CROWD`] at most, with a rest after each that is as long as the crowd took. Clients are told only while they are [asked from here](super::asking): else they speak first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};
use wgxdp_common::id::{PathId, PeerId};
use wireguard_control::Key;

use super::{Daemon, tunnels};
use crate::config::{Config, PublicKey};
use crate::dataplane::Tables;
use crate::engine::Transition;
use crate::host::wireguard;

/// Keepalives to one peer.
const TRIES: u32 = 3;
/// How long the far end may take until its packets come by the new path: more than most round trips.
const PATIENCE: Duration = Duration::from_millis(150);
/// Peers that are told at once; WireGuard is read once for each crowd.
const CROWD: usize = 4096;
/// The least rest between two crowds.
const REST: Duration = Duration::from_millis(10);

/// A peer's traffic moved.
struct Move {
    /// The tunnel's place in the configuration.
    tunnel: usize,
    key: Key,
    path: PathId,
}

/// One that may have to be told.
struct Waiting {
    moved: Move,
    /// When to look.
    at: Instant,
    /// After the first keepalive: what had arrived by the path before it.
    heard: Option<u64>,
    tries_left: u32,
}

impl Waiting {
    fn new(moved: Move) -> Self {
        Self {
            moved,
            at: Instant::now(),
            heard: None,
            tries_left: TRIES,
        }
    }

    /// Whether the far end seems not to know: nothing of ours left by the path, or afterwards nothing came.
    fn is_needed(&self, tables: &Tables) -> bool {
        let path = self.moved.path;
        match self.heard {
            None => tables.active(path.peer()) != Some(path),
            Some(heard) => arrived(tables, path) == heard,
        }
    }
}

/// Packets that arrived by a path.
fn arrived(tables: &Tables, path: PathId) -> u64 {
    // A map that cannot be read says so elsewhere.
    tables.path_count(path).map_or(0, |count| count.rx_packets)
}

/// Takes moves and has them told; ends when dropped.
pub(super) struct Announcer {
    moves: UnboundedSender<Move>,
    task: JoinHandle<()>,
}

impl Announcer {
    pub(super) fn start(config: &Config, tables: &Tables) -> Self {
        let (moves, received) = mpsc::unbounded_channel();
        let tunnels = config.tunnels().iter();
        let teller = Teller {
            tunnels: tunnels.map(|tunnel| tunnel.interface.to_string()).collect(),
            tables: tables.clone(),
            waiting: BTreeMap::new(),
        };
        let task = tokio::spawn(teller.run(received));
        Self { moves, task }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    /// Has the far end told if the peer's traffic moved.
    pub(super) fn announce(&self, transition: &Transition) {
        if let Some(path) = transition.now_on.filter(|_| transition.moved)
            && let Some((tunnel, key)) = self.who_is(transition.peer)
            && tunnels::session(&self.tunnels, tunnel, &key).is_some()
        {
            let key = Key(*key.as_bytes());
            // The task ends with the daemon alone.
            let _ = self.announcer.moves.send(Move { tunnel, key, path });
        }
    }

    /// A listed peer, or a client that is asked from here.
    fn who_is(&self, peer: PeerId) -> Option<(usize, PublicKey)> {
        let listed = self.peers.get(&peer).map(|plan| (plan.tunnel, plan.key));
        let client = self.registered.registry.by_id(peer);
        listed.or_else(|| client.map(|client| (client.tunnel, client.key)))
    }
}

struct Teller {
    /// Interfaces in the configuration's order.
    tunnels: Vec<String>,
    tables: Tables,
    waiting: BTreeMap<PeerId, Waiting>,
}

impl Teller {
    async fn run(mut self, mut moves: UnboundedReceiver<Move>) {
        loop {
            let next = self.waiting.values().map(|waiting| waiting.at).min();
            tokio::select! {
                biased;
                moved = moves.recv() => match moved {
                    Some(moved) => _ = self.waiting.insert(moved.path.peer(), Waiting::new(moved)),
                    None => return,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let began_at = Instant::now();
                    self.tell_crowd().await;
                    sleep(began_at.elapsed().max(REST)).await;
                }
            }
        }
    }

    /// Those whose time has come, whoever was told least first.
    async fn tell_crowd(&mut self) {
        let now = Instant::now();
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.at <= now);
        let mut due: Vec<_> = due
            .map(|(peer, waiting)| (Reverse(waiting.tries_left), *peer))
            .collect();
        due.sort_unstable();
        let mut crowd: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
        for (_, peer) in due.into_iter().take(CROWD) {
            let Some(waiting) = self
                .waiting
                .remove(&peer)
                .filter(|waiting| waiting.is_needed(&self.tables))
            else {
                continue;
            };
            let Move { tunnel, ref key, path } = waiting.moved;
            crowd.entry(tunnel).or_default().push(key.clone());
            if waiting.tries_left > 1 {
                let again = Waiting {
                    at: now + PATIENCE,
                    heard: Some(arrived(&self.tables, path)),
                    tries_left: waiting.tries_left - 1,
                    ..waiting
                };
                self.waiting.insert(peer, again);
            }
        }
        for (tunnel, keys) in crowd {
            let interface = self.tunnels[tunnel].clone();
            let send = spawn_blocking(move || wireguard::send_keepalives(&interface, &keys));
            match send.await.expect("asking for keepalives does not panic") {
                Ok(told) => debug!("{}: {told} peers were told by which path to come", self.tunnels[tunnel]),
                Err(e) => warn!("{e}; peers that only send are not told by which path to come"),
            }
        }
    }
}
