//! wgxdp's development commands, `cargo xtask …`: see the help texts below.

mod cargo;
mod launch;
mod setup;
mod sh;
mod test;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Build, run, test and measure wgxdp.
///
/// Every command first sees to it that what it needs is there (`setup`), which takes no time when it is.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask run                      a tunnel survives the loss of its uplink, live, in network namespaces
  cargo xtask run --cuts 30 --json     thirty cuts of each kind, one JSON object a line
  cargo xtask run -- run --tunnel wg0 --uplink eth0 --uplink wwan0
                                       the daemon, on this host
  cargo xtask test                     everything, as continuous integration runs it
  cargo xtask test --only host         what needs neither root nor a virtual machine
  cargo xtask test --only vm --kernel 6.1 -- blackhole
                                       tests with `blackhole` in their name, on Linux 6.1 in QEMU
  cargo xtask bench --quick            every benchmark, briefly
  cargo xtask bench failover --only mtu
                                       the rows of one benchmark with `mtu` in their names
  cargo xtask bench throughput --vm --kernel 6.12
                                       with the kernel's WireGuard, in QEMU";

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need; says what it does, and what to type where it may not
    ///
    /// The nightly Rust's source of `core`, the pinned bpf-linker and stamp-suite (into .tools/), Debian packages where we are root on
    /// Debian, and bpffs on /sys/fs/bpf. Does nothing that is already done.
    Setup,
    /// Build the daemon, its BPF programs and the laboratory
    Build(BuildArgs),
    /// Raise the laboratory, cut a live tunnel's uplinks and show what happens; or run the daemon here, with `-- ARGS`
    ///
    /// Needs root, for network namespaces and BPF; asks sudo for it where you are not root. Builds as you.
    Run(RunArgs),
    /// Format, clippy, host tests, kernel tests as root, then the same on Linux 6.1 and 6.12 in QEMU
    ///
    /// Stops at the first stage that fails. Ends with a table of the stages and the line `N passed, N failed`. What cannot
    /// run for want of a privilege is announced; with CI=true it is a failure.
    Test(TestArgs),
    /// Measure, in a release build: the gap of a failover, the cost of a packet, throughput
    Bench(BenchArgs),
}

/// `cargo xtask build`
#[derive(Args)]
struct BuildArgs {
    /// With optimisations, into target/release
    #[arg(long, short)]
    release: bool,
}

/// `cargo xtask run`
#[derive(Args)]
struct RunArgs {
    /// How often each kind of cut is made
    #[arg(long, value_name = "N")]
    cuts: Option<u32>,
    /// Carry the tunnel over IPv6
    #[arg(long)]
    ipv6: bool,
    /// One JSON object per cut on stdout, then a summary
    #[arg(long)]
    json: bool,
    /// Run `wgxdp ARGS` on this host instead of the laboratory
    #[arg(last = true, value_name = "ARGS", conflicts_with_all = ["cuts", "ipv6", "json"])]
    daemon: Vec<OsString>,
}

/// `cargo xtask test`
#[derive(Args)]
struct TestArgs {
    /// Run this stage alone; may be given several times
    #[arg(long, value_enum, value_name = "STAGE")]
    only: Vec<test::Stage>,
    /// Leave out the virtual machines (refused with CI=true)
    #[arg(long)]
    skip_vm: bool,
    /// Run the virtual machine with this kernel alone
    #[arg(long, value_name = "SERIES")]
    kernel: Option<vm::Series>,
    /// Handed to the test programs: part of a test's name, or their options such as --nocapture
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// `cargo xtask bench`
#[derive(Args)]
struct BenchArgs {
    /// One benchmark alone; without it, all
    name: Option<String>,
    /// Of the benchmark `failover`, only the rows with this in their names
    #[arg(long, value_name = "SUBSTRING", requires = "name")]
    only: Option<String>,
    /// Fewer samples: under a minute for each benchmark
    #[arg(long)]
    quick: bool,
    /// One JSON object a line: bench, metric, value, unit, samples; with --vm also kernel
    #[arg(long)]
    json: bool,
    /// In QEMU instead, with the kernel's WireGuard, on Linux 6.1 and 6.12
    #[arg(long)]
    vm: bool,
    /// In QEMU with this kernel alone
    #[arg(long, value_name = "SERIES", requires = "vm")]
    kernel: Option<vm::Series>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup => setup::run(setup::Need::Test).map(|()| println!("setup: all is there")),
        Command::Build(args) => launch::build(&args),
        Command::Run(args) => launch::run(args),
        Command::Test(args) => return test::run(&args),
        Command::Bench(args) => launch::bench(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
