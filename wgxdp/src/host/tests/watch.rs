//! Laws of the watch and of views.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use wgxdp_common::table::LinkKind;

use super::super::anchor::Anchor;
use super::super::link::Link;
use super::super::netlink::Netlink;
use super::super::view::View;
use super::super::watch::{Event, Watch};
use super::{in_namespace, ip, repaired, wait_for};

/// Every event up to and with the first that `wanted` accepts.
async fn events_until(watch: &mut Watch, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    let search = async {
        loop {
            let event = watch.next().await.unwrap();
            let found = wanted(&event);
            events.push(event);
            if found {
                break;
            }
        }
    };
    let found = tokio::time::timeout(super::PATIENCE, search).await.is_ok();
    assert!(found, "the event never came; there were {events:#?}");
    events
}

/// The first view that `wanted` accepts.
async fn view_until(watch: &mut Watch, wanted: impl Fn(&View) -> bool) -> View {
    let events = events_until(watch, |event| matches!(event, Event::View(view) if wanted(view))).await;
    match events.into_iter().next_back() {
        Some(Event::View(view)) => view,
        other => unreachable!("{other:?}"),
    }
}

async fn link_until(watch: &mut Watch, name: &str, wanted: impl Fn(&Link) -> bool) -> Link {
    let view = view_until(watch, |view| view.get(name).is_some_and(&wanted)).await;
    view.get(name).expect("just seen").clone()
}

async fn start() -> (Netlink, Watch, View) {
    let netlink = Netlink::connect().unwrap();
    let (watch, view) = Watch::start(&netlink).await.unwrap();
    (netlink, watch, view)
}

fn uplink() {
    ip("link add up0 type veth peer name far0");
    ip("link set far0 up");
    ip("link set up0 up");
}

