//! The anchor: the device `wgxdp0` that WireGuard's outer packets are routed to.
//!
//! ```text
//! raise ──► device, addresses        harmless: nothing is routed to it
//! engage ─► routes, then rules       from here on WireGuard talks from the canonical addresses, through `steer`
//! repair ─► whatever of these somebody removed
//! disengage ─► rules, then routes    WireGuard is as before
//! remove ─► everything of ours, whoever of us made it, and whatever it was left as
//! ```
//!
//! Each is idempotent, none is part of a failover.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::Netlink;
use super::{Result, neighbour};
use policy::Rule;

pub(super) mod device;
pub(super) mod policy;

/// The anchor's name.
pub const NAME: &str = "wgxdp0";
/// The far end of the anchor where it is a veth pair.
pub const PEER_NAME: &str = "wgxdp0p";
/// The canonical IPv4 address (RFC 7600).
pub const CANONICAL_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// The canonical IPv6 address.
pub const CANONICAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd5e, 0x9a1c, 0x7d42, 0, 0, 0, 0, 8);

/// The anchor, raised.
#[derive(Debug)]
pub struct Anchor {
    netlink: Netlink,
    device: device::Device,
    /// The ports that it is engaged for; `None` while it is not engaged.
    ports: Option<BTreeSet<u16>>,
}

impl Anchor {
    /// Creates the device, or adopts the one that an earlier daemon left.
    ///
    /// # Errors
    /// [`super::Error::ForeignDevice`], [`super::Error::NoAnchorDevice`], or what the kernel refused.
    pub async fn raise(netlink: &Netlink) -> Result<Self> {
        let (device, _) = device::settle(netlink).await?;
        Ok(Self {
            netlink: netlink.clone(),
            device,
            ports: None,
        })
    }

    /// Leads to the anchor what leaves from these UDP ports, and no other ports any more.
    ///
    /// # Errors
    /// [`super::Error::ForeignRoute`], or what the kernel refused. What was added before the error remains: see [`Self::disengage`].
    pub async fn engage(&mut self, ports: &BTreeSet<u16>) -> Result<()> {
        self.ports = Some(ports.clone());
        self.repair_policy().await.map(drop)
    }

    /// Makes good whatever somebody removed or changed of the device; if it was gone its index is another. Returns what that was, in words for the log.
    ///
    /// # Errors
    /// As [`Self::raise`].
    pub async fn repair_device(&mut self) -> Result<Vec<String>> {
        let (device, missing) = device::settle(&self.netlink).await?;
        self.device = device;
        Ok(missing)
    }

    /// The same of what leads to it, which ended with a device that is gone.
    ///
    /// # Errors
    /// As [`Self::engage`].
    pub async fn repair_policy(&self) -> Result<Vec<String>> {
        let Some(ports) = &self.ports else {
            return Ok(Vec::new());
        };
        let canonical = self.canonical();
        let mut missing = policy::settle_routes(&self.netlink, &canonical, self.device.index).await?;
        missing.extend(policy::settle_rules(&self.netlink, &Rule::wanted(&canonical, ports)).await?);
        Ok(missing)
    }

    /// Undoes [`Self::engage`], whatever ports it was for.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn disengage(&mut self) -> Result<Removed> {
        self.ports = None;
        disengage(&self.netlink).await
    }

    fn canonical(&self) -> Vec<IpAddr> {
        let v6 = self.v6().map(IpAddr::V6);
        [IpAddr::V4(self.v4())].into_iter().chain(v6).collect()
    }

    /// The device's index; [`Self::repair_device`] may change it.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.device.index
    }

    /// The device's link-layer address; [`Self::repair_device`] may change it.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.device.mac
    }

    /// The largest IP packet in bytes that fits.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.device.mtu
    }

    /// The canonical IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        CANONICAL_V4
    }

    /// The canonical IPv6 address; `None` where IPv6 is switched off on this host.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.has_v6().then_some(CANONICAL_V6)
    }

    /// Whether the anchor carries IPv6; not where it is switched off on this host.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.device.v6
    }
}

/// What [`remove`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rules.
    pub rules: usize,
    /// Routes.
    pub routes: usize,
    /// Neighbours that we had the kernel keep resolved.
    pub neighbours: usize,
    /// Devices, by name.
    pub devices: Vec<String>,
}

impl Removed {
    /// Whether there was nothing to remove.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing");
        }
        let counted = [
            (self.rules, "rules"),
            (self.routes, "routes"),
            (self.neighbours, "managed neighbours"),
        ];
        let mut parts: Vec<String> = counted
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        parts.extend(self.devices.iter().map(|name| format!("device {name}")));
        f.write_str(&parts.join(", "))
    }
}

/// Removes our rules, then our routes, whoever of us made them: WireGuard talks from the uplinks' addresses again. The device stays.
///
/// # Errors
/// What the kernel refused.
pub async fn disengage(netlink: &Netlink) -> Result<Removed> {
    let rules = policy::remove_rules(netlink).await?;
    let routes = policy::remove_routes(netlink).await?;
    Ok(Removed {
        rules,
        routes,
        ..Removed::default()
    })
}

/// Removes everything that is provably ours, in the order that disturbs least.
///
/// # Errors
/// What the kernel refused; what was removed before is then not reported.
pub async fn remove(netlink: &Netlink) -> Result<Removed> {
    let Removed { rules, routes, .. } = disengage(netlink).await?;
    let neighbours = neighbour::release_all(netlink).await?;
    let devices = device::remove(netlink).await?;
    Ok(Removed {
        rules,
        routes,
        neighbours,
        devices,
    })
}
