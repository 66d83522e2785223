//! Snapshots of a host that is made of plain data.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use serde_json::{Value, json};
use wgxdp_common::liveness::Thresholds;
use wgxdp_common::table::{Family, PathState};

use super::fixture::{Host, MS, NOW, branch, device, family, fresh_proof, old_proof, path_entry, take};
use super::*;

fn first_path(host: &Host, daemon_runs: bool) -> Path {
    let (names, _) = branch();
    let daemon = if daemon_runs {
        Daemon::running(Some(&names))
    } else {
        Daemon::stopped()
    };
    take(&names, host, daemon).tunnels[0].peers[0].paths[0].clone()
}

#[test]
fn the_json_has_exactly_the_promised_keys_and_values() {
    let (names, host) = branch();
    let snapshot = take(&names, &host, Daemon::running(Some(&names)));
    let expected = json!({
        "daemon": {"running": true, "pid": 4711, "version": "0.1.0", "since": "2026-05-03T12:00:00Z"},
        "uplinks": [
            {"name": "isp-a", "interface": "eth0", "address": "192.0.2.2", "gateway": "192.0.2.1",
             "addresses": ["192.0.2.2"], "gateways": ["192.0.2.1"], "state": "up", "reason": null},
            {"name": "lte", "interface": "wwan0", "address": null, "gateway": null,
             "addresses": [], "gateways": [], "state": "absent", "reason": "no_device"},
        ],
        "tunnels": [{"interface": "wg0", "listen_port": 51820, "peers": [{
            "name": "hq", "public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "active_uplink": "isp-a",
            "paths": [
                {"uplink": "isp-a", "endpoint": "198.51.100.1:51820", "state": "up", "reason": null, "active": true,
                 "rtt_ms": 12.5, "loss": 0.0,
                 "silence_ms": 9.0, "tx_packets": 10, "tx_bytes": 1480, "rx_packets": 20, "rx_bytes": 3565158,
                 "probes_sent": 1000, "probes_answered": 998},
                {"uplink": "lte", "endpoint": "198.51.100.1:51820", "state": "down", "reason": null, "active": false,
                 "rtt_ms": null, "loss": 1.0,
                 "silence_ms": 900000.0, "tx_packets": 0, "tx_bytes": 0, "rx_packets": 0, "rx_bytes": 0,
                 "probes_sent": 1000, "probes_answered": 998},
            ],
        }]}],
    });
    assert_eq!(serde_json::to_value(&snapshot).expect("JSON"), expected);
    assert_eq!(
        serde_json::from_value::<Snapshot>(expected).expect("a snapshot"),
        snapshot
    );
}

#[test]
fn a_host_without_wgxdp_is_empty_lists_and_no_daemon() {
    let value = serde_json::to_value(Snapshot::empty(Daemon::stopped())).expect("JSON");
    assert_eq!(
        value,
        json!({"daemon": {"running": false}, "uplinks": [], "tunnels": []})
    );
    assert_eq!(
        serde_json::to_value(Daemon::running(None)).expect("JSON"),
        json!({"running": true})
    );
}

#[test]
fn ipv4_is_the_primary_family_and_a_gateway_never_comes_from_the_other_one() {
    let name = UplinkName {
        id: UplinkId(0),
        name: "a".to_owned(),
        interface: "eth0".to_owned(),
    };
    let v6 = || family("2001:db8::2", Some("fe80::1"));
    let both = Uplink::new(&name, &device(family("192.0.2.2", None), v6()), Flags::NONE);
    assert_eq!(
        (both.address, both.gateway),
        (Some("192.0.2.2".parse().expect("an address")), None)
    );
    assert_eq!(both.addresses.len(), 2);
    assert_eq!(both.gateways, ["fe80::1".parse::<IpAddr>().expect("an address")]);
    let only_v6 = Uplink::new(&name, &device(Family::default(), v6()), Flags::NONE);
    assert_eq!(only_v6.address, Some("2001:db8::2".parse().expect("an address")));
    assert_eq!(only_v6.gateway, Some("fe80::1".parse().expect("an address")));
}

#[test]
fn an_uplinks_state_names_the_gravest_reason() {
    let there = device(family("192.0.2.2", None), Family::default());
    let rows = [
        (there, Flags::NONE, None),
        (
            there,
            Flags::DRAINED,
            Some((UplinkState::Drained, UplinkReason::Drained)),
        ),
        (
            there,
            Flags::NO_CARRIER.with(Flags::DRAINED),
            Some((UplinkState::Down, UplinkReason::NoCarrier)),
        ),
        (
            there,
            Flags::ADMIN_DOWN.with(Flags::NO_CARRIER),
            Some((UplinkState::Down, UplinkReason::AdminDown)),
        ),
        (
            there,
            Flags::ABSENT,
            Some((UplinkState::Absent, UplinkReason::NoAddress)),
        ),
        (
            table::Uplink::default(),
            Flags::NONE,
            Some((UplinkState::Absent, UplinkReason::NoDevice)),
        ),
    ];
    for (entry, flags, expected) in rows {
        let reason = UplinkReason::of(&entry, flags);
        assert_eq!(reason.map(|reason| (reason.state(), reason)), expected, "{flags:?}");
    }
}

