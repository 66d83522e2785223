//! The object file that the build script made, and loading it.

use std::time::{SystemTime, UNIX_EPOCH};

use aya::{Ebpf, EbpfLoader};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use wgxdp_common::abi::{
    ABI_SYMBOL, ABI_VERSION, BUCKET_MASK_SYMBOL, MAP_BUCKETS, MAP_CLIENTS, MAP_ENDPOINTS, MAP_HANDSHAKES, MAP_KEYRINGS,
    MAP_PATH_COUNTS, MAP_PATHS, MAP_PEER_STATES, MAP_PEERS, MAP_PROBES, MAP_PROOFS, MAP_SESSIONS, MAX_PATHS_PER_PEER,
    MIN_PROBE_SLOTS, PROBE_SLOTS, PROBE_SLOTS_SYMBOL, SESSIONS_PER_CLIENT, UNIX_OFFSET_SYMBOL,
};
use wgxdp_common::endpoints::buckets;
use wgxdp_common::table::ProbeSlot;

use super::Error;
use crate::clock::monotonic_ns;

/// The programs, for the BPF target.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wgxdp-programs"));

/// The ABI version that an object file names.
///
/// # Errors
/// When it is no object file.
fn abi_version(elf: &[u8]) -> object::Result<Option<u32>> {
    let file = object::File::parse(elf)?;
    let Some(symbol) = file.symbols().find(|symbol| symbol.name() == Ok(ABI_SYMBOL)) else {
        return Ok(None);
    };
    let Some(index) = symbol.section_index() else {
        return Ok(None);
    };
    let section = file.section_by_index(index)?;
    let bytes = section.data_range(symbol.address(), size_of::<u32>() as u64)?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes))
}

/// How much the maps shall hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Listed peers. They have the lowest numbers.
    pub peers: u32,
    /// Clients whose paths are known from their own probes.
    pub registered: u32,
    /// Learned clients.
    pub clients: u32,
    /// Peers with keys, clients among them.
    pub keyrings: u32,
}

/// Bytes that the probes in flight may take, within [`MIN_PROBE_SLOTS`] and [`PROBE_SLOTS`] for each path.
const PROBES_BYTES: u64 = 40 << 20;

/// Paths of so many peers.
const fn paths(peers: u32) -> u32 {
    peers * MAX_PATHS_PER_PEER as u32
}

/// Probes in flight that each path remembers, clients' ones, too, because any may have to be asked: the largest power of two that fits.
pub(super) fn probe_slots(room: Room) -> u32 {
    let fit = PROBES_BYTES / (u64::from(paths(room.peers + room.registered).max(1)) * size_of::<ProbeSlot>() as u64);
    let fit = u32::try_from(fit)
        .unwrap_or(u32::MAX)
        .clamp(MIN_PROBE_SLOTS, PROBE_SLOTS);
    1 << fit.ilog2()
}

/// Creates the maps with this much room and prepares the programs; none is loaded yet.
///
/// # Errors
/// When the object has another ABI, or the kernel refuses the maps.
pub fn load_programs(room: Room) -> Result<Ebpf, Error> {
    let found = abi_version(OBJECT)?;
    if found != Some(ABI_VERSION) {
        return Err(Error::Abi {
            found,
            expected: ABI_VERSION,
        });
    }
    let (peers, probe_slots) = (room.peers + room.registered, probe_slots(room));
    let all_paths = paths(peers);
    // A registered client's canonical endpoint may be none of its paths'.
    let endpoints = all_paths + room.registered;
    let buckets = buckets(endpoints);
    let bucket_mask = buckets - 1;
    let unix_offset_ns = unix_offset_ns();
    let mut loader = EbpfLoader::new();
    loader.override_global(BUCKET_MASK_SYMBOL, &bucket_mask, true);
    loader.override_global(PROBE_SLOTS_SYMBOL, &probe_slots, true);
    loader.override_global(UNIX_OFFSET_SYMBOL, &unix_offset_ns, true);
    for (map, entries) in [
        (MAP_BUCKETS, buckets),
        (MAP_ENDPOINTS, endpoints),
        (MAP_CLIENTS, room.clients),
        (MAP_HANDSHAKES, room.clients),
        (MAP_SESSIONS, room.clients.saturating_mul(SESSIONS_PER_CLIENT)),
        (MAP_PEERS, peers),
        (MAP_PEER_STATES, peers),
        (MAP_PATHS, all_paths),
        (MAP_PROOFS, all_paths),
        (MAP_PROBES, all_paths * probe_slots),
        (MAP_PATH_COUNTS, all_paths),
        (MAP_KEYRINGS, room.keyrings),
    ] {
        loader.map_max_entries(map, entries);
    }
    Ok(loader.load(OBJECT)?)
}

