//! The link between a customer and its provider's router, as one of several kinds of device.
//!
//! ```text
//! customer                                        router
//!  isp-a ═════════════════ veth ════════════════ customer       Ethernet
//!  isp-a ──────────── tun, thread, tun ───────── customer       plain IP, as PPP and raw-IP modems
//!  isp-a ═ isp-a-eth ═════ veth ════ -eth ══════ customer       802.1Q on top of Ethernet
//! ```
//!
//! A device is named after the host at its other end. On Ethernet the customer's default routes have the router as next hop; on a tun they name the
//! device alone, and the IPv4 address has a far end instead of a subnet, as a PPP daemon would do it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::host::Host;
use crate::topology::{Family, Uplink};
use crate::wire::Wire;

/// The VLAN of links of that kind.
const VLAN_ID: u16 = 57;

/// What the customer's device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One end of a veth pair: Ethernet.
    Veth,
    /// A tun device: IP packets without a link-layer header.
    Tun,
    /// A VLAN on top of one end of a veth pair.
    Vlan,
}

impl Kind {
    /// Whether this kernel has such devices.
    ///
    /// # Errors
    /// There cannot be hosts.
    pub fn exists(self) -> Result<bool> {
        let host = Host::new("kinds")?;
        host.ip(["link add left type veth peer name right"])?;
        Ok(match self {
            Self::Veth => true,
            Self::Tun => Wire::lay((&host, "near"), (&host, "far"), |_, _| true).is_ok(),
            Self::Vlan => host
                .run(
                    "ip",
                    &[
                        "link", "add", "link", "left", "name", "vlan", "type", "vlan", "id", "57",
                    ],
                )
                .is_ok(),
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Tun => "tun",
            Self::Vlan => "vlan",
        })
    }
}

/// A link between a customer and its provider's router.
#[derive(Debug)]
pub(crate) struct Access {
    uplink: Uplink,
    kind: Kind,
    customer: Host,
    router: Host,
    wire: Option<Wire>,
}

impl Access {
    /// A link that is not laid yet.
    pub(crate) fn new(uplink: Uplink, kind: Kind, customer: &Host, router: &Host) -> Self {
        Self {
            uplink,
            kind,
            customer: customer.clone(),
            router: router.clone(),
            wire: None,
        }
    }

    /// The router.
    pub(crate) fn router(&self) -> &Host {
        &self.router
    }

    /// The router's device.
    pub(crate) fn router_device(&self) -> &str {
        self.customer.name()
    }

    /// Lays the link: at first, and again after it was deleted.
    pub(crate) fn lay(&mut self) -> Result<()> {
        let (near, far, netns) = (self.uplink.name(), self.customer.name(), self.customer.netns_path());
        let mac = self.mac();
        match self.kind {
            Kind::Veth => {
                let line = format!("link add {far} type veth peer name {near} address {mac} netns {netns}");
                self.router.ip([line])?;
            }
            Kind::Vlan => {
                let tagged = |name: &str| format!("link add link {name}-eth name {name} type vlan id {VLAN_ID}");
                let line = format!("link add {far}-eth type veth peer name {near}-eth address {mac} netns {netns}");
                self.router.ip([line, tagged(far)])?;
                self.customer.ip([tagged(near)])?;
            }
            Kind::Tun => {
                // What is left of a wire of which one end was deleted.
                self.wire = None;
                self.wire = Some(Wire::lay((&self.customer, near), (&self.router, far), |_, _| true)?);
                // Without a hardware address the kernel takes a random link-local one, else this decides (RFC 7217).
                let secret = format!("net/ipv6/conf/{near}/stable_secret");
                self.customer.sysctl(&[(&secret, "fd57::1")])?;
            }
        }
        self.configure_router()?;
        self.configure_customer()
    }

    /// The router's side; whatever is there already stays.
    fn configure_router(&self) -> Result<()> {
        let (device, (v4, v6)) = (self.router_device(), self.uplink.subnets());
        let v4 = match self.kind {
            Kind::Veth | Kind::Vlan => format!("{v4}.1/24"),
            Kind::Tun => format!("{v4}.1 peer {v4}.10"),
        };
        self.router.ip(self.up(device).into_iter().chain([
            format!("addr replace {v4} dev {device}"),
            format!("addr replace {v6}::1/64 dev {device} nodad"),
        ]))
    }

