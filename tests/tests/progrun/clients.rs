//! Learned clients: what they may be moved by, and by nothing else.
//!
//! Uplink B is the loopback device here, so that everything arrives there; A is a device that packets only leave by.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wgxdp::dataplane::Hook::{Restore, Steer};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::id::UplinkId;
use wgxdp_common::liveness::Flags;
use wgxdp_tests::frame::Frame;
use wgxdp_tests::privilege::root_or_skip;
use wgxdp_tests::progrun::{Context, Outcome};

use crate::fixture::*;

const CLIENT: &str = "100.64.0.7:40001";
const CLIENT_V6: &str = "[2001:db8:ffff::7]:40001";
const ANCHOR: &str = "192.0.0.8:51820";
const ANCHOR6: &str = "[fd5e:9a1c:7d42::8]:51820";
const A_ADDRESS: &str = "192.0.2.2:51820";
const B_ADDRESS: &str = "203.0.113.2:51820";
const A_ADDRESS6: &str = "[2001:db8:a::2]:51820";
const B_ADDRESS6: &str = "[2001:db8:b::2]:51820";
/// More of B's, and a service's that every uplink leads to.
const B_SECOND: &str = "203.0.113.77:51820";
const SERVICE: &str = "198.18.0.1:51820";
/// Session indices: ours, and the client's.
const OURS: u32 = 0x1122_3344;
const THEIRS: u32 = 0x5566_7788;
const NOBODYS: u32 = 0x0bad_0bad;

/// A concentrator's programs; the devices of its uplinks can be swapped.
struct Concentrator(Fixture);

impl Concentrator {
    fn new() -> Option<Self> {
        root_or_skip("BPF_PROG_TEST_RUN").then(|| {
            let mut concentrator = Self(Fixture::load(&config(999, 1)).expect("the programs load"));
            concentrator.place([(B_SECOND, Some(B)), (SERVICE, None)]);
            concentrator
        })
    }

    /// The host has these addresses besides the uplinks' own.
    fn place<const N: usize>(&mut self, more: [(&str, Option<UplinkId>); N]) {
        let own = [
            (A_ADDRESS, Some(A)),
            (B_ADDRESS, Some(B)),
            (A_ADDRESS6, Some(A)),
            (B_ADDRESS6, Some(B)),
        ];
        let all = own.into_iter().chain(more);
        let all: BTreeMap<IpAddr, _> = all.map(|(address, uplink)| (socket(address).ip(), uplink)).collect();
        let left_out = self.0.dataplane.settle_locals(&all).expect("the maps can be written");
        assert!(left_out.is_empty());
        self.listen_on(B);
    }

    /// What arrives arrives at this uplink.
    fn listen_on(&mut self, uplink: UplinkId) {
        let mut config = if uplink == A { config(1, 999) } else { config(999, 1) };
        for entry in &mut config.uplinks[..2] {
            for (family, anchor) in [(&mut entry.v4, config.anchor.v4), (&mut entry.v6, config.anchor.v6)] {
                *family = family.placed(anchor, self.0.dataplane.locals().id(family.address.to_ip()));
            }
        }
        self.0
            .dataplane
            .publish(&config)
            .expect("the configuration can be published");
    }

    fn arrives(&mut self, at: UplinkId, message: Frame) -> Reason {
        let context = Context::ON_LOOPBACK;
        let message = message.to_mac(LOOPBACK_MAC).build();
        let (outcome, reasons) = self.0.reasons_of(Restore, Place::Uplink(at), &message, context);
        assert_eq!(outcome.verdict, REDIRECT, "WireGuard sees it");
        reasons[0]
    }

    fn leaves(&mut self, message: Frame) -> (Outcome, Reason) {
        let (outcome, reasons) = self
            .0
            .reasons_of(Steer, Place::Anchor, &message.build(), Context::default());
        (outcome, reasons[0])
    }

    /// Data for the client leaves for this reason and with this source.
    fn answered(&mut self, client: &str, reason: Reason, source: &str) {
        let anchor = if client.starts_with('[') { ANCHOR6 } else { ANCHOR };
        let (outcome, found) = self.leaves(data(anchor, client, THEIRS));
        assert_eq!((outcome.verdict, found), (REDIRECT, reason));
        assert_eq!(outcome.packet, data(source, client, THEIRS).build());
    }

    /// WireGuard answers the client's handshake: it hands out [`OURS`].
    fn responds(&mut self, client: &str) -> Outcome {
        let anchor = if client.starts_with('[') { ANCHOR6 } else { ANCHOR };
        self.leaves(response(anchor, client)).0
    }
}

