//! Builds the laboratory's BPF programs.

#[path = "../wgxdp/build/ebpf.rs"]
mod ebpf;

fn main() -> anyhow::Result<()> {
    ebpf::build(&["lab"])
}
