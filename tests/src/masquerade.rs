//! Providers with address translation: beyond their routers the branch is at the routers' own addresses, at ports that they choose and may change.

use std::net::SocketAddr;

use anyhow::Result;

use crate::host::Host;
use crate::topology::{Lab, TO_HUB, Uplink};

/// The ports that a router chooses from after it forgot its mappings.
pub const PORTS_AFTER: [std::ops::RangeInclusive<u16>; 2] = [40_000..=40_009, 40_010..=40_019];

impl Lab {
    /// Has both routers translate (nftables' masquerade: RFC 4787's address- and port-dependent kind), for IPv4.
    ///
    /// # Errors
    /// There is no `nft`, or the kernel has no nftables.
    pub fn masquerade(&self) -> Result<()> {
        for router in Uplink::ALL.map(|uplink| self.router(uplink)) {
            nft(
                router,
                "add table ip provider; \
                 add chain ip provider out { type nat hook postrouting priority srcnat; }",
            )?;
            nft(router, &format!("add rule ip provider out oifname {TO_HUB} masquerade"))?;
        }
        Ok(())
    }

    /// The provider's router forgets its mappings: what the branch sends next comes from another port, one of [`PORTS_AFTER`] of the uplink.
    ///
    /// # Errors
    /// `nft` or `ip` failed.
    pub fn rebind(&self, uplink: Uplink) -> Result<()> {
        let router = self.router(uplink);
        let ports = &PORTS_AFTER[usize::from(uplink == Uplink::B)];
        let (first, last) = (ports.start(), ports.end());
        nft(router, "flush chain ip provider out")?;
        nft(
            router,
            &format!("add rule ip provider out oifname {TO_HUB} meta l4proto 17 masquerade to :{first}-{last}"),
        )?;
        // A mapping to an address that goes away goes with it (`nf_nat_masquerade_inet`), and so does the route by it.
        let (v4, _) = uplink.transit();
        router.ip([
            format!("addr del {v4}.1/24 dev {TO_HUB}"),
            format!("addr add {v4}.1/24 dev {TO_HUB}"),
            format!("route replace {}/32 via {v4}.2 dev {TO_HUB}", self.hub_endpoint().ip()),
        ])
    }

    /// Where the hub sees the branch by this uplink, if the router kept the port.
    pub fn masqueraded(&self, uplink: Uplink) -> SocketAddr {
        let (v4, _) = uplink.transit();
        format!("{v4}.1:{}", crate::wireguard::LISTEN_PORT)
            .parse()
            .expect("an address and a port")
    }
}

fn nft(host: &Host, rules: &str) -> Result<()> {
    host.run("nft", &[rules]).map(drop)
}
