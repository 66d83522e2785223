//! Peers that nobody plays: in WireGuard and in wgxdp's configuration, at endpoints (198.18.0.0/15, RFC 2544) to which there is no way unless the hub [`answer`]s for them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use wgxdp::config::PublicKey;

use crate::topology::{Lab, TO_HUB, Uplink};
use crate::wireguard::{INTERFACE, LISTEN_PORT, WireGuard};

/// Where their addresses are.
pub(crate) const RANGE: &str = "198.18.0.0/15";
/// The first of their addresses, and the first of their others.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const OTHERS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// So many of them, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd(pub u32);

impl Crowd {
    /// How they stand in wgxdp's configuration, behind the tunnel's other peers: probed once a minute each.
    pub fn toml(self) -> String {
        self.toml_probed(Duration::from_secs(60))
    }

    /// The same, each probed so often.
    pub fn toml_probed(self, interval: Duration) -> String {
        let interval = interval.as_millis();
        let mut text = String::new();
        for number in 0..self.0 {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n[[tunnel.peer]]\npublic-key = \"{}\"\nname = \"client-{number}\"\nendpoints = [\"{}\"]\nprobe = {{ kind = \"icmp\", interval = \"{interval}ms\" }}\n",
                key(number),
                endpoint(number)
            );
        }
        text
    }

    /// Adds some of them to WireGuard.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn join(self, wireguard: &WireGuard, who: Range<u32>) -> Result<()> {
        let mut text = String::new();
        for number in who {
            let _ = writeln!(
                text,
                "[Peer]\nPublicKey = {}\nEndpoint = {}",
                key(number),
                endpoint(number)
            );
        }
        let file = "/run/crowd.conf";
        wireguard.host().write(file, &text)?;
        wireguard.host().run("wg", &["addconf", INTERFACE, file]).map(drop)
    }

    /// Removes some of them from WireGuard.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn leave(self, wireguard: &WireGuard, who: Range<u32>) -> Result<()> {
        if who.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = who.map(|number| key(number).to_string()).collect();
        let mut args = vec!["set", INTERFACE];
        args.extend(keys.iter().flat_map(|key| ["peer", key, "remove"]));
        wireguard.host().run("wg", &args).map(drop)
    }
}

/// From now on the hub's kernel answers for all of them, whichever uplink they are asked by.
///
/// # Errors
/// `ip` failed.
pub(crate) fn answer(lab: &Lab) -> Result<()> {
    lab.hub.ip([format!("route add local {RANGE} dev lo")])?;
    for uplink in Uplink::ALL {
        let router = lab.isp(uplink).access.router();
        router.ip([format!("route add {RANGE} via {}.2 dev {TO_HUB}", uplink.transit().0)])?;
    }
    Ok(())
}

/// Where WireGuard knows one of them to be.
pub(crate) fn endpoint(number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(FIRST.to_bits() + number), LISTEN_PORT).into()
}

/// Where it may be besides.
pub(crate) fn other_endpoint(number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(OTHERS.to_bits() + number), LISTEN_PORT).into()
}

/// Nobody knows the private key to it.
pub(crate) fn key(number: u32) -> PublicKey {
    let mut bytes = [0x57; 32];
    let (head, _) = bytes.split_at_mut(4);
    head.copy_from_slice(&number.to_be_bytes());
    PublicKey::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_of_a_crowd_are_alike_and_all_are_in_the_range_for_tests() {
        let all: Vec<_> = (0..20_000).map(|number| (key(number), endpoint(number))).collect();
        let keys: std::collections::BTreeSet<_> = all.iter().map(|(key, _)| *key).collect();
        let endpoints = (0..20_000).flat_map(|number| [endpoint(number), other_endpoint(number)]);
        let endpoints: std::collections::BTreeSet<_> = endpoints.collect();
        assert_eq!((keys.len(), endpoints.len()), (all.len(), 2 * all.len()));
        let is_for_tests = |endpoint: &SocketAddr| {
            let text = endpoint.to_string();
            text.starts_with("198.18.") || text.starts_with("198.19.")
        };
        assert!(endpoints.iter().all(is_for_tests));
    }
}