/// (what the engine calls it, flags, proof, shown with a daemon, shown without one)
#[test]
fn the_engines_word_stands_unless_the_kernel_knows_worse_and_without_a_daemon_the_kernels_does() {
    use PathState::{Down, Drained, Held, Suspect, Up};
    let suspect = table::Proof {
        proof_ns: NOW - 70 * MS,
        unanswered: 1,
        ..fresh_proof()
    };
    let latched = table::Proof {
        latched_ns: NOW - 5 * MS,
        ..fresh_proof()
    };
    let answers_again = table::Proof {
        latched_ns: NOW - 50 * MS,
        ..fresh_proof()
    };
    let rows = [
        (Up, Flags::NONE, fresh_proof(), Up, Up),
        (Up, Flags::NONE, suspect, Suspect, Suspect),
        (Up, Flags::NONE, old_proof(), Down, Down),
        (Up, Flags::NONE, latched, Down, Down),
        (Up, Flags::NONE, answers_again, Held, Held),
        (Up, Flags::NO_CARRIER, fresh_proof(), Down, Down),
        (Up, Flags::HELD, fresh_proof(), Held, Held),
        (Suspect, Flags::NONE, fresh_proof(), Suspect, Up),
        (Down, Flags::NONE, fresh_proof(), Down, Up),
        (Held, Flags::HELD, answers_again, Held, Held),
        (Held, Flags::HELD, old_proof(), Held, Down),
        (Drained, Flags::DRAINED, old_proof(), Drained, Drained),
    ];
    for (engine, flags, proof, with_daemon, without) in rows {
        let (_, mut host) = branch();
        let entry = table::Path {
            flags,
            ..path_entry(0, engine)
        };
        host.paths
            .insert(PathId::new(PeerId(2), 0), (entry, proof, PathCount::default()));
        assert_eq!(
            first_path(&host, true).state,
            with_daemon,
            "with a daemon: {engine:?}, {flags:?}, {proof:?}"
        );
        assert_eq!(
            first_path(&host, false).state,
            without,
            "without: {engine:?}, {flags:?}, {proof:?}"
        );
    }
}

#[test]
fn an_uplinks_flag_takes_all_its_paths_down() {
    let (_, mut host) = branch();
    host.uplinks.get_mut(&UplinkId(0)).expect("isp-a").1 = Flags::NO_CARRIER;
    assert_eq!(first_path(&host, true).state, PathState::Down);
    assert_eq!(
        first_path(&host, true).rtt_ms,
        None,
        "a path that is down has no round trip, however fresh its proof"
    );
}

#[test]
fn a_path_that_was_given_up_says_why_while_a_daemon_runs_and_one_that_is_not_says_nothing() {
    use MoveReason::{Mtu, Recovery, Stall};
    let (_, mut host) = branch();
    let rows = [
        (PathState::Down, Stall.number(), Some(Stall)),
        (PathState::Held, Mtu.number(), Some(Mtu)),
        (PathState::Held, Recovery.number(), None),
        (PathState::Up, Stall.number(), None),
        (PathState::Down, 0, None),
        (PathState::Down, u16::MAX, None),
    ];
    for (state, number, reason) in rows {
        let entry = table::Path {
            reason: number,
            ..path_entry(0, state)
        };
        host.paths.get_mut(&PathId::new(PeerId(2), 0)).expect("a path").0 = entry;
        assert_eq!(first_path(&host, true).reason, reason, "{state:?}, {number}");
        assert_eq!(first_path(&host, false).reason, None, "history");
    }
}

#[test]
fn without_a_daemon_nobody_measures_and_counters_still_count() {
    let (_, host) = branch();
    let path = first_path(&host, false);
    assert_eq!((path.rtt_ms, path.loss), (None, None));
    assert_eq!(
        (path.tx_packets, path.rx_bytes, path.silence_ms),
        (10, 3_565_158, Some(9.0))
    );
    let running = first_path(&host, true);
    assert_eq!((running.rtt_ms, running.loss), (Some(12.5), Some(0.0)));
}

#[test]
fn a_path_that_was_never_probed_has_neither_round_trip_nor_loss_nor_proof() {
    let (_, mut host) = branch();
    let untouched = (
        path_entry(0, PathState::Down),
        table::Proof::default(),
        PathCount::default(),
    );
    host.paths.insert(PathId::new(PeerId(2), 0), untouched);
    let path = first_path(&host, true);
    assert_eq!((path.rtt_ms, path.loss, path.silence_ms), (None, None, None));
}

