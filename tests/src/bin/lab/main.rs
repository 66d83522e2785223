//! The laboratory from the command line.

mod bench;
mod columns;
mod live;
mod outcome;
mod run;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use wgxdp_tests::poll;

/// A real WireGuard tunnel between network namespaces, with uplinks to cut.
#[derive(Parser)]
#[command(name = "lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Cut a tunnel's uplink in every way and show what its traffic saw of it
    Run(run::Options),
    /// Measure: the gap of a failover, the cost of a packet, throughput
    Bench(bench::Options),
}

/// What a shell reports for a program that ended by SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = poll::catch_interrupts().and_then(|()| match arguments.command {
        Command::Run(options) => run::run(&options),
        Command::Bench(options) => bench::run(&options).map(|()| true),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if poll::interrupted() => {
            eprintln!("interrupted; the laboratory is gone");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
