//! Every bad input and the whole message that it promises. Lines are those of the text as it stands here.

use super::*;

/// `[[uplink]]` on lines 1 to 4 with `keys` from line 3 on; then a second uplink and a tunnel.
pub(super) fn uplink(keys: &str) -> String {
    format!("[[uplink]]\ninterface = 'eth0'\n{keys}\n[[uplink]]\ninterface = 'eth1'\n[[tunnel]]\ninterface = 'wg0'\n")
}

/// Two uplinks and a tunnel on lines 1 to 6, `keys` from line 7 on.
pub(super) fn tunnel(keys: &str) -> String {
    format!("{TWO}{keys}\n")
}

/// As [`tunnel`], a peer with its key on lines 7 and 8, `keys` from line 9 on.
pub(super) fn peer(keys: &str) -> String {
    tunnel(&format!("[[tunnel.peer]]\npublic-key = '{KEY_A}'\n{keys}"))
}

#[track_caller]
pub(super) fn promises<const N: usize>(rows: [(String, &str); N]) {
    for (text, message) in rows {
        let expected: Vec<_> = message.lines().map(|line| format!("{PATH}{line}")).collect();
        match parse(&text) {
            Ok(config) => panic!("accepted:\n{text}\n{config:?}"),
            Err(error) => assert_eq!(error.to_string(), expected.join("\n"), "of\n{text}"),
        }
    }
}

