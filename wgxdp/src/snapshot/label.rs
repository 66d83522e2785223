//! What a peer is called.

use std::collections::BTreeSet;

use super::PeerName;

/// Characters of a key that usually tell peers apart.
const SHORT_KEY: usize = 8;

/// What the peers of one tunnel are called, in order: the configured name, else the key's first eight characters and `…`. No two are
/// the same: a key that would be called like another peer shows more of itself, and of two equal names the second has its key added.
#[must_use]
pub fn peer_labels(peers: &[PeerName]) -> Vec<String> {
    // Configured names come first, wherever they stand, so that no key takes one away.
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut labels: Vec<Option<String>> = peers
        .iter()
        .map(|peer| {
            peer.name
                .clone()
                .filter(|name| !name.is_empty() && taken.insert(name.clone()))
        })
        .collect();
    for (label, peer) in labels.iter_mut().zip(peers).filter(|(label, _)| label.is_none()) {
        *label = candidates(peer).find(|candidate| taken.insert(candidate.clone()));
    }
    labels.into_iter().flatten().collect()
}

/// What a peer without a name of its own may be called, best first, without end.
fn candidates(peer: &PeerName) -> impl Iterator<Item = String> {
    let key: Vec<char> = peer.public_key.chars().collect();
    let shortened = (SHORT_KEY..key.len()).map({
        let key = key.clone();
        move |length| key[..length].iter().chain(&['…']).collect::<String>()
    });
    let whole: String = key.into_iter().collect();
    let numbered = (2u32..).map({
        let whole = whole.clone();
        move |number| format!("{whole} #{number}")
    });
    let prefix = match peer.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{name} "),
        _ => String::new(),
    };
    shortened
        .chain([whole])
        .chain(numbered)
        .map(move |candidate| format!("{prefix}{candidate}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wgxdp_common::id::PeerId;

    fn peer(name: Option<&str>, public_key: &str) -> PeerName {
        PeerName {
            id: PeerId(0),
            name: name.map(str::to_owned),
            public_key: public_key.to_owned(),
            paths: Vec::new(),
        }
    }

    #[test]
    fn a_peer_is_called_by_its_name_else_by_the_beginning_of_its_key() {
        let peers = [
            peer(Some("hq"), "AAAAAAAABBBB="),
            peer(None, "CCCCCCCCDDDD="),
            peer(Some(""), "EEEEEEEEFFFF="),
        ];
        assert_eq!(peer_labels(&peers), ["hq", "CCCCCCCC…", "EEEEEEEE…"]);
    }

    #[test]
    fn keys_with_the_same_beginning_show_more_of_themselves() {
        let peers = [peer(None, "AAAAAAAABBBB="), peer(None, "AAAAAAAABBCC=")];
        assert_eq!(peer_labels(&peers), ["AAAAAAAA…", "AAAAAAAAB…"]);
    }

    #[test]
    fn a_configured_name_is_never_taken_away_by_a_key_before_it() {
        let peers = [peer(None, "AAAAAAAABBBB="), peer(Some("AAAAAAAA…"), "CCCCCCCCDDDD=")];
        assert_eq!(peer_labels(&peers), ["AAAAAAAAB…", "AAAAAAAA…"]);
    }

    #[test]
    fn of_two_equal_names_the_second_has_its_key_added() {
        let peers = [peer(Some("hq"), "AAAAAAAABBBB="), peer(Some("hq"), "CCCCCCCCDDDD=")];
        assert_eq!(peer_labels(&peers), ["hq", "hq CCCCCCCC…"]);
    }

    proptest! {
        #[test]
        fn no_two_peers_are_called_the_same(peers in prop::collection::vec(("[ab]?", "[AB]{0,10}"), 0..12)) {
            let peers: Vec<PeerName> = peers.iter().map(|(name, key)| peer(Some(name), key)).collect();
            let labels = peer_labels(&peers);
            prop_assert_eq!(labels.len(), peers.len());
            prop_assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), peers.len());
        }
    }
}
