//! Laws of tunnels, with wireguard-go at both ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use wireguard_control::{Key, KeyPair};

use super::super::anchor::{Anchor, remove};
use super::super::netlink::Netlink;
use super::super::view::View;
use super::super::wireguard::{Backend, Change, Error, read, refresh_endpoints, send_keepalives, update_in_userspace};
use super::{in_namespace, ip, ip_can, run, wait_for};

/// A wireguard-go, ended with this value.
struct WireGuard {
    process: Child,
    name: String,
    keys: KeyPair,
}

impl WireGuard {
    /// In the namespace `hub`, or here. UAPI sockets are shared by namespaces, so the name is made unique.
    async fn start(kind: &str, in_hub: bool, port: u16) -> Self {
        let name = format!("wgx{kind}{}", std::process::id());
        let (program, arguments) = match in_hub {
            true => ("ip", vec!["netns", "exec", "hub", "wireguard-go", "-f", &name]),
            false => ("wireguard-go", vec!["-f", &name]),
        };
        let complaints = File::create(format!("/run/{name}.log")).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(complaints);
        let process = command.spawn().expect("wireguard-go");
        let keys = KeyPair::generate();
        let mut this = Self { process, name, keys };
        let answers = || {
            let complaints = std::fs::read_to_string(format!("/run/{}.log", this.name)).unwrap();
            assert!(
                this.process.try_wait().unwrap().is_none(),
                "{} has ended: {complaints}",
                this.name
            );
            Command::new("wg")
                .args(["show", &this.name])
                .output()
                .unwrap()
                .status
                .success()
                .then_some(())
        };
        wait_for(&format!("wireguard-go as {}", this.name), answers).await;
        std::fs::write("/run/key", this.keys.private.to_base64()).unwrap();
        run(
            "wg",
            &[
                "set",
                &this.name,
                "private-key",
                "/run/key",
                "listen-port",
                &port.to_string(),
            ],
        );
        this
    }

