//! The daemon's programs loaded for one host, configured: two uplinks, one tunnel, one peer with two endpoints, in both families.
//! Nothing is attached: they run by BPF_PROG_TEST_RUN.
//!
//! ```text
//!   isp-a  loopback (ifindex 1)   192.0.2.2      2001:db8:a::2    gateways .1 / ::1
//!   isp-b  loopback, too          203.0.113.2    2001:db8:b::2
//!   peer 0   198.51.100.1:51820 (canonical), 198.51.100.2:443
//!   peer 1   [2001:db8:c::1]:51820
//!   peer 2   198.51.100.33:51820 (canonical), preferred [2001:db8:c::33]:443
//!   peer 3   [2001:db8:c::34]:51820 (canonical), preferred 198.51.100.34:443
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::now_ns;
use crate::frame::Frame;
use crate::privilege::root_or_skip;
use crate::progrun::{self, Context, Outcome};
use wgxdp::dataplane::{Dataplane, Error, Guard, Hook, Pins, Room};
use wgxdp_common::abi::{MAX_UPLINKS, PROBE_MARK};
use wgxdp_common::client::LocalId;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::echo::Payload;
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::keyring::{KeyName, Keys};
use wgxdp_common::liveness::{Protect, Thresholds};
use wgxdp_common::net::Endpoint;
use wgxdp_common::siphash::Key;
use wgxdp_common::stamp::in_band::KeyId;
use wgxdp_common::table::{
    Anchor, Config, EndpointKey, EndpointRef, Family, LinkKind, Order, OrderedBy, Path, Peer, Tunnel, Uplink,
};

/// The anchor's addresses and its link-layer address.
pub const ANCHOR_V4: &str = "192.0.0.8";
/// See [`ANCHOR_V4`].
pub const ANCHOR_V6: &str = "fd5e:9a1c:7d42::8";
/// See [`ANCHOR_V4`].
pub const ANCHOR_MAC: [u8; 6] = [0x02, 0xaa, 0xaa, 0xaa, 0xaa, 0x08];
/// The tunnel's listen port.
pub const PORT: u16 = 51820;
/// The identifier of our probes.
pub const IDENT: u16 = 0x7788;
/// The preferred uplink.
pub const A: UplinkId = UplinkId(0);
/// The other uplink.
pub const B: UplinkId = UplinkId(1);
/// Peer 0 has IPv4 endpoints, peer 1 an IPv6 one.
pub const V4_PEER: PeerId = PeerId(0);
/// See [`V4_PEER`].
pub const V6_PEER: PeerId = PeerId(1);
/// Peers whose preferred endpoint is of the other family than the canonical one: this one's canonical endpoint is IPv4.
pub const TO_V6_PEER: PeerId = PeerId(2);
/// See [`TO_V6_PEER`]: this one's is IPv6.
pub const TO_V4_PEER: PeerId = PeerId(3);
/// The endpoints of [`TO_V6_PEER`], the canonical one first.
pub const TO_V6: [&str; 2] = ["198.51.100.33:51820", "[2001:db8:c::33]:443"];
/// The endpoints of [`TO_V4_PEER`], the canonical one first.
pub const TO_V4: [&str; 2] = ["[2001:db8:c::34]:51820", "198.51.100.34:443"];
/// The IPv4 peer's canonical endpoint.
pub const HUB: &str = "198.51.100.1:51820";
/// The IPv4 peer's other endpoint.
pub const HUB_SECOND: &str = "198.51.100.2:443";
/// The IPv6 peer's endpoint.
pub const HUB_V6: &str = "[2001:db8:c::1]:51820";

/// The loopback device's link-layer address, which frames that arrive there must have.
pub const LOOPBACK_MAC: [u8; 6] = [0; 6];

/// Clients for which there is room.
pub const CLIENTS: u32 = 1024;

/// The verdicts of tcx.
pub const NEXT: i32 = -1;
/// See [`NEXT`].
pub const DROP: i32 = 2;
/// See [`NEXT`].
pub const REDIRECT: i32 = 7;

/// The verdicts of XDP (linux/bpf.h).
pub const XDP_DROP: i32 = 1;
/// See [`XDP_DROP`].
pub const XDP_PASS: i32 = 2;
/// See [`XDP_DROP`].
pub const XDP_TX: i32 = 3;

/// The programs, loaded and configured; nothing is attached.
pub struct Fixture {
    /// As the daemon has it.
    pub dataplane: Dataplane,
}

/// An address and a port.
///
/// # Panics
/// `text` is none.
pub fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

/// An address.
///
/// # Panics
/// `text` is none.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An echo reply as it arrives on the loopback device.
pub fn reply(source: IpAddr, destination: IpAddr, ident: u16, sequence: u16, payload: Payload) -> Vec<u8> {
    Frame::echo(source, destination, true, ident, sequence, payload)
        .to_mac(LOOPBACK_MAC)
        .build()
}

