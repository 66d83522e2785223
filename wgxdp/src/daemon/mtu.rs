//! MTUs while the daemon runs: what fits each path, what fits each tunnel, and what is said or done about it.
//!
//! At the start and whenever devices, routes, addresses, peers or a tunnel's own MTU change:
//!
//! - each path is told the largest packet that fits it, by one word;
//! - each tunnel is compared with its **tightest** path: of those whose uplink has a device and an address of the endpoint's family, the one on which the
//!   smallest inner packet fits. A peer whose endpoint nobody knows may come by any uplink in any family;
//! - a tunnel that does not fit is a warning, said once until something changes, or with `mtu = "auto"` is lowered, never below what IPv6 in it needs and
//!   never raised above what it was. A value that somebody else sets meanwhile stays as it is;
//! - with `clamp-mss` the programs on the tunnel's interface are told what fits, by one word.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tracing::{info, warn};
use wgxdp_common::id::{PathId, UplinkId};

use super::advice::{Advice, Tightest};
use super::census::{Census, OfTunnel};
use super::originals::Originals;
use super::plan::{PathPlan, PeerPlan};
use super::uplink::Mtus;
use super::{Daemon, Error};
use crate::config::{Config, TunnelMtu};
use crate::dataplane::Hook;
use crate::host;
use crate::host::link::Link;
use crate::host::view::{self, View};
use crate::mtu::{self, Family, IPV6_LEAST};

/// What is remembered from one look to the next.
pub(super) struct Upkeep {
    originals: Originals,
    /// Devices that had an MTU of ours in this run.
    managed: BTreeSet<u32>,
    /// Devices among them whose MTU somebody else set since.
    theirs: BTreeSet<u32>,
    /// For each tunnel, its MTU when last looked at; 0 without an interface.
    tunnels: Vec<u32>,
    /// For each tunnel, whether its interface has IPv6 addresses.
    addressed_v6: Vec<bool>,
    /// For each tunnel, the device that `clamp_mss` is attached to, and what it was told.
    clamped: Vec<Option<(u32, u32)>>,
    /// The uplinks' MTUs that the paths were told.
    fitted: Vec<Mtus>,
    /// What was said of the present state.
    said: Vec<Advice>,
}

impl Upkeep {
    /// Nothing looked at yet.
    pub(super) fn new(config: &Config, view: &View) -> Self {
        let mut upkeep = Self {
            originals: Originals::load(),
            managed: BTreeSet::new(),
            theirs: BTreeSet::new(),
            tunnels: vec![0; config.tunnels().len()],
            addressed_v6: Vec::new(),
            clamped: vec![None; config.tunnels().len()],
            fitted: Vec::new(),
            said: Vec::new(),
        };
        upkeep.note(config, view);
        upkeep
    }

    /// Notes what a view shows of the tunnels' interfaces.
    pub(super) fn note(&mut self, config: &Config, view: &View) {
        let addressed = |link: Option<&Link>| link.is_some_and(|link| !link.v6.is_empty());
        let tunnels = config.tunnels().iter();
        self.addressed_v6 = tunnels
            .map(|tunnel| addressed(view.get(tunnel.interface.as_str())))
            .collect();
    }
}

impl Daemon {
    /// Looks at all MTUs, and says or does what follows.
    pub(super) async fn settle_mtus(&mut self) {
        self.fit_paths();
        self.take_census();
        let mut advice = self.uplink_advice();
        for tunnel in 0..self.config.tunnels().len() {
            match self.settle_tunnel(tunnel).await {
                Ok(of_tunnel) => advice.extend(of_tunnel),
                // The interface may be gone again: another view will say so.
                Err(e) => warn!("{e}"),
            }
        }
        for new in advice.iter().filter(|advice| !self.mtus.said.contains(advice)) {
            warn!("{new}");
        }
        self.mtus.said = advice;
    }

    /// The largest packet in bytes, as WireGuard sends it, that fits a path. One that leads nowhere at the moment takes any.
    pub(super) fn largest(&self, plan: &PeerPlan, path: &PathPlan) -> u32 {
        self.fits(path.uplink, path.endpoint, plan.canonical)
    }