#[test]
fn text_that_is_not_toml_is_refused_with_line_and_column() {
    promises([
        (
            tunnel("policy = "),
            ":7:10: not TOML: string values must be quoted, expected literal string",
        ),
        (tunnel("policy = failover"), ":7:10: not TOML: words must be quoted"),
        (
            tunnel("[[tunnel.peer"),
            ":7:14: not TOML: unclosed array table, expected `]]`",
        ),
        (tunnel("interface = 'wg1'"), ":7:1: not TOML: duplicate key"),
        (tunnel("[tunnel]"), ":7:2: not TOML: duplicate key"),
    ]);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_or_with_all() {
    promises([
        (
            "[[uplink]]\ninterfce = 'eth0'\n[[uplink]]\ninterface = 'eth1'\n[[tunnel]]\ninterface = 'wg0'".into(),
            ":1: [[uplink]] has no interface; add interface = \"eth0\"\n\
             :2: unknown key \"interfce\" in [[uplink]]; did you mean \"interface\"?",
        ),
        (
            uplink("Cost = 1"),
            ":3: unknown key \"Cost\" in [[uplink]]; did you mean \"cost\"?",
        ),
        (
            uplink("colour = 'red'"),
            ":3: unknown key \"colour\" in [[uplink]]; known keys: address, cost, gateway, hotplug, interface, metered, mtu, name, xdp",
        ),
        (
            peer("public_key = ''"),
            ":9: unknown key \"public_key\" in [[tunnel.peer]]; did you mean \"public-key\"?",
        ),
        (
            peer("endpoint = ''"),
            ":9: unknown key \"endpoint\" in [[tunnel.peer]]; did you mean \"endpoints\"?",
        ),
        (
            peer("probe = { intervall = '1s' }"),
            ":9:11: unknown key \"intervall\" in probe; did you mean \"interval\"?",
        ),
        (
            tunnel("[detection]\nholdDown = '1s'"),
            ":8: unknown key \"holdDown\" in [detection]; did you mean \"hold-down\"?",
        ),
        (
            format!("profil = 'fast'\n{TWO}"),
            ":1: unknown key \"profil\" in the file; did you mean \"profile\"?",
        ),
        (
            format!("{TWO}[log]\nlevel = 'info'"),
            ":7: unknown key \"log\" in the file; known keys: detection, max-clients, metrics, profile, tunnel, uplink",
        ),
    ]);
}

#[test]
fn a_secret_is_refused_and_never_repeated() {
    promises([
        (
            tunnel(&format!("private-key = '{KEY_B}'")),
            ":7: \"private-key\" in [[tunnel]]: secrets stay with WireGuard; remove it here, and replace it there if others could read this file",
        ),
        (
            peer(&format!("PresharedKey = '{KEY_B}'")),
            ":9: \"PresharedKey\" in [[tunnel.peer]]: secrets stay with WireGuard; remove it here, and replace it there if others could \
             read this file",
        ),
        (
            tunnel(&format!("[[tunnel.peer]]\npublic-key = '{}'", &KEY_B[1..])),
            ":8: public-key is not base64; copy the key as `wg show` prints it",
        ),
        (
            tunnel("[[tunnel.peer]]\npublic-key = 'c2hvcnQ='"),
            ":8: public-key is 5 bytes long, but a WireGuard key has 32 (44 characters of base64); copy it as `wg show` prints it",
        ),
        (
            tunnel("[[tunnel.peer]]\npublic-key = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='"),
            ":8: public-key is all zeros, which is no key; copy it as `wg show` prints it",
        ),
    ]);
    let broken = tunnel(&format!("private-key = '{KEY_B}"));
    assert!(
        !parse(&broken).unwrap_err().to_string().contains(&KEY_B[..8]),
        "not even where the file is not TOML"
    );
}

#[test]
fn nothing_to_do_is_said_once_for_each_half() {
    promises([
        (
            String::new(),
            ": no uplink; add [[uplink]] with interface = \"eth0\" for each interface that can carry the tunnel\n\
             : no tunnel; add [[tunnel]] with interface = \"wg0\" for the WireGuard interface to protect",
        ),
        (
            "[[tunnel]]\ninterface = 'wg0'".into(),
            ": no uplink; add [[uplink]] with interface = \"eth0\" for each interface that can carry the tunnel",
        ),
        (
            "[[uplink]]\ninterface = 'eth0'".into(),
            ": no tunnel; add [[tunnel]] with interface = \"wg0\" for the WireGuard interface to protect",
        ),
        (
            tunnel("[[tunnel]]"),
            ":7: [[tunnel]] has no interface; add interface = \"wg0\"",
        ),
        (
            tunnel("[[tunnel.peer]]\nname = 'hq'"),
            ":7: [[tunnel.peer]] has no public-key; add public-key = \"…\", as `wg show` prints it",
        ),
        (
            tunnel("[metrics]"),
            ":7: [metrics] has no listen; add listen = \"127.0.0.1:9587\", or remove the table",
        ),
    ]);
}

#[test]
fn a_value_of_the_wrong_type_is_told_what_it_should_be() {
    promises([
        (
            "uplink = 'eth0'\n[[tunnel]]\ninterface = 'wg0'".into(),
            ":1: [[uplink]] must be a list of tables: write [[uplink]] above each uplink's keys",
        ),
        (
            "[uplink]\ninterface = 'eth0'\n[[tunnel]]\ninterface = 'wg0'".into(),
            ":1: [[uplink]] must be a list of tables: write [[uplink]] above each uplink's keys",
        ),
        (
            tunnel("[tunnel.peer]\nname = 'hq'"),
            ":7: [[tunnel.peer]] must be a list of tables: write [[tunnel.peer]] above each peer's keys, below its [[tunnel]]",
        ),
        (
            format!("detection = 3\n{TWO}"),
            ":1: detection must be a table: write [detection] above its keys, not 3",
        ),
        (uplink("name = 7"), ":3: name must be a label in quotes, not 7"),
        (
            uplink("cost = 'ten'"),
            ":3: cost must be a whole number from 0 to 4294967295, not \"ten\"",
        ),
        (
            uplink("cost = -1"),
            ":3: cost must be a whole number from 0 to 4294967295, not -1",
        ),
        (
            uplink("cost = 4294967296"),
            ":3: cost must be a whole number from 0 to 4294967295, not 4294967296",
        ),
        (
            uplink("cost = 1.5"),
            ":3: cost must be a whole number from 0 to 4294967295, not 1.5",
        ),
        (
            tunnel("clamp-mss = 'yes'"),
            ":7: clamp-mss must be true or false, not \"yes\"",
        ),
        (
            uplink("metered = 'yes'"),
            ":3: metered must be true or false, not \"yes\"",
        ),
        (uplink("hotplug = 1"), ":3: hotplug must be true or false, not 1"),
        (
            uplink("address = 1"),
            ":3: address must be an IP address in quotes, a list of them, or \"auto\", not 1",
        ),
        (
            uplink("gateway = [true]"),
            ":3:12: gateway must be an IP address in quotes, a list of them, \"auto\" or \"none\", not true",
        ),
        (
            peer("probe = 'icmp'"),
            ":9: probe must be a table such as { kind = \"icmp\", interval = \"20ms\" }, not \"icmp\"",
        ),
        (
            peer("endpoints = [51820]"),
            ":9:14: endpoints must be a list of \"address:port\", not 51820",
        ),
        (
            tunnel("[detection]\nhold-down = 10"),
            ":8: hold-down must be a duration with its unit, such as \"50ms\" or \"10s\", not 10",
        ),
        (
            format!("profile = []\n{TWO}"),
            ":1: profile must be a word in quotes, not a list",
        ),
    ]);
}

#[test]
fn a_word_that_is_none_is_told_the_words() {
    promises([
        (
            format!("profile = 'quick'\n{TWO}"),
            ":1: profile must be \"fast\", \"balanced\" or \"thrifty\", not \"quick\"",
        ),
        (
            format!("profile = 'balancd'\n{TWO}"),
            ":1: profile must be \"fast\", \"balanced\" or \"thrifty\", not \"balancd\"; did you mean \"balanced\"?",
        ),
        (
            tunnel("policy = 'random'"),
            ":7: policy must be \"failover\" or \"duplicate\", not \"random\"",
        ),
        (
            uplink("xdp = 'driver'"),
            ":3: xdp must be \"auto\", \"native\", \"generic\" or \"off\", not \"driver\"",
        ),
        (
            tunnel("protect = 'on'"),
            ":7: protect must be \"off\", \"suspect\" or \"always\", not \"on\"",
        ),
    ]);
}

#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    promises([(
        tunnel("policy = 'balance'"),
        ":7: policy = \"balance\" is not in this version; use \"failover\"",
    )]);
}

