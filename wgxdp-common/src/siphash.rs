//! SipHash-2-4 with 64 bits of output (J.-P. Aumasson, D. J. Bernstein: "SipHash: a fast short-input PRF", 2012), over whole 64-bit words: the same code on
//! the host and in the programs. A message's length is a constant, so that the loop has a bound that the verifier knows.

/// 128 secret bits, as two little-endian halves (section 2.1 of the paper).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Key {
    /// The first eight bytes.
    pub k0: u64,
    /// The last eight bytes.
    pub k1: u64,
}

crate::layout!(Key, 16, { k0 @ 0, k1 @ 8 });
crate::pod!(Key);

/// Says nothing: keys do not belong in logs.
impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// From its bytes, in their order.
    #[must_use]
    pub const fn from_bytes(b: [u8; 16]) -> Self {
        Self {
            k0: u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            k1: u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        }
    }
}

/// The tag of `words`, which stand in memory as the message's bytes do.
#[must_use]
#[inline(always)]
pub fn tag<const N: usize>(key: Key, words: &[u64; N]) -> u64 {
    // The last block holds what is left of the message (nothing) and, in its highest byte, the length modulo 256.
    let length = (N * size_of::<u64>()) as u64;
    finish(absorb(key, words), length << 56)
}

#[inline(always)]
fn absorb<const N: usize>(key: Key, words: &[u64; N]) -> State {
    let mut state = State::new(key);
    for word in words {
        state.compress(u64::from_le(*word));
    }
    state
}

#[inline(always)]
fn finish(mut state: State, last: u64) -> u64 {
    state.compress(last);
    state.v2 ^= 0xff;
    state.round();
    state.round();
    state.round();
    state.round();
    state.v0 ^ state.v1 ^ state.v2 ^ state.v3
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    /// The constants spell "somepseudorandomlygeneratedbytes".
    #[inline(always)]
    const fn new(key: Key) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    /// Figure 2.1 of the paper.
    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::format;

    /// Bytes that count up from `first`.
    fn counting<const N: usize>(first: u8) -> [u8; N] {
        core::array::from_fn(|i| first + i as u8)
    }

    fn words<const N: usize>() -> [u64; N] {
        core::array::from_fn(|i| u64::from_ne_bytes(counting(8 * i as u8)))
    }

    fn key() -> Key {
        Key::from_bytes(counting(0))
    }

    #[test]
    fn the_papers_example_of_fifteen_bytes_has_the_tag_printed_there() {
        let state = absorb(key(), &words::<1>());
        assert_eq!(finish(state, 0x0f0e_0d0c_0b0a_0908), 0xa129_ca61_49be_45e5);
    }

    /// `openssl mac -macopt hexkey:000102…0f -macopt size:8 SIPHASH`, as the bytes are printed.
    #[test]
    fn whole_words_have_the_tags_that_openssl_computes() {
        assert_eq!(
            tag(key(), &words::<0>()).to_le_bytes(),
            0x310E_0EDD_47DB_6F72_u64.to_be_bytes()
        );
        assert_eq!(
            tag(key(), &words::<1>()).to_le_bytes(),
            0x6224_939A_79F5_F593_u64.to_be_bytes()
        );
        assert_eq!(
            tag(key(), &words::<9>()).to_le_bytes(),
            0x2EC8_0D51_63BA_E548_u64.to_be_bytes()
        );
    }

    proptest! {
        #[test]
        fn the_tag_is_that_of_the_standard_librarys_siphash(k0: u64, k1: u64, message: [u64; 9]) {
            #[expect(deprecated, reason = "the only SipHash-2-4 in the standard library, independent of ours")]
            let mut hasher = core::hash::SipHasher::new_with_keys(k0, k1);
            for word in message {
                core::hash::Hasher::write(&mut hasher, &word.to_ne_bytes());
            }
            prop_assert_eq!(tag(Key { k0, k1 }, &message), core::hash::Hasher::finish(&hasher));
        }

        #[test]
        fn one_bit_of_message_or_key_changes_the_tag(k0: u64, k1: u64, message: [u64; 9], word in 0_usize..9, bit in 0_u32..64) {
            let of = |key, message: &[u64; 9]| tag(key, message);
            let mut other = message;
            other[word] ^= 1 << bit;
            let before = of(Key { k0, k1 }, &message);
            prop_assert_ne!(before, of(Key { k0, k1 }, &other));
            prop_assert_ne!(before, of(Key { k0: k0 ^ 1 << bit, k1 }, &message));
            prop_assert_ne!(before, of(Key { k0, k1: k1 ^ 1 << bit }, &message));
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", Key { k0: 4711, k1: 815 }), "Key(…)");
    }
}
