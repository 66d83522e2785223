//! How many packets a second `steer` sends to learned clients, by how many of them there are: the real programs, attached by the real daemon, in a hub
//! with two uplinks whose providers are sinks.
//!
//! ```text
//!           one core's packets ─▶ wgxdp0 ┌─────┐ isp-a ─── isp-a (sink)
//!                                  steer │ hub │
//!                                        └─────┘ isp-b ─── isp-b (sink) ◀─ one data message from each client
//! ```
//!
//! There are no WireGuard clients. A handshake response that leaves by the anchor hands out a session index; then one data message from each client, each
//! with an address and a port of its own, comes in at isp-b and is learned. The figures are of data messages to all of them in a scattered order, each with the
//! same bytes but for its destination, written into one small buffer: what the sender itself touches is the same for any number. Clients are answered by
//! isp-b, which is not where strangers are answered, and every single packet must have been counted as `returned`.
//!
//! A round measures all numbers, and before anyone is learned the same packets to strangers: `strangers_ratio` is what the laboratory itself makes of many
//! destinations. Ratios are of the same round, to one client's rate. In a round numbers only grow; at its end all clients are forgotten.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::Signal;
use wgxdp::dataplane::{Pins, Tables};
use wgxdp_common::abi::MAP_CLIENTS;
use wgxdp_common::checksum::update;
use wgxdp_common::client::Whereabouts;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;
use wgxdp_common::table::EndpointKey;

use super::figure::Summary;
use super::{Bound, Figure, Scale, Unit};
use crate::access::{Access, Kind};
use crate::clock::now_ns;
use crate::cores::{on_core, usable};
use crate::daemon::{Daemon, uplinks_toml};
use crate::fixture::ANCHOR_V4;
use crate::frame::Frame;
use crate::host::Host;
use crate::impair::sink;
use crate::outlet::{BATCH, Outlet};
use crate::poll;
use crate::topology::{Family, QUIET, STRICT, Uplink};
use crate::wireguard::{INTERFACE, Keys, LISTEN_PORT, Setup, WireGuard};

/// Its name.
pub const NAME: &str = "clients";

/// How many learned clients.
const NUMBERS: [u32; 4] = [1, 100, 10_000, 60_000];
/// What must be left of the rate with one.
const LEAST: Bound = Bound::AtLeast(0.85);
/// Shares no divisor with any of [`NUMBERS`]: multiples of it visit all clients, and no two neighbours one after the other.
const STRIDE: u32 = 24_847;
/// The session index that the hub hands out, and the clients'.
const INDICES: [u32; 2] = [0x1122_3344, 0x5566_7788];
/// Bytes of a handshake response, and of the shortest data message.
const LENGTHS: [usize; 2] = [92, 32];
/// Where the clients are, and which of the uplinks that is.
const HOME: (Uplink, UplinkId) = (Uplink::B, UplinkId(1));
/// Learning all clients takes far less.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    /// To each number of clients in one round, and as many before, unmeasured.
    packets: u32,
}

/// Packets a second in each round.
#[derive(Debug, Default)]
struct Rates {
    /// To so many of [`NUMBERS`].
    clients: [Vec<f64>; NUMBERS.len()],
    /// To as many strangers.
    strangers: [Vec<f64>; NUMBERS.len()],
}

/// Measures rounds.
///
/// # Errors
/// The hub could not be raised, or a packet did not go where it was to go; then with the daemon's log.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let effort = match scale {
        Scale::Full => Effort {
            rounds: 31,
            packets: 60_000,
        },
        Scale::Quick => Effort {
            rounds: 7,
            packets: 60_000,
        },
    };
    let rates = measure(effort, progress)?;
    figures(&rates)
}

fn measure(effort: Effort, progress: &mut dyn FnMut(&str)) -> Result<Rates> {
    let mut hub = Hub::raise()?;
    let mut rates = Rates::default();
    let mut rounds = || {
        for round in 0..effort.rounds {
            progress(&format!("round {} of {}", round + 1, effort.rounds));
            hub.round(effort.packets, &mut rates)?;
        }
        Ok(())
    };
    let done: Result<()> = on_core(usable(1)?, &mut rounds);
    done.with_context(|| hub.daemon.log().text())?;
    hub.daemon.stop(Signal::SIGTERM)?;
    Ok(rates)
}

/// A hub whose clients are ours to make up. Processes end before their hosts.
struct Hub {
    daemon: Daemon,
    _wireguard: WireGuard,
    tables: Tables,
    clients: HashMap<MapData, EndpointKey, Whereabouts>,
    anchor: Outlet,
    home: Outlet,
    /// A data message from each client, as it arrives.
    arriving: Vec<Vec<u8>>,
    _accesses: [Access; 2],
    _host: Host,
}

