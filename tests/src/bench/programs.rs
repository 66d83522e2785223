//! What a packet costs in the programs, by BPF_PROG_TEST_RUN.
//!
//! | case | packet |
//! |---|---|
//! | `empty` | any, through a program that does nothing: what calling one costs |
//! | `floor` | UDP, through the least program that parses, looks one thing up in an array and redirects |
//! | `steer` | a WireGuard data message to a known peer with two paths, of which the first is live |
//! | `steer_client` | a WireGuard data message to a learned client |
//! | `steer_translated` | a WireGuard data message that leaves in the other family: from IPv6 to IPv4 and back, in turns |
//! | `restore` | a WireGuard data message from a known endpoint |
//! | `restore_client` | a WireGuard data message from a learned client, where it spoke before |
//! | `restore_translated` | a WireGuard data message that WireGuard sees in the other family, in turns as above |
//! | `foreign` | UDP to another port, through `restore`, which lets it pass |
//! | `empty_xdp` | any, through an XDP program that does nothing |
//! | `guard` | a WireGuard data message, through `guard`, which lets it pass and counts it |
//! | `guard_foreign` | UDP to another port, through `guard` |
//!
//! A repetition sees the packet as the one before left it. A packet that `steer` has rewritten is none of its business, so a
//! naive loop would measure how fast it is let pass. Here the uplink's addresses are the anchor's, and so are the link-layer addresses:
//! every rewriting goes all the way and writes what was there. That every single repetition did so is then read from the
//! programs' own counts of reasons, and from the packet. For translation two peers have swapped endpoints: WireGuard sees each at the address at which
//! the other is reached, so that every repetition translates what the one before made, and an even number of them gives back the first packet.
//!
//! The cases take turns, many short rounds of all, so that whatever else the machine does hits all alike. A figure is the median
//! over the rounds; a ratio is of two cases of the same round. The kernel gives whole nanoseconds.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{ProgramFd, Xdp};
use wgxdp::dataplane::{Guard, Hook};
use wgxdp_common::count::{Place, Reason};
use wgxdp_common::endpoints::EndpointEntry;
use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::keyring::KeyName;
use wgxdp_common::liveness::Protect;
use wgxdp_common::message::Message;
use wgxdp_common::net::Endpoint;
use wgxdp_common::table::{EndpointKey, EndpointRef, Order, OrderedBy, Path, Peer, Uplink};

use super::figure::Summary;
use super::{Bound, Figure, Scale, Unit};
use crate::clock::now_ns;
use crate::fixture::{
    A, ANCHOR_V4, ANCHOR_V6, Fixture, HUB, HUB_V6, LOOPBACK_MAC, NEXT, PORT, REDIRECT, V4_PEER, XDP_PASS, config, ip,
    path, socket,
};
use crate::frame::Frame;
use crate::impair::{PROGRAMS, classifier, program};
use crate::poll;
use crate::progrun::{self, Context, Outcome};

/// Its name.
pub const NAME: &str = "programs";

/// The loopback device, which is uplink A.
const ON_A: Context = Context::ON_LOOPBACK;
/// What `steer` may cost by the floor.
const STEER_TO_FLOOR: Bound = Bound::AtMost(2.2);
/// What `restore` may.
const RESTORE_TO_FLOOR: Bound = Bound::AtMost(2.5);
/// What `guard` may cost by an empty XDP program: what it is for, and what it is not for.
const GUARD_TO_EMPTY: Bound = Bound::AtMost(2.5);
/// See [`GUARD_TO_EMPTY`].
const GUARD_FOREIGN_TO_EMPTY: Bound = Bound::AtMost(1.3);
/// Entries of the floor's map.
const FLOOR_WAYS: u32 = 16;

/// The endpoints of the peers that are translated, of both families.
const SWAPPED: [&str; 2] = ["198.51.100.44:51820", "[2001:db8:c::44]:51820"];
/// Learned clients.
const CLIENT: &str = "100.64.0.7:51820";
/// See [`CLIENT`].
const CLIENT_V6: &str = "[2001:db8:ffff::7]:51820";
/// The session index of [`Frame::wireguard`].
const SESSION: u32 = 0xa5a5_a5a5;

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: u32,
    /// Of one case in one round.
    repetitions: u32,
}

