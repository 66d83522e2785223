//! Clients that ask no more are asked from here: what the [registry](super::registry) decides, carried out.
//!
//! A client that is asked is in the engine's care like a listed peer: its paths are probed in band, the answers give them thresholds, `steer` leaves one that died. When it speaks for itself
//! again nothing but its own word counts, as before.
//!
//! One that answers no more keeps what was last known of its paths: until it speaks its packets go by whichever path was not dead, or by all in turn.

use std::time::SystemTime;

use tracing::{debug, info, warn};
use wgxdp_common::abi::MAX_PATHS_PER_PEER;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::keyring::{Heard, KeyName};
use wgxdp_common::liveness::Thresholds;

use super::peers::TOLD_ONE_BY_ONE;
use super::plan::PathPlan;
use super::registration::state;
use super::registry::{AT_ONCE, Client, ClientPath, INTERVAL, Turn, Witness};
use super::{Daemon, tunnels};
use crate::clock::monotonic_ns;
use crate::config::PublicKey;
use crate::dataplane::Dataplane;
use crate::engine::{Objectives, PathSpec, PeerSpec};
use crate::host::wireguard;
use crate::prober::Target;

/// What the programs heard, and WireGuard said when it was last read.
pub(super) struct Programs<'a> {
    pub(super) dataplane: &'a Dataplane,
    pub(super) tunnels: &'a [wireguard::Tunnel],
}

impl Witness for Programs<'_> {
    fn heard(&self, path: PathId) -> Heard {
        self.dataplane.tables().proof(path).heard
    }

    fn requests(&self, of: &KeyName) -> impl Iterator<Item = Heard> {
        let requests = self.dataplane.requests(of).into_iter().flatten();
        requests.map(|request| request.heard)
    }

    fn session(&self, tunnel: usize, key: &PublicKey) -> Option<SystemTime> {
        tunnels::session(self.tunnels, tunnel, key)
    }
}

impl Daemon {
    /// Does what a look found is to be done.
    pub(super) fn take_turns(&mut self, turns: &[(PeerId, Turn)]) {
        let of = |wanted: Turn| -> Vec<PeerId> {
            let turns = turns.iter().filter(|(_, turn)| *turn == wanted);
            turns.map(|(id, _)| *id).collect()
        };
        for id in of(Turn::Try) {
            self.try_client(id);
        }
        let (asked, given_up) = (of(Turn::Ask), of(Turn::GiveUp));
        self.ask(&asked);
        self.tell_clients(&asked, "asks no more, but answers: it is asked from here");
        for id in &given_up {
            self.leave_care(*id);
        }
        self.tell_clients(&given_up, "answers no more: it is asked no longer");
        let (returned, stirred) = (
            of(Turn::Speaks { was_asked: true }),
            of(Turn::Speaks { was_asked: false }),
        );
        for id in returned.iter().chain(&stirred) {
            self.leave_to_itself(*id);
        }
        self.tell_clients(&returned, "speaks for itself again");
        if !turns.is_empty() {
            let placed = self.registered.registry.placed();
            let asked = placed.filter(|(_, client)| client.is_asked()).count();
            self.observed.set_asked(asked);
        }
    }

    /// One request over each of the client's paths.
    fn try_client(&self, id: PeerId) {
        for path in self.client_plans(id) {
            // It grows from one to the next, as the engine's do.
            let sequence = (monotonic_ns() / 1_000_000) as u32;
            if let Err(e) = self.prober.send(path.id, sequence, path.target, 0) {
                debug!("a request to {} did not leave: {e}", path.target);
            }
        }
    }

    /// Has the engine care for these clients.
    pub(super) fn ask(&mut self, clients: &[PeerId]) {
        let now_ns = monotonic_ns();
        let (mut specs, mut all_paths) = (Vec::new(), Vec::new());
        for id in clients {
            let label = self.registered.registry.by_id(*id).map(Client::label);
            self.names.add_peer(*id, label.unwrap_or_default());
            let paths = self.client_plans(*id);
            for path in &paths {
                self.add_path(*path, now_ns);
            }
            specs.push(PeerSpec {
                id: *id,
                paths: paths.iter().map(|path| self.client_spec(path)).collect(),
                objectives: Objectives::default(),
            });
            all_paths.extend(paths);
        }
        self.take_into_care(&specs, all_paths, now_ns);
    }

    /// A client's paths, in the order that is in force.
    fn client_plans(&self, id: PeerId) -> Vec<PathPlan> {
        let order = self.dataplane.tables().order(id);
        let plan = |(id, at): (PathId, ClientPath)| PathPlan {
            id,
            uplink: at.uplink,
            endpoint: at.endpoint,
            target: Target::InBand(at.endpoint),
        };
        let client = self.registered.registry.by_id(id);
        let mut plans: Vec<_> = client
            .into_iter()
            .flat_map(|client| client.paths(id))
            .map(plan)
            .collect();
        let place =
            |path: &PathPlan| (0..MAX_PATHS_PER_PEER as u32).find(|place| order.slot(*place) == Some(path.id.slot()));
        plans.sort_by_key(place);
        plans
    }

    /// Large packets are not asked about: that is the client's to find out.
    fn client_spec(&self, path: &PathPlan) -> PathSpec {
        PathSpec {
            id: path.id,
            uplink: path.uplink,
            interval: INTERVAL,
            metered: self.config.uplinks()[path.uplink.0 as usize].metered,
            padded: false,
            responder: 0,
        }
    }

    /// From now on the client's own word counts alone.
    fn leave_to_itself(&mut self, id: PeerId) {
        self.leave_care(id);
        let Some(client) = self.registered.registry.by_id(id) else {
            return;
        };
        for (path, at) in client.paths(id) {
            let is_silent = client.is_silent(path);
            self.dataplane.set_thresholds(path, Thresholds::NEVER);
            self.dataplane.set_path_flags(path, self.client_flags(at, is_silent));
            self.dataplane.lift_latch(path);
            self.dataplane.set_status(path, state(is_silent), 0);
        }
    }

    /// A program that read a path's thresholds just before the client was left to itself may have latched it just after: nobody else would lift that.
    pub(super) fn lift_late_latch(&self, path: PathId) {
        let client = self.registered.registry.by_id(path.peer());
        if client.is_some_and(Client::asks_by_itself) {
            self.dataplane.lift_latch(path);
        }
    }

    fn tell_clients(&self, clients: &[PeerId], what: &str) {
        if clients.len() > TOLD_ONE_BY_ONE {
            info!("{} clients, each: {what}", clients.len());
            return;
        }
        for client in clients.iter().filter_map(|id| self.registered.registry.by_id(*id)) {
            let interface = self.config.tunnels()[client.tunnel].interface.as_str();
            info!("{interface}: {} {what}", client.label());
        }
    }

    /// Says once that not all can be asked.
    pub(super) fn warn_of_waiting(&mut self, waiting: usize) {
        if waiting > 0 && !self.registered.is_waiting_told {
            warn!(
                "{waiting} more clients ask no more than the {AT_ONCE} that are asked from here at once: a black hole moves nothing of theirs"
            );
        }
        self.registered.is_waiting_told = waiting > 0;
    }
}
