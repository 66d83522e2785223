//! `wgxdp doctor`: whether this host can do what a configuration asks for, and how much traffic its probes are. Looks, and changes nothing.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Config, Probe, ProbeKind, Tunnel, Uplink};
use crate::engine::Pace;
use crate::host::netlink::Netlink;
use crate::host::udp_socket::{self, ReceiveQueue};
use crate::host::view::View;
use crate::host::{self, wireguard};
use crate::mtu::{self, Family};
use crate::preflight::{self, Places};
use crate::prober;

/// Of thirty days.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a socket's queue that are enough for a user-space WireGuard to stand still for a quarter of a second while 20,000 small packets arrive in each.
const ROOM: u32 = 4 << 20;

/// What was found, in the order in which it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    lines: Vec<(bool, String)>,
}

impl Findings {
    /// Whether nothing stands in the way.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.lines.iter().all(|(well, _)| *well)
    }

    fn note(&mut self, found: Result<String, impl fmt::Display>) {
        self.lines.push(match found {
            Ok(text) => (true, text),
            Err(problem) => (false, problem.to_string()),
        });
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|(well, text)| writeln!(f, "{} {text}", if *well { "ok " } else { "bad" }))
    }
}

/// Looks at the host.
///
/// # Errors
/// The kernel does not tell of its devices.
pub async fn examine(config: &Config, places: &Places) -> host::Result<Findings> {
    let mut findings = Findings::default();
    let release = preflight::kernel_release();
    findings.note(preflight::check_kernel(&release).map(|_| format!("kernel {release}")));
    findings.note(preflight::check_capabilities(&places.status).map(|()| "capabilities".to_owned()));
    let bpffs = preflight::check_bpffs(&places.bpffs, &places.pins);
    findings.note(bpffs.map(|()| format!("bpffs at {}", places.bpffs.display())));
    for warning in config.warnings() {
        findings.note(Ok::<_, String>(format!("warning: {warning}")));
    }
    let view = View::read(&Netlink::connect()?).await?;
    for uplink in config.uplinks() {
        findings.note(examine_uplink(uplink, &view));
    }
    for tunnel in config.tunnels() {
        let metered = config.uplinks().iter().any(|uplink| uplink.metered);
        examine_tunnel(tunnel, metered, &view, &mut findings);
    }
    Ok(findings)
}

fn examine_uplink(uplink: &Uplink, view: &View) -> Result<String, String> {
    let (name, interface) = (&uplink.name, &uplink.interface);
    let link = view.get(interface.as_str());
    let Some(link) = link else {
        let text = format!("uplink {name}: there is no interface {interface}");
        return if uplink.hotplug {
            Ok(format!("{text} now (hotplug)"))
        } else {
            Err(text)
        };
    };
    let mut text = format!("uplink {name}: {interface}, MTU {}", link.mtu);
    for address in link
        .v4
        .iter()
        .map(ToString::to_string)
        .chain(link.v6.iter().map(ToString::to_string))
    {
        let _ = write!(text, ", {address}");
    }
    match (link.admin_up, link.carrier) {
        (false, _) => Err(format!("{text}; it is set down: ip link set {interface} up")),
        (true, false) => Err(format!("{text}; it has no carrier")),
        (true, true) if link.v4.is_empty() && link.v6.is_empty() => Err(format!("{text}; it has no address")),
        (true, true) => Ok(text),
    }
}

fn examine_tunnel(tunnel: &Tunnel, metered: bool, view: &View, findings: &mut Findings) {
    let interface = tunnel.interface.as_str();
    let known = match wireguard::read(interface) {
        Ok(known) => known,
        Err(e) => return findings.note(Err::<String, _>(format!("tunnel {interface}: {e}"))),
    };
    let port = known
        .listen_port
        .map_or("no port yet".into(), |port| format!("port {port}"));
    findings.note(Ok::<_, String>(format!(
        "tunnel {interface}: {port}, {} peers",
        known.peers.len()
    )));
    if let Some(port) = known.listen_port {
        examine_socket(interface, port, findings);
    }
    let full = view.get(interface).map_or(0, |link| link.mtu);
    for peer in &tunnel.peers {
        let in_wireguard = known
            .peers
            .iter()
            .find(|known| known.public_key.0 == *peer.public_key.as_bytes());
        let label = peer.name.as_ref().map_or(peer.public_key.short(), ToString::to_string);
        let Some(in_wireguard) = in_wireguard else {
            findings.note(Err::<String, _>(format!(
                "{interface}: WireGuard has no peer {label}: wg show {interface} peers"
            )));
            continue;
        };
        let own = in_wireguard.endpoint.into_iter().filter(|_| peer.endpoints.is_empty());
        let endpoints: Vec<SocketAddr> = peer.endpoints.iter().copied().chain(own).collect();
        for endpoint in endpoints {
            let text = probing(&label, endpoint, peer.probe, metered, full);
            findings.note(Ok::<_, String>(text));
        }
    }
}

