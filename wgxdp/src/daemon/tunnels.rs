//! Reading the tunnels without holding up the probes: WireGuard's interfaces block, so a thread of the pool asks them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Error;
use crate::config::Config;
use crate::host::wireguard::{self, Tunnel};

/// How often WireGuard is asked what it knows of its peers. Nothing on a packet's way waits for the answer.
const EVERY: Duration = Duration::from_secs(2);

fn interfaces(config: &Config) -> Vec<String> {
    config
        .tunnels()
        .iter()
        .map(|tunnel| tunnel.interface.as_str().into())
        .collect()
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

/// Asks again and again; ends when dropped.
pub(super) struct Poll {
    answers: mpsc::Receiver<Vec<Tunnel>>,
    task: JoinHandle<()>,
}

impl Poll {
    pub(super) fn start(config: &Config) -> Self {
        let (sender, answers) = mpsc::channel(1);
        let interfaces = interfaces(config);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut failing = false;
            loop {
                ticks.tick().await;
                match read(interfaces.clone()).await {
                    Ok(tunnels) => {
                        failing = false;
                        if sender.send(tunnels).await.is_err() {
                            return;
                        }
                    }
                    Err(e) if failing => debug!("{e}"),
                    Err(e) => {
                        failing = true;
                        warn!("{e}; its packets are steered as before");
                    }
                }
            }
        });
        Self { answers, task }
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Vec<Tunnel> {
        match self.answers.recv().await {
            Some(tunnels) => tunnels,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sets every peer's endpoint to the value that it has; see [`wireguard::refresh_endpoint`].
pub(super) async fn refresh_endpoints(tunnels: Vec<Tunnel>) {
    let refresh = spawn_blocking(move || {
        for tunnel in tunnels {
            for peer in tunnel.peers {
                let Some(endpoint) = peer.endpoint else { continue };
                if let Err(e) = wireguard::refresh_endpoint(&tunnel.name, &peer.public_key, endpoint) {
                    debug!("the endpoint of a peer of {} was not refreshed: {e}", tunnel.name);
                }
            }
        }
    });
    match timeout(ANSWER_WITHIN, refresh).await {
        Ok(done) => done.expect("refreshing an endpoint does not panic"),
        Err(_) => warn!("WireGuard does not answer; its endpoints were not refreshed"),
    }
}