    /// The same for a path over this uplink to this endpoint, of a peer that WireGuard sees at `canonical`.
    pub(super) fn fits(&self, uplink: UplinkId, endpoint: SocketAddr, canonical: SocketAddr) -> u32 {
        let family = Family::of(endpoint.ip());
        let mtu = self.path_mtu(uplink, family);
        mtu.map_or(u32::MAX, |mtu| mtu::largest(mtu, family, Family::of(canonical.ip())))
    }

    fn path_mtu(&self, uplink: UplinkId, family: Family) -> Option<u32> {
        self.uplinks[uplink.0 as usize].state.mtus.family(family)
    }

    /// Bytes of the largest packet that the peer's tunnel sends over a path, as far as this host knows that it fits.
    pub(super) fn full_size(&self, path: PathId) -> u32 {
        let (Some(runtime), Some(plan)) = (self.paths.get(&path), self.peers.get(&path.peer())) else {
            return 0;
        };
        let full = mtu::outer(self.mtus.tunnels[plan.tunnel], runtime.plan.family());
        let fits = self.path_mtu(runtime.plan.uplink, Family::of(runtime.plan.target.ip()));
        fits.map_or(full, |fits| full.min(fits))
    }

    /// Tells every path what fits, if any uplink's MTU changed. New paths are told when they are added.
    pub(super) fn fit_paths(&mut self) {
        let mtus: Vec<Mtus> = self.uplinks.iter().map(|uplink| uplink.state.mtus).collect();
        if self.mtus.fitted == mtus {
            return;
        }
        for (id, runtime) in &self.paths {
            if let Some(plan) = self.peers.get(&id.peer()) {
                self.dataplane.set_largest(*id, self.largest(plan, &runtime.plan));
            }
        }
        self.fit_clients();
        self.mtus.fitted = mtus;
    }

    fn uplink_advice(&self) -> Vec<Advice> {
        let v6_endpoints = self.census.as_ref().is_some_and(Census::has_v6);
        let too_small = |(config, uplink): (&crate::config::Uplink, &super::UplinkRuntime)| {
            let entry = uplink.state.entry;
            let mtu = uplink.state.mtus.v6.unwrap_or(entry.mtu);
            (v6_endpoints && entry.ifindex != 0 && mtu < IPV6_LEAST).then(|| Advice::UplinkBelowIpv6 {
                uplink: config.name.to_string(),
                interface: config.interface.to_string(),
                mtu,
            })
        };
        self.config
            .uplinks()
            .iter()
            .zip(&self.uplinks)
            .filter_map(too_small)
            .collect()
    }

    async fn settle_tunnel(&mut self, tunnel: usize) -> Result<Vec<Advice>, Error> {
        let config = &self.config.tunnels()[tunnel];
        let (auto, interface) = (config.mtu == Some(TunnelMtu::Auto), config.interface.to_string());
        // Read anew: a view may be older than our own last change.
        let Some(mut link) = view::link(&self.netlink, &interface).await? else {
            self.mtus.tunnels[tunnel] = 0;
            self.clamp(tunnel, None)?;
            return Ok(Vec::new());
        };
        let v6_allowed = self.tunnels[tunnel].peers.iter().any(|peer| peer.carries_v6);
        let v6 = v6_allowed || self.mtus.addressed_v6[tunnel];
        let tightest = self.tightest(tunnel);
        if let Some(path) = tightest.as_ref().filter(|_| auto) {
            link.mtu = self.lower(&link, path, v6).await?;
        }
        self.mtus.tunnels[tunnel] = link.mtu;
        let inner = tightest
            .as_ref()
            .map_or(link.mtu, |path| mtu::clamped(link.mtu, path.fits()));
        self.clamp(tunnel, Some((&link, inner)))?;

        let mut advice = Vec::new();
        if let Some(path) = tightest.filter(|path| link.mtu > path.fits()) {
            advice.push(Advice::TooLarge {
                tunnel: interface.clone(),
                mtu: link.mtu,
                path,
                v6,
                auto,
            });
        }
        if v6_allowed && link.mtu < IPV6_LEAST {
            advice.push(Advice::TunnelBelowIpv6 {
                tunnel: interface,
                mtu: link.mtu,
            });
        }
        Ok(advice)
    }

