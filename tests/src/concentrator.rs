//! The other topology: a hub with two uplinks that learns its clients.
//!
//! ```text
//!  10.10.0.2     client-0 ───────┐              ┌───────┐      192.0.2.0/24
//!                                │          ┌───┤ isp-a ├────────────────── isp-a ┌─────┐
//!  10.10.1.2     client-1 ───────┤          │   └───────┘ .1             .10, .11 │     │ lo: 203.0.113.1
//!                                ├ internet ┤                                     │ hub │
//!  192.168.57.2  client-2 ─ NAT ─┤          │   ┌───────┐ .1             .10, .11 │     │ wg0: 10.57.0.1
//!   as 10.10.2.2                 │          └───┤ isp-b ├────────────────── isp-b └─────┘
//!  10.10.99.2    attacker ───────┘              └───────┘    198.51.100.0/24
//!                                   10.1.0.0/24, 10.2.0.0/24
//! ```
//!
//! wgxdp runs in the hub, where WireGuard knows three peers and none of their endpoints. Each client chooses the address of the hub that it speaks to: one
//! of an uplink's two, or the one of no uplink, to which the internet leads by one provider or the other. The providers drop what the hub sends from an
//! address that is not theirs to route (RFC 2827); the internet lets everything pass, and the attacker sends whatever it likes in anybody's name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use crate::access::{Access, Kind};
use crate::capture::{Capture, Mark, Seen};
use crate::daemon::uplinks_toml;
use crate::frame::Frame;
use crate::host::Host;
use crate::nat::Nat;
use crate::topology::{FORWARD, Family, QUIET, STRICT, Uplink};
use crate::traffic::Duplex;
use crate::traffic::answer::{Responder, ask};
use crate::traffic::udp::{Load, Stream};
use crate::wire::Wire;
use crate::wireguard::{INTERFACE, Keys, LISTEN_PORT, Peer, Setup, WireGuard};

/// How many clients there are; the last one is behind a NAT.
pub const CLIENTS: usize = 3;
/// The one behind a NAT.
pub const BEHIND_NAT: usize = 2;

/// The hub's address inside the tunnel.
const HUB_INNER: Ipv4Addr = Ipv4Addr::new(10, 57, 0, 1);
/// The hub's address of no uplink.
const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// A router's device towards the internet, and a client's.
const INTERNET: &str = "internet";
/// Octets of an Ethernet header, which raw sockets do without.
const ETHERNET: usize = 14;

/// One of the hub's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// An uplink's own.
    Primary(Uplink),
    /// An uplink's second one.
    Secondary(Uplink),
    /// The one of no uplink, to which the internet leads by this one.
    Service(Uplink),
}

impl Local {
    /// The uplink by which packets to it arrive.
    pub fn uplink(self) -> Uplink {
        match self {
            Self::Primary(uplink) | Self::Secondary(uplink) | Self::Service(uplink) => uplink,
        }
    }

    /// WireGuard's ear there.
    pub fn endpoint(self) -> SocketAddr {
        let address: IpAddr = match self {
            Self::Primary(uplink) => uplink.address(Family::V4),
            Self::Secondary(Uplink::A) => Ipv4Addr::new(192, 0, 2, 11).into(),
            Self::Secondary(Uplink::B) => Ipv4Addr::new(198, 51, 100, 11).into(),
            Self::Service(_) => SERVICE.into(),
        };
        SocketAddr::new(address, LISTEN_PORT)
    }
}

/// A client of the hub.
#[derive(Debug)]
pub struct Client {
    wireguard: WireGuard,
    host: Host,
    public_key: String,
    hub_public_key: String,
    inner: Ipv4Addr,
    outer: Ipv4Addr,
    nat: Option<Arc<Nat>>,
    _wire: Option<Wire>,
    _responder: Responder,
}

impl Client {
    /// Its address as the internet sees it.
    pub fn address(&self) -> Ipv4Addr {
        self.outer
    }

    /// By which the hub's WireGuard knows it.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Asks the hub through the tunnel until it answers.
    ///
    /// # Errors
    /// It did not within `bound`.
    pub fn ask_hub(&self, bound: Duration) -> Result<()> {
        ask((&self.host, self.inner), HUB_INNER, bound)
    }

