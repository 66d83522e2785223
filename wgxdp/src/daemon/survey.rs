//! What the host is like before anything is touched, and refusing what cannot work there.

use std::collections::BTreeSet;

use tokio::net::TcpListener;
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
    let mut uplinks = Vec::new();
    for (id, uplink) in (0..).map(UplinkId).zip(config.uplinks()) {
        let (name, interface) = (uplink.name.as_str().to_owned(), uplink.interface.as_str().to_owned());
        let Some(link) = view.get(&interface) else {
            return Err(Error::NoInterface { name, interface });
        };
        if link.kind == table::LinkKind::ABSENT {
            return Err(Error::LinkLayer { name, interface });
        }
        let mut remembered = uplink::Remembered::default();
        let state = uplink::State::of(id, uplink, &view, &mut remembered);
        let usable = state.flags == Flags::NONE;
        let lacking = destinations
            .iter()
            .find(|destination| usable && state.lacks_gateway(uplink, **destination));
        if let Some(destination) = lacking {
            let addresses = uplink::describe(link);
            return Err(Error::NoGateway {
                name,
                interface,
                addresses,
                destination: *destination,
            });
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