impl Hub {
    fn raise() -> Result<Self> {
        let host = Host::new("hub")?;
        host.sysctl(&[QUIET, STRICT].concat())?;
        let accesses = [raise_sink(Uplink::A, &host)?, raise_sink(Uplink::B, &host)?];
        let keys = Keys::generate();
        let wireguard = WireGuard::raise(&host, &Setup::new(&keys, "10.57.0.1/24", &[]))?;
        let toml = format!("{}[[tunnel]]\ninterface = \"{INTERFACE}\"\n", uplinks_toml(None));
        let daemon = Daemon::start_in(&host, &toml)?;
        let [_, home] = &accesses;
        let home = Outlet::open(home.router(), home.router_device())?;
        let anchor = Outlet::open(&host, wgxdp::host::anchor::NAME)?;
        let all = NUMBERS.into_iter().max().unwrap_or_default();
        Ok(Self {
            tables: host.enter(|| Tables::pinned(&Pins::default()))?,
            clients: host.enter(clients)?,
            anchor,
            home,
            arriving: (0..all).map(arriving).collect(),
            daemon,
            _wireguard: wireguard,
            _accesses: accesses,
            _host: host,
        })
    }

    /// Measures all numbers once.
    fn round(&mut self, packets: u32, rates: &mut Rates) -> Result<()> {
        self.hand_out_the_index()?;
        for (number, rates) in NUMBERS.into_iter().zip(&mut rates.strangers) {
            rates.push(self.rate(number, packets, Reason::Fallback)?);
        }
        for (number, rates) in NUMBERS.into_iter().zip(&mut rates.clients) {
            self.learn(number)?;
            rates.push(self.rate(number, packets, Reason::Returned)?);
        }
        self.forget()
    }

    fn hand_out_the_index(&mut self) -> Result<()> {
        self.anchor.send(&[from_anchor(2, INDICES, LENGTHS[0])])
    }

    /// Has the first so many clients speak until all are known.
    fn learn(&mut self, number: u32) -> Result<()> {
        let known = u64::from(number);
        poll::wait_until(&format!("{number} learned clients"), PATIENCE, || {
            // A queue on the way may have been too short for all at once. Who is known already is counted otherwise.
            self.home.send(&self.arriving[..number as usize])?;
            Ok(self.tables.clients()? == known)
        })
    }

    fn forget(&mut self) -> Result<()> {
        let known = self
            .clients
            .keys()
            .collect::<Result<Vec<_>, _>>()
            .context("reading who is known")?;
        known
            .iter()
            .try_for_each(|client| self.clients.remove(client))
            .context("forgetting the clients")
    }

    /// Packets a second to the first so many clients, each of which ends for this reason. As many go before them: caches are as they are in the
    /// middle of the traffic, and WireGuard is done with what arrived.
    fn rate(&mut self, number: u32, packets: u32, reason: Reason) -> Result<f64> {
        self.send(number, packets)?;
        let before = self.tables.reason_count(Place::Anchor, reason)?;
        let since_ns = now_ns();
        self.send(number, packets)?;
        let elapsed_ns = now_ns() - since_ns;
        let counted = self.tables.reason_count(Place::Anchor, reason)? - before;
        let word = reason.as_str();
        ensure!(
            counted == u64::from(packets),
            "of {packets} packets to {number} clients {counted} were counted as `{word}`"
        );
        Ok(counted as f64 / elapsed_ns as f64 * 1e9)
    }

    /// Sends that many packets to the first so many clients.
    fn send(&mut self, number: u32, packets: u32) -> Result<()> {
        ensure!(!poll::interrupted(), "interrupted");
        let template = Template::new();
        let mut batch = vec![template.frame.clone(); BATCH];
        let mut packet = 0;
        while packet < packets {
            let now = (packets - packet).min(BATCH as u32);
            let batch = &mut batch[..now as usize];
            for (packet, frame) in (packet..).zip(&mut *batch) {
                template.readdress(frame, client(scattered(packet, number)));
            }
            self.anchor.send(batch)?;
            packet += now;
        }
        Ok(())
    }
}

/// The client whose turn it is.
fn scattered(packet: u32, number: u32) -> u32 {
    (u64::from(packet) * u64::from(STRIDE) % u64::from(number)) as u32
}

/// A client's address and port, both its own.
fn client(number: u32) -> SocketAddrV4 {
    // 100.64.0.0/10 (RFC 6598): where a provider's customers are.
    let first = Ipv4Addr::new(100, 64, 0, 1).to_bits();
    SocketAddrV4::new(Ipv4Addr::from_bits(first + number), (1024 + number) as u16)
}

/// A WireGuard message as it leaves by the anchor, to the first client.
fn from_anchor(kind: u8, words: [u32; 2], len: usize) -> Vec<u8> {
    let anchor = SocketAddr::new(crate::fixture::ip(ANCHOR_V4), LISTEN_PORT);
    Frame::message(anchor, client(0).into(), kind, words, len).build()
}

/// A data message of a client's, as it arrives.
fn arriving(number: u32) -> Vec<u8> {
    let hub = SocketAddr::new(HOME.0.address(Family::V4), LISTEN_PORT);
    let message = Frame::message(client(number).into(), hub, 4, INDICES, LENGTHS[1]);
    message.to_mac(HOME.0.mac()).build()
}

/// A data message that leaves by the anchor, and what of it belongs to its destination.
struct Template {
    frame: Vec<u8>,
}