    /// Its packets come from this port from now on: its own, or its NAT's.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn move_to_port(&self, port: u16) -> Result<()> {
        match &self.nat {
            Some(nat) => nat.rebind(port),
            None => self.wireguard.set(&["listen-port", &port.to_string()])?,
        }
        Ok(())
    }
}

/// A moment in what passes by the providers' routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks([Mark; 2]);

/// Sends UDP packets in anybody's name.
#[derive(Debug)]
pub struct Forger(OwnedFd);

impl Forger {
    /// Sends one.
    ///
    /// # Errors
    /// An end is not of IPv4, or what the kernel said.
    pub fn send(&self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Result<()> {
        let frame = Frame::udp(source, destination, payload).build();
        let (SocketAddr::V4(to), Some(packet)) = (destination, frame.get(ETHERNET..)) else {
            anyhow::bail!("{destination} is not of IPv4");
        };
        sendto(self.0.as_raw_fd(), packet, &SockaddrIn::from(to), MsgFlags::empty())?;
        Ok(())
    }
}

/// A hub with two uplinks, and clients that it does not know yet.
#[derive(Debug)]
pub struct Concentrator {
    captures: [Capture; 2],
    /// The hub's.
    pub hub_wg: WireGuard,
    _responder: Responder,
    clients: Vec<Client>,
    accesses: [Access; 2],
    /// Where wgxdp runs.
    pub hub: Host,
    internet: Host,
    attacker: Host,
}

impl Concentrator {
    /// Raises everything. Nobody has spoken yet.
    ///
    /// # Errors
    /// Not root, a program is missing, or the kernel lacks something; the message says which.
    pub fn raise() -> Result<Self> {
        let (hub, internet, attacker) = (Host::new("hub")?, Host::new(INTERNET)?, Host::new("attacker")?);
        hub.sysctl(&[QUIET, STRICT].concat())?;
        internet.sysctl(&[QUIET, FORWARD].concat())?;
        hub.ip([format!("addr add {SERVICE}/32 dev lo")])?;
        let accesses = [
            raise_isp(Uplink::A, &hub, &internet)?,
            raise_isp(Uplink::B, &hub, &internet)?,
        ];
        let captures = [
            Capture::start(accesses[0].router())?,
            Capture::start(accesses[1].router())?,
        ];
        plug_in(&attacker, &internet, Ipv4Addr::new(10, 10, 99, 2))?;

        let hub_keys = Keys::generate();
        let keys = (0..CLIENTS).map(|_| Keys::generate()).collect::<Vec<_>>();
        let allowed: Vec<String> = (0..CLIENTS).map(|number| format!("{}/32", inner(number))).collect();
        let peers: Vec<Peer<'_>> = keys
            .iter()
            .zip(&allowed)
            .map(|(keys, allowed_ip)| peer(keys, allowed_ip, None))
            .collect();
        let hub_wg = WireGuard::raise(&hub, &Setup::new(&hub_keys, &format!("{HUB_INNER}/24"), &peers))?;
        let client = |(number, keys)| raise_client(number, keys, &hub_keys, &internet);
        Ok(Self {
            captures,
            hub_wg,
            _responder: Responder::start(&hub, HUB_INNER)?,
            clients: keys.iter().enumerate().map(client).collect::<Result<_>>()?,
            accesses,
            hub,
            internet,
            attacker,
        })
    }

    /// The daemon's configuration in the hub: both uplinks, and a tunnel whose peers it is to learn.
    pub fn toml(&self) -> String {
        format!("{}[[tunnel]]\ninterface = \"{INTERFACE}\"\n", uplinks_toml(None))
    }

    /// A client, from 0 on.
    ///
    /// # Panics
    /// There are not that many.
    pub fn client(&self, number: usize) -> &Client {
        &self.clients[number]
    }

    /// From now on the client speaks to this address of the hub.
    ///
    /// # Errors
    /// `ip` or `wg` failed.
    pub fn point(&self, client: usize, local: Local) -> Result<()> {
        if let Local::Service(uplink) = local {
            let ((subnet, _), name) = (uplink.transit(), uplink.name());
            self.internet
                .ip([format!("route replace {SERVICE}/32 via {subnet}.1 dev {name}")])?;
        }
        let client = self.client(client);
        let endpoint = local.endpoint().to_string();
        client
            .wireguard
            .set(&["peer", &client.hub_public_key, "endpoint", &endpoint])
    }

