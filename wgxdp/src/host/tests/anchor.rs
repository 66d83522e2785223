//! Laws of the anchor.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use super::super::Error;
use super::super::anchor::{Anchor, NAME, PEER_NAME, Removed, remove};
use super::super::netlink::Netlink;
use super::{assert_unchanged, everything, in_namespace, ip, ip_can, repaired, wait_for};

fn ports(ports: &[u16]) -> BTreeSet<u16> {
    ports.iter().copied().collect()
}

/// An uplink with addresses and default routes, so that there is something to leave alone.
fn uplink() {
    ip("link add up0 type veth peer name far0");
    ip("link set up0 addrgenmode none");
    ip("link set far0 addrgenmode none");
    ip("address add 10.1.0.2/24 dev up0");
    ip("-6 address add 2001:db8:1::2/64 dev up0 nodad");
    ip("link set far0 up");
    ip("link set up0 up");
    ip("route add default via 10.1.0.1 dev up0");
    ip("-6 route add default via 2001:db8:1::1 dev up0");
}

/// Everything, once the kernel has done what it does a little after the fact: carrier to operational state, IPv6 to routes.
async fn settled() -> String {
    let quiet = || {
        let all = everything();
        let has = |words: String| all.contains(&words);
        let links = ["far0", "up0", "wgxdp0", "wgxdp0p"]
            .into_iter()
            .filter(|name| has(format!(" {name}@")));
        let links_settled = links.into_iter().all(|name| {
            let states: Vec<_> = all.lines().filter(|line| line.contains(&format!(" {name}@"))).collect();
            let routed = name == PEER_NAME || has(format!("multicast ff00::/8 dev {name} "));
            routed && states.iter().all(|line| line.contains("state UP"))
        });
        let addresses = ip("-6 -o address show");
        let mut addresses = addresses
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
        (links_settled && addresses.all(|address| has(format!("local {address} dev")))).then_some(all)
    };
    wait_for("the kernel to settle", quiet).await
}

#[test]
fn engaging_disengaging_and_removing_leaves_everything_as_it_was() {
    in_namespace(|| async {
        uplink();
        let before = settled().await;
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        let raised = settled().await;
        anchor.engage(&ports(&[51820, 51821])).await.unwrap();
        assert_ne!(everything(), raised);
        anchor.disengage().await.unwrap();
        assert_unchanged(&raised);
        anchor.engage(&ports(&[51820])).await.unwrap();
        let removed = remove(&netlink).await.unwrap();
        assert_eq!((removed.rules, removed.routes), (6, 2));
        assert_eq!(removed.devices, [NAME]);
        assert_unchanged(&before);
        assert_eq!(
            remove(&netlink).await.unwrap(),
            Removed::default(),
            "a second time there is nothing"
        );
    });
}

#[test]
fn the_device_is_up_without_arp_large_and_has_just_its_two_addresses() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let anchor = Anchor::raise(&netlink).await.unwrap();
        let link = ip("link show wgxdp0");
        for word in ["NOARP", "UP", "LOWER_UP", "mtu 65535", "alias wgxdp anchor"] {
            assert!(link.contains(word), "{word} in {link}");
        }
        let [a, b, c, d, e, f] = anchor.mac();
        assert!(
            link.contains(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")),
            "{link}"
        );
        assert!(link.starts_with(&format!("{}: ", anchor.index())), "{link}");
        assert_eq!(anchor.mtu(), 65535);
        let addresses: Vec<String> = ip("-o address show dev wgxdp0")
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3).map(String::from))
            .collect();
        assert_eq!(addresses, ["192.0.0.8/32", "fd5e:9a1c:7d42::8/128"]);
        assert!(anchor.has_v6());
        if ip_can("link show wgxdp0p") {
            assert_eq!(
                ip("-o address show dev wgxdp0p"),
                "",
                "the far end has no address, not even link-local"
            );
        }
    });
}

#[test]
fn raising_twice_adopts_the_device_and_changes_nothing() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let first = Anchor::raise(&netlink).await.unwrap();
        let raised = settled().await;
        let second = Anchor::raise(&netlink).await.unwrap();
        assert_eq!((first.index(), first.mac()), (second.index(), second.mac()));
        assert_unchanged(&raised);
    });
}

#[test]
fn a_device_whose_creation_was_interrupted_before_it_got_its_alias_is_adopted() {
    in_namespace(|| async {
        ip("link add wgxdp0 address 02:57:47:58:44:50 type veth peer name wgxdp0p address 02:57:47:58:44:70");
        let index = ip("-o link show wgxdp0");
        let netlink = Netlink::connect().unwrap();
        let anchor = Anchor::raise(&netlink).await.unwrap();
        assert!(index.starts_with(&format!("{}: ", anchor.index())));
        assert!(ip("link show wgxdp0").contains("alias wgxdp anchor"));
    });
}

