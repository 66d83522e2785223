//! `wgxdp`, the command.
fn main() {}
