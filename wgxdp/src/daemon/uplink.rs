//! What an uplink is at the moment: its configuration and its device, put together. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wgxdp_common::id::UplinkId;
use wgxdp_common::liveness::Flags;
use wgxdp_common::net::Address;
use wgxdp_common::table::{Family, LinkKind, Uplink};

use crate::config::{AddressChoice, FamilyChoice, GatewayChoice, Uplink as UplinkConfig};
use crate::host::link::Link;
use crate::host::view::View;
use crate::mtu;

/// The next hops that an uplink had when it last had a default route. The kernel forgets routes with a device that goes down, and who configured
/// them may take a while to say them again, or never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

/// An uplink at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// As the programs see it, but for the ids of its addresses.
    pub(super) entry: Uplink,
    /// What speaks against it.
    pub(super) flags: Flags,
    /// The largest packet in bytes of each family that leaves by it.
    pub(super) mtus: Mtus,
}

/// The MTUs of an uplink's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mtus {
    /// For IPv4; `None` where the uplink does not have it.
    pub(super) v4: Option<u32>,
    /// For IPv6, likewise.
    pub(super) v6: Option<u32>,
}

impl Mtus {
    /// No device, no paths.
    const NONE: Self = Self { v4: None, v6: None };

    fn of(config: &UplinkConfig, link: &Link, v4: &Family, v6: &Family) -> Self {
        let has = |family: &Family| !family.address.is_unspecified();
        let least = |route| mtu::of_path(link.mtu, route, config.mtu);
        Self {
            v4: has(v4).then(|| least(link.route_mtu4)),
            v6: has(v6).then(|| least(link.route_mtu6)),
        }
    }

    /// That of a path to an endpoint of this family.
    pub(super) const fn family(&self, family: mtu::Family) -> Option<u32> {
        match family {
            mtu::Family::V4 => self.v4,
            mtu::Family::V6 => self.v6,
        }
    }
}

/// What speaks against a device.
pub(super) fn link_flags(admin_up: bool, carrier: bool) -> Flags {
    match (admin_up, carrier) {
        (false, _) => Flags::ADMIN_DOWN,
        (true, false) => Flags::NO_CARRIER,
        (true, true) => Flags::NONE,
    }
}

impl State {
    /// The uplink as it is in `view`.
    pub(super) fn of(id: UplinkId, config: &UplinkConfig, view: &View, remembered: &mut Remembered) -> Self {
        let absent = Uplink {
            id,
            ..Uplink::default()
        };
        let Some(link) = view
            .get(config.interface.as_str())
            .filter(|link| link.kind != LinkKind::ABSENT)
        else {
            return Self {
                entry: absent,
                flags: Flags::ABSENT,
                mtus: Mtus::NONE,
            };
        };
        let on_link = link.noarp || link.kind == LinkKind::IP;
        let v4 = family(config.v4, &link.v4, link.gateway4, &mut remembered.v4, on_link);
        let v6 = family(config.v6, &link.v6, link.gateway6, &mut remembered.v6, on_link);
        let entry = Uplink {
            v4,
            v6,
            ifindex: link.index,
            link: link.kind,
            mtu: mtu::of_path(link.mtu, None, config.mtu),
            id,
            // Without NAPI at its other end, of which we know nothing, a veth loses them silently (`veth_xdp_xmit`).
            sends_back: u32::from(link.driver.as_deref() != Some("veth")),
            ..Uplink::default()
        };
        let mut flags = link_flags(link.admin_up, link.carrier);
        if v4.address.is_unspecified() && v6.address.is_unspecified() {
            flags = flags.with(Flags::ABSENT);
        }
        let mtus = Mtus::of(config, link, &v4, &v6);
        Self { entry, flags, mtus }
    }

    /// The next hops that packets need resolved to these destinations and, by the gateways, to clients of whom nobody knows yet: none on links without
    /// link-layer addresses.
    pub(super) fn next_hops(&self, destinations: &BTreeSet<IpAddr>) -> BTreeSet<(u32, IpAddr)> {
        if self.entry.link != LinkKind::ETHERNET || self.flags.any_of(Flags::UNUSABLE) {
            return BTreeSet::new();
        }
        let families = [(true, &self.entry.v4), (false, &self.entry.v6)];
        let mut hops = BTreeSet::new();
        for (is_v4, family) in families
            .into_iter()
            .filter(|(_, family)| !family.address.is_unspecified())
        {
            if family.gateway.is_unspecified() {
                let on_link = destinations.iter().filter(|destination| destination.is_ipv4() == is_v4);
                hops.extend(on_link.map(|destination| (self.entry.ifindex, *destination)));
            } else {
                hops.insert((self.entry.ifindex, family.gateway.to_ip()));
            }
        }
        hops
    }

    /// Whether a destination's next hop is missing: an Ethernet device without gateway, although the configuration does not say that
    /// all is on the link.
    pub(super) fn lacks_gateway(&self, config: &UplinkConfig, destination: IpAddr) -> bool {
        let family = if destination.is_ipv4() {
            &self.entry.v4
        } else {
            &self.entry.v6
        };
        self.entry.link == LinkKind::ETHERNET
            && !family.address.is_unspecified()
            && family.gateway.is_unspecified()
            && config.family_of(destination).gateway != GatewayChoice::OnLink
    }
}

fn family<A: Copy + Into<IpAddr> + PartialEq>(
    config: FamilyChoice<A>,
    addresses: &[A],
    gateway: Option<A>,
    remembered: &mut Option<A>,
    on_link: bool,
) -> Family {
    let address = match config.address {
        AddressChoice::Auto => addresses.first().copied(),
        AddressChoice::Fixed(address) => addresses.contains(&address).then_some(address),
    };
    let Some(address) = address else {
        return Family::default();
    };
    if gateway.is_some() {
        *remembered = gateway;
    }
    let gateway = match config.gateway {
        GatewayChoice::Auto if on_link => gateway,
        GatewayChoice::Auto => *remembered,
        GatewayChoice::OnLink => None,
        GatewayChoice::Via(gateway) => Some(gateway),
    };
    let gateway = gateway.map_or(Address::UNSPECIFIED, |gateway| gateway.into().into());
    Family::new(address.into().into(), gateway)
}

/// The first of a device's usable addresses, for messages.
pub(super) fn describe(link: &Link) -> String {
    let all: Vec<String> = link
        .v4
        .iter()
        .map(ToString::to_string)
        .chain(link.v6.iter().map(ToString::to_string))
        .collect();
    if all.is_empty() {
        "no address".into()
    } else {
        all.join(", ")
    }
}