#[test]
fn a_foreign_device_of_either_name_is_refused_and_left_untouched() {
    for name in [NAME, PEER_NAME] {
        in_namespace(move || async move {
            ip(&format!("link add {name} type veth peer name other"));
            let before = everything();
            let netlink = Netlink::connect().unwrap();
            match Anchor::raise(&netlink).await {
                Err(Error::ForeignDevice { name: refused, driver }) => {
                    assert_eq!((refused.as_str(), driver.as_str()), (name, "veth"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(remove(&netlink).await.unwrap(), Removed::default());
            assert_unchanged(&before);
        });
    }
}

#[test]
fn removing_leaves_foreign_rules_and_routes_in_our_table_and_ours_in_number_only() {
    in_namespace(|| async {
        uplink();
        // Our table, another protocol; our protocol, another table; our preference, neither.
        ip("rule add pref 870 fwmark 0x57000000/0xff000000 lookup 5747 protocol 99");
        ip("rule add pref 500 from 10.9.9.9 lookup 5748 protocol 87");
        ip("rule add pref 872 from 10.8.8.8 lookup 5749");
        ip("route add 203.0.113.0/24 via 10.1.0.1 table 5747 protocol 99");
        ip("route add 203.0.113.0/24 via 10.1.0.1 table 5748 protocol 87");
        let before = settled().await;
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820])).await.unwrap();
        assert_eq!(remove(&netlink).await.unwrap().rules, 6);
        assert_unchanged(&before);
    });
}

#[test]
fn a_foreign_default_route_in_our_table_is_refused_and_not_replaced() {
    in_namespace(|| async {
        uplink();
        ip("route add default via 10.1.0.1 table 5747");
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        assert!(matches!(
            anchor.engage(&ports(&[51820])).await,
            Err(Error::ForeignRoute)
        ));
        assert_eq!(ip("route show table 5747").trim(), "default via 10.1.0.1 dev up0");
    });
}

#[test]
fn engaging_again_adds_new_ports_and_removes_gone_ones_and_nothing_twice() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        for wanted in [&[51820][..], &[51820, 51821], &[51821], &[51821], &[]] {
            anchor.engage(&ports(wanted)).await.unwrap();
            for family in ["", "-6 "] {
                let rules = ip(&format!("{family}rule show pref 872"));
                assert_eq!(rules.lines().count(), wanted.len(), "{rules}");
                for port in wanted {
                    assert!(
                        rules.contains(&format!("iif lo ipproto udp sport {port} lookup 5747 proto 87")),
                        "{rules}"
                    );
                }
                assert_eq!(ip(&format!("{family}route show table 5747")).lines().count(), 1);
            }
        }
        assert_eq!(
            ip("rule show pref 870").trim(),
            "870:\tfrom all fwmark 0x57000000/0xff000000 lookup 5747 proto 87"
        );
        assert_eq!(
            ip("rule show pref 871").trim(),
            "871:\tfrom 192.0.0.8 lookup 5747 proto 87"
        );
        assert_eq!(
            ip("-6 rule show pref 871").trim(),
            "871:\tfrom fd5e:9a1c:7d42::8 lookup 5747 proto 87"
        );
    });
}

#[test]
fn what_leaves_from_a_tunnels_port_goes_to_the_anchor_and_what_is_forwarded_does_not() {
    in_namespace(|| async {
        uplink();
        ip("link add lan0 type veth peer name lan1");
        ip("address add 10.2.0.1/24 dev lan0");
        ip("link set lan0 up");
        ip("link set lan1 up");
        ip("neighbour add 10.1.0.1 lladdr 02:00:00:00:00:01 dev up0");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820])).await.unwrap();
        let local = ip("route get 198.51.100.1 ipproto udp sport 51820 dport 1");
        assert!(
            local.contains("dev wgxdp0") && local.contains("src 192.0.0.8"),
            "{local}"
        );
        let six = ip("-6 route get 2001:db8:ffff::1 ipproto udp sport 51820 dport 1");
        assert!(
            six.contains("dev wgxdp0") && six.contains("src fd5e:9a1c:7d42::8"),
            "{six}"
        );
        let forwarded = "route get 198.51.100.1 from 10.2.0.9 iif lan0 ipproto udp sport 51820 dport 1";
        assert!(ip(forwarded).contains("dev up0"), "{}", ip(forwarded));
        for other in ["ipproto udp sport 51821 dport 1", "ipproto tcp sport 51820 dport 1"] {
            assert!(
                ip(&format!("route get 198.51.100.1 {other}")).contains("dev up0"),
                "{other}"
            );
        }
        let probe = ip("route get 198.51.100.1 mark 0x57000123");
        assert!(
            probe.contains("dev wgxdp0") && probe.contains("src 192.0.0.8"),
            "{probe}"
        );
        // And a socket, which is what all of it is for.
        let socket = UdpSocket::bind("0.0.0.0:51820").unwrap();
        socket.connect("198.51.100.1:51820").unwrap();
        assert_eq!(socket.local_addr().unwrap().to_string(), "192.0.0.8:51820");
        let socket = UdpSocket::bind("[::]:51820")
            .or_else(|_| UdpSocket::bind("[::1]:0"))
            .unwrap();
        drop(socket);
    });
}

