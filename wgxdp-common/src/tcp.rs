//! TCP-connect probes: the first half of a connection, for far ends that answer nothing else. What steer sends, what answers it, and who can tell.
//!
//! ```text
//!  prober ─▶ steer ── SYN, sequence number s, from port p ──▶ target:port
//!                     SYN-ACK (somebody listens) or RST-ACK (nobody does), acknowledging s + 1
//!  restore ◀─────────────────────────────────────────────────
//!  restore ── RST, sequence number s + 1 ───────────────────▶      only to a SYN-ACK: the target forgets at once
//! ```
//!
//! - **Who can answer.** A reply repeats nothing but the ends and `s`. So `steer` remembers by these ([`Question`]) which probe it was ([`Asked`]), in an LRU map, and
//!   `restore` looks there. `s` is random: whoever does not see the probe has to guess all 32 bits of it, with the port that it left from, while it is in flight. A port has one
//!   probe in flight at a time, so each forged segment has at best one chance in 2^32, once, for one path.
//! - **Which probe it is** the prober writes into the acknowledgement number, which means nothing in a SYN; `steer` takes it out.
//! - **Ports.** A target that has not forgotten a connection yet does not answer another SYN from the same port to the same port (RFC 9293, section 3.10.7.4), but a round trip may be
//!   longer than the time between two probes, and a RST may be lost. So each probe has another port than the [`PORTS_PER_PATH`] − 1 before it. They are above Linux's ephemeral ones.
//!   Nobody reserves them: a connection of this host's that has the same four numbers costs a probe its answer, and suffers nothing (RFC 5961, section 4).
//! - **Answers that are given twice.** A target that saw no RST repeats its SYN-ACK, first after a second (RFC 6298, section 2). Which of them this is cannot be told, so nothing is
//!   proven by an answer that is [`TOO_LATE_NS`] old; it is reset all the same.

use core::net::{IpAddr, SocketAddr};

use crate::checksum::{finish, sum};
use crate::id::PathId;
use crate::net::{Address, Port};
use crate::{layout, pod};

/// Flags (RFC 9293, section 3.1).
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// See [`SYN`].
pub const SYN_ACK: u8 = SYN | ACK;
/// See [`SYN`].
pub const RST_ACK: u8 = RST | ACK;

/// IANA's number for TCP.
pub const PROTOCOL: u8 = 6;

/// Bytes of a probe behind its IP header: TCP's header, and the MSS, so that an answer that has one is no longer than its question.
pub const SYN_LEN: usize = 24;
/// The MSS that a probe offers: what no target may refuse (RFC 9293, section 3.7.1).
const MSS: u16 = 536;
/// The window that a probe offers, which nobody will use.
const WINDOW: u16 = 0xffff;

/// The lowest port of probes; all above it are theirs, too.
pub const PORTS: u16 = 0xf000;
/// A path's probes take so many ports in turn.
pub const PORTS_PER_PATH: u16 = 64;

/// Nanoseconds after which an answer proves nothing.
pub const TOO_LATE_NS: u64 = 1_000_000_000;

/// The port from which the probe with this sequence number leaves, in the machine's byte order. The paths of eight peers have ports of their own; the ninth has the first one's,
/// which matters only if both are probed at one target.
#[must_use]
pub const fn port(path: PathId, sequence: u32) -> u16 {
    let probe = (sequence % PORTS_PER_PATH as u32) as u16;
    PORTS | (path.0 as u16).wrapping_mul(PORTS_PER_PATH) | probe
}

/// Whether probes may leave from a port.
#[must_use]
#[inline(always)]
pub const fn is_probes(port: Port) -> bool {
    port.number() >= PORTS
}

/// What the answer to a probe must agree with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Question {
    /// Whom it was put to.
    pub target: Address,
    /// The SYN's sequence number, in network byte order.
    pub sequence: u32,
    /// The port at the target.
    pub target_port: Port,
    /// From which it left.
    pub port: Port,
}

layout!(Question, 24, { target @ 0, sequence @ 16, target_port @ 20, port @ 22 });

impl Question {
    /// By which the path's slot knows it: what an echo repeats as its nonce. Never zero, because no port is.
    #[must_use]
    #[inline(always)]
    pub const fn nonce(&self) -> u64 {
        (self.sequence as u64) << 16 | self.port.0 as u64
    }
}

/// Which probe a [`Question`] was: path and sequence number in one word, never torn. (LRU maps reuse an element at once. What was read there of another probe has another
/// [`Question::nonce`] in its slot.)
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked(pub u64);

pod!(Question, Asked);

impl Asked {
    /// The probe over `path` with this sequence number (network byte order).
    #[must_use]
    #[inline(always)]
    pub const fn new(path: PathId, sequence: u16) -> Self {
        Self((path.0 as u64) << 16 | sequence as u64)
    }

