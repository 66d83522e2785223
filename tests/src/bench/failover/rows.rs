//! What is measured: a row is a carrier and a cut, and one more row is one more entry here.

use std::time::Duration;

use anyhow::{Result, ensure};
use wgxdp::config::Profile;
use wgxdp::engine::Pace;

use super::carrier::{Carrier, Configuration};
use crate::cut::Cut;
use crate::traffic::udp::{FULL, SMALL};

/// A carrier, a cut, and what must come of it.
#[derive(Debug)]
pub(super) struct Row {
    /// What its figures are called.
    pub(super) name: &'static str,
    pub(super) carrier: Carrier,
    pub(super) cut: Cut,
    pub(super) bounds: Bounds,
}

/// The size of the packets that a cut concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    Small,
    FullSize,
}

impl Size {
    /// What figures call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::FullSize => "full_size",
        }
    }

    /// Bytes of a packet's payload.
    pub(super) const fn payload(self) -> usize {
        match self {
            Self::Small => SMALL,
            Self::FullSize => FULL,
        }
    }
}

impl Row {
    /// Of what size the packets are that its cut is measured with.
    pub(super) fn size(&self) -> Size {
        match self.cut {
            Cut::MtuBlackhole => Size::FullSize,
            _ => Size::Small,
        }
    }

    /// The time after which its carrier's look at the uplinks repeats, by probes of that size.
    pub(super) fn period(&self) -> Duration {
        let interval = self.carrier.period();
        let metered = false;
        match self.size() {
            Size::Small => interval,
            Size::FullSize => Pace { interval, metered }.full_size_period(true),
        }
    }
}

/// The rows whose names have this in them, in order.
///
/// # Errors
/// There is none.
pub(super) fn named(part: &str) -> Result<Vec<&'static Row>> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(part)).collect();
    ensure!(
        !rows.is_empty(),
        "no row has {part:?} in its name; there are {}",
        ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
    );
    Ok(rows)
}

/// What a row must keep to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// Of the outages' median, in milliseconds.
    pub(super) p50: Option<f64>,
    /// Of the outages' 99th percentile, in milliseconds.
    pub(super) p99: Option<f64>,
    /// Of the packets that one cut loses one way, as the milliseconds in which so many are sent.
    pub(super) lost: Option<f64>,
    /// Of the outages' 99th percentile by that of the row of this name.
    pub(super) p99_to: Option<(&'static str, f64)>,
}

const FAST: Configuration = Configuration::of(Profile::Fast);
const BALANCED: Configuration = Configuration::of(Profile::Balanced);
const THRIFTY: Configuration = Configuration::of(Profile::Thrifty);

const NONE: Bounds = Bounds {
    p50: None,
    p99: None,
    lost: None,
    p99_to: None,
};
const NOTHING_LOST: Bounds = Bounds {
    lost: Some(0.0),
    ..NONE
};
const ONE_WAY: Bounds = Bounds {
    p50: Some(45.0),
    p99: Some(70.0),
    ..NONE
};

/// A row.
const fn row(name: &'static str, carrier: Carrier, cut: Cut, bounds: Bounds) -> Row {
    Row {
        name,
        carrier,
        cut,
        bounds,
    }
}

/// All rows, in the order in which they are measured.
pub(super) const ROWS: &[Row] = &[
    row(
        "fast_blackhole",
        Carrier::Wgxdp(FAST.with_tunnel("protect = \"off\"")),
        Cut::Blackhole,
        Bounds {
            p50: Some(35.0),
            p99: Some(50.0),
            ..NONE
        },
    ),
    row(
        "fast_suspect",
        Carrier::Wgxdp(FAST),
        Cut::Blackhole,
        Bounds {
            lost: Some(20.0),
            ..NONE
        },
    ),
    row(
        "fast_always",
        Carrier::Wgxdp(FAST.at_both_ends().with_tunnel("protect = \"always\"")),
        Cut::Blackhole,
        NOTHING_LOST,
    ),
    row(
        "balanced_always",
        Carrier::Wgxdp(BALANCED.at_both_ends().with_tunnel("protect = \"always\"")),
        Cut::Blackhole,
        NOTHING_LOST,
    ),
    row(
        "thrifty_always",
        Carrier::Wgxdp(THRIFTY.at_both_ends().with_tunnel("protect = \"always\"")),
        Cut::Blackhole,
        NOTHING_LOST,
    ),
    row(
        "balanced_blackhole",
        Carrier::Wgxdp(BALANCED.with_tunnel("protect = \"off\"")),
        Cut::Blackhole,
        Bounds {
            p50: Some(160.0),
            p99: Some(200.0),
            ..NONE
        },
    ),
    row(
        "fast_blackhole_up",
        Carrier::Wgxdp(FAST.at_both_ends()),
        Cut::BlackholeUp,
        ONE_WAY,
    ),
    row(
        "fast_blackhole_down",
        Carrier::Wgxdp(FAST.at_both_ends()),
        Cut::BlackholeDown,
        ONE_WAY,
    ),
    row(
        "balanced_mtu",
        Carrier::Wgxdp(BALANCED),
        Cut::MtuBlackhole,
        Bounds {
            p99: Some(1000.0),
            ..NONE
        },
    ),
    row(
        "balanced_lossy",
        Carrier::Wgxdp(BALANCED.with_tunnel("max-loss = \"5%\"")),
        Cut::Lossy,
        Bounds {
            p50: Some(3000.0),
            ..NONE
        },
    ),
    row(
        "fast_stopped",
        Carrier::Stopped(FAST.at_both_ends()),
        Cut::Blackhole,
        Bounds {
            p99_to: Some(("fast_blackhole", 2.0)),
            ..NONE
        },
    ),
    row("plain_blackhole", Carrier::Plain, Cut::Blackhole, NONE),
    row("watchdog_blackhole", Carrier::Watchdog, Cut::Blackhole, NONE),
    row("frr_blackhole", Carrier::Frr, Cut::Blackhole, NONE),
    row("frr_blackhole_up", Carrier::Frr, Cut::BlackholeUp, NONE),
    row("frr_blackhole_down", Carrier::Frr, Cut::BlackholeDown, NONE),
];
