//! Configuration is seen whole: while one thread changes everything that can change as fast as it can, another runs packets through both programs, and
//! each comes out as one configuration would have it, never as a mix of two. (A redirect's next hop is no part of the packet and not seen here.)

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, MapInfo};
use wgxdp::dataplane::{Dataplane, Hook};
use wgxdp_common::abi::MAP_CONFIG;
use wgxdp_common::client::LocalId;
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::keyring::KeyName;
use wgxdp_common::liveness::{Flags, Thresholds};
use wgxdp_common::table::{Config, EndpointKey, EndpointRef, Family, Order, OrderedBy, Path, Peer};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::{self, Context};

use crate::fixture::*;

const LASTING: Duration = Duration::from_secs(2);
/// How often a torn writer is given the chance to be seen.
const CHANCES: u32 = 200;
/// Changes of single words for each change of the whole configuration; prime, so that each time they end differently.
const WORDS: u32 = 101;

/// Who takes the IPv4 peer's endpoints over, and back.
const SUCCESSOR: PeerId = PeerId(4);
const SUCCESSORS_ENDPOINT: &str = "198.51.100.3:4500";

/// Every address that one configuration has: anchor, uplink A, uplink B; and the anchor's link-layer address.
struct Addresses {
    v4: [&'static str; 3],
    v6: [&'static str; 3],
    mac: [u8; 6],
}

const WORLDS: [Addresses; 2] = [
    Addresses {
        v4: ["192.0.0.8", "192.0.2.2", "203.0.113.2"],
        v6: ["fd5e:9a1c:7d42::8", "2001:db8:a::2", "2001:db8:b::2"],
        mac: ANCHOR_MAC,
    },
    Addresses {
        v4: ["192.0.0.7", "192.0.2.77", "203.0.113.77"],
        v6: ["fd5e:9a1c:7d42::7", "2001:db8:a::77", "2001:db8:b::77"],
        mac: [0x02, 0xbb, 0xbb, 0xbb, 0xbb, 0x07],
    },
];

impl Addresses {
    fn config(&self) -> Config {
        let mut config = config(1, 1);
        // As the gateway any that is another in the other configuration.
        let family = |address: &str, anchor: &str| {
            Family::new(ip(address).into(), ip(address).into()).placed(ip(anchor).into(), LocalId::NONE)
        };
        (config.anchor.v4, config.anchor.v6) = (ip(self.v4[0]).into(), ip(self.v6[0]).into());
        config.anchor.mac = self.mac;
        for (uplink, (v4, v6)) in config.uplinks.iter_mut().zip(self.v4.iter().zip(self.v6).skip(1)) {
            (uplink.v4, uplink.v6) = (family(v4, self.v4[0]), family(v6, self.v6[0]));
        }
        config
    }

    /// With the tunnel's port, by family.
    fn sockets(&self, v4: bool) -> [String; 3] {
        if v4 {
            self.v4.map(|address| format!("{address}:{PORT}"))
        } else {
            self.v6.map(|address| format!("[{address}]:{PORT}"))
        }
    }
}

/// A packet, and everything that it may become.
struct Case {
    hook: Hook,
    input: Vec<u8>,
    whole: Vec<Vec<u8>>,
}

fn frame(source: &str, destination: &str) -> Frame {
    Frame::wireguard(socket(source), socket(destination))
}

/// For each configuration, family and program a packet of its own: another configuration passes it untouched.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for world in &WORLDS {
        let [anchor, a, b] = world.sockets(true);
        let steered = [
            frame(&a, HUB),
            frame(&b, HUB),
            frame(&a, HUB_SECOND),
            frame(&a, SUCCESSORS_ENDPOINT),
            frame(&b, SUCCESSORS_ENDPOINT),
        ];
        cases.push(case(Hook::Steer, frame(&anchor, HUB), &steered));
        let restored = [HUB, SUCCESSORS_ENDPOINT].map(|canonical| frame(canonical, &anchor).to_mac(world.mac));
        cases.push(case(
            Hook::Restore,
            frame(HUB_SECOND, &a).to_mac(LOOPBACK_MAC),
            &restored,
        ));
        let [anchor, a, b] = world.sockets(false);
        let steered = [frame(&a, HUB_V6), frame(&b, HUB_V6)];
        cases.push(case(Hook::Steer, frame(&anchor, HUB_V6), &steered));
        let restored = [frame(HUB_V6, &anchor).to_mac(world.mac)];
        cases.push(case(Hook::Restore, frame(HUB_V6, &a).to_mac(LOOPBACK_MAC), &restored));
    }
    cases
}

