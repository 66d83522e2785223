//! Removing what can be proven to be ours, whichever run of ours left it: at the end of the daemon, after a failed start, by `wgxdp down`.

use std::fmt;

use super::originals::Originals;
use super::{Error, observe, tunnels};
use crate::dataplane::{Attachments, Pins};
use crate::host::anchor::{self, Removed};
use crate::host::clsact;
use crate::host::netlink::Netlink;
use crate::host::view::View;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanUp {
    removed: Removed,
    pins: bool,
    /// Tunnels whose MTU is again what it was.
    mtus: Vec<String>,
}

impl fmt::Display for CleanUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.removed.is_nothing(), self.pins) {
            (true, false) => f.write_str("nothing: there was nothing of ours"),
            (true, true) => f.write_str("the programs and their pins"),
            (false, pins) => write!(
                f,
                "{}{}",
                self.removed,
                if pins { ", the programs and their pins" } else { "" }
            ),
        }?;
        if self.mtus.is_empty() {
            return Ok(());
        }
        write!(f, "; put back the MTU of {}", self.mtus.join(", "))
    }
}

/// First nothing is led to the anchor any more, then the programs go, then the device; traffic goes on meanwhile. The endpoints of
/// `interfaces` are refreshed, so that user-space WireGuard does not cling to the anchor's address.
///
/// # Errors
/// The first failure; what comes behind it was tried all the same.
pub async fn clean_up(netlink: &Netlink, pins: &Pins, interfaces: &[String]) -> Result<CleanUp, Error> {
    let mut first = Ok(());
    let mut note = |result: Result<(), Error>| {
        if first.is_ok() {
            first = result;
        }
    };
    let mut removed = match anchor::disengage(netlink).await {
        Ok(removed) => removed,
        Err(e) => {
            note(Err(e.into()));
            Removed::default()
        }
    };
    let had_pins = pins.exist();
    match View::read(netlink).await {
        Ok(view) => {
            let devices = view.links.values().map(|link| (link.index, link.name.clone()));
            match Attachments::detach_all(pins, devices) {
                Ok(qdiscs) => {
                    for index in qdiscs {
                        note(
                            clsact::remove_if_unused(netlink, index)
                                .await
                                .map(drop)
                                .map_err(Into::into),
                        );
                    }
                }
                Err(e) => note(Err(e.into())),
            }
        }
        Err(e) => note(Err(e.into())),
    }
    match anchor::remove(netlink).await {
        Ok(rest) => {
            removed.rules += rest.rules;
            removed.routes += rest.routes;
            removed.neighbours += rest.neighbours;
            removed.devices = rest.devices;
        }
        Err(e) => note(Err(e.into())),
    }
    note(pins.remove_maps().map_err(Into::into));
    let mtus = Originals::load().put_back(netlink).await;
    observe::forget_names();
    tunnels::refresh_endpoints(tunnels::read_some(interfaces).await).await;
    first.map(|()| CleanUp {
        removed,
        pins: had_pins,
        mtus,
    })
}