/// Runs a program so many times on a packet.
type Run = fn(&ProgramFd, &[u8], u32) -> std::io::Result<Outcome>;

fn tc(program: &ProgramFd, packet: &[u8], repetitions: u32) -> std::io::Result<Outcome> {
    progrun::run(program, packet, ON_A, repetitions)
}

fn xdp(program: &ProgramFd, packet: &[u8], repetitions: u32) -> std::io::Result<Outcome> {
    progrun::run_xdp(program, packet, repetitions)
}

/// A program and a packet that it is run on.
struct Case {
    name: String,
    program: ProgramFd,
    run: Run,
    packet: Vec<u8>,
    verdict: i32,
    /// How each repetition must end, for programs that count.
    end: Option<(Place, Reason)>,
    /// Nanoseconds of each round.
    rounds: Vec<f64>,
}

/// Measures all cases.
///
/// # Errors
/// The programs could not be loaded, or one did not do what it is measured for.
pub fn run(scale: Scale) -> Result<Vec<Figure>> {
    measure(match scale {
        Scale::Full => Effort {
            rounds: 101,
            repetitions: 50_000,
        },
        Scale::Quick => Effort {
            rounds: 31,
            repetitions: 50_000,
        },
    })
}

fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let mut fixture = load()?;
    let mut laboratory = Ebpf::load(PROGRAMS).context("loading the laboratory's programs (needs root)")?;
    fill_floor(&mut laboratory)?;
    let mut cases = cases(&mut fixture, &mut laboratory)?;
    for _ in 0..effort.rounds {
        ensure!(!poll::interrupted(), "interrupted");
        for case in &mut cases {
            case.round(&fixture, effort.repetitions)?;
        }
    }
    figures(&cases)
}

/// Loads the programs with a configuration with which every rewriting writes what was there before.
fn load() -> Result<Fixture> {
    let mut config = config(1, 1);
    // As the daemon does it unless told otherwise.
    let fixture = Fixture::load_protected(&config, Protect::SUSPECT);
    let mut fixture = fixture.context("loading the daemon's programs (needs root)")?;
    let locals = [ANCHOR_V4, ANCHOR_V6].map(|anchor| (ip(anchor), Some(A)));
    fixture.dataplane.settle_locals(&locals.into())?;
    config.anchor.mac = LOOPBACK_MAC;
    for uplink in &mut config.uplinks {
        for (family, anchor) in [(&mut uplink.v4, config.anchor.v4), (&mut uplink.v6, config.anchor.v6)] {
            family.address = anchor;
            *family = family.placed(anchor, fixture.dataplane.locals().id(anchor.to_ip()));
        }
    }
    fixture.dataplane.publish(&config)?;
    fixture.dataplane.set_order(V4_PEER, Order::from_slots([0, 1]));
    swap_endpoints(&mut fixture)?;
    learn_clients(&mut fixture)?;
    Ok(fixture)
}

/// Describes two peers, each of which WireGuard sees at the address, of the other family, at which the other one is reached.
fn swap_endpoints(fixture: &mut Fixture) -> Result<()> {
    let [v4, v6] = SWAPPED;
    for (id, reached_at, seen_at) in [(PeerId(4), v4, v6), (PeerId(5), v6, v4)] {
        let [key, canonical]: [Endpoint; 2] = [reached_at, seen_at].map(|endpoint| socket(endpoint).into());
        let peer = Peer {
            order: Order::from_slots([0]),
            canonical,
            reserved: [0; 16],
            ordered: OrderedBy::USER_SPACE,
            name: KeyName::default(),
        };
        let key = EndpointKey {
            endpoint: key.address,
            port: key.port,
            tunnel: PORT.into(),
        };
        let dataplane = &mut fixture.dataplane;
        let path = Path {
            protect: Protect::SUSPECT,
            ..path(A, seen_at, seen_at)
        };
        dataplane.describe_peer(id, &peer, [(0, path)]);
        dataplane.add_endpoint(&EndpointEntry::new(
            key,
            EndpointRef::new(id).with_path(A, 0),
            canonical.address,
            peer.order,
        ))?;
        dataplane.credit(PathId::new(id, 0), now_ns());
    }
    Ok(())
}