#[test]
fn names_that_nobody_could_use_are_refused() {
    promises([
        (
            uplink("name = 'isp a'"),
            ":3: name \"isp a\" is not usable as a label: take 1 to 63 bytes, without whitespace, quotes, \"/\" or \"=\", and no \"-\" at the start",
        ),
        (
            tunnel("[[tunnel]]\ninterface = 'a-name-too-long-for-linux'"),
            ":8: interface \"a-name-too-long-for-linux\" is not the name of an interface: those have 1 to 15 bytes, without \"/\", \":\" or whitespace",
        ),
        (
            tunnel("[[uplink]]\ninterface = '-x'"),
            ":8: name (by default the interface's) \"-x\" is not usable as a label: take 1 to 63 bytes, without whitespace, quotes, \"/\" or \
             \"=\", and no \"-\" at the start",
        ),
        (
            tunnel("[[uplink]]\ninterface = 'lo'"),
            ":8: interface \"lo\" cannot be an uplink: it leads nowhere beyond this host; name another interface",
        ),
        (
            tunnel("[[uplink]]\ninterface = 'wgxdp0'"),
            ":8: interface \"wgxdp0\" cannot be an uplink: wgxdp makes it itself; name another interface",
        ),
        (
            tunnel("[[tunnel]]\ninterface = 'lo'"),
            ":8: interface \"lo\" cannot be a tunnel: it is not a WireGuard interface; name one, such as \"wg0\"",
        ),
    ]);
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    promises([
        (
            uplink("address = 'eth0'"),
            ":3: address \"eth0\" is not an IP address; write \"auto\", an address, or a list of one IPv4 and one IPv6 address",
        ),
        (
            uplink("gateway = '192.0.2.300'"),
            ":3: gateway \"192.0.2.300\" is not an IP address; write \"auto\", \"none\", an address, or a list of one IPv4 and one IPv6 address",
        ),
        (
            uplink("address = ['192.0.2.1', '192.0.2.2']"),
            ":3:25: address has two IPv4 addresses; keep one, an uplink uses one of each family",
        ),
        (
            uplink("address = []"),
            ":3: address is an empty list; write \"auto\" or leave the key out",
        ),
        (
            uplink("address = '0.0.0.0'"),
            ":3: address 0.0.0.0: the unspecified address belongs to no host; give a real one",
        ),
        (
            uplink("gateway = '224.0.0.1'"),
            ":3: gateway 224.0.0.1: a multicast address belongs to no single host; give a unicast one",
        ),
        (
            uplink("gateway = '255.255.255.255'"),
            ":3: gateway 255.255.255.255: the broadcast address belongs to no single host; give a unicast one",
        ),
        (
            uplink("address = '::1'"),
            ":3: address ::1: a loopback address leads nowhere beyond this host; give one that is reachable over an uplink",
        ),
        (
            uplink("address = 'fe80::1'"),
            ":3: address fe80::1: a link-local IPv6 address means something on one link only; give a routable one",
        ),
        (
            uplink("address = '::ffff:192.0.2.1'"),
            ":3: address ::ffff:192.0.2.1: this is an IPv4 address in IPv6 clothes; write it as IPv4",
        ),
        (
            uplink("address = '192.0.2.1'\ngateway = '192.0.2.1'"),
            ":4: gateway 192.0.2.1 is the uplink's own address; give the router's",
        ),
        (
            peer("probe = { target = 'hq' }"),
            ":9:20: target \"hq\" is not an IP address; give an address",
        ),
    ]);
}

