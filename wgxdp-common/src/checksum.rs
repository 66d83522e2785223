//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3): `HC' = ~(~HC + ~m + m')`.

use crate::net::Address;

/// What a change adds to a one's complement sum, in the byte order of the packet (RFC 1071, section 2). An IPv4-mapped address weighs as much as
/// the IPv4 address: 0xffff is another zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference(u64);

impl Difference {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// And a word changed from `old` to `new`.
    #[must_use]
    #[inline(always)]
    pub const fn of(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// And an address changed.
    #[must_use]
    #[inline(always)]
    pub const fn of_address(self, old: Address, new: Address) -> Self {
        let ([o0, o1, o2, o3], [n0, n1, n2, n3]) = (old.0, new.0);
        self.of(o0, n0).of(o1, n1).of(o2, n2).of(o3, n3)
    }

    /// And these words came where nothing was.
    #[must_use]
    #[inline(always)]
    pub const fn of_words(self, [a, b, c, d]: [u32; 4]) -> Self {
        self.of(!0, a).of(!0, b).of(!0, c).of(!0, d)
    }

    /// And another change, given folded.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// And another change taken back, given folded.
    #[must_use]
    #[inline(always)]
    pub const fn without(self, word: u32) -> Self {
        Self(self.0 + (!word) as u64)
    }

    /// Folded to 32 bits, as the kernel's `__wsum`.
    #[must_use]
    #[inline(always)]
    pub const fn fold32(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// `checksum`, as it stands in the packet, after this change.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let mut sum = self.fold32() as u64 + (!checksum) as u64;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}

/// The one's complement sum of `bytes`, as big-endian 16-bit words, an odd last byte padded with zero, added to `sum`.
#[must_use]
pub fn sum(bytes: &[u8], sum: u32) -> u32 {
    let mut total = u64::from(sum);
    for pair in bytes.chunks(2) {
        total += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while total >> 32 != 0 {
        total = (total & 0xffff_ffff) + (total >> 32);
    }
    total as u32
}

/// Folds a sum to 16 bits and complements it: the checksum, in the machine's order.
#[must_use]
pub const fn finish(sum: u32) -> u16 {
    let mut sum = sum;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum `checksum` after `old` was replaced by `new` (both of the same even length) in what it covers.
#[must_use]
pub fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let mut total = u32::from(!checksum);
    for (o, n) in old.chunks(2).zip(new.chunks(2)) {
        total += u32::from(!u16::from_be_bytes([o[0], o[1]])) + u32::from(u16::from_be_bytes([n[0], n[1]]));
        total = (total & 0xffff) + (total >> 16);
    }
    finish(total)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed_there() {
        assert_eq!(
            finish(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)),
            !0xddf2
        );
    }

    #[test]
    fn the_example_of_rfc_1624_updates_as_printed_there() {
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    }

    proptest! {
        /// What user space prepares and what a program finds out agree, over any way there and for both families.
        #[test]
        fn a_difference_by_way_of_another_address_is_the_difference(a: IpAddr, b: IpAddr, c: IpAddr, checksum: u16) {
            let [a, b, c] = [a, b, c].map(Address::from);
            let there = Difference::NONE.of_address(a, c);
            let by_way = Difference::NONE.of_address(b, c).with(Difference::NONE.of_address(a, b).fold32());
            // 0x0000 and 0xffff are the same sum; no header sums to the former.
            let same = |x: u16, y: u16| x == y || (x == 0 && y == 0xffff) || (x == 0xffff && y == 0);
            prop_assert!(same(there.apply(checksum), by_way.apply(checksum)));
            let back = there.without(Difference::NONE.of_address(a, c).fold32());
            prop_assert!(same(back.apply(checksum), checksum));
        }

        /// A real header is never all zero, which is the one input on which 0x0000 and 0xffff differ.
        #[test]
        fn an_update_equals_summing_anew(
            mut packet in prop::collection::vec(any::<u8>(), 4..64).prop_map(|mut p| { p.truncate(p.len() & !1); p[0] |= 1; p }),
            new in prop::collection::vec(any::<u8>(), 2),
            at: prop::sample::Index,
        ) {
            let at = 2 + (at.index(packet.len() - 2) & !1);
            let before = finish(sum(&packet, 0));
            let old: Vec<u8> = packet[at..at + 2].to_vec();
            packet[at..at + 2].copy_from_slice(&new);
            prop_assert_eq!(update(before, &old, &new), finish(sum(&packet, 0)));
        }
    }
}
