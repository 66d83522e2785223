//! Peers come, change and go while packets flow: written before anything refers to them, forgotten after nothing does.

use std::collections::BTreeSet;

use tracing::{info, warn};
use wgxdp_common::id::PeerId;

use super::plan::{self, PeerPlan};
use super::{Daemon, Error, PathRuntime};
use crate::clock::monotonic_ns;
use crate::host::wireguard;

impl Daemon {
    /// Follows what WireGuard says of its tunnels now.
    pub(super) async fn follow_tunnels(&mut self, tunnels: Vec<wireguard::Tunnel>) -> Result<(), Error> {
        let plans = match plan::peers(&self.config, &tunnels) {
            Ok(plans) => plans,
            Err(e) => {
                // Somebody is at work there; what runs goes on.
                warn!("{e}");
                return Ok(());
            }
        };
        // Whoever flushes the neighbours does not tell: have them resolved again.
        self.settle_neighbours().await?;
        let ports_before = self.ports();
        self.tunnels = tunnels;
        let gone: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, plan)| !plans.contains(plan))
            .map(|(id, _)| *id)
            .collect();
        let known: BTreeSet<&PeerPlan> = self.peers.values().collect();
        let new: BTreeSet<PeerPlan> = plans.iter().filter(|plan| !known.contains(plan)).cloned().collect();
        if new.is_empty() && gone.is_empty() && self.ports() == ports_before {
            return Ok(());
        }
        for plan in &new {
            info!(
                "{}: {} at {}",
                self.config.tunnels()[plan.tunnel].interface.as_str(),
                plan.label(),
                plan.canonical
            );
        }
        self.publish()?;
        self.add_peers(new)?;
        self.remove_peers(&gone)?;
        self.settle_neighbours().await?;
        self.publish_names();
        self.settle_mtus().await;
        if self.ports() != ports_before {
            self.anchor.engage(&self.ports()).await?;
            self.refresh_endpoints().await;
        }
        Ok(())
    }

    /// Takes peers into the maps and the engine's care.
    pub(super) fn add_peers(&mut self, plans: BTreeSet<PeerPlan>) -> Result<(), Error> {
        for plan in plans {
            let Some(id) = (0..self.max_peers).map(PeerId).find(|id| !self.peers.contains_key(id)) else {
                warn!(
                    "no room for peer {}: its packets leave by the first usable uplink; restart to make room",
                    plan.label()
                );
                continue;
            };
            let now_ns = monotonic_ns();
            let (peer, paths) = plan.entries(id);
            self.dataplane.describe_peer(id, &peer, &paths);
            self.names.add_peer(id, plan.label());
            for path in plan.paths(id) {
                self.dataplane.credit(path.id, now_ns);
                self.dataplane.set_largest(path.id, self.largest(&plan, &path));
                let uplink = self.config.uplinks()[path.uplink.0 as usize].name.as_str();
                self.names.add_path(path.id, uplink, path.endpoint.to_string());
                self.paths.insert(
                    path.id,
                    PathRuntime {
                        plan: path,
                        sequence: 0,
                    },
                );
            }
            let mut actions = Vec::new();
            self.engine.add_peers(&[plan.spec(id)], now_ns, &mut actions);
            self.perform(actions);
            for (key, entry) in plan.endpoint_entries(id) {
                self.dataplane.add_endpoint(key, entry)?;
            }
            self.peers.insert(id, plan);
        }
        Ok(())
    }

    fn remove_peers(&mut self, gone: &[PeerId]) -> Result<(), Error> {
        for id in gone {
            let Some(plan) = self.peers.remove(id) else { continue };
            for (key, _) in plan.endpoint_entries(*id) {
                // An endpoint that leads to somebody else by now stays.
                if !self
                    .peers
                    .iter()
                    .any(|(id, plan)| plan.endpoint_entries(*id).iter().any(|(k, _)| *k == key))
                {
                    self.dataplane.remove_endpoint(&key)?;
                }
            }
            self.engine.remove_peer(*id);
            self.names.remove_peer(*id);
            self.paths.retain(|path, _| path.peer() != *id);
        }
        Ok(())
    }
}
