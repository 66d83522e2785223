//! `guard` on the uplinks: what the configuration asks for, what the device takes, and saying so once for each device.

use tracing::{info, warn};
use wgxdp_common::id::UplinkId;
use wgxdp_common::table::LinkKind;

use super::{Daemon, Error};
use crate::config::XdpMode;
use crate::dataplane::{Guard, Refusal};

/// The device for which it was last settled; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled(u32);

impl Daemon {
    /// Attaches `guard` to the uplink's device as configured, unless that was settled for this device already.
    ///
    /// # Errors
    /// When the device does not take what was asked for by name. (For "auto" that is no error.)
    pub(super) fn attach_guard(&mut self, index: usize) -> Result<(), Error> {
        let uplink = &mut self.uplinks[index];
        let device = uplink.state.entry;
        if uplink.guard == Settled(device.ifindex) {
            return Ok(());
        }
        uplink.guard = Settled(device.ifindex);
        let id = UplinkId(index as u32);
        self.observed.set_guard(id, None);
        if device.ifindex == 0 {
            return Ok(());
        }
        let config = &self.config.uplinks()[index];
        let (name, interface) = (config.name.as_str(), config.interface.as_str());
        let Some(guard) = wanted(config.xdp) else {
            self.dataplane.detach_guard(device.ifindex)?;
            info!("{name}: guard is off, as configured");
            return Ok(());
        };
        let attached = if device.link == LinkKind::ETHERNET {
            self.dataplane.attach_guard(guard, interface, device.ifindex)
        } else {
            Err(Refusal::NotEthernet)
        };
        match attached {
            Ok(()) => {
                self.observed.set_guard(id, Some(guard));
                info!("{name}: guard is {} on {interface}", guard.as_str());
                if guard == Guard::Generic {
                    warn!(
                        "{name}: with xdp = \"generic\" every packet on {interface} costs more, because the kernel runs guard when the driver's work is done; \
                         \"auto\" takes it where the driver can"
                    );
                }
                Ok(())
            }
            Err(refusal) if config.xdp == XdpMode::Auto => {
                info!("{name}: guard is off on {interface}, restore does its work: {refusal}");
                Ok(())
            }
            Err(refusal) => Err(Error::Guard {
                name: name.into(),
                interface: interface.into(),
                mode: config.xdp,
                refusal: refusal.into(),
            }),
        }
    }
}

/// Who is to run `guard` where that is asked for.
pub(super) const fn wanted(mode: XdpMode) -> Option<Guard> {
    match mode {
        XdpMode::Off => None,
        XdpMode::Auto | XdpMode::Native => Some(Guard::Native),
        XdpMode::Generic => Some(Guard::Generic),
    }
}
