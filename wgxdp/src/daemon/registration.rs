//! Clients' paths in the maps: what the [registry](super::registry) knows, carried out.
//!
//! As with [peers that change](super::peers) a client whose paths change gets other entries, under another number, and its endpoints lead there by one write each. The entries of before are
//! forgotten at the next look, for all at once, because that waits for the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tracing::{debug, info, warn};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::liveness::Flags;
use wgxdp_common::record::Registration;
use wgxdp_common::table::{EndpointKey, PathState};

use super::asking::Programs;
use super::peers::TOLD_ONE_BY_ONE;
use super::registry::{Client, ClientPath, Found, LOOK_EVERY, Registry};
use super::roster::Numbers;
use super::{Daemon, Error};
use crate::clock::monotonic_ns;
use crate::config::PublicKey;

/// Who is registered, and what of that is in the maps.
pub(super) struct Registered {
    pub(super) registry: Registry,
    numbers: Numbers,
    /// What leads to whom.
    leading: BTreeMap<PeerId, Vec<EndpointKey>>,
    /// Numbers that nobody has any more, but that something may still lead to.
    retired: BTreeSet<PeerId>,
    /// Clients whose paths were news since the last look.
    news: usize,
    /// Clients for whose paths there is no room.
    without_room: usize,
    /// Whether it was told that more clients should be asked than are.
    pub(super) is_waiting_told: bool,
    /// Whether others know of less than there is.
    is_unpublished: bool,
    next_look_ns: Option<u64>,
}

impl Registered {
    /// Nobody, with room for those who get these numbers.
    pub(super) fn new(numbers: Numbers) -> Self {
        Self {
            registry: Registry::default(),
            numbers,
            leading: BTreeMap::new(),
            retired: BTreeSet::new(),
            news: 0,
            without_room: 0,
            is_waiting_told: false,
            is_unpublished: false,
            next_look_ns: None,
        }
    }

    /// How many more clients there is room for.
    pub(super) fn room(&self) -> usize {
        self.numbers.room()
    }

    /// When to look who was heard (CLOCK_MONOTONIC); `None` as long as nobody is registered.
    pub(super) fn next_look(&self) -> Option<u64> {
        self.next_look_ns
    }
}

impl Daemon {
    /// Who may register from now on.
    pub(super) fn know_clients(&mut self) {
        let listed: BTreeSet<_> = self.peers.values().map(|plan| (plan.tunnel, plan.key)).collect();
        let is_listed = |tunnel: usize, key: &PublicKey| listed.contains(&(tunnel, *key));
        let gone = self.registered.registry.know(&self.tunnels, is_listed);
        self.retire(gone);
    }

    /// A probe came from a new place.
    pub(super) fn register(&mut self, registration: &Registration) {
        let Registered { registry, retired, .. } = &mut self.registered;
        let owner = |endpoint: SocketAddr| {
            let key = EndpointKey::of(endpoint, registration.name.tunnel);
            self.claims.owner(&key).filter(|owner| !retired.contains(owner))
        };
        let gone = registry.register(registration, owner);
        self.retire(gone);
    }

    /// Takes into the maps what has changed.
    pub(super) fn settle_clients(&mut self) -> Result<(), Error> {
        let changed = self.registered.registry.changed();
        if changed.is_empty() {
            return Ok(());
        }
        if self.registered.numbers.spare() < changed.len() {
            self.forget_retired()?;
        }
        let mut without_room = 0;
        for name in &changed {
            let Some(id) = self.registered.numbers.take() else {
                without_room += 1;
                continue;
            };
            let before = self.registered.registry.place(name, id);
            self.registered.news += 1;
            self.place_client(id, self.registered.news <= TOLD_ONE_BY_ONE)?;
            self.retire(before);
        }
        if without_room > 0 && without_room != self.registered.without_room {
            warn!(
                "no room for the paths of {without_room} clients: they are answered where they last spoke; restart to make room"
            );
        }
        self.registered.without_room = without_room;
        self.registered.is_unpublished = true;
        self.look_soon();
        Ok(())
    }

    fn place_client(&mut self, id: PeerId, tell: bool) -> Result<(), Error> {
        let Some(client) = self.registered.registry.by_id(id) else {
            return Ok(());
        };
        let config = &self.config.tunnels()[client.tunnel];
        let (peer, mut paths) = client.entries(config.protect);
        for ((path, at), (_, entry)) in client.paths(id).zip(&mut paths) {
            let is_silent = client.is_silent(path);
            entry.flags = self.client_flags(at, is_silent);
            entry.state = state(is_silent) as u16;
            entry.largest = self.fits(at.uplink, at.endpoint, client.canonical);
            self.dataplane.credit(path, monotonic_ns());
            if tell {
                let interface = config.interface.as_str();
                info!("{interface}: {}, by its own probes", self.client_path(path, at));
            }
        }
        self.dataplane.describe_peer(id, &peer, paths);
        let entries = client.endpoint_entries(id);
        for entry in &entries {
            self.claims.claim(entry.key, id);
            self.dataplane.add_endpoint(entry)?;
        }
        let keys = entries.iter().map(|entry| entry.key).collect();
        self.registered.leading.insert(id, keys);
        if self.registered.registry.by_id(id).is_some_and(Client::is_asked) {
            self.ask(&[id]);
        }
        Ok(())
    }

