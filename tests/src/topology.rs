//! The topology: a branch with two uplinks, and a hub behind both.
//!
//! ```text
//!                   192.0.2.0/24                          10.1.0.0/24
//!                   2001:db8:a::/64       ┌───────┐       fd57:1::/64
//!            isp-a ─────────────── branch │ isp-a │ hub ─────────────── isp-a
//! ┌────────┐ .10                       .1 └───────┘ .1              .2 ┌─────┐
//! │ branch │                                                           │ hub │ lo: 203.0.113.1
//! └────────┘ .10                       .1 ┌───────┐ .1              .2 └─────┘     2001:db8:c::1
//!   wg0      isp-b ─────────────── branch │ isp-b │ hub ─────────────── isp-b  wg0
//!   10.57.0.1       198.51.100.0/24       └───────┘       10.2.0.0/24          10.57.0.2
//!                   2001:db8:b::/64                       fd57:2::/64
//! ```
//!
//! A device is named after the host at its other end. The links on the left are of any [kind](Kind) of device, veth unless asked otherwise. The branch's default
//! routes go through isp-a (metric 100) and isp-b (metric 200), for both families; there is no address translation unless a test asks for it ([`crate::masquerade`]), and the hub returns packets for an uplink's
//! subnet through that uplink's provider. rp_filter is strict at the branch and the hub. Impairments sit in the two routers. Neighbours between routers and hub
//! are permanent: a cut there is silent, nobody answers "unreachable", as when a provider breaks deep inside.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::access::{Access, Kind};
use crate::host::Host;
use crate::impair::Impair;
use crate::poll;
use crate::wireguard::{Keys, LISTEN_PORT, Peer, Setup, WireGuard};

/// The branch's address inside the tunnel.
pub const BRANCH_INNER: Ipv4Addr = Ipv4Addr::new(10, 57, 0, 1);
/// The hub's address inside the tunnel.
pub const HUB_INNER: Ipv4Addr = Ipv4Addr::new(10, 57, 0, 2);

const HUB_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HUB_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1);

/// The family of WireGuard's outer packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The one that it is not.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// One of the two uplinks, of the branch or (see [`crate::concentrator`]) of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    /// The preferred one.
    A,
    /// The other one.
    B,
}

impl Uplink {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its name: the device, and the provider's router.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "isp-a",
            Self::B => "isp-b",
        }
    }

    /// Its cost in wgxdp's configuration.
    pub fn cost(self) -> u32 {
        match self {
            Self::A => 10,
            Self::B => 20,
        }
    }

    /// The first three groups of the IPv4 subnet between router and hub, and the first two of the IPv6 one.
    pub(crate) fn transit(self) -> (&'static str, &'static str) {
        match self {
            Self::A => ("10.1.0", "fd57:1"),
            Self::B => ("10.2.0", "fd57:2"),
        }
    }
}

/// A router's device towards the branch.
pub(crate) const TO_BRANCH: &str = "branch";
/// A router's device towards the hub.
pub(crate) const TO_HUB: &str = "hub";

/// A provider: its router with the link to the branch, and what it does to packets.
#[derive(Debug)]
pub(crate) struct Isp {
    pub(crate) access: Access,
    pub(crate) impair: Impair,
}

impl Isp {
    /// Lays the access link: at first, and again after it was deleted.
    pub(crate) fn lay_access(&mut self) -> Result<()> {
        self.access.lay()?;
        self.impair.attach(self.access.router_device())
    }
}

/// A laboratory with a tunnel that works.
#[derive(Debug)]
pub struct Lab {
    /// WireGuard in the branch. Declared first: processes end before their hosts.
    pub branch_wg: WireGuard,
    /// WireGuard in the hub.
    pub hub_wg: WireGuard,
    /// The host with two uplinks, where wgxdp runs.
    pub branch: Host,
    /// The host behind both.
    pub hub: Host,
    pub(crate) isps: [Isp; 2],
    family: Family,
    hub_public_key: String,
}

/// Slower than any guest was seen to be.
const LINK_LOCAL_WITHIN: Duration = Duration::from_secs(20);