/// Destinations of each family, three times as many as the kernel's table of neighbours takes.
const DESTINATIONS: u16 = 3000;

/// Neighbours of each family on `device`.
fn neighbours(device: &str) -> [usize; 2] {
    ["-4", "-6"].map(|family| {
        ip(&format!("{family} neighbour show nud all dev {device}"))
            .lines()
            .count()
    })
}

/// Sends from a tunnel's port to many destinations of both families; says how many datagrams the kernel took.
fn send_to_many() -> usize {
    let v4 = UdpSocket::bind("0.0.0.0:51820").unwrap();
    let v6 = UdpSocket::bind("[::]:51821").unwrap();
    let to_v4 = |n: u16| {
        let [high, low] = n.to_be_bytes();
        v4.send_to(b"x", (Ipv4Addr::new(198, 18, high, low), 9))
    };
    let to_v6 = |n: u16| v6.send_to(b"x", (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n), 9));
    let sent = (1..=DESTINATIONS).flat_map(|n| [to_v4(n), to_v6(n)]);
    sent.filter(Result::is_ok).count()
}

/// Packets that left by `device`.
fn left_by(device: &str) -> usize {
    // Eight columns of what was received, then bytes and packets that were sent (net/core/net-procfs.c).
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{device}:")));
    line.unwrap().split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// A setting of the anchor's own (Documentation/networking/ip-sysctl.rst).
fn setting(name: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/conf/{NAME}/{name}");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn the_kernel_need_not_look_back_for_what_is_handed_to_it_on_the_anchor() {
    in_namespace(|| async {
        std::fs::write("/proc/sys/net/ipv4/conf/default/rp_filter", "1").unwrap();
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        let settings = || ["rp_filter", "accept_local"].map(setting);
        assert_eq!(settings(), ["0", "1"]);
        // As a system's own rules for new devices do.
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{NAME}/rp_filter"), "2").unwrap();
        repaired(&mut anchor).await;
        assert_eq!(settings(), ["0", "1"]);
    });
}

#[test]
fn thousands_of_destinations_are_one_neighbour_of_each_family_on_the_anchor() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820, 51821])).await.unwrap();
        let before = left_by(NAME);
        assert_eq!(send_to_many(), 2 * usize::from(DESTINATIONS));
        assert_eq!(left_by(NAME) - before, 2 * usize::from(DESTINATIONS));
        // The kernel's table is one for all namespaces: whoever fills it elsewhere may have had ours collected.
        assert!(
            neighbours(NAME).iter().all(|count| *count <= 1),
            "{:?}",
            neighbours(NAME)
        );
    });
}

#[test]
fn a_default_route_without_a_next_hop_makes_a_neighbour_of_every_destination() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let _anchor = Anchor::raise(&netlink).await.unwrap();
        ip("route add default dev wgxdp0");
        ip("-6 route add default dev wgxdp0");
        send_to_many();
        assert!(
            neighbours(NAME).iter().all(|count| *count > 500),
            "{:?}",
            neighbours(NAME)
        );
    });
}

#[test]
fn routes_of_ours_from_before_the_next_hop_are_replaced() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        ip("route add default dev wgxdp0 src 192.0.0.8 table 5747 protocol 87");
        ip("-6 route add default dev wgxdp0 src fd5e:9a1c:7d42::8 table 5747 protocol 87");
        anchor.engage(&ports(&[51820])).await.unwrap();
        for (family, next_hop) in [("-4", "169.254.87.8"), ("-6", "fe80::8")] {
            let routes = ip(&format!("{family} route show table 5747"));
            assert_eq!(routes.lines().count(), 1, "{routes}");
            assert!(
                routes.starts_with(&format!("default via {next_hop} dev wgxdp0")) && routes.contains("onlink"),
                "{routes}"
            );
        }
        assert_eq!(repaired(&mut anchor).await, Vec::<String>::new());
    });
}

