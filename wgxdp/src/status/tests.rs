use super::*;
use crate::snapshot::Names;
use crate::snapshot::fixture::{Host, branch, device, family, take};
use serde_json::{Value, json};
use wgxdp_common::id::{PeerId, UplinkId};
use wgxdp_common::liveness::Flags;

fn table_of(names: &Names, host: &Host, daemon: Daemon) -> String {
    let Output { stdout, stderr, code } = output(Found::Wgxdp(take(names, host, daemon)), false);
    assert_eq!((stderr.as_str(), code), ("", 0));
    stdout
}

#[test]
fn the_table_is_aligned_and_marks_the_active_path() {
    let (names, host) = branch();
    let expected = "\
wgxdp 0.1.0 runs since 2026-05-03T12:00:00Z, pid 4711

UPLINK  INTERFACE  ADDRESS    GATEWAY    STATE
isp-a   eth0       192.0.2.2  192.0.2.1  up
lte     wwan0      -          -          absent (no device)

wg0, port 51820: hq via isp-a
   UPLINK  ENDPOINT            STATE      RTT     LOSS  LAST PROOF     SENT  RECEIVED
*  isp-a   198.51.100.1:51820  up     12.5 ms    0.0 %      9.0 ms  1.4 KiB   3.4 MiB
   lte     198.51.100.1:51820  down         -  100.0 %         15m      0 B       0 B
";
    assert_eq!(table_of(&names, &host, Daemon::running(Some(&names))), expected);
}

#[test]
fn without_a_daemon_the_table_says_so_and_shows_no_measurement() {
    let (names, host) = branch();
    let table = table_of(&names, &host, Daemon::stopped());
    assert!(
        table.starts_with("wgxdp is not running. Its programs in the kernel steer on by themselves"),
        "{table}"
    );
    let row = table
        .lines()
        .find(|line| line.starts_with('*'))
        .expect("the active path");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[1..6], ["isp-a", "198.51.100.1:51820", "up", "-", "-"], "{table}");
}

#[test]
fn both_address_families_of_an_uplink_have_a_row() {
    let (names, mut host) = branch();
    let both = device(family("192.0.2.2", None), family("2001:db8::2", Some("fe80::1")));
    host.uplinks.insert(UplinkId(0), (both, Flags::DRAINED));
    let table = table_of(&names, &host, Daemon::stopped());
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(
        rows.contains(&vec!["isp-a", "eth0", "192.0.2.2", "-", "drained"]),
        "{table}"
    );
    assert!(rows.contains(&vec!["2001:db8::2", "fe80::1"]), "{table}");
}

#[test]
fn peers_without_traffic_or_paths_and_tunnels_without_peers_are_said_to_be_so() {
    let (mut names, mut host) = branch();
    host.active.remove(&PeerId(2));
    let table = table_of(&names, &host, Daemon::stopped());
    assert!(table.contains("\nwg0, port 51820: hq nothing sent yet\n"), "{table}");
    names.tunnels[0].peers[0].paths.clear();
    let table = table_of(&names, &host, Daemon::stopped());
    assert!(table.ends_with("hq nothing sent yet\n   no paths\n"), "{table}");
    names.tunnels[0].peers.clear();
    let table = table_of(&names, &host, Daemon::stopped());
    assert!(table.ends_with("\nwg0, port 51820: no peers\n"), "{table}");
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let (mut names, host) = branch();
    names.tunnels[0].peers[0].name = Some("hq\x1b[2J\nfake line".to_owned());
    let table = table_of(&names, &host, Daemon::stopped());
    assert!(table.contains(": hq\\u{1b}[2J\\nfake line via isp-a\n"), "{table}");
}

#[test]
fn json_is_one_line_and_nothing_else_is_on_stdout() {
    let (names, host) = branch();
    let snapshot = take(&names, &host, Daemon::running(Some(&names)));
    let Output { stdout, stderr, code } = output(Found::Wgxdp(snapshot.clone()), true);
    assert_eq!((stdout.lines().count(), stderr.as_str(), code), (1, "", 0));
    assert_eq!(serde_json::from_str::<Snapshot>(&stdout).expect("JSON"), snapshot);
}

#[test]
fn where_there_is_no_wgxdp_the_exit_code_is_3_and_the_json_is_empty() {
    let plain = output(Found::Nothing, false);
    assert_eq!((plain.stdout.as_str(), plain.code), ("", 3));
    assert!(plain.stderr.contains("`wgxdp run` starts it"), "{}", plain.stderr);
    let as_json = output(Found::Nothing, true);
    let value: Value = serde_json::from_str(&as_json.stdout).expect("JSON");
    assert_eq!(
        value,
        json!({"daemon": {"running": false}, "uplinks": [], "tunnels": []})
    );
    assert_eq!(as_json.code, 3);
}

#[test]
fn maps_without_names_are_an_error_that_says_what_to_do() {
    let left = output(Found::Unnamed(Daemon::stopped()), false);
    assert_eq!((left.stdout.as_str(), left.code), ("", 1));
    assert!(
        left.stderr.contains("/run/wgxdp/state.json") && left.stderr.contains("`wgxdp down`"),
        "{}",
        left.stderr
    );
    let starting = output(Found::Unnamed(Daemon::running(None)), true);
    assert!(starting.stderr.contains("starting or leaving"), "{}", starting.stderr);
    let value: Value = serde_json::from_str(&starting.stdout).expect("JSON");
    assert_eq!(value["daemon"], json!({"running": true}));
}

#[test]
fn numbers_are_rounded_to_what_is_read_at_a_glance() {
    let sizes = [0, 1023, 1024, 1_048_524, 1_048_525, u64::MAX].map(bytes);
    assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "16.0 EiB"]);
    let times = [0.04, 999.9, 1_500.0, 99_900.0, 3_723_000.0].map(milliseconds);
    assert_eq!(times, ["0.0 ms", "999.9 ms", "1.5 s", "99.9 s", "1h 2m 3s"]);
    assert_eq!([0.0, 0.005, 1.0].map(percent), ["0.0 %", "0.5 %", "100.0 %"]);
}
