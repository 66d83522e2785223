//! A device's MTU, changed.

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::LinkUnspec;

use super::Result;
use super::link::Link;
use super::netlink::Netlink;

/// Sets the MTU of a device. When this returns, whoever reads it sees it.
///
/// # Errors
/// What the kernel refused: each kind of device has its bounds.
pub async fn set(netlink: &Netlink, link: &Link, mtu: u32) -> Result<()> {
    let action = format!("set the MTU of {} to {mtu}", link.name);
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    netlink.change(&action, RouteNetlinkMessage::SetLink(message), 0).await
}
