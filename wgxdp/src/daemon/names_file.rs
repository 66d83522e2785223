//! Names for `wgxdp status` and the metrics: what they are, and the file of them.
//!
//! The file is written beside the loop, for which writing down ten thousand peers would take tens of milliseconds. Whoever writes takes the latest names
//! there are, one at a time, so an earlier file never replaces a later one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;
use wgxdp_common::id::{PeerId, UplinkId};

use super::Daemon;
use super::observe::lock;
use super::plan::{PathPlan, PeerPlan};
use crate::snapshot::{Names, PathName, PeerName, STATE_FILE, TunnelName, UplinkName};

/// The file, as far as this daemon writes it.
#[derive(Default)]
pub(super) struct NamesFile {
    pending: Arc<Pending>,
    latest: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Pending {
    names: Mutex<Option<Arc<Names>>>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Pending {
    fn write(&self) {
        let _alone = lock(&self.writing);
        let Some(names) = lock(&self.names).take() else {
            return;
        };
        if let Err(e) = names.write(Path::new(STATE_FILE)) {
            warn!("{e}; `wgxdp status` will not know the names");
        }
    }
}

impl NamesFile {
    /// Has these names written, unless later ones come before their turn.
    pub(super) fn write(&mut self, names: Arc<Names>) {
        *lock(&self.pending.names) = Some(names);
        let pending = self.pending.clone();
        self.latest = Some(spawn_blocking(move || pending.write()));
    }

    /// Returns when nothing is left to be written.
    pub(super) async fn settle(&mut self) {
        if let Some(latest) = self.latest.take() {
            // A panic of it has been told already.
            let _ = latest.await;
        }
    }
}

impl Daemon {
    /// Tells the names of everything to whoever reads the maps.
    pub(super) fn publish_names(&mut self) {
        let uplinks = (0..).zip(self.config.uplinks()).map(|(id, uplink)| UplinkName {
            id: UplinkId(id),
            name: uplink.name.as_str().into(),
            interface: uplink.interface.as_str().into(),
        });
        let tunnels = self.tunnels.iter().enumerate().map(|(index, tunnel)| TunnelName {
            interface: tunnel.name.clone(),
            listen_port: tunnel.listen_port.unwrap_or(0),
            peers: self
                .peers
                .iter()
                .filter(|(_, plan)| plan.tunnel == index)
                .map(|(id, plan)| name(*id, plan))
                .chain(self.client_names(index))
                .collect(),
        });
        let listed = self
            .peers
            .iter()
            .map(|(id, plan)| (*id, (plan.tunnel, *plan.key.as_bytes())));
        let clients = self.registered.registry.placed();
        let clients = clients.map(|(id, client)| (id, (client.tunnel, *client.key.as_bytes())));
        let keys = listed.chain(clients);
        let (uplinks, tunnels, keys) = (uplinks.collect(), tunnels.collect(), keys.collect());
        self.observed.publish(uplinks, tunnels, keys, &self.peers);
    }

    fn client_names(&self, tunnel: usize) -> impl Iterator<Item = PeerName> + '_ {
        let clients = self.registered.registry.placed();
        let clients = clients.filter(move |(_, client)| client.tunnel == tunnel);
        clients.map(|(id, client)| PeerName {
            id,
            name: None,
            public_key: client.key.to_string(),
            paths: client
                .paths(id)
                .map(|(id, at)| PathName {
                    id,
                    uplink: at.uplink,
                    endpoint: at.endpoint,
                })
                .collect(),
        })
    }
}

fn name(id: PeerId, plan: &PeerPlan) -> PeerName {
    let path = |path: PathPlan| PathName {
        id: path.id,
        uplink: path.uplink,
        endpoint: path.endpoint,
    };
    PeerName {
        id,
        name: plan.name.clone(),
        public_key: plan.key.to_string(),
        paths: plan.paths(id).into_iter().map(path).collect(),
    }
}
