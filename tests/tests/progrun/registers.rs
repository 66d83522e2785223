//! Registration: where an authentic request came from is told to user space, and a client that has paths puts them in order by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::maps::{MapData, RingBuf};
use wgxdp::dataplane::Hook;
use wgxdp_common::client::LocalId;
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::record::Registration;
use wgxdp_common::stamp::in_band::{Author, InBand};
use wgxdp_common::table::{EndpointKey, EndpointRef, Order, OrderedBy, Path, Peer};
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::progrun::Context;

use crate::fixture::*;
use crate::in_band::{By, ENDS, FAR_PATH, arriving, author, bytes, fixture, request};

/// Where a client is by one of its paths and by the other, in our table's slots, and the address of ours that it speaks to there.
const CLIENT: PeerId = PeerId(8);
const HERE: (&str, u32) = ("100.64.0.7:40001", 2);
const THERE: (&str, u32) = ("100.64.9.9:51820", 5);
const SECOND_ADDRESS: &str = "192.0.2.11:51820";

/// What was told since it was last asked.
fn told(records: &mut RingBuf<MapData>) -> Vec<Registration> {
    let mut told = Vec::new();
    while let Some(item) = records.next() {
        if item.len() == size_of::<Registration>() {
            // SAFETY: the length is right, and any bits are a `Registration`.
            told.push(unsafe { item.as_ptr().cast::<Registration>().read_unaligned() });
        }
    }
    told
}

/// The host's addresses have ids; a second one of uplink A's is among them.
fn place_addresses(fixture: &mut Fixture) {
    let own = [ENDS[0].3, ENDS[1].3, SECOND_ADDRESS].map(|local| (socket(local).ip(), Some(A)));
    let all: BTreeMap<IpAddr, _> = own.into();
    fixture.dataplane.settle_locals(&all).expect("the maps can be written");
    let mut config = config(1, 1);
    let uplink = &mut config.uplinks[0];
    uplink.sends_back = 1;
    for (family, anchor) in [(&mut uplink.v4, config.anchor.v4), (&mut uplink.v6, config.anchor.v6)] {
        *family = family.placed(anchor, fixture.dataplane.locals().id(family.address.to_ip()));
    }
    fixture
        .dataplane
        .publish(&config)
        .expect("the configuration is published");
}

fn local_id(fixture: &Fixture, local: &str) -> LocalId {
    fixture.dataplane.locals().id(socket(local).ip())
}

#[test]
fn where_an_authentic_request_comes_from_is_told_once_unless_it_is_known_and_again_when_it_is_another_place() {
    let Some(mut fixture) = fixture() else { return };
    place_addresses(&mut fixture);
    let mut records = fixture.dataplane.records().expect("the ring buffer opens");
    let mut moment = 0;
    for (by, (peer, known, _, local, _)) in By::ALL.into_iter().flat_map(|by| ENDS.map(|ends| (by, ends))) {
        let elsewhere = if socket(known).is_ipv4() {
            ["100.64.0.7:40001", "100.64.0.7:40002"]
        } else {
            ["[2001:db8:ffff::7]:40001", "[2001:db8:ffff::8]:40001"]
        };
        let mut asks = |source: &str, active: bool| {
            moment += 1 << 32;
            let author = Author { active, ..author(peer) };
            let frame = arriving(source, local, &bytes(&request(peer, moment, author))).build();
            let since_ns = now_ns();
            assert_eq!(by.run(&mut fixture, &frame).2, [Reason::Answered], "{by:?}");
            let told = told(&mut records);
            assert!(told.iter().all(|told| (since_ns..=now_ns()).contains(&told.at_ns)));
            told
        };
        assert_eq!(asks(known, true), [], "{by:?}: the configured endpoint");
        for (source, active) in elsewhere.into_iter().zip([false, true]) {
            let [told] = asks(source, active)[..] else {
                panic!("{by:?}: {source} was not told once");
            };
            assert_eq!(asks(source, active), [], "{by:?}: {source} again");
            let expected = Registration {
                at_ns: told.at_ns,
                name: key_name(peer),
                source: socket(source).into(),
                uplink: A,
                local: told.local,
                theirs: FAR_PATH,
                active: active.into(),
                reserved: 0,
            };
            assert_eq!(told, expected, "{by:?}");
            assert_ne!(told.local, LocalId::NONE);
        }
    }
}

#[test]
fn what_is_not_authentic_and_new_registers_nothing() {
    let Some(mut fixture) = fixture() else { return };
    place_addresses(&mut fixture);
    let mut records = fixture.dataplane.records().expect("the ring buffer opens");
    let (peer, known, _, local, _) = ENDS[0];
    let latest = request(peer, 9 << 32, author(peer));
    let known = arriving(known, local, &bytes(&latest)).build();
    assert_eq!(By::Restore.run(&mut fixture, &known).2, [Reason::Answered]);
    let mut tag = bytes(&request(peer, 10 << 32, author(peer)));
    tag[79] ^= 1;
    let rows = [
        ("forged", tag, Reason::ProbeForged),
        ("replayed from elsewhere", bytes(&latest), Reason::ProbeReplayed),
        (
            "by another peer's key",
            bytes(&request(V6_PEER, 10 << 32, author(peer))),
            Reason::ProbeForged,
        ),
        (
            "nobody's",
            bytes(&request(CLIENT, 10 << 32, author(CLIENT))),
            Reason::ProbeStranger,
        ),
    ];
    for (by, (name, payload, reason)) in By::ALL.into_iter().flat_map(|by| rows.map(|row| (by, row))) {
        by.refuses(&mut fixture, &arriving(HERE.0, local, &payload), reason, name);
        assert_eq!(told(&mut records), [], "{by:?}: {name}");
    }
}