#[test]
fn endpoints_that_are_none_say_how_one_is_written() {
    promises([
        (
            peer("endpoints = ['vpn.example.com:51820']"),
            ":9:14: endpoint \"vpn.example.com:51820\" is not \"address:port\"; names are not resolved, write the address, such as \
             \"198.51.100.1:51820\"",
        ),
        (
            peer("endpoints = ['192.0.2.1']"),
            ":9:14: endpoint \"192.0.2.1\" has no port; write \"198.51.100.1:51820\" or \"[2001:db8::1]:51820\"",
        ),
        (
            peer("endpoints = ['[2001:db8::1]']"),
            ":9:14: endpoint \"[2001:db8::1]\" has no port; write \"198.51.100.1:51820\" or \"[2001:db8::1]:51820\"",
        ),
        (
            peer("endpoints = ['2001:db8::1:51820']"),
            ":9:14: endpoint \"2001:db8::1:51820\" needs brackets around its IPv6 address; write \"[2001:db8::1]:51820\"",
        ),
        (
            peer("endpoints = ['192.0.2.1:70000']"),
            ":9:14: endpoint \"192.0.2.1:70000\" has a bad port; it must be a number from 1 to 65535",
        ),
        (
            peer("endpoints = ['192.0.2.1:0']"),
            ":9:14: endpoint \"192.0.2.1:0\" has port 0; give the port at which the peer's WireGuard listens",
        ),
        (
            peer("endpoints = ['0.0.0.0:51820']"),
            ":9:14: endpoint \"0.0.0.0:51820\" has the unspecified address; give the peer's",
        ),
        (
            peer("endpoints = ['[ff02::1]:51820']"),
            ":9:14: endpoint \"[ff02::1]:51820\" has a multicast address; WireGuard peers are unicast",
        ),
        (
            peer("endpoints = ['127.0.0.1:51820']"),
            ":9:14: endpoint \"127.0.0.1:51820\" has a loopback address, which no uplink leads to; give the peer's",
        ),
        (
            peer("endpoints = ['[2001:db8::1%2]:51820']"),
            ":9:14: endpoint \"[2001:db8::1%2]:51820\" has a scope; uplinks choose the link, remove the \"%…\"",
        ),
        (
            peer("endpoints = ['192.0.2.1:1', '[::ffff:192.0.2.1]:1']"),
            ":9:29: endpoint \"[::ffff:192.0.2.1]:1\" has an IPv4 address in IPv6 clothes; write it as IPv4, such as \"198.51.100.1:51820\"",
        ),
        (
            peer("endpoints = []"),
            ":9: endpoints is an empty list; list \"address:port\", or leave the key out to use WireGuard's own endpoint",
        ),
        (
            tunnel("[metrics]\nlisten = '9587'"),
            ":8: listen \"9587\" is not \"address:port\"; names are not resolved, write the address, such as \"198.51.100.1:51820\"",
        ),
    ]);
}

