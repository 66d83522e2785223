//! The text, as its readers understand it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use wgxdp_common::count::{PathCount, Place, Reason};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::table::PathState;

use super::parser::{Family, Parser, Sample};
use super::{Extras, Lateness, Scrape, render};
use crate::dataplane::Guard;
use crate::snapshot::fixture::{Host, NOW, branch, fresh_proof, path_entry};
use crate::snapshot::{Names, PathName, PeerName};

fn scrape(names: &Names, host: &Host, extras: &Extras) -> Scrape {
    Scrape::take(names, host, extras, NOW).expect("the host can be read")
}

fn extras() -> Extras {
    let lateness = Lateness::default();
    for late_ms in [2, 250, 5_000] {
        lateness.note(Duration::from_millis(late_ms));
    }
    Extras {
        failovers: BTreeMap::from([
            ((PeerId(2), "silence"), 3),
            ((PeerId(2), "uplink_down"), 1),
            ((PeerId(9), "silence"), 7),
        ]),
        handshakes: BTreeMap::from([(
            PeerId(2),
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_777_809_600_250),
        )]),
        guards: BTreeMap::from([(UplinkId(0), Some(Guard::Native)), (UplinkId(1), None)]),
        asked: 5,
        wakeups: lateness.read(),
    }
}

/// `branch` with every kind of number.
fn busy() -> Scrape {
    let (names, mut host) = branch();
    host.reasons.insert((Place::Anchor, Reason::Steered), 10);
    host.reasons.insert((Place::Uplink(UplinkId(0)), Reason::Restored), 20);
    host.reasons.insert((Place::Elsewhere, Reason::NotConfigured), 2);
    host.reasons.insert((Place::Guard(UplinkId(0)), Reason::WrongType), 3);
    host.reasons
        .insert((Place::Uplink(UplinkId(1)), Reason::ClientLearned), 70);
    host.clients = 64;
    scrape(&names, &host, &extras())
}

fn samples<'a>(families: &'a [Family], name: &'a str) -> impl Iterator<Item = &'a Sample> {
    families
        .iter()
        .flat_map(|family| &family.samples)
        .filter(move |sample| sample.name == name)
}

fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let matches = |sample: &&Sample| {
        labels
            .iter()
            .all(|(k, v)| sample.labels.get(*k).is_some_and(|value| value == v))
    };
    let mut found = samples(families, name).filter(matches);
    let first = found.next().map(|sample| sample.value);
    assert!(found.next().is_none(), "more than one {name} with {labels:?}");
    first
}

