//! Which addresses make sense where.

use std::net::{IpAddr, SocketAddr};

use super::error::{Fault, Place};
use super::reader::{Report, excerpt};

pub(super) const fn family(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// Parses an address and asks whether it is `usable`.
pub(super) fn parse(
    key: &'static str,
    text: &str,
    advice: &'static str,
    place: Place,
    report: &mut Report<'_>,
    usable: &impl Fn(IpAddr) -> Result<(), &'static str>,
) -> Option<IpAddr> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        report.add(
            place,
            Fault::Address {
                key,
                found: excerpt(text),
                advice,
            },
        );
        return None;
    };
    match usable(ip) {
        Ok(()) => Some(ip),
        Err(why) => {
            report.add(
                place,
                Fault::Unusable {
                    key,
                    found: ip.to_string(),
                    why,
                },
            );
            None
        }
    }
}

/// An address that one host can have, and that can be meant outside of this one.
fn unicast(ip: IpAddr) -> Result<(), &'static str> {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() {
        Err("the unspecified address belongs to no host; give a real one")
    } else if ip.is_multicast() {
        Err("a multicast address belongs to no single host; give a unicast one")
    } else if broadcast {
        Err("the broadcast address belongs to no single host; give a unicast one")
    } else if ip.is_loopback() {
        Err("a loopback address leads nowhere beyond this host; give one that is reachable over an uplink")
    } else if is_mapped(ip) {
        Err("this is an IPv4 address in IPv6 clothes; write it as IPv4")
    } else {
        Ok(())
    }
}

/// An IPv4 address written as IPv6 (RFC 4291, section 2.5.5.2): one endpoint would have two names.
const fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn routable(ip: IpAddr) -> Result<(), &'static str> {
    unicast(ip)?;
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Err("a link-local IPv6 address means something on one link only; give a routable one")
        }
        _ => Ok(()),
    }
}

/// An uplink's own address.
pub(super) fn source(ip: IpAddr) -> Result<(), &'static str> {
    routable(ip)
}

/// The router of an uplink's link; link-local is what IPv6 routers go by.
pub(super) fn gateway(ip: IpAddr) -> Result<(), &'static str> {
    unicast(ip)
}

/// Where packets or probes go.
pub(super) fn destination(ip: IpAddr) -> Result<(), &'static str> {
    routable(ip)
}

/// `address:port` of a peer.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, &'static str> {
    let socket = socket(text)?;
    if socket.port() == 0 {
        return Err("has port 0; give the port at which the peer's WireGuard listens");
    }
    match destination(socket.ip()) {
        Ok(()) => Ok(socket),
        Err(_) if socket.ip().is_unspecified() => Err("has the unspecified address; give the peer's"),
        Err(_) if socket.ip().is_multicast() => Err("has a multicast address; WireGuard peers are unicast"),
        Err(_) if socket.ip().is_loopback() => Err("has a loopback address, which no uplink leads to; give the peer's"),
        Err(_) if is_mapped(socket.ip()) => {
            Err("has an IPv4 address in IPv6 clothes; write it as IPv4, such as \"198.51.100.1:51820\"")
        }
        Err(_) => Err("has no address that is routable and unicast; give the peer's"),
    }
}

/// `address:port` of our own; port 0 means any free one.
pub(super) fn listen(text: &str) -> Result<SocketAddr, &'static str> {
    let socket = socket(text)?;
    if socket.ip().is_multicast() {
        return Err("has a multicast address; give one of this host's, or 0.0.0.0 for all");
    }
    Ok(socket)
}

fn socket(text: &str) -> Result<SocketAddr, &'static str> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return match socket {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Err("has a scope; uplinks choose the link, remove the \"%…\""),
            _ => Ok(socket),
        };
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::Ipv4Addr>().is_ok() || (bare.len() < text.len() && bare.parse::<IpAddr>().is_ok()) {
        Err("has no port; write \"198.51.100.1:51820\" or \"[2001:db8::1]:51820\"")
    } else if !text.starts_with('[') && text.matches(':').count() > 1 {
        Err("needs brackets around its IPv6 address; write \"[2001:db8::1]:51820\"")
    } else if host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .is_ok()
    {
        Err("has a bad port; it must be a number from 1 to 65535")
    } else {
        Err("is not \"address:port\"; names are not resolved, write the address, such as \"198.51.100.1:51820\"")
    }
}
