//! What an uplink's addresses mean for the paths over it: a path is of no use while its uplink has no address of its endpoint's family.
//!
//! Of what is lost the programs are told first, a word for each path. The engine follows a few paths at a time, in both directions, because for each it decides, reports and sends a
//! probe: thousands of them at once would hold up the others' probes. Until it knows, what it says of a path is completed here.

use std::time::Duration;

use wgxdp_common::id::PathId;
use wgxdp_common::liveness::Flags;

use super::Daemon;
use crate::clock::monotonic_ns;
use crate::engine::Input;

/// Paths of which the engine is told in one step.
const AT_ONCE: usize = 16;
/// From one step to the next.
const EVERY: Duration = Duration::from_millis(4);

/// Paths of which the engine may not know yet what speaks against them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untold {
    /// The first of them.
    from: PathId,
    /// When the next few are told (CLOCK_MONOTONIC).
    pub(super) at_ns: u64,
}

impl Daemon {
    /// What speaks against a path besides its uplink's flags, as the uplinks are now.
    pub(super) fn path_flags(&self, path: PathId) -> Flags {
        let plan = self.paths.get(&path).map(|runtime| &runtime.plan);
        plan.map_or(Flags::NONE, |plan| self.family_flags(plan.uplink, plan.endpoint))
    }

    /// Tells the programs which paths' uplinks lost an address family.
    pub(super) fn flag_lost_families(&self) {
        for path in self.paths.keys() {
            let flags = self.path_flags(*path);
            if flags != Flags::NONE {
                self.dataplane.add_path_flags(*path, flags);
            }
        }
    }

    /// Tells the engine of all paths what speaks against them now.
    pub(super) fn tell_families(&mut self) {
        self.tell_some_families(PathId(0));
    }

    /// Goes on with that.
    pub(super) fn tell_more_families(&mut self) {
        if let Some(Untold { from, .. }) = self.untold {
            self.tell_some_families(from);
        }
    }

    fn tell_some_families(&mut self, from: PathId) {
        let changed = self.paths.range(from..).filter_map(|(path, runtime)| {
            let flags = self.family_flags(runtime.plan.uplink, runtime.plan.endpoint);
            (flags != runtime.told).then_some((*path, flags))
        });
        let some: Vec<(PathId, Flags)> = changed.take(AT_ONCE).collect();
        let now_ns = monotonic_ns();
        let last = some.last().filter(|_| some.len() == AT_ONCE);
        self.untold = last.map(|(last, _)| Untold {
            from: *last,
            at_ns: now_ns + EVERY.as_nanos() as u64,
        });
        let mut actions = Vec::new();
        for (path, flags) in some {
            if let Some(runtime) = self.paths.get_mut(&path) {
                runtime.told = flags;
            }
            self.engine
                .handle(Input::PathFlags { path, flags }, now_ns, &mut actions);
        }
        self.perform(actions);
    }
}
