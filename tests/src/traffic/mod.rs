//! What an application in the tunnel sends: two UDP streams, one each way, and one long TCP transfer from branch to
//! hub; for benchmarks alone, [`bulk`]; and single questions with their [`answer`]s.

pub mod analysis;
pub mod answer;
pub mod bulk;
pub mod tcp;
pub mod udp;

use std::ops::Deref;
use std::time::Duration;

use anyhow::Result;

use self::analysis::Report;
use self::tcp::Transfer;
use self::udp::{Load, Stream};
use crate::clock::now_ns;
use crate::poll;
use crate::topology::{BRANCH_INNER, HUB_INNER, Lab};

/// How long after the end of a window late packets are waited for.
pub const GRACE: Duration = Duration::from_millis(200);

/// How much of it. What the laws say does not depend on it; how finely gaps are measured does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// UDP at 1 kHz, TCP at 1 MB/s.
    Full,
    /// A fifth of that, for machines that are emulated.
    Gentle,
}

impl Pace {
    /// Time between UDP packets.
    pub fn interval(self) -> Duration {
        match self {
            Self::Full => Duration::from_millis(1),
            Self::Gentle => Duration::from_millis(5),
        }
    }
}

/// UDP both ways; dropped, it stops.
#[derive(Debug)]
pub struct Duplex {
    /// Branch to hub.
    pub up: Stream,
    /// Hub to branch.
    pub down: Stream,
}

/// The traffic of one tunnel; dropped, it stops. Its UDP can be asked as if it were all.
#[derive(Debug)]
pub struct Traffic {
    /// Both ways.
    pub udp: Duplex,
    /// Branch to hub.
    pub tcp: Transfer,
}

/// What became of the UDP streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Branch to hub.
    pub up: Report,
    /// Hub to branch.
    pub down: Report,
}

impl Observation {
    /// Both directions as one.
    pub fn both(&self) -> Report {
        self.up.join(self.down)
    }
}

impl Traffic {
    /// Starts all and waits until all of it flows.
    ///
    /// # Errors
    /// A socket could not be opened, or nothing flows.
    pub fn start(lab: &Lab, pace: Pace) -> Result<Self> {
        let interval = pace.interval();
        let tcp = Transfer::start(&lab.branch, (&lab.hub, HUB_INNER), 10 * interval)?;
        let payload = udp::SMALL;
        let load = Load {
            interval,
            payload,
            real_time: false,
        };
        let udp = Duplex::start(lab, load)?;
        let traffic = Self { udp, tcp };
        traffic.await_flow(Duration::from_secs(10))?;
        Ok(traffic)
    }

    /// Waits until what is sent from now on arrives, all three.
    ///
    /// # Errors
    /// It did not within `bound`.
    pub fn await_flow(&self, bound: Duration) -> Result<()> {
        self.await_udp(now_ns(), bound)?;
        self.tcp.await_life(self.tcp.mark(), bound)
    }
}

impl Deref for Traffic {
    type Target = Duplex;

    fn deref(&self) -> &Duplex {
        &self.udp
    }
}

impl Duplex {
    /// Starts both streams, and waits for nothing.
    ///
    /// # Errors
    /// A socket could not be opened.
    pub fn start(lab: &Lab, load: Load) -> Result<Self> {
        let (branch, hub) = ((&lab.branch, BRANCH_INNER), (&lab.hub, HUB_INNER));
        Ok(Self {
            up: Stream::start(branch, hub, load)?,
            down: Stream::start(hub, branch, load)?,
        })
    }

    /// Waits until UDP sent at or after `from_ns` arrives, both ways.
    ///
    /// # Errors
    /// It did not within `bound`.
    pub fn await_udp(&self, from_ns: u64, bound: Duration) -> Result<()> {
        poll::wait_until("UDP both ways through the tunnel", bound, || {
            Ok(self.udp_flows_since(from_ns))
        })
    }

    /// Whether UDP sent at or after `from_ns` has arrived, both ways.
    pub fn udp_flows_since(&self, from_ns: u64) -> bool {
        [&self.up, &self.down]
            .iter()
            .all(|stream| stream.first_delivery_since(from_ns).is_some())
    }

    /// Reports on what was sent from `from_ns` until now, and gives the last of it the time to arrive.
    ///
    /// # Errors
    /// The run was interrupted.
    pub fn observe_since(&self, from_ns: u64) -> Result<Observation> {
        let until_ns = now_ns();
        poll::observe_for(GRACE)?;
        Ok(self.report(from_ns, until_ns))
    }

    /// Reports on what was sent between the two, as far as it has arrived by now.
    pub fn report(&self, from_ns: u64, until_ns: u64) -> Observation {
        Observation {
            up: self.up.report(from_ns, until_ns),
            down: self.down.report(from_ns, until_ns),
        }
    }
}
