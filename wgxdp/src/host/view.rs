//! All devices with their addresses and gateways at one instant.
//!
//! **Addresses**, best first. IPv4: in the kernel's order, primary before secondary, those of the whole internet before those
//! of the link alone, deprecated ones last. IPv6: global ones that have passed duplicate detection; preferred before deprecated,
//! stable before temporary (RFC 8981), since a path's address should last, and others before unique-local (RFC 4193).
//!
//! **Gateways**: the next hop of the default route by that device, over all tables but [ours](super::TABLE), lowest metric first,
//! then the main table. Multipath routes count for each of their devices. A default route without a next hop (tun, PPP) gives no
//! gateway, and neither does an IPv4 route whose next hop is an IPv6 address (RFC 5549), which cannot be written into an uplink's
//! entry.
//!
//! **Route MTUs**: the metric `mtu` (RTAX_MTU) of the best default route by that device, with or without a next hop; none where that
//! route states none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::Link;
use super::netlink::Netlink;
use super::{Result, TABLE};

/// The host's network devices at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// By name.
    pub links: BTreeMap<String, Link>,
}

impl View {
    /// Reads it. Links, addresses and routes are read one after the other: who needs to know whether they fit together watches for changes meanwhile.
    ///
    /// # Errors
    /// See [`Netlink::dump`].
    pub async fn read(netlink: &Netlink) -> Result<Self> {
        let mut links: BTreeMap<u32, Link> = links(netlink)
            .await?
            .into_iter()
            .map(|link| (link.index, link))
            .collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut addresses = addresses(netlink, family).await?;
            // A stable sort: within equal ranks the kernel's order remains.
            addresses.sort_by_key(|address| address.rank);
            for address in addresses {
                match (links.get_mut(&address.index), address.ip) {
                    (Some(link), IpAddr::V4(v4)) => link.v4.push(v4),
                    (Some(link), IpAddr::V6(v6)) => link.v6.push(v6),
                    (None, _) => {}
                }
            }
            let mut ways = ways_out(netlink, family).await?;
            ways.sort_by_key(|way| way.rank);
            let mut seen = BTreeSet::new();
            for way in ways {
                let Some(link) = links.get_mut(&way.index) else {
                    continue;
                };
                match way.gateway {
                    Some(IpAddr::V4(v4)) => _ = link.gateway4.get_or_insert(v4),
                    Some(IpAddr::V6(v6)) => _ = link.gateway6.get_or_insert(v6),
                    None => {}
                }
                if seen.insert(way.index) {
                    match family {
                        AddressFamily::Inet6 => link.route_mtu6 = way.mtu,
                        _ => link.route_mtu4 = way.mtu,
                    }
                }
            }
        }
        Ok(Self {
            links: links.into_values().map(|link| (link.name.clone(), link)).collect(),
        })
    }

    /// The device of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    /// The device of this index.
    #[must_use]
    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.values().find(|link| link.index == index)
    }
}

/// A device as it is now, without addresses and gateways; `None` if there is none of that name.
///
/// # Errors
/// See [`Netlink::get`].
pub async fn link(netlink: &Netlink, name: &str) -> Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.into()));
    let action = format!("read device {name}");
    match netlink.get(&action, RouteNetlinkMessage::GetLink(request)).await {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Link::from_message(&message)),
        Ok(_) => Ok(None),
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Every device, without addresses and gateways.
pub(super) async fn links(netlink: &Netlink) -> Result<Vec<Link>> {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    netlink
        .dump(
            "list network devices",
            RouteNetlinkMessage::GetLink(request),
            |message| match message {
                RouteNetlinkMessage::NewLink(message) => Link::from_message(&message),
                _ => None,
            },
        )
        .await
}

/// An address that packets may be sent from.
#[derive(Debug)]
pub(super) struct Usable {
    pub(super) index: u32,
    pub(super) ip: IpAddr,
    /// Lower is better.
    rank: u32,
}

