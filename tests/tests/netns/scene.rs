//! What most laws begin with, and what they end with.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::access::Kind;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::{Traffic, analysis::Report};
use wgxdp_tests::wireguard::LISTEN_PORT;

use crate::{BOUND, pace};

/// No gap is longer; generous, for a loaded machine.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// A laboratory under traffic with a daemon that is ready, and what must not change while it runs.
pub(crate) struct Scene {
    pub(crate) traffic: Traffic,
    pub(crate) daemon: Daemon,
    pub(crate) lab: Lab,
    /// What was on the branch before the daemon.
    pub(crate) clean: Snapshot,
    /// The branch's routes before the daemon.
    pub(crate) routes: Snapshot,
}

impl Scene {
    pub(crate) fn raise(family: Family) -> Result<Self> {
        Self::raise_with(family, &Settings::default())
    }

    pub(crate) fn raise_with(family: Family, settings: &Settings) -> Result<Self> {
        Self::raise_over([Kind::Veth; 2], family, settings)
    }

    /// With uplinks of these kinds: isp-a's, isp-b's.
    pub(crate) fn raise_over(kinds: [Kind; 2], family: Family, settings: &Settings) -> Result<Self> {
        Self::raise_in(Lab::raise_over(kinds, family)?, settings)
    }

    /// The same in a laboratory that was arranged beforehand.
    pub(crate) fn raise_in(lab: Lab, settings: &Settings) -> Result<Self> {
        let (clean, routes) = (Snapshot::take(&lab.branch)?, Snapshot::foreign_routes(&lab.branch)?);
        let daemon = Daemon::start(&lab, settings)?;
        let traffic = Traffic::start(&lab, pace())?;
        let scene = Self {
            traffic,
            daemon,
            lab,
            clean,
            routes,
        };
        scene.await_uplink(Uplink::A)?;
        scene.wireguard_noticed_nothing()?;
        scene.foreign_routes_are_as_before()?;
        Ok(scene)
    }

    pub(crate) fn await_uplink(&self, uplink: Uplink) -> Result<()> {
        let what = format!("the tunnel on {}", uplink.name());
        let awaited = poll::wait_until(&what, BOUND, || Ok(self.lab.uplink_in_use()? == Some(uplink)));
        awaited.with_context(|| self.daemon.log().text())
    }

    /// The configured endpoint and both listen ports. (The endpoint at which the hub sees the branch moves, which is
    /// the hub's own doing.)
    pub(crate) fn wireguard_noticed_nothing(&self) -> Result<()> {
        let endpoint = self.lab.branch_wg.endpoint()?;
        ensure!(
            endpoint == Some(self.lab.hub_endpoint()),
            "the branch's endpoint has become {endpoint:?}"
        );
        for (end, wireguard) in [("branch", &self.lab.branch_wg), ("hub", &self.lab.hub_wg)] {
            let port = wireguard.listen_port()?;
            ensure!(port == LISTEN_PORT, "the {end}'s listen port has become {port}");
        }
        Ok(())
    }

    pub(crate) fn foreign_routes_are_as_before(&self) -> Result<()> {
        let difference = self.routes.difference(&Snapshot::foreign_routes(&self.lab.branch)?);
        ensure!(
            difference.is_empty(),
            "routes that are not the daemon's have changed:\n{difference}"
        );
        Ok(())
    }

    pub(crate) fn log_on_error<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| self.daemon.log().text())
    }
}

/// The tunnel was never silent for long.
pub(crate) fn goes_on(seen: Report) -> Result<()> {
    ensure!(
        !seen.silent && seen.gap < LONGEST_GAP,
        "the tunnel fell silent: {seen:?}"
    );
    Ok(())
}

/// Of what was sent everything arrived.
pub(crate) fn nothing_lost(seen: Report) -> Result<()> {
    ensure!(
        seen.sent > 0 && seen.lost == 0 && !seen.silent,
        "the return lost packets: {seen:?}"
    );
    Ok(())
}
