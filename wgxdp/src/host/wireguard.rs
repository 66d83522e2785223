//! Tunnels and their peers, of the kernel and of user-space implementations (UAPI socket `/var/run/wireguard/NAME.sock`).
//!
//! Nothing here configures a tunnel. What is written is what the peer has already: see [`refresh_endpoints`] and [`send_keepalives`].
//!
//! These functions block for as long as the implementation takes to answer; call them where that does no harm (`spawn_blocking`).
//! They look for interfaces in the network namespace of the calling thread; UAPI sockets belong to the mount namespace, so that with
//! several network namespaces names must be unique.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::constants::WGPEER_F_UPDATE_ONLY;
use netlink_packet_wireguard::nlas::{WgDeviceAttrs, WgPeer, WgPeerAttrs};
use netlink_packet_wireguard::{Wireguard, WireguardCmd};
use wireguard_control::{Device, InterfaceName, Key, PeerInfo};
use zeroize::Zeroizing;

/// The longest that a user-space implementation may take to change peers.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why a tunnel cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such interface.
    #[error("there is no interface {interface}")]
    NoSuchInterface {
        /// The interface.
        interface: String,
    },
    /// The interface is something else.
    #[error("{interface} is not a WireGuard interface but {kind}")]
    NotWireGuard {
        /// The interface.
        interface: String,
        /// What it is, as `ip -d link` names it.
        kind: String,
    },
    /// No interface can have this name.
    #[error("{interface:?} cannot be the name of an interface: {reason}")]
    InvalidName {
        /// The name.
        interface: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller may not.
    #[error("not permitted to read {interface} (needs CAP_NET_ADMIN; for user-space WireGuard access to its socket)")]
    NotPermitted {
        /// The interface.
        interface: String,
    },
    /// The user-space implementation does not answer.
    #[error("nobody answers on {}: is the WireGuard process of {interface} running?", socket.display())]
    NobodyThere {
        /// The interface.
        interface: String,
        /// Its socket.
        socket: PathBuf,
    },
    /// Something else went wrong while talking to the implementation.
    #[error("cannot talk to WireGuard about {interface}: {source}")]
    Failed {
        /// The interface.
        interface: String,
        /// What.
        source: io::Error,
    },
}

/// Who implements a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel.
    Kernel,
    /// A process such as wireguard-go.
    Userspace,
}

/// A WireGuard interface. Its private key is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The interface.
    pub name: String,
    /// The UDP port it listens on; `None` before it has one.
    pub listen_port: Option<u16>,
    /// The mark of its packets; 0 for none.
    pub fwmark: u32,
    /// Its public key; `None` before it has one.
    pub public_key: Option<Key>,
    /// Who implements it.
    pub backend: Backend,
    /// Its peers, in the order of their keys.
    pub peers: Vec<Peer>,
}

impl Tunnel {
    /// The peer of this key.
    #[must_use]
    pub fn peer(&self, key: &[u8; 32]) -> Option<&Peer> {
        let place = self.peers.binary_search_by_key(key, |peer| peer.public_key.0);
        place.ok().map(|place| &self.peers[place])
    }
}

/// A peer of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// By which it is known.
    pub public_key: Key,
    /// Where it is, as far as WireGuard knows.
    pub endpoint: Option<SocketAddr>,
    /// When it last completed a handshake.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// The interval of its keepalives.
    pub persistent_keepalive: Option<Duration>,
    /// Whether any of its allowed IPs is IPv6.
    pub carries_v6: bool,
}

impl Peer {
    /// When the handshake of its latest session was, if that may carry anything still.
    #[must_use]
    pub fn session(&self) -> Option<SystemTime> {
        // A handshake of the future is of a clock that was set meanwhile.
        let age = |handshake: &SystemTime| handshake.elapsed().unwrap_or_default();
        self.last_handshake.filter(|handshake| age(handshake) < SESSION)
    }

    fn new(info: PeerInfo) -> Self {
        let keepalive = info.config.persistent_keepalive_interval.filter(|seconds| *seconds > 0);
        Self {
            public_key: info.config.public_key,
            endpoint: info.config.endpoint,
            last_handshake: info.stats.last_handshake_time,
            rx_bytes: info.stats.rx_bytes,
            tx_bytes: info.stats.tx_bytes,
            persistent_keepalive: keepalive.map(|seconds| Duration::from_secs(seconds.into())),
            carries_v6: info.config.allowed_ips.iter().any(|allowed| allowed.address.is_ipv6()),
        }
    }
}

/// Reads a tunnel.
///
/// # Errors
/// See [`Error`].
pub fn read(interface: &str) -> Result<Tunnel, Error> {
    parse(interface)?;
    let backend = backend(interface)?;
    let device = device(interface, backend)?;
    Ok(Tunnel {
        name: interface.into(),
        listen_port: device.listen_port.filter(|port| *port != 0),
        fwmark: device.fwmark.unwrap_or(0),
        public_key: device.public_key.filter(|_| device.private_key.is_some()),
        backend,
        peers: merge(device.peers),
    })
}

