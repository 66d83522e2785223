//! Copies while in doubt: what is lost ends with the suspicion and not with the verdict, and no application sees a packet twice. wgxdp runs at the
//! branch alone, so what the branch sends is copied, and what the hub sends goes to where the latest of it came from.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp::dataplane::{Pins, Tables};
use wgxdp_common::id::{PathId, PeerId};
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
}

impl Tunnel {
    /// With these lines under `[[tunnel]]`.
    fn raise(family: Family, lines: &str) -> Result<Self> {
        let settings = Settings {
            tunnel: lines.into(),
            ..Settings::default()
        };
        let lab = Lab::raise(family)?;
        let daemon = Daemon::start(&lab, &settings)?;
        Ok(Self {
            traffic: Traffic::start(&lab, pace())?,
            daemon,
            lab,
        })
    }

    /// Cuts an uplink and sees all the traffic go on.
    fn cut(&mut self, uplink: Uplink) -> Result<Observation> {
        let (_, seen) = trial::cut(&mut self.lab, &self.traffic, Cut::Blackhole, uplink, BOUND)?;
        undisturbed(seen.udp).with_context(|| self.daemon.log().text())?;
        ensure!(seen.tcp_alive, "TCP broke: {:?}", self.traffic.tcp.failure());
        Ok(seen.udp)
    }

    /// Cuts isp-a. When the hub first heard what was sent after that, and when isp-a was found dead, by whoever was first: `steer` or the daemon.
    fn heard_and_condemned(&mut self) -> Result<(u64, u64)> {
        let mark = self.traffic.tcp.mark();
        let skip = self.daemon.log().since(0).len();
        let _severed = self.lab.cut(Cut::Blackhole, Uplink::A)?;
        let cut_ns = now_ns();
        let verdict = self.daemon.await_line("isp-a down after ", skip, BOUND)?;
        let tables = self.lab.branch.enter(|| Tables::pinned(&Pins::default()))?;
        let condemned_ns = tables.proof(PathId::new(PeerId(0), 0)).proof_ns + silence(&verdict)?.as_nanos() as u64;
        self.traffic.await_udp(cut_ns, BOUND)?;
        self.traffic.tcp.await_life(mark, BOUND)?;
        undisturbed(self.traffic.observe_since(cut_ns)?)?;
        let heard = self.traffic.up.first_delivery_since(cut_ns);
        Ok((heard.context("it has just been seen")?.at_ns, condemned_ns))
    }
}

/// The silence of "… down after 325 ms silence …", of which the log leaves fractions out.
fn silence(verdict: &str) -> Result<Duration> {
    let words = verdict.split(" down after ").nth(1).context("no verdict")?;
    let (number, unit) = words.split_once(' ').context("no unit")?;
    let number: f64 = number.parse().with_context(|| verdict.to_owned())?;
    let seconds = if unit.starts_with("ms") { number / 1e3 } else { number };
    Ok(Duration::from_secs_f64(seconds))
}

/// All goes on, and nobody heard a packet twice.
fn undisturbed(seen: Observation) -> Result<()> {
    let both = seen.both();
    ensure!(!both.silent, "the tunnel fell silent: {seen:?}");
    ensure!(both.duplicated == 0, "an application saw duplicates: {seen:?}");
    Ok(())
}

fn the_gap_ends_before_the_verdict(family: Family) -> Result<()> {
    let mut tunnel = Tunnel::raise(family, "")?;
    let (heard_ns, condemned_ns) = tunnel.heard_and_condemned()?;
    ensure!(
        heard_ns < condemned_ns,
        "the hub heard nothing until {} ns after the verdict",
        heard_ns - condemned_ns
    );
    Ok(())
}

#[test]
fn with_copies_the_gap_ends_before_the_verdict_over_ipv4() -> Result<()> {
    let Some(_alone) = alone("a black hole under suspicion") else {
        return Ok(());
    };
    the_gap_ends_before_the_verdict(Family::V4)
}

#[test]
fn with_copies_the_gap_ends_before_the_verdict_over_ipv6() -> Result<()> {
    let Some(_alone) = alone("a black hole under suspicion over IPv6") else {
        return Ok(());
    };
    the_gap_ends_before_the_verdict(Family::V6)
}

#[test]
fn without_copies_the_gap_ends_with_the_verdict() -> Result<()> {
    let Some(_alone) = alone("a black hole without copies") else {
        return Ok(());
    };
    let mut tunnel = Tunnel::raise(Family::V4, "protect = \"off\"")?;
    let (heard_ns, condemned_ns) = tunnel.heard_and_condemned()?;
    ensure!(
        heard_ns > condemned_ns,
        "the hub heard something {} ns before the verdict",
        condemned_ns - heard_ns
    );
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
        let up = tunnel.cut(uplink)?.up;
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
    undisturbed(seen)?;
    ensure!(seen.up.lost == 0, "{:?}", seen.up);
    Ok(())
}