/// What CLOCK_MONOTONIC lacks of Unix time, in nanoseconds; 0 where the clock is set before 1970.
fn unix_offset_ns() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
    unix_ns.saturating_sub(monotonic_ns())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wgxdp_common::abi::{
        MAPS, PROGRAM_CLAMP_MSS, PROGRAM_GUARD, PROGRAM_GUARD_GENERIC, PROGRAM_RESTORE, PROGRAM_STEER,
    };

    use super::*;

    #[test]
    fn the_object_names_the_abi_of_this_daemon() {
        assert_eq!(abi_version(OBJECT).unwrap(), Some(ABI_VERSION));
    }

    #[test]
    fn paths_remember_fewer_probes_the_more_there_are_within_bounds_and_always_a_power_of_two() {
        // Whether listed or registered.
        let of_peers = |peers: u32| {
            probe_slots(Room {
                peers: peers / 3,
                registered: peers - peers / 3,
                clients: 1,
                keyrings: 1,
            })
        };
        let rows = [
            (0, 64),
            (1, 64),
            (64, 64),
            (2_048, 64),
            (12_500, 16),
            (75_000, 8),
            (2_000_000, 8),
        ];
        for (peers, slots) in rows {
            assert_eq!(of_peers(peers), slots, "{peers} peers");
        }
        assert!((1..25_000).step_by(97).all(|peers| of_peers(peers).is_power_of_two()));
    }

    #[test]
    fn an_object_without_the_symbol_names_no_abi_and_rubbish_is_no_object() {
        let mut without = OBJECT.to_vec();
        let name = ABI_SYMBOL.as_bytes();
        // In the symbols' names, and in those of the debugging information.
        let places = (0..without.len() - name.len()).filter(|at| without[*at..].starts_with(name));
        for at in places.collect::<Vec<_>>() {
            without[at] = b'X';
        }
        assert_eq!(abi_version(&without).unwrap(), None);
        assert!(abi_version(b"rubbish").is_err());
    }

    #[test]
    fn the_object_holds_the_named_maps_and_programs_and_no_others() {
        let file = object::File::parse(OBJECT).unwrap();
        let in_section = |name: &str| {
            let index = file.section_by_name(name).expect("the section exists").index();
            let symbols = file
                .symbols()
                .filter(move |symbol| symbol.section_index() == Some(index));
            symbols
                .filter_map(|symbol| symbol.name().ok())
                .filter(|name| !name.is_empty())
                .collect::<BTreeSet<_>>()
        };
        let named = |names: BTreeSet<&'static str>| names;
        let maps: BTreeSet<_> = in_section("maps").into_iter().filter(|name| *name != "maps").collect();
        assert_eq!(maps, named(MAPS.into()));
        let programs = in_section("classifier");
        for program in [PROGRAM_STEER, PROGRAM_RESTORE, PROGRAM_CLAMP_MSS] {
            assert!(programs.contains(program), "{program} is not in {programs:?}");
        }
        // "frags": else a driver refuses it where frames come in several buffers.
        assert_eq!(in_section("xdp.frags"), named([PROGRAM_GUARD].into()));
        assert_eq!(in_section("xdp"), named([PROGRAM_GUARD_GENERIC].into()));
    }

    #[test]
    fn the_programs_declare_the_licence_that_their_helpers_need() {
        let file = object::File::parse(OBJECT).unwrap();
        assert_eq!(
            file.section_by_name("license").unwrap().data().unwrap(),
            b"Dual MIT/GPL\0"
        );
    }
}
