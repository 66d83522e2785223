//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3): `HC' = ~(~HC + ~m + m')`.

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