#[test]
fn the_first_view_shows_what_was_there_before() {
    in_namespace(|| async {
        uplink();
        ip("address add 10.1.0.2/24 dev up0");
        ip("route add default via 10.1.0.1 dev up0");
        wait_for("carrier", || ip("link show up0").contains("state UP").then_some(())).await;
        let (_, _, view) = start().await;
        let link = view.get("up0").unwrap();
        assert!(link.admin_up && link.carrier);
        assert_eq!(link.kind, LinkKind::ETHERNET);
        assert_eq!(link.driver.as_deref(), Some("veth"));
        assert_eq!(link.mtu, 1500);
        assert!(link.mac.is_some());
        assert_eq!(link.v4, ["10.1.0.2".parse::<std::net::Ipv4Addr>().unwrap()]);
        assert_eq!(link.gateway4, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(link.gateway6, None);
        assert_eq!(view.by_index(link.index), Some(link));
        assert_eq!(view.get("far0").unwrap().gateway4, None);
    });
}

#[test]
fn loss_of_carrier_and_its_return_are_told_at_once_and_seen_in_the_next_view() {
    in_namespace(|| async {
        uplink();
        let (_, mut watch, view) = start().await;
        let index = view.get("up0").unwrap().index;
        if !view.get("up0").unwrap().carrier {
            link_until(&mut watch, "up0", |link| link.carrier).await;
        }
        ip("link set far0 down");
        let lost = Event::LinkChanged {
            index,
            name: "up0".into(),
            admin_up: true,
            carrier: false,
        };
        let told = events_until(&mut watch, |event| *event == lost).await;
        let early = |event: &Event| matches!(event, Event::View(view) if !view.get("up0").unwrap().carrier);
        assert!(
            !told.iter().any(early),
            "the change comes before the view that shows it: {told:#?}"
        );
        link_until(&mut watch, "up0", |link| link.admin_up && !link.carrier).await;
        ip("link set far0 up");
        let back = Event::LinkChanged {
            index,
            name: "up0".into(),
            admin_up: true,
            carrier: true,
        };
        events_until(&mut watch, |event| *event == back).await;
        link_until(&mut watch, "up0", |link| link.carrier).await;
    });
}

#[test]
fn a_view_never_contradicts_the_latest_change_of_a_link() {
    in_namespace(|| async {
        uplink();
        let (_, mut watch, view) = start().await;
        let index = view.get("up0").unwrap().index;
        for _ in 0..30 {
            ip("link set up0 down");
            ip("link set up0 up");
        }
        ip("link set up0 alias last");
        let last = |event: &Event| matches!(event, Event::View(view) if view.by_index(index).unwrap().alias.is_some());
        let mut state = None;
        for event in events_until(&mut watch, last).await {
            match event {
                Event::LinkChanged {
                    index: of,
                    admin_up,
                    carrier,
                    ..
                } if of == index => state = Some((admin_up, carrier)),
                Event::View(view) => {
                    let link = view.by_index(index).unwrap();
                    let seen = state.get_or_insert((link.admin_up, link.carrier));
                    assert_eq!(*seen, (link.admin_up, link.carrier));
                }
                _ => {}
            }
        }
    });
}

#[test]
fn down_delete_create_and_rename_show_up() {
    in_namespace(|| async {
        uplink();
        let (_, mut watch, view) = start().await;
        let index = view.get("up0").unwrap().index;
        ip("link set up0 down");
        let down = |event: &Event| matches!(event, Event::LinkChanged { index: of, admin_up: false, carrier: false, .. } if *of == index);
        events_until(&mut watch, down).await;
        link_until(&mut watch, "up0", |link| !link.admin_up).await;
        ip("link set up0 name wan0");
        let renamed = |event: &Event| matches!(event, Event::LinkChanged { index: of, name, .. } if *of == index && name == "wan0");
        events_until(&mut watch, renamed).await;
        let view = view_until(&mut watch, |view| view.get("wan0").is_some()).await;
        assert_eq!((view.get("wan0").unwrap().index, view.get("up0")), (index, None));
        ip("link delete wan0");
        events_until(&mut watch, |event| {
            *event
                == Event::LinkGone {
                    index,
                    name: "wan0".into(),
                }
        })
        .await;
        view_until(&mut watch, |view| view.get("wan0").is_none()).await;
        ip("link add wan0 type veth peer name far0");
        let created = |event: &Event| matches!(event, Event::LinkChanged { index: of, name, .. } if *of != index && name == "wan0");
        events_until(&mut watch, created).await;
        assert_ne!(link_until(&mut watch, "wan0", |_| true).await.index, index);
    });
}

#[test]
fn changes_of_address_and_gateway_show_up() {
    in_namespace(|| async {
        uplink();
        let (_, mut watch, _) = start().await;
        ip("address add 10.1.0.2/24 dev up0");
        link_until(&mut watch, "up0", |link| {
            link.v4 == ["10.1.0.2".parse::<std::net::Ipv4Addr>().unwrap()]
        })
        .await;
        ip("route add default via 10.1.0.1 dev up0");
        link_until(&mut watch, "up0", |link| {
            link.gateway4 == Some("10.1.0.1".parse().unwrap())
        })
        .await;
        ip("route replace default via 10.1.0.3 dev up0 src 10.1.0.2");
        link_until(&mut watch, "up0", |link| {
            link.gateway4 == Some("10.1.0.3".parse().unwrap())
        })
        .await;
        ip("address add 10.2.0.2/24 dev up0");
        ip("address delete 10.1.0.2/24 dev up0");
        let link = link_until(&mut watch, "up0", |link| {
            link.v4 == ["10.2.0.2".parse::<std::net::Ipv4Addr>().unwrap()]
        });
        assert_eq!(
            link.await.gateway4,
            None,
            "the kernel removes the route with the address, and says nothing of it"
        );
    });
}

#[test]
fn the_best_address_comes_first() {
    in_namespace(|| async {
        uplink();
        ip("address add 169.254.7.7/16 dev up0 scope link");
        ip("address add 10.1.0.2/24 dev up0");
        ip("address add 10.1.0.3/24 dev up0");
        ip("address add 10.9.0.1/32 dev up0 scope host");
        ip("-6 address add fd00::2/64 dev up0 nodad");
        ip("-6 address add 2001:db8:1::9/64 dev up0 nodad preferred_lft 0");
        ip("-6 address add 2001:db8:1::2/64 dev up0 nodad");
        let (_, _, view) = start().await;
        let link = view.get("up0").unwrap();
        let v4: Vec<String> = link.v4.iter().map(ToString::to_string).collect();
        assert_eq!(v4, ["10.1.0.2", "10.1.0.3", "169.254.7.7"]);
        let v6: Vec<String> = link.v6.iter().map(ToString::to_string).collect();
        assert_eq!(v6, ["2001:db8:1::2", "fd00::2", "2001:db8:1::9"]);
    });
}

#[test]
fn an_address_that_has_not_passed_duplicate_detection_is_not_used_until_it_has() {
    in_namespace(|| async {
        uplink();
        let (_, mut watch, _) = start().await;
        let v6: Ipv6Addr = "2001:db8:1::5".parse().unwrap();
        ip("-6 address add 2001:db8:1::5/64 dev up0");
        if ip("-6 address show dev up0 tentative").contains("2001:db8:1::5") {
            let (_, _, now) = start().await;
            assert!(
                !now.get("up0").unwrap().v6.contains(&v6) || !ip("-6 address show dev up0 tentative").contains("::5")
            );
        }
        link_until(&mut watch, "up0", |link| link.v6.contains(&v6)).await;
    });
}

#[test]
fn the_gateway_is_that_of_the_best_default_route_in_any_table_but_ours() {
    in_namespace(|| async {
        uplink();
        ip("link add up1 type veth peer name far1");
        ip("link set far1 up");
        ip("link set up1 up");
        ip("address add 10.1.0.2/24 dev up0");
        ip("address add 10.3.0.2/24 dev up1");
        ip("-6 address add 2001:db8:1::2/64 dev up0 nodad");
        ip("route add default via 10.1.0.9 dev up0 metric 300");
        ip("route add default via 10.1.0.1 dev up0 metric 100 table 1234");
        ip("route add default via 10.1.0.8 dev up0 table 5747");
        ip("route add 198.51.100.0/24 via 10.1.0.7 dev up0");
        ip("route add unreachable default metric 1");
        ip("-6 route add default via fe80::1 dev up0");
        let (_, mut watch, view) = start().await;
        let link = view.get("up0").unwrap();
        assert_eq!(link.gateway4, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(link.gateway6, Some("fe80::1".parse().unwrap()));
        assert_eq!(view.get("up1").unwrap().gateway4, None);
        ip("route add default metric 50 nexthop via 10.1.0.4 dev up0 nexthop via 10.3.0.4 dev up1");
        let both = |view: &View| {
            let gateway = |name| view.get(name).and_then(|link: &Link| link.gateway4);
            gateway("up0") == Some("10.1.0.4".parse().unwrap()) && gateway("up1") == Some("10.3.0.4".parse().unwrap())
        };
        view_until(&mut watch, both).await;
    });
}

#[test]
fn a_tunnel_without_a_link_layer_is_up_when_it_is_attached() {
    in_namespace(|| async {
        ip("tuntap add dev tun7 mode tun");
        ip("link set tun7 up");
        let (_, _, view) = start().await;
        let link = view.get("tun7").unwrap();
        assert_eq!(
            (link.kind, link.mac, link.driver.as_deref()),
            (LinkKind::IP, None, Some("tun"))
        );
        assert!(link.admin_up && !link.carrier, "nobody has it open");
        assert_eq!(link.carrier, ip("link show tun7").contains("LOWER_UP"));
    });
}

#[test]
fn whoever_touches_rules_routes_or_anchor_is_noticed_but_we_ourselves_are_not() {
    in_namespace(|| async {
        let (netlink, mut watch, _) = start().await;
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        anchor.engage(&BTreeSet::from([51820])).await.unwrap();
        let marker = |name: &str| {
            ip(&format!("link add {name} type veth peer name {name}p"));
            let name = name.to_owned();
            move |event: &Event| matches!(event, Event::View(view) if view.get(&name).is_some_and(|_| true))
        };
        // Raising is noticed, as the device is not yet whole when it appears; the end of that:
        let raised = marker("mark0");
        events_until(&mut watch, raised).await;
        assert_eq!(repaired(&mut anchor).await, Vec::<String>::new());
        anchor.engage(&BTreeSet::from([51821])).await.unwrap();
        let changed = marker("mark1");
        let ours = events_until(&mut watch, changed).await;
        assert!(!ours.contains(&Event::OursTouched), "{ours:#?}");
        let harms = [
            "rule delete pref 870",
            "-6 rule delete pref 871",
            "route flush table 5747",
            "link set wgxdp0 down",
            "link delete wgxdp0",
        ];
        for harm in harms {
            ip(harm);
            events_until(&mut watch, |event| *event == Event::OursTouched).await;
            assert_ne!(repaired(&mut anchor).await, Vec::<String>::new(), "{harm}");
            let name = format!("m{}", anchor.index());
            let repaired = marker(&name);
            events_until(&mut watch, repaired).await;
            ip(&format!("link delete {name}"));
        }
    });
}

#[test]
fn a_storm_that_overruns_the_socket_ends_in_the_right_view() {
    in_namespace(|| async {
        uplink();
        let (_, mut watch, _) = start().await;
        // Nobody reads the events meanwhile: the queue fills, then the socket.
        let storm: String = (0..12_000).map(|i| format!("link set up0 alias storm{i}\n")).collect();
        std::fs::write("/run/storm", storm + "address add 10.5.5.5/24 dev up0\n").unwrap();
        ip("-batch /run/storm");
        let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
        let drops = sockets
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
        assert_ne!(drops.sum::<u64>(), 0, "the storm is too weak: {sockets}");
        let events = events_until(
            &mut watch,
            |event| matches!(event, Event::View(view) if view.get("up0").is_some_and(|link| !link.v4.is_empty())),
        );
        let last = events.await.pop();
        let Some(Event::View(view)) = last else {
            panic!("{last:?}")
        };
        assert_eq!(view.get("up0").unwrap().alias.as_deref(), Some("storm11999"));
    });
}