    /// Asks a client through the tunnel until it answers.
    ///
    /// # Errors
    /// It did not within `bound`.
    pub fn ask_client(&self, client: usize, bound: Duration) -> Result<()> {
        ask((&self.hub, HUB_INNER), self.client(client).inner, bound)
    }

    /// This moment, in what passes by the providers' routers.
    ///
    /// # Errors
    /// A capture does not keep up.
    pub fn mark(&self) -> Result<Marks> {
        let [a, b] = &self.captures;
        Ok(Marks([a.mark()?, b.mark()?]))
    }

    /// What the providers' routers saw the hub send to a client since then, and over which uplink: each uplink's in order.
    ///
    /// # Errors
    /// A capture does not keep up.
    pub fn replies(&self, client: usize, since: Marks) -> Result<Vec<(Uplink, Seen)>> {
        let address = self.client(client).address();
        let reply = |seen: &Seen| !seen.left && seen.device == self.hub.name() && seen.destination.ip() == address;
        self.seen(since, reply)
    }

    /// How many packets from `source` to `destination` the providers' routers have sent to the hub since then.
    ///
    /// # Errors
    /// A capture does not keep up.
    pub fn delivered(&self, source: SocketAddr, destination: SocketAddr, since: Marks) -> Result<usize> {
        let this = |seen: &Seen| {
            seen.left && seen.device == self.hub.name() && seen.source == source && seen.destination == destination
        };
        Ok(self.seen(since, this)?.len())
    }

    fn seen(&self, since: Marks, wanted: impl Fn(&Seen) -> bool) -> Result<Vec<(Uplink, Seen)>> {
        let mut all = Vec::new();
        for ((uplink, capture), mark) in Uplink::ALL.into_iter().zip(&self.captures).zip(since.0) {
            let seen = capture.since(mark, &wanted)?;
            all.extend(seen.into_iter().map(|seen| (uplink, seen)));
        }
        Ok(all)
    }

    /// Starts UDP through the tunnel between a client and the hub, both ways, and waits for nothing.
    ///
    /// # Errors
    /// A socket could not be opened.
    pub fn traffic(&self, client: usize, load: Load) -> Result<Duplex> {
        let client = self.client(client);
        let (client, hub) = ((&client.host, client.inner), (&self.hub, HUB_INNER));
        Ok(Duplex {
            up: Stream::start(client, hub, load)?,
            down: Stream::start(hub, client, load)?,
        })
    }

    /// Whatever the hub sends to these addresses ends in the internet, without a word.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn swallow(&self, addresses: &str) -> Result<()> {
        self.internet.ip([format!("route add blackhole {addresses}")])
    }

    /// The attacker sends a UDP packet in anybody's name.
    ///
    /// # Errors
    /// As [`Forger::send`].
    pub fn spoof(&self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Result<()> {
        self.forger()?.send(source, destination, payload)
    }

    /// The attacker, who has many to send.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn forger(&self) -> Result<Forger> {
        // IPPROTO_RAW: packets bring their IP headers along (raw(7)).
        let flags = SockFlag::SOCK_CLOEXEC;
        let open = || socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw);
        Ok(Forger(self.attacker.enter(open)?))
    }

    /// Pulls an uplink's cable out of its provider's router.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn pull(&self, uplink: Uplink) -> Result<()> {
        self.access(uplink).pull()
    }

    /// Someone sets the uplink's interface down.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn set_down(&self, uplink: Uplink) -> Result<()> {
        self.hub.ip([format!("link set {} down", uplink.name())])
    }

    /// Undoes either, as a network manager would.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn restore(&self, uplink: Uplink) -> Result<()> {
        let access = self.access(uplink);
        access.plug()?;
        route_service(uplink, access)
    }

    fn access(&self, uplink: Uplink) -> &Access {
        let [a, b] = &self.accesses;
        match uplink {
            Uplink::A => a,
            Uplink::B => b,
        }
    }
}

fn peer<'a>(keys: &'a Keys, allowed_ip: &'a str, endpoint: Option<SocketAddr>) -> Peer<'a> {
    Peer {
        public_key: &keys.public,
        allowed_ip,
        endpoint,
    }
}

fn inner(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 57, 0, 10 + client as u8)
}

