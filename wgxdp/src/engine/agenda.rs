//! Which path wants to be woken when: in order of time, so that a wake-up costs what is due and not what there is.

use std::collections::{BTreeMap, BTreeSet};

use wgxdp_common::id::{PathId, PeerId};

use super::path_range;
use super::peer::Peer;

/// Every path that wants to be woken, once. Its times are those of [`super::path::Path::wakeup`] when its peer was last [noted](Agenda::note).
#[derive(Clone, Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(u64, PathId)>,
    by_path: BTreeMap<PathId, u64>,
}

impl Agenda {
    /// Something happened to the peer: its paths may want other times now.
    pub(super) fn note(&mut self, peer: &Peer) {
        for path in &peer.paths {
            self.set(path.id, path.wakeup());
        }
    }

    /// The peer is gone.
    pub(super) fn strike(&mut self, peer: &Peer) {
        for path in &peer.paths {
            self.set(path.id, None);
        }
    }

    /// The earliest time.
    pub(super) fn first_ns(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ns, _)| *at_ns)
    }

    /// Who wants to be woken until then.
    pub(super) fn until(&self, due_ns: u64) -> impl Iterator<Item = PathId> + '_ {
        self.by_time.range(..=(due_ns, PathId(u32::MAX))).map(|(_, path)| *path)
    }

    /// Which of a peer's paths want to be woken at all.
    pub(super) fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = PathId> + '_ {
        self.by_path.range(path_range(peer)).map(|(path, _)| *path)
    }

    fn set(&mut self, path: PathId, at_ns: Option<u64>) {
        let before = match at_ns {
            Some(at_ns) => self.by_path.insert(path, at_ns),
            None => self.by_path.remove(&path),
        };
        if before == at_ns {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, path));
        }
        if let Some(at_ns) = at_ns {
            self.by_time.insert((at_ns, path));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_agenda_is_a_sorted_list_of_the_last_word_on_each_path(
            words in prop::collection::vec((0u32..20, prop::option::of(0u64..50)), 0..100),
            due_ns in 0u64..50,
        ) {
            let (mut agenda, mut last) = (Agenda::default(), BTreeMap::new());
            for (path, at_ns) in words {
                agenda.set(PathId(path), at_ns);
                last.insert(PathId(path), at_ns);
            }
            let wanted: BTreeMap<_, _> = last.into_iter().filter_map(|(path, at_ns)| Some((path, at_ns?))).collect();
            prop_assert_eq!(agenda.first_ns(), wanted.values().min().copied());
            let due: BTreeSet<_> = agenda.until(due_ns).collect();
            let expected: BTreeSet<_> = wanted.iter().filter(|(_, at_ns)| **at_ns <= due_ns).map(|(path, _)| *path).collect();
            prop_assert_eq!(due, expected);
            for peer in (0..3).map(PeerId) {
                let expected: Vec<_> = wanted.keys().filter(|path| path.peer() == peer).copied().collect();
                prop_assert_eq!(agenda.of_peer(peer).collect::<Vec<_>>(), expected);
            }
        }
    }
}