    /// What speaks against a client's path besides its uplink's flags.
    pub(super) fn client_flags(&self, at: ClientPath, is_silent: bool) -> Flags {
        let silent = if is_silent { Flags::SILENT } else { Flags::NONE };
        self.family_flags(at.uplink, at.endpoint).with(silent)
    }

    /// Tells clients' paths what speaks against them, after uplinks' addresses have changed; with `back` also what does no more.
    pub(super) fn flag_clients(&self, back: bool) {
        // Of those who are asked the engine is told.
        let placed = self.registered.registry.placed();
        for (id, client) in placed.filter(|(_, client)| !client.is_asked()) {
            for (path, at) in client.paths(id) {
                let flags = self.client_flags(at, client.is_silent(path));
                if back || flags != Flags::NONE {
                    self.dataplane.set_path_flags(path, flags);
                }
            }
        }
    }

    /// Tells clients' paths what fits them, after an uplink's MTU has changed.
    pub(super) fn fit_clients(&self) {
        for (id, client) in self.registered.registry.placed() {
            for (path, at) in client.paths(id) {
                let largest = self.fits(at.uplink, at.endpoint, client.canonical);
                self.dataplane.set_largest(path, largest);
            }
        }
    }

    fn look_soon(&mut self) {
        let soon = monotonic_ns() + LOOK_EVERY.as_nanos() as u64;
        self.registered.next_look_ns.get_or_insert(soon);
    }

    /// Looks who was heard when, and does what waits for that.
    pub(super) fn look_at_clients(&mut self) -> Result<(), Error> {
        self.registered.next_look_ns = None;
        let news = std::mem::take(&mut self.registered.news);
        if news > TOLD_ONE_BY_ONE {
            info!(
                "{} more clients told by which paths they are reached",
                news - TOLD_ONE_BY_ONE
            );
        }
        let now_ns = monotonic_ns();
        let programs = Programs {
            dataplane: &self.dataplane,
            tunnels: &self.tunnels,
        };
        let look = self.registered.registry.look(now_ns, &programs);
        for Found { path, at, is_silent } in look.found {
            self.dataplane.set_path_flags(path, self.client_flags(at, is_silent));
            self.dataplane.set_status(path, state(is_silent), 0);
            debug!(
                "{} {}",
                self.client_path(path, at),
                if is_silent { "is silent" } else { "is heard again" }
            );
        }
        self.take_turns(&look.turns);
        self.warn_of_waiting(look.waiting);
        self.retire(look.gone);
        self.settle_clients()?;
        self.forget_retired()?;
        if std::mem::take(&mut self.registered.is_unpublished) {
            self.publish_names();
        }
        if self.registered.registry.placed().next().is_some() {
            self.look_soon();
        }
        Ok(())
    }

    fn retire(&mut self, gone: impl IntoIterator<Item = PeerId>) {
        let before = self.registered.retired.len();
        for id in gone {
            self.leave_care(id);
            self.registered.retired.insert(id);
        }
        if self.registered.retired.len() > before {
            self.registered.is_unpublished = true;
            self.look_soon();
        }
    }

    /// Lets nothing lead to the numbers that nobody has any more, so that others can have them.
    fn forget_retired(&mut self) -> Result<(), Error> {
        let retired = std::mem::take(&mut self.registered.retired);
        if retired.is_empty() {
            return Ok(());
        }
        let leading = retired
            .iter()
            .map(|id| (*id, self.registered.leading.remove(id).unwrap_or_default()));
        let leading: Vec<_> = leading.collect();
        self.withdraw(leading)?;
        for id in retired {
            self.dataplane.forget_peer(id)?;
            self.registered.numbers.give_back(id);
        }
        Ok(())
    }

    /// A client's path, for the log.
    fn client_path(&self, path: PathId, at: ClientPath) -> String {
        let label = self
            .registered
            .registry
            .by_id(path.peer())
            .map(Client::label)
            .unwrap_or_default();
        let uplink = self.config.uplinks()[at.uplink.0 as usize].name.as_str();
        format!("{label} at {} over {uplink}", at.endpoint)
    }
}

/// What users see.
pub(super) const fn state(is_silent: bool) -> PathState {
    if is_silent { PathState::Down } else { PathState::Up }
}
