//! What probing costs: processor time of the daemon, from `/proc/PID/stat`, over many seconds in which it does nothing but probe, without traffic in the tunnel.
//! The hub's kernel answers all probes, also those of the [`Crowd`]; `…_up` is how many paths were up at the end.
//!
//! `…_user` and `…_system` are the daemon's, in hundredths of one core. The programs, and the kernel's work on packets that is done for nobody's account (softirqs, the
//! routers, the hub's answers), are not the daemon's: `…_machine` is what all cores together were busier than without the daemon, on the same
//! scale, all of it included. Whatever else the machine does is in it too, so that it says something of an idle machine alone.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Bound, Figure, Scale, Unit};
use crate::clock::now_ns;
use crate::crowd::{self, Crowd};
use crate::daemon::{Daemon, Settings, binary};
use crate::poll;
use crate::topology::{Family, Lab, Uplink};
use crate::traffic::bulk::{TICK, busy};

/// Its name.
pub const NAME: &str = "probing";

/// How long it may take until all paths are up.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many paths probed so often, and what they may cost.
struct Case {
    name: &'static str,
    crowd: Crowd,
    interval: Duration,
    /// In hundredths of a core, all paths together.
    most: f64,
}

const CASES: [Case; 2] = [
    Case {
        name: "paths_2_every_10ms",
        crowd: Crowd(0),
        interval: Duration::from_millis(10),
        most: 2.0,
    },
    Case {
        name: "paths_1000_every_50ms",
        crowd: Crowd(499),
        interval: Duration::from_millis(50),
        most: 50.0,
    },
];

/// Measures each case.
///
/// # Errors
/// The laboratory or a daemon could not be raised, or probes are not answered; then with the daemon's log.
pub fn run(scale: Scale, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    let time = match scale {
        Scale::Full => Duration::from_secs(30),
        Scale::Quick => Duration::from_secs(10),
    };
    let lab = Lab::raise(Family::V4)?;
    crowd::answer(&lab)?;
    let mut figures = Vec::new();
    for case in &CASES {
        progress(&format!("{}, for {} s", case.name, time.as_secs()));
        figures.extend(case.figures(case.measure(&lab, time)?));
    }
    Ok(figures)
}

/// In hundredths of one core.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    user: f64,
    system: f64,
    machine: f64,
    /// Paths at the end.
    up: usize,
}

impl Case {
    fn measure(&self, lab: &Lab, time: Duration) -> Result<Cost> {
        self.crowd.join(&lab.branch_wg, 0..self.crowd.0)?;
        let (idle, ()) = busier(time, || Ok(()))?;
        let settings = Settings {
            probe_interval: self.interval,
            more: self.crowd.toml_probed(self.interval),
            ..Settings::default()
        };
        let daemon = Daemon::start(lab, &settings)?;
        let measured = (|| -> Result<Cost> {
            poll::wait_until("all paths to be up", PATIENCE, || Ok(paths_up(lab)? == self.paths()))?;
            let before = Spent::of(daemon.pid())?;
            let (busy, spent) = busier(time, || Spent::of(daemon.pid()))?;
            let share = |part: Duration| 100.0 * part.as_secs_f64() / time.as_secs_f64();
            Ok(Cost {
                user: share(spent.user - before.user),
                system: share(spent.system - before.system),
                machine: 100.0 * (busy - idle),
                up: paths_up(lab)?,
            })
        })();
        let cost = measured.with_context(|| daemon.log().text())?;
        daemon.stop(Signal::SIGTERM)?;
        self.crowd.leave(&lab.branch_wg, 0..self.crowd.0)?;
        Ok(cost)
    }

    /// Of the hub and of each of the crowd, by both uplinks.
    fn paths(&self) -> usize {
        Uplink::ALL.len() * (1 + self.crowd.0 as usize)
    }

    fn figures(&self, cost: Cost) -> [Figure; 5] {
        let figure =
            |part: &str, value| Figure::new(NAME, format!("{}_{part}", self.name), value, Unit::PercentOfCore, 1);
        [
            figure("daemon", cost.user + cost.system).bounded(Bound::AtMost(self.most)),
            figure("user", cost.user),
            figure("system", cost.system),
            figure("machine", cost.machine),
            Figure::new(NAME, format!("{}_up", self.name), cost.up as f64, Unit::Count, 1)
                .bounded(Bound::AtLeast(self.paths() as f64)),
        ]
    }
}

/// How many paths are up, by `wgxdp status`.
fn paths_up(lab: &Lab) -> Result<usize> {
    let binary = binary()?;
    let binary = binary.to_str().context("the path of wgxdp is not UTF-8")?;
    let status: Value = serde_json::from_str(&lab.branch.run(binary, &["status", "--json"])?)?;
    let below = |values: &[Value], key: &str| -> Vec<Value> {
        let lists = values.iter().filter_map(|value| value.get(key)?.as_array());
        lists.flatten().cloned().collect()
    };
    let paths = ["tunnels", "peers", "paths"]
        .iter()
        .fold(vec![status], |values, key| below(&values, key));
    Ok(paths.iter().filter(|path| path["state"] == "up").count())
}

/// How many cores were busy in the mean over `time`, and what there is to say at its end.
fn busier<T>(time: Duration, end: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let (before, from_ns) = (busy()?, now_ns());
    poll::observe_for(time)?;
    let (after, until_ns, end) = (busy()?, now_ns(), end()?);
    let passed = Duration::from_nanos(until_ns - from_ns);
    Ok(((after - before).as_secs_f64() / passed.as_secs_f64(), end))
}

/// Processor time of a process, all its threads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spent {
    user: Duration,
    system: Duration,
}

impl Spent {
    fn of(pid: u32) -> Result<Self> {
        let file = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        Self::parse(&text).with_context(|| format!("{file} is not as proc_pid_stat(5) says: {text}"))
    }

    /// Fields 14 and 15; the second, the program's name, may contain anything, but ends with the last parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut ticks = rest.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
        Some(Self {
            user: TICK * ticks.next()??,
            system: TICK * ticks.next()??,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 20 30 40 250 150 3 4 20 0 1 0 99 100 200";
        let spent = Spent::parse(stat);
        let [user, system] = [2500, 1500].map(Duration::from_millis);
        assert_eq!(spent, Some(Spent { user, system }));
        assert_eq!(Spent::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_spent_time_already() {
        assert!(Spent::of(std::process::id()).is_ok());
    }

    #[test]
    fn the_daemons_cost_is_both_of_its_parts_and_has_the_bound() {
        let cost = Cost {
            user: 1.5,
            system: 1.0,
            machine: 4.0,
            up: 2,
        };
        let [daemon, ..] = CASES[0].figures(cost);
        assert_eq!((daemon.value, daemon.is_met()), (2.5, Some(false)));
    }
}
