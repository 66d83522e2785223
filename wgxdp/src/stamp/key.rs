//! The keys of authentic probes, which nobody has to configure: both ends derive them from what WireGuard gave them.
//!
//! ```text
//! secret = X25519(own private key, the peer's public key)                              RFC 7748, section 6.1
//! keys   = HKDF-SHA256(secret, salt = lower ‖ higher public key, info = "wgxdp probe v1")   RFC 5869, 32 bytes
//!   the first 16: for what the owner of the lower public key writes; the last 16: of the higher
//! ```
//!
//! *Lower* and *higher* compare the public keys' bytes in their order. A key for each direction: what an end wrote is never authentic when it comes back to
//! it. Salt with both public keys ties the result to them, as RFC 7748 asks, because several public keys lead to the same secret.

use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use wgxdp_common::siphash::Key;
use wgxdp_common::stamp::in_band::KeyId;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// What the keys are for, and the version of that.
const INFO: &[u8] = b"wgxdp probe v1";
/// Bytes of a key.
const KEY_LEN: usize = size_of::<Key>();

/// A tunnel's own key pair. The private key is wiped from memory when this is dropped.
pub struct Identity {
    private: StaticSecret,
    public: PublicKey,
}

/// Says whose, and no more.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The keys between this end and one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairKeys {
    /// For what this end writes.
    pub ours: Key,
    /// For what the peer writes.
    pub theirs: Key,
}

impl Identity {
    /// Of the tunnel with this private key, as WireGuard tells it.
    #[must_use]
    pub fn new(private: &Zeroizing<[u8; 32]>) -> Self {
        let private = StaticSecret::from(**private);
        let public = PublicKey::from(&private);
        Self { private, public }
    }

    /// By which this end is known in probes.
    #[must_use]
    pub fn id(&self) -> KeyId {
        id_of(self.public.as_bytes())
    }

    /// The keys shared with the peer of this public key. `None` if there can be none: it is this end's own, or one with which every private key leads to
    /// the same secret (RFC 7748, section 6.1), with which WireGuard shakes no hands either.
    #[must_use]
    pub fn keys_with(&self, peer: &[u8; 32]) -> Option<PairKeys> {
        let ours = self.public.as_bytes();
        let secret = self.private.diffie_hellman(&PublicKey::from(*peer));
        if !secret.was_contributory() || ours == peer {
            return None;
        }
        let salt = if ours < peer { [*ours, *peer] } else { [*peer, *ours] };
        let mut keys = Zeroizing::new([0; 2 * KEY_LEN]);
        let derived =
            Hkdf::<Sha256>::new(Some(salt.as_flattened()), secret.as_bytes()).expand(INFO, keys.as_mut_slice());
        derived.expect("32 bytes are less than the 255 hashes that HKDF gives");
        let [lower, higher] = [0, 1].map(|i| Key::from_bytes(std::array::from_fn(|byte| keys[i * KEY_LEN + byte])));
        Some(if ours < peer {
            PairKeys {
                ours: lower,
                theirs: higher,
            }
        } else {
            PairKeys {
                ours: higher,
                theirs: lower,
            }
        })
    }
}

/// By which the owner of a public key is known in probes.
#[must_use]
pub fn id_of(public: &[u8; 32]) -> KeyId {
    let hash = Sha256::digest(public);
    KeyId(u64::from_ne_bytes(std::array::from_fn(|i| hash[i])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Alice's and Bob's private keys in RFC 7748, section 6.1.
    const ALICE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const BOB: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    fn identity(private: [u8; 32]) -> Identity {
        Identity::new(&Zeroizing::new(private))
    }

    #[test]
    fn the_public_keys_and_the_secret_are_those_of_rfc_7748() {
        let (alice, bob) = (identity(hex(ALICE)), identity(hex(BOB)));
        assert_eq!(
            *alice.public.as_bytes(),
            hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        assert_eq!(
            *bob.public.as_bytes(),
            hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let secret = alice.private.diffie_hellman(&bob.public);
        assert_eq!(
            *secret.as_bytes(),
            hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
    }

    /// RFC 5869, appendix A.1.
    #[test]
    fn hkdf_is_that_of_rfc_5869() {
        let hkdf = Hkdf::<Sha256>::new(Some(&hex::<13>("000102030405060708090a0b0c")), &[0x0b; 22]);
        let mut okm = [0; 42];
        hkdf.expand(&hex::<10>("f0f1f2f3f4f5f6f7f8f9"), &mut okm).unwrap();
        assert_eq!(
            okm[..32],
            hex::<32>("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
        );
    }

    /// Computed with Python's `cryptography` 48.
    #[test]
    fn alices_and_bobs_keys_are_what_another_library_computes() {
        let (alice, bob) = (identity(hex(ALICE)), identity(hex(BOB)));
        let keys = alice.keys_with(bob.public.as_bytes()).unwrap();
        assert_eq!(keys.ours, Key::from_bytes(hex("7a5890ebc25fca88e7ee7cbf151b32e8")));
        assert_eq!(keys.theirs, Key::from_bytes(hex("611a9f4867e00186f3d8a5793eb80a04")));
        assert_eq!(alice.id().0.to_ne_bytes(), hex("300c9c9603b92a4b"));
        assert_eq!(bob.id().0.to_ne_bytes(), hex("f35e5616160a30bf"));
    }

    #[test]
    fn there_are_no_keys_with_oneself_nor_with_a_point_of_small_order() {
        let alice = identity(hex(ALICE));
        assert_eq!(alice.keys_with(alice.public.as_bytes()), None);
        assert_eq!(alice.keys_with(&[0; 32]), None);
        let one = std::array::from_fn(|i| u8::from(i == 0));
        assert_eq!(alice.keys_with(&one), None);
    }

    #[test]
    fn an_identity_does_not_print_its_private_key() {
        let printed = format!("{:?}", identity([0xa5; 32]));
        assert!(printed.contains("public") && !printed.contains("165, 165"), "{printed}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn what_one_end_writes_with_the_other_reads_with_and_nobody_else(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let [a, b, c] = [a, b, c].map(identity);
            prop_assume!(a.public != b.public && b.public != c.public && a.public != c.public);
            let keys = |own: &Identity, peer: &Identity| own.keys_with(peer.public.as_bytes()).unwrap();
            let (ab, ba, ac) = (keys(&a, &b), keys(&b, &a), keys(&a, &c));
            prop_assert_eq!((ab.ours, ab.theirs), (ba.theirs, ba.ours));
            prop_assert_ne!(ab.ours, ab.theirs);
            prop_assert!(![ab.ours, ab.theirs].contains(&ac.ours) && ![ab.ours, ab.theirs].contains(&ac.theirs));
        }
    }
}
