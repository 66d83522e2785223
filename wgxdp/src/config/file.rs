//! The keys of the file.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::draft::{Draft, DraftPeer, DraftProbe, DraftTunnel, DraftUplink};
use super::error::{ConfigError, Fault};
use super::reader::{Placed, Report, Table, Value, excerpt};
use super::value::{ProbeKind, Profile, TunnelMtu, UplinkName, XdpMode};
use super::{
    AddressChoice, Config, DEFAULT_MAX_CLIENTS, Detection, FamilyChoice, GatewayChoice, MAX_CLIENTS, Objectives,
    address, validate,
};

/// Longest file that is read.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// From one probe to the next. The kernel remembers 64 probes, and thresholds are 32 bits of microseconds.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(60);
/// Path MTUs: every host takes an IPv4 packet of 576 bytes (RFC 791), and none is longer than 65,535.
const MTUS: RangeInclusive<u32> = 576..=65_535;
/// What a path may lose, in parts per million.
const LOSSES: RangeInclusive<u32> = 1_000..=500_000;
/// Round trips and their deviation.
const DELAYS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Hold-downs.
const HOLD_DOWNS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    parse(&text, path)
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let mut report = Report::new(text);
    let draft = report.document().map(|root| read(root.get_ref(), &mut report));
    validate::finish(draft, Some(path), report.problems)
}

fn read(root: &toml::de::DeTable<'_>, report: &mut Report<'_>) -> Draft {
    let mut root = Table::root(root);
    let profile = root.get("profile", report).and_then(|value| value.word(report));
    let max_clients = root.get("max-clients", report);
    let max_clients =
        max_clients.and_then(|value| value.whole(MAX_CLIENTS, "a whole number from 1 to 16777216", report));
    let uplinks = root
        .get("uplink", report)
        .map(|value| value.tables("[[uplink]]", "write [[uplink]] above each uplink's keys", report));
    let tunnels = root
        .get("tunnel", report)
        .map(|value| value.tables("[[tunnel]]", "write [[tunnel]] above each tunnel's keys", report));
    let detection = section(
        &mut root,
        "detection",
        "[detection]",
        "a table: write [detection] above its keys",
        report,
    );
    let metrics = section(
        &mut root,
        "metrics",
        "[metrics]",
        "a table: write [metrics] above its keys",
        report,
    );
    root.close(report);
    Draft {
        profile: profile.map_or(Profile::Balanced, |placed| placed.value),
        uplinks: items(uplinks, report, uplink),
        tunnels: items(tunnels, report, tunnel),
        max_clients: max_clients.map_or(DEFAULT_MAX_CLIENTS, |placed| placed.value),
        detection: detection.map_or_else(Detection::default, |table| self::detection(table, report)),
        metrics: metrics.and_then(|table| self::metrics(table, report)),
    }
}

fn section<'d, 't>(
    root: &mut Table<'d, 't>,
    key: &'static str,
    header: &'static str,
    expected: &'static str,
    report: &mut Report<'_>,
) -> Option<Table<'d, 't>> {
    root.get(key, report)
        .and_then(|value| value.table(header, expected, report))
}

