//! `lab run`: the main job, shown. Raises the laboratory, runs the daemon in it, and cuts isp-a under traffic in several ways, each of
//! which plain WireGuard must suffer too, in a laboratory of its own.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{self, Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::traffic::{Pace, Traffic};
use wgxdp_tests::trial::{self, Measured};

use crate::live::{Screen, during};
use crate::outcome::{CutLine, Kind, Outcome, SummaryLine, faults, millis};
use crate::table;

/// How long a cut is watched when nothing comes back.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the traffic may take to return, hold-down included.
const RETURN_BOUND: Duration = Duration::from_secs(20);

/// How long the traffic is watched before the first cut: what this machine itself adds to every gap.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// Options of `lab run`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Cuts of each kind
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: u32,
    /// A kind of cut, may be given several times [default: blackhole, carrier_loss, delete]
    #[arg(long = "kind", value_name = "KIND", value_parser = parse_cut)]
    kinds: Vec<Cut>,
    /// Carry the tunnel over IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,
    /// Print one JSON object for each cut and a summary to standard output, everything else to standard error
    #[arg(long)]
    json: bool,
}

/// The path dies, the link dies, the device dies.
const DEFAULT_KINDS: [Cut; 3] = [Cut::Blackhole, Cut::CarrierLoss, Cut::Delete];

fn parse_cut(name: &str) -> Result<Cut, String> {
    let known = Cut::ALL.into_iter().find(|cut| cut.name() == name);
    known.ok_or_else(|| format!("known kinds are {}", Cut::ALL.map(Cut::name).join(", ")))
}

/// Runs and says whether the verdict is good.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the laboratory makes network namespaces and needs root: try again with sudo"
    );
    let binary = daemon::binary()?;
    let screen = Screen::new(options.json);
    let family = if options.ipv6 { Family::V6 } else { Family::V4 };
    let chosen = if options.kinds.is_empty() {
        DEFAULT_KINDS.to_vec()
    } else {
        options.kinds.clone()
    };

    let mut lab = Lab::raise(family)?;
    let carrier = lab.branch_wg.implementation();
    screen.say(&format!(
        "laboratory: branch ═ isp-a, isp-b ═ hub; a tunnel by {carrier} over {family}"
    ));
    let daemon = Daemon::start(&lab, &Settings::default())?;
    screen.say(&format!(
        "{} runs in the branch: uplinks isp-a (preferred) and isp-b",
        binary.display()
    ));
    let traffic = Traffic::start(&lab, Pace::Full)?;
    screen.say("in the tunnel: UDP 1000/s each way, and one TCP transfer");
    poll::wait_until("the tunnel on isp-a", RETURN_BOUND, || {
        Ok(lab.uplink_in_use()? == Some(Uplink::A))
    })
    .with_context(|| daemon.log().text())?;

    let kinds = during(screen, &traffic, daemon.log(), || -> Result<Vec<Kind>> {
        let from_ns = now_ns();
        poll::observe_for(UNDISTURBED)?;
        let both = traffic.observe_since(from_ns)?.both();
        let (gap, lost, sent) = (millis(both.gap), both.lost, both.sent);
        screen.say(&format!(
            "undisturbed: a longest gap of {gap:.1} ms, {lost} of {sent} packets lost"
        ));
        let mut kinds = Vec::new();
        for cut in chosen {
            let outcomes = (0..options.cuts).map(|_| one_cut(screen, options.json, &mut lab, &traffic, cut));
            let outcomes = outcomes.collect::<Result<Vec<_>>>()?;
            let plain = without_wgxdp(cut, family).with_context(|| format!("{} without wgxdp", cut.describe()))?;
            screen.say(&format!("the same cut without wgxdp: {}", words(&plain)));
            kinds.push(Kind { cut, outcomes, plain });
        }
        Ok(kinds)
    })?;

    let ended = daemon.stop(Signal::SIGTERM)?;
    ensure!(ended.success(), "wgxdp ended with {ended} after SIGTERM");
    if options.json {
        print_json(&SummaryLine::of(&kinds))?;
    } else {
        screen.write(&format!("\n{}", table::render(&kinds)));
    }
    Ok(faults(&kinds).is_empty())
}

fn one_cut(screen: Screen, json: bool, lab: &mut Lab, traffic: &Traffic, cut: Cut) -> Result<Outcome> {
    screen.say(&format!("cut: {} on isp-a", cut.describe()));
    let (severed, measured) = trial::cut(lab, traffic, cut, Uplink::A, PATIENCE)?;
    screen.say(&words(&measured));
    let returned = trial::heal(lab, traffic, severed, RETURN_BOUND)?;
    let (after, lost) = (millis(returned.after), returned.udp.lost);
    screen.say(&format!(
        "healed: back on isp-a {after:.0} ms later, {lost} packets lost on the way back"
    ));
    let outcome = Outcome {
        cut,
        measured,
        returned,
    };
    if json {
        print_json(&CutLine::from(&outcome))?;
    }
    Ok(outcome)
}

/// The same cut, in a laboratory without wgxdp.
fn without_wgxdp(cut: Cut, family: Family) -> Result<Measured> {
    let mut lab = Lab::raise(family)?;
    let traffic = Traffic::start(&lab, Pace::Full)?;
    let (_severed, measured) = trial::cut(&mut lab, &traffic, cut, Uplink::A, PATIENCE)?;
    Ok(measured)
}

fn words(measured: &Measured) -> String {
    let both = measured.udp.both();
    let tcp = if measured.tcp_alive {
        "TCP goes on"
    } else {
        "TCP stalls"
    };
    let (gap, lost, sent) = (millis(both.gap), both.lost, both.sent);
    match both.silent {
        true => format!("silent for more than {gap:.0} ms, {lost} of {sent} packets lost, {tcp}"),
        false => format!("a gap of {gap:.1} ms, {lost} of {sent} packets lost, {tcp}"),
    }
}

pub(crate) fn print_json(line: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_string(line)?;
    line.push('\n');
    io::stdout()
        .write_all(line.as_bytes())
        .context("writing to standard output")
}
