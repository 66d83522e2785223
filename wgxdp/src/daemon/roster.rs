//! Who has which number, whose an endpoint is, and what becomes of the peers when WireGuard's change. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wgxdp_common::abi::{DEFAULT_MAX_PEERS, MAX_PATHS_PER_PEER, PROBE_MARK_MASK};
use wgxdp_common::id::PeerId;
use wgxdp_common::table::EndpointKey;

use super::plan::PeerPlan;
use crate::config::PublicKey;

/// Peers up to which there is room for as many more.
const ROOM_FOR_TWICE: u32 = 1024;
/// One number of so many is kept for peers that change: for a moment they have two.
const RESERVED: u32 = 16;
/// Numbers that a probe's mark can name.
const MOST: u32 = !PROBE_MARK_MASK / MAX_PATHS_PER_PEER as u32;

/// Numbers to make maps for when there are so many peers at start; `None`: more than a probe's mark can name.
pub(super) fn capacity(peers: usize) -> Option<u32> {
    let peers = u32::try_from(peers).ok()?;
    let headroom = if peers <= ROOM_FOR_TWICE { peers } else { peers / 4 };
    let capacity = peers.saturating_add(headroom).clamp(DEFAULT_MAX_PEERS, MOST);
    (peers <= capacity - capacity / RESERVED).then_some(capacity)
}

/// The numbers that are free.
#[derive(Debug)]
pub(super) struct Numbers {
    free: BTreeSet<PeerId>,
    reserved: usize,
}

impl Numbers {
    /// So many, from `first` on.
    pub(super) fn new(first: u32, capacity: u32) -> Self {
        Self {
            free: (first..first + capacity).map(PeerId).collect(),
            reserved: (capacity / RESERVED) as usize,
        }
    }

    /// How many more peers there is room for.
    pub(super) fn room(&self) -> usize {
        self.free.len().saturating_sub(self.reserved)
    }

    /// How many peers can change at once; at least one while all the others keep to their room.
    pub(super) fn spare(&self) -> usize {
        self.free.len()
    }

    /// The lowest.
    pub(super) fn take(&mut self) -> Option<PeerId> {
        self.free.pop_first()
    }

    /// For a number that nothing refers to any more.
    pub(super) fn give_back(&mut self, number: PeerId) {
        self.free.insert(number);
    }
}

/// Which peers say that an endpoint is theirs. The last one has it; if it goes, the one before has it again.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<EndpointKey, Vec<PeerId>>);

/// What a claim's end means for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// It is somebody else's anyway.
    Unchanged,
    /// It is this one's now.
    PassedTo(PeerId),
    /// It is nobody's.
    Orphaned,
}

impl Claims {
    /// From now on the endpoint is this peer's.
    pub(super) fn claim(&mut self, endpoint: EndpointKey, peer: PeerId) {
        self.0.entry(endpoint).or_default().push(peer);
    }

    /// Whose the endpoint is.
    pub(super) fn owner(&self, endpoint: &EndpointKey) -> Option<PeerId> {
        self.0.get(endpoint)?.last().copied()
    }

    /// The peer goes.
    pub(super) fn withdraw(&mut self, endpoint: EndpointKey, peer: PeerId) -> Withdrawn {
        let Some(claimants) = self.0.get_mut(&endpoint) else {
            return Withdrawn::Unchanged;
        };
        let had_it = claimants.last() == Some(&peer);
        claimants.retain(|claimant| *claimant != peer);
        match (had_it, claimants.last()) {
            (false, _) => Withdrawn::Unchanged,
            (true, Some(heir)) => Withdrawn::PassedTo(*heir),
            (true, None) => {
                self.0.remove(&endpoint);
                Withdrawn::Orphaned
            }
        }
    }
}

/// The way from the peers that there are to those that there should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Peers with another plan than before, and the numbers that they have.
    pub(super) changed: Vec<(PeerId, PeerPlan)>,
    /// Peers that were not there.
    pub(super) new: Vec<PeerPlan>,
    /// Peers that are not there any more.
    pub(super) gone: Vec<PeerId>,
}