/// Reads each table. What is there but is no list of tables counts as one bad item, so that it is not called absent as well.
fn items<'d, 't, T>(
    tables: Option<Option<Vec<Table<'d, 't>>>>,
    report: &mut Report<'_>,
    read: impl Fn(Table<'d, 't>, &mut Report<'_>) -> Option<T>,
) -> Vec<Option<T>> {
    match tables {
        None => Vec::new(),
        Some(None) => vec![None],
        Some(Some(tables)) => tables.into_iter().map(|table| read(table, report)).collect(),
    }
}

fn uplink(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Option<DraftUplink> {
    let before = report.problems.len();
    let name = table
        .get("name", report)
        .map(|value| value.parsed("a label in quotes", report));
    let interface = table.need("interface", "interface = \"eth0\"", report);
    let interface = interface.and_then(|value| value.parsed("the name of an interface in quotes", report));
    let cost = table.get("cost", report);
    let cost = cost.and_then(|value| value.whole(0..=u32::MAX, "a whole number from 0 to 4294967295", report));
    let mtu = table.get("mtu", report);
    let mtu = mtu.and_then(|value| value.whole(MTUS, "a whole number of bytes from 576 to 65535", report));
    let (mut v4, mut v6) = (FamilyChoice::AUTO, FamilyChoice::AUTO);
    if let Some(value) = table.get("address", report) {
        for ip in pair(value, "address", &["auto"], address::source, report) {
            match ip {
                IpAddr::V4(ip) => v4.address = AddressChoice::Fixed(ip),
                IpAddr::V6(ip) => v6.address = AddressChoice::Fixed(ip),
            }
        }
    }
    if let Some(value) = table.get("gateway", report) {
        if value.is("none") {
            (v4.gateway, v6.gateway) = (GatewayChoice::OnLink, GatewayChoice::OnLink);
        }
        for ip in pair(value, "gateway", &["auto", "none"], address::gateway, report) {
            let is_self = match ip {
                IpAddr::V4(ip) => {
                    v4.gateway = GatewayChoice::Via(ip);
                    v4.address == AddressChoice::Fixed(ip)
                }
                IpAddr::V6(ip) => {
                    v6.gateway = GatewayChoice::Via(ip);
                    v6.address == AddressChoice::Fixed(ip)
                }
            };
            if is_self {
                report.add(value.place, Fault::GatewayIsSelf(ip.to_string()));
            }
        }
    }
    let metered = table.get("metered", report).and_then(|value| value.boolean(report));
    let hotplug = table.get("hotplug", report).and_then(|value| value.boolean(report));
    let xdp = table.get("xdp", report).and_then(|value| value.word(report));
    table.close(report);
    let interface: Placed<super::InterfaceName> = interface?;
    let name = match name {
        Some(name) => name?,
        None => match interface.value.as_str().parse::<UplinkName>() {
            Ok(value) => Placed {
                place: interface.place,
                value,
            },
            Err(rule) => {
                let found = excerpt(interface.value.as_str());
                report.add(
                    interface.place,
                    Fault::Value {
                        key: "name (by default the interface's)",
                        found,
                        rule,
                    },
                );
                return None;
            }
        },
    };
    (report.problems.len() == before).then_some(DraftUplink {
        name,
        interface,
        cost: cost.map(|placed| placed.value),
        mtu,
        v4,
        v6,
        metered,
        hotplug: hotplug.is_some_and(|placed| placed.value),
        xdp: xdp.map_or(XdpMode::Auto, |placed| placed.value),
    })
}

/// At most one address of each family; none if it is one of `words`.
fn pair(
    value: Value<'_, '_>,
    key: &'static str,
    words: &[&str],
    usable: impl Fn(IpAddr) -> Result<(), &'static str>,
    report: &mut Report<'_>,
) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    if words.iter().any(|word| value.is(word)) {
        return ips;
    }
    let (expected, advice) = match key {
        "gateway" => (
            "an IP address in quotes, a list of them, \"auto\" or \"none\"",
            "; write \"auto\", \"none\", an address, or a list of one IPv4 and one IPv6 address",
        ),
        _ => (
            "an IP address in quotes, a list of them, or \"auto\"",
            "; write \"auto\", an address, or a list of one IPv4 and one IPv6 address",
        ),
    };
    if value.is_empty_list() {
        report.add(
            value.place,
            Fault::Empty {
                key,
                advice: "write \"auto\" or leave the key out",
            },
        );
    }
    for element in value.one_or_more(report) {
        let Some(Placed { place, value: text }) = element.string(expected, report) else {
            continue;
        };
        let Some(ip) = address::parse(key, text, advice, place, report, &usable) else {
            continue;
        };
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            report.add(
                place,
                Fault::TwoOfFamily {
                    key,
                    family: address::family(ip),
                },
            );
        } else {
            ips.push(ip);
        }
    }
    ips
}