/// Whether a user-space WireGuard keeps up: its socket alone has a queue, and what overflows there no path has lost and no failover saves.
fn examine_socket(interface: &str, port: u16, findings: &mut Findings) {
    // Where the kernel does not tell, there is nothing to say.
    for queue in udp_socket::receive_queues(port).unwrap_or_default() {
        let ReceiveQueue { room, dropped } = queue;
        if dropped > 0 {
            findings.note(Err::<String, _>(format!(
                "tunnel {interface}: its socket dropped {dropped} packets for which it had no room ({room} bytes), as a busy user-space WireGuard's does, and sooner with copies: \
                 `sysctl -w net.core.rmem_default={ROOM}`, then start the WireGuard again"
            )));
        }
    }
}

/// A line on what the probes of one endpoint are, by each uplink; `metered`: some uplink is.
fn probing(label: &str, endpoint: SocketAddr, probe: Probe, metered: bool, tunnel_mtu: u32) -> String {
    let Probe { kind, interval, .. } = probe;
    let family = Family::of(endpoint.ip());
    let full = mtu::outer(tunnel_mtu, family);
    let [in_use, standing_by, spared] = Role::ALL.map(|role| gigabytes(monthly(kind, interval, family, full, role)));
    let spared = if metered {
        format!(" ({spared} if it is metered)")
    } else {
        String::new()
    };
    let back = match kind {
        ProbeKind::Tcp => "half as much",
        ProbeKind::Icmp | ProbeKind::Stamp => "as much",
    };
    format!(
        "{label} at {endpoint}: a probe every {}; in a month {in_use} by the path in use and {standing_by} by each other one{spared}, and {back} back",
        humantime::format_duration(interval)
    )
}

/// What a path does for its peer all month.
#[derive(Clone, Copy, Debug)]
enum Role {
    InUse,
    StandingBy,
    /// Standing by, on a metered uplink.
    Spared,
}

impl Role {
    const ALL: [Self; 3] = [Self::InUse, Self::StandingBy, Self::Spared];
}

/// Bytes of IP packets that the probes of a path are in a month, one way, if the largest are of `full` bytes.
fn monthly(kind: ProbeKind, interval: Duration, family: Family, full: u32, role: Role) -> u64 {
    let in_use = matches!(role, Role::InUse);
    let metered = matches!(role, Role::Spared);
    let pace = Pace { interval, metered };
    let times = |period: Duration| MONTH.as_secs_f64() / period.as_secs_f64();
    let (small, large) = match kind {
        // A SYN and the RST that follows; never padded.
        ProbeKind::Tcp => (2 * prober::syn_len(family), 0),
        ProbeKind::Icmp | ProbeKind::Stamp => (prober::packet_len(family), full),
    };
    let small = times(pace.interval(in_use)) * f64::from(small);
    let large = times(pace.full_size_period(in_use)) * f64::from(large);
    (small + large) as u64
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profile, Word};

    /// An IPv4 packet of 44 bytes every 50 ms, and one of 1480 bytes every 600 ms; by TCP two of 44 bytes each time.
    #[test]
    fn a_month_of_probes_is_counted_packet_by_packet() {
        let day = 24 * 3600;
        let expected = 30 * day * (20 * 44 * 6 + 10 * 1480) / 6;
        assert_eq!(
            monthly(
                ProbeKind::Icmp,
                Duration::from_millis(50),
                Family::V4,
                1480,
                Role::InUse
            ),
            expected
        );
        let expected = 30 * day * (20 * 64 * 6 + 1500) / 6;
        assert_eq!(
            monthly(
                ProbeKind::Icmp,
                Duration::from_millis(50),
                Family::V6,
                1500,
                Role::StandingBy
            ),
            expected
        );
        let expected = 30 * day * (60 * 44 + 1480) / 60;
        assert_eq!(
            monthly(
                ProbeKind::Icmp,
                Duration::from_millis(50),
                Family::V4,
                1480,
                Role::Spared
            ),
            expected
        );
        let expected = 30 * day * 20 * (44 + 44);
        assert_eq!(
            monthly(ProbeKind::Tcp, Duration::from_millis(50), Family::V4, 1480, Role::InUse),
            expected
        );
    }

    #[test]
    fn the_readme_s_table_is_what_the_doctor_reckons() {
        let readme = include_str!("../../README.md");
        for (word, profile) in Profile::KNOWN {
            let [in_use, standing_by, spared] = Role::ALL.map(|role| {
                gigabytes(monthly(
                    ProbeKind::Icmp,
                    profile.probe_interval(),
                    Family::V4,
                    1480,
                    role,
                ))
            });
            let row = format!(
                "| `{word}` | {} | {in_use} | {standing_by} | {spared} |",
                humantime::format_duration(profile.probe_interval())
            );
            assert!(readme.contains(&row), "the README has no row {row}");
        }
    }
}
