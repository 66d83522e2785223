//! What is counted, and what each count is called. Every packet that a program sees ends in exactly one [`Reason`]; `guard` alone counts only
//! what is for a tunnel or answers a probe, because counting the others would cost as much as letting them pass.

use crate::abi::MAX_UPLINKS;
use crate::id::UplinkId;
use crate::{layout, pod};

/// Packets of one path, per CPU. Bytes are of whole IP packets, outer header included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCount {
    /// Tunnel packets that left by this path.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Tunnel packets that arrived over it.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
}

layout!(PathCount, 32, { tx_packets @ 0, tx_bytes @ 8, rx_packets @ 16, rx_bytes @ 24 });
pod!(PathCount);

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Left to the kernel, untouched.
    Pass,
    /// Rewritten and redirected.
    Redirect,
    /// Rewritten and sent back where it came from.
    Answer,
    /// Ended here.
    Drop,
}

impl Verdict {
    /// The word that users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Redirect => "redirect",
            Self::Answer => "answer",
            Self::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal, $verdict:ident;)+) => {
        /// Why a packet met its [`Verdict`]. The numbers are indices into the map of counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[doc = $doc])+ $name),+ }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word that users see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            /// The one verdict that this reason leads to.
            #[must_use]
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict),+ }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip", Pass;
    /// Neither UDP nor a probe of ours, nor the answer to one.
    NotUdp = "not_udp", Pass;
    /// UDP, but no port of ours.
    OtherPort = "other_port", Pass;
    /// IPv4 options, or an IPv6 extension header.
    Options = "options", Pass;
    /// A fragment.
    Fragment = "fragment", Pass;
    /// Shorter than its headers say.
    Truncated = "truncated", Pass;
    /// `steer`: on the anchor, but not from its canonical address.
    ForeignSource = "foreign_source", Pass;
    /// `restore`: to our port, but not to the uplink's address.
    ForeignDestination = "foreign_destination", Pass;
    /// `restore`: for another host's link-layer address, or for a VLAN on top of the uplink.
    OtherHost = "other_host", Pass;
    /// `restore`: looks like the answer to a probe, but to none of ours.
    Unauthentic = "unauthentic", Pass;
    /// `guard`: can be WireGuard's, left to `restore`.
    Guarded = "guarded", Pass;
    /// `steer`: no uplink can carry it.
    NoUplink = "no_uplink", Pass;
    /// `steer`: sent by a live path.
    Steered = "steered", Redirect;
    /// `steer`: sent although no path was live.
    FailOpen = "fail_open", Redirect;
    /// `steer`: sent by a live path although it is larger than what fits there, or anywhere.
    Oversize = "oversize", Redirect;
    /// `steer`: the copy of a data packet, sent by another live path.
    Copied = "copied", Redirect;
    /// `steer`: to a learned client, by the uplink and from the address at which it last spoke.
    Returned = "returned", Redirect;
    /// `steer`: to a learned client by another uplink, because its own is down.
    Diverted = "diverted", Redirect;
    /// `steer`: to no known endpoint, sent by the first usable uplink.
    Fallback = "fallback", Redirect;
    /// `steer`: a probe on its way.
    Probe = "probe", Redirect;
    /// `restore`: handed to WireGuard, from a known endpoint.
    Restored = "restored", Redirect;
    /// `restore`: handed to WireGuard, from a learned client, where it spoke before.
    Client = "client", Redirect;
    /// `restore`: handed to WireGuard, the first data of a client with a session of ours; it is learned.
    ClientLearned = "client_learned", Redirect;
    /// `restore`: handed to WireGuard, from a learned client with a session of ours, which now speaks at another uplink or address.
    ClientMoved = "client_moved", Redirect;
    /// `restore`: handed to WireGuard, from an unknown source, which is left as it is.
    Stranger = "stranger", Redirect;
    /// `guard`, `restore`: to our port, but of none of WireGuard's types.
    WrongType = "wrong_type", Drop;
    /// `guard`, `restore`: one of WireGuard's types, but its reserved bytes are not zero.
    Reserved = "reserved", Drop;
    /// `guard`, `restore`: one of WireGuard's types, but not of its length.
    WrongLength = "wrong_length", Drop;
    /// `guard`, `restore`: the answer to a probe of ours, consumed.
    Proof = "proof", Drop;
    /// `guard`, `restore`: an authentic in-band request, answered.
    Answered = "answered", Answer;
    /// `restore`: the SYN-ACK that answers a probe of ours; the path is proven, and it goes back as a RST.
    ProofReset = "proof_reset", Answer;
    /// `restore`: a SYN-ACK to a probe of ours that was answered before, or too long ago; it proves nothing, and goes back as a RST.
    Reset = "reset", Answer;
    /// `guard`, `restore`: begins as an in-band probe, but is shorter, longer, or made otherwise.
    ProbeMalformed = "probe_malformed", Drop;
    /// `guard`, `restore`: an in-band probe of nobody who is a peer of this tunnel; what we wrote ourselves is such, too.
    ProbeStranger = "probe_stranger", Drop;
    /// `guard`, `restore`: an in-band probe that its author did not write, or not to us, or not so.
    ProbeForged = "probe_forged", Drop;
    /// `guard`, `restore`: an authentic in-band request that is no later than another that came over the same path before.
    ProbeReplayed = "probe_replayed", Drop;
    /// `guard`, `restore`: an authentic in-band answer, but to no probe of ours that is in flight over this path.
    ProbeUnasked = "probe_unasked", Drop;
    /// `steer`: an in-band probe to a peer for which there are no keys.
    ProbeNoKeys = "probe_no_keys", Drop;
    /// `steer`: a probe over an uplink that does not exist at the moment.
    ProbeNoUplink = "probe_no_uplink", Drop;
    /// To be translated from IPv4 to IPv6, but without a UDP checksum, which IPv6 does not allow (RFC 8200, section 8.1).
    NoChecksum = "no_checksum", Drop;
    /// The packet could not be rewritten; the kernel refused.
    RewriteFailed = "rewrite_failed", Drop;
    /// The maps hold no configuration in force, or one that refers to what is not there.
    NotConfigured = "not_configured", Pass;
}