impl Lab {
    /// Raises the topology and the tunnel, and waits for its handshake.
    ///
    /// # Errors
    /// Not root, a program is missing, or the kernel lacks something; the message says which.
    pub fn raise(family: Family) -> Result<Self> {
        Self::raise_over([Kind::Veth; 2], family)
    }

    /// The same with uplinks of these kinds: isp-a's, isp-b's.
    ///
    /// # Errors
    /// As [`Self::raise`].
    pub fn raise_over(kinds: [Kind; 2], family: Family) -> Result<Self> {
        let [branch, hub] = ["branch", "hub"].map(Host::new);
        let (branch, hub) = (branch?, hub?);
        branch.sysctl(&[QUIET, STRICT, &IGNORE_STRAY_ROUTES].concat())?;
        hub.sysctl(&[QUIET, STRICT].concat())?;
        hub.ip([
            format!("addr add {HUB_V4}/32 dev lo"),
            format!("addr add {HUB_V6}/128 dev lo nodad"),
        ])?;
        let [kind_a, kind_b] = kinds;
        let isps = [
            raise_isp(Uplink::A, kind_a, &branch, &hub)?,
            raise_isp(Uplink::B, kind_b, &branch, &hub)?,
        ];

        let (branch_keys, hub_keys) = (Keys::generate(), Keys::generate());
        let hub_peer = Peer {
            public_key: &branch_keys.public,
            allowed_ip: "10.57.0.1/32",
            endpoint: None,
        };
        let hub_wg = WireGuard::raise(&hub, &Setup::new(&hub_keys, "10.57.0.2/24", &[hub_peer]))?;
        let endpoint = Some(hub_endpoint(family));
        let branch_peer = Peer {
            public_key: &hub_keys.public,
            allowed_ip: "10.57.0.2/32",
            endpoint,
        };
        let branch_wg = WireGuard::raise(&branch, &Setup::new(&branch_keys, "10.57.0.1/24", &[branch_peer]))?;

        let lab = Self {
            branch_wg,
            hub_wg,
            branch,
            hub,
            isps,
            family,
            hub_public_key: hub_keys.public,
        };
        lab.await_handshake()?;
        lab.await_link_local()?;
        Ok(lab)
    }

    /// The kernel gives a device its link-local address and routes a while after its carrier: whoever compares before and after waits for them first.
    fn await_link_local(&self) -> Result<()> {
        poll::wait_until("the uplinks' link-local routes", LINK_LOCAL_WITHIN, || {
            let local = self.branch.run("ip", &["-6", "route", "show", "table", "local"])?;
            Ok(Uplink::ALL.into_iter().all(|uplink| {
                let device = format!("dev {} ", uplink.name());
                local
                    .lines()
                    .any(|line| line.starts_with("local fe80::") && line.contains(&device))
            }))
        })
    }

    /// The family of the outer packets.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The hub's public key in base64.
    pub fn hub_public_key(&self) -> &str {
        &self.hub_public_key
    }

    /// Where the hub's WireGuard listens.
    pub fn hub_endpoint(&self) -> SocketAddr {
        hub_endpoint(self.family)
    }

    /// Where the hub listens in the other family, of which WireGuard knows nothing.
    pub fn other_hub_endpoint(&self) -> SocketAddr {
        hub_endpoint(self.family.other())
    }

