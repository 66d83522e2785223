//! What `wgxdp status` prints.
//!
//! ```text
//! wgxdp 0.1.0 runs since 2026-05-03T12:00:00Z, pid 4711
//!
//! UPLINK  INTERFACE  ADDRESS    GATEWAY    STATE
//! isp-a   eth0       192.0.2.2  192.0.2.1  up
//! lte     wwan0      -          -          absent (no device)
//!
//! wg0, port 51820: hq via isp-a
//!    UPLINK  ENDPOINT            STATE      RTT     LOSS  LAST PROOF     SENT  RECEIVED
//! *  isp-a   198.51.100.1:51820  up     12.5 ms    0.0 %      9.0 ms  1.4 KiB   3.4 MiB
//!    lte     198.51.100.1:51820  down         -  100.0 %         15m      0 B       0 B
//! ```
//!
//! | found on this host | table | `--json` | exit code |
//! |---|---|---|---|
//! | maps and their names | to stdout | the snapshot | 0 |
//! | maps without names | the reason, to stderr | empty lists | 1 |
//! | nothing | the reason, to stderr | empty lists | 3 |

mod found;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::time::Duration;

use crate::snapshot::{Daemon, Path, Peer, STATE_FILE, Snapshot, Tunnel, Uplink};

pub use found::{FindError, find};

/// The exit code where there is no wgxdp.
pub const EXIT_NOTHING: u8 = 3;
/// The exit code where there is something that cannot be told.
pub const EXIT_UNNAMED: u8 = 1;

/// What there is on this host.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Neither pinned maps nor a daemon.
    Nothing,
    /// Pinned maps or a daemon, but no file that says what the entries are called.
    Unnamed(Daemon),
    /// Something to show.
    Wgxdp(Snapshot),
}

/// What the command leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// For stdout.
    pub stdout: String,
    /// For stderr.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

/// What to print, as JSON or as a table.
#[must_use]
pub fn output(found: Found, json: bool) -> Output {
    let (snapshot, stderr, code) = match found {
        Found::Wgxdp(snapshot) => (snapshot, String::new(), 0),
        Found::Nothing => (Snapshot::empty(Daemon::stopped()), nothing(), EXIT_NOTHING),
        Found::Unnamed(daemon) => {
            let stderr = unnamed(&daemon);
            (Snapshot::empty(daemon), stderr, EXIT_UNNAMED)
        }
    };
    let stdout = match (json, code) {
        (true, _) => format!("{}\n", as_json(&snapshot)),
        (false, 0) => table(&snapshot),
        (false, _) => String::new(),
    };
    Output { stdout, stderr, code }
}

fn nothing() -> String {
    "wgxdp: not running on this host, and nothing of it is left in the kernel; `wgxdp run` starts it\n".to_owned()
}

fn unnamed(daemon: &Daemon) -> String {
    if daemon.running {
        format!("wgxdp: the daemon is starting or leaving: it has no {STATE_FILE} at the moment; ask again\n")
    } else {
        format!(
            "wgxdp: not running, but its programs are still in the kernel; {STATE_FILE}, which says what their numbers mean, \
             is missing. `wgxdp run` takes over, `wgxdp down` removes them\n"
        )
    }
}

/// One line.
fn as_json(snapshot: &Snapshot) -> String {
    serde_json::to_string(snapshot).expect("names and numbers have a JSON form")
}

/// The table, for people.
fn table(snapshot: &Snapshot) -> String {
    let mut text = daemon_line(&snapshot.daemon);
    if !snapshot.uplinks.is_empty() {
        text.push('\n');
        let header = ["UPLINK", "INTERFACE", "ADDRESS", "GATEWAY", "STATE"].map(left);
        let rows = snapshot.uplinks.iter().flat_map(uplink_rows);
        align(&mut text, header, rows);
    }
    for (tunnel, peer) in snapshot
        .tunnels
        .iter()
        .flat_map(|tunnel| tunnel.peers.iter().map(move |peer| (tunnel, peer)))
    {
        peer_table(&mut text, tunnel, peer);
    }
    for tunnel in snapshot.tunnels.iter().filter(|tunnel| tunnel.peers.is_empty()) {
        let _ = writeln!(
            text,
            "\n{}, port {}: no peers",
            printable(&tunnel.interface),
            tunnel.listen_port
        );
    }
    text
}

fn daemon_line(daemon: &Daemon) -> String {
    if !daemon.running {
        return "wgxdp is not running. Its programs in the kernel steer on by themselves; nobody probes, so states are as of the last \
                proof.\n"
            .to_owned();
    }
    let mut line = "wgxdp ".to_owned();
    if let Some(version) = &daemon.version {
        let _ = write!(line, "{} ", printable(version));
    }
    line.push_str("runs");
    if let Some(since) = daemon.since {
        let _ = write!(line, " since {}", humantime::format_rfc3339_seconds(since));
    }
    if let Some(pid) = daemon.pid {
        let _ = write!(line, ", pid {pid}");
    }
    line.push('\n');
    line
}

