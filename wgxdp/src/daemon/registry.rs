//! Clients whose paths are known from their own probes ([`Registration`]): who is where, what a registration changes, who was silent for long. Pure.
//!
//! ```text
//!   a probe from a new place ─▶ `register` ─▶ the path of that number is there now ─▶ `changed`: other entries for the maps
//!   once a second            ─▶ `look`     ─▶ silent while others of the client's are not: not used; all silent: [asked](speech), in the end forgotten
//!   WireGuard's peers change ─▶ `know`     ─▶ who may register, and whose endpoint is somebody else's by now
//! ```
//!
//! A client's **canonical** endpoint is the one that WireGuard had for it when its first path was registered, and stays that whatever address its probes come from later. It is
//! given up only when it turns out to be another peer's: then WireGuard learns another one of the client's with the next packet, as it learns any that roams.
//!
//! Which of its paths carries traffic the client decides, and the programs follow it by themselves. What is decided here is only which paths there are, which not to fall back to, and
//! who is to be asked from here because it asks no more.

mod speech;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use wgxdp_common::client::LocalId;
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::keyring::{Heard, KeyName};
use wgxdp_common::record::Registration;
use wgxdp_common::table::{self, Order, OrderedBy};

use self::speech::{Evidence, Speech};
use super::plan;
use crate::config::{Protect, PublicKey};
use crate::host::wireguard;
use crate::stamp::key::id_of;

pub(super) use self::speech::{AT_ONCE, INTERVAL, Turn};

/// A path is silent that missed so many of the intervals at which its client's probes come.
const MISSED: u32 = 3;
/// Intervals shorter than this are not told apart, because nobody looks more often.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so long without a probe a path is nobody's. A NAT has forgotten it by then (RFC 4787, REQ-5), and the longest interval of probes is a third of it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);

/// One of a client's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientPath {
    pub(super) uplink: UplinkId,
    /// The address of ours that the client speaks to.
    pub(super) local: LocalId,
    /// Where the client is, by this path.
    pub(super) endpoint: SocketAddr,
}

/// When something was heard of last, and how often it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rhythm {
    /// When (CLOCK_MONOTONIC).
    latest_ns: u64,
    /// The time between the last two looks that found news.
    interval: Duration,
}

/// What is heard of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hearing {
    rhythm: Rhythm,
    is_silent: bool,
}

/// A client with paths.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// The tunnel's place in the configuration.
    pub(super) tunnel: usize,
    pub(super) key: PublicKey,
    name: KeyName,
    /// The endpoint that WireGuard sees.
    pub(super) canonical: SocketAddr,
    /// By their slots, which are those that the client has them in itself.
    paths: BTreeMap<u32, (ClientPath, Hearing)>,
    /// The slot of the one that carries its traffic, as far as was told.
    first: u32,
    /// Under which it is in the maps, if there is room.
    id: Option<PeerId>,
    /// Its own requests, over whichever path.
    requests: Rhythm,
    speech: Speech,
}

/// Whom WireGuard knows.
#[derive(Clone, Copy, Debug)]
struct Known {
    tunnel: usize,
    key: PublicKey,
    endpoint: Option<SocketAddr>,
}

/// What is known of them all.
#[derive(Debug, Default)]
pub(super) struct Registry {
    known: HashMap<KeyName, Known>,
    clients: HashMap<KeyName, Client>,
    by_id: BTreeMap<PeerId, KeyName>,
    changed: HashSet<KeyName>,
}

/// A path that has become silent, or is heard again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathId,
    pub(super) at: ClientPath,
    pub(super) is_silent: bool,
}

/// What a look goes by.
pub(super) trait Witness {
    /// What the programs noted of a path: the far end's latest request or answer.
    fn heard(&self, path: PathId) -> Heard;
    /// The far end's latest request, by the same clock, over each path of its own; not asked for of those who surely send nothing else.
    fn requests(&self, of: &KeyName) -> impl Iterator<Item = Heard>;
    /// When the handshake of the peer's session was, if that is valid still.
    fn session(&self, tunnel: usize, key: &PublicKey) -> Option<SystemTime>;
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Paths that have become silent, or are heard again.
    pub(super) found: Vec<Found>,
    /// What is to be done about whom.
    pub(super) turns: Vec<(PeerId, Turn)>,
    /// Clients who would be asked from here if they were not too many.
    pub(super) waiting: usize,
    /// The numbers of those who are forgotten.
    pub(super) gone: Vec<PeerId>,
}

