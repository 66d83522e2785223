//! Reading the tunnels without holding up the probes: WireGuard's interfaces block, so a thread of the pool asks them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};
use wgxdp_common::keyring::{KeyName, Keys};

use super::Error;
use super::keys::Locksmith;
use crate::config::{Config, PublicKey};
use crate::host::udp_socket;
use crate::host::wireguard::{self, Peer, Tunnel};

/// How often WireGuard is asked what it knows of its peers, at most. Nothing on a packet's way waits for the answer.
const EVERY: Duration = Duration::from_millis(500);
/// So few peers are told in no time, but for what a busy machine makes of it.
const FEW: usize = 256;
/// Of so many moments it is asked in one where it has more: a user-space WireGuard that tells of thousands moves packets the later meanwhile.
const SPARED: u32 = 100;
/// What changes is not to be noticed later for that than this
const SELDOM: Duration = Duration::from_secs(5);
/// unless it took more than one of so many moments.
const SPARED_AT_LEAST: u32 = 20;
/// How often its ports are looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn interfaces(config: &Config) -> Vec<String> {
    config
        .tunnels()
        .iter()
        .map(|tunnel| tunnel.interface.as_str().into())
        .collect()
}

/// When the handshake of a peer's session was, if that may carry anything still, by what WireGuard said when it was last read.
pub(super) fn session(tunnels: &[Tunnel], tunnel: usize, key: &PublicKey) -> Option<SystemTime> {
    tunnels.get(tunnel)?.peer(key.as_bytes())?.session()
}

/// Every configured tunnel, in the configuration's order.
pub(super) async fn read_all(config: &Config) -> Result<Vec<Tunnel>, Error> {
    read(interfaces(config)).await
}

/// A user-space WireGuard that hangs would hold us up for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

async fn read(interfaces: Vec<String>) -> Result<Vec<Tunnel>, Error> {
    let silent = Error::SilentTunnel(interfaces.join(", "));
    let read = spawn_blocking(move || interfaces.iter().map(|interface| wireguard::read(interface)).collect());
    let read = timeout(ANSWER_WITHIN, read).await.map_err(|_| silent)?;
    let tunnels: Result<_, wireguard::Error> = read.expect("reading a tunnel does not panic");
    Ok(tunnels?)
}

/// Those of the tunnels that answer.
pub(super) async fn read_some(interfaces: &[String]) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for interface in interfaces {
        tunnels.extend(read(vec![interface.clone()]).await.into_iter().flatten());
    }
    tunnels
}

/// What asking brought.
pub(super) enum Answer {
    /// Nothing.
    None,
    /// The same ports, peers and endpoints as before.
    Same(Vec<Tunnel>),
    /// Something else, and the keys of all peers.
    Changed(Vec<Tunnel>, HashMap<KeyName, Keys>),
}

/// Asks again and again; ends when dropped.
pub(super) struct Poll {
    answers: mpsc::Receiver<Answer>,
    task: JoinHandle<()>,
}