/// A tunnel's private key, wiped from memory when it is dropped; `None` before it has one. (WireGuard's answer, in which it came, is not ours to wipe.)
///
/// # Errors
/// See [`Error`].
pub fn private_key(interface: &str) -> Result<Option<Zeroizing<[u8; 32]>>, Error> {
    let device = device(interface, backend(interface)?)?;
    Ok(device.private_key.map(|key| Zeroizing::new(key.0)))
}

fn device(interface: &str, backend: Backend) -> Result<Device, Error> {
    let name = parse(interface)?;
    let device = match backend {
        Backend::Kernel => Device::get(&name, wireguard_control::Backend::Kernel),
        Backend::Userspace => Device::get(&name, wireguard_control::Backend::Userspace),
    };
    device.map_err(|source| failed(interface, backend, source))
}

/// The kernel tells of a peer with many allowed addresses in several parts, of which only the first says more than the key.
fn merge(parts: Vec<PeerInfo>) -> Vec<Peer> {
    let mut peers = BTreeMap::new();
    for part in parts {
        let key = part.config.public_key.0;
        peers.entry(key).or_insert_with(|| Peer::new(part));
    }
    peers.into_values().collect()
}

/// Sets peers' endpoints to the values that they have, so that WireGuard forgets the source addresses that it has been using with them.
/// Returns how many: neither peers that are gone, nor those that have another endpoint by now, which was learned with a source address of
/// its own.
///
/// WireGuard answers from the address and device on which it last heard of a peer. With wireguard-go 0.0.20220316:
///
/// - what it learned before the anchor was engaged keeps its packets on that uplink, with that uplink's address, for as long as the
///   peer answers there: rules and routes alone never move them. Refreshed, the next packet goes to the anchor;
/// - what it learned from the anchor makes its packets fail once the anchor is gone, for 15 s: then it gives up and starts anew.
///   Refreshed, the next packet leaves by the uplink.
///
/// So endpoints are to be refreshed after [engaging](super::anchor::Anchor::engage), after [removing](super::anchor::remove), and after a
/// repair that made the device anew.
///
/// A peer that has been removed meanwhile stays removed: the request is one to update only.
///
/// # Errors
/// See [`Error`].
pub fn refresh_endpoints(interface: &str, peers: &[(Key, SocketAddr)]) -> Result<usize, Error> {
    let tunnel = read(interface)?;
    let now: HashMap<_, _> = tunnel
        .peers
        .iter()
        .map(|peer| (peer.public_key.0, peer.endpoint))
        .collect();
    let stays = |(key, endpoint): &&(Key, SocketAddr)| now.get(&key.0) == Some(&Some(*endpoint));
    let peers = peers.iter().filter(stays);
    let updates: Vec<_> = peers
        .map(|(key, endpoint)| (key.clone(), vec![Change::Endpoint(*endpoint)]))
        .collect();
    update(&tunnel, &updates)
}

/// `REJECT_AFTER_TIME` of WireGuard's protocol (section 6.2 of its paper): an older session carries nothing.
pub const SESSION: Duration = Duration::from_secs(180);
/// What is turned on where persistent keepalives are off, for the moment in which it is on: the longest interval there is, in seconds.
const FOR_A_MOMENT: u16 = u16::MAX;

/// Has WireGuard send these peers an empty authenticated packet now, and returns to how many. Peers that are gone get none, nor do those without a session:
/// WireGuard would begin to shake hands, and nobody who has no session is sending us anything.
///
/// WireGuard has no command for that, but it sends one at once when the interval of a peer's persistent keepalives goes from 0 to something else (`set_peer` in the
/// kernel's netlink.c, `handlePeerLine` in wireguard-go). So the interval goes from 0 to any and back to 0, or to 0 and back to what it was: both steps in one request, which is
/// carried out whole, so that nobody's crash leaves a value that is not the operator's.
///
/// # Errors
/// See [`Error`].
pub fn send_keepalives(interface: &str, peers: &[Key]) -> Result<usize, Error> {
    let tunnel = read(interface)?;
    let now: HashMap<_, _> = tunnel
        .peers
        .iter()
        .filter(|peer| peer.session().is_some())
        .map(|peer| (peer.public_key.0, peer.persistent_keepalive))
        .collect();
    let turned_on = |key: &Key| {
        let steps = match now.get(&key.0)? {
            None => [FOR_A_MOMENT, 0],
            Some(interval) => [0, interval.as_secs() as u16],
        };
        Some((key.clone(), steps.map(Change::PersistentKeepalive).to_vec()))
    };
    let updates: Vec<_> = peers.iter().filter_map(turned_on).collect();
    update(&tunnel, &updates)
}

/// What is changed of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Endpoint(SocketAddr),
    /// The interval in seconds; 0: off.
    PersistentKeepalive(u16),
}

