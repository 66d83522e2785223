//! A packet as large as the tunnel takes arrives, both ways. WireGuard pads to 16 bytes but never beyond the MTU, so that such a message has a length of its own.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::daemon::Settings;
use wgxdp_tests::host::Host;
use wgxdp_tests::topology::{BRANCH_INNER, Family, HUB_INNER};

use crate::scene::Scene;
use crate::{BOUND, alone};

/// The tunnel's MTU less the inner IPv4 and UDP headers.
const FULL: usize = 1420 - 28;

fn passes(from: (&Host, Ipv4Addr), to: (&Host, Ipv4Addr), len: usize) -> Result<()> {
    let receiver = to.0.enter(|| UdpSocket::bind((to.1, 0)))?;
    receiver.set_read_timeout(Some(BOUND))?;
    let sender = from.0.enter(|| UdpSocket::bind((from.1, 0)))?;
    let sent = vec![0x5a; len];
    sender.send_to(&sent, receiver.local_addr()?)?;
    let mut buffer = [0; 2048];
    let (received, _) = receiver
        .recv_from(&mut buffer)
        .with_context(|| format!("{len} bytes to {}", to.1))?;
    ensure!(
        buffer[..received] == sent,
        "{received} bytes of {len} arrived, or others"
    );
    Ok(())
}

fn all_sizes_pass(family: Family, xdp: &'static str) -> Result<()> {
    let settings = Settings {
        xdp: Some(xdp),
        ..Settings::default()
    };
    let scene = Scene::raise_with(family, &settings)?;
    let (branch, hub) = ((&scene.lab.branch, BRANCH_INNER), (&scene.lab.hub, HUB_INNER));
    for len in [0, 1, FULL - 16, FULL - 1, FULL] {
        scene.log_on_error(passes(branch, hub, len))?;
        scene.log_on_error(passes(hub, branch, len))?;
    }
    Ok(())
}

#[test]
fn a_full_packet_passes_both_ways_over_ipv4_with_guard() -> Result<()> {
    let Some(_alone) = alone("full packets behind guard") else {
        return Ok(());
    };
    all_sizes_pass(Family::V4, "native")
}

#[test]
fn a_full_packet_passes_both_ways_over_ipv6_without_guard() -> Result<()> {
    let Some(_alone) = alone("full packets without guard") else {
        return Ok(());
    };
    all_sizes_pass(Family::V6, "off")
}