#[test]
fn numbers_and_durations_out_of_range_are_told_the_range() {
    let detection = |line: &str| tunnel(&format!("[detection]\n{line}"));
    promises([
        (
            detection("hold-down = '10'"),
            ":8: hold-down \"10\" is not a duration; write a number with its unit, such as \"50ms\" or \"10s\"",
        ),
        (
            detection("hold-down = '2days'"),
            ":8: hold-down must be from \"0s\" to \"24h\", not \"2days\"",
        ),
        (
            detection("max-hold-down = '25h'"),
            ":8: max-hold-down must be from \"0s\" to \"24h\", not \"25h\"",
        ),
        (
            detection("false-failovers-per-week = 0"),
            ":8: false-failovers-per-week must be a number from 0.001 to 1000, not 0",
        ),
        (
            detection("false-failovers-per-week = nan"),
            ":8: false-failovers-per-week must be a number from 0.001 to 1000, not nan",
        ),
        (
            detection("false-failovers-per-week = 'few'"),
            ":8: false-failovers-per-week must be a number from 0.001 to 1000, not \"few\"",
        ),
        (
            peer("probe = { interval = '1ms' }"),
            ":9:22: interval must be from \"5ms\" to \"60s\", not \"1ms\"",
        ),
        (
            peer("probe = { interval = '2m' }"),
            ":9:22: interval must be from \"5ms\" to \"60s\", not \"2m\"",
        ),
    ]);
}

#[test]
fn an_uplink_s_mtu_is_one_that_its_packets_can_have() {
    let least = "a whole number of bytes from 576 to 65535";
    promises([
        (uplink("mtu = 575"), &format!(":3: mtu must be {least}, not 575")),
        (uplink("mtu = 65536"), &format!(":3: mtu must be {least}, not 65536")),
        (
            uplink("mtu = 'auto'"),
            &format!(":3: mtu must be {least}, not \"auto\""),
        ),
        (
            uplink("address = '2001:db8::9'\nmtu = 1279"),
            ":4: mtu 1279 is below 1280, the least that IPv6 needs (RFC 8200, section 5), but the uplink's address names an IPv6 address; \
             raise the one or remove the other",
        ),
        (
            uplink("mtu = 576\ngateway = 'fe80::1'"),
            ":3: mtu 576 is below 1280, the least that IPv6 needs (RFC 8200, section 5), but the uplink's gateway names an IPv6 address; \
             raise the one or remove the other",
        ),
    ]);
    for (keys, mtu) in [
        ("mtu = 576", Some(576)),
        ("mtu = 65535", Some(65_535)),
        ("mtu = 1280\naddress = '2001:db8::9'", Some(1280)),
        ("mtu = 1279\naddress = '192.0.2.9'\ngateway = 'none'", Some(1279)),
        ("", None),
    ] {
        assert_eq!(valid(&uplink(keys)).uplinks()[0].mtu, mtu, "{keys}");
    }
}

#[test]
fn a_tunnel_s_mtu_is_wireguard_s_or_follows_what_fits() {
    promises([
        (
            tunnel("mtu = 1412"),
            ":7: mtu cannot be a number here: set it in WireGuard's own configuration (MTU = … for wg-quick), or write mtu = \"auto\" to \
             have wgxdp lower it to what fits while it runs",
        ),
        (
            tunnel("mtu = 'automatic'"),
            ":7: mtu must be \"auto\", not \"automatic\"",
        ),
        (tunnel("mtu = true"), ":7: mtu must be a word in quotes, not true"),
    ]);
    let of = |keys: &str| {
        let tunnel = valid(&tunnel(keys)).tunnels()[0].clone();
        (tunnel.mtu, tunnel.clamp_mss)
    };
    assert_eq!(of("mtu = 'auto'\nclamp-mss = true"), (Some(TunnelMtu::Auto), true));
    assert_eq!(of("clamp-mss = false"), (None, false));
    assert_eq!(of(""), (None, false));
}

