//! Whose in-band probes are authentic, in the programs' map.

use std::collections::HashMap as Known;

use aya::maps::{HashMap, Map, MapData, MapError};
use wgxdp_common::abi::{MAP_KEYRINGS, MAX_PATHS_PER_PEER};
use wgxdp_common::keyring::{KeyName, Keyring, Keys, Request};

use super::Error;
use super::tables::{Source, typed};

/// `BPF_NOEXIST` (linux/bpf.h).
const NEW_ONLY: u64 = 1;

/// The map, and what is in it.
pub(super) struct Keyrings {
    map: HashMap<MapData, KeyName, Keyring>,
    room: usize,
    known: Known<KeyName, Keys>,
}

impl Keyrings {
    pub(super) fn new(source: &impl Source, room: u32) -> Result<Self, Error> {
        Ok(Self {
            map: typed(source, MAP_KEYRINGS, Map::HashMap)?,
            room: room as usize,
            known: Known::new(),
        })
    }

    /// See [`super::Dataplane::requests`].
    pub(super) fn requests(&self, of: &KeyName) -> Option<[Request; MAX_PATHS_PER_PEER]> {
        self.map.get(of, 0).ok().map(|ring| ring.requests)
    }

    /// See [`super::Dataplane::settle_keys`]. The kernel reuses a removed element at once, and a program may be writing to it still: nothing is inserted before
    /// `grace_period`.
    pub(super) fn settle(
        &mut self,
        wanted: &Known<KeyName, Keys>,
        grace_period: impl FnOnce() -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let stale: Vec<KeyName> = self
            .known
            .iter()
            .filter(|(name, keys)| wanted.get(name) != Some(keys))
            .map(|(name, _)| *name)
            .collect();
        for name in &stale {
            self.map.remove(name).map_err(failed)?;
            self.known.remove(name);
        }
        if !stale.is_empty() {
            grace_period()?;
        }
        for (name, keys) in wanted {
            if self.known.len() < self.room && !self.known.contains_key(name) {
                self.map.insert(name, Keyring::new(*keys), NEW_ONLY).map_err(failed)?;
                self.known.insert(*name, *keys);
            }
        }
        Ok(wanted.len() - self.known.len())
    }
}

fn failed(source: MapError) -> Error {
    Error::Map {
        map: MAP_KEYRINGS,
        source,
    }
}
