//! Laws of the configuration: what survives, what is refused, and in which words.

mod flags;
mod messages;
mod properties;
mod relations;
mod values;

use std::path::Path;
use std::time::Duration;

use super::*;

/// What messages call the file.
const PATH: &str = "/etc/wgxdp/wgxdp.toml";
/// Two keys that are nobody's.
const KEY_A: &str = "oKOUMIRsAeXL+G4PCYpbtfyDmEBKdp2T2YZzzaoZPGA=";
const KEY_B: &str = "jVdFOhvRdDFVuqDbUi3rSYsEAZlnbWrVxLDSmKwhYWY=";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new(PATH))
}

#[track_caller]
fn valid(text: &str) -> Config {
    match parse(text) {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

/// The file of the design, with a real key.
fn sample() -> String {
    r#"
profile = "balanced"                  # fast | balanced | thrifty

[[uplink]]
name = "isp-a"                        # label in commands, metrics, logs
interface = "eth0"
cost = 10                             # lower is preferred; equal costs may share load
# address = "auto"  gateway = "auto"  metered = false  xdp = "auto"   # auto | native | generic | off

[[uplink]]
name = "lte"
interface = "wwan0"
cost = 100
metered = true

[[tunnel]]
interface = "wg0"
policy = "failover"                   # failover | balance | duplicate
protect = "suspect"                   # off | suspect | always

[[tunnel.peer]]                       # peers not listed get their endpoint from WireGuard and are learned
public-key = "KEY"
name = "hq"
endpoints = ["198.51.100.1:51820", "203.0.113.1:51820"]
probe = { kind = "icmp" }             # stamp | icmp | tcp; interval, target, port

[detection]
false-failovers-per-week = 1.0
hold-down = "10s"                     # a recovered path must stay clean this long before traffic returns

[metrics]
listen = "127.0.0.1:9587"             # GET /metrics, /healthz; unset = off
"#
    .replace("KEY", KEY_A)
}

#[test]
fn the_file_of_the_design_says_what_it_says() {
    let config = valid(&sample());
    assert_eq!(config.profile(), Profile::Balanced);
    let [isp, lte] = config.uplinks() else {
        panic!("two uplinks")
    };
    assert_eq!(
        (isp.name.as_str(), isp.interface.as_str(), isp.cost, isp.metered),
        ("isp-a", "eth0", 10, false)
    );
    assert_eq!(
        (lte.name.as_str(), lte.interface.as_str(), lte.cost, lte.metered),
        ("lte", "wwan0", 100, true)
    );
    assert_eq!(
        (isp.v4, isp.v6, isp.xdp),
        (FamilyChoice::AUTO, FamilyChoice::AUTO, XdpMode::Auto)
    );
    let [tunnel] = config.tunnels() else {
        panic!("one tunnel")
    };
    assert_eq!(
        (tunnel.interface.as_str(), tunnel.policy, tunnel.protect),
        ("wg0", Policy::Failover, Protect::Suspect)
    );
    let peer = tunnel.peer(&KEY_A.parse().unwrap()).unwrap();
    assert_eq!(peer.name.as_ref().map(PeerName::as_str), Some("hq"));
    assert_eq!(
        peer.endpoints,
        [
            "198.51.100.1:51820".parse().unwrap(),
            "203.0.113.1:51820".parse().unwrap()
        ]
    );
    assert_eq!(peer.probe, config.default_probe());
    assert_eq!(
        config.detection(),
        Detection {
            false_failovers_per_week: 1.0,
            hold_down: Duration::from_secs(10),
            max_hold_down: Duration::from_secs(600)
        }
    );
    assert_eq!(config.metrics(), Some("127.0.0.1:9587".parse().unwrap()));
    assert_eq!(config.warnings(), []);
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = valid("[[uplink]]\ninterface = 'b'\n[[uplink]]\ninterface = 'a'\n[[tunnel]]\ninterface = 'wg0'\n");
    assert_eq!(config.profile().probe_interval(), Duration::from_millis(50));
    assert_eq!(config.detection(), Detection::default());
    assert_eq!(config.metrics(), None);
    assert_eq!(config.warnings(), []);
    let shown: Vec<_> = config
        .uplinks()
        .iter()
        .map(|u| (u.name.as_str(), u.interface.as_str(), u.cost))
        .collect();
    assert_eq!(shown, [("b", "b", 10), ("a", "a", 20)]);
    assert_eq!(config.default_probe().interval, Duration::from_millis(50));
    assert_eq!(config.tunnels()[0].protect, Protect::Suspect);
}

#[test]
fn each_profile_has_the_interval_that_the_design_gives_it() {
    let text = |profile: &str| format!("profile = '{profile}'\n{TWO}");
    for (profile, millis) in [("fast", 10), ("balanced", 50), ("thrifty", 500)] {
        assert_eq!(
            valid(&text(profile)).default_probe().interval,
            Duration::from_millis(millis),
            "{profile}"
        );
    }
}

/// Two uplinks and a tunnel, on lines of their own.
const TWO: &str = "[[uplink]]\ninterface = 'eth0'\n[[uplink]]\ninterface = 'eth1'\n[[tunnel]]\ninterface = 'wg0'\n";

#[test]
fn the_cheapest_uplink_is_preferred_and_of_equal_ones_the_first() {
    let uplink = |name: &str, cost: u32| format!("[[uplink]]\ninterface = '{name}'\ncost = {cost}\n");
    let uplinks = [("a", 7), ("b", 0), ("c", 7), ("d", 4_294_967_295)]
        .map(|(name, cost)| uplink(name, cost))
        .concat();
    let config = valid(&format!("{uplinks}[[tunnel]]\ninterface = 'wg0'"));
    let order: Vec<_> = config
        .uplinks_by_cost()
        .iter()
        .map(|(i, u)| (*i, u.name.to_string()))
        .collect();
    assert_eq!(
        order,
        [(1, "b".into()), (0, "a".into()), (2, "c".into()), (3, "d".into())]
    );
}

#[test]
fn a_family_that_is_not_named_stays_automatic() {
    let with = |keys: &str| {
        valid(&format!(
            "[[uplink]]\ninterface = 'eth0'\n{keys}\n[[uplink]]\ninterface = 'e'\n[[tunnel]]\ninterface = 'w'"
        ))
    };
    let v4 = "192.0.2.9".parse().unwrap();
    let router = "fe80::1".parse().unwrap();

    let config = with("address = '192.0.2.9'\ngateway = ['fe80::1']");
    let uplink = &config.uplinks()[0];
    assert_eq!(
        uplink.v4,
        FamilyChoice {
            address: AddressChoice::Fixed(v4),
            gateway: GatewayChoice::Auto
        }
    );
    assert_eq!(
        uplink.v6,
        FamilyChoice {
            address: AddressChoice::Auto,
            gateway: GatewayChoice::Via(router)
        }
    );
    assert_eq!(
        uplink.family_of("198.51.100.1".parse().unwrap()).address,
        AddressChoice::Fixed(v4.into())
    );
    assert_eq!(
        uplink.family_of("2001:db8::1".parse().unwrap()).gateway,
        GatewayChoice::Via(router.into())
    );

    let config = with("address = ['2001:db8::9', '192.0.2.9']\ngateway = 'none'");
    let uplink = &config.uplinks()[0];
    assert_eq!(
        uplink.v4,
        FamilyChoice {
            address: AddressChoice::Fixed(v4),
            gateway: GatewayChoice::OnLink
        }
    );
    assert_eq!(uplink.v6.gateway, GatewayChoice::OnLink);

    assert_eq!(
        with("address = 'auto'\ngateway = 'auto'").uplinks()[0].v4,
        FamilyChoice::AUTO
    );
}

#[test]
fn a_peer_s_probe_overrides_the_profile_s() {
    let config = valid(&format!(
        "profile = 'thrifty'\n{TWO}[[tunnel.peer]]\npublic-key = '{KEY_A}'\n\
         probe = {{ interval = '20ms', target = '192.0.2.1' }}\n[[tunnel.peer]]\npublic-key = '{KEY_B}'\n"
    ));
    let [a, b] = &config.tunnels()[0].peers[..] else {
        panic!("two peers")
    };
    assert_eq!(a.probe.interval, Duration::from_millis(20));
    assert_eq!(a.probe.target, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(b.probe, config.default_probe());
    assert_eq!((b.name.clone(), b.endpoints.len()), (None, 0));
}

#[test]
fn the_same_endpoint_or_key_may_appear_in_two_tunnels() {
    let peer = format!("[[tunnel.peer]]\npublic-key = '{KEY_A}'\nname = 'hq'\nendpoints = ['192.0.2.1:1']\n");
    valid(&format!("{TWO}{peer}[[tunnel]]\ninterface = 'wg1'\n{peer}"));
}

#[test]
fn one_uplink_is_a_warning_and_more_uplinks_than_paths_are_one_too() {
    let uplinks = |count: usize| {
        (0..count)
            .map(|i| format!("[[uplink]]\ninterface = 'eth{i}'\n"))
            .collect::<String>()
    };
    let warnings = |count: usize| {
        let config = valid(&format!("{}[[tunnel]]\ninterface = 'wg0'\n", uplinks(count)));
        config.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        warnings(1),
        [r#"/etc/wgxdp/wgxdp.toml: "eth0" is the only uplink, so there is nothing to fail over to; add a second one"#]
    );
    assert_eq!(warnings(2), [""; 0]);
    assert_eq!(warnings(8), [""; 0]);
    assert_eq!(
        warnings(16),
        ["/etc/wgxdp/wgxdp.toml: 16 uplinks, but a peer has room for 8 paths: the uplinks of highest cost stay unused"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent.toml");
    assert_eq!(
        Config::from_file(&path).unwrap_err().to_string(),
        format!(
            "cannot read {}: No such file or directory (os error 2); name a readable file with --config",
            path.display()
        )
    );
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(
        Config::from_file(&path).unwrap_err().to_string(),
        format!(
            "cannot read {}: stream did not contain valid UTF-8; name a readable file with --config",
            path.display()
        )
    );
    std::fs::write(&path, vec![b'#'; file::MAX_BYTES as usize + 1]).unwrap();
    assert_eq!(
        Config::from_file(&path).unwrap_err().to_string(),
        format!(
            "{} is longer than 16777216 bytes, so it is no configuration of wgxdp; name another file with --config",
            path.display()
        )
    );
    std::fs::write(&path, sample()).unwrap();
    let (read, parsed) = (Config::from_file(&path).unwrap(), valid(&sample()));
    assert_eq!((read.uplinks(), read.tunnels()), (parsed.uplinks(), parsed.tunnels()));
}
