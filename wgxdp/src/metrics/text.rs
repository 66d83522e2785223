//! A [`Scrape`] as OpenMetrics text.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::encoding::{MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use wgxdp_common::table::PathState;

use super::Scrape;
use crate::dataplane::Guard;
use crate::snapshot::{Path, Peer, Tunnel};

/// What every name begins with.
const PREFIX: &str = "wgxdp";

/// The whole exposition, `# EOF` included.
#[must_use]
pub fn render(scrape: Scrape) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Collected(scrape)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a String takes everything that is written to it");
    text
}

#[derive(Debug)]
struct Collected(Scrape);

/// A family of metrics. The full name is the prefix, the name and the unit; counters end in `_total`.
struct Family {
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    help: &'static str,
}

impl Family {
    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            unit: None,
            kind: MetricType::Gauge,
            help,
        }
    }

    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            unit: None,
            kind: MetricType::Counter,
            help,
        }
    }

    fn in_unit(self, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// Writes the description, then what `samples` adds.
    fn encode(
        self,
        encoder: &mut DescriptorEncoder<'_>,
        samples: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(&mut encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?)
    }
}

fn gauge(metric: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: impl EncodeGaugeValue) -> fmt::Result {
    metric.encode_family(labels)?.encode_gauge(&value)
}

fn counter(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: impl EncodeCounterValue,
) -> fmt::Result {
    metric
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = Family {
            name: "build",
            unit: None,
            kind: MetricType::Info,
            help: "The daemon's version.",
        };
        build.encode(encoder, |metric| metric.encode_info(&version))?;
        self.uplinks(encoder)?;
        self.path_gauges(encoder)?;
        self.path_counters(encoder)?;
        self.programs(encoder)?;
        self.clients(encoder)?;
        self.peers(encoder)?;
        self.wakeups(encoder)
    }
}

impl Collected {
    /// Every path with its labels.
    fn paths(&self) -> impl Iterator<Item = (PathLabels<'_>, &Path)> {
        let tunnels = self.0.snapshot.tunnels.iter();
        let peers = tunnels.flat_map(|tunnel| tunnel.peers.iter().map(move |peer| (tunnel, peer)));
        peers.flat_map(|(tunnel, peer)| {
            peer.paths
                .iter()
                .map(move |path| (PathLabels::new(tunnel, peer, path), path))
        })
    }

