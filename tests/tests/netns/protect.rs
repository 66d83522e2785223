//! Copies while in doubt: what is lost ends with the suspicion and not with the verdict, and no application sees a packet twice. wgxdp runs at the
//! branch alone, so what the branch sends is copied, and what the hub sends goes to where the latest of it came from.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp::dataplane::{Pins, Tables};
use wgxdp::snapshot::Readings as _;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::liveness::Thresholds;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::{Observation, Traffic};
use wgxdp_tests::trial;

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

    /// All goes on, and nobody heard a packet twice.
    fn undisturbed(&self, seen: Observation) -> Result<()> {
        let both = seen.both();
        ensure!(!both.silent, "the tunnel fell silent: {seen:?}");
        ensure!(both.duplicated == 0, "an application saw duplicates: {seen:?}");
        Ok(())
    }

    /// A silence between those that the hub hears when isp-a dies, with copies and without. The verdict comes 1.5 intervals after the suspicion, of which one
    /// may have passed before the cut: this is within the half that is left, nearer to its end, because the machine may be late.
    fn between(&self) -> Result<Duration> {
        let path = PathId::new(PeerId(0), 0);
        let tables = || Ok(Tables::pinned(&Pins::default())?.path(path)?.thresholds);
        let thresholds = self.lab.branch.enter(|| -> Result<Thresholds> { tables() })?;
        Ok(Duration::from_nanos(thresholds.suspect_after_ns()) + self.interval * 3 / 8)
    }
}

fn the_gap_ends_with_the_suspicion(family: Family) -> Result<()> {
    let mut tunnel = Tunnel::raise(family, "")?;
    let up = tunnel.cut(Cut::Blackhole, Uplink::A)?.up;
    let between = tunnel.between()?;
    ensure!(
        up.lost > 0 && up.gap < between,
        "a silence beyond {between:?}: {up:?}\n{}",
        tunnel.daemon.log().text()
    );
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
    let between = tunnel.between()?;
    ensure!(up.gap > between, "no silence beyond {between:?}: {up:?}");
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