/// Has a client of each family learned, which speaks at uplink A.
fn learn_clients(fixture: &mut Fixture) -> Result<()> {
    for (anchor, client) in [(ANCHOR_V4, CLIENT), (ANCHOR_V6, CLIENT_V6)] {
        let from = (ip(anchor), PORT).into();
        let response = Frame::message(from, socket(client), 2, [SESSION, 0], Message::RESPONSE_LEN as usize);
        fixture.run(Hook::Steer, &response.build(), ON_A)?;
        let data = incoming(client, anchor, 0).build();
        let (_, reasons) = fixture.reasons_of(Hook::Restore, Place::Uplink(A), &data, ON_A);
        ensure!(
            reasons == [Reason::ClientLearned],
            "{client} was not learned: {reasons:?}"
        );
    }
    Ok(())
}

fn fill_floor(laboratory: &mut Ebpf) -> Result<()> {
    let map = laboratory
        .map_mut("FLOOR")
        .context("the laboratory's programs have no map FLOOR")?;
    let mut map = Array::<_, Uplink>::try_from(map)?;
    let [way, ..] = config(1, 1).uplinks;
    for index in 0..FLOOR_WAYS {
        map.set(index, way, 0)?;
    }
    Ok(())
}

fn cases(fixture: &mut Fixture, laboratory: &mut Ebpf) -> Result<Vec<Case>> {
    let [empty, floor] = ["empty", "floor"].map(|name| -> Result<ProgramFd> {
        let program = classifier(laboratory, name)?;
        program.load().with_context(|| format!("loading {name}"))?;
        Ok(program.fd()?.try_clone()?)
    });
    let (empty, floor) = (empty?, floor?);
    let empty_xdp: &mut Xdp = program(laboratory, "empty_xdp")?;
    empty_xdp.load().context("loading empty_xdp")?;
    let empty_xdp = empty_xdp.fd()?.try_clone()?;
    let mut hook = |hook| -> Result<ProgramFd> { Ok(fixture.dataplane.program(hook)?.fd()?.try_clone()?) };
    let (steer, restore) = (hook(Hook::Steer)?, hook(Hook::Restore)?);
    let guard = fixture.dataplane.guard_program(Guard::Native)?.fd()?.try_clone()?;

    let mut cases = vec![Case::new(
        "empty".into(),
        &empty,
        &outgoing(ANCHOR_V4, HUB),
        NEXT,
        None,
    )?];
    let passed_on = |name: String, program, packet: &Frame, end| {
        let case = Case::new(name, program, packet, XDP_PASS, end)?;
        anyhow::Ok(Case { run: xdp, ..case })
    };
    cases.push(passed_on(
        "empty_xdp".into(),
        &empty_xdp,
        &incoming(HUB, ANCHOR_V4, 0),
        None,
    )?);
    let (steered, restored) = ((Place::Anchor, Reason::Steered), (Place::Uplink(A), Reason::Restored));
    for (family, anchor, hub, client) in [("v4", ANCHOR_V4, HUB, CLIENT), ("v6", ANCHOR_V6, HUB_V6, CLIENT_V6)] {
        let out = outgoing(anchor, hub);
        let (returned, heard) = ((Place::Anchor, Reason::Returned), (Place::Uplink(A), Reason::Client));
        let passed = (Place::Uplink(A), Reason::OtherPort);
        cases.extend([
            Case::new(format!("floor_{family}"), &floor, &out, REDIRECT, None)?,
            Case::new(format!("steer_{family}"), &steer, &out, REDIRECT, Some(steered))?,
            Case::new(
                format!("steer_client_{family}"),
                &steer,
                &outgoing(anchor, client),
                REDIRECT,
                Some(returned),
            )?,
            Case::new(
                format!("restore_client_{family}"),
                &restore,
                &incoming(client, anchor, 0),
                REDIRECT,
                Some(heard),
            )?,
            Case::new(
                format!("restore_{family}"),
                &restore,
                &incoming(hub, anchor, 0),
                REDIRECT,
                Some(restored),
            )?,
            Case::new(
                format!("foreign_{family}"),
                &restore,
                &incoming(hub, anchor, 1),
                NEXT,
                Some(passed),
            )?,
            passed_on(
                format!("guard_{family}"),
                &guard,
                &incoming(hub, anchor, 0),
                Some((Place::Guard(A), Reason::Guarded)),
            )?,
            passed_on(
                format!("guard_foreign_{family}"),
                &guard,
                &incoming(hub, anchor, 1),
                None,
            )?,
        ]);
    }
    // From IPv6 first: an IPv4 header comes back with another identification.
    let [_, swapped] = SWAPPED;
    cases.extend([
        Case::new(
            "steer_translated".into(),
            &steer,
            &outgoing(ANCHOR_V6, swapped),
            REDIRECT,
            Some(steered),
        )?,
        Case::new(
            "restore_translated".into(),
            &restore,
            &incoming(swapped, ANCHOR_V6, 0),
            REDIRECT,
            Some(restored),
        )?,
    ]);
    Ok(cases)
}

