//! The device `wgxdp0`: a dummy, or where the kernel has none, one end of a veth pair.
//!
//! It resolves no neighbours, so that nothing can fail before `steer` sees a packet; it is always up; and it takes packets
//! of any size, so that the kernel fragments nothing before the uplink is known. It carries two addresses, which packets
//! have only on their way to `steer`:
//!
//! - `192.0.0.8/32`, the IPv4 dummy address (RFC 7600), of scope host, so that the kernel never picks it for anything else;
//! - a unique-local `/128` (RFC 4193), deprecated from the start (RFC 4862), so that any other address is preferred for anything else.
//!
//! The far end of a veth pair must be up, or `wgxdp0` has no carrier. What `steer` passes arrives there, and must go no
//! further: with the smallest MTU there is, the far end is too small for IPv6 to exist on it, and for the packets of a tunnel
//! to enter it.
//!
//! **Ours** is a device with our [`ALIAS`], or, in the instant between its creation and its naming, one with our link-layer
//! address and no alias.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::super::link::Link;
use super::super::netlink::Netlink;
use super::super::view;
use super::super::{ALIAS, Error, Result};
use super::{CANONICAL_V4, CANONICAL_V6, NAME, PEER_NAME};

/// The device's link-layer address: locally administered, the rest spells `WGXDP`.
const MAC: [u8; 6] = [0x02, b'W', b'G', b'X', b'D', b'P'];
/// That of the far end of a veth pair.
const PEER_MAC: [u8; 6] = [0x02, b'W', b'G', b'X', b'D', b'p'];
/// The largest that a veth takes, and the largest IPv4 packet.
const MTU: u32 = 65_535;
/// The smallest that a veth takes (RFC 791).
const PEER_MTU: u32 = 68;

/// linux/if_link.h, linux/ip.h.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const IPV4_DEVCONF_ACCEPT_LOCAL: u16 = 23;

/// The device, as it was found settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) v6: bool,
}

/// Whether this device is ours to change and remove.
pub(in super::super) fn is_ours(link: &Link) -> bool {
    let name_and_driver = matches!(link.driver.as_deref(), Some("dummy" | "veth"));
    let unnamed = link.alias.is_none() && matches!(link.mac, Some(MAC | PEER_MAC));
    name_and_driver && (link.alias.as_deref() == Some(ALIAS) || unnamed)
}

fn refuse_foreign(link: &Link) -> Result<()> {
    if is_ours(link) {
        return Ok(());
    }
    let driver = link.driver.clone().unwrap_or_else(|| "a device of the kernel's".into());
    Err(Error::ForeignDevice {
        name: link.name.clone(),
        driver,
    })
}