fn data(source: &str, destination: &str, index: u32) -> Frame {
    Frame::message(socket(source), socket(destination), 4, [index, 9], 96)
}

fn initiation(source: &str, destination: &str, index: u32) -> Frame {
    Frame::message(socket(source), socket(destination), 1, [index, 9], 148)
}

fn response(source: &str, destination: &str) -> Frame {
    Frame::message(socket(source), socket(destination), 2, [OURS, THEIRS], 92)
}

#[test]
fn a_client_is_answered_where_it_speaks_from_its_first_message_on() {
    let Some(mut hub) = Concentrator::new() else { return };
    for (client, address) in [
        (CLIENT, B_ADDRESS),
        (CLIENT_V6, B_ADDRESS6),
        (CLIENT, B_SECOND),
        (CLIENT, SERVICE),
    ] {
        assert_eq!(hub.arrives(B, initiation(client, address, THEIRS)), Reason::Stranger);
        assert_eq!(
            hub.responds(client).packet,
            response(address, client).build(),
            "{address}"
        );
        let learned = hub.arrives(B, data(client, address, OURS));
        assert!(
            matches!(learned, Reason::ClientLearned | Reason::ClientMoved),
            "{learned:?}"
        );
        hub.answered(client, Reason::Returned, address);
        assert_eq!(hub.arrives(B, data(client, address, OURS)), Reason::Client);
    }
}

#[test]
fn a_client_of_whom_nothing_was_heard_is_answered_by_the_first_uplink() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.answered(CLIENT, Reason::Fallback, A_ADDRESS);
    hub.answered(CLIENT_V6, Reason::Fallback, A_ADDRESS6);
}

#[test]
fn a_client_that_speaks_elsewhere_is_followed() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.responds(CLIENT);
    assert_eq!(hub.arrives(B, data(CLIENT, B_ADDRESS, OURS)), Reason::ClientLearned);
    hub.listen_on(A);
    assert_eq!(hub.arrives(A, data(CLIENT, A_ADDRESS, OURS)), Reason::ClientMoved);
    hub.answered(CLIENT, Reason::Returned, A_ADDRESS);
}

#[test]
fn nothing_without_a_session_of_ours_moves_anybody() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.listen_on(A);
    hub.responds(CLIENT);
    assert_eq!(hub.arrives(A, data(CLIENT, A_ADDRESS, OURS)), Reason::ClientLearned);
    hub.listen_on(B);
    let from_b = |kind, len| Frame::message(socket(CLIENT), socket(B_ADDRESS), kind, [NOBODYS, NOBODYS], len);
    for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1232)] {
        assert_eq!(hub.arrives(B, from_b(kind, len)), Reason::Stranger, "type {kind}");
        hub.answered(CLIENT, Reason::Returned, A_ADDRESS);
    }
    // The index alone is not it either: it was handed out on another tunnel, or where it stands is not where an index is.
    let handshake = Frame::message(socket(CLIENT), socket(B_ADDRESS), 1, [OURS, OURS], 148);
    assert_eq!(hub.arrives(B, handshake), Reason::Stranger);
    hub.answered(CLIENT, Reason::Returned, A_ADDRESS);
    // Nor does a stranger who is unknown become known.
    let nobody = "100.64.0.99:1";
    assert_eq!(hub.arrives(B, data(nobody, B_ADDRESS, NOBODYS)), Reason::Stranger);
    hub.answered(nobody, Reason::Fallback, A_ADDRESS);
}

#[test]
fn the_answer_to_a_handshake_leaves_where_that_very_message_came_in() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.arrives(B, initiation(CLIENT, B_ADDRESS, THEIRS));
    // Somebody else's, with the client's source, at another uplink, later.
    hub.listen_on(A);
    hub.arrives(A, initiation(CLIENT, A_ADDRESS, NOBODYS));
    let answered = hub.responds(CLIENT);
    assert_eq!(answered.packet, response(B_ADDRESS, CLIENT).build());
    // A cookie bears the other side's index where data bears ours.
    let cookie = |source: &str| Frame::message(socket(source), socket(CLIENT), 3, [THEIRS, 9], 64);
    let (outcome, reason) = hub.leaves(cookie(ANCHOR));
    assert_eq!(reason, Reason::Returned);
    assert_eq!(outcome.packet, cookie(B_ADDRESS).build());
}

