//! What is right by itself and wrong beside the rest, with the whole message that it promises.

use super::messages::{peer, promises, tunnel, uplink};
use super::*;

#[test]
fn what_must_be_unique_names_the_line_of_the_other() {
    promises([
        (
            tunnel("[[uplink]]\nname = 'eth0'\ninterface = 'eth9'"),
            ":8: uplink name \"eth0\" is already used on line 2; give each uplink its own name",
        ),
        (
            tunnel("[[uplink]]\nname = 'third'\ninterface = 'eth1'"),
            ":9: uplink interface \"eth1\" is already used on line 4; an interface is one uplink, remove one of the two",
        ),
        (
            tunnel("[[uplink]]\ninterface = 'eth1'"),
            ":8: uplink interface \"eth1\" is already used on line 4; an interface is one uplink, remove one of the two",
        ),
        (
            tunnel("[[tunnel]]\ninterface = 'wg0'"),
            ":8: tunnel interface \"wg0\" is already used on line 6; remove one of the two",
        ),
        (
            tunnel("[[tunnel]]\ninterface = 'eth1'"),
            ":8: interface \"eth1\" is already an uplink on line 4; a tunnel cannot carry itself, name another interface",
        ),
        (
            peer(&format!("[[tunnel.peer]]\npublic-key = '{KEY_A}'")),
            ":10: public-key \"oKOUMIRsAeXL+G4PCYpbtfyDmEBKdp2T2YZzzaoZPGA=\" is already used on line 8; list each peer of a tunnel once",
        ),
        (
            peer(&format!(
                "name = 'hq'\n[[tunnel.peer]]\nname = 'hq'\npublic-key = '{KEY_B}'"
            )),
            ":11: peer name \"hq\" is already used on line 9; give each peer of a tunnel its own name",
        ),
        (
            peer(&format!(
                "endpoints = ['192.0.2.1:1']\n[[tunnel.peer]]\npublic-key = '{KEY_B}'\nendpoints = ['192.0.2.2:1',\n'192.0.2.1:1']"
            )),
            ":13:1: endpoint \"192.0.2.1:1\" is already used on line 9; an endpoint leads to one peer, list it once",
        ),
        (
            peer("endpoints = ['192.0.2.1:1', '192.0.2.1:1']"),
            ":9:29: endpoint \"192.0.2.1:1\" is already used on line 9; an endpoint leads to one peer, list it once",
        ),
    ]);
}

#[test]
fn a_policy_of_copies_is_protect_always_and_contradicts_less() {
    for (keys, protect) in [
        ("policy = 'duplicate'", Protect::Always),
        ("policy = 'duplicate'\nprotect = 'always'", Protect::Always),
        ("protect = 'always'", Protect::Always),
        ("policy = 'failover'\nprotect = 'off'", Protect::Off),
    ] {
        assert_eq!(valid(&tunnel(keys)).tunnels()[0].protect, protect, "{keys}");
    }
    promises([
        (
            tunnel("policy = 'duplicate'\nprotect = 'off'"),
            ":8: protect = \"off\" contradicts policy = \"duplicate\", which copies every data packet; remove one of the two",
        ),
        (
            tunnel("protect = 'suspect'\npolicy = 'duplicate'"),
            ":7: protect = \"suspect\" contradicts policy = \"duplicate\", which copies every data packet; remove one of the two",
        ),
    ]);
}

#[test]
fn more_than_there_is_room_for_is_refused() {
    let uplinks = |count: usize| {
        (0..count)
            .map(|i| format!("[[uplink]]\ninterface = 'eth{i}'\n"))
            .collect::<String>()
    };
    let tunnels = |count: usize| {
        (0..count)
            .map(|i| format!("[[tunnel]]\ninterface = 'wg{i}'\n"))
            .collect::<String>()
    };
    let listed = format!("[[tunnel.peer]]\npublic-key = '{KEY_A}'\n");
    let five = "endpoints = ['192.0.2.1:1', '192.0.2.2:1', '192.0.2.3:1', '192.0.2.4:1', '192.0.2.5:1']";
    promises([
        (
            uplinks(17) + &tunnels(1),
            ": 17 uplinks, but there is room for 16; remove some",
        ),
        (
            uplinks(2) + &tunnels(17),
            ": 17 tunnels, but there is room for 16; remove some",
        ),
        (
            peer(five),
            ":7: 2 uplinks × 5 endpoints are 10 paths, but a peer has room for 8; remove uplinks or endpoints",
        ),
        (
            uplinks(9) + &tunnels(1) + &listed,
            ":21: 9 uplinks × 1 endpoints are 9 paths, but a peer has room for 8; remove uplinks or endpoints",
        ),
    ]);
    valid(&(uplinks(16) + &tunnels(16)));
    valid(&(uplinks(8) + &tunnels(1) + &listed));
    valid(&peer(
        "endpoints = ['192.0.2.1:1', '192.0.2.2:1', '192.0.2.3:1', '192.0.2.4:1']",
    ));
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_lines() {
    promises([(
        "profile = 'quick'\n[[tunnel]]\ninterfase = 'wg0'\n[[uplink]]\ninterface = 'eth0'\ncost = -1\n[[uplink]]\nname = 'a b'\n".into(),
        ":1: profile must be \"fast\", \"balanced\" or \"thrifty\", not \"quick\"\n\
         :2: [[tunnel]] has no interface; add interface = \"wg0\"\n\
         :3: unknown key \"interfase\" in [[tunnel]]; did you mean \"interface\"?\n\
         :6: cost must be a whole number from 0 to 4294967295, not -1\n\
         :7: [[uplink]] has no interface; add interface = \"eth0\"\n\
         :8: name \"a b\" is not usable as a label: take 1 to 63 bytes, without whitespace, quotes, \"/\" or \"=\", and no \"-\" at the start",
    )]);
}

#[test]
fn a_long_value_is_cut_and_control_characters_are_escaped() {
    let name = "x".repeat(500);
    let message = parse(&uplink(&format!("name = \"{name}\\u001b[31m\"")))
        .unwrap_err()
        .to_string();
    assert!(message.len() < 300 && message.contains("xxx…\""), "{message}");
    let message = parse(&uplink("name = \"\\u001b[31m\\n\"")).unwrap_err().to_string();
    assert!(
        message.contains("name \"\\u{1b}[31m\\n\" is not usable") && !message.contains('\u{1b}'),
        "{message}"
    );
}
