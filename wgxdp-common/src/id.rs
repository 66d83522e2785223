//! Identifiers. A bare integer never says what it counts.

use crate::abi::MAX_PATHS_PER_PEER;
use crate::pod;

/// A peer of a tunnel, as an index into the peers' maps.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// A path: one uplink × one endpoint of one peer. A peer owns [`MAX_PATHS_PER_PEER`] consecutive ids.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// An uplink, as an index into [`crate::table::Config::uplinks`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub u32);

pod!(PeerId, PathId, UplinkId);

impl PathId {
    /// No path: the peer has none, or none has been chosen yet.
    pub const NONE: Self = Self(u32::MAX);

    /// The path in `slot` (below [`MAX_PATHS_PER_PEER`]) of `peer`.
    #[must_use]
    #[inline(always)]
    pub const fn new(peer: PeerId, slot: u32) -> Self {
        Self(peer.0 * MAX_PATHS_PER_PEER as u32 + slot)
    }

    /// The peer that owns this path.
    #[must_use]
    #[inline(always)]
    pub const fn peer(self) -> PeerId {
        PeerId(self.0 / MAX_PATHS_PER_PEER as u32)
    }

    /// The path's place among its peer's.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 % MAX_PATHS_PER_PEER as u32
    }
}
