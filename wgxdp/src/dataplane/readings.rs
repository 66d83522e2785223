//! The tables as [`Readings`], for `wgxdp status` and the metrics: live maps and pinned ones alike.

use wgxdp_common::count::{PathCount, Place, Reason};
use wgxdp_common::id::{PathId, PeerId, UplinkId};
use wgxdp_common::liveness::Flags;
use wgxdp_common::table::{Path, PeerState, Proof, Uplink};

use super::{Error, Tables};
use crate::snapshot::Readings;

impl Readings for Tables {
    type Error = Error;

    fn path(&self, path: PathId) -> Result<Path, Error> {
        Ok(self.paths.read(path.0))
    }

    fn proof(&self, path: PathId) -> Result<Proof, Error> {
        Ok(self.proofs.read(path.0))
    }

    fn path_count(&self, path: PathId) -> Result<PathCount, Error> {
        Tables::path_count(self, path)
    }

    fn uplink(&self, uplink: UplinkId) -> Result<(Uplink, Flags), Error> {
        let entry = self.config()?.uplinks[uplink.0 as usize];
        Ok((entry, self.uplink_flags.read(uplink.0).flags))
    }

    fn peer_state(&self, peer: PeerId) -> Result<PeerState, Error> {
        Ok(self.peer_states.read(peer.0))
    }

    fn reason(&self, place: Place, reason: Reason) -> Result<u64, Error> {
        self.reason_count(place, reason)
    }

    fn clients(&self) -> Result<u64, Error> {
        Tables::clients(self)
    }
}