fn case(hook: Hook, input: Frame, changed: &[Frame]) -> Case {
    let input = input.build();
    let whole = std::iter::once(input.clone())
        .chain(changed.iter().map(Frame::build))
        .collect();
    Case { hook, input, whole }
}

/// What became of the packets.
#[derive(Debug, Default)]
struct Seen {
    /// By case and by what it became.
    whole: BTreeMap<(usize, usize), u64>,
    /// What no configuration would have made.
    mixes: Vec<Vec<u8>>,
}

/// Both programs, to be run by another thread than that which writes their maps.
struct Programs {
    steer: OwnedFd,
    restore: OwnedFd,
}

impl Programs {
    fn of(dataplane: &mut Dataplane) -> Self {
        let mut fd = |hook| {
            let program = dataplane.program(hook).expect("the program is in the object");
            let fd = program.fd().expect("the program is loaded").as_fd();
            fd.try_clone_to_owned().expect("another descriptor")
        };
        Self {
            steer: fd(Hook::Steer),
            restore: fd(Hook::Restore),
        }
    }

    /// Runs every case again and again until `stop`.
    fn watch(&self, cases: &[Case], stop: &AtomicBool) -> Seen {
        let mut seen = Seen::default();
        while !stop.load(Ordering::Relaxed) {
            for (index, case) in cases.iter().enumerate() {
                let (program, ifindex) = match case.hook {
                    Hook::Steer => (&self.steer, 0),
                    _ => (&self.restore, 1),
                };
                let context = Context {
                    ifindex,
                    ..Context::default()
                };
                let outcome = progrun::run(program, &case.input, context, 1).expect("the run succeeds");
                match case.whole.iter().position(|whole| *whole == outcome.packet) {
                    Some(became) => *seen.whole.entry((index, became)).or_default() += 1,
                    None => seen.mixes.push(outcome.packet),
                }
            }
        }
        seen
    }
}

/// Runs packets while `write` writes, and says what became of them and what `write` returned.
fn under<T>(fixture: &mut Fixture, write: impl FnOnce(&mut Fixture) -> T) -> (Seen, T) {
    let (cases, programs, stop) = (cases(), Programs::of(&mut fixture.dataplane), AtomicBool::new(false));
    thread::scope(|scope| {
        let watching = scope.spawn(|| programs.watch(&cases, &stop));
        let written = write(fixture);
        stop.store(true, Ordering::Relaxed);
        (watching.join().expect("the watching thread"), written)
    })
}

fn key(endpoint: &str) -> EndpointKey {
    EndpointKey {
        endpoint: socket(endpoint).ip().into(),
        port: socket(endpoint).port().into(),
        tunnel: PORT.into(),
    }
}

/// The IPv4 peer's endpoints lead to its successor, or back, as the daemon does it when a peer changes.
fn pass_endpoints(dataplane: &mut Dataplane, to: PeerId) {
    if to == SUCCESSOR {
        let successor = socket(SUCCESSORS_ENDPOINT);
        let path = |uplink| Path {
            thresholds: Thresholds::new(30_000, 60_000),
            ..Path::new(uplink, successor.into(), successor.ip().into())
        };
        let peer = Peer {
            order: Order::from_slots(0..2),
            canonical: socket(SUCCESSORS_ENDPOINT).into(),
            reserved: [0; 16],
            ordered: OrderedBy::USER_SPACE,
            name: KeyName::default(),
        };
        dataplane.describe_peer(SUCCESSOR, &peer, [(0, path(A)), (1, path(B))]);
        (0..2).for_each(|slot| dataplane.credit(PathId::new(SUCCESSOR, slot), now_ns()));
    }
    let order = Order::from_slots(if to == SUCCESSOR { 0..2 } else { 0..3 });
    let canonical = socket(if to == SUCCESSOR { SUCCESSORS_ENDPOINT } else { HUB });
    for endpoint in [HUB, HUB_SECOND] {
        let entry = EndpointEntry::new(key(endpoint), EndpointRef::new(to), canonical.ip().into(), order);
        dataplane.add_endpoint(&entry).expect("room");
    }
    dataplane.remove_endpoints([]).expect("a grace period");
    if to == V4_PEER {
        // Nobody refers to it any more: its number could be another's now.
        let nobody = Peer {
            order: Order::EMPTY,
            canonical: socket("0.0.0.0:0").into(),
            reserved: [0; 16],
            ordered: OrderedBy::USER_SPACE,
            name: KeyName::default(),
        };
        dataplane.describe_peer(SUCCESSOR, &nobody, []);
    }
}

