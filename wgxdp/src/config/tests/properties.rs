//! Laws over all configurations: the valid survive, and nothing makes the reader panic.

use std::collections::BTreeSet;

use proptest::prelude::*;
use wgxdp_common::abi::{MAX_PATHS_PER_PEER, MAX_TUNNELS, MAX_UPLINKS};

use super::*;

/// What a generated peer should be found to be: key, name, endpoints, probe interval in milliseconds.
type ExpectedPeer = ([u8; 32], Option<String>, Vec<SocketAddr>, Option<u64>);

#[derive(Clone, Debug)]
struct Expected {
    profile: &'static str,
    /// Interface, name, cost.
    uplinks: Vec<(String, Option<String>, Option<u32>)>,
    tunnels: Vec<(String, Vec<ExpectedPeer>)>,
    hold_down: Option<u64>,
    metrics: Option<SocketAddr>,
}

fn endpoint(v6: bool) -> impl Strategy<Value = SocketAddr> {
    let ip = if v6 {
        any::<u64>()
            .prop_map(|low| IpAddr::from(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(low))))
            .boxed()
    } else {
        any::<[u8; 2]>()
            .prop_map(|[c, d]| IpAddr::from([198, 18, c, d]))
            .boxed()
    };
    (ip, 1..=u16::MAX).prop_map(SocketAddr::from)
}

fn peers(uplinks: usize) -> impl Strategy<Value = Vec<ExpectedPeer>> {
    let most = if uplinks > MAX_PATHS_PER_PEER { 0 } else { 4 };
    let endpoints = any::<bool>().prop_flat_map(endpoint);
    let endpoints = prop::collection::vec(endpoints, 0..=(MAX_PATHS_PER_PEER / uplinks).max(1));
    let peer = (
        any::<[u8; 32]>().prop_filter("no key", |key| *key != [0; 32]),
        prop::option::of("[a-z][a-zA-Z0-9._-]{0,20}"),
        endpoints,
        prop::option::of(5u64..=60_000),
    );
    prop::collection::vec(peer, 0..=most).prop_map(|mut peers| {
        let (mut keys, mut names, mut sockets) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (_, name, endpoints, _) in &mut peers {
            *name = name.take().filter(|name| names.insert(name.clone()));
            endpoints.retain(|socket| sockets.insert(*socket));
        }
        peers.retain(|(key, ..)| keys.insert(*key));
        peers
    })
}

fn expected() -> impl Strategy<Value = Expected> {
    let uplinks = prop::collection::btree_map(
        "[a-km-z][a-z0-9.@-]{0,14}",
        (
            prop::option::of("[A-Z][A-Z0-9_-]{0,40}"),
            prop::option::of(any::<u32>()),
        ),
        1..=MAX_UPLINKS,
    );
    uplinks.prop_flat_map(|uplinks| {
        let mut names = BTreeSet::new();
        let uplinks: Vec<_> = uplinks
            .into_iter()
            .map(|(interface, (name, cost))| (interface, name.filter(|name| names.insert(name.clone())), cost))
            .collect();
        let tunnels = prop::collection::btree_map("Wg[a-z0-9]{1,10}", peers(uplinks.len()), 1..=MAX_TUNNELS);
        (
            prop::sample::select(vec!["fast", "balanced", "thrifty"]),
            Just(uplinks),
            tunnels.prop_map(Vec::from_iter),
            prop::option::of(0u64..=86_400_000),
            prop::option::of(any::<bool>().prop_flat_map(endpoint)),
        )
            .prop_map(|(profile, uplinks, tunnels, hold_down, metrics)| Expected {
                profile,
                uplinks,
                tunnels,
                hold_down,
                metrics,
            })
    })
}

