//! Builds the daemon's BPF programs.

mod ebpf;

use std::process::ExitCode;

fn main() -> ExitCode {
    let log = std::env::var_os("CARGO_FEATURE_BPF_LOG").is_some();
    ebpf::build(if log { &["log"] } else { &[] })
}
