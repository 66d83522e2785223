//! What the file or the flags say, value by value right, but not yet compared with each other. `None` stands for an item in which something was
//! wrong: it counts, and says no more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::reader::Placed;
use super::value::{
    InterfaceName, PeerName, Policy, ProbeKind, Profile, Protect, PublicKey, TunnelMtu, UplinkName, XdpMode,
};
use super::{Detection, FamilyChoice, Objectives, Place};

#[derive(Debug)]
pub(super) struct Draft {
    pub(super) profile: Profile,
    pub(super) uplinks: Vec<Option<DraftUplink>>,
    pub(super) tunnels: Vec<Option<DraftTunnel>>,
    pub(super) max_clients: u32,
    pub(super) detection: Detection,
    pub(super) metrics: Option<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct DraftUplink {
    pub(super) name: Placed<UplinkName>,
    pub(super) interface: Placed<InterfaceName>,
    pub(super) cost: Option<u32>,
    pub(super) mtu: Option<Placed<u32>>,
    pub(super) v4: FamilyChoice<Ipv4Addr>,
    pub(super) v6: FamilyChoice<Ipv6Addr>,
    pub(super) metered: Option<Placed<bool>>,
    pub(super) hotplug: bool,
    pub(super) xdp: XdpMode,
}

#[derive(Debug)]
pub(super) struct DraftTunnel {
    pub(super) interface: Placed<InterfaceName>,
    pub(super) policy: Policy,
    pub(super) protect: Option<Placed<Protect>>,
    pub(super) mtu: Option<TunnelMtu>,
    pub(super) clamp_mss: bool,
    pub(super) objectives: Objectives,
    pub(super) peers: Vec<Option<DraftPeer>>,
}

#[derive(Debug)]
pub(super) struct DraftPeer {
    pub(super) place: Place,
    pub(super) public_key: Placed<PublicKey>,
    pub(super) name: Option<Placed<PeerName>>,
    pub(super) endpoints: Vec<Placed<SocketAddr>>,
    pub(super) probe: DraftProbe,
}

#[derive(Debug, Default)]
pub(super) struct DraftProbe {
    pub(super) kind: Option<ProbeKind>,
    pub(super) interval: Option<Duration>,
    pub(super) target: Option<Placed<IpAddr>>,
    pub(super) port: Option<u16>,
}
