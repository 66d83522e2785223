//! User space's side of the [table of endpoints](wgxdp_common::endpoints): which entry is where, and which may be written again.

use std::collections::HashMap;

use wgxdp_common::abi::{MAP_BUCKETS, MAP_ENDPOINTS};
use wgxdp_common::endpoints::{Bucket, EndpointEntry, WAYS};
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::table::EndpointKey;

use super::Error;
use super::table::{Field, Table, field};
use super::tables::Source;

/// Where a key's entry is.
#[derive(Clone, Copy)]
struct Place {
    way: usize,
    index: u32,
}

/// The table, and what only its writer knows.
pub(super) struct Endpoints {
    buckets: Table<Bucket>,
    entries: Table<EndpointEntry>,
    places: HashMap<EndpointKey, Place>,
    free: Vec<u32>,
    /// Entries to which nothing leads any more, but which a program may still be looking at.
    retired: Vec<u32>,
}

/// The number in one place of a bucket.
fn number(way: usize) -> Field<Bucket, u32> {
    Field {
        offset: way * size_of::<u32>(),
        _type_of: |bucket| &bucket.0[0],
    }
}

impl Endpoints {
    /// Of maps that are empty.
    pub(super) fn new(source: &impl Source) -> Result<Self, Error> {
        let buckets = Table::new(&source.open(MAP_BUCKETS)?, MAP_BUCKETS)?;
        let entries: Table<EndpointEntry> = Table::new(&source.open(MAP_ENDPOINTS)?, MAP_ENDPOINTS)?;
        Ok(Self {
            buckets,
            free: (0..entries.len()).rev().collect(),
            entries,
            places: HashMap::new(),
            retired: Vec::new(),
        })
    }

    fn bucket(&self, key: &EndpointKey) -> u32 {
        key.hash() & (self.buckets.len() - 1)
    }

    /// Puts an entry in, in one store, whether its key led anywhere before or not. `grace_period` waits until no program looks at
    /// what was retired; it is called only if there is no other room.
    pub(super) fn insert(
        &mut self,
        entry: &EndpointEntry,
        grace_period: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.free.is_empty() && !self.retired.is_empty() {
            grace_period()?;
            self.reclaim();
        }
        let key = entry.key;
        let bucket = self.bucket(&key);
        let before = self.places.get(&key).copied();
        let way = match before {
            Some(place) => place.way,
            None => {
                let taken = self.buckets.read(bucket).0;
                let way = taken.iter().position(|number| *number == 0);
                way.ok_or(Error::NoRoom("endpoints that fall into one bucket"))?
            }
        };
        let index = self.free.pop().ok_or(Error::NoRoom("endpoints"))?;
        self.entries.write(index, entry);
        self.buckets.store(bucket, number(way), index + 1);
        self.places.insert(key, Place { way, index });
        self.retired.extend(before.map(|place| place.index));
        Ok(())
    }

    /// Has a peer's endpoints name this path as the first to try.
    pub(super) fn prefer(&self, peer: PeerId, path: PathId) {
        for Place { index, .. } in self.places.values() {
            if self.entries.read(*index).endpoint.peer == peer {
                self.entries.store(*index, field!(EndpointEntry, preferred), path);
            }
        }
    }

    /// No program looks any more at what was retired so far.
    pub(super) fn reclaim(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Lets an endpoint lead nowhere; one that led nowhere before is fine.
    pub(super) fn remove(&mut self, key: &EndpointKey) {
        if let Some(Place { way, index }) = self.places.remove(key) {
            self.buckets.store(self.bucket(key), number(way), 0_u32);
            self.retired.push(index);
        }
    }
}

const _: () = assert!(size_of::<Bucket>() == WAYS * size_of::<u32>());
