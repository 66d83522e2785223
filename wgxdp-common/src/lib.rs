//! The typed boundary between wgxdp's BPF programs and its daemon, and everything pure that both sides compute.
//!
//! One module, one idea:
//!
//! | module | what both sides agree on |
//! |---|---|
//! | [`abi`] | names and sizes of maps and programs, the ABI version |
//! | [`id`] | what a number means: peer, path, uplink |
//! | [`net`] | addresses and ports, in network byte order |
//! | [`table`] | the values of the maps: configuration, peers, paths, proofs |
//! | [`endpoints`] | the table of endpoints: its hash and its shape |
//! | [`client`] | learned clients: where they last spoke |
//! | [`message`] | WireGuard's messages as they look from outside |
//! | [`liveness`] | when a path is live, suspect or dead, and which one carries a packet |
//! | [`echo`] | the payload of an ICMP echo probe |
//! | [`stamp`] | STAMP test packets, and the probes that are made of them |
//! | [`tcp`] | TCP-connect probes, and how an answer finds its probe |
//! | [`keyring`] | whose in-band probes are authentic, and what was heard of them |
//! | [`siphash`] | the tag of in-band probes |
//! | [`checksum`] | RFC 1071 and RFC 1624 arithmetic |
//! | [`count`] | what is counted, and what each count is called |
//! | [`record`] | what the programs tell the daemon through the ring buffer |
#![no_std]

pub mod abi;
pub mod checksum;
pub mod client;
pub mod count;
pub mod echo;
pub mod endpoints;
pub mod id;
pub mod keyring;
pub mod liveness;
pub mod message;
pub mod net;
pub mod record;
pub mod siphash;
pub mod stamp;
pub mod table;
pub mod tcp;

/// Marks types as plain old data for aya's maps; compiled away in the BPF programs.
#[cfg(feature = "aya")]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {
        $(
            // SAFETY: `#[repr(C)]` (or transparent), `Copy`, `'static`, made of integers only and without padding:
            // `layout!` beside each type asserts its size and offsets.
            unsafe impl aya::Pod for $t {}
        )+
    };
}
#[cfg(not(feature = "aya"))]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {};
}
pub(crate) use pod;

/// Asserts, on both targets, a type's size and the offset of each of its fields, listed in order with their sizes: they must follow
/// each other without a gap, so that no padding can leak or differ.
macro_rules! layout {
    ($t:ty, $size:expr, { $($field:ident @ $offset:expr),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$t>() == $size, "size differs");
            $(assert!(core::mem::offset_of!($t, $field) == $offset, "offset differs");)+
        };
    };
}
pub(crate) use layout;
