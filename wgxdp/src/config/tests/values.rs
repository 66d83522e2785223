//! Values with a rule of their own.

use proptest::prelude::*;

use super::super::value::{duration, *};
use super::*;

proptest! {
    #[test]
    fn a_key_survives_the_way_to_text_and_back(bytes in any::<[u8; 32]>().prop_filter("no key", |b| *b != [0; 32])) {
        let key = PublicKey::from(bytes);
        prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        prop_assert_eq!(key.as_bytes(), &bytes);
        prop_assert!(key.to_string().starts_with(&key.short()));
    }

    #[test]
    fn a_key_has_one_spelling_only(text in "[A-Za-z0-9+/]{43}=") {
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_a_name_that_the_kernel_would_refuse(text in "\\PC{0,20}|[a-z./: \t\n-]{0,17}") {
        if let Ok(name) = text.parse::<InterfaceName>() {
            prop_assert!((1..=15).contains(&name.as_str().len()));
            prop_assert!(!name.as_str().contains(|c: char| c == '/' || c == ':' || c.is_whitespace()));
            prop_assert_eq!(name.as_str(), text);
        }
    }

    #[test]
    fn durations_with_units_are_read_exactly(millis in 0u64..10_000_000) {
        let exact = Duration::from_millis(millis);
        prop_assert_eq!(duration(&format!("{millis}ms")), Ok(exact));
        prop_assert_eq!(duration(&humantime::format_duration(exact).to_string()), Ok(exact));
    }
}

#[test]
fn a_duration_needs_its_unit() {
    assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
    for bad in ["", "10", "s", "-1s", "10 parsecs", "1.5", "99999999999999999999s"] {
        assert_eq!(duration(bad), Err(ValueError::Duration), "{bad}");
    }
}

#[test]
fn interface_names_are_the_kernel_s() {
    for good in [
        "eth0",
        "wg-home",
        "enp3s0f1np1",
        "eth0.100",
        "br@x",
        "é",
        "123456789012345",
    ] {
        assert_eq!(
            good.parse::<InterfaceName>().map(|name| name.to_string()),
            Ok(good.to_owned())
        );
    }
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "eth0:1",
        "a\tb",
        "a\0b",
        "1234567890123456",
        "éééééééé",
    ] {
        assert_eq!(bad.parse::<InterfaceName>(), Err(ValueError::Interface), "{bad:?}");
    }
}

#[test]
fn labels_can_be_typed_and_found_again() {
    for good in ["isp-a", "LTE_1", "hq.example", "büro", &"x".repeat(63)] {
        assert!(
            good.parse::<UplinkName>().is_ok() && good.parse::<PeerName>().is_ok(),
            "{good}"
        );
    }
    for bad in [
        "",
        "-a",
        "a b",
        "a=b",
        "a/b",
        "a\"b",
        "a'b",
        "a\\b",
        "a\n",
        &"x".repeat(64),
    ] {
        assert_eq!(bad.parse::<UplinkName>(), Err(ValueError::Label), "{bad:?}");
        assert_eq!(bad.parse::<PeerName>(), Err(ValueError::Label), "{bad:?}");
    }
}

#[test]
fn what_is_no_key_says_why() {
    assert_eq!("not base64!".parse::<PublicKey>(), Err(ValueError::KeyEncoding));
    assert_eq!("AAAA".parse::<PublicKey>(), Err(ValueError::KeyLength(3)));
    assert_eq!("".parse::<PublicKey>(), Err(ValueError::KeyLength(0)));
    assert_eq!(
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse::<PublicKey>(),
        Err(ValueError::KeyZero)
    );
    // The last character carries two bits that no key has: a second spelling of the same bytes.
    assert_eq!(
        KEY_A.replace("GA=", "GB=").parse::<PublicKey>(),
        Err(ValueError::KeyEncoding)
    );
}