    /// The path of a tunnel on which the smallest inner packet fits.
    fn tightest(&self, tunnel: usize) -> Option<Tightest> {
        let OfTunnel { peers, mut ways } = self.census.as_ref()?.tunnels.get(tunnel)?.clone();
        if self.tunnels[tunnel].peers.len() > peers {
            let all = (0..self.uplinks.len() as u32).map(UplinkId);
            ways.extend(all.flat_map(|uplink| [(uplink, Family::V4), (uplink, Family::V6)]));
        }
        let path = |(uplink, family): (UplinkId, Family)| {
            Some(Tightest {
                uplink: self.config.uplinks()[uplink.0 as usize].name.to_string(),
                family,
                mtu: self.path_mtu(uplink, family)?,
            })
        };
        ways.into_iter().filter_map(path).min_by_key(Tightest::fits)
    }

    /// Lowers a tunnel's MTU to what fits, or raises it again to what it was at most; what it is then.
    async fn lower(&mut self, link: &Link, path: &Tightest, v6: bool) -> Result<u32, Error> {
        let (interface, mtus) = (link.name.as_str(), &mut self.mtus);
        let remembering = |source| Error::System {
            what: "remembering a tunnel's MTU",
            source,
        };
        if mtus.originals.get(interface).is_some_and(|known| !known.is_ours(link)) {
            mtus.originals.forget(interface).map_err(remembering)?;
            if mtus.managed.contains(&link.index) {
                mtus.theirs.insert(link.index);
                info!("{interface}: somebody set its MTU to {}, where it stays", link.mtu);
            }
        }
        if mtus.theirs.contains(&link.index) {
            return Ok(link.mtu);
        }
        let original = mtus.originals.get(interface).map(|known| known.mtu);
        mtus.managed.extend(original.map(|_| link.index));
        let mtu = mtu::lowered(original.unwrap_or(link.mtu), path.fits(), v6);
        if mtu == link.mtu {
            return Ok(mtu);
        }
        mtus.originals.remember(link, mtu).map_err(remembering)?;
        if let Err(e) = host::mtu::set(&self.netlink, link, mtu).await {
            if original.is_none() {
                mtus.originals.forget(interface).map_err(remembering)?;
            }
            return Err(e.into());
        }
        mtus.managed.insert(link.index);
        if original == Some(mtu) {
            mtus.originals.forget(interface).map_err(remembering)?;
        }
        info!("{interface}: MTU {} → {mtu}, the tightest path is {path}", link.mtu);
        Ok(mtu)
    }

    /// Has `clamp_mss` on the tunnel's interface lower the MSS to `inner`, if that is asked for.
    fn clamp(&mut self, tunnel: usize, now: Option<(&Link, u32)>) -> Result<(), Error> {
        if !self.config.tunnels()[tunnel].clamp_mss {
            return Ok(());
        }
        let wanted = now.map(|(link, inner)| (link.index, inner));
        let before = self.mtus.clamped[tunnel];
        if before == wanted {
            return Ok(());
        }
        if let Some((gone, _)) = before.filter(|(index, _)| Some(*index) != wanted.map(|(index, _)| index)) {
            self.mtus.clamped[tunnel] = None;
            self.dataplane.attachments().device_gone(gone)?;
            self.dataplane.remove_clamp(gone)?;
        }
        let Some((link, inner)) = now else { return Ok(()) };
        self.dataplane.set_clamp(link.index, inner)?;
        if self.mtus.clamped[tunnel].is_none() {
            for hook in [Hook::ClampIngress, Hook::ClampEgress] {
                self.dataplane.attach(hook, &link.name, link.index)?;
            }
        }
        info!(
            "{}: TCP connections are clamped to inner packets of {inner} bytes",
            link.name
        );
        self.mtus.clamped[tunnel] = wanted;
        Ok(())
    }

    /// Detaches `clamp_mss` from tunnels that a run before clamped and this one shall not.
    pub(super) fn unclamp(&mut self, view: &View) -> Result<(), Error> {
        let unclamped = self.config.tunnels().iter().filter(|tunnel| !tunnel.clamp_mss);
        for link in unclamped.filter_map(|tunnel| view.get(tunnel.interface.as_str())) {
            for hook in [Hook::ClampIngress, Hook::ClampEgress] {
                self.dataplane.attachments().detach(hook, &link.name, link.index)?;
            }
        }
        Ok(())
    }
}
