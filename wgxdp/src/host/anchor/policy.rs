//! The rules that lead WireGuard's outer packets to the anchor, and the routes that they lead to.
//!
//! ```text
//! 870: fwmark 0x57000000/0xff000000        lookup 5747     probes
//! 871: from <canonical>                    lookup 5747     what talks from the anchor's address; also rp_filter's reverse look-up
//! 872: ipproto udp sport PORT iif lo       lookup 5747     one per tunnel; `iif lo` spares forwarded packets
//!
//! table 5747: default via <next hop> dev wgxdp0 onlink src <canonical>
//! ```
//!
//! There is nobody at the next hop, and its address is in no packet. It is there because without one the kernel makes a neighbour of every
//! destination, also on a device without ARP (`__neigh_create` by `ip_neigh_for_gw` and its IPv6 twin), and a thousand clients are more
//! neighbours than its table takes (`gc_thresh3`: "neighbour table overflow", and packets are dropped). With one it makes one.
//!
//! Link-local addresses are the ones that IANA's registries of special-purpose addresses leave for a link of one's own: never forwarded,
//! never global, and neighbours are known by device, so that somebody's use of the same on another link does not matter. (192.0.0.9 and .10
//! beside the anchor's own are others' anycast addresses, RFC 7723 and RFC 8155; the rest of 192.0.0.0/24 is not free to use.)
//!
//! **Ours** is a rule or route of our protocol number that leads to, or stands in, our table; both must hold.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use wgxdp_common::abi::{PROBE_MARK, PROBE_MARK_MASK};

use super::super::netlink::Netlink;
use super::super::view::table;
use super::super::{Error, PROTOCOL, Result, TABLE};

/// In headers: the table's number does not fit, see the attribute.
const TABLE_IN_ATTRIBUTE: u8 = 252;
const PREF_MARK: u32 = 870;
const PREF_SOURCE: u32 = 871;
const PREF_PORT: u32 = 872;

/// The anchor's IPv4 next hop (RFC 3927).
const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 87, 8);
/// The anchor's IPv6 next hop (RFC 4291, 2.5.6).
const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 8);

/// A rule as it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// Probes of a family.
    Mark(Family),
    /// Packets from the anchor's address.
    Source(IpAddr),
    /// A tunnel's packets of a family.
    Port(Family, u16),
}

/// An address family that rules and routes exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(super) fn number(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    /// The anchor's next hop.
    fn next_hop(self) -> IpAddr {
        match self {
            Self::V4 => NEXT_HOP_V4.into(),
            Self::V6 => NEXT_HOP_V6.into(),
        }
    }

    /// As an option of `ip`.
    fn option(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "-6 ",
        }
    }
}

impl Rule {
    /// The rules for these canonical addresses and listen ports.
    pub(super) fn wanted(canonical: &[IpAddr], ports: &BTreeSet<u16>) -> BTreeSet<Self> {
        let families = canonical.iter().map(|ip| Family::of(*ip));
        families
            .clone()
            .map(Self::Mark)
            .chain(canonical.iter().copied().map(Self::Source))
            .chain(families.flat_map(|family| ports.iter().map(move |port| Self::Port(family, *port))))
            .collect()
    }

    fn family(self) -> Family {
        match self {
            Self::Mark(family) | Self::Port(family, _) => family,
            Self::Source(ip) => Family::of(ip),
        }
    }

    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family().number();
        message.header.table = TABLE_IN_ATTRIBUTE;
        message.header.action = RuleAction::ToTable;
        let mut attributes = vec![
            RuleAttribute::Table(TABLE),
            RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        ];
        match self {
            Self::Mark(_) => attributes.extend([
                RuleAttribute::Priority(PREF_MARK),
                RuleAttribute::FwMark(PROBE_MARK),
                RuleAttribute::FwMask(PROBE_MARK_MASK),
            ]),
            Self::Source(ip) => {
                message.header.src_len = prefix(ip);
                attributes.extend([RuleAttribute::Priority(PREF_SOURCE), RuleAttribute::Source(ip)]);
            }
            Self::Port(_, port) => attributes.extend([
                RuleAttribute::Priority(PREF_PORT),
                RuleAttribute::Iifname("lo".into()),
                RuleAttribute::IpProtocol(IpProtocol::Udp),
                RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }),
            ]),
        }
        message.attributes = attributes;
        message
    }

    /// In the words of `ip`.
    pub(super) fn describe(self) -> String {
        let option = self.family().option();
        match self {
            Self::Mark(_) => format!("ip {option}rule fwmark {PROBE_MARK:#x}/{PROBE_MARK_MASK:#x}"),
            Self::Source(ip) => format!("ip {option}rule from {ip}"),
            Self::Port(_, port) => format!("ip {option}rule ipproto udp sport {port}"),
        }
    }
}