    /// The path.
    #[must_use]
    #[inline(always)]
    pub const fn path(self) -> PathId {
        PathId((self.0 >> 16) as u32)
    }

    /// The sequence number, in network byte order.
    #[must_use]
    #[inline(always)]
    pub const fn sequence(self) -> u16 {
        self.0 as u16
    }
}

/// The probe's sequence number (network byte order) from its acknowledgement number (network byte order); `None` if it is none of ours.
#[must_use]
#[inline(always)]
pub const fn sequence(acknowledgement: u32) -> Option<u16> {
    let number = u32::from_be(acknowledgement);
    if number > u16::MAX as u32 {
        return None;
    }
    Some((number as u16).to_be())
}

/// The SYN from `source` to `target`, two addresses of one family, with this initial sequence number, checksum and all. `sequence` is the probe's own, which `steer` takes out.
#[must_use]
pub fn syn(source: SocketAddr, target: SocketAddr, initial: u32, sequence: u16) -> [u8; SYN_LEN] {
    const OFFSET: u8 = (SYN_LEN / 4) as u8;
    let mut segment = [0; SYN_LEN];
    segment[..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&target.port().to_be_bytes());
    segment[4..8].copy_from_slice(&initial.to_be_bytes());
    segment[8..12].copy_from_slice(&u32::from(sequence).to_be_bytes());
    segment[12..14].copy_from_slice(&[OFFSET << 4, SYN]);
    segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    // Kind and length of the MSS option.
    segment[20..22].copy_from_slice(&[2, 4]);
    segment[22..].copy_from_slice(&MSS.to_be_bytes());
    let addresses = add_address(target.ip(), add_address(source.ip(), 0));
    let checksum = finish(sum(&segment, sum(&[0, PROTOCOL, 0, SYN_LEN as u8], addresses)));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

fn add_address(ip: IpAddr, total: u32) -> u32 {
    match ip {
        IpAddr::V4(v4) => sum(&v4.octets(), total),
        IpAddr::V6(v6) => sum(&v6.octets(), total),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::abi::MAX_PATHS_PER_PEER;
    use crate::id::PeerId;

    #[test]
    fn the_bytes_of_a_probe_are_these() {
        let syn = syn(
            "192.0.2.2:61440".parse().unwrap(),
            "198.51.100.1:443".parse().unwrap(),
            0x0102_0304,
            7,
        );
        let expected = [
            0xf0, 0x00, 0x01, 0xbb, 1, 2, 3, 4, 0, 0, 0, 7, 0x60, 0x02, 0xff, 0xff, syn[16], syn[17], 0, 0, 2, 4, 2, 24,
        ];
        assert_eq!(syn, expected);
    }

    proptest! {
        #[test]
        fn a_probe_sums_to_zero_with_its_addresses(v6: bool, a: [u8; 16], b: [u8; 16], port: u16, initial: u32, sequence: u16) {
            let ip = |octets: [u8; 16]| match octets {
                [a, b, c, d, ..] if !v6 => IpAddr::from([a, b, c, d]),
                octets => octets.into(),
            };
            let (a, b) = (ip(a), ip(b));
            let segment = syn(SocketAddr::new(a, port), SocketAddr::new(b, 443), initial, sequence);
            let pseudo = sum(&[0, PROTOCOL, 0, SYN_LEN as u8], add_address(a, add_address(b, 0)));
            prop_assert_eq!(finish(sum(&segment, pseudo)), 0);
        }

        #[test]
        fn an_acknowledgement_number_of_sixteen_bits_is_a_probe_s_and_no_other_is(own: u16, other in 0x1_0000_u32..) {
            prop_assert_eq!(sequence(u32::from(own).to_be()), Some(own.to_be()));
            prop_assert_eq!(sequence(other.to_be()), None);
        }

        #[test]
        fn what_was_asked_survives_its_word(path in 0_u32..1 << 24, sequence: u16) {
            let asked = Asked::new(PathId(path), sequence);
            prop_assert_eq!((asked.path(), asked.sequence()), (PathId(path), sequence));
        }

        #[test]
        fn successive_probes_of_a_path_and_of_eight_peers_share_no_port(first: u32, peer in 0_u32..1000) {
            let paths = (peer..peer + 8).flat_map(|peer| (0..MAX_PATHS_PER_PEER as u32).map(move |slot| PathId::new(PeerId(peer), slot)));
            let ports: BTreeSet<u16> = paths
                .flat_map(|path| (0..u32::from(PORTS_PER_PATH)).map(move |i| port(path, first.wrapping_add(i))))
                .collect();
            prop_assert_eq!(ports.len(), 8 * MAX_PATHS_PER_PEER * usize::from(PORTS_PER_PATH));
            prop_assert!(ports.into_iter().all(|port| is_probes(port.into())));
        }
    }
}
