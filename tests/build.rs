//! Builds the laboratory's BPF programs.

#[path = "../wgxdp/build/ebpf.rs"]
mod ebpf;

use std::process::ExitCode;

fn main() -> ExitCode {
    ebpf::build(&["lab"])
}
