//! wgxdp under test: the real binary, in the branch or wherever it is to run, with a configuration of its own.

use std::env;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::poll;
use crate::process::Process;
use crate::topology::{Lab, Uplink};
use crate::wireguard::INTERFACE;

/// Names the binary to test; without it, the one beside the running program.
pub const BINARY_VARIABLE: &str = "WGXDP_BIN";
/// Where the laboratory writes the configuration, in the daemon's host.
pub const CONFIG_FILE: &str = "/run/wgxdp.toml";
/// What the daemon logs once it steers.
const READY: &str = "ready";
/// How long it may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the laboratory lets vary in the daemon's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What probes are made of, and for whom: keys of `probe` besides the interval.
    pub probe: &'static str,
    /// Time between probes.
    pub probe_interval: Duration,
    /// How long a path must stay clean before traffic returns.
    pub hold_down: Duration,
    /// The uplinks' `xdp`; without it, the daemon's default.
    pub xdp: Option<&'static str>,
    /// Where else the hub listens.
    pub also_at: Option<SocketAddr>,
    /// Lines under `[[tunnel]]`.
    pub tunnel: String,
    /// Appended to the file as it is.
    pub more: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe: "kind = \"icmp\"",
            // Under full emulation a probe's way through the guest takes as long as an interval here: there more time belongs between two.
            probe_interval: Duration::from_millis(if crate::privilege::emulated() { 100 } else { 20 }),
            hold_down: Duration::from_secs(1),
            xdp: None,
            also_at: None,
            tunnel: String::new(),
            more: String::new(),
        }
    }
}

impl Settings {
    /// The file for `lab`.
    pub fn toml(&self, lab: &Lab) -> String {
        let endpoints = [Some(lab.hub_endpoint()), self.also_at].into_iter().flatten();
        let endpoints: Vec<String> = endpoints.map(|endpoint| format!("\"{endpoint}\"")).collect();
        // Cut follows on cut here: the hold-down is not to grow.
        let hold_down = self.hold_down.as_millis();
        format!(
            "{}[[tunnel]]\ninterface = \"{INTERFACE}\"\n{}\n[[tunnel.peer]]\npublic-key = \"{}\"\nname = \"hub\"\n\
             endpoints = [{}]\nprobe = {{ {}, interval = \"{}ms\" }}\n\n[detection]\nhold-down = \"{hold_down}ms\"\n\
             max-hold-down = \"{hold_down}ms\"\n{}",
            uplinks_toml(self.xdp),
            self.tunnel,
            lab.hub_public_key(),
            endpoints.join(", "),
            self.probe,
            self.probe_interval.as_millis(),
            self.more,
        )
    }
}

/// Both uplinks, for a configuration, with this `xdp`.
pub(crate) fn uplinks_toml(xdp: Option<&str>) -> String {
    let xdp = xdp.map(|xdp| format!("xdp = \"{xdp}\"\n")).unwrap_or_default();
    let uplink = |uplink: Uplink| {
        let (name, cost) = (uplink.name(), uplink.cost());
        format!("[[uplink]]\nname = \"{name}\"\ninterface = \"{name}\"\ncost = {cost}\n{xdp}\n")
    };
    Uplink::ALL.map(uplink).concat()
}

/// What the daemon has logged so far; clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// The lines after the first `skip`.
    pub fn since(&self, skip: usize) -> Vec<String> {
        self.lines().iter().skip(skip).cloned().collect()
    }

    /// All of it as one text, for messages.
    pub fn text(&self) -> String {
        format!("wgxdp's log:\n{}", self.lines().join("\n"))
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running daemon; dropped, it is killed, and what it logged is printed if a test is failing.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    log: Log,
    readers: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Starts the daemon in the branch and waits until it is ready.
    ///
    /// # Errors
    /// There is no binary, or the daemon ended or was not ready in time: then with its log.
    pub fn start(lab: &Lab, settings: &Settings) -> Result<Self> {
        Self::start_in(&lab.branch, &settings.toml(lab))
    }

    /// Starts the daemon in `host` with a configuration of this text and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(host: &Host, toml: &str) -> Result<Self> {
        host.write(CONFIG_FILE, toml)?;
        let mut daemon = Self::spawn(host, &["run", "--config", CONFIG_FILE])?;
        daemon.await_ready()?;
        Ok(daemon)
    }

    /// Starts `wgxdp ARGS` in `host` and waits for nothing.
    ///
    /// # Errors
    /// There is no binary.
    pub fn spawn(host: &Host, args: &[&str]) -> Result<Self> {
        let mut command = host.command(binary()?);
        command.args(args).env("NO_COLOR", "1");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn("wgxdp", command)?;
        let log = Log::default();
        let child = process.child_mut();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let readers = [
            stdout.map(|pipe| collect(pipe, &log)),
            stderr.map(|pipe| collect(pipe, &log)),
        ];
        Ok(Self {
            process,
            log,
            readers: readers.into_iter().flatten().collect(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has logged so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Waits for a line, logged after the first `skip`, that contains `text`.
    ///
    /// # Errors
    /// None came within `bound`, or the daemon ended.
    pub fn await_line(&mut self, text: &str, skip: usize, bound: Duration) -> Result<String> {
        let what = format!("{text:?} in wgxdp's log");
        poll::wait_for(&what, bound, || {
            let found = self.log.since(skip).into_iter().find(|line| line.contains(text));
            if found.is_none()
                && let Some(status) = self.process.ended()?
            {
                bail!("wgxdp ended ({status})");
            }
            Ok(found)
        })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It ended, or is not in time: then with its log.
    pub fn await_ready(&mut self) -> Result<()> {
        self.await_line(READY, 0, PATIENCE)
            .map(|_| ())
            .with_context(|| self.log.text())
    }

    /// Sends `signal` and waits for nothing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    /// It does not end in time: then with its log.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.stop(signal, PATIENCE).with_context(|| self.log.text())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; the guard of the process waits for it in any case.
        let _ = self.process.signal(Signal::SIGKILL);
        let _ = self.process.child_mut().wait();
        for reader in self.readers.drain(..) {
            // A reader that panicked has said so on standard error.
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("{}", self.log.text());
        }
    }
}

fn collect(pipe: impl Read + Send + 'static, log: &Log) -> JoinHandle<()> {
    let log = log.clone();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            log.lines().push(line);
        }
    })
}

/// The binary to test.
///
/// # Errors
/// It is nowhere; the message names the way out.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os(BINARY_VARIABLE).map(PathBuf::from) {
        ensure!(
            named.is_file(),
            "{BINARY_VARIABLE} names {}, which is no file",
            named.display()
        );
        return Ok(named);
    }
    // Binaries are in target/PROFILE, tests in target/PROFILE/deps.
    let here = env::current_exe().context("where this program is")?;
    let found = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("wgxdp"))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no wgxdp beside {}: build it (`cargo build -p wgxdp`) or name it in {BINARY_VARIABLE}",
            here.display()
        )
    })
}