/// What WireGuard sends.
fn outgoing(anchor: &str, hub: &str) -> Frame {
    let hub = socket(hub);
    Frame::wireguard((ip(anchor), hub.port()).into(), hub)
}

/// What the hub sends, to a port this much above the tunnel's.
fn incoming(hub: &str, anchor: &str, above: u16) -> Frame {
    let hub = socket(hub);
    Frame::wireguard(hub, (ip(anchor), hub.port() + above).into()).to_mac(LOOPBACK_MAC)
}

impl Case {
    fn new(
        name: String,
        program: &ProgramFd,
        frame: &Frame,
        verdict: i32,
        end: Option<(Place, Reason)>,
    ) -> Result<Self> {
        Ok(Self {
            name,
            program: program.try_clone()?,
            run: tc,
            packet: frame.build(),
            verdict,
            end,
            rounds: Vec::new(),
        })
    }

    /// Runs it once more, and makes sure that every repetition did what is to be measured.
    fn round(&mut self, fixture: &Fixture, repetitions: u32) -> Result<()> {
        let Self {
            name,
            program,
            run,
            packet,
            ..
        } = self;
        let before = self.end.map_or(Vec::new(), |(place, _)| fixture.reasons(place));
        let outcome = run(program, packet, repetitions).with_context(|| format!("running {name}"))?;
        ensure!(outcome.verdict == self.verdict, "{name}: verdict {}", outcome.verdict);
        ensure!(outcome.packet == *packet, "{name}: the packet is not what it was");
        if let Some((place, reason)) = self.end {
            let counted = difference(&before, &fixture.reasons(place));
            let expected = [(reason, u64::from(repetitions))];
            if counted != expected {
                bail!("{name}: of {repetitions} repetitions the programs counted {counted:?}");
            }
        }
        self.rounds.push(nanos(outcome.duration));
        Ok(())
    }
}

/// What was counted since `before`.
fn difference(before: &[(Reason, u64)], after: &[(Reason, u64)]) -> Vec<(Reason, u64)> {
    let earlier = |reason: Reason| before.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count);
    after
        .iter()
        .map(|(reason, count)| (*reason, count - earlier(*reason)))
        .filter(|(_, count)| *count != 0)
        .collect()
}

