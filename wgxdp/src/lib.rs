//! wgxdp's daemon, as a library: everything but the command line.

pub mod metrics;
pub mod snapshot;
pub mod status;
