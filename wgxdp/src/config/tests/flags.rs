//! The same from flags.

use super::*;

fn flags(tunnels: &[&str], uplinks: &[&str]) -> Result<Config, ConfigError> {
    Config::from_flags(&Flags {
        tunnels: tunnels.iter().map(|name| name.parse().unwrap()).collect(),
        uplinks: uplinks.iter().map(|flag| flag.parse().unwrap()).collect(),
        profile: Profile::Balanced,
        metrics: None,
        max_clients: DEFAULT_MAX_CLIENTS,
    })
}

#[test]
fn flags_say_what_the_file_of_the_same_meaning_says() {
    let from_flags = flags(&["wg0"], &["eth0", "eth1"]).unwrap();
    // But for one thing: flags list no peers, so all of them are probed.
    let the_same = Config {
        probes_unlisted: true,
        ..valid(TWO)
    };
    assert_eq!(from_flags, the_same);
}

#[test]
fn the_order_of_flags_is_the_order_of_preference() {
    let config = flags(&["wg0", "wg1"], &["isp-a=eth1", "eth0"]).unwrap();
    let order: Vec<_> = config
        .uplinks_by_cost()
        .iter()
        .map(|(_, u)| (u.name.to_string(), u.interface.to_string(), u.cost))
        .collect();
    assert_eq!(
        order,
        [("isp-a".into(), "eth1".into(), 10), ("eth0".into(), "eth0".into(), 20)]
    );
    assert_eq!(config.tunnels().len(), 2);
}

#[test]
fn only_the_first_equals_sign_separates_name_from_interface() {
    let flag: UplinkFlag = "a=b=c".parse().unwrap();
    assert_eq!((flag.name.as_str(), flag.interface.as_str()), ("a", "b=c"));
    assert_eq!("a=".parse::<UplinkFlag>(), Err(ValueError::Interface));
    assert_eq!("=eth0".parse::<UplinkFlag>(), Err(ValueError::Label));
    assert_eq!("a b=eth0".parse::<UplinkFlag>(), Err(ValueError::Label));
}

#[test]
fn bad_flags_are_told_by_their_names() {
    let rows: [(&[&str], &[&str], &str); 6] = [
        (
            &[],
            &[],
            "no uplink; add --uplink eth0 for each interface that can carry the tunnel\n\
             no tunnel; add --tunnel wg0 for the WireGuard interface to protect",
        ),
        (
            &["wg0"],
            &["eth0", "eth0"],
            "--uplink: uplink interface \"eth0\" is already used by another --uplink; an interface is one uplink, remove one of the two",
        ),
        (
            &["wg0"],
            &["a=eth0", "a=eth1"],
            "--uplink: uplink name \"a\" is already used by another --uplink; give each uplink its own name",
        ),
        (
            &["eth0"],
            &["eth0", "eth1"],
            "--tunnel: interface \"eth0\" is already an uplink; a tunnel cannot carry itself, name another interface",
        ),
        (
            &["wg0", "wg0"],
            &["a", "b"],
            "--tunnel: tunnel interface \"wg0\" is already used by another --tunnel; remove one of the two",
        ),
        (
            &["wg0"],
            &["lo", "b"],
            "--uplink: interface \"lo\" cannot be an uplink: it leads nowhere beyond this host; name another interface",
        ),
    ];
    for (tunnels, uplinks, message) in rows {
        assert_eq!(flags(tunnels, uplinks).unwrap_err().to_string(), message);
    }
}

#[test]
fn one_uplink_flag_is_a_warning() {
    let config = flags(&["wg0"], &["eth0"]).unwrap();
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [r#""eth0" is the only uplink, so there is nothing to fail over to; add a second one"#]
    );
}
