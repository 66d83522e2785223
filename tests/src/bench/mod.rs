//! The benchmarks: what is measured, how, and what each figure is called. Names are stable.
//!
//! | bench | metrics | unit |
//! |---|---|---|
//! | [`detection`] | `loss_1_false_per_week`, `loss_1_false_counted`, the same of other losses, bursts, jitter, steps, flaps | count |
//! | | `loss_1_dead_after_p50`, `loss_1_dead_after_p99`, the same of the others | ms |
//! | [`gap`] | `blackhole_p50`, `blackhole_p99`, `blackhole_max`, the same of `carrier_loss`, `undisturbed_max` | ms |
//! | | `blackhole_lost_max`, `carrier_loss_lost_max`, `return_lost` | packets |
//! | [`gap_scale`] | `blackhole_p50_one`, `blackhole_p99_one`, `blackhole_middle_one`, the same of `…_many`, and of `carrier_loss` | ms |
//! | | `blackhole_ratio`, `carrier_loss_ratio` | ratio |
//! | [`failover`] | for each row: `fast_blackhole_p50`, `…_p99`, `…_max`, `…_lost_worth_max` | ms |
//! | | `…_lost_p50`, `…_lost_max` | packets |
//! | | `…_lost_to_gap_max`, `fast_stopped_p99_to_fast_blackhole` | ratio |
//! | | `…_endless`, `…_missing` | count |
//! | | `rate_small`, `rate_full_size` | packets/s |
//! | | `undisturbed_max_small`, `undisturbed_lost_small`, the same of `…_full_size` | ms, packets |
//! | [`probing`] | `paths_2_every_10ms_daemon`, `…_user`, `…_system`, `…_machine`, the same of `paths_1000_every_50ms` | % of a core |
//! | | `paths_2_every_10ms_up`, `paths_1000_every_50ms_up` | count |
//! | [`programs`] | `empty`, and of IPv4 and IPv6 each `floor_v4`, `steer_v4`, `restore_v4`, `foreign_v4`, `steer_client_v4`, …; `steer_translated`, … | ns |
//! | | `steer_v4_to_floor`, `steer_v4_to_empty`, the same of `restore`; `foreign_v4_to_empty`; … | ratio |
//! | [`clients`] | `rate_1`, `rate_100`, `rate_10000`, `rate_60000` | packets/s |
//! | | `ratio_100`, `ratio_min_100`, `strangers_ratio_100`, the same of the others | ratio |
//! | [`registration`] | `paths`, `asked_again`, `late_5ms_calm`, `late_50ms_calm`, the same of `…_crowd` | count |
//! | | `known_after`, `late_calm`, `late_crowd`, `gap_max` | ms |
//! | | `late_ratio`, `lost` | ratio, packets |
//! | [`throughput`] | `tcp_up_without`, `tcp_up_with`, `tcp_up_guarded`, the same of `tcp_down`, `udp_up`, `udp_down` | Mbit/s |
//! | | `tcp_up_ratio`, `tcp_up_ratio_p25`, `tcp_up_ratio_p75`, `tcp_up_busy_ratio`, `tcp_up_guarded_ratio`, …, the same of the others | ratio |
//! | | `failovers` | count |
//!
//! A figure's `samples` is how many measurements it is made of: cuts, rounds, pairs. What a figure must reach, if it must reach
//! anything, is its [`Bound`]; a benchmark reports, it does not fail.

pub mod clients;
pub mod detection;
pub mod failover;
pub mod gap;
pub mod gap_scale;
pub mod machine;
pub mod probing;
pub mod programs;
pub mod registration;
pub mod throughput;

mod figure;

use anyhow::Result;

pub use figure::{Bound, Figure, Unit};

/// How long to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// For figures to be quoted.
    Full,
    /// Under a minute for each benchmark, but for those of many rows.
    Quick,
}

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// See [`clients`].
    Clients,
    /// See [`detection`].
    Detection,
    /// See [`failover`].
    Failover,
    /// See [`gap`].
    Gap,
    /// See [`gap_scale`].
    GapScale,
    /// See [`probing`].
    Probing,
    /// See [`programs`].
    Programs,
    /// See [`registration`].
    Registration,
    /// See [`throughput`].
    Throughput,
}

impl Benchmark {
    /// All, in the order in which they run.
    pub const ALL: [Self; 9] = [
        Self::Programs,
        Self::Clients,
        Self::Detection,
        Self::Probing,
        Self::Registration,
        Self::Gap,
        Self::GapScale,
        Self::Failover,
        Self::Throughput,
    ];

    /// Its name on the command line and in the figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => clients::NAME,
            Self::Detection => detection::NAME,
            Self::Failover => failover::NAME,
            Self::Gap => gap::NAME,
            Self::GapScale => gap_scale::NAME,
            Self::Probing => probing::NAME,
            Self::Programs => programs::NAME,
            Self::Registration => registration::NAME,
            Self::Throughput => throughput::NAME,
        }
    }

    /// What it measures, for a newcomer.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Clients => "packets a second to learned clients, by how many of them there are",
            Self::Detection => "false verdicts and the wait for true ones, on a virtual clock, probes every 50 ms",
            Self::Failover => {
                "what cuts of all kinds do at 10,000 packets a second: wgxdp's profiles, plain WireGuard, a watchdog, FRR"
            }
            Self::Gap => "how long a cut silences the tunnel, UDP at 1 kHz, probes every 20 ms",
            Self::GapScale => "how much longer a cut silences the tunnel with ten thousand peers than with one",
            Self::Probing => "what probing costs the daemon and the machine",
            Self::Programs => "what a packet costs in the programs, by BPF_PROG_TEST_RUN",
            Self::Registration => "what it costs a hub when ten thousand clients register within a second",
            Self::Throughput => "TCP and UDP through the tunnel, both ways, with wgxdp and without, in turns",
        }
    }

    /// Whether it measures rows, of which some can be measured alone.
    pub fn has_rows(self) -> bool {
        self == Self::Failover
    }

    /// Runs it; where it [has rows](Self::has_rows), those with `only` in their names. `progress` gets a line now and then.
    ///
    /// # Errors
    /// The laboratory could not be raised, something in it failed, there is no such row, or the run was interrupted.
    pub fn run(self, scale: Scale, only: &str, progress: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
        match self {
            Self::Clients => clients::run(scale, progress),
            Self::Detection => detection::run(scale, progress),
            Self::Failover => failover::run(scale, only, progress),
            Self::Gap => gap::run(scale, progress),
            Self::GapScale => gap_scale::run(scale, progress),
            Self::Probing => probing::run(scale, progress),
            Self::Programs => programs::run(scale),
            Self::Registration => registration::run(scale, progress),
            Self::Throughput => throughput::run(scale, progress),
        }
    }
}
