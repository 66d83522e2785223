//! What the figures were measured on.

use std::fs;

use anyhow::Result;

use crate::host::Host;
use crate::privilege;
use crate::wireguard::{INTERFACE, Implementation};

/// The machine in one line: kernel, processor, whether QEMU plays it, load, WireGuard.
///
/// # Errors
/// No host of the laboratory could be made to look for the kernel's WireGuard.
pub fn describe() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let emulated = if privilege::emulated() { " (emulated)" } else { "" };
    let build = if cfg!(debug_assertions) { ", debug build" } else { "" };
    Ok(format!(
        "Linux {}, {} × {cores}{emulated}, load {}, {}{build}",
        kernel.trim(),
        model(&processors).unwrap_or("unknown processor"),
        load.split(' ').next().unwrap_or("unknown"),
        wireguard()?,
    ))
}

/// The first processor's name.
fn model(cpuinfo: &str) -> Option<&str> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(key, _)| key.trim() == "model name")
        .map(|(_, name)| name.trim())
}

/// Who would carry a tunnel's packets here; found by trying.
fn wireguard() -> Result<Implementation> {
    let host = Host::new("nobody")?;
    let made = host.run("ip", &["link", "add", INTERFACE, "type", "wireguard"]);
    Ok(made.map_or(Implementation::WireguardGo, |_| Implementation::Kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_by_its_model() {
        let cpuinfo =
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n";
        assert_eq!(model(cpuinfo), Some("AMD EPYC"));
        assert_eq!(model("CPU part\t: 0xd0c\n"), None);
    }
}