/// A provider's router between hub and internet, and the uplink with its second address.
fn raise_isp(uplink: Uplink, hub: &Host, internet: &Host) -> Result<Access> {
    let router = Host::new(uplink.name())?;
    router.sysctl(&[QUIET, FORWARD].concat())?;
    let ((transit, _), (subnet, _), name) = (uplink.transit(), uplink.subnets(), uplink.name());
    router.ip([
        format!(
            "link add {INTERNET} type veth peer name {name} netns {}",
            internet.netns_path()
        ),
        format!("addr add {transit}.1/24 dev {INTERNET}"),
        format!("link set {INTERNET} up"),
        format!("route add default via {transit}.2 dev {INTERNET}"),
    ])?;
    internet.ip([
        format!("addr add {transit}.2/24 dev {name}"),
        format!("link set {name} up"),
        format!("route add {subnet}.0/24 via {transit}.1 dev {name}"),
    ])?;
    let mut access = Access::new(uplink, Kind::Veth, hub, &router);
    access.lay()?;
    route_service(uplink, &access)?;
    let filter = format!("net/ipv4/conf/{}/rp_filter", access.router_device());
    router.sysctl(&[(&filter, "1")])?;
    hub.ip([format!(
        "addr add {}/24 dev {name}",
        Local::Secondary(uplink).endpoint().ip()
    )])?;
    Ok(access)
}

/// The provider leads to the hub's address of no uplink.
fn route_service(uplink: Uplink, access: &Access) -> Result<()> {
    let ((subnet, _), device) = (uplink.subnets(), access.router_device());
    let line = format!("route replace {SERVICE}/32 via {subnet}.10 dev {device}");
    access.router().ip([line])
}

/// Joins a host to the internet at this address of a /24, by Ethernet.
fn plug_in(host: &Host, internet: &Host, address: Ipv4Addr) -> Result<()> {
    let [a, b, c, _] = address.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    host.ip([
        format!(
            "link add {INTERNET} type veth peer name {} netns {}",
            host.name(),
            internet.netns_path()
        ),
        format!("addr add {address}/24 dev {INTERNET}"),
        format!("link set {INTERNET} up"),
        format!("route add default via {gateway}"),
    ])?;
    internet.ip([
        format!("addr add {gateway}/24 dev {}", host.name()),
        format!("link set {} up", host.name()),
    ])
}

/// Joins a host to the internet from behind a NAT with this address outside.
fn plug_in_behind(nat: &Arc<Nat>, host: &Host, internet: &Host, outside: Ipv4Addr) -> Result<Wire> {
    let nat = Arc::clone(nat);
    let wire = Wire::lay((host, INTERNET), (internet, host.name()), move |way, packet| {
        nat.translate(way, packet)
    })?;
    host.ip([
        format!("addr add 192.168.57.2/24 dev {INTERNET}"),
        format!("link set {INTERNET} up"),
        format!("route add default dev {INTERNET}"),
    ])?;
    internet.ip([
        format!("link set {} up", host.name()),
        format!("route add {outside}/32 dev {}", host.name()),
    ])?;
    Ok(wire)
}

fn raise_client(number: usize, keys: &Keys, hub_keys: &Keys, internet: &Host) -> Result<Client> {
    let host = Host::new(&format!("client-{number}"))?;
    host.sysctl(QUIET)?;
    let outer = Ipv4Addr::new(10, 10, number as u8, 2);
    let nat = (number == BEHIND_NAT).then(|| Arc::new(Nat::to(SocketAddrV4::new(outer, 40_000))));
    let wire = match &nat {
        Some(nat) => Some(plug_in_behind(nat, &host, internet, outer)?),
        None => {
            plug_in(&host, internet, outer)?;
            None
        }
    };
    let hub = peer(hub_keys, "10.57.0.1/32", None);
    let address = format!("{}/24", inner(number));
    let wireguard = WireGuard::raise(&host, &Setup::new(keys, &address, &[hub])).context("a client's WireGuard")?;
    Ok(Client {
        wireguard,
        public_key: keys.public.clone(),
        hub_public_key: hub_keys.public.clone(),
        inner: inner(number),
        outer,
        nat,
        _wire: wire,
        _responder: Responder::start(&host, inner(number))?,
        host,
    })
}
