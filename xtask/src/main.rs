//! wgxdp's development commands.
fn main() {}