#[test]
fn other_sockets_do_not_pick_the_anchors_addresses() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        // An uplink without an address of its own borrows one from the host, as unnumbered links do.
        ip("link add up0 type veth peer name far0");
        ip("link set up0 up");
        ip("link set far0 up");
        ip("route add default dev up0");
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820])).await.unwrap();
        let borrowed = ip("route get 198.51.100.1");
        assert!(!borrowed.contains("192.0.0.8"), "{borrowed}");
        ip("-6 address add 2001:db8:7::2/128 dev lo nodad");
        ip("-6 route add default dev up0");
        let borrowed = ip("-6 route get 2001:db8:ffff::1");
        assert!(borrowed.contains("src 2001:db8:7::2"), "{borrowed}");
    });
}

#[test]
fn repair_adds_exactly_what_is_missing_and_says_so() {
    in_namespace(|| async {
        uplink();
        settled().await;
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820])).await.unwrap();
        assert_eq!(repaired(&mut anchor).await, Vec::<String>::new(), "nothing was missing");
        let whole = settled().await;
        let harms = [
            ("rule delete pref 872", "ip rule ipproto udp sport 51820"),
            ("-6 rule delete pref 871", "ip -6 rule from fd5e:9a1c:7d42::8"),
            ("route flush table 5747", "ip route default src 192.0.0.8 table 5747"),
            (
                "-6 route flush table 5747",
                "ip -6 route default src fd5e:9a1c:7d42::8 table 5747",
            ),
            ("address delete 192.0.0.8/32 dev wgxdp0", "address 192.0.0.8"),
            ("link set wgxdp0 down", "wgxdp0 up"),
            ("link set wgxdp0 arp on", "arp off on wgxdp0"),
            ("link set wgxdp0 mtu 1500", "MTU of wgxdp0"),
        ];
        for (harm, missing) in harms {
            ip(harm);
            let found = repaired(&mut anchor).await;
            assert!(found.contains(&missing.to_owned()), "after {harm}: {found:?}");
            wait_for(harm, || (everything() == whole).then_some(())).await;
            assert_eq!(
                repaired(&mut anchor).await,
                Vec::<String>::new(),
                "after {harm} and repair"
            );
        }
    });
}

#[test]
fn repair_raises_a_deleted_or_renamed_device_again() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820])).await.unwrap();
        let harms: [&[&str]; 2] = [
            &["link delete wgxdp0"],
            &["link set wgxdp0 down", "link set wgxdp0 name stray"],
        ];
        for harm in harms {
            let before = anchor.index();
            harm.iter().for_each(|step| drop(ip(step)));
            let found = repaired(&mut anchor).await;
            assert!(found.iter().any(|what| what.starts_with("device wgxdp0")), "{found:?}");
            assert_ne!(anchor.index(), before);
            let link = ip("-o link show wgxdp0");
            assert!(link.starts_with(&format!("{}: ", anchor.index())), "{link}");
            let local = ip("route get 198.51.100.1 ipproto udp sport 51820 dport 1");
            assert!(local.contains("dev wgxdp0"), "{local}");
            assert!(!ip_can("link show stray"), "nothing is left behind");
        }
        if ip_can("link show wgxdp0p") {
            ip("link set wgxdp0p down");
            assert_eq!(repaired(&mut anchor).await, ["wgxdp0p up"]);
        }
    });
}

#[test]
fn where_ipv6_is_off_the_anchor_does_without() {
    in_namespace(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let before = everything();
        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&ports(&[51820])).await.unwrap();
        assert_eq!((anchor.has_v6(), anchor.v6()), (false, None));
        assert_eq!(ip("rule show").matches("proto 87").count(), 3);
        assert_eq!(ip("-6 rule show").matches("proto 87").count(), 0);
        assert_eq!(repaired(&mut anchor).await, Vec::<String>::new());
        remove(&netlink).await.unwrap();
        assert_unchanged(&before);
    });
}

#[test]
fn what_was_removed_is_said_in_words() {
    assert_eq!(Removed::default().to_string(), "nothing");
    let removed = Removed {
        rules: 6,
        routes: 2,
        neighbours: 0,
        devices: vec![NAME.into()],
    };
    assert_eq!(removed.to_string(), "6 rules, 2 routes, device wgxdp0");
}