impl Template {
    /// Places in the frame: IPv4's checksum and destination, UDP's destination port and checksum.
    const IP_CHECKSUM: usize = 24;
    const ADDRESS: usize = 30;
    const PORT: usize = 36;
    const UDP_CHECKSUM: usize = 40;

    fn new() -> Self {
        let [_, theirs] = INDICES;
        Self {
            frame: from_anchor(4, [theirs, 0], LENGTHS[1]),
        }
    }

    /// Makes `frame`, a copy, one to `to`.
    fn readdress(&self, frame: &mut [u8], to: SocketAddrV4) {
        let (address, port) = (to.ip().octets(), to.port().to_be_bytes());
        let was = |at: usize, len: usize| &self.frame[at..at + len];
        let checksum = |at: usize| u16::from_be_bytes([self.frame[at], self.frame[at + 1]]);
        let ip = update(checksum(Self::IP_CHECKSUM), was(Self::ADDRESS, 4), &address);
        let udp = update(checksum(Self::UDP_CHECKSUM), was(Self::ADDRESS, 4), &address);
        let udp = match update(udp, was(Self::PORT, 2), &port) {
            0 => 0xffff,
            checksum => checksum,
        };
        frame[Self::ADDRESS..][..4].copy_from_slice(&address);
        frame[Self::PORT..][..2].copy_from_slice(&port);
        frame[Self::IP_CHECKSUM..][..2].copy_from_slice(&ip.to_be_bytes());
        frame[Self::UDP_CHECKSUM..][..2].copy_from_slice(&udp.to_be_bytes());
    }
}

/// An uplink of the hub's, whose provider is a sink.
fn raise_sink(uplink: Uplink, hub: &Host) -> Result<Access> {
    let router = Host::new(uplink.name())?;
    router.sysctl(QUIET)?;
    let mut access = Access::new(uplink, Kind::Veth, hub, &router);
    access.lay()?;
    sink(&router, access.router_device())?;
    Ok(access)
}

/// The map of learned clients that the daemon has pinned.
fn clients() -> Result<HashMap<MapData, EndpointKey, Whereabouts>> {
    let map = MapData::from_pin(Pins::default().map(MAP_CLIENTS)).context("opening the map of clients")?;
    Ok(HashMap::try_from(Map::LruHashMap(map))?)
}

fn figures(rates: &Rates) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let summary = |samples: &[f64]| Summary::of(samples).context("there was no round");
    for (number, rates) in NUMBERS.iter().zip(&rates.clients) {
        let rate = summary(rates)?;
        let metric = format!("rate_{number}");
        figures.push(Figure::new(
            NAME,
            metric,
            rate.median,
            Unit::PacketsPerSecond,
            rate.count,
        ));
    }
    for (number, ratio) in ratios(&rates.clients) {
        let ratio = summary(&ratio)?;
        let figure =
            |metric: &str, value| Figure::new(NAME, format!("{metric}_{number}"), value, Unit::Ratio, ratio.count);
        figures.push(figure("ratio", ratio.median).bounded(LEAST));
        figures.push(figure("ratio_min", ratio.min));
    }
    for (number, ratio) in ratios(&rates.strangers) {
        let (ratio, metric) = (summary(&ratio)?, format!("strangers_ratio_{number}"));
        figures.push(Figure::new(NAME, metric, ratio.median, Unit::Ratio, ratio.count));
    }
    Ok(figures)
}

/// Each number's rates by those of the first number, round by round.
fn ratios(rates: &[Vec<f64>; NUMBERS.len()]) -> impl Iterator<Item = (u32, Vec<f64>)> + '_ {
    let [one, many @ ..] = rates;
    let of_rounds = move |rates: &Vec<f64>| rates.iter().zip(one).map(|(rate, one)| rate / one).collect();
    NUMBERS[1..].iter().copied().zip(many.iter().map(of_rounds))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_client_has_its_turn_and_no_two_neighbours_one_after_the_other() {
        for number in NUMBERS {
            let turns: Vec<u32> = (0..number).map(|packet| scattered(packet, number)).collect();
            assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), number as usize);
            assert!(number < 100 || turns.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 16));
        }
    }

    #[test]
    fn a_readdressed_frame_is_the_one_that_would_have_been_built() {
        let template = Template::new();
        let mut frame = template.frame.clone();
        for number in [0, 1, 77, 9_999, 59_999, 3] {
            let to = client(number);
            template.readdress(&mut frame, to);
            let anchor = SocketAddr::new(crate::fixture::ip(ANCHOR_V4), LISTEN_PORT);
            let built = Frame::message(anchor, to.into(), 4, [INDICES[1], 0], LENGTHS[1]).build();
            assert_eq!(frame, built);
        }
    }

    #[test]
    fn a_ratio_is_of_one_round_and_to_one_client() {
        let rates = [vec![100.0, 10.0], vec![50.0, 10.0], vec![100.0, 9.0], vec![80.0, 8.0]];
        let ratios: Vec<_> = ratios(&rates).collect();
        assert_eq!(
            ratios,
            [
                (100, vec![0.5, 1.0]),
                (10_000, vec![1.0, 0.9]),
                (60_000, vec![0.8, 0.8])
            ]
        );
    }
}