/// One of the words that are changed while packets look at them.
fn change_a_word(dataplane: &Dataplane, number: u32) {
    let (kind, turn) = (number % 4, number / 4);
    let (peer, slots) = if turn.is_multiple_of(2) {
        (V4_PEER, 3)
    } else {
        (V6_PEER, 2)
    };
    let (first, even) = (PathId::new(peer, 0), (turn / 2).is_multiple_of(2));
    match kind {
        0 => dataplane.set_order(peer, Order::from_slots((0..slots).map(|slot| (slot + turn) % slots))),
        1 => dataplane.set_path_flags(first, if even { Flags::NONE } else { Flags::HELD }),
        2 => dataplane.set_uplink_flags(A, if even { Flags::NONE } else { Flags::NO_CARRIER }),
        _ => {
            let us = if even { (1, 2) } else { (u32::MAX, u32::MAX) };
            dataplane.set_thresholds(first, Thresholds::new(us.0, us.1));
        }
    }
}

#[test]
fn a_packet_sees_all_of_a_configuration_or_nothing_of_it_however_fast_everything_changes() {
    let Some(mut fixture) = Fixture::new() else { return };
    let (seen, changes) = under(&mut fixture, |fixture| {
        let until = Instant::now() + LASTING;
        let mut changes = 0_u32;
        while Instant::now() < until {
            let world = &WORLDS[changes as usize % WORLDS.len()];
            fixture.dataplane.publish(&world.config()).expect("published");
            (0..WORDS).for_each(|number| change_a_word(&fixture.dataplane, changes * WORDS + number));
            pass_endpoints(
                &mut fixture.dataplane,
                if changes % 4 < 2 { SUCCESSOR } else { V4_PEER },
            );
            changes += 1;
        }
        changes
    });
    let packets: u64 = seen.whole.values().sum();
    println!("{changes} configurations, {packets} packets: {:?}", seen.whole);
    assert!(
        seen.mixes.is_empty(),
        "{} mixes, the first: {:02x?}",
        seen.mixes.len(),
        seen.mixes[0]
    );
    assert!(changes >= 10, "{changes} changes are too few to say anything");
    for (index, _) in cases().iter().enumerate() {
        let became: Vec<usize> = seen
            .whole
            .keys()
            .filter(|(case, _)| *case == index)
            .map(|(_, became)| *became)
            .collect();
        assert!(
            became.contains(&0) && became.len() > 1,
            "case {index} saw only one configuration: {:?}",
            seen.whole
        );
    }
}

/// The map of configurations, as nobody but a test may have it.
fn config_map(dataplane: &mut Dataplane) -> Array<MapData, Config> {
    let info = dataplane
        .program(Hook::Steer)
        .expect("steer")
        .info()
        .expect("its description");
    let ids = info.map_ids().expect("its maps").expect("this kernel tells");
    let is_config = |id: &u32| MapInfo::from_id(*id).is_ok_and(|info| info.name_as_str() == Some(MAP_CONFIG));
    let id = ids.into_iter().find(is_config).expect("the map of configurations");
    Map::Array(MapData::from_id(id).expect("the map"))
        .try_into()
        .expect("an array of configurations")
}

#[test]
fn a_writer_that_changes_the_configuration_in_force_piece_by_piece_is_caught() {
    let Some(mut fixture) = Fixture::new() else { return };
    let mut map = config_map(&mut fixture.dataplane);
    let (seen, ()) = under(&mut fixture, |_| {
        let [one, two] = WORLDS.map(|world| world.config());
        let torn = Config {
            anchor: two.anchor,
            ..one
        };
        for _ in 0..CHANCES {
            for config in [&one, &torn, &two] {
                (0..2).for_each(|slot| map.set(slot, config, 0).expect("written"));
                thread::sleep(Duration::from_micros(100));
            }
        }
    });
    assert!(!seen.mixes.is_empty(), "the checker is blind: {:?}", seen.whole);
}
