//! The local addresses that tunnel packets may come to, each under an id that fits into [`wgxdp_common::client::Whereabouts`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData, MapError};
use wgxdp_common::abi::{MAP_ADDRESSES, MAP_LOCALS, MAX_LOCALS};
use wgxdp_common::client::{Local, LocalId};
use wgxdp_common::id::UplinkId;
use wgxdp_common::net::Address;

use super::Error;
use super::table::{Table, field};
use super::tables::{Source, typed};

/// The host's addresses, in the programs' maps.
pub struct Locals {
    ids: HashMap<MapData, Address, LocalId>,
    addresses: Table<Local>,
    known: BTreeMap<IpAddr, (LocalId, Local)>,
    /// The id that was given last: a freed one is given again as late as possible.
    last: u32,
}

impl Locals {
    pub(super) fn new(source: &impl Source) -> Result<Self, Error> {
        Ok(Self {
            ids: typed(source, MAP_LOCALS, Map::HashMap)?,
            addresses: Table::new(&source.open(MAP_ADDRESSES)?, MAP_ADDRESSES)?,
            known: BTreeMap::new(),
            last: LocalId::NONE.0,
        })
    }

    /// The address's id; [`LocalId::NONE`] if it has none.
    #[must_use]
    pub fn id(&self, address: IpAddr) -> LocalId {
        self.known.get(&address).map_or(LocalId::NONE, |(id, _)| *id)
    }

    /// See [`super::Dataplane::settle_locals`].
    pub(super) fn settle(&mut self, wanted: &BTreeMap<IpAddr, Option<UplinkId>>) -> Result<BTreeSet<IpAddr>, Error> {
        let gone: Vec<IpAddr> = self
            .known
            .keys()
            .filter(|address| !wanted.contains_key(address))
            .copied()
            .collect();
        for address in gone {
            let Some((id, _)) = self.known.remove(&address) else {
                continue;
            };
            self.ids
                .remove(&Address::from(address))
                .map_err(|source| failed(MAP_LOCALS, source))?;
            self.addresses.store(id.0, field!(Local, uplink), Local::GONE);
        }
        let mut left_out = BTreeSet::new();
        for (address, uplink) in wanted {
            let local = Local {
                address: (*address).into(),
                uplink: uplink.map_or(Local::ANY_UPLINK, |uplink| uplink.0),
                reserved: 0,
            };
            let known = self.known.get(address).copied();
            if known.is_some_and(|(_, was)| was == local) {
                continue;
            }
            let id = match known {
                Some((id, _)) => {
                    self.addresses.store(id.0, field!(Local, uplink), local.uplink);
                    id
                }
                None => match self.free_id() {
                    Some(id) => self.add(id, local)?,
                    None => {
                        left_out.insert(*address);
                        continue;
                    }
                },
            };
            self.known.insert(*address, (id, local));
        }
        Ok(left_out)
    }

    fn free_id(&mut self) -> Option<LocalId> {
        let taken: BTreeSet<u32> = self.known.values().map(|(id, _)| id.0).collect();
        let after = (self.last + 1..MAX_LOCALS).chain(1..=self.last);
        let id = after.into_iter().find(|id| !taken.contains(id))?;
        self.last = id;
        Some(LocalId(id))
    }

    /// Writes an address that has no id yet, and only then lets packets to it find the id.
    fn add(&mut self, id: LocalId, local: Local) -> Result<LocalId, Error> {
        self.addresses.write(id.0, &local);
        let added = self.ids.insert(local.address, id, 0);
        added.map(|()| id).map_err(|source| failed(MAP_LOCALS, source))
    }
}

fn failed(map: &'static str, source: MapError) -> Error {
    Error::Map { map, source }
}
