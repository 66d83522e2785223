//! `wgxdp`, the command.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use wgxdp::cli::{Cli, Command};
use wgxdp::config::{Config, DEFAULT_FILE};
use wgxdp::daemon;
use wgxdp::dataplane::Pins;
use wgxdp::doctor;
use wgxdp::host::netlink::Netlink;
use wgxdp::preflight::{self, Places};
use wgxdp::snapshot::{Names, STATE_FILE};
use wgxdp::stamp::reflect::Reflector;
use wgxdp::status;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_target(false);
    // The filter was checked with the other arguments.
    log.with_env_filter(EnvFilter::new(&cli.log)).init();
    let done = match cli.command {
        Command::Run(arguments) => arguments.to_config(Path::new(DEFAULT_FILE)).map_err(said).and_then(run),
        Command::Status(arguments) => return show_status(arguments.json),
        Command::Down => down(),
        Command::Reflect(arguments) => reflect(&arguments.listen),
        Command::Doctor(arguments) => arguments.to_config().map_err(said).and_then(|config| examine(&config)),
        Command::Check(arguments) => arguments.to_config().map(|config| check(&config)).map_err(said),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("wgxdp: {text}");
            ExitCode::FAILURE
        }
    }
}

fn said(error: impl Display) -> String {
    error.to_string()
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let done = runtime.block_on(work);
    // A thread that waits for somebody who hangs is not waited for.
    runtime.shutdown_background();
    Ok(done)
}

fn run(config: Config) -> Result<(), String> {
    let _lock = preflight::check(&Places::default()).map_err(said)?;
    block_on(daemon::run(config))?.map_err(said)
}

fn down() -> Result<(), String> {
    let _lock = preflight::check(&Places::default()).map_err(said)?;
    let names = Names::read(Path::new(STATE_FILE)).ok().flatten();
    let tunnels = names.map(|names| names.tunnels).unwrap_or_default();
    let interfaces: Vec<String> = tunnels.into_iter().map(|tunnel| tunnel.interface).collect();
    let done = block_on(async {
        let netlink = Netlink::connect()?;
        daemon::clean_up(&netlink, &Pins::default(), &interfaces).await
    });
    println!("removed {}", done?.map_err(said)?);
    Ok(())
}

/// One reflector for each address, for ever; a signal ends the process, and nothing is left behind.
fn reflect(listen: &[SocketAddr]) -> Result<(), String> {
    let reflectors: Result<Vec<_>, _> = listen.iter().map(|listen| Reflector::bind(*listen)).collect();
    let reflectors = reflectors.map_err(said)?;
    thread::scope(|scope| {
        for reflector in &reflectors {
            tracing::info!("answering STAMP probes on {}", reflector.address());
            scope.spawn(|| reflector.serve());
        }
    });
    Ok(())
}

fn examine(config: &Config) -> Result<(), String> {
    let findings = block_on(doctor::examine(config, &Places::default()))?.map_err(said)?;
    print!("{findings}");
    if findings.is_healthy() {
        Ok(())
    } else {
        Err("what is marked \"bad\" stands in the way".into())
    }
}

fn check(config: &Config) {
    for warning in config.warnings() {
        println!("warning: {warning}");
    }
    println!(
        "the configuration is valid: {} uplinks, {} tunnels",
        config.uplinks().len(),
        config.tunnels().len()
    );
}

fn show_status(json: bool) -> ExitCode {
    let output = match status::find() {
        Ok(found) => status::output(found, json),
        Err(e) => {
            eprintln!("wgxdp: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Whoever closed the pipe has seen enough.
    let _ = io::stdout().write_all(output.stdout.as_bytes());
    let _ = io::stderr().write_all(output.stderr.as_bytes());
    ExitCode::from(output.code)
}
