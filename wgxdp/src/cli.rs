//! The command line: what can be typed, and how it becomes a validated [`Config`].
//!
//! `wgxdp run` takes its configuration from one place: `--config FILE`, or `--tunnel` and `--uplink`, or with neither
//! [`config::DEFAULT_FILE`]. A file and flags together are refused, so that nobody has to know which of the two wins; `--max-clients` alone, a matter of
//! this host's memory, goes with both and wins.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, ConfigError, Flags, InterfaceName, Profile, UplinkFlag, Word};

/// Everything that can be typed.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = "wgxdp",
    version,
    about = "Keeps a WireGuard tunnel alive when its uplinks die",
    long_about = "Keeps a WireGuard tunnel alive when its uplinks die: packets of the tunnel leave by another uplink within tens of \
                  milliseconds, decided in the kernel, with no change to WireGuard or to any route.",
    after_help = "Examples:\n  \
                  wgxdp run --tunnel wg0 --uplink eth0 --uplink wwan0   protect wg0; eth0 is preferred\n  \
                  wgxdp run --config /etc/wgxdp/wgxdp.toml              the same from a file\n  \
                  wgxdp check --config wgxdp.toml                       only say whether a file is valid\n  \
                  wgxdp status                                          what is up, and what carries the traffic\n  \
                  wgxdp doctor                                          whether this host can do it, and what probing costs\n  \
                  wgxdp down                                            remove what a killed daemon left behind",
    disable_help_subcommand = true,
    propagate_version = true
)]
pub struct Cli {
    /// What to log: a level, or a filter such as info,wgxdp::engine=debug
    #[arg(long, global = true, display_order = 100, value_name = "FILTER", env = "WGXDP_LOG", default_value = "info", value_parser = filter)]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Protect tunnels until interrupted, then remove everything that was added
    #[command(
        override_usage = "wgxdp run [--config FILE] [--max-clients N]\n       \
                          wgxdp run --tunnel INTERFACE --uplink [NAME=]INTERFACE [--uplink …] [--profile PROFILE] [--metrics ADDR:PORT] [--max-clients N]",
        long_about = "Protects tunnels until interrupted (Ctrl-C or SIGTERM), then removes everything that it added and nothing else. \
                      Say what to protect with a file, or with flags; with neither it reads /etc/wgxdp/wgxdp.toml.",
        after_help = "Examples:\n  \
                      wgxdp run --tunnel wg0 --uplink eth0 --uplink wwan0\n  \
                      wgxdp run --tunnel wg0 --uplink isp-a=eth0 --uplink lte=wwan0 --profile fast\n  \
                      wgxdp run --tunnel wg0 --uplink eth0 --uplink wwan0 --metrics 127.0.0.1:9587\n  \
                      wgxdp run --config /etc/wgxdp/wgxdp.toml"
    )]
    Run(RunArgs),
    /// Show uplinks, tunnels, peers and paths; works without the daemon too
    Status(StatusArgs),
    /// Remove what a killed daemon left behind
    #[command(
        long_about = "Removes what a killed daemon left behind: programs, pinned maps, rules, routes and the anchor. A daemon that was \
                      killed leaves them in place on purpose, so that traffic goes on; a running one is not touched."
    )]
    Down,
    /// Look whether this host can do what a configuration file asks for, and reckon the probes' traffic; changes nothing
    Doctor(CheckArgs),
    /// Say whether a configuration file is valid, and what would be worth a warning
    Check(CheckArgs),
    /// Answer STAMP probes (RFC 8762), for a far end that runs no daemon
    #[command(
        long_about = "Answers STAMP probes (RFC 8762) until interrupted, for a far end that runs no daemon: a stateless session-reflector. \
                      Each answer is as large as its probe, and nothing else is answered.",
        after_help = "Examples:\n  \
                      wgxdp reflect --listen 0.0.0.0:862 --listen '[::]:862'"
    )]
    Reflect(ReflectArgs),
}

/// Arguments of `wgxdp run`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// Configuration file; excludes the other options but --max-clients [default: /etc/wgxdp/wgxdp.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tunnel", "uplink", "profile", "metrics"])]
    pub config: Option<PathBuf>,
    /// WireGuard interface to protect; may be given several times
    #[arg(long, value_name = "INTERFACE", requires = "uplink")]
    pub tunnel: Vec<InterfaceName>,
    /// Interface that can carry the tunnel, the preferred one first; may be given several times
    ///
    /// NAME is what it is called in commands, metrics and logs, by default the interface's name.
    #[arg(long, value_name = "[NAME=]INTERFACE", requires = "tunnel")]
    pub uplink: Vec<UplinkFlag>,
    /// How soon failures are noticed: a probe every 10 ms, 50 ms or 500 ms [default: balanced]
    #[arg(long, value_name = "PROFILE", requires = "tunnel", value_parser = profiles())]
    pub profile: Option<Profile>,
    /// Serve metrics at this address, such as 127.0.0.1:9587
    #[arg(long, value_name = "ADDR:PORT", requires = "tunnel")]
    pub metrics: Option<SocketAddr>,
    /// Learned clients to remember, the latest ones; wins over the file [default: 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(clients()))]
    pub max_clients: Option<u32>,
}

/// Arguments of `wgxdp status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct StatusArgs {
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `wgxdp check` and `wgxdp doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
}

/// Arguments of `wgxdp reflect`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ReflectArgs {
    /// Where to answer, such as 192.0.2.1:862; may be given several times
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    pub listen: Vec<SocketAddr>,
}

impl RunArgs {
    /// The configuration that is asked for; `default` is read where nothing is said and it exists.
    ///
    /// # Errors
    /// There is nothing to read, or it is not valid.
    pub fn to_config(&self, default: &Path) -> Result<Config, ConfigError> {
        let config = self.base_config(default)?;
        Ok(match self.max_clients {
            Some(max_clients) => config.with_max_clients(max_clients),
            None => config,
        })
    }

    fn base_config(&self, default: &Path) -> Result<Config, ConfigError> {
        if let Some(path) = &self.config {
            return Config::from_file(path);
        }
        if !self.tunnel.is_empty() || !self.uplink.is_empty() {
            return Config::from_flags(&Flags {
                tunnels: self.tunnel.clone(),
                uplinks: self.uplink.clone(),
                profile: self.profile.unwrap_or(Profile::Balanced),
                metrics: self.metrics,
                max_clients: config::DEFAULT_MAX_CLIENTS,
            });
        }
        match Config::from_file(default) {
            Err(ConfigError::Read { source, path }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(ConfigError::Nothing { path })
            }
            other => other,
        }
    }
}

impl CheckArgs {
    /// The configuration in the file.
    ///
    /// # Errors
    /// It cannot be read, or is not valid.
    pub fn to_config(&self) -> Result<Config, ConfigError> {
        Config::from_file(&self.config)
    }
}

/// [`config::MAX_CLIENTS`] as the parser wants it.
fn clients() -> RangeInclusive<i64> {
    i64::from(*config::MAX_CLIENTS.start())..=i64::from(*config::MAX_CLIENTS.end())
}

fn profiles() -> impl TypedValueParser<Value = Profile> {
    let words = Profile::KNOWN.iter().map(|(word, _)| *word);
    PossibleValuesParser::new(words).try_map(|found| {
        let known = Profile::KNOWN.iter().find(|(word, _)| *word == found);
        known.map(|(_, profile)| *profile).ok_or("not a profile")
    })
}

/// A filter that `tracing` understands, as text.
fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err("write a level (error, warn, info, debug, trace) or a filter such as info,wgxdp=debug".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