#[test]
fn the_text_is_openmetrics_and_says_what_the_host_is() {
    let Some(mut parser) = Parser::find() else { return };
    let text = render(busy());
    let families = parser.parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let path = [
        ("tunnel", "wg0"),
        ("peer", "hq"),
        ("uplink", "isp-a"),
        ("endpoint", "198.51.100.1:51820"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [path.as_slice(), more].concat();
    let of_lte = [("uplink", "lte")];
    let rows = [
        (
            "wgxdp_build_info",
            vec![("version", env!("CARGO_PKG_VERSION"))],
            Some(1.0),
        ),
        (
            "wgxdp_uplink_up",
            vec![("uplink", "isp-a"), ("interface", "eth0")],
            Some(1.0),
        ),
        ("wgxdp_uplink_up", of_lte.to_vec(), Some(0.0)),
        (
            "wgxdp_uplink_guard",
            vec![("uplink", "isp-a"), ("mode", "native")],
            Some(1.0),
        ),
        (
            "wgxdp_uplink_guard",
            vec![("uplink", "isp-a"), ("mode", "off")],
            Some(0.0),
        ),
        (
            "wgxdp_uplink_guard",
            vec![("uplink", "lte"), ("mode", "off")],
            Some(1.0),
        ),
        ("wgxdp_clients", vec![], Some(64.0)),
        ("wgxdp_clients_forgotten_total", vec![], Some(6.0)),
        ("wgxdp_clients_asked", vec![], Some(5.0)),
        ("wgxdp_path_state", with(&[("state", "up")]), Some(1.0)),
        ("wgxdp_path_state", with(&[("state", "suspect")]), Some(0.0)),
        ("wgxdp_path_state", with(&[("state", "down")]), Some(0.0)),
        ("wgxdp_path_state", with(&[("state", "held")]), Some(0.0)),
        ("wgxdp_path_state", with(&[("state", "drained")]), Some(0.0)),
        ("wgxdp_path_active", path.to_vec(), Some(1.0)),
        ("wgxdp_path_active", of_lte.to_vec(), Some(0.0)),
        ("wgxdp_path_rtt_seconds", path.to_vec(), Some(0.0125)),
        ("wgxdp_path_rtt_seconds", of_lte.to_vec(), None),
        ("wgxdp_path_probe_loss_ratio", path.to_vec(), Some(0.0)),
        ("wgxdp_path_probe_loss_ratio", of_lte.to_vec(), Some(1.0)),
        ("wgxdp_path_probes_sent_total", path.to_vec(), Some(1000.0)),
        ("wgxdp_path_probes_answered_total", path.to_vec(), Some(998.0)),
        ("wgxdp_path_packets_total", with(&[("direction", "tx")]), Some(10.0)),
        ("wgxdp_path_packets_total", with(&[("direction", "rx")]), Some(20.0)),
        ("wgxdp_path_bytes_total", with(&[("direction", "tx")]), Some(1480.0)),
        (
            "wgxdp_path_bytes_total",
            with(&[("direction", "rx")]),
            Some(3_565_158.0),
        ),
        (
            "wgxdp_failovers_total",
            vec![("tunnel", "wg0"), ("peer", "hq"), ("reason", "silence")],
            Some(3.0),
        ),
        ("wgxdp_failovers_total", vec![("reason", "uplink_down")], Some(1.0)),
        (
            "wgxdp_peer_latest_handshake_seconds",
            vec![("tunnel", "wg0"), ("peer", "hq")],
            Some(1_777_809_600.25),
        ),
        ("wgxdp_wakeup_lateness_seconds_bucket", vec![("le", "0.001")], Some(0.0)),
        ("wgxdp_wakeup_lateness_seconds_bucket", vec![("le", "0.5")], Some(2.0)),
        ("wgxdp_wakeup_lateness_seconds_bucket", vec![("le", "+Inf")], Some(3.0)),
        ("wgxdp_wakeup_lateness_seconds_count", vec![], Some(3.0)),
        ("wgxdp_wakeup_lateness_seconds_sum", vec![], Some(5.252)),
    ];
    for (name, labels, expected) in rows {
        assert_eq!(value(&families, name, &labels), expected, "{name} {labels:?}\n{text}");
    }
    let programs = [
        (["steer", "", "redirect", "steered"], Some(10.0)),
        (["steer", "", "pass", "foreign_source"], Some(0.0)),
        (["steer", "", "redirect", "restored"], None),
        (["restore", "isp-a", "redirect", "restored"], Some(20.0)),
        (["restore", "isp-a", "redirect", "steered"], None),
        (["restore", "lte", "drop", "proof"], Some(0.0)),
        (["guard", "isp-a", "drop", "wrong_type"], Some(3.0)),
        (["guard", "lte", "pass", "guarded"], Some(0.0)),
        (["guard", "lte", "pass", "other_port"], None),
        (["restore", "", "pass", "not_configured"], Some(2.0)),
    ];
    for (labels, expected) in programs {
        let labels: Vec<(&str, &str)> = ["program", "uplink", "verdict", "reason"]
            .into_iter()
            .zip(labels)
            .collect();
        assert_eq!(
            value(&families, "wgxdp_program_packets_total", &labels),
            expected,
            "{labels:?}\n{text}"
        );
    }
}

#[test]
fn families_have_the_promised_names_types_and_units() {
    let Some(mut parser) = Parser::find() else { return };
    let families = parser.parse(&render(busy())).expect("OpenMetrics");
    let described: Vec<(&str, &str, &str)> = families
        .iter()
        .map(|family| (family.name.as_str(), family.kind.as_str(), family.unit.as_str()))
        .collect();
    let expected = [
        ("wgxdp_build", "info", ""),
        ("wgxdp_uplink_up", "gauge", ""),
        ("wgxdp_uplink_guard", "gauge", ""),
        ("wgxdp_path_state", "gauge", ""),
        ("wgxdp_path_active", "gauge", ""),
        ("wgxdp_path_rtt_seconds", "gauge", "seconds"),
        ("wgxdp_path_probe_loss_ratio", "gauge", "ratio"),
        ("wgxdp_path_probes_sent", "counter", ""),
        ("wgxdp_path_probes_answered", "counter", ""),
        ("wgxdp_path_packets", "counter", ""),
        ("wgxdp_path_bytes", "counter", "bytes"),
        ("wgxdp_program_packets", "counter", ""),
        ("wgxdp_clients", "gauge", ""),
        ("wgxdp_clients_forgotten", "counter", ""),
        ("wgxdp_clients_asked", "gauge", ""),
        ("wgxdp_failovers", "counter", ""),
        ("wgxdp_peer_latest_handshake_seconds", "gauge", "seconds"),
        ("wgxdp_wakeup_lateness_seconds", "histogram", "seconds"),
    ];
    assert_eq!(described, expected);
    assert!(families.iter().all(|family| family.help.ends_with('.')), "{families:?}");
}

#[test]
fn every_line_is_a_sample_of_its_own() {
    let Some(mut parser) = Parser::find() else { return };
    let text = render(busy());
    let families = parser.parse(&text).expect("OpenMetrics");
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    let read: Vec<_> = families
        .iter()
        .flat_map(|family| &family.samples)
        .map(|s| (&s.name, &s.labels))
        .collect();
    assert_eq!((read.len(), read.iter().collect::<BTreeSet<_>>().len()), (lines, lines));
}

/// Counter-cases: the judge is one.
#[test]
fn the_parser_rejects_what_is_broken() {
    let Some(mut parser) = Parser::find() else { return };
    let text = render(busy());
    let rows = [
        ("no end", text.replace("# EOF\n", "")),
        ("more after the end", format!("{text}wgxdp_uplink_up 1\n")),
        ("a blank line", text.replacen('\n', "\n\n", 1)),
        ("a quote too few", text.replacen("isp-a\"", "isp-a", 1)),
        (
            "a negative counter",
            text.replace(
                "packets_total{program=\"steer\",uplink=\"\",verdict=\"redirect\",reason=\"steered\"} 10",
                "packets_total -10",
            ),
        ),
        (
            "a wrong unit",
            text.replace(
                "# UNIT wgxdp_path_rtt_seconds seconds",
                "# UNIT wgxdp_path_rtt_seconds hours",
            ),
        ),
        (
            "metadata twice",
            text.replacen(
                "# TYPE wgxdp_uplink_up gauge\n",
                "# TYPE wgxdp_uplink_up gauge\n# TYPE wgxdp_uplink_up gauge\n",
                1,
            ),
        ),
    ];
    for (what, broken) in rows {
        assert_ne!(broken, text, "{what}: nothing was broken");
        assert!(parser.parse(&broken).is_err(), "{what} was accepted:\n{broken}");
    }
    assert!(parser.parse(&text).is_ok(), "and goes on to accept what is not");
}

#[test]
fn a_python_that_cannot_parse_is_not_taken_for_a_parser() {
    assert!(Parser::start("false").is_none());
    assert!(Parser::start("/no/such/python3").is_none());
}

#[test]
fn a_host_without_tunnels_has_a_text_too() {
    let Some(mut parser) = Parser::find() else { return };
    let (mut names, host) = branch();
    names.tunnels.clear();
    names.uplinks.clear();
    let families = parser
        .parse(&render(scrape(&names, &host, &Extras::default())))
        .expect("OpenMetrics");
    assert_eq!(value(&families, "wgxdp_build_info", &[]), Some(1.0));
    assert_eq!(samples(&families, "wgxdp_path_state").count(), 0);
}

#[test]
fn a_reason_at_an_unexpected_place_is_shown_once_it_has_happened() {
    let (names, mut host) = branch();
    let at_anchor = |host: &Host| {
        let programs = scrape(&names, host, &Extras::default()).programs;
        programs
            .iter()
            .any(|count| count.program == "steer" && count.reason == Reason::Restored)
    };
    assert!(!at_anchor(&host));
    host.reasons.insert((Place::Anchor, Reason::Restored), 1);
    assert!(at_anchor(&host));
}

#[test]
fn a_drained_uplink_is_up_and_one_without_carrier_is_not() {
    use wgxdp_common::liveness::Flags;
    let (names, mut host) = branch();
    for (flags, expected) in [(Flags::NONE, 1), (Flags::DRAINED, 1), (Flags::NO_CARRIER, 0)] {
        host.uplinks.get_mut(&UplinkId(0)).expect("isp-a").1 = flags;
        let text = render(scrape(&names, &host, &Extras::default()));
        let line = format!("wgxdp_uplink_up{{uplink=\"isp-a\",interface=\"eth0\"}} {expected}\n");
        assert!(text.contains(&line), "{flags:?}\n{text}");
    }
}

/// Names that hurt: escapes, what the format itself uses, other scripts, whatever else.
fn name() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        prop::sample::select(vec![
            "\"", "\\", "\n", "\\n", "\r", "\t", "{", "}", ",", "=", " # ", "# EOF", "", " ", "é", "東京", "🦀",
            "\u{2028}"
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(fragment, 0..6).prop_map(|fragments| fragments.concat())
}

#[test]
fn any_name_survives_the_parser_and_no_two_peers_become_one() {
    let Some(parser) = Parser::find() else { return };
    let parser = RefCell::new(parser);
    let uplink_name = || name().prop_filter("the configuration allows no empty name", |name| !name.is_empty());
    let peer_names = || prop::collection::vec(name(), 1..4);
    proptest!(ProptestConfig::with_cases(128), |(peer_names in peer_names(), uplink in uplink_name())| {
        let (mut names, mut host) = branch();
        names.uplinks[0].name.clone_from(&uplink);
        let endpoint = "[2001:db8::1]:51820".parse().expect("an endpoint");
        let peers = peer_names.iter().enumerate().map(|(i, name)| {
            let id = PeerId(i as u32);
            let path = PathName { id: PathId::new(id, 0), uplink: UplinkId(0), endpoint };
            PeerName { id, name: Some(name.clone()), public_key: format!("key{i}AAAAAAAAAAAA="), paths: vec![path] }
        });
        names.tunnels[0].peers = peers.collect();
        host.paths = (0..peer_names.len() as u32)
            .map(|i| (PathId::new(PeerId(i), 0), (path_entry(0, PathState::Up), fresh_proof(), PathCount::default())))
            .collect();
        let scrape = scrape(&names, &host, &Extras::default());
        let labels: BTreeSet<String> = scrape.snapshot.tunnels[0].peers.iter().map(|peer| peer.name.clone()).collect();
        let text = render(scrape);
        let parsed = parser.borrow_mut().parse(&text);
        let families = parsed.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let active: Vec<&Sample> = samples(&families, "wgxdp_path_active").collect();
        prop_assert_eq!(active.len(), peer_names.len());
        let read: BTreeSet<String> = active.iter().map(|sample| sample.labels["peer"].clone()).collect();
        prop_assert_eq!(&read, &labels);
        prop_assert!(peer_names.iter().filter(|name| !name.is_empty()).all(|name| read.contains(name)));
        prop_assert!(active.iter().all(|sample| sample.labels["uplink"] == uplink));
        prop_assert!(active.iter().all(|sample| sample.labels["endpoint"] == "[2001:db8::1]:51820"));
    });
}