impl Client {
    /// Its paths, under this number.
    pub(super) fn paths(&self, id: PeerId) -> impl Iterator<Item = (PathId, ClientPath)> + '_ {
        let paths = self.paths.iter();
        paths.map(move |(slot, (path, _))| (PathId::new(id, *slot), *path))
    }

    /// Whether nothing was heard of this path while there was of others.
    pub(super) fn is_silent(&self, path: PathId) -> bool {
        let path = self.paths.get(&path.slot());
        path.is_some_and(|(_, hearing)| hearing.is_silent)
    }

    /// Whether it asks by itself: then no silence of ours convicts its paths.
    pub(super) fn asks_by_itself(&self) -> bool {
        self.speech == Speech::ByItself
    }

    /// Whether it is asked from here, and its paths are judged by its answers.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.speech, Speech::Asked { .. })
    }

    /// What it is called in the log.
    pub(super) fn label(&self) -> String {
        self.key.short()
    }

    /// Its listen port is the tunnel's.
    fn port(&self) -> u16 {
        self.name.tunnel.number()
    }

    fn order(&self) -> Order {
        Order::from_slots(self.paths.keys().copied()).with_first(self.first)
    }

    /// For the maps. No silence makes a path suspect or dead: the client knows better, and says so.
    pub(super) fn entries(&self, protect: Protect) -> (table::Peer, Vec<(u32, table::Path)>) {
        let peer = table::Peer {
            order: self.order(),
            canonical: self.canonical.into(),
            reserved: [0; 16],
            ordered: OrderedBy::FAR_END,
            name: self.name,
        };
        let canonical = self.canonical.ip().into();
        let path = |(slot, (path, _)): (&u32, &(ClientPath, Hearing))| {
            let entry = table::Path {
                protect: protect.into(),
                local: path.local,
                ..table::Path::new(path.uplink, path.endpoint.into(), canonical)
            };
            (*slot, entry)
        };
        (peer, self.paths.iter().map(path).collect())
    }

    /// What leads to it.
    pub(super) fn endpoint_entries(&self, id: PeerId) -> Vec<EndpointEntry> {
        let paths: Vec<_> = self
            .paths(id)
            .map(|(id, path)| (id, path.uplink, path.endpoint))
            .collect();
        plan::endpoint_entries(id, self.port(), self.canonical, &paths, self.order())
    }

    /// Whether it can be reached at an endpoint by any of its paths.
    fn is_at(&self, endpoint: SocketAddr) -> bool {
        self.paths.values().any(|(path, _)| path.endpoint == endpoint)
    }

    /// When anything was heard of it last (CLOCK_MONOTONIC).
    fn heard_ns(&self) -> u64 {
        let paths = self.paths.values().map(|(_, hearing)| hearing.rhythm.latest_ns);
        paths.max().unwrap_or(0)
    }

    /// Notes what the programs heard of it.
    fn hear(&mut self, id: PeerId, now_ns: u64, witness: &impl Witness) {
        for (slot, (_, hearing)) in &mut self.paths {
            let heard = witness.heard(PathId::new(id, *slot));
            hearing.rhythm.note(moment(heard, now_ns));
        }
        // Whoever was sent requests may have been heard by its answers.
        let spoke_ns = if self.asks_by_itself() {
            Some(self.heard_ns())
        } else {
            let requests = witness.requests(&self.name);
            requests.filter_map(|heard| moment(heard, now_ns)).max()
        };
        self.requests.note(spoke_ns);
    }

    /// Finds out who asks about its paths from now on; what is to be done, and whether it has to wait for room.
    fn consider(&mut self, now_ns: u64, is_room: bool, witness: &impl Witness) -> (Option<Turn>, bool) {
        let evidence = Evidence {
            spoke_ns: self.requests.latest_ns,
            is_silent: self.requests.lags(now_ns),
            heard_ns: self.heard_ns(),
            has_choice: self.paths.len() > 1,
            session: witness.session(self.tunnel, &self.key),
        };
        let before = self.speech;
        let waits = !is_room && before.wants_trying(&evidence);
        self.speech = before.next(&evidence, is_room, now_ns);
        (self.speech.turn(before), waits)
    }

    /// Tells the paths that are silent while others are not: if all are, that says nothing of any one. Of one who is asked the answers decide.
    fn find_silent(&mut self, id: PeerId) -> Vec<Found> {
        let (latest_ns, is_asked) = (self.heard_ns(), self.is_asked());
        let mut found = Vec::new();
        for (slot, (at, hearing)) in &mut self.paths {
            let is_silent = !is_asked && hearing.rhythm.lags(latest_ns);
            if hearing.is_silent != is_silent {
                hearing.is_silent = is_silent;
                let (path, at) = (PathId::new(id, *slot), *at);
                found.push(Found { path, at, is_silent });
            }
        }
        found
    }

    /// Gives an endpoint up, which turned out to be another's. Whether it has anything left.
    fn give_up(&mut self, endpoint: SocketAddr) -> bool {
        self.paths.retain(|_, (path, _)| path.endpoint != endpoint);
        let first = self.paths.get(&self.first).or(self.paths.values().next());
        let Some((path, _)) = first else { return false };
        if self.canonical == endpoint {
            self.canonical = path.endpoint;
        }
        true
    }
}