    fn set_peer(&self, peer: &Key, words: &str) {
        let key = peer.to_base64();
        let mut arguments = vec!["set", &self.name, "peer", &key];
        arguments.extend(words.split_whitespace());
        run("wg", &arguments);
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Packets that left by a device.
fn sent(device: &str) -> u64 {
    let shown: serde_json::Value = serde_json::from_str(&ip(&format!("-j -s link show {device}"))).unwrap();
    shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

#[test]
fn a_tunnel_of_wireguard_go_is_read_as_wg_shows_it() {
    in_namespace(|| async {
        let tunnel = WireGuard::start("r", false, 51820).await;
        let [one, two] = [KeyPair::generate().public, KeyPair::generate().public];
        tunnel.set_peer(
            &one,
            "endpoint 198.51.100.1:51820 persistent-keepalive 25 allowed-ips 10.99.0.1/32",
        );
        tunnel.set_peer(&two, "allowed-ips 10.99.0.2/32,fd00:99::/64");
        run("wg", &["set", &tunnel.name, "fwmark", "0x1234"]);
        let seen = read(&tunnel.name).unwrap();
        assert_eq!(
            (seen.name.as_str(), seen.backend),
            (tunnel.name.as_str(), Backend::Userspace)
        );
        assert_eq!((seen.listen_port, seen.fwmark), (Some(51820), 0x1234));
        assert_eq!(seen.public_key, Some(tunnel.keys.public.clone()));
        assert_eq!(seen.peers.len(), 2);
        let find = |key: &Key| seen.peers.iter().find(|peer| peer.public_key == *key).unwrap();
        let expected: SocketAddr = "198.51.100.1:51820".parse().unwrap();
        assert_eq!(find(&one).endpoint, Some(expected));
        assert_eq!(find(&one).persistent_keepalive, Some(Duration::from_secs(25)));
        assert_eq!(find(&one).last_handshake, None);
        assert_eq!((find(&two).endpoint, find(&two).persistent_keepalive), (None, None));
        ip(&format!("link set {} up", tunnel.name));
        let view = View::read(&Netlink::connect().unwrap()).await.unwrap();
        assert!(
            view.get(&tunnel.name).unwrap().carrier,
            "a device in the state \"unknown\" that somebody has open"
        );
    });
}

#[test]
fn what_is_not_a_wireguard_interface_is_told_apart_from_what_is_not_there() {
    in_namespace(|| async {
        assert!(matches!(read("wgnone0"), Err(Error::NoSuchInterface { interface }) if interface == "wgnone0"));
        assert!(matches!(
            read("a name that is far too long"),
            Err(Error::InvalidName { .. })
        ));
        assert!(matches!(read(""), Err(Error::InvalidName { .. })));
        ip("link add up0 type veth peer name far0");
        let error = read("up0").unwrap_err();
        assert!(
            matches!(&error, Error::NotWireGuard { interface, kind } if interface == "up0" && kind.contains("veth"))
        );
        assert_eq!(
            error.to_string(),
            "up0 is not a WireGuard interface but of the kind \"veth\""
        );
        assert!(matches!(read("lo"), Err(Error::NotWireGuard { .. })));
        ip("tuntap add dev tun7 mode tun");
        assert!(matches!(read("tun7"), Err(Error::NotWireGuard { kind, .. }) if kind.contains("tun")));
        // A process that died left its socket, and somebody else made a tunnel of that name.
        std::fs::create_dir_all("/run/wireguard").unwrap();
        drop(UnixListener::bind("/run/wireguard/tun7.sock").unwrap());
        assert!(matches!(read("tun7"), Err(Error::NobodyThere { interface, .. }) if interface == "tun7"));
        // A socket of that name in another namespace is no interface here.
        drop(UnixListener::bind("/run/wireguard/wgnone0.sock").unwrap());
        assert!(matches!(read("wgnone0"), Err(Error::NoSuchInterface { .. })));
    });
}

#[test]
fn refreshing_never_creates_a_peer_nor_moves_one() {
    in_namespace(|| async {
        let tunnel = WireGuard::start("n", false, 51820).await;
        let peer = KeyPair::generate().public;
        let endpoint: SocketAddr = "198.51.100.1:51820".parse().unwrap();
        let refresh = |endpoint| refresh_endpoints(&tunnel.name, &[(peer.clone(), endpoint)]).unwrap();
        assert_eq!(refresh(endpoint), 0, "there is no such peer");
        assert!(read(&tunnel.name).unwrap().peers.is_empty());
        tunnel.set_peer(
            &peer,
            "endpoint 203.0.113.1:51820 allowed-ips 10.99.0.1/32 persistent-keepalive 25",
        );
        assert_eq!(refresh(endpoint), 0, "it has moved");
        let before = run("wg", &["showconf", &tunnel.name]);
        let now = "203.0.113.1:51820".parse().unwrap();
        assert_eq!(refresh(now), 1);
        assert_eq!(run("wg", &["showconf", &tunnel.name]), before);
        // Between looking and writing the peer was removed: the request itself says that it is to update only.
        tunnel.set_peer(&peer, "remove");
        update_in_userspace(&tunnel.name, &[(peer, vec![Change::Endpoint(endpoint)])]).unwrap();
        assert!(read(&tunnel.name).unwrap().peers.is_empty());
    });
}

#[test]
fn a_keepalive_is_sent_when_asked_for_and_whatever_interval_was_set_stays() {
    in_namespace(|| async {
        ip("link set lo up");
        let [here, far] = [
            WireGuard::start("k", false, 51820).await,
            WireGuard::start("l", false, 51821).await,
        ];
        here.set_peer(&far.keys.public, "endpoint 127.0.0.1:51821 allowed-ips 10.99.0.2/32");
        far.set_peer(&here.keys.public, "endpoint 127.0.0.1:51820 allowed-ips 10.99.0.1/32");
        for tunnel in [&here, &far] {
            ip(&format!("link set {} up", tunnel.name));
        }
        let ask = || send_keepalives(&here.name, std::slice::from_ref(&far.keys.public));
        let arrived = async |bytes: u64| {
            let received = || read(&far.name).unwrap().peers[0].rx_bytes;
            wait_for(&format!("{bytes} bytes"), || (received() == bytes).then_some(())).await;
        };
        assert_eq!(ask().unwrap(), 0, "without a session there is nobody to tell");
        arrived(0).await;
        // Turned on, the interval has WireGuard speak by itself.
        here.set_peer(&far.keys.public, "persistent-keepalive 3600");
        let (initiation, keepalive) = (148, 32);
        let mut heard = initiation + keepalive;
        arrived(heard).await;
        for interval in ["3600", "off"] {
            here.set_peer(&far.keys.public, &format!("persistent-keepalive {interval}"));
            let before = run("wg", &["showconf", &here.name]);
            assert_eq!(ask().unwrap(), 1);
            heard += keepalive;
            arrived(heard).await;
            assert_eq!(
                run("wg", &["showconf", &here.name]),
                before,
                "persistent-keepalive {interval}"
            );
        }
        here.set_peer(&far.keys.public, "remove");
        assert_eq!(ask().unwrap(), 0, "a peer that is gone");
        assert!(read(&here.name).unwrap().peers.is_empty(), "and stays so");
    });
}

/// ```text
///   here                                   hub
///   a0 10.1.0.2 ─────────────── b0 10.1.0.1      the uplink
///   wgxdp0 192.0.0.8 ───── wgxdp0p               in place of the programs: what enters the anchor arrives, and the other way round
///   tunnel 10.99.0.1                10.99.0.2    lo 198.51.100.1
/// ```
#[test]
fn wireguard_talks_through_the_anchor_once_its_endpoints_are_refreshed_and_without_it_again_afterwards() {
    in_namespace(|| async {
        ip("netns add hub");
        ip("link add a0 type veth peer name b0 netns hub");
        ip("address add 10.1.0.2/24 dev a0");
        ip("link set a0 up");
        for words in [
            "address add 10.1.0.1/24 dev b0",
            "link set b0 up",
            "link set lo up",
            "address add 198.51.100.1/32 dev lo",
        ] {
            ip(&format!("-n hub {words}"));
        }
        ip("route add default via 10.1.0.1 dev a0");
        for scope in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "1").unwrap();
        }
        let here = WireGuard::start("a", false, 51820).await;
        let hub = WireGuard::start("b", true, 51821).await;
        here.set_peer(&hub.keys.public, "endpoint 198.51.100.1:51821 allowed-ips 10.99.0.2/32");
        hub.set_peer(&here.keys.public, "endpoint 10.1.0.2:51820 allowed-ips 10.99.0.1/32");
        ip(&format!("address add 10.99.0.1/24 dev {}", here.name));
        ip(&format!("link set {} up", here.name));
        ip(&format!("-n hub address add 10.99.0.2/24 dev {}", hub.name));
        ip(&format!("-n hub link set {} up", hub.name));
        let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
        let received = || read(&here.name).unwrap().peers[0].rx_bytes;
        // The far end answers to a closed port with an ICMP error, through the tunnel.
        let talk = |what: &'static str| {
            let before = received();
            let socket = &socket;
            let attempt = move || {
                drop(socket.send_to(b"hello", "10.99.0.2:9"));
                (received() > before + 64).then_some(())
            };
            wait_for(what, attempt)
        };
        talk("the tunnel over the uplink").await;

        let netlink = Netlink::connect().unwrap();
        let mut anchor = Anchor::raise(&netlink).await.unwrap();
        if !ip_can("link show wgxdp0p") {
            eprintln!("SKIPPED the rest: the anchor is a dummy here, of which nothing comes out");
            return;
        }
        let mac = ip("-j link show wgxdp0").split("\"address\":\"").nth(1).unwrap()[..17].to_owned();
        ip("link set wgxdp0p netns hub");
        for words in ["address MAC", "mtu 1500", "up"] {
            ip(&format!("-n hub link set wgxdp0p {}", words.replace("MAC", &mac)));
        }
        ip("-n hub route add 192.0.0.8/32 dev wgxdp0p");
        anchor.engage(&BTreeSet::from([51820])).await.unwrap();

        // wireguard-go goes on talking from the address and device on which it heard its peer.
        let before = sent("wgxdp0");
        talk("the tunnel as before").await;
        assert_eq!(sent("wgxdp0"), before, "no refresh would be needed");
        let to_hub = [(hub.keys.public.clone(), "198.51.100.1:51821".parse().unwrap())];
        assert_eq!(refresh_endpoints(&here.name, &to_hub).unwrap(), 1);
        talk("the tunnel through the anchor, under strict reverse-path filtering").await;
        assert!(sent("wgxdp0") > before);
        let learned = || {
            run("wg", &["show", &hub.name, "endpoints"])
                .contains("192.0.0.8:51820")
                .then_some(())
        };
        wait_for("the hub to see the canonical address", learned).await;
        ip("link set a0 down");
        talk("the tunnel both ways through the anchor, with the uplink down").await;

        ip("link set a0 up");
        ip("route add default via 10.1.0.1 dev a0");
        // Without a refresh it is silent until it gives up on its peer, 15 s later, and starts anew.
        remove(&netlink).await.unwrap();
        assert_eq!(refresh_endpoints(&here.name, &to_hub).unwrap(), 1);
        talk("the tunnel over the uplink again").await;
    });
}
