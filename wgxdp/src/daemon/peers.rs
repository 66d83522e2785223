//! Peers come, change and go while packets flow: written before anything refers to them, forgotten after nothing does.
//!
//! A peer that changes gets another number: its new entries are written beside the old ones, then its endpoints lead to the new ones, each by
//! one write, and only when no program can be using the old ones any more is their number free. So no packet sees half of a change, and
//! there is no instant at which an endpoint of a peer that stays leads nowhere. Each step's work is proportional to what changes, and
//! it waits for the programs once.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::{debug, info, warn};
use wgxdp_common::abi::MAX_PATHS_PER_PEER;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::Flags;
use wgxdp_common::table::{EndpointKey, Has};

use super::census::Census;
use super::plan::{self, PathPlan, PeerPlan};
use super::report::Doubt;
use super::roster::{Difference, Withdrawn};
use super::{Daemon, Error, PathRuntime};
use crate::clock::monotonic_ns;
use crate::engine::{Input, PeerSpec};
use crate::host::wireguard;

/// Changes that are told one by one; of more only the number.
pub(super) const TOLD_ONE_BY_ONE: usize = 16;

impl Daemon {
    /// Follows what WireGuard says of its tunnels now.
    pub(super) async fn follow_tunnels(&mut self, tunnels: Vec<wireguard::Tunnel>) -> Result<(), Error> {
        let plans = match plan::peers(&self.config, &tunnels, &self.unlisted) {
            Ok(plans) => plans,
            Err(e) => {
                // Somebody is at work there; what runs goes on.
                warn!("{e}");
                return Ok(());
            }
        };
        let ports_before = self.ports();
        self.tunnels = Arc::new(tunnels);
        self.warn_of_missing(&plans);
        let difference = Difference::between(&self.peers, plans.peers);
        let ports_changed = self.ports() != ports_before;
        if difference.is_empty() && !ports_changed {
            self.know_clients();
            self.settle_clients()?;
            self.note_handshakes();
            self.settle_neighbours_again().await;
            return Ok(());
        }
        self.tell(&difference);
        self.publish()?;
        self.follow(difference)?;
        self.know_clients();
        self.settle_clients()?;
        if let Err(e) = self.settle_neighbours().await {
            warn!("{e}");
        }
        self.publish_names();
        self.note_handshakes();
        self.settle_mtus().await;
        if ports_changed {
            if let Err(e) = self.anchor.engage(&self.ports()).await {
                self.cannot_repair(&e.into());
            }
            self.refresh_endpoints().await;
        }
        Ok(())
    }

    /// Says once which configured peers WireGuard does not have.
    fn warn_of_missing(&mut self, plans: &plan::Plans) {
        for missing in plans.missing.difference(&self.missing) {
            warn!("{missing}");
        }
        self.missing.clone_from(&plans.missing);
    }

    fn tell(&self, Difference { changed, new, gone }: &Difference) {
        if changed.len() + new.len() + gone.len() > TOLD_ONE_BY_ONE {
            info!(
                "peers: {} new, {} changed, {} gone",
                new.len(),
                changed.len(),
                gone.len()
            );
            return;
        }
        for plan in changed.iter().map(|(_, plan)| plan).chain(new) {
            info!("{}: {} at {}", self.tunnel_name(plan), plan.label(), plan.canonical);
        }
        for plan in gone.iter().filter_map(|id| self.peers.get(id)) {
            info!("{}: {} is gone", self.tunnel_name(plan), plan.label());
        }
    }

    /// Those that change come first, as many at a time as there are numbers to spare: they have two each until the old ones are free.
    fn follow(&mut self, Difference { mut changed, new, gone }: Difference) -> Result<(), Error> {
        while !changed.is_empty() && self.numbers.spare() > 0 {
            let rest = changed.split_off(changed.len().min(self.numbers.spare()));
            let (before, after): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
            self.add_peers(after)?;
            self.remove_peers(&before)?;
            changed = rest;
        }
        // Newcomers before those who go, if there is room: an endpoint may pass from one to the other.
        let mut new = new.into_iter();
        self.add_peers(new.by_ref().take(self.numbers.room()))?;
        self.remove_peers(&gone)?;
        self.add_peers(new.by_ref().take(self.numbers.room()))?;
        let without_room = new.len();
        if without_room > 0 && without_room != self.without_room {
            warn!(
                "no room for {without_room} peers: their packets leave by the first usable uplink; restart to make room"
            );
        }
        self.without_room = without_room;
        Ok(())
    }

    /// Takes peers into the maps and the engine's care, as many as there are numbers.
    pub(super) fn add_peers(&mut self, plans: impl IntoIterator<Item = PeerPlan>) -> Result<(), Error> {
        let plans = plans.into_iter();
        let added: Vec<_> = plans.map_while(|plan| Some((self.numbers.take()?, plan))).collect();
        let now_ns = monotonic_ns();
        for (id, plan) in &added {
            self.describe_peer(*id, plan, now_ns);
        }
        // All at once, so that the engine spreads their probes over the interval.
        let is_metered = |uplink: UplinkId| self.config.uplinks()[uplink.0 as usize].metered;
        let specs: Vec<_> = added
            .iter()
            .map(|(id, plan)| plan.spec(*id, self.config.tunnels()[plan.tunnel].objectives, is_metered))
            .collect();
        let paths = added.iter().flat_map(|(id, plan)| plan.paths(*id));
        self.take_into_care(&specs, paths, now_ns);
        for (id, plan) in added {
            for entry in plan.endpoint_entries(id) {
                self.claims.claim(entry.key, id);
                self.dataplane.add_endpoint(&entry)?;
            }
            self.peers.insert(id, plan);
            self.census = None;
        }
        Ok(())
    }