/// A row for each address family.
fn uplink_rows(uplink: &Uplink) -> Vec<[Cell; 5]> {
    let state = match uplink.reason {
        Some(reason) if reason.as_str() != uplink.state.as_str() => {
            format!("{} ({})", uplink.state.as_str(), reason.as_str())
        }
        _ => uplink.state.as_str().to_owned(),
    };
    let gateway_for = |v4: bool| uplink.gateways.iter().find(|gateway| gateway.is_ipv4() == v4);
    let mut rows: Vec<[Cell; 5]> = uplink
        .addresses
        .iter()
        .map(|address| {
            let gateway = or_dash(gateway_for(address.is_ipv4()));
            [left(""), left(""), left(address), left(gateway), left("")]
        })
        .collect();
    if rows.is_empty() {
        rows.push([left(""), left(""), left("-"), left("-"), left("")]);
    }
    rows[0][0] = left(printable(&uplink.name));
    rows[0][1] = left(printable(&uplink.interface));
    rows[0][4] = left(state);
    rows
}

fn peer_table(text: &mut String, tunnel: &Tunnel, peer: &Peer) {
    let via = match &peer.active_uplink {
        Some(uplink) => format!("via {}", printable(uplink)),
        None => "nothing sent yet".to_owned(),
    };
    let (interface, name) = (printable(&tunnel.interface), printable(&peer.name));
    let _ = writeln!(text, "\n{interface}, port {}: {name} {via}", tunnel.listen_port);
    if peer.paths.is_empty() {
        text.push_str("   no paths\n");
        return;
    }
    let header = [left(""), left("UPLINK"), left("ENDPOINT"), left("STATE")];
    let numbers = ["RTT", "LOSS", "LAST PROOF", "SENT", "RECEIVED"].map(right);
    let header: [Cell; 9] = join(header, numbers);
    align(text, header, peer.paths.iter().map(path_row));
}

fn path_row(path: &Path) -> [Cell; 9] {
    let words = [
        left(if path.active { "*" } else { "" }),
        left(printable(&path.uplink)),
        left(path.endpoint),
        left(path_state(path)),
    ];
    let numbers = [
        right(or_dash(path.rtt_ms.map(milliseconds))),
        right(or_dash(path.loss.map(percent))),
        right(path.silence_ms.map_or_else(|| "never".to_owned(), milliseconds)),
        right(bytes(path.tx_bytes)),
        right(bytes(path.rx_bytes)),
    ];
    join(words, numbers)
}

/// `down (stall)`
fn path_state(path: &Path) -> String {
    let state = path.state.as_str();
    path.reason
        .map_or_else(|| state.to_owned(), |reason| format!("{state} ({})", reason.as_str()))
}

fn join<const A: usize, const B: usize, const N: usize>(a: [Cell; A], b: [Cell; B]) -> [Cell; N] {
    const { assert!(A + B == N, "every cell has its column") };
    let mut cells = a.into_iter().chain(b);
    std::array::from_fn(|_| cells.next().expect("A + B cells"))
}

struct Cell {
    text: String,
    right: bool,
}

fn left(text: impl ToString) -> Cell {
    Cell {
        text: text.to_string(),
        right: false,
    }
}

fn right(text: impl ToString) -> Cell {
    Cell {
        text: text.to_string(),
        right: true,
    }
}

/// Appends the rows, each column as wide as its widest cell.
fn align<const N: usize>(text: &mut String, header: [Cell; N], rows: impl Iterator<Item = [Cell; N]>) {
    let rows: Vec<[Cell; N]> = std::iter::once(header).chain(rows).collect();
    let width = |cell: &Cell| cell.text.chars().count();
    let widths: [usize; N] = std::array::from_fn(|i| rows.iter().map(|row| width(&row[i])).max().unwrap_or(0));
    for row in &rows {
        let mut line = String::new();
        for (i, (cell, room)) in row.iter().zip(widths).enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let _ = match cell.right {
                true => write!(line, "{gap}{:>room$}", cell.text),
                false => write!(line, "{gap}{:<room$}", cell.text),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Names as a terminal may show them: control characters, which could rewrite the screen, are escaped.
fn printable(name: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    name.chars().map(escape).collect()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// One decimal below a hundred seconds, whole seconds beyond.
fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 1_000.0 => format!("{ms:.1} ms"),
        ms if ms < 100_000.0 => format!("{:.1} s", ms / 1e3),
        ms => humantime::format_duration(Duration::from_secs((ms / 1e3) as u64)).to_string(),
    }
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    for unit in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        value /= 1024.0;
        // From here on it would be shown as 1024.0.
        if value < 1023.95 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} EiB", value / 1024.0)
}
