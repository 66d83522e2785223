//! What the daemon says once, at its start: of the room that it has, and of what is going to be done.

use std::time::Duration;

use tracing::{info, warn};

use super::{Daemon, Error};

/// Peers that are described one by one at start.
const DESCRIBED: usize = 16;
/// Round trips as long as over a satellite are rare on uplinks.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(300);

impl Daemon {
    /// Says what the maps cost, and up to which round trip the fastest probes can be answered if that is not long.
    pub(super) fn describe_room(&self) -> Result<(), Error> {
        let memory = self.dataplane.memory()?;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        info!(
            "room for {} listed peers, {} learned clients and {} that register paths: {:.1} MB of maps, of which learned clients take {:.1} MB",
            self.peers.len() + self.numbers.room(),
            self.config.max_clients(),
            self.registered.room(),
            megabytes(memory.maps),
            megabytes(memory.clients)
        );
        let fastest = self
            .peers
            .values()
            .map(|plan| plan.interval)
            .min()
            .unwrap_or(LONG_ROUND_TRIP);
        let covered = fastest * self.dataplane.probe_slots();
        if covered < LONG_ROUND_TRIP {
            warn!(
                "with so many peers a path remembers {} probes: replies to probes every {} count within {}; if a round trip takes longer, probe less often",
                self.dataplane.probe_slots(),
                humantime::format_duration(fastest),
                humantime::format_duration(covered)
            );
        }
        Ok(())
    }

    /// Says what is going to be done, once.
    pub(super) fn describe(&self) {
        for plan in self.peers.values().take(DESCRIBED) {
            let tunnel = self.tunnel_name(plan);
            let uplinks = plan
                .uplinks
                .iter()
                .map(|uplink| self.config.uplinks()[*uplink as usize].name.as_str());
            let uplinks = uplinks.collect::<Vec<_>>().join(", ");
            let interval = humantime::format_duration(plan.interval);
            info!(
                "{tunnel}: {} at {} over {uplinks}, a probe every {interval}",
                plan.label(),
                plan.canonical
            );
        }
        let (uplinks, peers) = (self.config.uplinks().len(), self.peers.len());
        if peers > DESCRIBED {
            info!("and {} peers more", peers - DESCRIBED);
        }
        let many = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        for (index, tunnel) in self.tunnels.iter().enumerate() {
            let listed = self.peers.values().filter(|plan| plan.tunnel == index).count();
            let clients = tunnel.peers.len().saturating_sub(listed);
            if clients > 0 {
                info!(
                    "{}: {} not listed: answered where they last speak, and not probed; list under [[tunnel.peer]] whom this host calls",
                    tunnel.name,
                    many(clients, "peer")
                );
            }
        }
        info!("ready: {}, {}", many(uplinks, "uplink"), many(peers, "peer"));
    }
}
