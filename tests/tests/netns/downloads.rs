//! A pure download follows its peer to another path at once: the far end, which has no wgxdp, is told by an authenticated packet.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wgxdp_tests::clock::now_ns;
use wgxdp_tests::cut::Cut;
use wgxdp_tests::daemon::{Daemon, Settings};
use wgxdp_tests::poll;
use wgxdp_tests::topology::{BRANCH_INNER, Family, HUB_INNER, Lab, Uplink};
use wgxdp_tests::traffic::udp::{Load, SMALL, Stream};
use wgxdp_tests::wireguard::INTERFACE;

use crate::command::status;
use crate::status::path;
use crate::{BOUND, alone, pace, slack};

/// Bytes of a keepalive as it travels: headers of IPv4 and UDP, and a data message without data.
const KEEPALIVE: u64 = 20 + 8 + 32;

/// Bytes and packets that left the branch by an uplink.
fn sent(lab: &Lab, uplink: Uplink) -> Result<(u64, u64)> {
    let shown = status(&lab.branch)?;
    let path = path(&shown, uplink)?;
    let count = |key| path.get(key).and_then(Value::as_u64).context(key);
    Ok((count("tx_bytes")?, count("tx_packets")?))
}

/// While the hub alone sends, the branch's WireGuard says nothing for 10 s at a time, and without persistent keepalives it need not say anything ever.
#[test]
fn a_pure_download_comes_by_the_other_uplink_as_soon_as_the_first_is_found_dead() -> Result<()> {
    let Some(_alone) = alone("a pure download") else {
        return Ok(());
    };
    let mut lab = Lab::raise(Family::V4)?;
    let settings = Settings::default();
    let mut daemon = Daemon::start(&lab, &settings)?;
    let interval = pace().interval();
    let load = Load {
        interval,
        payload: SMALL,
        real_time: false,
    };
    let down = Stream::start((&lab.hub, HUB_INNER), (&lab.branch, BRANCH_INNER), load)?;
    poll::wait_until("the download", BOUND, || Ok(down.counts().1 > 0))?;
    let before = lab.branch.run("wg", &["showconf", INTERFACE])?;
    ensure!(!before.contains("PersistentKeepalive"), "{before}");
    // A word of ours, on which WireGuard's own next keepalive comes 10 s later at the earliest.
    let socket = lab.branch.enter(|| UdpSocket::bind((BRANCH_INNER, 0)))?;
    socket.send_to(b"hello", (HUB_INNER, 9))?;

    let skip = daemon.log().since(0).len();
    let severed = lab.cut(Cut::Blackhole, Uplink::A)?;
    daemon.await_line("isp-a down", skip, BOUND)?;
    let found_ns = now_ns();
    let arrived = poll::wait_for("the download by isp-b", BOUND, || {
        Ok(down.first_delivery_since(severed.at_ns + interval.as_nanos() as u64))
    });
    let arrived = arrived.with_context(|| daemon.log().text())?;
    // How soon it is found dead is another law's business.
    let after = Duration::from_nanos(arrived.at_ns.saturating_sub(found_ns));
    ensure!(
        after < settings.probe_interval + slack(),
        "it arrives {after:?} after isp-a was found dead\n{}",
        daemon.log().text()
    );
    let (bytes, packets) = sent(&lab, Uplink::B)?;
    ensure!(
        packets > 0 && bytes == packets * KEEPALIVE,
        "not only keepalives have left by isp-b: {packets} packets of {bytes} bytes"
    );

    lab.heal(severed)?;
    daemon.await_line("→ isp-a", skip, BOUND)?;
    poll::wait_until("the download on isp-a", slack(), || {
        Ok(lab.uplink_in_use()? == Some(Uplink::A))
    })?;
    let after = lab.branch.run("wg", &["showconf", INTERFACE])?;
    ensure!(after == before, "WireGuard's configuration has changed:\n{after}");
    Ok(())
}
