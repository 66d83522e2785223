//! What it costs a hub when all of its clients [register](wgxdp_common::record::Registration) at once, as they do after it was restarted: thousands of them, each by a
//! path over either uplink, all within a second, while a peer of the hub's has traffic.
//!
//! ```text
//!  client-0   a tunnel, 1,000 packets a second each way;     ┌──────────┐   ┌───────┐   ┌─────┐
//!             the hub probes it every 10 ms over each uplink │ internet ├───┤ isp-a ├───┤ hub │
//!  a crowd    their authentic requests, from one namespace   │          ├───┤ isp-b ├───┤     │
//!             their answers end in the internet              └──────────┘   └───────┘   └─────┘
//! ```
//!
//! The crowd's keys are in the hub's WireGuard. Nobody plays the clients: what they would write is composed with the keys that the hub shares with them, which are the same at both
//! ends. Whoever is unknown a second after it asked asks again, as its next probe would (a full ring buffer loses what it was to tell): `asked_again`. `known_after` is from the
//! first round's last request until every path is in the maps.
//!
//! `late_…` is how late the daemon's loop came to its wake-ups by its own count: the mean, and how many were more than 5 and 50 ms late, from the first request until some seconds after
//! all are known, when their names are written; and in as long a calm before. The machine plays everybody, so `late_ratio` says as much of it as of the daemon.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use wgxdp::dataplane::{Pins, Tables};
use wgxdp::host::wireguard::private_key;
use wgxdp::stamp::key::{Identity, id_of};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::siphash::Key;
use wgxdp_common::stamp::in_band::{Author, InBand, KeyId, LEN};
use wgxdp_common::stamp::{ErrorEstimate, Timestamp};

use super::gap::millis;
use super::{Bound, Figure, Scale, Unit};
use crate::clock::{now_ns, sleep_until};
use crate::concentrator::{Concentrator, Forger, Local};
use crate::crowd::{self, Crowd};
use crate::daemon::Daemon;
use crate::poll;
use crate::scrape;
use crate::topology::Uplink;
use crate::traffic::Duplex;
use crate::traffic::udp::{Load, SMALL};
use crate::wireguard::{INTERFACE, LISTEN_PORT};

/// Its name.
pub const NAME: &str = "registration";

/// Where the daemon's metrics are, in the hub.
const METRICS: &str = "127.0.0.1:9587";
/// What the peer with traffic sends, and is sent.
const LOAD: Load = Load {
    interval: Duration::from_millis(1),
    payload: SMALL,
    real_time: true,
};
/// A round of all requests takes this long, and the next one begins so much later.
const ROUND: Duration = Duration::from_secs(1);
/// Requests that leave together.
const BATCH: usize = 32;
/// How long the hub is watched after all are known.
const AFTERMATH: Duration = Duration::from_secs(3);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has a crowd register.
///
/// # Errors
/// The laboratory or the daemon could not be raised, or a client was not registered; then with the daemon's log.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let crowd = Crowd(match scale {
        Scale::Full => 10_000,
        Scale::Quick => 1_000,
    });
    progress(&format!("a hub with {} clients", crowd.0));
    let scene = Scene::raise(crowd)?;
    let measured = scene.measure(progress).with_context(|| scene.daemon.log().text())?;
    scene.daemon.stop(Signal::SIGTERM)?;
    Ok(measured.figures())
}

/// A hub that knows its clients' keys. Processes end before their hosts.
struct Scene {
    daemon: Daemon,
    traffic: Duplex,
    tables: Tables,
    clients: Vec<Client>,
    forger: Forger,
    lab: Concentrator,
}

/// One of the crowd.
struct Client {
    id: KeyId,
    /// For what it writes to the hub.
    key: Key,
    /// Where it is by its path over either uplink.
    endpoints: [SocketAddr; 2],
}

/// A client's path over an uplink.
type Way = (usize, Uplink);

/// What became of everybody.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Measured {
    paths: usize,
    asked_again: usize,
    known_after: Duration,
    calm: Lateness,
    crowd: Lateness,
    lost: u64,
    gap: Duration,
}