impl Registry {
    /// Who may register: every peer of these tunnels but those for whom `is_listed`. Returns the numbers of those who may no longer.
    pub(super) fn know(
        &mut self,
        tunnels: &[wireguard::Tunnel],
        is_listed: impl Fn(usize, &PublicKey) -> bool,
    ) -> Vec<PeerId> {
        self.known.clear();
        for (tunnel, of) in tunnels.iter().enumerate() {
            let Some(port) = of.listen_port else { continue };
            for peer in &of.peers {
                let key = PublicKey::from(peer.public_key.0);
                if is_listed(tunnel, &key) {
                    continue;
                }
                let known = Known {
                    tunnel,
                    key,
                    endpoint: peer.endpoint,
                };
                self.known
                    .insert(KeyName::new(id_of(&peer.public_key.0), port.into()), known);
            }
        }
        let gone = self.clients.keys().filter(|name| !self.known.contains_key(*name));
        let gone: Vec<KeyName> = gone.copied().collect();
        let gone = gone.iter().filter_map(|name| self.forget(name)).collect();
        self.heed_wireguard();
        gone
    }

    /// A canonical endpoint at which its client is no more, while WireGuard says that somebody else is, is somebody else's.
    fn heed_wireguard(&mut self) {
        let canonicals: HashMap<_, _> = self
            .clients
            .values()
            .map(|client| ((client.name.tunnel.0, client.canonical), client.name))
            .collect();
        for (name, known) in &self.known {
            let Some(endpoint) = known.endpoint else { continue };
            let owner = canonicals
                .get(&(name.tunnel.0, endpoint))
                .filter(|owner| *owner != name);
            let Some(client) = owner.and_then(|owner| self.clients.get_mut(owner)) else {
                continue;
            };
            if !client.is_at(endpoint) && client.give_up(endpoint) {
                self.changed.insert(client.name);
            }
        }
    }

    /// Makes the place where a client's probes come from one of its paths. Nothing happens if the client is none, or the endpoint a listed peer's. `owner` is who has an endpoint of the
    /// tunnel's by now. Returns the number of a client whom that leaves without any path.
    pub(super) fn register(
        &mut self,
        registration: &Registration,
        owner: impl Fn(SocketAddr) -> Option<PeerId>,
    ) -> Option<PeerId> {
        let name = registration.name;
        let known = *self.known.get(&name)?;
        let path = ClientPath {
            uplink: registration.uplink,
            local: registration.local,
            endpoint: registration.source.to_socket(),
        };
        let is_anothers = |endpoint| owner(endpoint).filter(|owner| self.by_id.get(owner) != Some(&name));
        let other = is_anothers(path.endpoint);
        if other.is_some_and(|other| !self.by_id.contains_key(&other)) {
            return None;
        }
        let canonical = known.endpoint.filter(|endpoint| is_anothers(*endpoint).is_none());
        let rhythm = Rhythm::new(registration.at_ns);
        let hearing = Hearing {
            rhythm,
            is_silent: false,
        };
        let slot = registration.theirs.slot();
        let client = self.clients.entry(name).or_insert_with(|| Client {
            tunnel: known.tunnel,
            key: known.key,
            name,
            canonical: canonical.unwrap_or(path.endpoint),
            paths: BTreeMap::new(),
            first: slot,
            id: None,
            requests: rhythm,
            speech: Speech::ByItself,
        });
        if registration.active != 0 {
            client.first = slot;
        }
        // The client may have its paths in other slots than before.
        client
            .paths
            .retain(|_, (other, _)| (other.uplink, other.endpoint) != (path.uplink, path.endpoint));
        client.paths.insert(slot, (path, hearing));
        self.changed.insert(name);
        self.dispossess(other?, path.endpoint)
    }

