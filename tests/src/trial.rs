//! One trial: cut the uplink in use under traffic, see what the application sees, heal, and see the traffic return. The
//! same code measures wgxdp and plain WireGuard.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::clock::now_ns;
use crate::cut::{Cut, Severed};
use crate::poll;
use crate::topology::{Lab, Uplink};
use crate::traffic::analysis::Report;
use crate::traffic::{Observation, Traffic};

/// How long traffic is watched after it has come back.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What the application saw of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Both UDP streams, from the cut on.
    pub udp: Observation,
    /// Whether what TCP wrote after the cut arrived, without an error.
    pub tcp_alive: bool,
}

/// What the application saw of the return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// From healing until the hub heard the branch on the healed uplink again.
    pub after: Duration,
    /// Both UDP streams as one, from healing on.
    pub udp: Report,
}

/// Cuts `uplink` and watches until all traffic flows again, at most for `patience`.
///
/// # Errors
/// The cut failed, or the run was interrupted.
pub fn cut(
    lab: &mut Lab,
    traffic: &Traffic,
    cut: Cut,
    uplink: Uplink,
    patience: Duration,
) -> Result<(Severed, Measured)> {
    let severed = lab.cut(cut, uplink)?;
    let (done_ns, mark) = (now_ns(), traffic.tcp.mark());
    let deadline = Instant::now() + patience;
    let back = || traffic.udp_flows_since(done_ns) && traffic.tcp.alive_since(mark);
    poll::wait_until(
        "traffic, or the end of patience",
        patience + Duration::from_secs(1),
        || Ok(back() || Instant::now() >= deadline),
    )?;
    if back() {
        poll::observe_for(AFTERMATH)?;
    }
    let udp = traffic.observe_since(severed.at_ns)?;
    Ok((
        severed,
        Measured {
            udp,
            tcp_alive: traffic.tcp.alive_since(mark),
        },
    ))
}

/// Heals and waits until traffic has returned to the uplink.
///
/// # Errors
/// Healing failed, or traffic did not return within `bound`.
pub fn heal(lab: &mut Lab, traffic: &Traffic, severed: Severed, bound: Duration) -> Result<Returned> {
    let uplink = severed.uplink;
    let healed_ns = lab.heal(severed)?;
    let what = format!("the return of the tunnel to {}", uplink.name());
    poll::wait_until(&what, bound, || Ok(lab.uplink_in_use()? == Some(uplink)))?;
    let after = Duration::from_nanos(now_ns() - healed_ns);
    traffic.await_flow(bound)?;
    Ok(Returned {
        after,
        udp: traffic.observe_since(healed_ns)?.both(),
    })
}
