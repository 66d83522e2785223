//! How large a packet may be: from what a device, its route and the configuration say to what WireGuard and TCP may send. Pure.
//!
//! ```text
//! a path's MTU    the least of device, default route by it (RTAX_MTU) and `mtu` of the uplink
//! outer packet    IPv4 20 or IPv6 40  +  UDP 8  +  WireGuard 32  +  inner packet, padded
//! inner packet    what the path's MTU leaves: 60 bytes less over IPv4, 80 over IPv6
//! TCP's MSS       what the inner packet leaves: 40 bytes less over IPv4, 60 over IPv6 (RFC 6691: options do not count)
//! ```
//!
//! WireGuard pads an inner packet to a multiple of 16 bytes, but never beyond the interface's MTU (`calculate_skb_padding` in
//! drivers/net/wireguard/send.c; wireguard-go does the same). So the interface's MTU may be any number that fits, while packets that are kept
//! small by other means, such as the MSS, must fit with their padding.

/// The least MTU that a link must have to carry IPv6 (RFC 8200, section 5); Linux keeps no IPv6 address on a device with less.
pub const IPV6_LEAST: u32 = 1280;

/// What WireGuard pads to (the protocol's section 5.4.6).
const PADDING: u32 = 16;
/// UDP's header (RFC 768), and the header and the tag of a WireGuard data message.
const UDP_AND_WIREGUARD: u32 = 8 + 32;

/// An address family, by the length of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// The family of packets to this address; an IPv4-mapped one is IPv4.
    #[must_use]
    pub fn of(ip: std::net::IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// Bytes of its header without options.
    #[must_use]
    pub const fn header(self) -> u32 {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// Bytes of an outer packet in this family that are not the inner packet.
    #[must_use]
    pub const fn overhead(self) -> u32 {
        self.header() + UDP_AND_WIREGUARD
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The largest IP packet in bytes that leaves by a device: no larger than the route by it and the configuration say.
#[must_use]
pub fn of_path(device: u32, route: Option<u32>, configured: Option<u32>) -> u32 {
    [route, configured].into_iter().flatten().fold(device, u32::min)
}

/// The largest IP packet in bytes, as WireGuard sends it in the family of the canonical endpoint, that fits a path of this MTU and
/// family: where the two differ the header is translated, and the packet grows or shrinks.
#[must_use]
pub const fn largest(path: u32, family: Family, canonical: Family) -> u32 {
    (path + canonical.header()).saturating_sub(family.header())
}

/// The largest inner packet in bytes that fits a path of this MTU and family: what the tunnel's MTU may be.
#[must_use]
pub const fn inner(path: u32, family: Family) -> u32 {
    path.saturating_sub(family.overhead())
}

/// The largest outer packet in bytes of a tunnel of MTU `tunnel`, in this family.
#[must_use]
pub const fn outer(tunnel: u32, family: Family) -> u32 {
    tunnel + family.overhead()
}

/// The largest inner packet in bytes that TCP may send through a tunnel of MTU `tunnel` if `fits` is what its paths leave: below the tunnel's
/// MTU a packet is padded, and must fit with that.
#[must_use]
pub const fn clamped(tunnel: u32, fits: u32) -> u32 {
    if tunnel <= fits { tunnel } else { fits - fits % PADDING }
}

/// What a tunnel that was of MTU `original` is set to: what fits, and no more than it was. Not less than IPv6 needs if the tunnel carries that: the kernel
/// would remove its IPv6 addresses, and they would not come back with the MTU.
#[must_use]
pub fn lowered(original: u32, fits: u32, v6: bool) -> u32 {
    let least = if v6 { IPV6_LEAST } else { 0 };
    original.min(fits.max(least))
}

#[cfg(test)]
mod tests {
    use super::Family::{V4, V6};
    use super::*;

    #[test]
    fn a_path_s_mtu_is_the_least_that_anybody_names() {
        let rows = [
            ((1500, None, None), 1500),
            ((1500, Some(1492), None), 1492),
            ((1500, None, Some(1480)), 1480),
            ((1500, Some(1492), Some(1480)), 1480),
            ((1500, Some(1400), Some(1480)), 1400),
            ((1400, Some(1492), Some(1480)), 1400),
            ((1500, Some(9000), Some(9000)), 1500),
        ];
        for ((device, route, configured), mtu) in rows {
            assert_eq!(
                of_path(device, route, configured),
                mtu,
                "{device} {route:?} {configured:?}"
            );
        }
    }

    #[test]
    fn a_packet_that_is_translated_changes_by_the_headers_difference() {
        let rows = [
            (1500, V4, V4, 1500),
            (1500, V6, V6, 1500),
            // WireGuard sends IPv4, the path is IPv6: 20 bytes more on the way.
            (1500, V6, V4, 1480),
            (1500, V4, V6, 1520),
            (1280, V6, V4, 1260),
            (0, V6, V4, 0),
        ];
        for (path, family, canonical, expected) in rows {
            assert_eq!(
                largest(path, family, canonical),
                expected,
                "{path} {family} for {canonical}"
            );
        }
    }

    #[test]
    fn the_tunnel_gets_what_the_outer_headers_leave() {
        let rows = [
            (1500, V4, 1440),
            (1500, V6, 1420),
            (1492, V4, 1432),
            (1492, V6, 1412),
            (1280, V6, 1200),
            (576, V4, 516),
            (59, V4, 0),
        ];
        for (path, family, expected) in rows {
            assert_eq!(inner(path, family), expected, "{path} {family}");
        }
    }

    /// As `calculate_skb_padding` does it.
    fn padded(inner: u32, tunnel: u32) -> u32 {
        inner.next_multiple_of(PADDING).min(tunnel)
    }

    #[test]
    fn what_is_clamped_fits_with_its_padding_and_nothing_larger_does() {
        for tunnel in 1200..1440 {
            for fits in 1200..1440 {
                let inner = clamped(tunnel, fits);
                assert!(padded(inner, tunnel) <= fits, "{inner} of {tunnel} in {fits}");
                assert!(
                    inner == tunnel || padded(inner + 1, tunnel) > fits,
                    "{inner} of {tunnel} in {fits} wastes"
                );
            }
        }
    }

    #[test]
    fn a_tunnel_is_lowered_to_what_fits_never_raised_and_ipv6_in_it_lives() {
        let rows = [
            ((1420, 1340, false), 1340),
            ((1420, 1340, true), 1340),
            ((1420, 1440, false), 1420),
            ((1420, 1200, false), 1200),
            ((1420, 1200, true), 1280),
            // It was too small for IPv6 before us.
            ((1240, 1200, true), 1240),
        ];
        for ((original, fits, v6), expected) in rows {
            assert_eq!(lowered(original, fits, v6), expected, "{original} {fits} {v6}");
        }
    }

    #[test]
    fn a_mapped_address_is_of_the_family_that_it_is_sent_in() {
        for (ip, family) in [("192.0.2.1", V4), ("2001:db8::1", V6), ("::ffff:192.0.2.1", V4)] {
            assert_eq!(Family::of(ip.parse().unwrap()), family, "{ip}");
        }
    }
}
