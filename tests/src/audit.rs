//! What is on a host, before and after: what the daemon adds it must remove, and what is not its own it must not touch.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;

use crate::host::Host;

/// The daemon's own routing table.
const OWN_TABLE: &str = "table 5747";
/// The daemon's own device (its peer, where it is a veth, ends in `p`): the kernel adds routes of its own for its
/// addresses.
const OWN_DEVICE: &str = "dev wgxdp0";

/// What is on a host: a line for each thing, so that two snapshots differ by lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

/// How two snapshots differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// What the later one has more.
    pub added: Vec<String>,
    /// What it has no more.
    pub removed: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.added.iter().try_for_each(|line| writeln!(f, "+ {line}"))?;
        self.removed.iter().try_for_each(|line| writeln!(f, "- {line}"))
    }
}

impl Snapshot {
    /// Everything: rules, routes of all tables, devices with their MTU and XDP programs, clsact and its filters, tcx
    /// programs, neighbours that someone manages, pins, and processes.
    ///
    /// # Errors
    /// `ip` or `tc` failed.
    pub fn take(host: &Host) -> Result<Self> {
        let mut lines = Self::routes(host)?.lines;
        for family in ["-4", "-6"] {
            let rules = host.run("ip", &[family, "-details", "rule"])?;
            lines.extend(tagged(&format!("rule {family}"), &rules));
            let neighbours = host.run("ip", &[family, "-details", "neigh", "show"])?;
            let managed = neighbours
                .lines()
                .filter(|line| ["managed", "proto", "PERMANENT"].iter().any(|w| line.contains(w)));
            lines.extend(managed.map(|line| format!("neigh {family}: {}", settled(line))));
        }
        let devices = devices(host)?;
        for device in &devices {
            lines.insert(format!("link: {}", device.line));
            lines.extend(device.xdp.iter().map(|xdp| format!("xdp {}: {xdp}", device.name)));
        }
        let qdiscs = host.run("tc", &["qdisc", "show"])?;
        lines.extend(
            qdiscs
                .lines()
                .filter(|line| line.contains("clsact"))
                .map(|line| format!("qdisc: {}", line.trim())),
        );
        for device in &devices {
            for direction in ["ingress", "egress"] {
                let filters = host.run("tc", &["filter", "show", "dev", &device.name, direction])?;
                lines.extend(tagged(&format!("filter {} {direction}", device.name), &filters));
            }
        }
        host.enter(|| {
            lines.extend(devices.iter().flat_map(|device| tcx(&device.name)));
            pins(Path::new("/sys/fs/bpf"), &mut lines)
        })?;
        lines.extend(processes(host)?);
        Ok(Self { lines })
    }

    /// The routes that are nobody's business but the host's: all but those of the daemon's own table and device.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn foreign_routes(host: &Host) -> Result<Self> {
        let mut routes = Self::routes(host)?;
        routes
            .lines
            .retain(|line| !line.contains(OWN_TABLE) && !line.contains(OWN_DEVICE));
        Ok(routes)
    }

    fn routes(host: &Host) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for family in ["-4", "-6"] {
            let routes = host.run("ip", &[family, "-details", "route", "show", "table", "all"])?;
            lines.extend(tagged(&format!("route {family}"), &routes));
        }
        Ok(Self { lines })
    }

    /// How `later` differs from this.
    pub fn difference(&self, later: &Self) -> Difference {
        let added = later.lines.difference(&self.lines).cloned().collect();
        let removed = self.lines.difference(&later.lines).cloned().collect();
        Difference { added, removed }
    }
}

fn tagged(tag: &str, text: &str) -> Vec<String> {
    text.lines().map(|line| format!("{tag}: {}", line.trim())).collect()
}

/// A neighbour without its state, which changes by itself.
fn settled(line: &str) -> String {
    let states = ["REACHABLE", "STALE", "DELAY", "PROBE", "INCOMPLETE", "FAILED"];
    line.split_whitespace()
        .filter(|word| !states.contains(word))
        .collect::<Vec<_>>()
        .join(" ")
}

struct Device {
    name: String,
    line: String,
    /// Its XDP program.
    xdp: Option<String>,
}

fn devices(host: &Host) -> Result<Vec<Device>> {
    let shown = host.run("ip", &["-details", "-json", "link", "show"])?;
    let shown: Vec<Value> = serde_json::from_str(&shown).context("`ip -json link show`")?;
    let device = |link: &Value| {
        let name = link
            .get("ifname")
            .and_then(Value::as_str)
            .context("a link without a name")?
            .to_owned();
        let details =
            ["ifindex", "ifalias", "mtu", "promiscuity"].map(|key| link.get(key).unwrap_or(&Value::Null).to_string());
        Ok(Device {
            line: format!("{name} {}", details.join(" ")),
            xdp: link.get("xdp").map(ToString::to_string),
            name,
        })
    };
    shown.iter().map(device).collect()
}

/// Programs on tcx; a kernel before 6.6 has none.
fn tcx(device: &str) -> Vec<String> {
    let directions = [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)];
    let mut lines = Vec::new();
    for (direction, attach_type) in directions {
        let Ok((_, programs)) = SchedClassifier::query_tcx(device, attach_type) else {
            continue;
        };
        let name = |program: &aya::programs::ProgramInfo| program.name_as_str().unwrap_or("?").to_owned();
        lines.extend(
            programs
                .iter()
                .map(|program| format!("tcx {device} {direction}: {}", name(program))),
        );
    }
    lines
}

fn pins(folder: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        lines.insert(format!("pin: {}", path.display()));
        if path.is_dir() {
            pins(&path, lines)?;
        }
    }
    Ok(())
}

/// Processes in the host's network namespace, by name and id.
fn processes(host: &Host) -> Result<Vec<String>> {
    let inode = host.netns_inode()?;
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // Not a process, or one that has ended meanwhile.
        let Ok(namespace) = fs::metadata(path.join("ns/net")) else {
            continue;
        };
        if namespace.ino() == inode {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let pid = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            lines.push(format!("process: {} {pid}", name.trim()));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(lines: &[&str]) -> Snapshot {
        Snapshot {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn what_came_and_what_went_are_both_named() {
        let difference = snapshot(&["a", "b"]).difference(&snapshot(&["b", "c"]));
        assert_eq!(difference.to_string(), "+ c\n- a\n");
        assert!(!difference.is_empty());
    }

    #[test]
    fn the_same_twice_is_no_difference() {
        assert!(snapshot(&["a"]).difference(&snapshot(&["a"])).is_empty());
    }

    #[test]
    fn a_neighbour_that_turns_stale_is_the_same_neighbour() {
        let [reachable, stale] =
            ["REACHABLE", "STALE"].map(|state| settled(&format!("192.0.2.1 dev isp-a managed {state}")));
        assert_eq!(reachable, stale);
    }
}