impl Poll {
    /// `tunnels` is what is known already.
    pub(super) fn start(config: &Config, tunnels: &[Tunnel], mut locksmith: Locksmith) -> Self {
        let (sender, answers) = mpsc::channel(1);
        let (interfaces, mut ports, mut known) = (interfaces(config), ports(tunnels), essence(tunnels));
        let task = tokio::spawn(async move {
            let mut pause = EVERY;
            let mut failing = false;
            loop {
                rest(pause, &ports).await;
                let asked_at = Instant::now();
                let answer = read(interfaces.clone()).await;
                let peers = |tunnels: &Vec<Tunnel>| tunnels.iter().map(|tunnel| tunnel.peers.len()).sum::<usize>();
                pause = match answer.as_ref().map(peers) {
                    Ok(..=FEW) => EVERY,
                    _ => pause_after(asked_at.elapsed()),
                };
                let was_failing = std::mem::replace(&mut failing, answer.is_err());
                let answer = match answer {
                    Ok(mut tunnels) => {
                        ports = self::ports(&tunnels);
                        let changed;
                        (changed, tunnels, known) = compared(tunnels, known).await;
                        if changed {
                            let keys = locksmith.follow(&tunnels).await;
                            Answer::Changed(tunnels, keys)
                        } else {
                            Answer::Same(tunnels)
                        }
                    }
                    Err(e) if was_failing => {
                        debug!("{e}");
                        Answer::None
                    }
                    Err(e) => {
                        warn!("{e}; its packets are steered as before");
                        Answer::None
                    }
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Self { answers, task }
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long to leave a WireGuard of many peers alone whose answer took so long.
fn pause_after(answer: Duration) -> Duration {
    let sparing = (answer * SPARED).min(SELDOM);
    sparing.max(answer * SPARED_AT_LEAST).max(EVERY)
}

/// All that steering and probing depend on: of each tunnel its port, its key, and its peers' endpoints by key, for their order is any.
type Essence = Vec<(Option<u16>, Option<[u8; 32]>, BTreeMap<[u8; 32], Option<SocketAddr>>)>;

fn essence(tunnels: &[Tunnel]) -> Essence {
    let of_peer = |peer: &Peer| (peer.public_key.0, peer.endpoint);
    let of_tunnel = |tunnel: &Tunnel| {
        let key = tunnel.public_key.as_ref().map(|key| key.0);
        (tunnel.listen_port, key, tunnel.peers.iter().map(of_peer).collect())
    };
    tunnels.iter().map(of_tunnel).collect()
}

/// Whether the tunnels are other than they were known to be; the tunnels; and what is known now. Thousands of peers are compared on a thread that no probe
/// waits for.
async fn compared(tunnels: Vec<Tunnel>, known: Essence) -> (bool, Vec<Tunnel>, Essence) {
    let compare = spawn_blocking(move || {
        let now = essence(&tunnels);
        (now != known, tunnels, now)
    });
    compare.await.expect("comparing peers does not panic")
}

/// The ports that the tunnels listen on.
pub(super) fn ports(tunnels: &[Tunnel]) -> BTreeSet<u16> {
    tunnels.iter().filter_map(|tunnel| tunnel.listen_port).collect()
}

/// Waits for `pause`, or until one of the ports is nobody's any more: then its tunnel listens elsewhere, or not at all.
///
/// WireGuard itself cannot be asked for a port alone: the kernel tells of the first peers, too, and what user space answers to `get=1` is
/// always all. But a socket can be looked for without asking it.
async fn rest(pause: Duration, ports: &BTreeSet<u16>) {
    let until = Instant::now() + pause;
    let mut seen = BTreeSet::new();
    loop {
        for port in ports {
            // Where the kernel has no such look-up no port is ever seen, and only the pause ends.
            let bound = udp_socket::is_bound(*port).unwrap_or(false);
            if bound {
                seen.insert(*port);
            } else if seen.contains(port) {
                return;
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Sets every peer's endpoint to the value that it has; see [`wireguard::refresh_endpoints`].
pub(super) async fn refresh_endpoints(tunnels: Vec<Tunnel>) {
    let refresh = spawn_blocking(move || {
        for tunnel in tunnels {
            let peers = tunnel.peers.into_iter();
            let peers: Vec<_> = peers
                .filter_map(|peer| Some((peer.public_key, peer.endpoint?)))
                .collect();
            if let Err(e) = wireguard::refresh_endpoints(&tunnel.name, &peers) {
                debug!("the endpoints of {} were not refreshed: {e}", tunnel.name);
            }
        }
    });
    match timeout(ANSWER_WITHIN, refresh).await {
        Ok(done) => done.expect("refreshing an endpoint does not panic"),
        Err(_) => warn!("WireGuard does not answer; its endpoints were not refreshed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_wireguard_takes_to_answer_the_less_often_it_is_asked() {
        let rows = [
            (0, 500),
            (5, 500),
            (30, 3_000),
            (50, 5_000),
            (100, 5_000),
            (250, 5_000),
            (1_000, 20_000),
        ];
        for (answer, pause) in rows.map(|(answer, pause)| (Duration::from_millis(answer), Duration::from_millis(pause)))
        {
            assert_eq!(pause_after(answer), pause, "after {answer:?}");
        }
    }
}
