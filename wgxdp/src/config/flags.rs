//! The same configuration from the flags of `wgxdp run`.

use std::net::SocketAddr;
use std::str::FromStr;

use super::draft::{Draft, DraftTunnel, DraftUplink};
use super::error::{ConfigError, Place};
use super::reader::Placed;
use super::value::{InterfaceName, Policy, Profile, UplinkName, ValueError, XdpMode};
use super::{Config, Detection, FamilyChoice, Objectives, validate};

/// What the flags say, each value by itself right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `--tunnel`, each.
    pub tunnels: Vec<InterfaceName>,
    /// `--uplink`, each, the preferred one first.
    pub uplinks: Vec<UplinkFlag>,
    /// `--profile`.
    pub profile: Profile,
    /// `--metrics`.
    pub metrics: Option<SocketAddr>,
    /// `--max-clients`.
    pub max_clients: u32,
}

/// `INTERFACE`, or `NAME=INTERFACE` (split at the first `=`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkFlag {
    /// What it is called.
    pub name: UplinkName,
    /// The interface.
    pub interface: InterfaceName,
}

impl FromStr for UplinkFlag {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, interface) = text.split_once('=').unwrap_or((text, text));
        let interface = interface.parse()?;
        Ok(Self {
            name: name.parse()?,
            interface,
        })
    }
}

const UPLINK: Place = Place::Flag("--uplink");
const TUNNEL: Place = Place::Flag("--tunnel");

impl Flags {
    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let uplink = |flag: &UplinkFlag| {
            Some(DraftUplink {
                name: Placed {
                    place: UPLINK,
                    value: flag.name.clone(),
                },
                interface: Placed {
                    place: UPLINK,
                    value: flag.interface.clone(),
                },
                cost: None,
                mtu: None,
                v4: FamilyChoice::AUTO,
                v6: FamilyChoice::AUTO,
                metered: None,
                hotplug: false,
                xdp: XdpMode::Auto,
            })
        };
        let tunnel = |interface: &InterfaceName| {
            Some(DraftTunnel {
                interface: Placed {
                    place: TUNNEL,
                    value: interface.clone(),
                },
                policy: Policy::Failover,
                protect: None,
                mtu: None,
                clamp_mss: false,
                objectives: Objectives::default(),
                peers: Vec::new(),
            })
        };
        let draft = Draft {
            profile: self.profile,
            uplinks: self.uplinks.iter().map(uplink).collect(),
            tunnels: self.tunnels.iter().map(tunnel).collect(),
            max_clients: self.max_clients,
            detection: Detection::default(),
            metrics: self.metrics,
        };
        validate::finish(Some(draft), None, Vec::new())
    }
}
