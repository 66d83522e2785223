//! A host that is made of plain data, for the tests of everything that shows one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use wgxdp_common::count::{PathCount, Place, Reason};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::net::Address;
use wgxdp_common::table::{self, Family, LinkKind, PathState};

use super::{Daemon, Names, PathName, PeerName, Readings, STATE_FORMAT, Snapshot, TunnelName, UplinkName};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const NOW: u64 = 1_000_000 * MS;

/// The numbers of a host, each of which can be changed before it is read.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) paths: BTreeMap<PathId, (table::Path, table::Proof, PathCount)>,
    pub(crate) uplinks: BTreeMap<UplinkId, (table::Uplink, Flags)>,
    pub(crate) active: BTreeMap<PeerId, PathId>,
    pub(crate) reasons: BTreeMap<(Place, Reason), u64>,
    pub(crate) clients: u64,
    /// How many more numbers can be read; none means all.
    pub(crate) readable: Cell<Option<u32>>,
}

impl Host {
    fn read<T>(&self, value: Option<T>) -> io::Result<T> {
        match self.readable.get() {
            Some(0) => return Err(io::Error::other("the map is gone")),
            left => self.readable.set(left.map(|left| left - 1)),
        }
        value.ok_or_else(|| io::Error::other("no such entry"))
    }
}

impl Readings for Host {
    type Error = io::Error;

    fn path(&self, path: PathId) -> io::Result<table::Path> {
        self.read(self.paths.get(&path).map(|(entry, ..)| *entry))
    }

    fn proof(&self, path: PathId) -> io::Result<table::Proof> {
        self.read(self.paths.get(&path).map(|(_, proof, _)| *proof))
    }

    fn path_count(&self, path: PathId) -> io::Result<PathCount> {
        self.read(self.paths.get(&path).map(|(.., count)| *count))
    }

    fn uplink(&self, uplink: UplinkId) -> io::Result<(table::Uplink, Flags)> {
        self.read(self.uplinks.get(&uplink).copied())
    }

    fn peer_state(&self, peer: PeerId) -> io::Result<table::PeerState> {
        let active = self.active.get(&peer).map_or(0, |path| u64::from(path.0) + 1);
        self.read(Some(table::PeerState {
            active,
            switches: 0,
            reserved: [0; 48],
        }))
    }

    fn reason(&self, place: Place, reason: Reason) -> io::Result<u64> {
        self.read(Some(self.reasons.get(&(place, reason)).copied().unwrap_or(0)))
    }

    fn clients(&self) -> io::Result<u64> {
        self.read(Some(self.clients))
    }
}

pub(crate) fn path_entry(uplink: u32, state: PathState) -> table::Path {
    let endpoint: SocketAddr = "198.51.100.1:51820".parse().expect("an endpoint");
    table::Path {
        thresholds: Thresholds::new(60_000, 150_000),
        state: state as u16,
        ..table::Path::new(UplinkId(uplink), endpoint.into(), endpoint.ip().into())
    }
}

/// Proved itself 9 ms ago, with 12.5 ms of round trip.
pub(crate) fn fresh_proof() -> table::Proof {
    table::Proof {
        proof_ns: NOW - 9 * MS,
        sent_ns: NOW - 22 * MS,
        srtt_ns: 12 * MS + MS / 2,
        probes_sent: 1000,
        probes_answered: 998,
        ..table::Proof::default()
    }
}

/// Silent for a quarter of an hour, with three probes unanswered.
pub(crate) fn old_proof() -> table::Proof {
    table::Proof {
        proof_ns: NOW - 900_000 * MS,
        unanswered: 3,
        ..fresh_proof()
    }
}

pub(crate) fn family(address: &str, gateway: Option<&str>) -> Family {
    let parse = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
    Family::new(parse(address), gateway.map_or(Address::UNSPECIFIED, parse))
}

pub(crate) fn device(v4: Family, v6: Family) -> table::Uplink {
    table::Uplink {
        v4,
        v6,
        ifindex: 7,
        link: LinkKind::ETHERNET,
        mtu: 1500,
        id: UplinkId(0),
        ..table::Uplink::default()
    }
}

/// `wg0` with one peer over two uplinks, of which the second has no device.
pub(crate) fn branch() -> (Names, Host) {
    let endpoint = "198.51.100.1:51820".parse().expect("an endpoint");
    let path = |slot| PathName {
        id: PathId::new(PeerId(2), slot),
        uplink: UplinkId(slot),
        endpoint,
    };
    let names = Names {
        format: STATE_FORMAT,
        pid: 4711,
        version: "0.1.0".to_owned(),
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_777_809_600),
        uplinks: vec![
            UplinkName {
                id: UplinkId(0),
                name: "isp-a".to_owned(),
                interface: "eth0".to_owned(),
            },
            UplinkName {
                id: UplinkId(1),
                name: "lte".to_owned(),
                interface: "wwan0".to_owned(),
            },
        ],
        tunnels: vec![TunnelName {
            interface: "wg0".to_owned(),
            listen_port: 51820,
            peers: vec![PeerName {
                id: PeerId(2),
                name: Some("hq".to_owned()),
                public_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".to_owned(),
                paths: vec![path(0), path(1)],
            }],
        }],
    };
    let count = PathCount {
        tx_packets: 10,
        tx_bytes: 1480,
        rx_packets: 20,
        rx_bytes: 3_565_158,
    };
    let lost = table::Path {
        loss_ppm: 1_000_000,
        ..path_entry(1, PathState::Down)
    };
    let lost_proof = table::Proof {
        latched_ns: NOW - 3_000 * MS,
        ..old_proof()
    };
    let host = Host {
        paths: BTreeMap::from([
            (
                PathId::new(PeerId(2), 0),
                (path_entry(0, PathState::Up), fresh_proof(), count),
            ),
            (PathId::new(PeerId(2), 1), (lost, lost_proof, PathCount::default())),
        ]),
        uplinks: BTreeMap::from([
            (
                UplinkId(0),
                (
                    device(family("192.0.2.2", Some("192.0.2.1")), Family::default()),
                    Flags::NONE,
                ),
            ),
            (UplinkId(1), (table::Uplink::default(), Flags::ABSENT)),
        ]),
        active: BTreeMap::from([(PeerId(2), PathId::new(PeerId(2), 0))]),
        ..Host::default()
    };
    (names, host)
}

pub(crate) fn take(names: &Names, host: &Host, daemon: Daemon) -> Snapshot {
    Snapshot::take(names, host, daemon, NOW).expect("the host can be read")
}
