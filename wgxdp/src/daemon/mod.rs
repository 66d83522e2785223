//! The driver: the one place that owns clocks, sockets, tasks and maps, and turns the [engine](crate::engine)'s actions into deeds.
//!
//! ```text
//! start     view, tunnels ─▶ plan ─▶ anchor ─▶ programs, maps ─▶ attach ─▶ neighbours ─▶ engage ─▶ "ready"
//! serve     records │ link events │ the engine's wake-up │ changes of the tunnels ─▶ engine ─▶ actions ─▶ maps, probes, log
//! clean up  rules, routes ─▶ detach ─▶ device, neighbours ─▶ pins
//! ```
//!
//! Everything that can be refused is refused before anything is touched. What fails later leads to the same clean-up as the end of the
//! daemon and as `wgxdp down`: it removes what can be proven to be ours, whichever run of ours left it.

mod advice;
mod announce;
mod asking;
#[cfg(feature = "bpf-log")]
mod bpf_log;
mod census;
mod cleanup;
mod describe;
mod error;
mod families;
mod guard;
mod hearing;
mod keys;
mod locals;
mod mtu;
mod names_file;
mod observe;
mod originals;
mod peers;
mod plan;
mod priority;
mod refuse;
mod registration;
mod registry;
mod report;
mod roster;
mod serve;
mod survey;
mod traffic;
mod tunnels;
mod uplink;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::keyring::{KeyName, Keys};
use wgxdp_common::liveness::Flags;
use wgxdp_common::net::Address;
use wgxdp_common::table;

use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::dataplane::{Dataplane, Hook, Pins, Room};
use crate::engine::{self, Action, Engine, Input};
use crate::host::anchor::{self, Anchor};
use crate::host::neighbour::Neighbours;
use crate::host::netlink::Netlink;
use crate::host::view::View;
use crate::host::watch::Watch;
use crate::host::wireguard;
use crate::prober::Prober;

pub use cleanup::{CleanUp, clean_up};
pub use error::Error;
use plan::{PathPlan, PeerPlan, PlanError, Unlisted};
pub use refuse::Refusal;
use roster::{Claims, Numbers};
use survey::Survey;

/// An uplink while the daemon runs.
struct UplinkRuntime {
    state: uplink::State,
    remembered: uplink::Remembered,
    /// The device that `restore` is attached to.
    attached: Option<u32>,
    guard: guard::Settled,
}

/// A path while the daemon runs.
struct PathRuntime {
    plan: PathPlan,
    /// What the engine knows to speak against it besides its uplink's flags.
    told: Flags,
    /// The last probe's sequence number, to make the kernel's 16 bits whole again.
    sequence: u32,
    doubt: report::Doubt,
}

/// A running daemon.
pub struct Daemon {
    config: Config,
    netlink: Netlink,
    watch: Watch,
    anchor: Anchor,
    /// The index of the device that `steer` is attached to, if it is.
    steered: Option<u32>,
    /// When to repair again what could not be (CLOCK_MONOTONIC).
    repair_again_ns: Option<u64>,
    neighbours: Neighbours,
    dataplane: Dataplane,
    records: AsyncFd<RingBuf<MapData>>,
    prober: Prober,
    engine: Engine,
    names: engine::Names,
    /// Probed although no file lists them.
    unlisted: Unlisted,
    uplinks: Vec<UplinkRuntime>,
    mtus: mtu::Upkeep,
    /// As WireGuard last told of them; shared with the metrics.
    tunnels: Arc<Vec<wireguard::Tunnel>>,
    numbers: Numbers,
    claims: Claims,
    peers: BTreeMap<PeerId, PeerPlan>,
    /// Of these peers; `None` since they last changed.
    census: Option<census::Census>,
    /// Configured peers that WireGuard does not have.
    missing: BTreeSet<PlanError>,
    /// Peers for which there is no room.
    without_room: usize,
    /// Until the tunnels are polled, which is its work then.
    locksmith: keys::Locksmith,
    /// Peers for whose keys there is no room.
    without_keys: usize,
    paths: BTreeMap<PathId, PathRuntime>,
    untold: Option<families::Untold>,
    published: Option<table::Config>,
    observed: observe::Observed,
    /// What happened to a crowd of paths, and to how many: told when all of them have been.
    crowd: BTreeMap<String, usize>,
    announcer: announce::Announcer,
    registered: registration::Registered,
    traffic: traffic::Ledger,
    priority: priority::Priority,
    punctuality: priority::Punctuality,
    hearing: hearing::Hearing,
}

