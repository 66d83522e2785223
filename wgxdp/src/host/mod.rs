//! What wgxdp asks of the host and changes on it: links, addresses and routes by rtnetlink, tunnels by WireGuard's own interfaces.
//!
//! | module | one idea |
//! |---|---|
//! | [`netlink`] | a request gets an answer, a whole dump or an error, in bounded time |
//! | [`link`] | one network device as the daemon needs it |
//! | [`view`] | all of them at one instant |
//! | [`watch`] | watch first, then dump, then tell what changed, and resync for ever |
//! | [`anchor`] | the device `wgxdp0` with its addresses, rules and routes |
//! | [`mtu`] | a device's MTU, changed |
//! | [`clsact`] | the qdisc that older kernels need, removed again |
//! | [`neighbour`] | next hops that the kernel keeps resolved |
//! | [`udp_socket`] | whether a UDP port is somebody's |
//! | [`wireguard`] | tunnels and their peers, of the kernel and of user-space implementations |
//!
//! What is added is tagged, so that it can be told from what others added: rules, routes and neighbours by [`PROTOCOL`], devices by
//! [`ALIAS`]. Nothing else is ever removed.

use std::io;

pub mod anchor;
pub mod clsact;
pub mod link;
pub mod mtu;
pub mod neighbour;
pub mod netlink;
pub mod udp_socket;
pub mod view;
pub mod watch;
pub mod wireguard;

#[cfg(test)]
mod tests;

/// Our route protocol number (`rtm_protocol`, `FRA_PROTOCOL`, `NDA_PROTOCOL`).
pub const PROTOCOL: u8 = 87;
/// Our routing table.
pub const TABLE: u32 = 5747;
/// The `ifalias` of our devices.
pub const ALIAS: &str = "wgxdp anchor";

/// What went wrong with the host's network configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket, or it broke.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {action}: {source}{}", hint(source))]
    Refused {
        /// What was to be done.
        action: String,
        /// Why the kernel did not do it.
        source: io::Error,
    },
    /// The kernel did not answer in time, or the answer was lost.
    #[error("cannot {action}: no answer from the kernel")]
    Unanswered {
        /// What was to be done.
        action: String,
    },
    /// Every dump was interrupted by changes.
    #[error("cannot {action}: it changed each time while it was read")]
    Unsettled {
        /// What was to be done.
        action: String,
    },
    /// A device of one of our names is somebody else's.
    #[error("device {name} ({driver}) is not wgxdp's: rename or delete it, wgxdp needs the name")]
    ForeignDevice {
        /// The device.
        name: String,
        /// Its kind, as `ip -d link` names it.
        driver: String,
    },
    /// Somebody else's default route stands in our table.
    #[error("routing table {TABLE} has a default route that is not wgxdp's: delete it, wgxdp needs the table")]
    ForeignRoute,
    /// The kernel has neither of the devices that can be an anchor.
    #[error("the kernel has neither dummy nor veth devices: load one of the modules `dummy` and `veth`")]
    NoAnchorDevice,
    /// The watch's task ended.
    #[error("the watch on the host's network has ended")]
    WatchEnded,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN)",
        _ => "",
    }
}

impl Error {
    /// The kernel's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the kernel's answer was one of these error numbers.
    fn is(&self, errnos: &[i32]) -> bool {
        self.errno().is_some_and(|errno| errnos.contains(&errno))
    }
}

/// The result of something asked of the host.
pub type Result<T, E = Error> = std::result::Result<T, E>;
