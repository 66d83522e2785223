//! The host's own addresses, to which clients may speak: an uplink's first, its others, and those of a loopback device. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wgxdp_common::id::UplinkId;

use crate::config::Config;
use crate::host::anchor;
use crate::host::view::View;

/// Every address that packets from outside can be for, with the uplink whose device has it.
pub(super) fn of(config: &Config, view: &View) -> BTreeMap<IpAddr, Option<UplinkId>> {
    let mut locals = BTreeMap::new();
    for link in view.links.values().filter(|link| link.name != anchor::NAME) {
        let position = config
            .uplinks()
            .iter()
            .position(|uplink| uplink.interface.as_str() == link.name);
        let uplink = position.map(|index| UplinkId(index as u32));
        let v4 = link.v4.iter().copied().map(IpAddr::V4);
        let v6 = link.v6.iter().copied().map(IpAddr::V6);
        for address in v4.chain(v6).filter(|address| !address.is_loopback()) {
            // The same address on several devices leaves by all of them.
            locals
                .entry(address)
                .and_modify(|other: &mut Option<UplinkId>| *other = other.filter(|other| Some(*other) == uplink))
                .or_insert(uplink);
        }
    }
    locals
}
