//! The keys of in-band probes, which follow WireGuard's: derived for every peer of every tunnel, each pair once.

use std::collections::HashMap;

use tokio::task::spawn_blocking;
use tracing::warn;
use wgxdp_common::keyring::{KeyName, Keys};

use crate::host::wireguard::{self, Tunnel};
use crate::stamp::key::{Identity, id_of};

/// Our public key and a peer's.
type Pair = ([u8; 32], [u8; 32]);

/// Makes keys, and remembers those in use: an X25519 secret takes some 50 µs, and there may be thousands.
#[derive(Default)]
pub(super) struct Locksmith {
    /// `None`: of these two keys none can be made.
    known: HashMap<Pair, Option<Keys>>,
    /// Tunnels whose private key could not be had the last time.
    locked: Vec<String>,
}

impl Locksmith {
    /// The keys of all peers of these tunnels. Those of a tunnel whose private key cannot be had, or is another by now, are missing.
    pub(super) async fn follow(&mut self, tunnels: &[Tunnel]) -> HashMap<KeyName, Keys> {
        let (mut wanted, mut known, mut locked) = (HashMap::new(), HashMap::new(), Vec::new());
        for tunnel in tunnels {
            let (Some(public), Some(port)) = (&tunnel.public_key, tunnel.listen_port) else {
                continue;
            };
            let pairs: Vec<Pair> = tunnel.peers.iter().map(|peer| (public.0, peer.public_key.0)).collect();
            let new: Vec<Pair> = pairs
                .iter()
                .filter(|pair| !self.known.contains_key(*pair))
                .copied()
                .collect();
            match derive(tunnel.name.clone(), new).await {
                Ok(derived) => self.known.extend(derived),
                Err(e) => {
                    if !self.locked.contains(&tunnel.name) {
                        warn!(
                            "{e}: of {} only in-band probes of peers known before are sent and answered",
                            tunnel.name
                        );
                    }
                    locked.push(tunnel.name.clone());
                }
            }
            for pair in pairs {
                let Some(keys) = self.known.get(&pair) else { continue };
                known.insert(pair, *keys);
                if let Some(keys) = keys {
                    wanted.insert(KeyName::new(id_of(&pair.1), port.into()), *keys);
                }
            }
        }
        (self.known, self.locked) = (known, locked);
        wanted
    }
}

/// The keys of these pairs, from the private key that the tunnel has now; none if that belongs to another public key than theirs.
async fn derive(interface: String, pairs: Vec<Pair>) -> Result<HashMap<Pair, Option<Keys>>, wireguard::Error> {
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let derive = spawn_blocking(move || {
        let Some(private) = wireguard::private_key(&interface)? else {
            return Ok(HashMap::new());
        };
        let identity = Identity::new(&private);
        let ours = pairs.into_iter().filter(|(public, _)| id_of(public) == identity.id());
        Ok(ours.map(|pair| (pair, keys(&identity, &pair.1))).collect())
    });
    derive.await.expect("deriving keys does not panic")
}

fn keys(identity: &Identity, peer: &[u8; 32]) -> Option<Keys> {
    let pair = identity.keys_with(peer)?;
    Some(Keys {
        ours: pair.ours,
        theirs: pair.theirs,
        own: identity.id(),
    })
}
