//! One network device as the daemon needs it.
//!
//! **Carrier** is whether packets can leave: the device is up, its lower layer is (`IFF_LOWER_UP`), and its operational state (RFC 2863) is not one
//! that contradicts. Tunnels and PPP devices never leave the state "unknown", which therefore counts as up.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, State};
use wgxdp_common::table::LinkKind;

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name at the moment.
    pub name: String,
    /// Its link layer; [`LinkKind::ABSENT`] where it is one that packets cannot be steered to (InfiniBand, CAN, …).
    pub kind: LinkKind,
    /// Its driver as `ip -d link` names it (`veth`, `tun`, `wireguard`), where it has such a name.
    pub driver: Option<String>,
    /// Its description (`ifalias`).
    pub alias: Option<String>,
    /// Its link-layer address.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet in bytes that fits.
    pub mtu: u32,
    /// The operator wants it up.
    pub admin_up: bool,
    /// Packets can leave.
    pub carrier: bool,
    /// It resolves no neighbours.
    pub noarp: bool,
    /// Its IPv4 addresses, best first.
    pub v4: Vec<Ipv4Addr>,
    /// Its global IPv6 addresses, best first.
    pub v6: Vec<Ipv6Addr>,
    /// The next hop of its best IPv4 default route.
    pub gateway4: Option<Ipv4Addr>,
    /// The next hop of its best IPv6 default route.
    pub gateway6: Option<Ipv6Addr>,
    /// The MTU that its best IPv4 default route states.
    pub route_mtu4: Option<u32>,
    /// The MTU that its best IPv6 default route states.
    pub route_mtu6: Option<u32>,
}

impl Link {
    /// From an `RTM_NEWLINK`, without addresses and gateways. `None` for messages that are not about the device itself (a bridge's ports are
    /// announced by messages of the same type).
    #[must_use]
    pub fn from_message(message: &LinkMessage) -> Option<Self> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: kind(message.header.link_layer_type),
            driver: None,
            alias: None,
            mac: None,
            mtu: 0,
            admin_up: flags.contains(LinkFlags::Up),
            carrier: false,
            noarp: flags.contains(LinkFlags::Noarp),
            v4: Vec::new(),
            v6: Vec::new(),
            gateway4: None,
            gateway6: None,
            route_mtu4: None,
            route_mtu6: None,
        };
        let mut state = State::Unknown;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::OperState(operational) => state = *operational,
                LinkAttribute::LinkInfo(infos) => {
                    link.driver = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link.carrier = flags.contains(LinkFlags::Up | LinkFlags::LowerUp) && passes(state);
        Some(link)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.admin_up, self.carrier) {
            (true, true) => "up",
            (true, false) => "no carrier",
            (false, _) => "down",
        };
        write!(f, "{} ({}, {state})", self.name, self.index)
    }
}

/// Whether a device in this operational state may carry packets.
fn passes(state: State) -> bool {
    match state {
        State::Unknown | State::Up | State::Other(_) => true,
        State::NotPresent | State::Down | State::LowerLayerDown | State::Testing | State::Dormant => false,
        // New names for numbers that were `Other` before.
        _ => true,
    }
}

/// What packets look like on such a device.
fn kind(layer: LinkLayerType) -> LinkKind {
    match layer {
        LinkLayerType::Ether | LinkLayerType::Loopback => LinkKind::ETHERNET,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => LinkKind::IP,
        _ => LinkKind::ABSENT,
    }
}
