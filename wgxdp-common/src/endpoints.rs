//! The table of endpoints: a hash table in two arrays, which user space alone writes and a program reads without a call.
//!
//! ```text
//!   hash(key) ──▶ BUCKETS[hash & mask]   eight numbers, 0 for none
//!                   └─▶ ENDPOINTS[number − 1]   the key, the peer, the paths
//! ```
//!
//! An entry is written before a number leads to it and reused only after a grace period, and a number is one aligned word. So a
//! reader finds the old entry or the new one, or none, but no mixture. Its keys are configured ones: no stranger can crowd a bucket.

use crate::checksum::Difference;
use crate::id::{PathId, PeerId};
use crate::net::{Address, Port};
use crate::table::{EndpointKey, EndpointRef, Order};
use crate::{layout, pod};

/// Places in a bucket.
pub const WAYS: usize = 8;

/// Numbers of the entries whose keys fall here; 0 is none.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket(pub [u32; WAYS]);

/// One endpoint.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Which.
    pub key: EndpointKey,
    /// What a checksum moves by when the peer's canonical address takes this one's place (`Difference::fold32`).
    pub difference: u32,
    /// Whose, and over which paths.
    pub endpoint: EndpointRef,
    /// The first path in the peer's order, or [`PathId::NONE`]: most packets need no more of the order.
    pub preferred: PathId,
    /// Always zero.
    pub padding: [u32; 5],
}

const _: () = assert!(size_of::<Bucket>() == 4 * WAYS, "a bucket is its numbers");
layout!(EndpointEntry, 64, { key @ 0, difference @ 20, endpoint @ 24, preferred @ 40, padding @ 44 });
pod!(Bucket, EndpointEntry);

/// Buckets for `endpoints` entries: a power of two, at least twice as many, so that more than [`WAYS`] keys hardly ever meet in one
/// (with a Poisson mean of one half, some three in 10⁹).
#[must_use]
pub const fn buckets(endpoints: u32) -> u32 {
    (endpoints * 2).next_power_of_two()
}

impl EndpointEntry {
    /// An endpoint of the peer that WireGuard sees at `canonical` and whose paths have this order.
    #[must_use]
    pub const fn new(key: EndpointKey, endpoint: EndpointRef, canonical: Address, order: Order) -> Self {
        Self {
            key,
            difference: Difference::NONE.of_address(key.endpoint, canonical).fold32(),
            endpoint,
            preferred: Self::preferred(endpoint.peer, order),
            padding: [0; 5],
        }
    }

    /// The first path in a peer's order.
    #[must_use]
    pub const fn preferred(peer: PeerId, order: Order) -> PathId {
        match order.slot(0) {
            Some(slot) => PathId::new(peer, slot),
            None => PathId::NONE,
        }
    }
}

impl EndpointKey {
    /// A hash: multiplications by odd constants (the fractional parts of √2, √3 and √5), of which the upper half is the best mixed.
    #[must_use]
    #[inline(always)]
    pub const fn hash(&self) -> u32 {
        let Address([a, b, c, d]) = self.endpoint;
        let ports = self.port.0 as u64 | (self.tunnel.0 as u64) << 16;
        let high = (a as u64 | (b as u64) << 32).wrapping_mul(0x6a09_e667_f3bc_c909);
        let low = (c as u64 | (d as u64) << 32) ^ ports << 13;
        let mixed = ((high ^ high >> 32) ^ low).wrapping_mul(0xbb67_ae85_84ca_a73b);
        ((mixed ^ mixed >> 29).wrapping_mul(0x3c6e_f372_fe94_f82b) >> 32) as u32
    }

    /// Whether the keys are the same: without a branch for each field.
    #[must_use]
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        let (Address([a, b, c, d]), Address([e, f, g, h])) = (self.endpoint, other.endpoint);
        let (Port(i), Port(j)) = (self.port, self.tunnel);
        let (Port(k), Port(l)) = (other.port, other.tunnel);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | (i ^ k) as u32 | (j ^ l) as u32 == 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn key(address: impl Into<IpAddr>, port: u16) -> EndpointKey {
        EndpointKey {
            endpoint: address.into().into(),
            port: port.into(),
            tunnel: 51820.into(),
        }
    }

    fn fullest(keys: impl Iterator<Item = EndpointKey>) -> (usize, usize) {
        let keys: Vec<_> = keys.collect();
        let mut counts = vec![0; buckets(keys.len() as u32) as usize];
        let mask = counts.len() - 1;
        for key in &keys {
            counts[key.hash() as usize & mask] += 1;
        }
        (keys.len(), counts.into_iter().max().unwrap_or(0))
    }

    /// Keys as operators have them: all neighbours of each other.
    #[test]
    fn no_bucket_overflows_with_twenty_thousand_neighbouring_endpoints() {
        const COUNT: u32 = 20_000;
        let v4 = (0..COUNT).map(|n| key(Ipv4Addr::from(0xc612_0000 + n), 51820));
        let v6_hosts = (0..COUNT).map(|n| key(Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n)), 51820));
        let v6_subnets = (0..COUNT).map(|n| {
            key(
                Ipv6Addr::from((0x2001_0db8_u128 << 96) + (u128::from(n) << 64) + 1),
                51820,
            )
        });
        let ports = (0..COUNT).map(|n| key(Ipv4Addr::new(203, 0, 113, 1), 1024 + n as u16));
        let strided = (0..COUNT).map(|n| key(Ipv4Addr::from(0x0a00_0001 + (n << 8)), 51820));
        let sets: [(&str, Vec<EndpointKey>); 5] = [
            ("v4", v4.collect()),
            ("v6 hosts", v6_hosts.collect()),
            ("v6 subnets", v6_subnets.collect()),
            ("ports", ports.collect()),
            ("strided", strided.collect()),
        ];
        for (name, keys) in sets {
            let (count, most) = fullest(keys.into_iter());
            assert!(most <= WAYS, "{name}: {most} of {count} meet in one bucket");
        }
    }

    proptest! {
        #[test]
        fn keys_are_the_same_exactly_when_every_field_is(a: IpAddr, b: IpAddr, p: u16, q: u16) {
            for (one, other) in [(key(a, p), key(a, p)), (key(a, p), key(a, q)), (key(a, p), key(b, p))] {
                prop_assert_eq!(one.is(&other), one == other);
                let elsewhere = EndpointKey { tunnel: 51821.into(), ..one };
                prop_assert!(!one.is(&elsewhere));
            }
        }
    }
}