/// A peer and its changes, which are made one after the other, in one request.
type Update = (Key, Vec<Change>);

/// Changes peers; how many.
fn update(tunnel: &Tunnel, updates: &[Update]) -> Result<usize, Error> {
    let interface = tunnel.name.as_str();
    let written = match tunnel.backend {
        Backend::Kernel => update_in_kernel(interface, updates),
        Backend::Userspace => update_in_userspace(interface, updates),
    };
    written
        .map(|()| updates.len())
        .map_err(|source| failed(interface, tunnel.backend, source))
}

/// Peers in one message to the kernel, which must fit a page.
const PEERS_IN_A_MESSAGE: usize = 16;

fn update_in_kernel(interface: &str, updates: &[Update]) -> io::Result<()> {
    let attributes = |key: &Key, change: &Change| {
        WgPeer(vec![
            WgPeerAttrs::PublicKey(key.0),
            WgPeerAttrs::Flags(WGPEER_F_UPDATE_ONLY),
            match *change {
                Change::Endpoint(endpoint) => WgPeerAttrs::Endpoint(endpoint),
                Change::PersistentKeepalive(seconds) => WgPeerAttrs::PersistentKeepalive(seconds),
            },
        ])
    };
    for updates in updates.chunks(PEERS_IN_A_MESSAGE) {
        let steps = updates
            .iter()
            .flat_map(|(key, changes)| changes.iter().map(|change| attributes(key, change)));
        let nlas = vec![
            WgDeviceAttrs::IfName(interface.into()),
            WgDeviceAttrs::Peers(steps.collect()),
        ];
        let message = GenlMessage::from_payload(Wireguard {
            cmd: WireguardCmd::SetDevice,
            nlas,
        });
        netlink_request::netlink_request_genl(message, Some(NLM_F_REQUEST | NLM_F_ACK))?;
    }
    Ok(())
}

pub(super) fn update_in_userspace(interface: &str, updates: &[Update]) -> io::Result<()> {
    let socket = UnixStream::connect(socket_path(interface))?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    socket.set_write_timeout(Some(ANSWER_WITHIN))?;
    let mut request = String::from("set=1\n");
    for (key, change) in updates
        .iter()
        .flat_map(|(key, changes)| changes.iter().map(move |change| (key, change)))
    {
        let key: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        request += &format!("public_key={key}\nupdate_only=true\n");
        request += &match change {
            Change::Endpoint(endpoint) => format!("endpoint={endpoint}\n"),
            Change::PersistentKeepalive(seconds) => format!("persistent_keepalive_interval={seconds}\n"),
        };
    }
    request.push('\n');
    (&socket).write_all(request.as_bytes())?;
    for line in BufReader::new(socket).lines() {
        match line?.strip_prefix("errno=").map(str::parse) {
            None => {}
            Some(Ok(0)) => return Ok(()),
            Some(Ok(errno)) => return Err(io::Error::from_raw_os_error(i32::abs(errno))),
            Some(Err(_)) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn parse(interface: &str) -> Result<InterfaceName, Error> {
    let name = interface.parse::<InterfaceName>();
    name.map_err(|reason| Error::InvalidName {
        interface: interface.into(),
        reason: reason.to_string(),
    })
}

fn socket_path(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

/// Who implements the interface, if it is a WireGuard interface at all.
fn backend(interface: &str) -> Result<Backend, Error> {
    let kind = link_kind(interface)?;
    match kind.as_deref() {
        Some("wireguard") => Ok(Backend::Kernel),
        Some("tun") | None if socket_path(interface).exists() => Ok(Backend::Userspace),
        kind => {
            let kind = kind.map_or("a device without a kind".into(), |kind| {
                format!("of the kind \"{kind}\"")
            });
            Err(Error::NotWireGuard {
                interface: interface.into(),
                kind,
            })
        }
    }
}

/// What `ip -d link` calls the interface's kind; `None` where it has none, as devices of the hardware.
fn link_kind(interface: &str) -> Result<Option<String>, Error> {
    let link = super::netlink::link_now(interface);
    match link {
        Ok(link) => Ok(link.driver),
        Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Err(Error::NoSuchInterface {
            interface: interface.into(),
        }),
        Err(source) => Err(failed(interface, Backend::Kernel, source)),
    }
}

fn failed(interface: &str, backend: Backend, source: io::Error) -> Error {
    let interface = interface.to_owned();
    match (backend, source.raw_os_error()) {
        (_, Some(libc::EPERM | libc::EACCES)) => Error::NotPermitted { interface },
        (Backend::Kernel, Some(libc::ENODEV)) => Error::NoSuchInterface { interface },
        (Backend::Userspace, Some(libc::ECONNREFUSED | libc::ENOENT)) => Error::NobodyThere {
            socket: socket_path(&interface),
            interface,
        },
        _ => Error::Failed { interface, source },
    }
}
