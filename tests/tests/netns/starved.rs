//! A machine without time for the daemon, for WireGuard or for anybody: no path is declared dead for probes that were not sent, or whose answers nobody had the time to look at.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::far_end;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll::observe_for;
use wgxdp_tests::scrape::{get, sample};
use wgxdp_tests::starve::{Burners, seize_processors, suspend_guest};
use wgxdp_tests::topology::{Family, Uplink};

use crate::command::status;
use crate::in_band::raise_with;
use crate::scene::Scene;
use crate::status::{await_active, peer};
use crate::{BOUND, alone, emulated};

const METRICS: &str = "127.0.0.1:9587";
/// Ordinary threads on each processor, and for how long.
const BURNERS: usize = 8;
const BURN: Duration = Duration::from_secs(4);
/// How often and for how long all processors are taken, and for how long they are not in between.
const SEIZURES: u32 = 6;
const SEIZED: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(60);
/// How often and for how long the guest is suspended.
const SUSPENSIONS: u32 = 3;
const SUSPENDED: Duration = Duration::from_secs(3);
/// For so long of each a daemon may have had nothing to do.
const IN_TIME: Duration = Duration::from_millis(100);
/// Whatever was in flight when time ran again is judged by then.
const AFTERMATH: Duration = Duration::from_secs(1);

/// wgxdp at both ends, with probes so frequent that each disturbance lasts longer than it takes to declare a path dead, and the tunnel on isp-a at both: an end that has left a path speaks
/// against it at the other.
fn raise() -> Result<(Scene, Daemon)> {
    let metrics = format!("\n[metrics]\nlisten = \"{METRICS}\"\n");
    let settings = Settings {
        probe: "kind = \"stamp\"",
        probe_interval: Duration::from_millis(if emulated() { 50 } else { 10 }),
        more: metrics.clone(),
        ..Settings::default()
    };
    // The hub may have been alone for longer than its paths have credit.
    let hub = format!("\n[detection]\nhold-down = \"1s\"\n{metrics}");
    let (scene, hub) = raise_with(Family::V4, &settings, &hub)?;
    far_end::await_knowledge(&hub, BOUND)?;
    for host in [&scene.lab.branch, &scene.lab.hub] {
        await_active(host, Uplink::A)?;
    }
    Ok((scene, hub))
}

/// By how many seconds the daemon's wake-ups at `host` were late, all together.
fn lateness(host: &Host) -> Result<f64> {
    let text = get(host, METRICS, "/metrics")?.body;
    let name = "wgxdp_wakeup_lateness_seconds_sum";
    sample(&text, name, &[]).with_context(|| format!("no {name} in\n{text}"))
}

/// Neither end declares a path dead or moves the tunnel while somebody disturbs it, nor when it is over; and traffic flows again. Each end reports that its wake-ups were late by `late`
/// at least, all together: who could not run between two disturbances was late once, for both.
fn convicts_nobody(scene: &Scene, hub: &Daemon, late: Duration, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let ends = [(&scene.lab.branch, &scene.daemon), (&scene.lab.hub, hub)];
    let mut before = Vec::new();
    for (host, daemon) in ends {
        before.push((lateness(host)?, daemon.log().since(0).len()));
    }
    disturb()?;
    scene.traffic.await_flow(BOUND)?;
    observe_for(AFTERMATH)?;
    for ((host, daemon), (late_before, skip)) in ends.into_iter().zip(before) {
        let said = daemon.log().since(skip);
        let verdict = said.iter().find(|line| line.contains(" down") || line.contains('→'));
        ensure!(verdict.is_none(), "{}: {}", host.name(), said.join("\n"));
        let shown = status(host)?;
        let active = peer(&shown)?.get("active_uplink");
        ensure!(active == Some(&Uplink::A.name().into()), "{}: {shown}", host.name());
        let reported = lateness(host)? - late_before;
        ensure!(
            reported >= late.as_secs_f64(),
            "{}: wake-ups were late by {reported} s, of {late:?}",
            host.name()
        );
    }
    Ok(())
}

/// The counter-case: both ends find a path that is dead.
fn finds_a_black_hole(scene: &mut Scene, hub: &mut Daemon) -> Result<()> {
    let skip = [&scene.daemon, &*hub].map(|daemon| daemon.log().since(0).len());
    let severed = scene.lab.cut(Cut::Blackhole, Uplink::A)?;
    for (daemon, skip) in [&mut scene.daemon, &mut *hub].into_iter().zip(skip) {
        daemon.await_line("silence → isp-b", skip, BOUND)?;
    }
    await_active(&scene.lab.branch, Uplink::B)?;
    scene.traffic.await_udp(severed.at_ns, BOUND)
}

#[test]
fn while_all_processors_are_busy_or_taken_nobody_is_convicted() -> Result<()> {
    let Some(_alone) = alone("taking all processors") else {
        return Ok(());
    };
    let (mut scene, mut hub) = raise()?;
    let outcome = (|| {
        convicts_nobody(&scene, &hub, Duration::ZERO, || {
            let _burners = Burners::start(BURNERS)?;
            observe_for(BURN)
        })
        .context("busy")?;
        convicts_nobody(&scene, &hub, SEIZURES * (SEIZED - IN_TIME), || {
            seize_processors(SEIZURES, SEIZED, PAUSE)
        })
        .context("taken")?;
        finds_a_black_hole(&mut scene, &mut hub)
    })();
    scene.log_on_error(outcome.with_context(|| format!("the hub's log:\n{}", hub.log().text())))
}

#[test]
fn when_a_suspended_machine_goes_on_nobody_is_convicted() -> Result<()> {
    let Some(_alone) = alone("suspending the machine") else {
        return Ok(());
    };
    if !emulated() {
        eprintln!("SKIPPED: nobody suspends this host for a test; guests are suspended");
        return Ok(());
    }
    let (mut scene, mut hub) = raise()?;
    let outcome = (|| {
        convicts_nobody(&scene, &hub, SUSPENSIONS * (SUSPENDED - IN_TIME), || {
            for _ in 0..SUSPENSIONS {
                suspend_guest(SUSPENDED)?;
                scene.traffic.await_flow(BOUND)?;
            }
            Ok(())
        })?;
        finds_a_black_hole(&mut scene, &mut hub)
    })();
    scene.log_on_error(outcome.with_context(|| format!("the hub's log:\n{}", hub.log().text())))
}