/// Runs until SIGINT or SIGTERM, and removes everything that it added, also when it fails.
///
/// # Errors
/// Why it did not start, or stopped.
pub async fn run(config: Config) -> Result<(), Error> {
    let netlink = Netlink::connect()?;
    let survey = survey::survey(&config, &netlink).await?;
    let signals = serve::Signals::listen()?;
    let interfaces: Vec<String> = config
        .tunnels()
        .iter()
        .map(|tunnel| tunnel.interface.as_str().into())
        .collect();
    let outcome = match Daemon::start(config, &netlink, survey).await {
        Ok(mut daemon) => {
            let served = daemon.serve(signals).await;
            daemon.observed.end().await;
            served
        }
        Err(e) => Err(e),
    };
    match clean_up(&netlink, &Pins::default(), &interfaces).await {
        Ok(done) => info!("removed {done}"),
        Err(e) => warn!("clean-up is not complete: {e}; `wgxdp down` tries again"),
    }
    outcome
}

impl Daemon {
    async fn start(config: Config, netlink: &Netlink, survey: Survey) -> Result<Self, Error> {
        let Survey {
            watch,
            view,
            unlisted,
            tunnels,
            plans,
            uplinks,
            metrics,
        } = survey;
        for warning in config.warnings() {
            warn!("{warning}");
        }
        let capacity = roster::capacity(plans.len()).ok_or(Error::TooManyPeers(plans.len()))?;
        let anchor = Anchor::raise(netlink).await?;
        if !anchor.has_v6() {
            warn!("IPv6 is switched off on this host: only IPv4 endpoints are steered");
        }
        let prober = Prober::open(anchor.v4().into(), anchor.v6().map(Into::into)).map_err(Error::Prober)?;
        let peers: usize = tunnels.iter().map(|tunnel| tunnel.peers.len()).sum();
        let registered = roster::capacity(peers.saturating_sub(plans.len())).ok_or(Error::TooManyPeers(peers))?;
        let room = Room {
            peers: capacity,
            registered,
            clients: config.max_clients(),
            keyrings: roster::capacity(peers).ok_or(Error::TooManyPeers(peers))?,
        };
        let guards: BTreeSet<_> = config
            .uplinks()
            .iter()
            .filter_map(|uplink| guard::wanted(uplink.xdp))
            .collect();
        #[cfg_attr(
            not(feature = "bpf-log"),
            expect(unused_mut, reason = "the programs' logger takes the object by mutable reference")
        )]
        let mut dataplane = Dataplane::load(room, guards, Pins::default())?;
        #[cfg(feature = "bpf-log")]
        bpf_log::start(dataplane.ebpf());
        // SAFETY: the ring buffer owns its descriptor, which stays open and the same until it is dropped.
        let records = unsafe { AsyncFd::register(dataplane.records()?) };
        let records = records.map_err(|e| Error::System {
            what: "waiting for records",
            source: e.into(),
        })?;
        let settings = engine::Settings {
            false_failovers_per_week: config.detection().false_failovers_per_week,
            hold_down: config.detection().hold_down,
            max_hold_down: config.detection().max_hold_down,
            first_sequence: u32::from(rand::random::<u16>()),
        };
        let hearing = hearing::Hearing::open(config.shortest_interval()).await;
        let mut daemon = Self {
            netlink: netlink.clone(),
            neighbours: Neighbours::new(netlink),
            engine: Engine::new(settings, &[], monotonic_ns(), &mut Vec::new()),
            names: engine::Names::default(),
            mtus: mtu::Upkeep::new(&config, &view),
            announcer: announce::Announcer::start(&config, dataplane.tables()),
            config,
            watch,
            anchor,
            steered: None,
            repair_again_ns: None,
            dataplane,
            records,
            prober,
            unlisted,
            uplinks,
            registered: registration::Registered::new(Numbers::new(capacity, registered)),
            tunnels: Arc::new(tunnels),
            numbers: Numbers::new(0, capacity),
            claims: Claims::default(),
            peers: BTreeMap::new(),
            census: None,
            missing: BTreeSet::new(),
            without_room: 0,
            locksmith: keys::Locksmith::default(),
            without_keys: 0,
            paths: BTreeMap::new(),
            untold: None,
            published: None,
            observed: observe::Observed::new(),
            crowd: BTreeMap::new(),
            traffic: traffic::Ledger::default(),
            priority: priority::Priority::ordinary(),
            punctuality: priority::Punctuality::default(),
            hearing,
        };
        let tables = daemon.dataplane.tables().clone();
        if let Some(listener) = metrics {
            daemon.observed.serve(listener, &tables);
        }
        daemon.settle_locals(&view)?;
        daemon.unclamp(&view)?;
        daemon.install(plans).await?;
        Ok(daemon)
    }

    /// Fills the maps, attaches, and only then leads packets to the anchor.
    async fn install(&mut self, plans: BTreeSet<PeerPlan>) -> Result<(), Error> {
        let keys = self.locksmith.follow(&self.tunnels).await;
        self.settle_keys(&keys)?;
        self.add_peers(plans)?;
        self.know_clients();
        self.publish()?;
        for index in 0..self.uplinks.len() {
            let (state, id) = (self.uplinks[index].state.clone(), UplinkId(index as u32));
            let mut actions = Vec::new();
            self.engine.handle(
                Input::UplinkFlags {
                    uplink: id,
                    flags: state.flags,
                },
                monotonic_ns(),
                &mut actions,
            );
            self.perform(actions);
            // Peers may be none yet: the flags of an uplink without paths are the driver's own to write.
            self.dataplane.set_uplink_flags(id, state.flags);
            self.attach_restore(index)?;
            self.attach_guard(index)?;
        }
        self.attach_steer()?;
        self.adopt_clients();
        self.dataplane.pin_maps()?;
        self.settle_neighbours().await?;
        self.anchor.engage(&self.ports()).await?;
        self.refresh_endpoints().await;
        self.publish_names();
        self.observed.published().await;
        self.note_handshakes();
        self.settle_mtus().await;
        self.describe_room()?;
        self.describe();
        Ok(())
    }

    /// Ports of all tunnels.
    fn ports(&self) -> BTreeSet<u16> {
        tunnels::ports(&self.tunnels)
    }

    /// Takes over what a run that was killed had learned. Without it clients are learned again with their next handshakes.
    fn adopt_clients(&self) {
        let Some(config) = &self.published else { return };
        match self.dataplane.adopt_clients(config) {
            Ok(0) => {}
            Ok(adopted) => info!("{adopted} clients are where they were before"),
            Err(e) => warn!("{e}: clients are learned again with their next handshakes"),
        }
    }

    /// Attaches `steer` to the anchor, if that is not the device that it is attached to.
    fn attach_steer(&mut self) -> Result<(), Error> {
        let index = self.anchor.index();
        if self.steered == Some(index) {
            return Ok(());
        }
        if let Some(gone) = self.steered.take() {
            self.dataplane.attachments().device_gone(gone)?;
        }
        self.publish()?;
        self.dataplane.attach(Hook::Steer, anchor::NAME, index)?;
        self.steered = Some(index);
        Ok(())
    }

    /// Attaches `restore` to the uplink's device, if there is one that it is not attached to.
    fn attach_restore(&mut self, index: usize) -> Result<(), Error> {
        let uplink = &mut self.uplinks[index];
        let ifindex = uplink.state.entry.ifindex;
        if let Some(gone) = uplink.attached.filter(|attached| *attached != ifindex) {
            self.dataplane.attachments().device_gone(gone)?;
            uplink.attached = None;
        }
        if ifindex != 0 && uplink.attached.is_none() {
            let interface = self.config.uplinks()[index].interface.as_str();
            let mechanism = self.dataplane.attach(Hook::Restore, interface, ifindex)?;
            uplink.attached = Some(ifindex);
            tracing::debug!("restore is attached to {interface} by {mechanism:?}");
        }
        Ok(())
    }

    /// Puts the host's side of the configuration into force, if it changed.
    fn publish(&mut self) -> Result<(), Error> {
        let config = self.table_config();
        if self.published.as_ref() != Some(&config) {
            self.dataplane.publish(&config)?;
            self.published = Some(config);
        }
        Ok(())
    }

    fn table_config(&self) -> table::Config {
        let mut config = table::Config {
            anchor: table::Anchor {
                v4: std::net::IpAddr::V4(self.anchor.v4()).into(),
                v6: self
                    .anchor
                    .v6()
                    .map_or(Address::UNSPECIFIED, |v6| std::net::IpAddr::V6(v6).into()),
                ifindex: self.anchor.index(),
                mac: self.anchor.mac(),
                probe_ident: self.prober.ident().to_be(),
            },
            uplink_count: self.uplinks.len() as u32,
            ..table::Config::default()
        };
        for (entry, uplink) in config.uplinks.iter_mut().zip(&self.uplinks) {
            *entry = uplink.state.entry;
            for (family, anchor) in [(&mut entry.v4, config.anchor.v4), (&mut entry.v6, config.anchor.v6)] {
                *family = family.placed(anchor, self.dataplane.locals().id(family.address.to_ip()));
            }
        }
        let fallback = plan::fallback(&self.config);
        for (index, (entry, port)) in (0..).zip(config.tunnels.iter_mut().zip(self.ports())) {
            *entry = table::Tunnel {
                port: port.into(),
                index,
                fallback,
            };
            config.tunnel_count = u32::from(index) + 1;
        }
        config
    }

    /// Has the programs know the host's addresses.
    fn settle_locals(&mut self, view: &View) -> Result<(), Error> {
        let left_out = self.dataplane.settle_locals(&locals::of(&self.config, view))?;
        if let Some(address) = left_out.first() {
            warn!(
                "{} of this host's addresses are too many to be told apart, the first is {address}: WireGuard does not hear who speaks to them",
                left_out.len()
            );
        }
        Ok(())
    }

    /// Has the programs know the keys of in-band probes.
    fn settle_keys(&mut self, keys: &HashMap<KeyName, Keys>) -> Result<(), Error> {
        let without_keys = self.dataplane.settle_keys(keys)?;
        if without_keys > 0 && without_keys != self.without_keys {
            warn!(
                "no room for the keys of {without_keys} peers: their in-band probes are not answered; restart to make room"
            );
        }
        self.without_keys = without_keys;
        Ok(())
    }

    /// Has the kernel keep every next hop resolved that a packet may be sent to.
    async fn settle_neighbours(&mut self) -> Result<(), Error> {
        self.take_census();
        let destinations = self.census.iter().map(|census| &census.destinations);
        let hops = |destinations| {
            self.uplinks
                .iter()
                .flat_map(move |uplink| uplink.state.next_hops(destinations))
        };
        let wanted = destinations.flat_map(hops).collect();
        self.neighbours.settle(wanted).await?;
        Ok(())
    }

    /// The same with what was wanted last: somebody may have flushed it, and a later answer of WireGuard's is the next occasion.
    async fn settle_neighbours_again(&mut self) {
        if let Err(e) = self.neighbours.settle_again().await {
            warn!("{e}");
        }
    }

    /// Has user-space WireGuard forget the source addresses that it learned by another way than the present one.
    async fn refresh_endpoints(&self) {
        tunnels::refresh_endpoints(self.tunnels.to_vec()).await;
    }

    /// Carries out what the engine decided, in order.
    fn perform(&mut self, actions: Vec<Action>) {
        let (mut later, mut transitions) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::SetUplinkFlags { uplink, flags } => self.dataplane.set_uplink_flags(uplink, flags),
                Action::SetPathFlags { path, flags } => {
                    self.dataplane.set_path_flags(path, flags.with(self.path_flags(path)));
                }
                Action::SetThresholds { path, thresholds } => self.dataplane.set_thresholds(path, thresholds),
                Action::LiftLatch { path } => self.dataplane.lift_latch(path),
                Action::SetStatus { path, state, loss_ppm } => self.dataplane.set_status(path, state, loss_ppm),
                Action::SendProbe { path, sequence } => self.send_probe(path, sequence, 0, &mut later),
                Action::SendFullSize { path, sequence } => {
                    self.send_probe(path, sequence, self.full_size(path), &mut later);
                }
                Action::Report(transition) => {
                    self.dataplane
                        .set_reason(transition.path, transition.cause.move_reason());
                    transitions.push(transition);
                }
                Action::ReportUnanswered { path, everywhere } => warn!("{}", self.names.unanswered(path, everywhere)),
            }
        }
        debug_assert!(later.is_empty(), "a probe that left or did not decides nothing");
        self.report(&transitions);
    }

    /// `len`: bytes that the packet has at least.
    fn send_probe(&mut self, path: PathId, sequence: u32, len: u32, actions: &mut Vec<Action>) {
        let Some(runtime) = self.paths.get_mut(&path) else {
            return;
        };
        runtime.sequence = sequence;
        let sent = self.prober.send(path, sequence, runtime.plan.target, len);
        let now_ns = monotonic_ns();
        let input = match sent {
            Ok(()) => Input::ProbeSent {
                path,
                sequence,
                at_ns: now_ns,
            },
            Err(e) => {
                tracing::debug!("{}: probe {sequence} did not leave: {e}", self.names.path(path));
                Input::ProbeFailed { path, sequence }
            }
        };
        self.engine.handle(input, now_ns, actions);
    }
}
