//! What the host is like before anything is touched, and refusing what cannot work there.
//!
//! An uplink's device that is not there, or has no gateway, is taken for a mistake in the file, unless the file says that it may come later, or a run that was killed had this
//! uplink: a daemon that crashes while a modem is away must come back without it.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::net::TcpListener;
use tracing::{debug, warn};
use wgxdp_common::id::UplinkId;
use wgxdp_common::liveness::Flags;
use wgxdp_common::table;

use super::plan::{self, PeerPlan, Plans, Unlisted};
use super::{Error, UplinkRuntime, guard, observe, refuse, tunnels, uplink};
use crate::config::Config;
use crate::host::netlink::Netlink;
use crate::host::view::View;
use crate::host::watch::Watch;
use crate::host::wireguard;
use crate::snapshot::{Names, STATE_FILE};

/// What is known before anything is touched.
pub(super) struct Survey {
    pub(super) watch: Watch,
    pub(super) view: View,
    pub(super) unlisted: Unlisted,
    pub(super) tunnels: Vec<wireguard::Tunnel>,
    pub(super) plans: BTreeSet<PeerPlan>,
    pub(super) uplinks: Vec<UplinkRuntime>,
    pub(super) metrics: Option<TcpListener>,
}

/// Looks at the host and refuses what cannot work, before anything is touched.
pub(super) async fn survey(config: &Config, netlink: &Netlink) -> Result<Survey, Error> {
    let (watch, view) = Watch::start(netlink).await?;
    let tunnels = tunnels::read_all(config).await?;
    let unlisted = plan::unlisted(config, &tunnels);
    let Plans { peers: plans, missing } = plan::peers(config, &tunnels, &unlisted)?;
    if let Some(missing) = missing.into_iter().next() {
        return Err(missing.into());
    }
    let destinations: BTreeSet<_> = plans.iter().flat_map(PeerPlan::destinations).collect();
    let inherited = inherited();
    let mut uplinks = Vec::new();
    for (id, uplink) in (0..).map(UplinkId).zip(config.uplinks()) {
        let (name, interface) = (uplink.name.as_str().to_owned(), uplink.interface.as_str().to_owned());
        let is_inherited = inherited.contains(&(name.clone(), interface.clone()));
        let link = view.get(&interface);
        if link.is_some_and(|link| link.kind == table::LinkKind::ABSENT) {
            return Err(Error::LinkLayer { name, interface });
        }
        let mut remembered = uplink::Remembered::default();
        let state = uplink::State::of(id, uplink, &view, &mut remembered);
        let usable = state.flags == Flags::NONE;
        let lacking = destinations
            .iter()
            .find(|destination| usable && state.lacks_gateway(uplink, **destination));
        match (link, lacking) {
            (None, _) if uplink.hotplug || is_inherited => {
                warn!("uplink {name}: interface {interface} is not there; it is used once it comes");
            }
            (None, _) => return Err(Error::NoInterface { name, interface }),
            (Some(_), None) => {}
            (Some(link), Some(destination)) => {
                let addresses = uplink::describe(link);
                let error = Error::NoGateway {
                    name,
                    interface,
                    addresses,
                    destination: *destination,
                };
                if !is_inherited {
                    return Err(error);
                }
                warn!("{error}");
            }
        }
        uplinks.push(UplinkRuntime {
            state,
            remembered,
            attached: None,
            guard: guard::Settled::default(),
        });
    }
    refuse::families(config, &plans, &uplinks, &view)?;
    refuse::ipv6_mtus(config, &plans, &uplinks)?;
    Ok(Survey {
        watch,
        view,
        unlisted,
        tunnels,
        plans,
        uplinks,
        metrics: observe::listen(config).await?,
    })
}

/// Names and interfaces of the uplinks of a run that was killed, which removed nothing.
fn inherited() -> BTreeSet<(String, String)> {
    let names = Names::read(Path::new(STATE_FILE)).unwrap_or_else(|e| {
        debug!("{e}");
        None
    });
    let uplinks = names.into_iter().flat_map(|names| names.uplinks);
    uplinks.map(|uplink| (uplink.name, uplink.interface)).collect()
}