    /// The uplink by which the branch's packets now reach the hub, as the hub's WireGuard sees it.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn uplink_in_use(&self) -> Result<Option<Uplink>> {
        let endpoint = self.hub_wg.endpoint()?;
        let uses = |uplink: &Uplink| endpoint.is_some_and(|seen| seen.ip() == uplink.address(self.family));
        Ok(Uplink::ALL.into_iter().find(uses))
    }

    /// Packets that the impairments of `uplink` have dropped since it was raised.
    ///
    /// # Errors
    /// One of the router's devices is not there.
    pub fn dropped(&self, uplink: Uplink) -> Result<u64> {
        let impair = &self.isp(uplink).impair;
        let (out, back) = (impair.dropped(TO_HUB)?, impair.dropped(TO_BRANCH)?);
        Ok(out.0 + out.1 + back.0 + back.1)
    }

    pub(crate) fn isp(&self, uplink: Uplink) -> &Isp {
        let [a, b] = &self.isps;
        match uplink {
            Uplink::A => a,
            Uplink::B => b,
        }
    }

    pub(crate) fn router(&self, uplink: Uplink) -> &Host {
        self.isp(uplink).access.router()
    }

    pub(crate) fn isp_mut(&mut self, uplink: Uplink) -> &mut Isp {
        let [a, b] = &mut self.isps;
        match uplink {
            Uplink::A => a,
            Uplink::B => b,
        }
    }

    /// A packet into the tunnel makes WireGuard shake hands.
    fn await_handshake(&self) -> Result<()> {
        let socket = self
            .branch
            .enter(|| UdpSocket::bind((BRANCH_INNER, 0)))
            .context("binding inside the tunnel")?;
        poll::wait_until("the first handshake", Duration::from_secs(20), || {
            socket
                .send_to(b"hello", (HUB_INNER, 9))
                .context("sending into the tunnel")?;
            Ok(self.branch_wg.latest_handshake()? > 0 && self.hub_wg.latest_handshake()? > 0)
        })
    }
}

fn hub_endpoint(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (HUB_V4, LISTEN_PORT).into(),
        Family::V6 => (HUB_V6, LISTEN_PORT).into(),
    }
}

/// No duplicate address detection and no router advertisements: addresses work at once and are ours alone.
pub(crate) const QUIET: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];
/// Every device made from now on filters by the reverse path, strictly.
pub(crate) const STRICT: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
];
/// The kernel's own default, stated because what plain WireGuard does depends on it.
const IGNORE_STRAY_ROUTES: [(&str, &str); 1] = [("net/ipv4/conf/all/ignore_routes_with_linkdown", "0")];
pub(crate) const FORWARD: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// A router, its link to the hub, and its link to the branch.
fn raise_isp(uplink: Uplink, kind: Kind, branch: &Host, hub: &Host) -> Result<Isp> {
    let router = Host::new(uplink.name())?;
    router.sysctl(&[QUIET, FORWARD].concat())?;
    let (name, (v4, v6), (lan4, lan6)) = (uplink.name(), uplink.transit(), uplink.subnets());
    // Fixed addresses, so that the permanent neighbours can be written down on both sides.
    let (router_mac, hub_mac) = ("02:57:00:00:00:01", "02:57:00:00:00:02");
    router.ip([
        format!(
            "link add {TO_HUB} address {router_mac} type veth peer name {name} address {hub_mac} netns {}",
            hub.netns_path()
        ),
        format!("addr add {v4}.1/24 dev {TO_HUB}"),
        format!("addr add {v6}::1/64 dev {TO_HUB} nodad"),
        format!("link set {TO_HUB} up"),
        format!("neigh add {v4}.2 lladdr {hub_mac} nud permanent dev {TO_HUB}"),
        format!("neigh add {v6}::2 lladdr {hub_mac} nud permanent dev {TO_HUB}"),
        format!("route add {HUB_V4}/32 via {v4}.2 dev {TO_HUB}"),
        format!("route add {HUB_V6}/128 via {v6}::2 dev {TO_HUB}"),
    ])?;
    hub.ip([
        format!("addr add {v4}.2/24 dev {name}"),
        format!("addr add {v6}::2/64 dev {name} nodad"),
        format!("link set {name} up"),
        format!("neigh add {v4}.1 lladdr {router_mac} nud permanent dev {name}"),
        format!("neigh add {v6}::1 lladdr {router_mac} nud permanent dev {name}"),
        format!("route add {lan4}.0/24 via {v4}.1 dev {name}"),
        format!("route add {lan6}::/64 via {v6}::1 dev {name}"),
    ])?;
    let mut isp = Isp {
        access: Access::new(uplink, kind, branch, &router),
        impair: Impair::load(&router)?,
    };
    isp.impair.attach(TO_HUB)?;
    isp.lay_access()?;
    Ok(isp)
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
