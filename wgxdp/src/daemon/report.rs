//! What the operator is told of paths: a line for each change, one for what concerns a crowd, and not every doubt about a path that loses packets all the time.

use std::mem;
use std::time::Duration;

use tracing::{debug, info};
use wgxdp_common::id::UplinkId;
use wgxdp_common::table::PathState;

use super::Daemon;
use crate::clock::monotonic_ns;
use crate::engine::Transition;

/// More transitions than this at once are told by kind.
const CROWD: usize = 16;
/// How often it is worth a line that a path is in doubt.
const DOUBT_EVERY: Duration = Duration::from_secs(60);

/// What was told of a path's doubts. On a path that loses one probe in five each loss is one, and nothing follows from it.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    told_ns: Option<u64>,
    is_told: bool,
}

impl Doubt {
    /// Whether to tell this change of the path's state.
    fn is_worth_telling(&mut self, from: PathState, to: PathState, now_ns: u64) -> bool {
        match (from, to) {
            (_, PathState::Suspect) => {
                let recently = |told_ns| u128::from(now_ns.saturating_sub(told_ns)) < DOUBT_EVERY.as_nanos();
                self.is_told = !self.told_ns.is_some_and(recently);
                if self.is_told {
                    self.told_ns = Some(now_ns);
                }
                self.is_told
            }
            (PathState::Suspect, PathState::Up) => self.is_told,
            _ => true,
        }
    }
}

impl Daemon {
    /// Tells the operator. What concerns a crowd of peers, an uplink's death above all, is one line for all of them.
    pub(super) fn report(&mut self, transitions: &[Transition]) {
        let now_ns = monotonic_ns();
        for transition in transitions {
            self.announce(transition);
            // Clients are asked now and then: a count would come and go.
            if self.peers.contains_key(&transition.peer)
                && let Some(failovers) = self.engine.failovers(transition.peer)
            {
                self.observed.set_failovers(transition.peer, failovers.iter());
            }
        }
        let is_telling = self.engine.is_behind() || self.untold.is_some();
        let crowd = is_telling || !self.crowd.is_empty() || transitions.len() > CROWD;
        for transition in transitions {
            if crowd {
                self.add_to_crowd(transition);
                continue;
            }
            let doubt = self.paths.get_mut(&transition.path).map(|path| &mut path.doubt);
            if doubt.is_none_or(|doubt| doubt.is_worth_telling(transition.from, transition.to, now_ns)) {
                info!("{}", self.names.line(transition));
            } else {
                debug!("{}", self.names.line(transition));
            }
        }
        if !is_telling {
            for (what, count) in mem::take(&mut self.crowd) {
                info!("{what} ({count} paths)");
            }
        }
    }

    fn add_to_crowd(&mut self, transition: &Transition) {
        let path = self.paths.get(&transition.path);
        let uplink = path.map_or(UplinkId(0), |path| path.plan.uplink);
        let uplink = self.config.uplinks()[uplink.0 as usize].name.as_str();
        let what = format!("{uplink} {}", transition.what());
        *self.crowd.entry(what).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use wgxdp_common::table::PathState::{Down, Held, Suspect, Up};

    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_paths_doubts_are_told_once_a_minute_with_their_end_and_whatever_follows_is_told_always() {
        let mut doubt = Doubt::default();
        let rows = [
            (Up, Suspect, S, true),
            (Suspect, Up, 2 * S, true),
            (Up, Suspect, 60 * S, false),
            (Suspect, Up, 61 * S, false),
            (Up, Suspect, 62 * S, true),
            (Suspect, Down, 63 * S, true),
            (Down, Held, 64 * S, true),
            (Held, Up, 65 * S, true),
            (Up, Suspect, 66 * S, false),
            (Suspect, Down, 67 * S, true),
        ];
        for (from, to, now_ns, told) in rows {
            assert_eq!(
                doubt.is_worth_telling(from, to, now_ns),
                told,
                "{from:?} to {to:?} at {now_ns}"
            );
        }
    }
}
