//! Whatever happens in whatever order, to either uplink or both, to what is the daemon's, and to the daemon, also while it is stopped or gone: once it runs and an uplink carries anything, so does the
//! tunnel, and in the end everything is as if nothing had happened.
//!
//! What happens is drawn from a seed; a failure tells all of it. `WGXDP_STORM=SEED:MOVES` draws from another one, and as much of it as is wanted.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::{Cut, Severed};
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll::observe_for;
use wgxdp_tests::topology::{Family, Uplink};

use crate::command::left_nothing_but;
use crate::in_band::raise_with;
use crate::scene::Scene;
use crate::{BOUND, alone};

/// How much happens in a law.
const MOVES: usize = 20;
/// Most of a pause between two moves, in milliseconds.
const PAUSE_MS: u64 = 400;

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Move {
    Cut(Cut, Uplink),
    Heal(Uplink),
    Signal(Signal),
    /// The daemon is started again.
    Start,
    /// Somebody removes what is ours, by these words of `ip`.
    Remove(&'static str),
}

const OURS: [&str; 4] = [
    "rule delete pref 872",
    "rule delete pref 871",
    "route flush table 5747",
    "link delete wgxdp0",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Runs,
    Stopped,
    Gone,
}

struct Storm {
    scene: Scene,
    settings: Settings,
    daemon: Life,
    severed: [Option<Severed>; 2],
    random: Random,
    story: Vec<String>,
    /// How many of the daemon's lines are in it.
    told: usize,
}

impl Storm {
    /// Has what the daemon said since in the story.
    fn listen(&mut self) {
        let lines = self.scene.daemon.log().since(self.told);
        self.told += lines.len();
        self.story
            .extend(lines.into_iter().map(|line| format!("        {line}")));
    }

    /// What may happen now.
    fn possible(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (uplink, severed) in Uplink::ALL.into_iter().zip(&self.severed) {
            match severed {
                Some(_) => moves.extend([Move::Heal(uplink); 5]),
                None => moves.extend(Cut::ALL.map(|cut| Move::Cut(cut, uplink))),
            }
        }
        match self.daemon {
            Life::Runs => {
                moves.extend([Signal::SIGSTOP, Signal::SIGKILL].map(Move::Signal));
                moves.extend(OURS.map(Move::Remove));
            }
            Life::Stopped => moves.extend([Move::Signal(Signal::SIGCONT); 8]),
            Life::Gone => moves.extend([Move::Start; 8]),
        }
        moves
    }

    fn happen(&mut self, what: Move) -> Result<()> {
        match what {
            Move::Cut(cut, uplink) => self.severed[uplink as usize] = Some(self.scene.lab.cut(cut, uplink)?),
            Move::Heal(uplink) => {
                let severed = self.severed[uplink as usize].take().context("nothing to heal")?;
                self.scene.lab.heal(severed)?;
            }
            Move::Signal(signal) => {
                self.scene.daemon.signal(signal)?;
                self.daemon = match signal {
                    Signal::SIGSTOP => Life::Stopped,
                    Signal::SIGKILL => Life::Gone,
                    _ => Life::Runs,
                };
            }
            Move::Start => {
                self.told = 0;
                self.scene.daemon = Daemon::start(&self.scene.lab, &self.settings)?;
                self.daemon = Life::Runs;
            }
            Move::Remove(words) => {
                let words: Vec<_> = words.split(' ').collect();
                // What was removed before may not have been repaired yet.
                for family in ["-4", "-6"] {
                    let _ = self.scene.lab.branch.run("ip", &[&[family], words.as_slice()].concat());
                }
            }
        }
        Ok(())
    }

    /// Whether an uplink carries anything, and whether one carries everything.
    fn carry(&self) -> (bool, bool) {
        let cuts = || {
            self.severed
                .iter()
                .map(|severed| severed.as_ref().map(|severed| severed.cut))
        };
        let limps = |cut| matches!(cut, Some(Cut::Lossy | Cut::MtuBlackhole));
        (
            cuts().any(|cut| cut.is_none() || limps(cut)),
            cuts().any(|cut| cut.is_none()),
        )
    }

    /// As soon as there is somebody to see to it, and a way, the tunnel flows.
    fn flows(&mut self) -> Result<()> {
        let (anything, everything) = self.carry();
        if self.daemon != Life::Runs || !anything {
            return Ok(());
        }
        let since = Instant::now();
        self.scene.traffic.await_udp(now_ns(), BOUND)?;
        let udp = since.elapsed();
        if everything {
            let tcp = &self.scene.traffic.tcp;
            tcp.await_life(tcp.mark(), BOUND)?;
        }
        self.story.push(format!(
            "    UDP flows after {udp:.1?}, TCP after {:.1?}",
            since.elapsed()
        ));
        Ok(())
    }

    fn rage(&mut self, moves: usize) -> Result<()> {
        for number in 0..moves {
            let possible = self.possible();
            let what = possible[self.random.below(possible.len() as u64) as usize];
            self.story.push(format!("{number}: {what:?}"));
            self.happen(what)?;
            self.flows()?;
            observe_for(Duration::from_millis(self.random.below(PAUSE_MS)))?;
            self.listen();
        }
        // The calm after it.
        for uplink in Uplink::ALL {
            if self.severed[uplink as usize].is_some() {
                self.happen(Move::Heal(uplink))?;
            }
        }
        match self.daemon {
            Life::Runs => {}
            Life::Stopped => self.happen(Move::Signal(Signal::SIGCONT))?,
            Life::Gone => self.happen(Move::Start)?,
        }
        self.story.push("calm".into());
        self.flows()?;
        self.scene.await_uplink(Uplink::A)
    }
}

/// What happens next: SplitMix64, whose states are as good as any seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The seed and the number of moves that were asked for, or this seed's usual ones.
fn asked_for(seed: u64) -> Result<(u64, usize)> {
    let Ok(storm) = env::var("WGXDP_STORM") else {
        return Ok((seed, MOVES));
    };
    let (seed, moves) = storm.split_once(':').context("WGXDP_STORM is not SEED:MOVES")?;
    Ok((seed.parse()?, moves.parse()?))
}

/// `hub`: with a daemon there, too.
fn survives(scene: Scene, settings: Settings, hub: Option<Daemon>, seed: u64) -> Result<()> {
    let (seed, moves) = asked_for(seed)?;
    let mut storm = Storm {
        scene,
        settings,
        daemon: Life::Runs,
        severed: [None, None],
        random: Random(seed),
        story: vec![format!("seed {seed}")],
        told: 0,
    };
    let survived = storm.rage(moves);
    storm.listen();
    println!("{}", storm.story.join("\n"));
    if let Some(hub) = &hub {
        println!("at the hub, {}", hub.log().text());
    }
    survived?;
    storm.scene.wireguard_noticed_nothing()?;
    let Scene {
        traffic,
        daemon,
        lab,
        clean,
        ..
    } = storm.scene;
    ensure!(daemon.stop(Signal::SIGTERM)?.success());
    // An uplink that was deleted has come back under another number.
    left_nothing_but("a storm and the end", &lab.branch, &clean, |line| {
        line.starts_with("link: isp-")
    })?;
    traffic.await_flow(BOUND)
}

#[test]
fn a_tunnel_survives_whatever_happens_over_ipv4() -> Result<()> {
    let Some(_alone) = alone("a storm") else { return Ok(()) };
    let settings = Settings::default();
    survives(Scene::raise_with(Family::V4, &settings)?, settings, None, 4)
}

#[test]
fn a_tunnel_survives_whatever_happens_over_ipv6() -> Result<()> {
    let Some(_alone) = alone("a storm") else { return Ok(()) };
    let settings = Settings::default();
    survives(Scene::raise_with(Family::V6, &settings)?, settings, None, 6)
}

#[test]
fn a_tunnel_survives_whatever_happens_with_wgxdp_at_both_ends() -> Result<()> {
    let Some(_alone) = alone("a storm") else { return Ok(()) };
    let settings = Settings {
        probe: "kind = \"stamp\"",
        ..Settings::default()
    };
    let hub = "\n[detection]\nhold-down = \"1s\"\nmax-hold-down = \"1s\"\n";
    let (scene, hub) = raise_with(Family::V4, &settings, hub)?;
    survives(scene, settings, Some(hub), 44)
}
