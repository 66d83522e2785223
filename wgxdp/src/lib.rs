//! wgxdp's daemon, as a library: everything but the command line.

pub mod clock;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod engine;
pub mod host;
pub mod prober;
