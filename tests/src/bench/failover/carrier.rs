//! What moves the tunnel's packets when an uplink dies: wgxdp, or what operators have without it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use wgxdp::config::Profile;

use super::follower::Follower;
use super::frr::{self, Frr};
use crate::daemon::{Daemon, uplinks_toml};
use crate::far_end;
use crate::poll;
use crate::process::Process;
use crate::topology::{Lab, Uplink};
use crate::wireguard::INTERFACE;

/// What the watchdog does, and how often.
const WATCHDOG: &str = include_str!("watchdog.sh");
const WATCHDOG_EVERY: Duration = Duration::from_secs(1);
/// How long the watchdog may take to set its route, and a far end to know its paths.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was under way when the daemon stopped has arrived after this.
const SETTLED: Duration = Duration::from_millis(200);

/// Cut follows on cut: the hold-down is short and does not grow.
const DETECTION: &str = "[detection]\nhold-down = \"300ms\"\nmax-hold-down = \"300ms\"\n";

/// What carries the tunnel's packets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Carrier {
    /// wgxdp in the branch.
    Wgxdp(Configuration),
    /// The same, but its daemon is stopped (SIGSTOP) before each cut, and goes on after it.
    Stopped(Configuration),
    /// Plain WireGuard, with a default route of metric 200 by isp-b.
    Plain,
    /// The same, with a script that pings and swaps routes.
    Watchdog,
    /// The same, with FRR's BFD, BGP and zebra.
    Frr,
}

/// The parts of wgxdp's configuration that differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Configuration {
    /// How often it probes.
    pub(super) profile: Profile,
    /// Lines under `[[tunnel]]`.
    pub(super) tunnel: &'static str,
    /// Lines under `[[tunnel.peer]]`.
    pub(super) peer: &'static str,
    /// Whether wgxdp runs at the hub, too, with the same lines.
    pub(super) far_end: bool,
}

impl Configuration {
    /// A profile, and all else as it is by default.
    pub(super) const fn of(profile: Profile) -> Self {
        Self {
            profile,
            tunnel: "",
            peer: "",
            far_end: false,
        }
    }

    /// With these lines under `[[tunnel]]`.
    pub(super) const fn with_tunnel(self, tunnel: &'static str) -> Self {
        Self { tunnel, ..self }
    }

    /// With wgxdp at both ends, which probe each other in band.
    pub(super) const fn at_both_ends(self) -> Self {
        Self {
            peer: "probe = { kind = \"stamp\" }",
            far_end: true,
            ..self
        }
    }

    /// The daemon at the hub.
    fn start_far_end(&self, lab: &Lab) -> Result<Option<Daemon>> {
        if !self.far_end {
            return Ok(None);
        }
        let top = format!("profile = \"{}\"\n", self.profile);
        far_end::start(lab, &top, self.tunnel, &format!("{}\n{DETECTION}", self.peer)).map(Some)
    }

    /// The file for `lab`.
    fn toml(&self, lab: &Lab) -> String {
        let Self {
            profile, tunnel, peer, ..
        } = self;
        format!(
            "profile = \"{profile}\"\n{}[[tunnel]]\ninterface = \"{INTERFACE}\"\n{tunnel}\n[[tunnel.peer]]\npublic-key = \"{}\"\nname = \"hub\"\n\
             endpoints = [\"{}\"]\n{peer}\n{DETECTION}",
            uplinks_toml(None),
            lab.hub_public_key(),
            lab.hub_endpoint(),
        )
    }
}

impl Carrier {
    /// Fails where it cannot be had on this machine.
    pub(super) fn available(self) -> Result<()> {
        match self {
            Self::Wgxdp(_) | Self::Stopped(_) | Self::Plain => Ok(()),
            Self::Watchdog => {
                let found = Command::new("ping").arg("-V").stdout(Stdio::null()).status();
                found.map(drop).context("no ping: install iputils-ping")
            }
            Self::Frr => frr::root().map(drop),
        }
    }