impl Scene {
    fn raise(crowd: Crowd) -> Result<Self> {
        let lab = Concentrator::raise()?;
        lab.swallow(crowd::RANGE)?;
        let (known, home) = (lab.client(0), SocketAddr::from((lab.client(0).address(), LISTEN_PORT)));
        lab.hub_wg
            .set(&["peer", known.public_key(), "endpoint", &home.to_string()])?;
        crowd.join(&lab.hub_wg, 0..crowd.0)?;
        let toml = format!(
            "{}\n[[tunnel.peer]]\npublic-key = \"{}\"\nname = \"client-0\"\nendpoints = [\"{home}\"]\n\
             probe = {{ kind = \"icmp\", interval = \"10ms\" }}\n\n[metrics]\nlisten = \"{METRICS}\"\n",
            lab.toml(),
            known.public_key(),
        );
        let private = lab.hub.enter(|| private_key(INTERFACE))?;
        let identity = Identity::new(&private.context("the hub's WireGuard has no key")?);
        let clients = (0..crowd.0).map(|number| Client::new(&identity, number));
        let clients = clients
            .collect::<Option<_>>()
            .context("a key with which there is no secret")?;
        let daemon = Daemon::start_in(&lab.hub, &toml)?;
        lab.point(0, Local::Primary(Uplink::A))?;
        known.ask_hub(PATIENCE)?;
        Ok(Self {
            daemon,
            traffic: lab.traffic(0, LOAD)?,
            tables: lab.hub.enter(|| Tables::pinned(&Pins::default()))?,
            clients,
            forger: lab.forger()?,
            lab,
        })
    }

    fn measure(&self, progress: &mut dyn FnMut(&str)) -> Result<Measured> {
        self.traffic.await_udp(now_ns(), PATIENCE)?;
        let first = Lateness::of(&self.lab)?;
        poll::observe_for(ROUND + AFTERMATH)?;
        let second = Lateness::of(&self.lab)?;
        progress("all of them register");
        let since_ns = now_ns();
        let (asked_again, known_after) = self.register()?;
        poll::observe_for(AFTERMATH)?;
        let report = self.traffic.observe_since(since_ns)?.both();
        Ok(Measured {
            paths: self.known().len(),
            asked_again,
            known_after,
            calm: second.since(first),
            crowd: Lateness::of(&self.lab)?.since(second),
            lost: report.lost,
            gap: report.gap,
        })
    }

    /// Has everybody ask until all are known: how many had to ask again, and how long the last one took.
    fn register(&self) -> Result<(usize, Duration)> {
        let all = 0..self.clients.len();
        let mut missing: Vec<Way> = all
            .flat_map(|client| Uplink::ALL.map(|uplink| (client, uplink)))
            .collect();
        let (mut asked_again, mut asked_ns) = (0, 0);
        for round in 1.. {
            let next_ns = now_ns() + 2 * ROUND.as_nanos() as u64;
            self.ask(&missing, round)?;
            if round == 1 {
                asked_ns = now_ns();
            }
            while !missing.is_empty() && now_ns() < next_ns {
                poll::observe_for(Duration::from_millis(5))?;
                let known = self.known();
                missing.retain(|(client, uplink)| !known.contains(&(self.clients[*client].id, slot(*uplink))));
            }
            let taken = Duration::from_nanos(now_ns() - asked_ns);
            if missing.is_empty() {
                return Ok((asked_again, taken));
            }
            ensure!(
                taken < PATIENCE,
                "{} paths are not known after {taken:?}",
                missing.len()
            );
            asked_again += missing.len();
        }
        unreachable!("rounds do not end");
    }

    /// Each asks once over its path, all within [`ROUND`].
    fn ask(&self, ways: &[Way], round: u32) -> Result<()> {
        let since_ns = now_ns();
        for (number, batch) in ways.chunks(BATCH).enumerate() {
            let due_ns = ROUND.as_nanos() as usize / ways.len().max(1) * BATCH * number;
            let _ = sleep_until(since_ns + due_ns as u64);
            for (client, uplink) in batch {
                let client = &self.clients[*client];
                let hub = Local::Primary(*uplink).endpoint();
                self.forger.send(
                    client.endpoints[slot(*uplink) as usize],
                    hub,
                    &client.request(*uplink, round),
                )?;
            }
        }
        Ok(())
    }

    /// Paths that are in the maps, by whose they are and their slots.
    fn known(&self) -> HashSet<(KeyId, u32)> {
        let slots = |order: wgxdp_common::table::Order| (0..2).filter_map(move |place| order.slot(place));
        let paths = |peer: wgxdp_common::table::Peer| slots(peer.order).map(move |slot| (peer.name.far, slot));
        self.tables.registered().flat_map(paths).collect()
    }
}

impl Client {
    fn new(hub: &Identity, number: u32) -> Option<Self> {
        let public = crowd::key(number);
        Some(Self {
            id: id_of(public.as_bytes()),
            key: hub.keys_with(public.as_bytes())?.theirs,
            endpoints: [crowd::endpoint(number), crowd::other_endpoint(number)],
        })
    }

    /// What its prober sends: each time later than before. Its traffic goes by the first of its paths.
    fn request(&self, uplink: Uplink, round: u32) -> [u8; LEN] {
        let author = Author {
            key_id: self.id,
            active: uplink == Uplink::A,
            report: None,
            error: ErrorEstimate::UNKNOWN,
        };
        let path = PathId::new(PeerId(0), slot(uplink));
        let request = InBand::request(round, Timestamp(u64::from(round) << 32), path, author).sealed(self.key);
        let mut payload = [0; LEN];
        request.write(&mut payload).expect("it is as long");
        payload
    }
}