fn family(address: &str, gateway: &str) -> Family {
    let address = ip(address);
    let anchor = ip(if address.is_ipv4() { ANCHOR_V4 } else { ANCHOR_V6 });
    Family::new(address.into(), ip(gateway).into()).placed(anchor.into(), LocalId::NONE)
}

/// The configuration, with these devices for the uplinks; 0 for none.
pub fn config(a_ifindex: u32, b_ifindex: u32) -> Config {
    let mut config = Config {
        anchor: Anchor {
            v4: ip(ANCHOR_V4).into(),
            v6: ip(ANCHOR_V6).into(),
            ifindex: 1,
            mac: ANCHOR_MAC,
            probe_ident: IDENT.to_be(),
        },
        uplink_count: 2,
        tunnel_count: 1,
        ..Config::default()
    };
    let (v4, v6) = (
        family("192.0.2.2", "192.0.2.1"),
        family("2001:db8:a::2", "2001:db8:a::1"),
    );
    config.uplinks[0] = Uplink {
        v4,
        v6,
        ifindex: a_ifindex,
        link: LinkKind::ETHERNET,
        mtu: 1500,
        id: A,
        ..Uplink::default()
    };
    let (v4, v6) = (
        family("203.0.113.2", "203.0.113.1"),
        family("2001:db8:b::2", "2001:db8:b::1"),
    );
    config.uplinks[1] = Uplink {
        v4,
        v6,
        ifindex: b_ifindex,
        link: LinkKind::ETHERNET,
        mtu: 1500,
        id: B,
        ..Uplink::default()
    };
    let mut fallback = [Order::NONE; MAX_UPLINKS];
    fallback[..2].copy_from_slice(&[0, 1]);
    config.tunnels[0] = Tunnel {
        port: PORT.into(),
        index: 0,
        fallback,
    };
    config
}

/// By which a peer's in-band probes are known: by its number.
pub fn key_name(id: PeerId) -> KeyName {
    KeyName::new(KeyId(0xfa00 + u64::from(id.0)), PORT.into())
}

/// The keys for a peer's probes: of its number, too.
pub fn keys(id: PeerId) -> Keys {
    let key = |direction: u64| Key {
        k0: direction,
        k1: id.0.into(),
    };
    Keys {
        ours: key(1),
        theirs: key(2),
        own: KeyId(0x0177),
    }
}

/// A path over `uplink` to `endpoint`, suspect after 30 ms and dead after 60 ms.
///
/// # Panics
/// An endpoint is no address and port.
pub fn path(uplink: UplinkId, endpoint: &str, canonical: &str) -> Path {
    let canonical = socket(canonical).ip().into();
    Path {
        thresholds: Thresholds::new(30_000, 60_000),
        largest: 1500,
        ..Path::new(uplink, socket(endpoint).into(), canonical)
    }
}

impl Fixture {
    /// Loads and configures; without root says that it is skipped, and with `CI=true` fails.
    ///
    /// # Panics
    /// The kernel refused something.
    pub fn new() -> Option<Self> {
        root_or_skip("BPF_PROG_TEST_RUN").then(|| Self::load(&config(1, 1)).expect("the programs load"))
    }

    /// Loads and puts `config` into force, with the peers described. Nothing is copied: a test run would really send it.
    ///
    /// # Errors
    /// The kernel refused something.
    pub fn load(config: &Config) -> Result<Self, Error> {
        Self::load_protected(config, Protect::OFF)
    }

