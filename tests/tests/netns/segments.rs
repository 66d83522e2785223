//! Super-packets of a UDP_SEGMENT sender: steered whole, and what arrives is what was sent, whether the uplink's device takes them whole (veth) or the kernel
//! cuts them before (tun).

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use wgxdp_tests::access::Kind::{self, Tun, Veth};
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::topology::{Family, Lab, Uplink};
use wgxdp_tests::wireguard::LISTEN_PORT;

use crate::command::status;
use crate::status::path;
use crate::{BOUND, alone};

/// Bytes of each datagram, and of the last one.
const SEGMENT: usize = 1200;
const LAST: usize = 448;
/// Datagrams in a super-packet.
const SEGMENTS: usize = 5;

/// No two datagrams alike, each as long as WireGuard data may be.
fn payload() -> Vec<u8> {
    let len = SEGMENT * (SEGMENTS - 1) + LAST;
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / SEGMENT * 13) as u8).collect();
    for segment in bytes.chunks_mut(SEGMENT) {
        segment[..4].copy_from_slice(&[4, 0, 0, 0]);
    }
    bytes
}

/// In WireGuard's place, on its port, a sender that hands the kernel five datagrams at once. `by`: the uplinks that carry them.
fn arrive_as_sent(kind: Kind, family: Family, by: &[Uplink]) -> Result<()> {
    let mut lab = Lab::raise_over([kind, Veth], family)?;
    let protect = if by.len() > 1 { "always" } else { "off" };
    let settings = Settings {
        tunnel: format!("protect = \"{protect}\""),
        ..Settings::default()
    };
    let daemon = Daemon::start(&lab, &settings)?;
    lab.branch_wg.end()?;
    lab.hub_wg.end()?;
    let any: SocketAddr = match family {
        Family::V4 => ([0, 0, 0, 0], LISTEN_PORT).into(),
        Family::V6 => ([0_u16; 8], LISTEN_PORT).into(),
    };
    let sender = lab.branch.enter(|| UdpSocket::bind(any)).context("the branch's port")?;
    let receiver = lab.hub.enter(|| UdpSocket::bind(any)).context("the hub's port")?;
    receiver.set_read_timeout(Some(BOUND))?;
    setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).context("UDP_SEGMENT")?;
    let sent = payload();
    let taken = sender.send_to(&sent, lab.hub_endpoint())?;
    ensure!(taken == sent.len(), "the kernel took {taken} bytes of {}", sent.len());
    let mut arrived = BTreeMap::<SocketAddr, Vec<Vec<u8>>>::new();
    for number in 0..SEGMENTS * by.len() {
        let mut buffer = [0; 2048];
        let (len, source) = receiver
            .recv_from(&mut buffer)
            .with_context(|| format!("datagram {number}\n{}", daemon.log().text()))?;
        arrived.entry(source).or_default().push(buffer[..len].to_vec());
    }
    let all: Vec<Vec<u8>> = sent.chunks(SEGMENT).map(<[u8]>::to_vec).collect();
    let sources = by
        .iter()
        .map(|uplink| SocketAddr::new(uplink.address(family), LISTEN_PORT));
    ensure!(
        arrived == sources.map(|source| (source, all.clone())).collect(),
        "not what was sent, or not whence: {arrived:02x?}"
    );
    let shown = status(&lab.branch)?;
    for uplink in by {
        let counted = path(&shown, *uplink)?
            .get("tx_packets")
            .and_then(serde_json::Value::as_u64);
        ensure!(counted.is_some_and(|counted| counted >= SEGMENTS as u64), "{shown}");
    }
    Ok(())
}

macro_rules! laws {
    ($($law:ident: $kind:ident, $family:ident, $by:expr;)+) => {
        $(
            #[test]
            fn $law() -> Result<()> {
                let Some(_alone) = alone(stringify!($law)) else { return Ok(()) };
                arrive_as_sent($kind, Family::$family, &$by)
            }
        )+
    };
}

laws! {
    a_super_packet_arrives_as_sent_over_a_device_that_takes_it_whole: Veth, V4, [Uplink::A];
    a_super_packet_arrives_as_sent_over_a_device_for_which_it_is_cut: Tun, V4, [Uplink::A];
    a_super_packet_over_ipv6_arrives_as_sent: Tun, V6, [Uplink::A];
    a_super_packet_is_copied_whole: Tun, V4, [Uplink::A, Uplink::B];
}
