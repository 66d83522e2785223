//! wgxdp's daemon, as a library: everything but the command line.
pub mod cli;
pub mod config;
pub mod preflight;
