//! The words that operators read.

use super::*;

fn tightest(family: Family, mtu: u32) -> Tightest {
    Tightest {
        uplink: "isp-a".into(),
        family,
        mtu,
    }
}

#[test]
fn each_advice_names_the_number_and_what_to_do() {
    let too_large = |path, v6| Advice::TooLarge {
        tunnel: "wg0".into(),
        mtu: 1420,
        path,
        v6,
        auto: false,
    };
    let rows = [
        (
            too_large(tightest(Family::V4, 1472), false),
            "wg0: MTU 1420 is too large for isp-a, which takes 1472 bytes of IPv4, 60 of them for the outer headers: full packets are fragmented or \
             lost there; run `ip link set wg0 mtu 1412`, or write mtu = \"auto\" under [[tunnel]]",
        ),
        (
            too_large(tightest(Family::V6, 1492), true),
            "wg0: MTU 1420 is too large for isp-a, which takes 1492 bytes of IPv6, 80 of them for the outer headers: full packets are fragmented or \
             lost there; run `ip link set wg0 mtu 1412`, or write mtu = \"auto\" under [[tunnel]]",
        ),
        (
            too_large(tightest(Family::V4, 1300), true),
            "wg0: MTU 1420 is too large for isp-a, which takes 1300 bytes of IPv4, 60 of them for the outer headers; 1240 would fit, but wg0 carries \
             IPv6, which needs 1280 (RFC 8200, section 5): raise the MTU of isp-a to 1340, or leave that uplink out",
        ),
        (
            Advice::TunnelBelowIpv6 {
                tunnel: "wg0".into(),
                mtu: 1240,
            },
            "wg0: MTU 1240 is below 1280, the least that IPv6 needs (RFC 8200, section 5), but IPv6 is among its allowed IPs; run `ip link set wg0 mtu \
             1280`, or allow IPv4 alone",
        ),
        (
            Advice::UplinkBelowIpv6 {
                uplink: "isp-a".into(),
                interface: "eth0".into(),
                mtu: 1200,
            },
            "uplink isp-a: MTU 1200 is below 1280, the least that IPv6 needs (RFC 8200, section 5), but there are IPv6 endpoints, which it cannot reach \
             so; raise it: `ip link set eth0 mtu 1280`, the route's mtu, or the uplink's mtu in the configuration",
        ),
    ];
    for (advice, words) in rows {
        assert_eq!(advice.to_string(), words);
    }
}