    /// Another client proved to be where this one was.
    fn dispossess(&mut self, other: PeerId, endpoint: SocketAddr) -> Option<PeerId> {
        let name = *self.by_id.get(&other)?;
        if self.clients.get_mut(&name)?.give_up(endpoint) {
            self.changed.insert(name);
            return None;
        }
        self.forget(&name)
    }

    /// Those who want other entries in the maps than they have, if any, since this was last asked.
    pub(super) fn changed(&mut self) -> Vec<KeyName> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// Who has this number.
    pub(super) fn by_id(&self, id: PeerId) -> Option<&Client> {
        self.clients.get(self.by_id.get(&id)?)
    }

    /// Everybody who is in the maps, by number.
    pub(super) fn placed(&self) -> impl Iterator<Item = (PeerId, &Client)> {
        self.by_id
            .iter()
            .filter_map(|(id, name)| Some((*id, self.clients.get(name)?)))
    }

    /// From now on a client is in the maps under this number. Returns the one that it had.
    pub(super) fn place(&mut self, name: &KeyName, id: PeerId) -> Option<PeerId> {
        let client = self.clients.get_mut(name)?;
        let before = client.id.replace(id);
        if let Some(before) = before {
            self.by_id.remove(&before);
        }
        self.by_id.insert(id, *name);
        before
    }

    /// A look at who was heard when.
    pub(super) fn look(&mut self, now_ns: u64, witness: &impl Witness) -> Look {
        let (mut look, mut empty) = (Look::default(), Vec::new());
        let mut busy = self.clients.values().filter(|client| client.speech.is_busy()).count();
        for (id, name) in &self.by_id {
            let Some(client) = self.clients.get_mut(name) else {
                continue;
            };
            client.hear(*id, now_ns, witness);
            let was_busy = client.speech.is_busy();
            let (turn, waits) = client.consider(now_ns, busy < AT_ONCE, witness);
            busy = busy + usize::from(client.speech.is_busy()) - usize::from(was_busy);
            look.turns.extend(turn.map(|turn| (*id, turn)));
            look.waiting += usize::from(waits);
            look.found.extend(client.find_silent(*id));
            let before = client.paths.len();
            client
                .paths
                .retain(|_, (_, hearing)| !hearing.rhythm.is_forgotten(now_ns));
            if client.paths.is_empty() {
                empty.push(*name);
            } else if client.paths.len() < before {
                self.changed.insert(*name);
            }
        }
        look.gone = empty.iter().filter_map(|name| self.forget(name)).collect();
        look
    }

    fn forget(&mut self, name: &KeyName) -> Option<PeerId> {
        self.changed.remove(name);
        let id = self.clients.remove(name)?.id?;
        self.by_id.remove(&id);
        Some(id)
    }
}

/// When that was (CLOCK_MONOTONIC): the same at each look, to the millisecond that is known. `None`: never, or too long ago.
fn moment(heard: Heard, now_ns: u64) -> Option<u64> {
    const MS: u64 = 1_000_000;
    let report = heard.report(now_ns).filter(|report| report.age_ms != u16::MAX)?;
    Some((now_ns / MS).saturating_sub(report.age_ms.into()) * MS)
}

impl Rhythm {
    /// Of what was heard once.
    const fn new(latest_ns: u64) -> Self {
        Self {
            latest_ns,
            interval: LOOK_EVERY,
        }
    }

    /// What was heard, if it is later than what is known.
    fn note(&mut self, at_ns: Option<u64>) {
        if let Some(at_ns) = at_ns.filter(|at_ns| *at_ns > self.latest_ns) {
            self.interval = Duration::from_nanos(at_ns - self.latest_ns).max(LOOK_EVERY);
            self.latest_ns = at_ns;
        }
    }

    /// Whether it is far behind that.
    fn lags(&self, latest_ns: u64) -> bool {
        Duration::from_nanos(latest_ns.saturating_sub(self.latest_ns)) > self.interval * MISSED
    }

    fn is_forgotten(&self, now_ns: u64) -> bool {
        Duration::from_nanos(now_ns.saturating_sub(self.latest_ns)) > FORGOTTEN_AFTER
    }
}

#[cfg(test)]
mod tests;