/// Everything that decides what a rule matches and does, so that two rules can be compared whatever else the kernel reports of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Meaning {
    lengths: (u8, u8, u8),
    inverted: bool,
    /// What attributes say, other than table and protocol, in the order of their numbers.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Meaning {
    fn of(message: &RuleMessage) -> Self {
        use netlink_packet_core::Nla as _;
        let mut attributes: Vec<_> = message
            .attributes
            .iter()
            .filter(|attribute| match attribute {
                RuleAttribute::Table(_) | RuleAttribute::Protocol(_) | RuleAttribute::Other(_) => false,
                // The kernel reports the absence of both.
                RuleAttribute::SuppressPrefixLen(length) => *length != u32::MAX,
                RuleAttribute::SuppressIfGroup(group) => *group != u32::MAX,
                _ => true,
            })
            .map(|attribute| {
                let mut value = vec![0; attribute.value_len()];
                attribute.emit_value(&mut value);
                (attribute.kind(), value)
            })
            .collect();
        attributes.sort();
        let header = &message.header;
        Self {
            lengths: (header.src_len, header.dst_len, header.tos),
            inverted: header.flags.contains(RuleFlags::Invert),
            attributes,
        }
    }
}

/// Our rules as the kernel has them.
pub(super) async fn rules(netlink: &Netlink) -> Result<Vec<RuleMessage>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let mut request = RuleMessage::default();
        request.header.family = family.number();
        let found = netlink.dump(
            "list rules",
            RouteNetlinkMessage::GetRule(request),
            |message| match message {
                RouteNetlinkMessage::NewRule(rule) => Some(rule).filter(is_our_rule),
                _ => None,
            },
        );
        all.extend(absent_is_empty(found.await)?);
    }
    Ok(all)
}

/// Whether this rule is ours to remove.
pub(in super::super) fn is_our_rule(rule: &RuleMessage) -> bool {
    let protocol = rule
        .attributes
        .contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    let table = rule.attributes.contains(&RuleAttribute::Table(TABLE));
    protocol && table && rule.header.action == RuleAction::ToTable
}

/// Adds the rules that are missing and removes those of ours that are not wanted. Returns what was missing.
pub(super) async fn settle_rules(netlink: &Netlink, wanted: &BTreeSet<Rule>) -> Result<Vec<String>> {
    let present = rules(netlink).await?;
    let meanings: Vec<_> = present
        .iter()
        .map(|rule| (rule.header.family, Meaning::of(rule)))
        .collect();
    let mut missing = Vec::new();
    for rule in wanted {
        let message = rule.message();
        let meaning = (message.header.family, Meaning::of(&message));
        if !meanings.contains(&meaning) {
            add(netlink, &rule.describe(), RouteNetlinkMessage::NewRule(message)).await?;
            missing.push(rule.describe());
        }
    }
    let wanted: Vec<_> = wanted
        .iter()
        .map(|rule| rule.message())
        .map(|rule| (rule.header.family, Meaning::of(&rule)))
        .collect();
    for (rule, meaning) in present.into_iter().zip(meanings) {
        if !wanted.contains(&meaning) {
            delete(netlink, "remove a rule", RouteNetlinkMessage::DelRule(rule)).await?;
        }
    }
    Ok(missing)
}

/// Removes every rule of ours. Returns how many there were.
pub(super) async fn remove_rules(netlink: &Netlink) -> Result<usize> {
    let mut removed = 0;
    for rule in rules(netlink).await? {
        removed += usize::from(delete(netlink, "remove a rule", RouteNetlinkMessage::DelRule(rule)).await?);
    }
    Ok(removed)
}

