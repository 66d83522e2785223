//! What an operator is told about MTUs: each with the number to set and the command.

use std::fmt;

use crate::mtu::{Family, IPV6_LEAST, inner};

/// The path on which the smallest inner packet fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tightest {
    /// Its uplink's name.
    pub(super) uplink: String,
    /// Its family.
    pub(super) family: Family,
    /// Its MTU.
    pub(super) mtu: u32,
}

impl Tightest {
    /// The largest inner packet in bytes that fits.
    pub(super) const fn fits(&self) -> u32 {
        inner(self.mtu, self.family)
    }
}

impl fmt::Display for Tightest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uplink, mtu, family) = (&self.uplink, self.mtu, self.family);
        write!(
            f,
            "{uplink}, which takes {mtu} bytes of {family}, {} of them for the outer headers",
            family.overhead()
        )
    }
}

/// Something about an MTU that its operator should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// The tunnel's MTU is larger than what fits.
    TooLarge {
        /// The tunnel.
        tunnel: String,
        /// Its MTU.
        mtu: u32,
        /// Where it does not fit.
        path: Tightest,
        /// Whether the tunnel carries IPv6.
        v6: bool,
        /// Whether wgxdp would set it by itself, had not somebody else done so.
        auto: bool,
    },
    /// The tunnel carries IPv6, and its MTU is too small for that.
    TunnelBelowIpv6 {
        /// The tunnel.
        tunnel: String,
        /// Its MTU.
        mtu: u32,
    },
    /// There are IPv6 endpoints, and the uplink's MTU is too small for IPv6.
    UplinkBelowIpv6 {
        /// The uplink.
        uplink: String,
        /// Its interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge {
                tunnel, mtu, path, v6, ..
            } if *v6 && path.fits() < IPV6_LEAST => write!(
                f,
                "{tunnel}: MTU {mtu} is too large for {path}; {} would fit, but {tunnel} carries IPv6, which needs {IPV6_LEAST} (RFC 8200, \
                 section 5): raise the MTU of {} to {}, or leave that uplink out",
                path.fits(),
                path.uplink,
                IPV6_LEAST + path.family.overhead()
            ),
            Self::TooLarge {
                tunnel,
                mtu,
                path,
                auto,
                ..
            } => {
                let fits = path.fits();
                write!(
                    f,
                    "{tunnel}: MTU {mtu} is too large for {path}: full packets are fragmented or lost there; run `ip link set {tunnel} mtu {fits}`"
                )?;
                f.write_str(if *auto {
                    ""
                } else {
                    ", or write mtu = \"auto\" under [[tunnel]]"
                })
            }
            Self::TunnelBelowIpv6 { tunnel, mtu } => write!(
                f,
                "{tunnel}: MTU {mtu} is below {IPV6_LEAST}, the least that IPv6 needs (RFC 8200, section 5), but IPv6 is among its allowed IPs; \
                 run `ip link set {tunnel} mtu {IPV6_LEAST}`, or allow IPv4 alone"
            ),
            Self::UplinkBelowIpv6 { uplink, interface, mtu } => write!(
                f,
                "uplink {uplink}: MTU {mtu} is below {IPV6_LEAST}, the least that IPv6 needs (RFC 8200, section 5), but there are IPv6 endpoints, \
                 which it cannot reach so; raise it: `ip link set {interface} mtu {IPV6_LEAST}`, the route's mtu, or the uplink's mtu in the configuration"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