fn tunnel(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Option<DraftTunnel> {
    let before = report.problems.len();
    let interface = table.need("interface", "interface = \"wg0\"", report);
    let interface = interface.and_then(|value| value.parsed("the name of an interface in quotes", report));
    let policy = table.get("policy", report).and_then(|value| value.word(report));
    let protect = table.get("protect", report).and_then(|value| value.word(report));
    let mtu = table.get("mtu", report).and_then(|value| tunnel_mtu(value, report));
    let clamp_mss = table.get("clamp-mss", report).and_then(|value| value.boolean(report));
    let objectives = objectives(&mut table, report);
    let peers = table.get("peer", report).map(|value| {
        value.tables(
            "[[tunnel.peer]]",
            "write [[tunnel.peer]] above each peer's keys, below its [[tunnel]]",
            report,
        )
    });
    table.close(report);
    let own = report.problems.len() == before;
    let peers = items(peers, report, peer);
    let interface = interface?;
    own.then_some(DraftTunnel {
        interface,
        policy: policy.map_or(super::Policy::Failover, |placed| placed.value),
        protect,
        mtu,
        clamp_mss: clamp_mss.is_some_and(|placed| placed.value),
        objectives,
        peers,
    })
}

fn objectives(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Objectives {
    let expected = "from \"0.1%\" to \"50%\", or a share of 1 from 0.001 to 0.5";
    let max_loss = table.get("max-loss", report);
    let max_loss_ppm = max_loss.and_then(|value| value.share(LOSSES, expected, report));
    let mut time = |key| {
        let value = table.get(key, report)?;
        value.duration(DELAYS, "from \"1ms\" to \"60s\"", report)
    };
    Objectives {
        max_loss_ppm,
        max_rtt: time("max-rtt"),
        max_jitter: time("max-jitter"),
    }
}

/// A number would be a second place that says what WireGuard's configuration says.
fn tunnel_mtu(value: Value<'_, '_>, report: &mut Report<'_>) -> Option<TunnelMtu> {
    if value.is_whole() {
        report.add(value.place, Fault::TunnelMtu);
        return None;
    }
    value.word(report).map(|placed| placed.value)
}

fn peer(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Option<DraftPeer> {
    let before = report.problems.len();
    let place = table.place;
    let public_key = table.need("public-key", "public-key = \"…\", as `wg show` prints it", report);
    let public_key = public_key.and_then(|value| value.parsed("a key in base64 in quotes", report));
    let name = table
        .get("name", report)
        .and_then(|value| value.parsed("a label in quotes", report));
    let endpoints = table.get("endpoints", report).map(|value| endpoints(value, report));
    let probe = table.get("probe", report).and_then(|value| {
        value.inline(
            "probe",
            "a table such as { kind = \"icmp\", interval = \"20ms\" }",
            report,
        )
    });
    let probe = probe.map(|table| self::probe(table, report));
    table.close(report);
    let public_key = public_key?;
    (report.problems.len() == before).then_some(DraftPeer {
        place,
        public_key,
        name,
        endpoints: endpoints.unwrap_or_default(),
        probe: probe.unwrap_or_default(),
    })
}

fn endpoints(value: Value<'_, '_>, report: &mut Report<'_>) -> Vec<Placed<SocketAddr>> {
    if value.is_empty_list() {
        let advice = "list \"address:port\", or leave the key out to use WireGuard's own endpoint";
        report.add(
            value.place,
            Fault::Empty {
                key: "endpoints",
                advice,
            },
        );
    }
    let mut endpoints = Vec::new();
    for element in value.one_or_more(report) {
        let text = element.string("a list of \"address:port\"", report);
        let Some(Placed { place, value: text }) = text else {
            continue;
        };
        match address::endpoint(text) {
            Ok(value) => endpoints.push(Placed { place, value }),
            Err(advice) => report.add(
                place,
                Fault::Endpoint {
                    found: excerpt(text),
                    advice,
                },
            ),
        }
    }
    endpoints
}

fn probe(mut table: Table<'_, '_>, report: &mut Report<'_>) -> DraftProbe {
    let kind = table.get("kind", report).map(|value| value.word(report));
    let interval = table.get("interval", report);
    let interval = interval.and_then(|value| value.duration(INTERVALS, "from \"5ms\" to \"60s\"", report));
    let target = table.get("target", report).and_then(|value| {
        let Placed { place, value: text } = value.string("an IP address in quotes", report)?;
        let value = address::parse(
            "target",
            text,
            "; give an address",
            place,
            report,
            &address::destination,
        )?;
        Some(Placed { place, value })
    });
    let kind = kind.map(|word| word.map(|placed| placed.value));
    let port = if kind == Some(Some(ProbeKind::Tcp)) {
        table.need(
            "port",
            "port = 443, or another at which the target listens or refuses to",
            report,
        )
    } else {
        table.get("port", report)
    };
    let port = port.and_then(|value| {
        // Of a word that is none nobody knows whether it has a port.
        if matches!(kind, None | Some(Some(ProbeKind::Icmp))) {
            report.add(value.place, Fault::ProbePort);
        }
        value.whole(1..=u16::MAX.into(), "a number from 1 to 65535", report)
    });
    table.close(report);
    DraftProbe {
        kind: kind.flatten(),
        interval,
        target,
        port: port.and_then(|placed| u16::try_from(placed.value).ok()),
    }
}

fn detection(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Detection {
    let default = Detection::default();
    let fits = |number: f64| (0.001..=1000.0).contains(&number);
    let budget = table.get("false-failovers-per-week", report);
    let budget = budget.and_then(|value| value.number("a number from 0.001 to 1000", fits, report));
    let hold_down = table.get("hold-down", report);
    let hold_down = hold_down.and_then(|value| value.duration(HOLD_DOWNS, "from \"0s\" to \"24h\"", report));
    let max_hold_down = table.get("max-hold-down", report);
    let max_hold_down = max_hold_down.and_then(|value| value.duration(HOLD_DOWNS, "from \"0s\" to \"24h\"", report));
    table.close(report);
    Detection {
        false_failovers_per_week: budget.unwrap_or(default.false_failovers_per_week),
        hold_down: hold_down.unwrap_or(default.hold_down),
        max_hold_down: max_hold_down.unwrap_or(default.max_hold_down),
    }
}

fn metrics(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Option<SocketAddr> {
    let listen = table.need("listen", "listen = \"127.0.0.1:9587\", or remove the table", report);
    let listen = listen.and_then(|value| value.string("\"address:port\" in quotes", report));
    table.close(report);
    let Placed { place, value: text } = listen?;
    match address::listen(text) {
        Ok(socket) => Some(socket),
        Err(advice) => {
            report.add(
                place,
                Fault::Listen {
                    found: excerpt(text),
                    advice,
                },
            );
            None
        }
    }
}