/// The default route to the device of this index.
fn route(canonical: IpAddr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::of(canonical).number();
    message.header.table = TABLE_IN_ATTRIBUTE;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![RouteAttribute::Table(TABLE)];
    message.attributes.extend(leading(canonical, index));
    message
}

/// What makes a default route one of those that are wanted.
fn leading(canonical: IpAddr, index: u32) -> [RouteAttribute; 3] {
    [
        RouteAttribute::Oif(index),
        RouteAttribute::Gateway(Family::of(canonical).next_hop().into()),
        RouteAttribute::PrefSource(canonical.into()),
    ]
}

fn describe_route(canonical: IpAddr) -> String {
    format!(
        "ip {}route default src {canonical} table {TABLE}",
        Family::of(canonical).option()
    )
}

/// All routes in our table, whosever they are.
async fn table_routes(netlink: &Netlink) -> Result<Vec<RouteMessage>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let mut request = RouteMessage::default();
        request.header.address_family = family.number();
        request.attributes.push(RouteAttribute::Table(TABLE));
        let found = netlink.dump(
            "list routes",
            RouteNetlinkMessage::GetRoute(request),
            |message| match message {
                RouteNetlinkMessage::NewRoute(route) => Some(route).filter(|route| table(route) == TABLE),
                _ => None,
            },
        );
        all.extend(absent_is_empty(found.await)?);
    }
    Ok(all)
}

fn is_our_route(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(PROTOCOL) && table(route) == TABLE
}

/// Adds the default routes that are missing and removes those of ours that lead elsewhere. Returns what was missing.
pub(super) async fn settle_routes(netlink: &Netlink, canonical: &[IpAddr], index: u32) -> Result<Vec<String>> {
    let present = table_routes(netlink).await?;
    let leads = |route: &RouteMessage, ip: IpAddr| {
        route.header.address_family == Family::of(ip).number()
            && route.header.destination_prefix_length == 0
            && leading(ip, index)
                .iter()
                .all(|attribute| route.attributes.contains(attribute))
    };
    for route in present.iter().filter(|route| is_our_route(route)) {
        if !canonical.iter().any(|ip| leads(route, *ip)) {
            delete(netlink, "remove a route", RouteNetlinkMessage::DelRoute(route.clone())).await?;
        }
    }
    let mut missing = Vec::new();
    for ip in canonical {
        if present.iter().any(|route| is_our_route(route) && leads(route, *ip)) {
            continue;
        }
        let foreign = |route: &&RouteMessage| {
            !is_our_route(route)
                && route.header.destination_prefix_length == 0
                && route.header.address_family == Family::of(*ip).number()
        };
        if present.iter().any(|route| foreign(&route)) {
            return Err(Error::ForeignRoute);
        }
        add(
            netlink,
            &describe_route(*ip),
            RouteNetlinkMessage::NewRoute(route(*ip, index)),
        )
        .await?;
        missing.push(describe_route(*ip));
    }
    Ok(missing)
}

/// Removes every route of ours. Returns how many there were.
pub(super) async fn remove_routes(netlink: &Netlink) -> Result<usize> {
    let mut removed = 0;
    for route in table_routes(netlink).await?.into_iter().filter(is_our_route) {
        removed += usize::from(delete(netlink, "remove a route", RouteNetlinkMessage::DelRoute(route)).await?);
    }
    Ok(removed)
}

async fn add(netlink: &Netlink, what: &str, message: RouteNetlinkMessage) -> Result<()> {
    match netlink
        .change(&format!("add {what}"), message, NLM_F_CREATE | NLM_F_EXCL)
        .await
    {
        // Another of our kind was faster.
        Err(error) if error.is(&[libc::EEXIST]) => Ok(()),
        other => other,
    }
}

/// Whether it was there to be deleted.
async fn delete(netlink: &Netlink, action: &str, message: RouteNetlinkMessage) -> Result<bool> {
    match netlink.change(action, message, 0).await {
        Ok(()) => Ok(true),
        Err(error) if error.is(&[libc::ENOENT, libc::ESRCH, libc::ENODEV]) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A table that was never used does not exist, and a family may be compiled out.
fn absent_is_empty<T>(found: Result<Vec<T>>) -> Result<Vec<T>> {
    match found {
        Err(error) if error.is(&[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => Ok(Vec::new()),
        other => other,
    }
}

fn prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
