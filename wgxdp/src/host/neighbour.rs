//! Next hops that the kernel keeps resolved.
//!
//! A packet redirected to a next hop whose neighbour is not resolved is lost, and with it five seconds of a WireGuard handshake.
//! A *managed* neighbour (`NTF_EXT_MANAGED`, kernel 5.16) is resolved before anything is sent, and again whenever that fails. The
//! kernel forgets it when its device goes down or loses carrier, and when somebody flushes neighbours, and it tells nobody who does
//! not listen to every neighbour of the host: [`Neighbours::settle`] is to be called with every [`super::view::View`], and now and then.
//!
//! A neighbour that is somebody's static entry, or managed by somebody else, is resolved already and left alone: to manage it would
//! make it ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::time::sleep;

use super::netlink::Netlink;
use super::{PROTOCOL, Result};

/// How often a deletion is asked for, and the pause between: packets hold an entry for microseconds.
const DELETIONS: u32 = 50;
const BETWEEN_DELETIONS: Duration = Duration::from_millis(5);

/// What became of a next hop that should be managed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Managed {
    /// The kernel keeps it resolved from now on.
    New,
    /// It did already, because of us.
    Already,
    /// It is somebody else's static or managed entry.
    LeftAlone,
}

/// Has the kernel keep `ip` on the device `index` resolved.
///
/// # Errors
/// What the kernel refused, such as a device that is gone.
pub async fn manage(netlink: &Netlink, index: u32, ip: IpAddr) -> Result<Managed> {
    match find(netlink, index, ip).await? {
        Some(found) if is_ours(&found) && is_managed(&found) => return Ok(Managed::Already),
        Some(found) if is_settled(&found) => return Ok(Managed::LeftAlone),
        _ => {}
    }
    let mut message = key(index, ip);
    message.attributes.extend([
        NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
    ]);
    let action = format!("manage neighbour {ip} on device {index}");
    netlink
        .change(
            &action,
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await?;
    Ok(Managed::New)
}

/// Undoes [`manage`]. Returns whether there was something of ours to undo.
///
/// # Errors
/// What the kernel refused.
pub async fn release(netlink: &Netlink, index: u32, ip: IpAddr) -> Result<bool> {
    match find(netlink, index, ip).await? {
        Some(found) if is_ours(&found) => delete(netlink, index, ip).await,
        _ => Ok(false),
    }
}

/// Releases every neighbour of ours. Returns how many there were.
///
/// # Errors
/// What the kernel refused.
pub async fn release_all(netlink: &Netlink) -> Result<usize> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let ours = netlink.dump("list neighbours", request, |message| match message {
        RouteNetlinkMessage::NewNeighbour(found) if is_ours(&found) => {
            destination(&found).map(|ip| (found.header.ifindex, ip))
        }
        _ => None,
    });
    let mut released = 0;
    for (index, ip) in ours.await? {
        released += usize::from(delete(netlink, index, ip).await?);
    }
    Ok(released)
}

/// The next hops that this daemon has managed.
#[derive(Debug)]
pub struct Neighbours {
    netlink: Netlink,
    wanted: BTreeSet<(u32, IpAddr)>,
    managed: BTreeSet<(u32, IpAddr)>,
}

impl Neighbours {
    /// None yet.
    #[must_use]
    pub fn new(netlink: &Netlink) -> Self {
        Self {
            netlink: netlink.clone(),
            wanted: BTreeSet::new(),
            managed: BTreeSet::new(),
        }
    }

    /// Has exactly these (device index, next hop) managed: installs those that the kernel does not have, or has no more, and
    /// releases the others. Returns the newly installed.
    ///
    /// # Errors
    /// What the kernel refused; a device that is gone or down is not an error, its next hops are simply not managed.
    pub async fn settle(&mut self, wanted: BTreeSet<(u32, IpAddr)>) -> Result<Vec<(u32, IpAddr)>> {
        for (index, ip) in self.managed.difference(&wanted) {
            match release(&self.netlink, *index, *ip).await {
                Err(error) if !error.is(&[libc::ENODEV]) => return Err(error),
                _ => {}
            }
        }
        self.managed.retain(|hop| wanted.contains(hop));
        self.wanted = wanted;
        self.settle_again().await
    }

    /// The same with what was wanted last: whoever flushes neighbours does not tell.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub async fn settle_again(&mut self) -> Result<Vec<(u32, IpAddr)>> {
        let mut new = Vec::new();
        for (index, ip) in self.wanted.clone() {
            match manage(&self.netlink, index, ip).await {
                Ok(Managed::New) => new.push((index, ip)),
                Ok(Managed::Already | Managed::LeftAlone) => {}
                Err(error) if error.is(&[libc::ENODEV, libc::ENETDOWN]) => continue,
                Err(error) => return Err(error),
            }
            self.managed.insert((index, ip));
        }
        Ok(new)
    }
}

fn key(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let destination = match ip {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

async fn find(netlink: &Netlink, index: u32, ip: IpAddr) -> Result<Option<NeighbourMessage>> {
    let action = format!("look up neighbour {ip} on device {index}");
    match netlink
        .get(&action, RouteNetlinkMessage::GetNeighbour(key(index, ip)))
        .await
    {
        Ok(RouteNetlinkMessage::NewNeighbour(found)) => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(error) if error.is(&[libc::ENOENT]) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kernel keeps an entry that a packet holds at this very moment (`neigh_del`), as one no longer managed but still marked as
/// ours, and the next packet brings it back to life: so it is asked until the mark is gone.
async fn delete(netlink: &Netlink, index: u32, ip: IpAddr) -> Result<bool> {
    let action = format!("release neighbour {ip} on device {index}");
    let mut existed = false;
    for _ in 0..DELETIONS {
        match netlink
            .change(&action, RouteNetlinkMessage::DelNeighbour(key(index, ip)), 0)
            .await
        {
            Ok(()) => existed = true,
            Err(error) if error.is(&[libc::ENOENT, libc::ENODEV]) => break,
            Err(error) => return Err(error),
        }
        match find(netlink, index, ip).await {
            Ok(Some(found)) if is_ours(&found) => sleep(BETWEEN_DELETIONS).await,
            Err(error) if !error.is(&[libc::ENODEV]) => return Err(error),
            _ => break,
        }
    }
    Ok(existed)
}

fn is_managed(message: &NeighbourMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::ExtFlags(flags) => flags.contains(NeighbourExtFlags::Managed),
        _ => false,
    })
}

/// Whether it carries our mark: we made it, and the kernel may have ceased to manage it since. One that somebody made permanent
/// keeps the mark, and is theirs.
fn is_ours(message: &NeighbourMessage) -> bool {
    let protocol = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
    message.attributes.contains(&protocol) && (is_managed(message) || !is_settled(message))
}

/// Whether the kernel keeps it resolved without us.
fn is_settled(message: &NeighbourMessage) -> bool {
    is_managed(message) || matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
