//! Cuts: the ways in which an uplink dies, and how it comes back.

use anyhow::Result;

use crate::clock::now_ns;
use crate::impair::Loss;
use crate::topology::{Lab, TO_BRANCH, TO_HUB, Uplink};
use crate::wireguard::LISTEN_PORT;

/// What [`Cut::Lossy`] loses, in thousandths.
const FIFTH: u16 = 200;
/// Bytes of the largest IP packet that passes [`Cut::MtuBlackhole`].
const NARROW: u16 = 1300;

/// A way in which an uplink dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Beyond the provider's router nothing passes, either way. The branch's own link looks perfect.
    Blackhole,
    /// Beyond the provider's router nothing passes towards the hub.
    BlackholeUp,
    /// Beyond the provider's router nothing passes towards the branch.
    BlackholeDown,
    /// Beyond the provider's router a fifth of all packets is lost, each way. The tunnel limps.
    Lossy,
    /// Beyond the provider's router only packets pass that are much smaller than a full one, and nobody says so.
    MtuBlackhole,
    /// The far end of the branch's link goes down: the cable is pulled, or the modem hangs up.
    CarrierLoss,
    /// Someone sets the branch's interface down: the kernel removes its routes and its IPv6 addresses.
    AdminDown,
    /// The branch's interface disappears, as a USB modem does.
    Delete,
    /// The provider's router no longer answers, not even ARP, with the carrier up.
    GatewaySilent,
}

impl Cut {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Blackhole,
        Self::BlackholeUp,
        Self::BlackholeDown,
        Self::Lossy,
        Self::MtuBlackhole,
        Self::CarrierLoss,
        Self::AdminDown,
        Self::Delete,
        Self::GatewaySilent,
    ];

    /// Its name in machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::BlackholeUp => "blackhole_up",
            Self::BlackholeDown => "blackhole_down",
            Self::Lossy => "lossy",
            Self::MtuBlackhole => "mtu_blackhole",
            Self::CarrierLoss => "carrier_loss",
            Self::AdminDown => "admin_down",
            Self::Delete => "delete",
            Self::GatewaySilent => "gateway_silent",
        }
    }

    /// Whether packets are dropped by the router's impairment, and the branch's kernel notices nothing.
    pub fn is_impairment(self) -> bool {
        match self {
            Self::Blackhole
            | Self::BlackholeUp
            | Self::BlackholeDown
            | Self::Lossy
            | Self::MtuBlackhole
            | Self::GatewaySilent => true,
            Self::CarrierLoss | Self::AdminDown | Self::Delete => false,
        }
    }

    /// What it is, for a newcomer.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Blackhole => "black hole beyond the ISP",
            Self::BlackholeUp => "black hole towards the hub",
            Self::BlackholeDown => "black hole towards the branch",
            Self::Lossy => "a fifth lost beyond the ISP",
            Self::MtuBlackhole => "large packets lost beyond the ISP",
            Self::CarrierLoss => "cable pulled",
            Self::AdminDown => "interface set down",
            Self::Delete => "interface deleted",
            Self::GatewaySilent => "gateway silent",
        }
    }
}

/// An uplink that has been cut, until [`Lab::heal`] takes this back.
#[derive(Debug)]
#[must_use = "an uplink stays cut until it is healed"]
pub struct Severed {
    /// How.
    pub cut: Cut,
    /// Which.
    pub uplink: Uplink,
    /// When, by CLOCK_MONOTONIC: just before. For black holes the cut follows within microseconds; for the others the
    /// time of starting a program passes first.
    pub at_ns: u64,
}

impl Lab {
    /// Cuts `uplink`.
    ///
    /// # Errors
    /// What the kernel or `ip` said.
    pub fn cut(&mut self, cut: Cut, uplink: Uplink) -> Result<Severed> {
        let at_ns = match cut {
            Cut::Blackhole => self.lose(uplink, TO_HUB, Loss::ALL)?,
            Cut::BlackholeUp => self.lose(uplink, TO_HUB, Loss::ALL_EGRESS)?,
            Cut::BlackholeDown => self.lose(uplink, TO_HUB, Loss::ALL_INGRESS)?,
            Cut::Lossy => self.loss(uplink, FIFTH)?,
            Cut::MtuBlackhole => self.isp_mut(uplink).impair.narrow(TO_HUB, Some(NARROW))?,
            Cut::GatewaySilent => self.lose(uplink, TO_BRANCH, Loss::ALL)?,
            Cut::CarrierLoss => {
                let at_ns = now_ns();
                self.isp(uplink).access.pull()?;
                at_ns
            }
            Cut::AdminDown => {
                let at_ns = now_ns();
                self.branch.run("ip", &["link", "set", uplink.name(), "down"])?;
                at_ns
            }
            Cut::Delete => {
                let at_ns = now_ns();
                self.isp(uplink).access.delete()?;
                at_ns
            }
        };
        Ok(Severed { cut, uplink, at_ns })
    }

    /// Takes a cut back and says when; routes and addresses that the kernel removed come back as a network manager
    /// would bring them.
    ///
    /// # Errors
    /// What the kernel or `ip` said.
    pub fn heal(&mut self, severed: Severed) -> Result<u64> {
        let Severed { cut, uplink, .. } = severed;
        match cut {
            Cut::Blackhole | Cut::BlackholeUp | Cut::BlackholeDown | Cut::Lossy => {
                return self.lose(uplink, TO_HUB, Loss::NONE);
            }
            Cut::MtuBlackhole => return self.isp_mut(uplink).impair.narrow(TO_HUB, None),
            Cut::GatewaySilent => return self.lose(uplink, TO_BRANCH, Loss::NONE),
            Cut::CarrierLoss => self.isp(uplink).access.plug()?,
            Cut::AdminDown => self.isp(uplink).access.configure_customer()?,
            Cut::Delete => self.isp_mut(uplink).lay_access()?,
        }
        Ok(now_ns())
    }

    /// Loses packets beyond the router of `uplink`, in thousandths both ways; `0` ends it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn loss(&mut self, uplink: Uplink, per_mille: u16) -> Result<u64> {
        self.lose(
            uplink,
            TO_HUB,
            Loss {
                egress: per_mille,
                ingress: per_mille,
            },
        )
    }

    /// From now on the router of `uplink` silently drops the tunnel's own packets, either way, and lets everything else pass. Says when: just before.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn block_tunnel(&self, uplink: Uplink) -> Result<u64> {
        let at_ns = now_ns();
        let (router, port) = (self.isp(uplink).access.router(), LISTEN_PORT.to_string());
        for family in ["-4", "-6"] {
            router.run(
                "ip",
                &[family, "rule", "add", "blackhole", "ipproto", "17", "dport", &port],
            )?;
        }
        Ok(at_ns)
    }

    fn lose(&mut self, uplink: Uplink, device: &str, loss: Loss) -> Result<u64> {
        self.isp_mut(uplink).impair.set(device, loss)
    }
}