#[test]
fn strangers_handshakes_may_crowd_out_a_clients_and_its_answer_goes_where_its_data_comes_from() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.responds(CLIENT);
    hub.arrives(B, data(CLIENT, B_ADDRESS, OURS));
    hub.arrives(B, initiation(CLIENT, B_ADDRESS, THEIRS));
    let context = Context::ON_LOOPBACK;
    for index in 0..4 * CLIENTS {
        let message = initiation("100.64.9.9:9", B_ADDRESS, index)
            .to_mac(LOOPBACK_MAC)
            .build();
        hub.0.run(Restore, &message, context).expect("the run succeeds");
    }
    assert_eq!(hub.responds(CLIENT).packet, response(B_ADDRESS, CLIENT).build());
}

#[test]
fn our_own_handshake_hands_out_an_index_too() {
    let Some(mut hub) = Concentrator::new() else { return };
    assert_eq!(hub.arrives(B, data(CLIENT, B_ADDRESS, OURS)), Reason::Stranger);
    hub.leaves(initiation(ANCHOR, CLIENT, OURS));
    assert_eq!(hub.arrives(B, data(CLIENT, B_ADDRESS, OURS)), Reason::ClientLearned);
}

#[test]
fn while_its_uplink_is_down_another_carries_a_client() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.responds(CLIENT);
    hub.arrives(B, data(CLIENT, B_ADDRESS, OURS));
    hub.0.dataplane.set_uplink_flags(B, Flags::NO_CARRIER);
    hub.answered(CLIENT, Reason::Diverted, A_ADDRESS);
    hub.0.dataplane.set_uplink_flags(B, Flags::NONE);
    hub.answered(CLIENT, Reason::Returned, B_ADDRESS);
    // An address that is no uplink's goes with the packet.
    hub.arrives(B, data(CLIENT, SERVICE, OURS));
    hub.0.dataplane.set_uplink_flags(B, Flags::ADMIN_DOWN);
    hub.answered(CLIENT, Reason::Diverted, SERVICE);
}

#[test]
fn an_address_that_the_host_has_no_more_is_not_used() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.responds(CLIENT);
    hub.arrives(B, data(CLIENT, B_SECOND, OURS));
    hub.place([]);
    hub.answered(CLIENT, Reason::Returned, B_ADDRESS);
    // Nor is it listened to.
    let message = data(CLIENT, B_SECOND, OURS).to_mac(LOOPBACK_MAC).build();
    let context = Context::ON_LOOPBACK;
    let (outcome, reasons) = hub.0.reasons_of(Restore, Place::Uplink(B), &message, context);
    assert_eq!(
        (outcome.verdict, reasons.as_slice()),
        (NEXT, [Reason::ForeignDestination].as_slice())
    );
}

#[test]
fn when_there_are_too_many_the_oldest_go_and_the_newest_stay() {
    let Some(mut hub) = Concentrator::new() else { return };
    hub.responds(CLIENT);
    let client = |n: u32| format!("100.{}.{}.{}:7", 64 + (n >> 16), n >> 8 & 255, n & 255);
    let many = 4 * CLIENTS;
    let context = Context::ON_LOOPBACK;
    for n in 0..many {
        let message = data(&client(n), B_ADDRESS, OURS).to_mac(LOOPBACK_MAC).build();
        hub.0.run(Restore, &message, context).expect("the run succeeds");
    }
    hub.answered(&client(many - 1), Reason::Returned, B_ADDRESS);
    hub.answered(&client(0), Reason::Fallback, A_ADDRESS);
    let learned = hub
        .0
        .reasons(Place::Uplink(B))
        .into_iter()
        .find(|(reason, _)| *reason == Reason::ClientLearned);
    let known = hub.0.dataplane.tables().clients().expect("the map can be read");
    assert_eq!(learned, Some((Reason::ClientLearned, u64::from(many))));
    assert!(known > 0 && known <= u64::from(CLIENTS), "{known}");
}

#[test]
fn wireguard_may_speak_from_an_address_of_the_hosts_and_from_no_other() {
    let Some(mut hub) = Concentrator::new() else { return };
    for (source, reason) in [(B_SECOND, Reason::Fallback), (SERVICE, Reason::Fallback)] {
        let (outcome, found) = hub.leaves(data(source, CLIENT, THEIRS));
        assert_eq!(found, reason, "{source}");
        assert_eq!(outcome.packet, data(A_ADDRESS, CLIENT, THEIRS).build(), "{source}");
    }
    let (outcome, reason) = hub.leaves(data("203.0.113.78:51820", CLIENT, THEIRS));
    assert_eq!((outcome.verdict, reason), (NEXT, Reason::ForeignSource));
}