/// A client in the tables, as the daemon puts it there: WireGuard sees it at [`HERE`], and it spoke to our second address from [`THERE`].
fn settle_client(fixture: &mut Fixture, ordered: OrderedBy) {
    let canonical = socket(HERE.0);
    let order = Order::from_slots([HERE.1, THERE.1]);
    let peer = Peer {
        order,
        canonical: canonical.into(),
        reserved: [0; 16],
        ordered,
        name: key_name(CLIENT),
    };
    let local = |address| local_id(fixture, address);
    let path = |endpoint: &str, local| Path {
        local,
        ..Path::new(A, socket(endpoint).into(), canonical.ip().into())
    };
    let paths = [
        (HERE.1, path(HERE.0, local(ENDS[0].3))),
        (THERE.1, path(THERE.0, local(SECOND_ADDRESS))),
    ];
    let dataplane = &mut fixture.dataplane;
    dataplane.describe_peer(CLIENT, &peer, paths);
    for (endpoint, slot) in [HERE, THERE] {
        let key = EndpointKey {
            endpoint: socket(endpoint).ip().into(),
            port: socket(endpoint).port().into(),
            tunnel: PORT.into(),
        };
        let entry = EndpointRef::new(CLIENT).with_path(A, slot);
        let entry = EndpointEntry::new(key, entry, canonical.ip().into(), order);
        dataplane.add_endpoint(&entry).expect("there is room");
    }
    let keys = [V4_PEER, V6_PEER, CLIENT].map(|id| (key_name(id), keys(id)));
    dataplane.settle_keys(&keys.into()).expect("there is room");
}

/// The client's request over the path to `there`, which may be the one that carries its traffic.
fn asks(fixture: &mut Fixture, by: By, moment: u64, there: (&str, u32), local: &str, active: bool) {
    let author = Author {
        active,
        ..author(CLIENT)
    };
    let asked = InBand::request(
        7,
        wgxdp_common::stamp::Timestamp(moment << 32),
        PathId::new(PeerId(0), there.1),
        author,
    );
    let frame = arriving(there.0, local, &bytes(&asked.sealed(keys(CLIENT).theirs))).build();
    assert_eq!(by.run(fixture, &frame).2, [Reason::Answered], "{by:?}");
}

/// WireGuard's packet to where it sees the client leaves from `local` to `there`.
fn leaves_for(fixture: &mut Fixture, local: &str, there: (&str, u32)) {
    let frame = Frame::wireguard(socket("192.0.0.8:51820"), socket(HERE.0)).build();
    let (outcome, reasons) = fixture.reasons_of(Hook::Steer, Place::Anchor, &frame, Context::default());
    assert_eq!((outcome.verdict, reasons), (REDIRECT, vec![Reason::Steered]));
    assert_eq!(outcome.packet, Frame::wireguard(socket(local), socket(there.0)).build());
}

#[test]
fn a_client_is_sent_what_it_gets_by_the_path_that_it_marks_active_from_the_address_that_it_spoke_to() {
    for by in By::ALL {
        let Some(mut fixture) = fixture() else { return };
        place_addresses(&mut fixture);
        settle_client(&mut fixture, OrderedBy::FAR_END);
        let mut records = fixture.dataplane.records().expect("the ring buffer opens");
        let own = ENDS[0].3;
        leaves_for(&mut fixture, own, HERE);
        // `guard` leaves what is not for the uplink's own address to `restore`.
        let by_there = By::Restore;
        asks(&mut fixture, by_there, 1, THERE, SECOND_ADDRESS, false);
        leaves_for(&mut fixture, own, HERE);
        asks(&mut fixture, by_there, 2, THERE, SECOND_ADDRESS, true);
        leaves_for(&mut fixture, SECOND_ADDRESS, THERE);
        asks(&mut fixture, by, 3, HERE, own, true);
        leaves_for(&mut fixture, own, HERE);
        assert_eq!(told(&mut records), [], "all of that was known");

        // From there to another address of ours: that is another path.
        asks(&mut fixture, by, 4, THERE, own, true);
        assert_eq!(told(&mut records).len(), 1, "{by:?}");
        leaves_for(&mut fixture, own, HERE);
    }
}

#[test]
fn a_listed_peers_paths_keep_the_order_that_user_space_gave_them() {
    let Some(mut fixture) = fixture() else { return };
    place_addresses(&mut fixture);
    settle_client(&mut fixture, OrderedBy::USER_SPACE);
    asks(&mut fixture, By::Restore, 1, THERE, SECOND_ADDRESS, true);
    leaves_for(&mut fixture, ENDS[0].3, HERE);
}

#[test]
fn what_comes_from_any_of_a_clients_places_comes_to_wireguard_from_where_it_sees_the_client() {
    let Some(mut fixture) = fixture() else { return };
    place_addresses(&mut fixture);
    settle_client(&mut fixture, OrderedBy::FAR_END);
    for (there, local) in [(HERE, ENDS[0].3), (THERE, SECOND_ADDRESS)] {
        let frame = arriving_data(there.0, local);
        let (outcome, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(A), &frame, Context::ON_LOOPBACK);
        assert_eq!((outcome.verdict, reasons), (REDIRECT, vec![Reason::Restored]));
        let expected = Frame::wireguard(socket(HERE.0), socket("192.0.0.8:51820")).to_mac(ANCHOR_MAC);
        assert_eq!(outcome.packet, expected.build());
    }
}

fn arriving_data(source: &str, local: &str) -> Vec<u8> {
    Frame::wireguard(socket(source), socket(local))
        .to_mac(LOOPBACK_MAC)
        .build()
}
