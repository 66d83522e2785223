//! What a run before had learned of its clients and did not take back, because it was killed: copied from its pins, so that they are answered where they spoke.

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use wgxdp_common::abi::{MAP_ADDRESSES, MAP_CLIENTS, MAP_SESSIONS, MAX_UPLINKS};
use wgxdp_common::client::{Local, LocalId, SessionKey, Whereabouts};
use wgxdp_common::id::UplinkId;
use wgxdp_common::table::{Config, EndpointKey};

use super::tables::{Source, typed};
use super::{Error, Locals, Pins, Tables};

type Clients = HashMap<MapData, EndpointKey, Whereabouts>;
type Sessions = HashMap<MapData, SessionKey, u32>;

/// The maps of a run that speak of clients.
struct Learned {
    clients: Clients,
    sessions: Sessions,
}

impl Learned {
    fn open(source: &impl Source) -> Result<Self, Error> {
        Ok(Self {
            clients: typed(source, MAP_CLIENTS, Map::LruHashMap)?,
            sessions: typed(source, MAP_SESSIONS, Map::LruHashMap)?,
        })
    }
}

/// Copies what the maps at `pins` know into those of `ours`, whose configuration is `config`; returns how many clients. Uplinks are known again by
/// their devices and local addresses by themselves: a client of whose uplink there is nothing any more is left out.
pub(super) fn adopt(pins: &Pins, ours: &impl Source, config: &Config, locals: &Locals) -> Result<u64, Error> {
    let before = Learned::open(pins)?;
    let mut now = Learned::open(ours)?;
    let old_config = Tables::pinned(pins)?.config()?;
    let addresses: Array<MapData, Local> = typed(pins, MAP_ADDRESSES, Map::Array)?;
    for session in before.sessions.keys() {
        let session = session.map_err(|source| failed(MAP_SESSIONS, source))?;
        now.sessions
            .insert(session, 0, 0)
            .map_err(|source| failed(MAP_SESSIONS, source))?;
    }
    let mut adopted = 0;
    for client in before.clients.iter() {
        let (key, whereabouts) = client.map_err(|source| failed(MAP_CLIENTS, source))?;
        let Some(uplink) = same_device(&old_config, whereabouts.uplink(), config) else {
            continue;
        };
        let local = addresses.get(&whereabouts.local().0, 0);
        let local = local.map_or(LocalId::NONE, |local| locals.id(local.address.to_ip()));
        let here = Whereabouts::new(&key, uplink, local);
        now.clients
            .insert(key, here, 0)
            .map_err(|source| failed(MAP_CLIENTS, source))?;
        adopted += 1;
    }
    Ok(adopted)
}

/// The uplink that has now the device which that one had.
fn same_device(before: &Config, uplink: UplinkId, now: &Config) -> Option<UplinkId> {
    let ifindex = before.uplinks[uplink.0 as usize % MAX_UPLINKS].ifindex;
    let found = now
        .uplinks
        .iter()
        .find(|uplink| uplink.ifindex == ifindex && ifindex != 0);
    found.map(|uplink| uplink.id)
}

fn failed(map: &'static str, source: MapError) -> Error {
    Error::Map { map, source }
}

#[cfg(test)]
mod tests {
    use wgxdp_common::table::Uplink;

    use super::*;

    fn config(ifindexes: [u32; 2]) -> Config {
        let mut config = Config::default();
        for (id, (entry, ifindex)) in (0..).zip(config.uplinks.iter_mut().zip(ifindexes)) {
            *entry = Uplink {
                ifindex,
                id: UplinkId(id),
                ..Uplink::default()
            };
        }
        config
    }

    #[test]
    fn an_uplink_is_known_again_by_its_device_and_not_by_its_place() {
        let (before, now) = (config([7, 9]), config([9, 11]));
        assert_eq!(same_device(&before, UplinkId(1), &now), Some(UplinkId(0)));
        assert_eq!(same_device(&before, UplinkId(0), &now), None);
        // An uplink without a device is no device that two have.
        assert_eq!(same_device(&config([0, 0]), UplinkId(0), &config([0, 0])), None);
    }
}
