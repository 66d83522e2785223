//! `wgxdp` as a command that ends by itself: what it said, with which exit code, and that it left nothing.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wgxdp_tests::audit::Snapshot;
use wgxdp_tests::daemon::binary;
use wgxdp_tests::host::Host;
use wgxdp_tests::poll;

use crate::BOUND;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` if a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// It refused: exit code 1, nothing on standard output, and an error that holds all of `words`.
    pub(crate) fn refused(&self, what: &str, words: &[&str]) -> Result<()> {
        ensure!(self.code == Some(1), "{what}: the exit code is not 1: {self:?}");
        ensure!(
            self.stdout.is_empty(),
            "{what}: an error belongs on standard error: {self:?}"
        );
        for word in words {
            ensure!(self.stderr.contains(word), "{what}: no {word:?} in:\n{}", self.stderr);
        }
        ensure!(!self.stderr.contains("panicked"), "{what}: {}", self.stderr);
        Ok(())
    }

    /// It did what it was asked.
    pub(crate) fn succeeded(&self) -> Result<()> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(())
    }
}

/// Runs `wgxdp ARGS` in `host` to its end.
pub(crate) fn wgxdp(host: &Host, args: &[&str]) -> Result<Ended> {
    wgxdp_arranged(host, args, |_| {})
}

/// The same, with the command arranged beforehand.
pub(crate) fn wgxdp_arranged(host: &Host, args: &[&str], arrange: impl FnOnce(&mut Command)) -> Result<Ended> {
    let mut command = host.command(binary()?);
    command.args(args).env("NO_COLOR", "1");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    arrange(&mut command);
    let what = format!("the end of `wgxdp {}`", args.join(" "));
    let mut child = command.spawn().context("starting wgxdp")?;
    let stdout = collect(child.stdout.take().context("no pipe")?);
    let stderr = collect(child.stderr.take().context("no pipe")?);
    let status = poll::wait_for(&what, BOUND, || Ok(child.try_wait()?));
    if status.is_err() {
        // So that the pipes end, and with them their readers.
        child.kill()?;
        child.wait()?;
    }
    let (stdout, stderr) = (text(stdout)?, text(stderr)?);
    let status = status.with_context(|| format!("it said:\n{stdout}{stderr}"))?;
    Ok(Ended {
        code: status.code(),
        stdout,
        stderr,
    })
}

type Reader = JoinHandle<io::Result<String>>;

fn collect(pipe: impl Read + Send + 'static) -> Reader {
    thread::spawn(|| io::read_to_string(pipe))
}

fn text(reader: Reader) -> Result<String> {
    Ok(reader.join().ok().context("a reader panicked")??)
}

/// What `wgxdp status --json` says, which must succeed.
pub(crate) fn status(host: &Host) -> Result<Value> {
    let ended = wgxdp(host, &["status", "--json"])?;
    ended.succeeded()?;
    serde_json::from_str(&ended.stdout).with_context(|| ended.stdout.clone())
}

/// Nothing on `host` is other than in `before`, and the run directory is empty or absent.
pub(crate) fn left_nothing(what: &str, host: &Host, before: &Snapshot) -> Result<()> {
    left_nothing_but(what, host, before, |_| false)
}

/// The same where what some lines of a [`Snapshot`] say was somebody else's doing.
pub(crate) fn left_nothing_but(what: &str, host: &Host, before: &Snapshot, not_ours: fn(&str) -> bool) -> Result<()> {
    let mut difference = before.difference(&Snapshot::take(host)?);
    for lines in [&mut difference.added, &mut difference.removed] {
        lines.retain(|line| !not_ours(line));
    }
    ensure!(
        difference.is_empty(),
        "after {what} the host has changed:\n{difference}"
    );
    let run = Path::new("/run/wgxdp");
    let left: Vec<_> = host.enter(|| {
        fs::read_dir(run)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect()
    });
    ensure!(left.is_empty(), "after {what} this is left: {left:?}");
    Ok(())
}