    /// The time after which its look at the uplinks repeats.
    pub(super) fn period(self) -> Duration {
        match self {
            Self::Wgxdp(configuration) | Self::Stopped(configuration) => configuration.profile.probe_interval(),
            Self::Plain | Self::Frr => frr::INTERVAL,
            Self::Watchdog => WATCHDOG_EVERY,
        }
    }

    /// Whether the tunnel comes back to a healed uplink by itself, soon and however the cut was. wgxdp promises that, the others do not.
    pub(super) fn returns(self) -> bool {
        matches!(self, Self::Wgxdp(_) | Self::Stopped(_))
    }

    /// Starts it and waits until it is ready.
    pub(super) fn start(self, lab: &Lab) -> Result<Running> {
        Ok(match self {
            Self::Wgxdp(configuration) | Self::Stopped(configuration) => {
                let far_end = configuration.start_far_end(lab)?;
                let daemon = Daemon::start_in(&lab.branch, &configuration.toml(lab))?;
                if let Some(hub) = &far_end {
                    far_end::await_knowledge(hub, PATIENCE).with_context(|| hub.log().text())?;
                }
                Running::Wgxdp {
                    daemon,
                    far_end,
                    stops: matches!(self, Self::Stopped(_)),
                }
            }
            Self::Plain => Running::Plain,
            Self::Watchdog => Running::Watchdog(watchdog(lab)?, Follower::start(lab)?),
            Self::Frr => Running::Frr(Frr::start(lab)?, Follower::start(lab)?),
        })
    }
}

/// A carrier at work; dropped, it ends.
#[derive(Debug)]
pub(super) enum Running {
    Wgxdp {
        daemon: Daemon,
        far_end: Option<Daemon>,
        stops: bool,
    },
    Plain,
    #[expect(dead_code, reason = "both are held for their ends")]
    Watchdog(Process, Option<Follower>),
    #[expect(dead_code, reason = "both are held for their ends")]
    Frr(Frr, Option<Follower>),
}

impl Running {
    /// What is to happen before a cut.
    pub(super) fn before_cut(&self) -> Result<()> {
        if let Self::Wgxdp {
            daemon, stops: true, ..
        } = self
        {
            daemon.signal(Signal::SIGSTOP)?;
            poll::observe_for(SETTLED)?;
        }
        Ok(())
    }

    /// What is to happen after a cut was measured.
    pub(super) fn after_cut(&self) -> Result<()> {
        match self {
            Self::Wgxdp {
                daemon, stops: true, ..
            } => daemon.signal(Signal::SIGCONT),
            _ => Ok(()),
        }
    }

    /// What it has to say about an error.
    pub(super) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        match self {
            Self::Wgxdp { daemon, far_end, .. } => outcome.with_context(|| {
                let far_end = far_end.iter().map(|hub| hub.log().text());
                let logs: Vec<String> = [daemon.log().text()].into_iter().chain(far_end).collect();
                logs.join("\n")
            }),
            Self::Plain | Self::Watchdog(..) | Self::Frr(..) => outcome,
        }
    }
}

/// Starts the watchdog in the branch. What it pings by the uplink that is not preferred is answered by that uplink, which strict rp_filter forbids.
///
/// Killed, it leaves a `ping` or a `sleep` behind for a second at most.
fn watchdog(lab: &Lab) -> Result<Process> {
    lab.branch.sysctl(&[("net/ipv4/conf/all/rp_filter", "2")])?;
    let script = "/run/watchdog.sh";
    lab.branch.write(script, WATCHDOG)?;
    let gateways = Uplink::ALL.map(|uplink| format!("{}.1", uplink.subnets().0));
    let mut command = lab.branch.command("sh");
    command
        .arg(script)
        .arg(lab.hub_endpoint().ip().to_string())
        .args(gateways);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let watchdog = Process::spawn("the watchdog", command)?;
    poll::wait_until("the watchdog's route", PATIENCE, || {
        let routes = lab.branch.run("ip", &["route", "show", "default", "metric", "50"])?;
        Ok(!routes.is_empty())
    })?;
    Ok(watchdog)
}