/// Where a program saw a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `steer`, on the anchor.
    Anchor,
    /// `restore`, on this uplink.
    Uplink(UplinkId),
    /// `restore`, on a device that is no uplink according to the configuration.
    Elsewhere,
    /// `guard`, on this uplink.
    Guard(UplinkId),
}

/// Entries of the map of reasons.
pub const REASON_COUNTS: u32 = (2 * MAX_UPLINKS as u32 + 2) * Reason::ALL.len() as u32;

/// The index into the map of reasons.
#[must_use]
#[inline(always)]
pub const fn reason_index(place: Place, reason: Reason) -> u32 {
    let place = match place {
        Place::Anchor => 0,
        Place::Elsewhere => 1,
        Place::Uplink(uplink) => 2 + uplink.0,
        Place::Guard(uplink) => 2 + MAX_UPLINKS as u32 + uplink.0,
    };
    place * Reason::ALL.len() as u32 + reason as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_at_every_place_has_an_index_of_its_own() {
        let places = [Place::Anchor, Place::Elsewhere].into_iter();
        let uplinks = (0..MAX_UPLINKS as u32).map(UplinkId);
        let places = places.chain(uplinks.flat_map(|id| [Place::Uplink(id), Place::Guard(id)]));
        let indices: BTreeSet<u32> = places
            .flat_map(|place| Reason::ALL.iter().map(move |reason| reason_index(place, *reason)))
            .collect();
        assert_eq!(indices.len(), REASON_COUNTS as usize);
        assert_eq!(indices.last(), Some(&(REASON_COUNTS - 1)));
    }
}