fn render(expected: &Expected) -> String {
    let mut text = format!("profile = \"{}\"\n", expected.profile);
    let mut line = |words: String| text.extend([words.as_str(), "\n"]);
    for (interface, name, cost) in &expected.uplinks {
        line(format!("[[uplink]]\ninterface = \"{interface}\""));
        name.iter().for_each(|name| line(format!("name = \"{name}\"")));
        cost.iter().for_each(|cost| line(format!("cost = {cost}")));
    }
    for (interface, peers) in &expected.tunnels {
        line(format!("[[tunnel]]\ninterface = \"{interface}\""));
        for (key, name, endpoints, interval) in peers {
            line(format!("[[tunnel.peer]]\npublic-key = \"{}\"", PublicKey::from(*key)));
            name.iter().for_each(|name| line(format!("name = \"{name}\"")));
            if !endpoints.is_empty() {
                let quoted: Vec<_> = endpoints.iter().map(|socket| format!("\"{socket}\"")).collect();
                line(format!("endpoints = [{}]", quoted.join(", ")));
            }
            interval
                .iter()
                .for_each(|millis| line(format!("probe = {{ kind = \"icmp\", interval = \"{millis}ms\" }}")));
        }
    }
    expected
        .hold_down
        .iter()
        .for_each(|millis| line(format!("[detection]\nhold-down = \"{millis}ms\"")));
    expected
        .metrics
        .iter()
        .for_each(|socket| line(format!("[metrics]\nlisten = \"{socket}\"")));
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_valid_configuration_survives(expected in expected()) {
        let text = render(&expected);
        let config = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\nof\n{text}")))?;
        prop_assert_eq!(config.profile().as_str(), expected.profile);
        prop_assert_eq!(config.uplinks().len(), expected.uplinks.len());
        for ((found, (interface, name, cost)), place) in config.uplinks().iter().zip(&expected.uplinks).zip(1..) {
            prop_assert_eq!(found.interface.as_str(), interface);
            prop_assert_eq!(found.name.as_str(), name.as_ref().unwrap_or(interface));
            prop_assert_eq!(found.cost, cost.unwrap_or(COST_STEP * place));
        }
        prop_assert_eq!(config.tunnels().len(), expected.tunnels.len());
        for (found, (interface, peers)) in config.tunnels().iter().zip(&expected.tunnels) {
            prop_assert_eq!(found.interface.as_str(), interface);
            prop_assert_eq!(found.peers.len(), peers.len());
            for (key, name, endpoints, interval) in peers {
                let peer = found.peer(&PublicKey::from(*key)).unwrap();
                prop_assert_eq!(peer.name.as_ref().map(PeerName::as_str), name.as_deref());
                prop_assert_eq!(&peer.endpoints, endpoints);
                let interval = interval.map_or(config.profile().probe_interval(), Duration::from_millis);
                prop_assert_eq!(peer.probe.interval, interval);
            }
        }
        prop_assert_eq!(config.detection().hold_down, expected.hold_down.map_or(DEFAULT_HOLD_DOWN, Duration::from_millis));
        prop_assert_eq!(config.metrics(), expected.metrics);
    }
}

/// Whatever the text says, its problems stand on lines that it has, and each says something.
fn judge(text: &str) -> Result<(), TestCaseError> {
    match parse(text) {
        Ok(config) => {
            prop_assert!((1..=MAX_UPLINKS).contains(&config.uplinks().len()));
            prop_assert!((1..=MAX_TUNNELS).contains(&config.tunnels().len()));
        }
        Err(error) => {
            prop_assert!(
                error.to_string().lines().all(|line| line.starts_with(PATH)),
                "{}",
                error
            );
            let ConfigError::Invalid { problems, .. } = error else {
                return Err(TestCaseError::fail("not about the text"));
            };
            prop_assert!(!problems.is_empty());
            let lines = text.split('\n').count();
            for problem in problems {
                if let Place::Line(line, _) = problem.place {
                    prop_assert!((1..=lines).contains(&line), "{:?}", problem);
                }
            }
        }
    }
    Ok(())
}

/// Keys and values from our own language and beside it, thrown together.
fn salad() -> impl Strategy<Value = String> {
    let header = prop::sample::select(vec![
        "[[uplink]]",
        "[[tunnel]]",
        "[[tunnel.peer]]",
        "[detection]",
        "[metrics]",
        "[uplink]",
        "[[probe]]",
        "[tunnel.peer.probe]",
    ]);
    let key = prop::sample::select(vec![
        "profile",
        "uplink",
        "tunnel",
        "name",
        "interface",
        "cost",
        "address",
        "gateway",
        "metered",
        "hotplug",
        "xdp",
        "policy",
        "protect",
        "peer",
        "public-key",
        "endpoints",
        "probe",
        "kind",
        "interval",
        "target",
        "port",
        "hold-down",
        "listen",
        "false-failovers-per-week",
        "a.b.c",
        "\"\"",
        "é",
        "private-key",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "1",
            "-9223372036854775808",
            "0xff",
            "1e308",
            "-nan",
            "inf",
            "true",
            "[]",
            "{}",
            "[[]]",
            "1979-05-27T07:32:00Z",
            "\"\"",
            "'auto'",
            "'none'",
            "'eth0'",
            "'wg0'",
            "'192.0.2.1'",
            "['192.0.2.1:1', 3]",
            "{ kind = 'icmp', port = 1 }",
            "'::%5'",
            "'[::%]:1'",
            "']:['",
            "'10s'",
            "'always'",
            "'oKOUMIRsAeXL+G4PCYpbtfyDmEBKdp2T2YZzzaoZPGA='",
            "[{}, {interface = 'x'}]",
            "'\u{1F600}'",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,80}".prop_map(|text| format!("{text:?}")),
    ];
    let line = prop_oneof![
        header.prop_map(str::to_owned),
        (key, value).prop_map(|(key, value)| format!("{key} = {value}"))
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,300}") {
        judge(&text)?;
    }

    #[test]
    fn no_salad_of_keys_and_values_makes_the_reader_panic(text in salad()) {
        judge(&text)?;
        judge(&format!("{text}\n{TWO}"))?;
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_reader_panic(at: prop::sample::Index, cut in 0usize..40, put in "(?s).{0,10}") {
        let mut text: Vec<char> = sample().chars().collect();
        let start = at.index(text.len());
        let end = (start + cut).min(text.len());
        text.splice(start..end, put.chars());
        judge(&String::from_iter(text))?;
    }
}