fn figures(cases: &[Case]) -> Result<Vec<Figure>> {
    let rounds = |name: &str| {
        let case = cases.iter().find(|case| case.name == name);
        case.map(|case| case.rounds.as_slice())
            .with_context(|| format!("there is no case {name}"))
    };
    let ratio = |name: &str, reference: &str, metric: String| -> Result<Figure> {
        let rounds = rounds(name)?.iter().zip(rounds(reference)?);
        let ratios: Vec<f64> = rounds.map(|(measured, reference)| measured / reference).collect();
        let summary = Summary::of(&ratios).context("there was no round")?;
        Ok(Figure::new(NAME, metric, summary.median, Unit::Ratio, summary.count))
    };
    let mut figures = Vec::new();
    for case in cases {
        let summary = Summary::of(&case.rounds).context("there was no round")?;
        let samples = summary.count;
        figures.push(Figure::new(
            NAME,
            &case.name,
            summary.median,
            Unit::Nanoseconds,
            samples,
        ));
    }
    for family in ["v4", "v6"] {
        let (floor, empty) = (format!("floor_{family}"), "empty".to_owned());
        let empty_xdp = "empty_xdp".to_owned();
        for (program, references) in [
            (
                "steer",
                &[("floor", &floor, Some(STEER_TO_FLOOR)), ("empty", &empty, None)][..],
            ),
            (
                "restore",
                &[("floor", &floor, Some(RESTORE_TO_FLOOR)), ("empty", &empty, None)],
            ),
            ("steer_client", &[("floor", &floor, None)]),
            ("restore_client", &[("floor", &floor, None)]),
            ("foreign", &[("empty", &empty, None)]),
            ("guard", &[("empty", &empty_xdp, Some(GUARD_TO_EMPTY))]),
            ("guard_foreign", &[("empty", &empty_xdp, Some(GUARD_FOREIGN_TO_EMPTY))]),
        ] {
            for (reference, case, bound) in references {
                let name = format!("{program}_{family}");
                let figure = ratio(&name, case, format!("{name}_to_{reference}"))?;
                figures.push(Figure {
                    bound: *bound,
                    ..figure
                });
            }
        }
    }
    for program in ["steer", "restore"] {
        let name = format!("{program}_translated");
        figures.push(ratio(&name, "floor_v6", format!("{name}_to_floor"))?);
    }
    Ok(figures)
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privilege::root_or_skip;

    #[test]
    fn every_repetition_is_the_packet_that_is_to_be_measured() {
        if !root_or_skip("BPF_PROG_TEST_RUN") {
            return;
        }
        let effort = Effort {
            rounds: 2,
            repetitions: 100,
        };
        let figures = measure(effort).expect("each case does what it is measured for");
        assert!(figures.iter().all(|figure| figure.value > 0.0 && figure.samples == 2));
        let metrics: Vec<_> = figures.iter().map(|figure| figure.metric.as_str()).collect();
        for family in ["v4", "v6"] {
            for metric in [
                "floor_FAMILY",
                "steer_FAMILY",
                "restore_FAMILY",
                "foreign_FAMILY",
                "steer_FAMILY_to_floor",
                "steer_client_FAMILY_to_floor",
                "restore_client_FAMILY_to_floor",
                "steer_FAMILY_to_empty",
                "restore_FAMILY_to_floor",
                "restore_FAMILY_to_empty",
                "foreign_FAMILY_to_empty",
                "guard_FAMILY_to_empty",
                "guard_foreign_FAMILY_to_empty",
            ] {
                let metric = metric.replace("FAMILY", family);
                assert!(metrics.contains(&metric.as_str()), "{metric} is not in {metrics:?}");
            }
        }
    }

    #[test]
    fn every_repetition_translates_so_that_an_odd_number_leaves_the_other_family() {
        if !root_or_skip("BPF_PROG_TEST_RUN") {
            return;
        }
        let mut fixture = load().expect("the programs load");
        let [v4, v6] = SWAPPED;
        let (out, back) = (outgoing(ANCHOR_V6, v6).build(), incoming(v6, ANCHOR_V6, 0).build());
        for (hook, frame, translated) in [
            (Hook::Steer, out, outgoing(ANCHOR_V4, v4).build()),
            (Hook::Restore, back, incoming(v4, ANCHOR_V4, 0).build()),
        ] {
            let outcome = fixture.run(hook, &frame, ON_A).expect("the run succeeds");
            assert_eq!(outcome.verdict, REDIRECT);
            // Ends and ports; the rest of an IPv4 header that was made is not that of one that was built.
            assert_eq!(outcome.packet[12..14], translated[12..14]);
            assert_eq!(outcome.packet[26..38], translated[26..38]);
        }
    }

    #[test]
    fn a_packet_that_is_passed_after_the_first_repetition_is_not_taken_for_a_steered_one() {
        if !root_or_skip("BPF_PROG_TEST_RUN") {
            return;
        }
        // Not the identity: the first repetition rewrites the source.
        let mut fixture = Fixture::load(&config(1, 1)).expect("the programs load");
        let program = fixture
            .dataplane
            .program(Hook::Steer)
            .expect("it is there")
            .fd()
            .expect("it is loaded");
        let end = Some((Place::Anchor, Reason::Steered));
        let frame = outgoing(ANCHOR_V4, HUB);
        let mut case = Case::new(
            "steer".into(),
            &program.try_clone().expect("a descriptor"),
            &frame,
            REDIRECT,
            end,
        )
        .expect("a descriptor");
        assert!(case.round(&fixture, 2).is_err());
    }
}