impl Difference {
    pub(super) fn between(present: &BTreeMap<PeerId, PeerPlan>, wanted: BTreeSet<PeerPlan>) -> Self {
        let who = |plan: &PeerPlan| -> (usize, PublicKey) { (plan.tunnel, plan.key) };
        let mut known: BTreeMap<_, _> = present.iter().map(|(id, plan)| (who(plan), (*id, plan))).collect();
        let mut difference = Self::default();
        for plan in wanted {
            match known.remove(&who(&plan)) {
                Some((_, before)) if *before == plan => {}
                Some((id, _)) => difference.changed.push((id, plan)),
                None => difference.new.push(plan),
            }
        }
        difference.gone = known.into_values().map(|(id, _)| id).collect();
        difference
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.new.is_empty() && self.gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Protect;

    fn endpoint(port: u16) -> EndpointKey {
        EndpointKey {
            port: port.into(),
            ..EndpointKey::default()
        }
    }

    fn plan(key: u8, port: u16) -> PeerPlan {
        let canonical = ([198, 51, 100, key], port).into();
        PeerPlan {
            tunnel: 0,
            port: 51820,
            key: PublicKey::from([key; 32]),
            name: None,
            canonical,
            endpoints: vec![canonical],
            interval: Duration::from_secs(1),
            kind: crate::config::ProbeKind::Icmp,
            target: None,
            target_port: None,
            uplinks: vec![0, 1],
            protect: Protect::Suspect,
        }
    }

    #[test]
    fn there_is_room_for_twice_a_few_and_for_a_quarter_more_of_many() {
        let rows = [
            (0, 64),
            (10, 64),
            (33, 66),
            (1_024, 2_048),
            (1_025, 1_281),
            (10_000, 12_500),
        ];
        for (peers, numbers) in rows {
            assert_eq!(capacity(peers), Some(numbers), "{peers} peers");
        }
        assert_eq!(capacity(MOST as usize), None, "none would be left for changes");
        assert_eq!(capacity(usize::MAX), None);
    }

    #[test]
    fn whoever_is_there_at_start_has_room_and_changing_is_possible_even_when_the_room_is_full() {
        for peers in [0, 1, 60, 64, 1_024, 1_025, 10_000, 60_000] {
            let mut numbers = Numbers::new(0, capacity(peers).unwrap());
            assert!(numbers.room() >= peers, "{peers} peers");
            while numbers.room() > 0 {
                numbers.take();
            }
            assert!(numbers.spare() > 0, "{peers} peers");
        }
    }

    #[test]
    fn numbers_are_given_once_until_they_are_given_back() {
        let mut numbers = Numbers::new(0, 3);
        let taken: Vec<_> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(taken, [0, 1, 2].map(PeerId));
        numbers.give_back(PeerId(1));
        assert_eq!((numbers.take(), numbers.take()), (Some(PeerId(1)), None));
    }

    #[test]
    fn an_endpoint_is_the_last_claimants_and_falls_back_to_the_one_before() {
        let (one, two) = (PeerId(1), PeerId(2));
        let mut claims = Claims::default();
        claims.claim(endpoint(7), one);
        claims.claim(endpoint(7), two);
        claims.claim(endpoint(8), one);
        assert_eq!(claims.withdraw(endpoint(7), two), Withdrawn::PassedTo(one));
        assert_eq!(claims.withdraw(endpoint(7), two), Withdrawn::Unchanged, "a second time");
        assert_eq!(claims.withdraw(endpoint(7), one), Withdrawn::Orphaned);
        assert_eq!(
            claims.withdraw(endpoint(7), one),
            Withdrawn::Unchanged,
            "nobody knows it"
        );
        assert_eq!(claims.withdraw(endpoint(8), two), Withdrawn::Unchanged, "never claimed");
    }

    #[test]
    fn a_peer_that_changes_takes_its_endpoint_along() {
        let (before, after) = (PeerId(1), PeerId(2));
        let mut claims = Claims::default();
        claims.claim(endpoint(7), before);
        claims.claim(endpoint(7), after);
        assert_eq!(claims.withdraw(endpoint(7), before), Withdrawn::Unchanged);
        assert_eq!(claims.withdraw(endpoint(7), after), Withdrawn::Orphaned);
    }

    proptest! {
        #[test]
        fn the_difference_carried_out_gives_what_is_wanted(
            present in prop::collection::btree_map(0u8..20, 1u16..3, 0..20),
            wanted in prop::collection::btree_map(0u8..20, 1u16..3, 0..20),
        ) {
            let mut peers: BTreeMap<PeerId, PeerPlan> =
                (100..).map(PeerId).zip(present.iter().map(|(key, port)| plan(*key, *port))).collect();
            let wanted: BTreeSet<PeerPlan> = wanted.iter().map(|(key, port)| plan(*key, *port)).collect();
            let difference = Difference::between(&peers, wanted.clone());
            let unchanged = peers.values().cloned().collect::<BTreeSet<_>>() == wanted;
            prop_assert_eq!(difference.is_empty(), unchanged);
            for (id, plan) in &difference.changed {
                prop_assert_eq!(peers[id].key, plan.key);
                prop_assert_ne!(&peers[id], plan);
            }
            for id in difference.gone.iter().chain(difference.changed.iter().map(|(id, _)| id)) {
                prop_assert!(peers.remove(id).is_some(), "named once");
            }
            let added = difference.new.into_iter().chain(difference.changed.into_iter().map(|(_, plan)| plan));
            let after: BTreeSet<PeerPlan> = peers.into_values().chain(added).collect();
            prop_assert_eq!(after, wanted);
        }
    }
}
