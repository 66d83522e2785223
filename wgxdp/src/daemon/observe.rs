//! What others may see of the running daemon: the file of names for `wgxdp status`, and the metrics. Both read the maps themselves at the moment of
//! asking; only what no map holds is shared here.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use wgxdp_common::id::{PeerId, UplinkId};

use super::names_file::NamesFile;
use super::plan::PeerPlan;
use super::{Daemon, Error};
use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::dataplane::{Guard, Tables};
use crate::engine::MoveReason;
use crate::host::wireguard::{Peer, Tunnel};
use crate::metrics::{self, Extras, Heartbeat, Lateness, Scrape};
use crate::snapshot::{Names, STATE_FILE, TunnelName, UplinkName};

/// The engine sends a probe at least once a minute: silence for longer is no rest.
const HEALTHY_WITHIN: Duration = Duration::from_secs(90);

/// Takes the address for the metrics, if the configuration has one.
pub(super) async fn listen(config: &Config) -> Result<Option<TcpListener>, Error> {
    let Some(address) = config.metrics() else {
        return Ok(None);
    };
    Ok(Some(metrics::bind(address).await?))
}

/// Every peer's tunnel, by its place, and public key.
pub(super) type Keys = BTreeMap<PeerId, (usize, [u8; 32])>;

/// What no map holds.
#[derive(Clone, Debug)]
struct Shared {
    names: Arc<Names>,
    failovers: BTreeMap<(PeerId, &'static str), u64>,
    keys: Arc<Keys>,
    /// The last reading of WireGuard, which tells of all peers or of none: nobody asks it for each scrape.
    tunnels: Arc<Vec<Tunnel>>,
    guards: BTreeMap<UplinkId, Option<Guard>>,
    asked: usize,
}

/// The daemon's side of it.
pub(super) struct Observed {
    shared: Arc<Mutex<Shared>>,
    heartbeat: Arc<Heartbeat>,
    lateness: Lateness,
    server: Option<Server>,
    file: NamesFile,
    started_at: SystemTime,
}

struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Observed {
    /// Nothing to see yet.
    pub(super) fn new() -> Self {
        let started_at = SystemTime::now();
        let shared = Shared {
            names: Arc::new(Names::new(started_at, Vec::new(), Vec::new())),
            failovers: BTreeMap::new(),
            keys: Arc::default(),
            tunnels: Arc::default(),
            guards: BTreeMap::new(),
            asked: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            heartbeat: Arc::new(Heartbeat::new(Instant::now())),
            lateness: Lateness::default(),
            server: None,
            file: NamesFile::default(),
            started_at,
        }
    }

    /// The daemon's loop turned.
    pub(super) fn beat(&self) {
        self.heartbeat.beat(Instant::now());
    }

    /// The loop came so late to a wake-up.
    pub(super) fn note_lateness(&self, late: Duration) {
        self.lateness.note(late);
    }

    /// How often a peer's traffic moved.
    pub(super) fn set_failovers(&self, peer: PeerId, failovers: impl Iterator<Item = (MoveReason, u64)>) {
        let mut shared = lock(&self.shared);
        for (reason, count) in failovers {
            shared.failovers.insert((peer, reason.as_str()), count);
        }
    }

    /// Who runs `guard` on an uplink, if anybody.
    pub(super) fn set_guard(&self, uplink: UplinkId, guard: Option<Guard>) {
        lock(&self.shared).guards.insert(uplink, guard);
    }

    /// So many clients are asked from here.
    pub(super) fn set_asked(&self, clients: usize) {
        lock(&self.shared).asked = clients;
    }

    /// Serves metrics on a listener of [`listen`].
    pub(super) fn serve(&mut self, listener: TcpListener, tables: &Tables) {
        if let Ok(address) = listener.local_addr() {
            info!("metrics at http://{address}/metrics");
        }
        let (shared, tables, lateness) = (self.shared.clone(), tables.clone(), self.lateness.clone());
        let provider = move || {
            let (shared, tables, lateness) = (lock(&shared).clone(), tables.clone(), lateness.clone());
            async move {
                let scrape = tokio::task::spawn_blocking(move || scrape(&shared, &tables, &lateness));
                scrape.await.map_err(|e| e.to_string())?
            }
        };
        let heartbeat = self.heartbeat.clone();
        let healthy = move || heartbeat.check(Instant::now(), HEALTHY_WITHIN);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { _ = stopped.await };
        let task = tokio::spawn(metrics::serve(listener, provider, healthy, shutdown));
        self.server = Some(Server { stop, task });
    }

    /// Nothing to see any more.
    pub(super) async fn end(&mut self) {
        if let Some(Server { stop, task }) = self.server.take() {
            // It has ended already if nobody listens.
            let _ = stop.send(());
            let _ = task.await;
        }
        self.file.settle().await;
        forget_names();
    }

    /// Shows these names to the metrics and to `wgxdp status`, and the keys to the metrics.
    pub(super) fn publish(
        &mut self,
        uplinks: Vec<UplinkName>,
        tunnels: Vec<TunnelName>,
        keys: Keys,
        listed: &BTreeMap<PeerId, PeerPlan>,
    ) {
        let names = Arc::new(Names::new(self.started_at, uplinks, tunnels));
        let mut shared = lock(&self.shared);
        shared.names = names.clone();
        shared.keys = Arc::new(keys);
        shared.failovers.retain(|(peer, _), _| listed.contains_key(peer));
        // Also those that never happened, so that the first one is an increase.
        for peer in listed.keys() {
            for reason in MoveReason::ALL {
                shared.failovers.entry((*peer, reason.as_str())).or_insert(0);
            }
        }
        drop(shared);
        self.file.write(names);
    }

    /// Returns when all names that were published are in the file.
    pub(super) async fn published(&mut self) {
        self.file.settle().await;
    }
}

/// Removes the file of names, whichever run left it.
pub(super) fn forget_names() {
    if let Err(e) = Names::remove(Path::new(STATE_FILE)) {
        warn!("{e}");
    }
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: a panic elsewhere cannot have left them half-written.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn scrape(shared: &Shared, tables: &Tables, lateness: &Lateness) -> Result<Scrape, String> {
    let extras = Extras {
        failovers: shared.failovers.clone(),
        handshakes: handshakes(shared),
        guards: shared.guards.clone(),
        asked: shared.asked,
        wakeups: lateness.read(),
    };
    Scrape::take(&shared.names, tables, &extras, monotonic_ns()).map_err(|e| e.to_string())
}

/// When each peer last shook hands, as WireGuard said when it was last asked.
fn handshakes(shared: &Shared) -> BTreeMap<PeerId, SystemTime> {
    let in_tunnel = |(index, tunnel): (usize, &Tunnel)| {
        let of_peer = move |peer: &Peer| Some(((index, peer.public_key.0), peer.last_handshake?));
        tunnel.peers.iter().filter_map(of_peer).collect::<Vec<_>>()
    };
    let known: HashMap<_, _> = shared.tunnels.iter().enumerate().flat_map(in_tunnel).collect();
    let handshake = |(id, key): (&PeerId, &(usize, [u8; 32]))| Some((*id, *known.get(key)?));
    shared.keys.iter().filter_map(handshake).collect()
}

impl Daemon {
    /// Shows the metrics what WireGuard said when it was last asked.
    pub(super) fn note_handshakes(&self) {
        lock(&self.observed.shared).tunnels = self.tunnels.clone();
    }

    /// WireGuard does not answer: what it said before may have become untrue.
    pub(super) fn forget_handshakes(&self) {
        lock(&self.observed.shared).tunnels = Arc::default();
    }
}
