//! Laws of what is remembered: an original outlives everything but somebody else's hand.

use super::*;

fn link(index: u32, mtu: u32) -> Link {
    Link {
        index,
        name: "wg0".into(),
        kind: wgxdp_common::table::LinkKind::IP,
        driver: None,
        alias: None,
        mac: None,
        mtu,
        admin_up: true,
        carrier: true,
        noarp: true,
        v4: Vec::new(),
        v6: Vec::new(),
        gateway4: None,
        gateway6: None,
        route_mtu4: None,
        route_mtu6: None,
    }
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("mtu.json");
    (directory, path)
}

#[test]
fn the_original_survives_every_value_of_ours_and_every_restart() {
    let (_directory, path) = fresh();
    let mut originals = Originals::read(&path);
    originals.remember(&link(7, 1420), 1340).unwrap();
    originals.remember(&link(7, 1340), 1300).unwrap();
    // A restart.
    let mut originals = Originals::read(&path);
    assert_eq!(originals.get("wg0").unwrap().mtu, 1420);
    originals.remember(&link(7, 1300), 1320).unwrap();
    assert_eq!(Originals::read(&path).get("wg0").unwrap().mtu, 1420);
}

#[test]
fn ours_is_what_is_set_and_what_was_set_before_on_the_same_device() {
    let (_directory, path) = fresh();
    let mut originals = Originals::read(&path);
    originals.remember(&link(7, 1420), 1340).unwrap();
    let ours = |originals: &Originals, index, mtu| originals.get("wg0").unwrap().is_ours(&link(index, mtu));
    assert!(ours(&originals, 7, 1340));
    assert!(!ours(&originals, 7, 1420), "not set yet, or set back by somebody");
    assert!(!ours(&originals, 7, 1400), "somebody else's");
    assert!(!ours(&originals, 8, 1340), "another device of the name");
    originals.remember(&link(7, 1340), 1300).unwrap();
    assert!(
        ours(&originals, 7, 1340) && ours(&originals, 7, 1300),
        "a crash may fall between writing and setting"
    );
}

#[test]
fn a_device_made_anew_has_an_original_of_its_own() {
    let (_directory, path) = fresh();
    let mut originals = Originals::read(&path);
    originals.remember(&link(7, 1420), 1340).unwrap();
    originals.remember(&link(8, 1400), 1340).unwrap();
    assert_eq!(originals.get("wg0").unwrap().mtu, 1400);
}

#[test]
fn with_nothing_to_remember_there_is_no_file() {
    let (_directory, path) = fresh();
    let mut originals = Originals::read(&path);
    originals.forget("wg0").unwrap();
    assert!(!path.exists());
    originals.remember(&link(7, 1420), 1340).unwrap();
    assert!(path.exists());
    originals.forget("wg0").unwrap();
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_damaged_or_of_another_version_is_nothing() {
    let (_directory, path) = fresh();
    let other = r#"{"format":2,"tunnels":{"wg0":{"index":7,"mtu":1420,"ours":[1340,1340]}}}"#;
    for text in ["", "{", other] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(Originals::read(&path).get("wg0"), None, "{text}");
    }
    std::fs::write(&path, other.replace("\"format\":2", "\"format\":1")).unwrap();
    assert_eq!(Originals::read(&path).get("wg0").unwrap().mtu, 1420);
}