    /// The same with copies.
    ///
    /// # Errors
    /// The kernel refused something.
    pub fn load_protected(config: &Config, protect: Protect) -> Result<Self, Error> {
        let room = Room {
            registered: 8,
            peers: 8,
            clients: CLIENTS,
            keyrings: 8,
        };
        let mut dataplane = Dataplane::load(room, Guard::ALL, Pins::default())?;
        dataplane.publish(config)?;
        let v4_paths = vec![path(A, HUB, HUB), path(B, HUB, HUB), path(A, HUB_SECOND, HUB)];
        let v6_paths = vec![path(A, HUB_V6, HUB_V6), path(B, HUB_V6, HUB_V6)];
        let translated =
            |[canonical, preferred]: [&str; 2]| vec![path(A, preferred, canonical), path(B, canonical, canonical)];
        let peers = [
            (V4_PEER, vec![HUB, HUB_SECOND], v4_paths),
            (V6_PEER, vec![HUB_V6], v6_paths),
            (TO_V6_PEER, TO_V6.to_vec(), translated(TO_V6)),
            (TO_V4_PEER, TO_V4.to_vec(), translated(TO_V4)),
        ];
        for (id, endpoints, mut paths) in peers {
            paths.iter_mut().for_each(|path| path.protect = protect);
            let order = Order::from_slots(0..paths.len() as u32);
            let canonical: Endpoint = socket(endpoints[0]).into();
            dataplane.describe_peer(
                id,
                &Peer {
                    order,
                    canonical,
                    reserved: [0; 16],
                    ordered: OrderedBy::USER_SPACE,
                    name: key_name(id),
                },
                (0..).zip(paths.iter().copied()),
            );
            for endpoint in endpoints {
                let endpoint: Endpoint = socket(endpoint).into();
                let key = EndpointKey {
                    endpoint: endpoint.address,
                    port: endpoint.port,
                    tunnel: PORT.into(),
                };
                let leading = (0..).zip(&paths).filter(|(_, path)| path.endpoint == endpoint);
                let entry = leading.fold(EndpointRef::new(id), |entry, (slot, path)| {
                    entry.with_path(path.uplink, slot)
                });
                dataplane.add_endpoint(&EndpointEntry::new(key, entry, canonical.address, order))?;
            }
            for slot in 0..paths.len() as u32 {
                dataplane.credit(PathId::new(id, slot), now_ns());
            }
        }
        let probed = [V4_PEER, V6_PEER, TO_V6_PEER];
        dataplane.settle_keys(&probed.map(|id| (key_name(id), keys(id))).into())?;
        Ok(Self { dataplane })
    }

    /// Runs a program on a frame.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn run(&mut self, hook: Hook, frame: &[u8], context: Context) -> std::io::Result<Outcome> {
        let program = self.dataplane.program(hook).expect("the program is in the object");
        progrun::run(program.fd().expect("the program is loaded"), frame, context, 1)
    }

    /// Every reason that was counted for this place since the programs were loaded.
    ///
    /// # Panics
    /// The map is not readable.
    pub fn reasons(&self, place: Place) -> Vec<(Reason, u64)> {
        let count = |reason: &Reason| {
            self.dataplane
                .tables()
                .reason_count(place, *reason)
                .expect("the map is readable")
        };
        Reason::ALL
            .iter()
            .map(|reason| (*reason, count(reason)))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    /// Sends a probe over a path, as the prober would; returns its payload.
    ///
    /// # Panics
    /// It was not sent.
    pub fn probe(&mut self, path: PathId, sequence: u16, nonce: u64) -> Payload {
        let payload = Payload { path, nonce };
        let frame = Frame::echo(ip(ANCHOR_V4), socket(HUB).ip(), false, IDENT, sequence, payload).build();
        let mark = PROBE_MARK | path.0;
        let outcome = self
            .run(
                Hook::Steer,
                &frame,
                Context {
                    mark,
                    ..Context::default()
                },
            )
            .expect("the run succeeds");
        assert_eq!(outcome.verdict, REDIRECT);
        payload
    }

    /// Makes a path silent for `silence_ms`, with three probes unanswered.
    pub fn silence(&mut self, path: PathId, silence_ms: u64) {
        for sequence in 0..3 {
            self.probe(path, sequence, 1);
        }
        // A guest may not have been up for so long.
        let silence_ns = silence_ms * 1_000_000;
        std::thread::sleep(Duration::from_nanos(silence_ns.saturating_sub(now_ns())));
        self.dataplane.credit(path, now_ns().saturating_sub(silence_ns));
    }

    /// The difference that a run makes to the reasons counted for a place.
    ///
    /// # Panics
    /// The run failed.
    pub fn reasons_of(&mut self, hook: Hook, place: Place, frame: &[u8], context: Context) -> (Outcome, Vec<Reason>) {
        self.counted(place, |fixture| fixture.run(hook, frame, context))
    }

    /// Runs `guard` on a frame that arrives on uplink A, and says what that counted there.
    ///
    /// # Panics
    /// The run failed.
    pub fn reasons_of_guard(&mut self, guard: Guard, frame: &[u8]) -> (Outcome, Vec<Reason>) {
        self.counted(Place::Guard(A), |fixture| {
            let program = fixture.dataplane.guard_program(guard);
            let program = program.expect("the program is in the object");
            progrun::run_xdp(program.fd().expect("the program is loaded"), frame, 1)
        })
    }

    fn counted(
        &mut self,
        place: Place,
        run: impl FnOnce(&mut Self) -> std::io::Result<Outcome>,
    ) -> (Outcome, Vec<Reason>) {
        let before = self.reasons(place);
        let outcome = run(self).expect("the run succeeds");
        let counted = |reason: Reason| before.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count);
        let after = self
            .reasons(place)
            .into_iter()
            .filter(|(reason, count)| *count != counted(*reason));
        (outcome, after.map(|(reason, _)| reason).collect())
    }
}