    /// Has the engine care for peers with these paths from now on.
    pub(super) fn take_into_care(
        &mut self,
        specs: &[PeerSpec],
        paths: impl IntoIterator<Item = PathPlan>,
        now_ns: u64,
    ) {
        let mut actions = Vec::new();
        self.engine.add_peers(specs, now_ns, &mut actions);
        for path in paths {
            let flags = self.family_flags(path.uplink, path.endpoint);
            let input = Input::PathFlags { path: path.id, flags };
            self.engine.handle(input, now_ns, &mut actions);
        }
        self.perform(actions);
    }

    /// The engine has nothing to do with a peer any more. If it had nothing before, nothing changes.
    pub(super) fn leave_care(&mut self, id: PeerId) {
        self.engine.remove_peer(id);
        self.names.remove_peer(id);
        self.traffic.forget(id);
        for slot in 0..MAX_PATHS_PER_PEER as u32 {
            self.paths.remove(&PathId::new(id, slot));
        }
    }

    /// What speaks against a path besides its uplink's flags: the uplink may have no address of the endpoint's family.
    pub(super) fn family_flags(&self, uplink: UplinkId, endpoint: SocketAddr) -> Flags {
        let entry = &self.uplinks[uplink.0 as usize].state.entry;
        let family = if endpoint.is_ipv4() { entry.v4 } else { entry.v6 };
        if family.has == Has::NOTHING {
            Flags::ABSENT
        } else {
            Flags::NONE
        }
    }

    fn describe_peer(&mut self, id: PeerId, plan: &PeerPlan, now_ns: u64) {
        let (peer, paths) = plan.entries(id);
        self.dataplane.describe_peer(id, &peer, (0..).zip(paths));
        self.names.add_peer(id, plan.label());
        for path in plan.paths(id) {
            self.dataplane.set_largest(path.id, self.largest(plan, &path));
            self.add_path(path, now_ns);
        }
    }

    /// Makes a path one that can be cared for: it has credit, a name, and somewhere to send its probes.
    pub(super) fn add_path(&mut self, path: PathPlan, now_ns: u64) {
        self.dataplane.credit(path.id, now_ns);
        let uplink = self.config.uplinks()[path.uplink.0 as usize].name.as_str();
        self.names.add_path(path.id, uplink, path.endpoint.to_string());
        self.paths.insert(
            path.id,
            PathRuntime {
                plan: path,
                told: self.family_flags(path.uplink, path.endpoint),
                sequence: 0,
                doubt: Doubt::default(),
            },
        );
    }

    fn remove_peers(&mut self, gone: &[PeerId]) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut leading = Vec::new();
        for id in gone {
            let Some(plan) = self.peers.remove(id) else { continue };
            self.census = None;
            let keys = plan.endpoint_entries(*id).iter().map(|entry| entry.key).collect();
            leading.push((*id, keys));
        }
        self.withdraw(leading)?;
        for id in gone {
            self.leave_care(*id);
            self.dataplane.forget_peer(*id)?;
            self.numbers.give_back(*id);
        }
        debug!("{} numbers are free again", gone.len());
        Ok(())
    }

    /// Lets endpoints lead to these peers no more, but to whom else they belong or nowhere. On return no program uses anything of theirs.
    pub(super) fn withdraw(&mut self, leading: Vec<(PeerId, Vec<EndpointKey>)>) -> Result<(), Error> {
        let mut orphaned = Vec::new();
        for (id, keys) in leading {
            for key in keys {
                match self.claims.withdraw(key, id) {
                    Withdrawn::Unchanged => {}
                    Withdrawn::PassedTo(heir) => self.lead(key, heir)?,
                    Withdrawn::Orphaned => orphaned.push(key),
                }
            }
        }
        // Also waits for whoever still uses an entry that leads elsewhere by now.
        Ok(self.dataplane.remove_endpoints(orphaned)?)
    }

    /// Makes an endpoint of a peer's lead to it again.
    fn lead(&mut self, key: EndpointKey, to: PeerId) -> Result<(), Error> {
        let listed = self.peers.get(&to).map(|plan| plan.endpoint_entries(to));
        let client = self.registered.registry.by_id(to);
        let entries = listed.or_else(|| Some(client?.endpoint_entries(to)));
        let entry = entries.into_iter().flatten().find(|entry| entry.key == key);
        if let Some(entry) = entry {
            self.dataplane.add_endpoint(&entry)?;
        }
        Ok(())
    }

    /// Counts the peers, if they have changed since that was last done.
    pub(super) fn take_census(&mut self) {
        let tunnels = self.config.tunnels().len();
        self.census.get_or_insert_with(|| Census::of(&self.peers, tunnels));
    }

    pub(super) fn tunnel_name(&self, plan: &PeerPlan) -> &str {
        self.config.tunnels()[plan.tunnel].interface.as_str()
    }
}
