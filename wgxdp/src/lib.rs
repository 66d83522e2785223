//! wgxdp's daemon, as a library: everything but the command line.

pub mod config;
pub mod dataplane;
pub mod engine;
pub mod host;
