//! XDP on a laboratory's device: what is attached there, and a program of somebody else's.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use serde_json::Value;

use crate::host::Host;
use crate::impair::{PROGRAMS, program};

/// An attached program, as `ip` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Who runs it.
    pub run_by: RunBy,
    /// Its name.
    pub name: String,
    /// Its id, one for each time that it was loaded.
    pub id: u64,
}

/// Who runs an XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunBy {
    /// The device's driver.
    Driver,
    /// The kernel behind it.
    Kernel,
}

/// The program on a device, if there is one.
///
/// # Errors
/// There is no such device, or `ip` says what it never said before.
pub fn attached(host: &Host, device: &str) -> Result<Option<Attached>> {
    let shown = host.run("ip", &["-details", "-json", "link", "show", "dev", device])?;
    let links: Vec<Value> = serde_json::from_str(&shown).context("`ip -json link show`")?;
    let Some(xdp) = links.iter().find_map(|link| link.get("xdp")) else {
        return Ok(None);
    };
    let number = |pointer: &str| xdp.pointer(pointer).and_then(Value::as_u64);
    let run_by = match number("/mode") {
        // XDP_ATTACHED_DRV and XDP_ATTACHED_SKB (linux/if_link.h).
        Some(1) => RunBy::Driver,
        Some(2) => RunBy::Kernel,
        _ => anyhow::bail!("an unknown mode in {xdp}"),
    };
    let name = xdp.pointer("/prog/name").and_then(Value::as_str);
    Ok(Some(Attached {
        run_by,
        name: name.with_context(|| format!("no name in {xdp}"))?.to_owned(),
        id: number("/prog/id").with_context(|| format!("no id in {xdp}"))?,
    }))
}

/// Somebody else's program on a device, until it is dropped. It lets everything pass.
#[derive(Debug)]
pub struct Foreign {
    _programs: Ebpf,
}

impl Foreign {
    /// Its name.
    pub const NAME: &str = "empty_xdp";

    /// Has the device's driver run it.
    ///
    /// # Errors
    /// There is no such device, or its driver refused.
    pub fn attach(host: &Host, device: &str) -> Result<Self> {
        let mut programs = Ebpf::load(PROGRAMS).context("loading the laboratory's programs (needs root)")?;
        let program: &mut Xdp = program(&mut programs, Self::NAME)?;
        program.load().context("loading it")?;
        host.enter(|| program.attach(device, XdpMode::Driver))
            .with_context(|| format!("attaching {} to {device} in {}", Self::NAME, host.name()))?;
        Ok(Self { _programs: programs })
    }
}