/// In which a client has its path over this uplink.
fn slot(uplink: Uplink) -> u32 {
    match uplink {
        Uplink::A => 0,
        Uplink::B => 1,
    }
}

/// How late the daemon's loop came to its wake-ups.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lateness {
    wakeups: f64,
    seconds: f64,
    /// How many were later than 5 ms, and than 50.
    late: [f64; 2],
}

impl Lateness {
    /// So far.
    fn of(lab: &Concentrator) -> Result<Self> {
        let text = scrape::get(&lab.hub, METRICS, "/metrics")?.body;
        Self::parse(&text).with_context(|| format!("no lateness in {text}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let of = |what: &str, labels: &[(&str, &str)]| {
            scrape::sample(text, &format!("wgxdp_wakeup_lateness_seconds_{what}"), labels)
        };
        let wakeups = of("count", &[])?;
        let later = |than: &str| Some(wakeups - of("bucket", &[("le", than)])?);
        Some(Self {
            wakeups,
            seconds: of("sum", &[])?,
            late: [later("0.005")?, later("0.05")?],
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            wakeups: self.wakeups - before.wakeups,
            seconds: self.seconds - before.seconds,
            late: [self.late[0] - before.late[0], self.late[1] - before.late[1]],
        }
    }

    /// In milliseconds.
    fn mean(self) -> f64 {
        1e3 * self.seconds / self.wakeups
    }
}

impl Measured {
    fn figures(self) -> Vec<Figure> {
        let figure = |metric: &str, value, unit, samples| Figure::new(NAME, metric, value, unit, samples);
        let count = |metric: &str, value| figure(metric, value, Unit::Count, 1);
        let mut figures = vec![
            count("paths", self.paths as f64),
            count("asked_again", self.asked_again as f64),
            figure("known_after", millis(self.known_after), Unit::Milliseconds, self.paths),
        ];
        for (when, lateness) in [("calm", self.calm), ("crowd", self.crowd)] {
            let samples = lateness.wakeups as usize;
            let mean = figure(&format!("late_{when}"), lateness.mean(), Unit::Milliseconds, samples);
            let late = [("5ms", lateness.late[0]), ("50ms", lateness.late[1])];
            let late = late.map(|(than, late)| figure(&format!("late_{than}_{when}"), late, Unit::Count, samples));
            figures.extend([mean].into_iter().chain(late));
        }
        let ratio = self.crowd.mean() / self.calm.mean();
        figures.extend([
            figure("late_ratio", ratio, Unit::Ratio, 1),
            figure("lost", self.lost as f64, Unit::Packets, 1).bounded(Bound::AtMost(0.0)),
            figure("gap_max", millis(self.gap), Unit::Milliseconds, 1),
        ]);
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_what_was_counted_between_two_readings() {
        let text = |fast: u32, slow: u32, sum: f64| {
            format!(
                "wgxdp_wakeup_lateness_seconds_bucket{{le=\"0.005\"}} {fast}\n\
                 wgxdp_wakeup_lateness_seconds_bucket{{le=\"0.05\"}} {}\n\
                 wgxdp_wakeup_lateness_seconds_sum {sum}\nwgxdp_wakeup_lateness_seconds_count {}\n",
                fast + slow,
                fast + slow + 1
            )
        };
        let [before, after] =
            [text(10, 0, 1.0), text(17, 3, 1.5)].map(|text| Lateness::parse(&text).expect("all there"));
        let lateness = after.since(before);
        assert_eq!(
            (lateness.wakeups, lateness.late, lateness.mean()),
            (10.0, [3.0, 0.0], 50.0)
        );
        assert_eq!(Lateness::parse("wgxdp_wakeup_lateness_seconds_sum 1\n"), None);
    }

    #[test]
    fn a_request_is_its_clients_own_and_its_active_path_is_the_first() {
        let client = Client {
            id: KeyId(7),
            key: Key::from_bytes([3; 16]),
            endpoints: [crowd::endpoint(0), crowd::other_endpoint(0)],
        };
        let [a, b] = Uplink::ALL.map(|uplink| InBand::parse(&client.request(uplink, 1)).expect("a request"));
        assert!([a, b].iter().all(|request| request.is_authentic(client.key)));
        assert_eq!(
            (a.is_active(), b.is_active(), a.path().slot(), b.path().slot()),
            (true, false, 0, 1)
        );
        let later = InBand::parse(&client.request(Uplink::A, 2)).expect("a request");
        assert!(later.timestamp().0 > a.timestamp().0);
    }
}
