//! wgxdp's daemon, as a library: everything but the command line.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod engine;
pub mod host;
pub mod metrics;
pub mod mtu;
pub mod preflight;
pub mod prober;
pub mod snapshot;
pub mod stamp;
mod state_file;
pub mod status;
