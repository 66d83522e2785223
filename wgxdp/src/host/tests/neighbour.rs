//! Laws of managed neighbours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::anchor::remove;
use super::super::neighbour::{Managed, Neighbours, manage, release};
use super::super::netlink::Netlink;
use super::super::view::View;
use super::{in_namespace, ip, wait_for};

/// An uplink whose far end answers, in another namespace that ends with the thread's last process.
async fn uplink(netlink: &Netlink) -> u32 {
    ip("link add up0 type veth peer name far0");
    ip("address add 10.1.0.2/24 dev up0");
    ip("-6 address add 2001:db8:1::2/64 dev up0 nodad");
    ip("link set far0 up");
    ip("link set up0 up");
    View::read(netlink).await.unwrap().get("up0").unwrap().index
}

fn neighbours() -> String {
    ip("-d neighbour show dev up0")
}

#[test]
fn a_managed_neighbour_is_marked_as_ours_and_released_without_a_trace() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = uplink(&netlink).await;
        for hop in ["10.1.0.1", "2001:db8:1::1"] {
            let hop: IpAddr = hop.parse().unwrap();
            assert_eq!(manage(&netlink, index, hop).await.unwrap(), Managed::New);
            assert_eq!(manage(&netlink, index, hop).await.unwrap(), Managed::Already);
            let shown = neighbours();
            let line = shown
                .lines()
                .find(|line| line.starts_with(&hop.to_string()))
                .unwrap_or_else(|| panic!("{shown}"));
            assert!(line.contains("managed") && line.contains("proto 87"), "{line}");
            assert!(release(&netlink, index, hop).await.unwrap());
            wait_for("its removal", || {
                (!neighbours().contains(&hop.to_string())).then_some(())
            })
            .await;
            assert!(
                !release(&netlink, index, hop).await.unwrap(),
                "a second time there is nothing"
            );
        }
    });
}

#[test]
fn the_kernel_resolves_it_before_anything_is_sent() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = uplink(&netlink).await;
        // The far end in the same namespace, made to answer for itself.
        for (file, value) in [
            ("all/arp_ignore", "0"),
            ("far0/accept_local", "1"),
            ("up0/accept_local", "1"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{file}"), value).unwrap();
        }
        ip("address add 10.1.0.1/32 dev far0");
        ip("route delete local 10.1.0.2 table local");
        manage(&netlink, index, "10.1.0.1".parse().unwrap()).await.unwrap();
        wait_for("resolution", || neighbours().contains("lladdr").then_some(())).await;
    });
}

#[test]
fn after_the_kernel_has_forgotten_it_settling_installs_it_again() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = uplink(&netlink).await;
        let hop: IpAddr = "10.1.0.1".parse().unwrap();
        let wanted = BTreeSet::from([(index, hop)]);
        let mut kept = Neighbours::new(&netlink);
        assert_eq!(kept.settle(wanted.clone()).await.unwrap(), [(index, hop)]);
        assert_eq!(kept.settle(wanted.clone()).await.unwrap(), []);
        for (down, up) in [
            ("link set up0 down", "link set up0 up"),
            ("link set far0 down", "link set far0 up"),
        ] {
            ip(down);
            wait_for("the kernel to forget", || {
                (!neighbours().contains("managed")).then_some(())
            })
            .await;
            ip(up);
            assert_eq!(kept.settle(wanted.clone()).await.unwrap(), [(index, hop)]);
            assert!(neighbours().contains("managed"));
        }
        kept.settle(BTreeSet::new()).await.unwrap();
        assert!(!neighbours().contains("10.1.0.1"), "{}", neighbours());
    });
}

#[test]
fn a_device_that_is_gone_is_no_error() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = uplink(&netlink).await;
        let wanted = BTreeSet::from([(index, "10.1.0.1".parse().unwrap())]);
        let mut kept = Neighbours::new(&netlink);
        kept.settle(wanted.clone()).await.unwrap();
        ip("link delete up0");
        assert_eq!(kept.settle(wanted).await.unwrap(), []);
        assert_eq!(kept.settle(BTreeSet::new()).await.unwrap(), []);
    });
}

#[test]
fn others_static_and_managed_entries_are_left_alone() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        let index = uplink(&netlink).await;
        ip("neighbour add 10.1.0.1 lladdr 02:00:00:00:00:01 dev up0 nud permanent");
        ip("neighbour add 10.1.0.3 dev up0 managed");
        let before: Vec<String> = ["10.1.0.1", "10.1.0.3"].map(mine).into();
        for hop in ["10.1.0.1", "10.1.0.3"] {
            let hop = hop.parse().unwrap();
            assert_eq!(manage(&netlink, index, hop).await.unwrap(), Managed::LeftAlone);
            assert!(!release(&netlink, index, hop).await.unwrap());
        }
        assert_eq!(
            manage(&netlink, index, "10.1.0.4".parse().unwrap()).await.unwrap(),
            Managed::New
        );
        assert_eq!(remove(&netlink).await.unwrap().neighbours, 1);
        assert_eq!(Vec::from(["10.1.0.1", "10.1.0.3"].map(mine)), before);
        assert!(!neighbours().contains("10.1.0.4"));
    });
}

#[test]
fn an_entry_that_kept_our_mark_is_released_unless_somebody_made_it_permanent() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        uplink(&netlink).await;
        for (hop, state) in [("10.1.0.1", "reachable"), ("10.1.0.3", "permanent")] {
            ip(&format!(
                "neighbour add {hop} lladdr 02:00:00:00:00:01 dev up0 nud {state} protocol 87"
            ));
        }
        assert_eq!(remove(&netlink).await.unwrap().neighbours, 1);
        let shown = neighbours();
        assert!(!shown.contains("10.1.0.1") && shown.contains("10.1.0.3"), "{shown}");
    });
}

/// What is known of a neighbour, besides the state of its resolution.
fn mine(hop: &str) -> String {
    let line = ip(&format!("-d neighbour show {hop} dev up0"));
    line.replace("INCOMPLETE", "")
        .replace("FAILED", "")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