#[test]
fn objectives_have_units_and_bounds() {
    let loss = "from \"0.1%\" to \"50%\", or a share of 1 from 0.001 to 0.5";
    promises([
        (
            tunnel("max-loss = '5'"),
            &format!(":7: max-loss must be {loss}, not \"5\""),
        ),
        (tunnel("max-loss = 5"), &format!(":7: max-loss must be {loss}, not 5")),
        (
            tunnel("max-loss = '-1%'"),
            &format!(":7: max-loss must be {loss}, not \"-1%\""),
        ),
        (
            tunnel("max-rtt = '2m'"),
            ":7: max-rtt must be from \"1ms\" to \"60s\", not \"2m\"",
        ),
        (
            tunnel("max-jitter = 30"),
            ":7: max-jitter must be a duration with its unit, such as \"50ms\" or \"10s\", not 30",
        ),
        (
            tunnel("max-los = '5%'"),
            ":7: unknown key \"max-los\" in [[tunnel]]; did you mean \"max-loss\"?",
        ),
    ]);
    let of = |keys: &str| valid(&tunnel(keys)).tunnels()[0].objectives;
    assert_eq!(of(""), Objectives::default());
    for five_percent in ["'5%'", "'5.0 %'", "0.05"] {
        assert_eq!(of(&format!("max-loss = {five_percent}")).max_loss_ppm, Some(50_000));
    }
    let ms = |ms| Some(Duration::from_millis(ms));
    let both = of("max-rtt = '150ms'\nmax-jitter = '30ms'");
    assert_eq!((both.max_rtt, both.max_jitter), (ms(150), ms(30)));
}

#[test]
fn clients_are_bounded() {
    let range = "a whole number from 1 to 16777216";
    let with = |clients: &str| format!("max-clients = {clients}\n{TWO}");
    promises([
        (with("0"), &format!(":1: max-clients must be {range}, not 0")),
        (
            with("16777217"),
            &format!(":1: max-clients must be {range}, not 16777217"),
        ),
        (
            with("'many'"),
            &format!(":1: max-clients must be {range}, not \"many\""),
        ),
    ]);
    assert_eq!(valid(&with("1")).max_clients(), 1);
    assert_eq!(valid(&with("16777216")).max_clients(), 16_777_216);
    assert_eq!(valid(TWO).max_clients(), DEFAULT_MAX_CLIENTS);
}

#[test]
fn a_probe_has_a_port_that_can_be_a_tcp_probe_must_have_one_and_an_icmp_probe_has_none() {
    let none = "an icmp probe has no port; remove it, or ask a STAMP reflector with kind = \"stamp\", or a TCP port with kind = \"tcp\"";
    promises([
        (peer("probe = { kind = 'icmp', port = 7 }"), &*format!(":9:33: {none}")),
        (peer("probe = { port = 7 }"), &*format!(":9:18: {none}")),
        (
            peer("probe = { kind = 'stamp', port = 0 }"),
            ":9:34: port must be a number from 1 to 65535, not 0",
        ),
        (
            peer("probe = { kind = 'stamp', port = 65536 }"),
            ":9:34: port must be a number from 1 to 65535, not 65536",
        ),
        (
            peer("probe = { kind = 'tcp', port = 0 }"),
            ":9:32: port must be a number from 1 to 65535, not 0",
        ),
        (
            peer("probe = { kind = 'tcp', target = '192.0.2.1' }"),
            ":9: probe has no port; add port = 443, or another at which the target listens or refuses to",
        ),
    ]);
    let port = |probe: &str| valid(&peer(probe)).tunnels()[0].peers[0].probe.port;
    assert_eq!(port("probe = { kind = 'stamp' }"), None, "in band");
    assert_eq!(port("probe = { kind = 'stamp', target = '192.0.2.1' }"), Some(862));
    assert_eq!(port("probe = { kind = 'stamp', port = 65535 }"), Some(65535));
    assert_eq!(port("probe = { kind = 'tcp', port = 443 }"), Some(443));
}

#[test]
fn a_peer_s_endpoints_and_its_target_may_be_of_both_families() {
    let config = valid(&peer(
        "endpoints = ['192.0.2.1:1', '[2001:db8::1]:1']\nprobe = { target = '2001:db8::2' }",
    ));
    assert_eq!(config.tunnels()[0].peers[0].endpoints.len(), 2);
    valid(&peer("endpoints = ['192.0.2.1:1']\nprobe = { target = '2001:db8::2' }"));
}