/// The usable addresses of one family.
pub(super) async fn addresses(netlink: &Netlink, family: AddressFamily) -> Result<Vec<Usable>> {
    let mut request = AddressMessage::default();
    request.header.family = family;
    netlink
        .dump(
            "list addresses",
            RouteNetlinkMessage::GetAddress(request),
            |message| match message {
                RouteNetlinkMessage::NewAddress(message) => usable(&message),
                _ => None,
            },
        )
        .await
}

fn usable(message: &AddressMessage) -> Option<Usable> {
    let mut flags = AddressFlags::from_bits_retain(AddressHeaderFlags::bits(&message.header.flags).into());
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On point-to-point devices "address" is the far end's.
    let ip = local.or(address)?;
    let has = |flag| u32::from(flags.contains(flag));
    let untested = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    let rank = match (ip, message.header.scope) {
        (_, AddressScope::Host | AddressScope::Nowhere) => return None,
        (IpAddr::V4(_), scope) => {
            has(AddressFlags::Deprecated) << 2
                | u32::from(scope != AddressScope::Universe) << 1
                | has(AddressFlags::Secondary)
        }
        (IpAddr::V6(_), _) if untested || flags.contains(AddressFlags::Dadfailed) => return None,
        (IpAddr::V6(v6), AddressScope::Universe) => {
            // The kernel gives temporary addresses the bit that means "secondary" in IPv4.
            has(AddressFlags::Deprecated) << 2 | has(AddressFlags::Secondary) << 1 | u32::from(v6.is_unique_local())
        }
        (IpAddr::V6(_), _) => return None,
    };
    Some(Usable {
        index: message.header.index,
        ip,
        rank,
    })
}

/// One of a default route's devices.
#[derive(Debug, PartialEq, Eq)]
struct WayOut {
    index: u32,
    gateway: Option<IpAddr>,
    /// The route's MTU metric.
    mtu: Option<u32>,
    /// Metric, then whether the table is another than the main one, then the table.
    rank: (u32, bool, u32),
}

async fn ways_out(netlink: &Netlink, family: AddressFamily) -> Result<Vec<WayOut>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    let found = netlink
        .dump(
            "list routes",
            RouteNetlinkMessage::GetRoute(request),
            |message| match message {
                RouteNetlinkMessage::NewRoute(message) => Some(ways_of(&message)).filter(|found| !found.is_empty()),
                _ => None,
            },
        )
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// The table of a route, also where its number does not fit into the header.
pub(super) fn table(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or(message.header.table.into())
}

/// Whether this is a default route that leads somewhere, in a table that is not ours.
pub(super) fn is_foreign_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0
        && message.header.source_prefix_length == 0
        && message.header.kind == RouteType::Unicast
        && table(message) != TABLE
}

fn ways_of(message: &RouteMessage) -> Vec<WayOut> {
    if !is_foreign_default(message) {
        return Vec::new();
    }
    let table = table(message);
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let rank = (
        metric.unwrap_or(0),
        table != u32::from(RouteHeader::RT_TABLE_MAIN),
        table,
    );
    let single = device(&message.attributes).map(|index| (index, message.attributes.as_slice()));
    let several = message.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let several = several
        .flatten()
        .map(|hop| (hop.interface_index, hop.attributes.as_slice()));
    single
        .into_iter()
        .chain(several)
        .map(|(index, attributes)| WayOut {
            index,
            gateway: gateway(attributes),
            mtu: mtu(&message.attributes),
            rank,
        })
        .collect()
}

/// The metrics belong to the whole route, also where it has several next hops.
fn mtu(attributes: &[RouteAttribute]) -> Option<u32> {
    let metrics = attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn device(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) if *v4 != Ipv4Addr::UNSPECIFIED => Some(IpAddr::V4(*v4)),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) if *v6 != Ipv6Addr::UNSPECIFIED => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