    fn uplinks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let up = Family::gauge(
            "uplink_up",
            "Whether the uplink's device is there, up, with carrier and an address.",
        );
        up.encode(encoder, |metric| {
            self.0.snapshot.uplinks.iter().try_for_each(|uplink| {
                let labels = [
                    ("uplink", uplink.name.as_str()),
                    ("interface", uplink.interface.as_str()),
                ];
                gauge(metric, &labels, u64::from(uplink.is_usable()))
            })
        })?;
        let guard = Family::gauge(
            "uplink_guard",
            "Who runs guard, the XDP program, on the uplink: 1 for the mode it is in.",
        );
        guard.encode(encoder, |metric| {
            self.0.guards.iter().try_for_each(|(uplink, guard)| {
                let modes = Guard::ALL.map(Some).into_iter().chain([None]);
                modes.into_iter().try_for_each(|mode| {
                    let word = mode.map_or("off", Guard::as_str);
                    let labels = [("uplink", uplink.as_str()), ("mode", word)];
                    gauge(metric, &labels, u64::from(mode == *guard))
                })
            })
        })
    }

    fn path_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        Family::gauge("path_state", "The path's state: 1 for the one it is in.").encode(encoder, |metric| {
            self.paths().try_for_each(|(labels, path)| {
                PathState::ALL.iter().try_for_each(|state| {
                    gauge(
                        metric,
                        &labels.and("state", state.as_str()),
                        u64::from(*state == path.state),
                    )
                })
            })
        })?;
        Family::gauge("path_active", "Whether the path carried the peer's last packet.").encode(encoder, |metric| {
            self.paths()
                .try_for_each(|(labels, path)| gauge(metric, &labels, u64::from(path.active)))
        })?;
        let rtt = Family::gauge("path_rtt", "Smoothed round-trip time of the path's probes.").in_unit(Unit::Seconds);
        rtt.encode(encoder, |metric| {
            let mut known = self.paths().filter_map(|(labels, path)| Some((labels, path.rtt_ms?)));
            known.try_for_each(|(labels, ms)| gauge(metric, &labels, ms / 1e3))
        })?;
        let loss = Family::gauge("path_probe_loss", "Fraction of the path's last probes that was lost.");
        loss.in_unit(Unit::Other("ratio".to_owned())).encode(encoder, |metric| {
            let mut known = self.paths().filter_map(|(labels, path)| Some((labels, path.loss?)));
            known.try_for_each(|(labels, loss)| gauge(metric, &labels, loss))
        })
    }

    fn path_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        Family::counter("path_probes_sent", "Probes sent over the path.").encode(encoder, |metric| {
            self.paths()
                .try_for_each(|(labels, path)| counter(metric, &labels, path.probes_sent))
        })?;
        Family::counter("path_probes_answered", "Probes of the path that were answered.").encode(
            encoder,
            |metric| {
                self.paths()
                    .try_for_each(|(labels, path)| counter(metric, &labels, path.probes_answered))
            },
        )?;
        Family::counter("path_packets", "Tunnel packets over the path.").encode(encoder, |metric| {
            self.paths().try_for_each(|(labels, path)| {
                counter(metric, &labels.and("direction", "tx"), path.tx_packets)?;
                counter(metric, &labels.and("direction", "rx"), path.rx_packets)
            })
        })?;
        let bytes = Family::counter("path", "Bytes of tunnel packets over the path, outer headers included.");
        bytes.in_unit(Unit::Bytes).encode(encoder, |metric| {
            self.paths().try_for_each(|(labels, path)| {
                counter(metric, &labels.and("direction", "tx"), path.tx_bytes)?;
                counter(metric, &labels.and("direction", "rx"), path.rx_bytes)
            })
        })
    }

    fn programs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let packets = Family::counter(
            "program_packets",
            "Packets that a program saw, by what became of them and why.",
        );
        packets.encode(encoder, |metric| {
            self.0.programs.iter().try_for_each(|count| {
                let labels = [
                    ("program", count.program),
                    ("uplink", count.uplink.as_str()),
                    ("verdict", count.reason.verdict().as_str()),
                    ("reason", count.reason.as_str()),
                ];
                counter(metric, &labels, count.packets)
            })
        })
    }

    fn clients(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let clients = self.0.clients;
        Family::gauge(
            "clients",
            "Learned clients: peers that are answered where they last spoke.",
        )
        .encode(encoder, |metric| gauge(metric, &[("", ""); 0], clients.known))?;
        Family::counter(
            "clients_forgotten",
            "Learned clients that had to go because there was no room for more (--max-clients).",
        )
        .encode(encoder, |metric| counter(metric, &[("", ""); 0], clients.forgotten))?;
        Family::gauge(
            "clients_asked",
            "Clients with paths that are probed from here, because their own probes have stopped.",
        )
        .encode(encoder, |metric| gauge(metric, &[("", ""); 0], clients.asked))
    }

    fn wakeups(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let lateness = Family {
            name: "wakeup_lateness",
            unit: Some(Unit::Seconds),
            kind: MetricType::Histogram,
            help: "How late the daemon's loop came to its wake-ups, with which probes leave.",
        };
        let wakeups = &self.0.wakeups;
        let buckets: Vec<_> = wakeups.buckets().collect();
        lateness.encode(encoder, |metric| {
            metric.encode_histogram::<NoLabelSet>(wakeups.sum.as_secs_f64(), wakeups.count(), &buckets, None)
        })
    }

    fn peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let peers = &self.0.peers;
        let failovers = Family::counter(
            "failovers",
            "Times that the peer's traffic moved to another path, by reason.",
        );
        failovers.encode(encoder, |metric| {
            let mut rows = peers
                .iter()
                .flat_map(|peer| peer.failovers.iter().map(move |failovers| (peer, failovers)));
            rows.try_for_each(|(peer, (reason, count))| {
                let labels = [
                    ("tunnel", peer.tunnel.as_str()),
                    ("peer", peer.peer.as_str()),
                    ("reason", *reason),
                ];
                counter(metric, &labels, *count)
            })
        })?;
        let handshake = Family::gauge(
            "peer_latest_handshake",
            "Unix time of the peer's latest WireGuard handshake.",
        );
        handshake.in_unit(Unit::Seconds).encode(encoder, |metric| {
            let mut known = peers.iter().filter_map(|peer| Some((peer, peer.latest_handshake?)));
            known.try_for_each(|(peer, time)| {
                let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let labels = [("tunnel", peer.tunnel.as_str()), ("peer", peer.peer.as_str())];
                gauge(metric, &labels, since_epoch.as_secs_f64())
            })
        })
    }
}

/// What tells a path from every other.
struct PathLabels<'a> {
    tunnel: &'a str,
    peer: &'a str,
    uplink: &'a str,
    endpoint: String,
}

impl<'a> PathLabels<'a> {
    fn new(tunnel: &'a Tunnel, peer: &'a Peer, path: &'a Path) -> Self {
        let endpoint = path.endpoint.to_string();
        Self {
            tunnel: &tunnel.interface,
            peer: &peer.name,
            uplink: &path.uplink,
            endpoint,
        }
    }

    fn pairs(&self) -> [(&'static str, &str); 4] {
        let Self {
            tunnel,
            peer,
            uplink,
            endpoint,
        } = self;
        [
            ("tunnel", tunnel),
            ("peer", peer),
            ("uplink", uplink),
            ("endpoint", endpoint),
        ]
    }

    /// With one label more.
    fn and<'b>(&'b self, name: &'static str, value: &'b str) -> [(&'static str, &'b str); 5] {
        let [tunnel, peer, uplink, endpoint] = self.pairs();
        [tunnel, peer, uplink, endpoint, (name, value)]
    }
}

impl EncodeLabelSet for PathLabels<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        self.pairs().encode(encoder)
    }
}