    /// The customer's side, as a network manager would set it up when the link appears; whatever is there already stays.
    pub(crate) fn configure_customer(&self) -> Result<()> {
        let (device, (v4, v6), metric) = (self.uplink.name(), self.uplink.subnets(), self.uplink.metric());
        let (address, hops) = match self.kind {
            Kind::Veth | Kind::Vlan => (format!("{v4}.10/24"), [format!("via {v4}.1"), format!("via {v6}::1")]),
            Kind::Tun => (format!("{v4}.10 peer {v4}.1"), [String::new(), String::new()]),
        };
        let [hop4, hop6] = hops;
        self.customer.ip(self.up(device).into_iter().chain([
            format!("addr replace {address} dev {device}"),
            format!("addr replace {v6}::10/64 dev {device} nodad"),
            format!("route replace 0.0.0.0/0 {hop4} dev {device} metric {metric}"),
            format!("route replace ::/0 {hop6} dev {device} metric {metric}"),
        ]))
    }

    /// Sets a device up, and the one below it.
    fn up(&self, device: &str) -> Vec<String> {
        let lower = (self.kind == Kind::Vlan).then(|| format!("link set {device}-eth up"));
        lower.into_iter().chain([format!("link set {device} up")]).collect()
    }

    /// Pulls the cable out of the router, or hangs up.
    pub(crate) fn pull(&self) -> Result<()> {
        let far = self.customer.name();
        match (&self.wire, self.kind) {
            (Some(wire), _) => wire.set_carrier(false),
            (None, Kind::Vlan) => self.router.set_link_down(&format!("{far}-eth")),
            (None, _) => self.router.set_link_down(far),
        }
    }

    /// Undoes [`Self::pull`].
    pub(crate) fn plug(&self) -> Result<()> {
        if let Some(wire) = &self.wire {
            wire.set_carrier(true)?;
        }
        self.configure_router()?;
        self.configure_customer()
    }

    /// Deletes the customer's device, and with a VLAN what it stands on.
    pub(crate) fn delete(&self) -> Result<()> {
        let near = self.uplink.name();
        self.customer.ip([match self.kind {
            Kind::Veth | Kind::Tun => format!("link delete {near}"),
            Kind::Vlan => format!("link delete {near}-eth"),
        }])
    }

    /// The hardware address of the customer's device: the same when the device comes back, so that all that is derived from it is the same too.
    fn mac(&self) -> String {
        let octets = self.uplink.mac().map(|octet| format!("{octet:02x}"));
        octets.join(":")
    }
}

impl Uplink {
    /// The hardware address of the customer's device, where it is of Ethernet.
    pub(crate) fn mac(self) -> [u8; 6] {
        match self {
            Self::A => [0x02, 0x57, 0, 0, 0x0a, 0x10],
            Self::B => [0x02, 0x57, 0, 0, 0x0b, 0x10],
        }
    }

    /// The customer's address on it.
    pub fn address(self, family: Family) -> IpAddr {
        match (self, family) {
            (Self::A, Family::V4) => Ipv4Addr::new(192, 0, 2, 10).into(),
            (Self::B, Family::V4) => Ipv4Addr::new(198, 51, 100, 10).into(),
            (Self::A, Family::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10).into(),
            (Self::B, Family::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x10).into(),
        }
    }

    /// The first three groups of its IPv4 subnet, and the first three of its IPv6 subnet.
    pub(crate) fn subnets(self) -> (&'static str, &'static str) {
        match self {
            Self::A => ("192.0.2", "2001:db8:a"),
            Self::B => ("198.51.100", "2001:db8:b"),
        }
    }

    /// The metric of the customer's default routes by it.
    fn metric(self) -> u32 {
        match self {
            Self::A => 100,
            Self::B => 200,
        }
    }
}
