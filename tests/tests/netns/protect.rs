//! Copies while in doubt: what is lost ends with the suspicion and not with the verdict, and no application sees a packet twice. wgxdp runs at the
//! branch alone, so what the branch sends is copied, and what the hub sends goes to where the latest of it came from.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::{Observation, Traffic};
use wgxdp_tests::trial;

use crate::scene::goes_on;
use crate::{BOUND, alone, pace};

/// A tunnel under traffic with a daemon that is ready.
struct Tunnel {
    traffic: Traffic,
    daemon: Daemon,
    lab: Lab,
    interval: Duration,
}

impl Tunnel {
    /// With these lines under `[[tunnel]]`.
    fn raise(family: Family, lines: &str) -> Result<Self> {
        let settings = Settings {
            tunnel: lines.into(),
            // What the machine oversleeps is small beside this.
            probe_interval: 5 * Settings::default().probe_interval,
            ..Settings::default()
        };
        let lab = Lab::raise(family)?;
        let daemon = Daemon::start(&lab, &settings)?;
        Ok(Self {
            traffic: Traffic::start(&lab, pace())?,
            daemon,
            lab,
            interval: settings.probe_interval,
        })
    }

    /// Cuts an uplink and sees all the traffic go on.
    fn cut(&mut self, cut: Cut, uplink: Uplink) -> Result<Observation> {
        let (_, seen) = trial::cut(&mut self.lab, &self.traffic, cut, uplink, BOUND)?;
        self.undisturbed(seen.udp).with_context(|| self.daemon.log().text())?;
        ensure!(seen.tcp_alive, "TCP broke: {:?}", self.traffic.tcp.failure());
        Ok(seen.udp)
    }

    /// Nobody fell silent for long, and nobody heard a packet twice.
    fn undisturbed(&self, seen: Observation) -> Result<()> {
        ensure!(seen.both().duplicated == 0, "an application saw duplicates: {seen:?}");
        goes_on(seen.up).and(goes_on(seen.down))
    }
}

/// The silence that the hub hears when a path dies lies between: a path is suspect 1.75 intervals after its last answer, dead after 3.25, and the answer may
/// have been one interval before the cut.
fn between(interval: Duration) -> Duration {
    interval * 17 / 8
}

fn the_gap_ends_with_the_suspicion(family: Family) -> Result<()> {
    let mut tunnel = Tunnel::raise(family, "")?;
    let up = tunnel.cut(Cut::Blackhole, Uplink::A)?.up;
    ensure!(up.lost > 0 && up.gap < between(tunnel.interval), "{up:?}");
    Ok(())
}

#[test]
fn with_copies_the_gap_ends_with_the_suspicion_over_ipv4() -> Result<()> {
    let Some(_alone) = alone("a black hole under suspicion") else {
        return Ok(());
    };
    the_gap_ends_with_the_suspicion(Family::V4)
}

#[test]
fn with_copies_the_gap_ends_with_the_suspicion_over_ipv6() -> Result<()> {
    let Some(_alone) = alone("a black hole under suspicion over IPv6") else {
        return Ok(());
    };
    the_gap_ends_with_the_suspicion(Family::V6)
}

#[test]
fn without_copies_the_gap_ends_with_the_verdict() -> Result<()> {
    let Some(_alone) = alone("a black hole without copies") else {
        return Ok(());
    };
    let mut tunnel = Tunnel::raise(Family::V4, "protect = \"off\"")?;
    let up = tunnel.cut(Cut::Blackhole, Uplink::A)?.up;
    ensure!(up.gap > between(tunnel.interval), "{up:?}");
    Ok(())
}

/// Whichever of the two paths dies: the other one's copy is there.
#[test]
fn a_tunnel_that_always_copies_loses_nothing_that_it_sends() -> Result<()> {
    let Some(_alone) = alone("black holes under copies") else {
        return Ok(());
    };
    for (lines, uplink) in [
        ("protect = \"always\"", Uplink::A),
        ("policy = \"duplicate\"", Uplink::B),
    ] {
        let mut tunnel = Tunnel::raise(Family::V4, lines)?;
        let up = tunnel.cut(Cut::Blackhole, uplink)?.up;
        ensure!(up.sent > 0 && up.lost == 0, "{} cut: {up:?}", uplink.name());
    }
    Ok(())
}

/// A tenth of the copies is lost, so that for WireGuard at the hub the branch is now here and now there.
#[test]
fn an_endpoint_that_alternates_with_the_copies_disturbs_nobody() -> Result<()> {
    let Some(_alone) = alone("an endpoint that alternates") else {
        return Ok(());
    };
    let mut tunnel = Tunnel::raise(Family::V4, "protect = \"always\"")?;
    let (from_ns, mark) = (tunnel.lab.loss(Uplink::B, 100)?, tunnel.traffic.tcp.mark());
    for uplink in [Uplink::A, Uplink::B, Uplink::A, Uplink::B] {
        let what = format!("the hub to see the branch on {}", uplink.name());
        poll::wait_until(&what, BOUND, || Ok(tunnel.lab.uplink_in_use()? == Some(uplink)))?;
    }
    tunnel.traffic.await_udp(now_ns(), BOUND)?;
    tunnel.traffic.tcp.await_life(mark, BOUND)?;
    let seen = tunnel.traffic.observe_since(from_ns)?;
    tunnel.undisturbed(seen)?;
    ensure!(seen.up.lost == 0, "{:?}", seen.up);
    Ok(())
}