/// Makes the device what it should be, creating it if need be. Returns it, and what was missing or wrong.
pub(super) async fn settle(netlink: &Netlink) -> Result<(Device, Vec<String>)> {
    let mut missing = Vec::new();
    let all = view::links(netlink).await?;
    for name in [NAME, PEER_NAME] {
        all.iter()
            .filter(|link| link.name == name)
            .try_for_each(refuse_foreign)?;
    }
    // A device of ours under another name holds our addresses; half a veth pair has no carrier.
    let has_peer = all.iter().any(|link| link.name == PEER_NAME);
    let whole = |link: &Link| link.name == NAME && (link.driver.as_deref() != Some("veth") || has_peer);
    let standing = all.iter().any(whole);
    let stray = |link: &Link| is_ours(link) && !(standing && link.name == PEER_NAME) && !whole(link);
    for link in all.iter().filter(|link| stray(link)) {
        missing.push(format!("device {NAME} (there was {link})"));
        delete(netlink, link.index).await?;
    }
    if !standing {
        create(netlink).await?;
        if missing.is_empty() {
            missing.push(format!("device {NAME}"));
        }
    }
    let all = view::links(netlink).await?;
    let mut anchor = None;
    for link in all.iter().filter(|link| link.name == NAME || link.name == PEER_NAME) {
        refuse_foreign(link)?;
        missing.extend(shape(netlink, link).await?);
        if link.name == NAME {
            anchor = Some(link);
        }
    }
    let Some(anchor) = anchor else {
        return Err(Error::Unsettled {
            action: format!("raise {NAME}"),
        });
    };
    let present = view_addresses(netlink, anchor.index).await?;
    if !present.contains(&IpAddr::V4(CANONICAL_V4)) {
        add_address(netlink, anchor.index, IpAddr::V4(CANONICAL_V4)).await?;
        missing.push(format!("address {CANONICAL_V4}"));
    }
    let mut v6 = true;
    if !present.contains(&IpAddr::V6(CANONICAL_V6)) {
        match add_address(netlink, anchor.index, IpAddr::V6(CANONICAL_V6)).await {
            Ok(()) => missing.push(format!("address {CANONICAL_V6}")),
            // Switched off by sysctl, by the kernel's command line, or not compiled in.
            Err(error) if error.is(&[libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => v6 = false,
            Err(error) => return Err(error),
        }
    }
    let (index, mac) = (anchor.index, anchor.mac.unwrap_or(MAC));
    Ok((
        Device {
            index,
            mac,
            mtu: anchor.mtu,
            v6,
        },
        missing,
    ))
}

/// Deletes every device of ours. Returns their names, without that of a veth's far end, which goes with it.
pub(super) async fn remove(netlink: &Netlink) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut ours: Vec<Link> = view::links(netlink).await?.into_iter().filter(is_ours).collect();
    ours.sort_by(|one, other| one.name.cmp(&other.name));
    for link in ours {
        if delete(netlink, link.index).await? {
            removed.push(link.name);
        }
    }
    Ok(removed)
}

async fn create(netlink: &Netlink) -> Result<()> {
    let action = format!("create device {NAME}");
    let dummy = LinkMessageBuilder::<LinkDummy>::new(NAME)
        .address(MAC.to_vec())
        .mtu(MTU)
        .build();
    let peer = LinkUnspec::new_with_name(PEER_NAME)
        .address(PEER_MAC.to_vec())
        .mtu(PEER_MTU)
        .build();
    let veth = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(NAME)
        .address(MAC.to_vec())
        .mtu(MTU)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    for message in [dummy, veth] {
        match netlink
            .change(
                &action,
                RouteNetlinkMessage::NewLink(message),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .await
        {
            Err(error) if error.is(&[libc::EOPNOTSUPP]) => {}
            other => return other,
        }
    }
    Err(Error::NoAnchorDevice)
}

/// Whether it was there.
async fn delete(netlink: &Netlink, index: u32) -> Result<bool> {
    let message = LinkUnspec::new_with_index(index).build();
    match netlink
        .change(
            &format!("delete device {index}"),
            RouteNetlinkMessage::DelLink(message),
            0,
        )
        .await
    {
        Ok(()) => Ok(true),
        Err(error) if error.is(&[libc::ENODEV]) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets whatever of a device's properties is not as it should be. Returns what was wrong with a device that had been settled before.
async fn shape(netlink: &Netlink, link: &Link) -> Result<Vec<String>> {
    let name = link.name.as_str();
    let mtu = if name == NAME { MTU } else { PEER_MTU };
    let action = format!("set up device {name}");
    let mut wrong = Vec::new();
    let fresh = link.alias.is_none();
    if fresh || link.mtu != mtu {
        let message = LinkUnspec::new_with_index(link.index).alias(ALIAS).mtu(mtu).build();
        netlink
            .change(&action, RouteNetlinkMessage::SetLink(message), 0)
            .await?;
        wrong.extend((!fresh).then(|| format!("MTU of {name}")));
    }
    if fresh {
        no_link_local(netlink, &action, link.index).await?;
    }
    if name == NAME {
        no_source_check(netlink, &action, link.index).await?;
    }
    if !link.admin_up || !link.noarp {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        netlink
            .change(&action, RouteNetlinkMessage::SetLink(message), 0)
            .await?;
        wrong.extend((!fresh && !link.admin_up).then(|| format!("{name} up")));
        wrong.extend((!fresh && !link.noarp).then(|| format!("arp off on {name}")));
    }
    Ok(wrong)
}

/// No automatic IPv6 address: the device has no link to be local to.
async fn no_link_local(netlink: &Netlink, action: &str, index: u32) -> Result<()> {
    let mut message = LinkUnspec::new_with_index(index).build();
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![none]));
    match netlink.change(action, RouteNetlinkMessage::SetLink(message), 0).await {
        // No IPv6 on this device, so no automatic address either.
        Err(error) if error.is(&[libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => Ok(()),
        other => other,
    }
}

/// The kernel need not look for a route back to the sender of every packet that arrives here: only `restore` puts packets on this device, by
/// whichever uplink they came, and with rules in the namespace that is the dearest part of their way (`fib_validate_source`: its short way is
/// open only where `accept_local` is set). Where `all/rp_filter` is set, the kernel looks nevertheless.
async fn no_source_check(netlink: &Netlink, action: &str, index: u32) -> Result<()> {
    let conf = [(IPV4_DEVCONF_RP_FILTER, 0_u32), (IPV4_DEVCONF_ACCEPT_LOCAL, 1)]
        .map(|(kind, value)| DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
    let mut value = vec![0; conf.as_slice().buffer_len()];
    conf.as_slice().emit(&mut value);
    let conf = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, value));
    let mut message = LinkUnspec::new_with_index(index).build();
    let inet = vec![AfSpecUnspec::Inet(vec![conf])];
    message.attributes.push(LinkAttribute::AfSpecUnspec(inet));
    netlink.change(action, RouteNetlinkMessage::SetLink(message), 0).await
}

async fn add_address(netlink: &Netlink, index: u32, ip: IpAddr) -> Result<()> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    match ip {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = Ipv4Addr::BITS as u8;
            message.header.scope = AddressScope::Host;
            message.attributes.extend([
                AddressAttribute::Local(ip),
                AddressAttribute::Address(ip),
                AddressAttribute::Flags(AddressFlags::Noprefixroute),
            ]);
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = Ipv6Addr::BITS as u8;
            message.header.flags = AddressHeaderFlags::Nodad;
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_valid = u32::MAX;
            message.attributes.extend([
                AddressAttribute::Local(ip),
                AddressAttribute::Address(ip),
                AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
                AddressAttribute::CacheInfo(lifetime),
            ]);
        }
    }
    let action = format!("add address {ip} to {NAME}");
    match netlink
        .change(
            &action,
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
    {
        Err(error) if error.is(&[libc::EEXIST]) => Ok(()),
        other => other,
    }
}

async fn view_addresses(netlink: &Netlink, index: u32) -> Result<Vec<IpAddr>> {
    let found = netlink.dump(
        "list addresses",
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        |message| {
            let RouteNetlinkMessage::NewAddress(address) = message else {
                return None;
            };
            if address.header.index != index {
                return None;
            }
            address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                AddressAttribute::Address(ip @ IpAddr::V6(_)) => Some(*ip),
                _ => None,
            })
        },
    );
    found.await
}
