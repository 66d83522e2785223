//! What the kernel's WireGuard does by itself, for wireguard-go: following a route that moves.
//!
//! wireguard-go sends from the address and by the device at which its peer was last heard, also when the route has moved to another uplink. Without help a
//! carrier that moves routes would be measured by that alone. So at each change of a route the peer's endpoint is set to what it is, which makes
//! wireguard-go forget where it heard the peer.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::process::Process;
use crate::topology::Lab;
use crate::wireguard::{INTERFACE, Implementation};

/// Runs until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    monitor: Process,
    reader: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts it in the branch; the kernel's WireGuard needs none.
    pub(super) fn start(lab: &Lab) -> Result<Option<Self>> {
        if lab.branch_wg.implementation() == Implementation::Kernel {
            return Ok(None);
        }
        let mut command = lab.branch.command("ip");
        command.args(["-4", "monitor", "route"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut monitor = Process::spawn("ip monitor", command)?;
        let changes = monitor.child_mut().stdout.take().context("no pipe to ip monitor")?;
        let (branch, key, endpoint) = (
            lab.branch.clone(),
            lab.hub_public_key().to_owned(),
            lab.hub_endpoint().to_string(),
        );
        let follow = move || {
            for _ in BufReader::new(changes).lines().map_while(Result::ok) {
                if let Err(error) = branch.run("wg", &["set", INTERFACE, "peer", &key, "endpoint", &endpoint]) {
                    eprintln!("wireguard-go does not follow its route: {error:#}");
                }
            }
        };
        let reader = Some(thread::spawn(follow));
        Ok(Some(Self { monitor, reader }))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It fails only if it has ended already; either way its pipe is closed now.
        let _ = self.monitor.signal(Signal::SIGKILL);
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has said so on standard error.
            let _ = reader.join();
        }
    }
}