#[test]
fn a_peer_that_sent_nothing_or_by_a_path_unknown_today_has_no_active_uplink() {
    let (names, mut host) = branch();
    for active in [None, Some(PathId::new(PeerId(2), 5)), Some(PathId::new(PeerId(3), 0))] {
        host.active = active.map(|path| (PeerId(2), path)).into_iter().collect();
        let snapshot = take(&names, &host, Daemon::stopped());
        assert_eq!(snapshot.tunnels[0].peers[0].active_uplink, None, "{active:?}");
    }
}

#[test]
fn a_number_that_cannot_be_read_fails_the_snapshot_wherever_it_stands() {
    let (names, host) = branch();
    let mut reads = 0;
    loop {
        host.readable.set(Some(reads));
        match Snapshot::take(&names, &host, Daemon::stopped(), NOW) {
            Err(error) => assert_eq!(error.to_string(), "the map is gone"),
            Ok(_) => break,
        }
        reads += 1;
    }
    assert_eq!(reads, 2 + 1 + 2 * 4, "two uplinks, one peer, four for each path");
}

#[test]
fn names_are_written_whole_readable_by_all_and_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("state.json");
    let (names, _) = branch();
    assert_eq!(Names::read(&file).expect("no file is no error"), None);
    names.write(&file).expect("written");
    let again = Names { pid: 4712, ..names };
    fs::write(directory.path().join("state.json.new"), "left by a crash").expect("a leftover");
    again.write(&file).expect("written over");
    assert_eq!(Names::read(&file).expect("readable"), Some(again));
    assert_eq!(
        fs::metadata(&file).expect("the file").permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(
        fs::read_dir(directory.path()).expect("the directory").count(),
        1,
        "no temporary file is left"
    );
    assert!(Names::remove(&file).expect("removed"));
    assert!(!Names::remove(&file).expect("nothing to remove is no error"));
}

#[test]
fn a_file_of_names_that_cannot_be_used_says_which_and_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("state.json");
    let rows = [
        ("{", "is damaged; `wgxdp run` writes it anew"),
        ("{\"format\": 1}", "is damaged; `wgxdp run` writes it anew"),
        (
            "{\"format\": 9}",
            "has format 9, this wgxdp reads 1: use the `wgxdp` that runs as the daemon",
        ),
    ];
    for (text, expected) in rows {
        fs::write(&file, text).expect("written");
        let error = Names::read(&file).expect_err(text).to_string();
        assert_eq!(error, format!("{} {expected}", file.display()));
    }
    let (names, _) = branch();
    let nowhere = directory.path().join("absent/state.json");
    let error = names.write(&nowhere).expect_err("no such directory").to_string();
    assert!(error.contains("absent/state.json"), "{error}");
}

proptest! {
    #[test]
    fn whatever_the_maps_hold_the_json_keeps_to_its_schema(
        (state, flags, uplink_flags) in (0u16..8, 0u32..64, 0u32..64),
        loss_ppm: u32, times: [u64; 4], now: u64, thresholds: u64, running: bool,
    ) {
        let (names, mut host) = branch();
        let [proof_ns, latched_ns, unanswered, srtt_ns] = times;
        let entry = table::Path {
            state,
            flags: Flags(flags),
            loss_ppm,
            thresholds: Thresholds(thresholds),
            ..path_entry(0, PathState::Up)
        };
        let proof = table::Proof { proof_ns, latched_ns, unanswered, srtt_ns, ..fresh_proof() };
        host.paths.insert(PathId::new(PeerId(2), 0), (entry, proof, PathCount::default()));
        host.uplinks.get_mut(&UplinkId(0)).expect("isp-a").1 = Flags(uplink_flags);
        let snapshot = Snapshot::take(&names, &host, Daemon { running, ..Daemon::default() }, now).expect("readable");
        let value = serde_json::to_value(&snapshot).expect("JSON");
        let path = &value["tunnels"][0]["peers"][0]["paths"][0];
        prop_assert!(["up", "suspect", "down", "held", "drained"].map(Value::from).contains(&path["state"]));
        prop_assert!(path["loss"].as_f64().is_none_or(|loss| (0.0..=1.0).contains(&loss)));
        prop_assert!(path["loss"].is_null() != running);
        for key in ["rtt_ms", "silence_ms"] {
            prop_assert!(path[key].is_null() || path[key].as_f64().is_some_and(|ms| ms.is_finite() && ms >= 0.0));
        }
        prop_assert_eq!(serde_json::from_str::<Snapshot>(&value.to_string()).is_ok(), true);
    }
}
