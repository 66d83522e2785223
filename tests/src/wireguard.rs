//! WireGuard at both ends, set up with `wg` and `ip`: the kernel's where there is one, else wireguard-go.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::host::Host;
use crate::poll;
use crate::process::Process;

/// The interface, at both ends.
pub const INTERFACE: &str = "wg0";
/// The listen port, at both ends.
pub const LISTEN_PORT: u16 = 51820;

/// Who carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The kernel's module.
    Kernel,
    /// wireguard-go on a TUN device.
    WireguardGo,
}

impl std::fmt::Display for Implementation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "the kernel's WireGuard",
            Self::WireguardGo => "wireguard-go",
        })
    }
}

/// A key pair in base64.
#[derive(Clone)]
pub struct Keys {
    private: String,
    /// The public half.
    pub public: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Fresh keys.
    ///
    /// # Errors
    /// There is no `wg` program.
    pub fn generate() -> Result<Self> {
        let private = wg(&["genkey"], "")?;
        let public = wg(&["pubkey"], &private)?;
        Ok(Self { private, public })
    }
}

/// One end's peer.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its public key.
    pub public_key: &'a str,
    /// The one address it may use inside the tunnel.
    pub allowed_ip: &'a str,
    /// Where it listens; the end that is only called by others knows none.
    pub endpoint: Option<SocketAddr>,
}

/// One end of the tunnel. Dropped, a wireguard-go is killed; a kernel interface goes with its host.
#[derive(Debug)]
pub struct WireGuard {
    host: Host,
    userspace: Option<Process>,
    /// The public key of the other end.
    peer: String,
}

impl WireGuard {
    /// Raises [`INTERFACE`] in `host` with the inner address `address`.
    ///
    /// # Errors
    /// Neither the kernel nor wireguard-go would, or the configuration was refused.
    pub fn raise(host: &Host, keys: &Keys, address: &str, peer: &Peer<'_>) -> Result<Self> {
        let kernel = host.run("ip", &["link", "add", INTERFACE, "type", "wireguard"]);
        let userspace = match kernel {
            Ok(_) => None,
            Err(kernel) => Some(
                wireguard_go(host)
                    .context(kernel)
                    .context("no WireGuard in the kernel, and no other")?,
            ),
        };
        let endpoint = peer
            .endpoint
            .map(|endpoint| format!("Endpoint = {endpoint}\n"))
            .unwrap_or_default();
        let configuration = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {LISTEN_PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n{endpoint}",
            keys.private, peer.public_key, peer.allowed_ip
        );
        let file = "/run/wg0.conf";
        host.write(file, &configuration)?;
        host.run("wg", &["setconf", INTERFACE, file])?;
        host.ip([
            format!("addr add {address} dev {INTERFACE}"),
            format!("link set {INTERFACE} mtu 1420 up"),
        ])?;
        Ok(Self {
            host: host.clone(),
            userspace,
            peer: peer.public_key.to_owned(),
        })
    }

    /// Who carries the packets here.
    pub fn implementation(&self) -> Implementation {
        if self.userspace.is_some() {
            Implementation::WireguardGo
        } else {
            Implementation::Kernel
        }
    }

    /// The peer's endpoint as WireGuard has it now, once it has one.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn endpoint(&self) -> Result<Option<SocketAddr>> {
        let shown = self.peer_field("endpoints")?;
        Ok(if shown == "(none)" {
            None
        } else {
            Some(shown.parse().with_context(|| shown.clone())?)
        })
    }

    /// Unix time of the latest handshake, 0 before the first.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn latest_handshake(&self) -> Result<u64> {
        Ok(self.peer_field("latest-handshakes")?.parse()?)
    }

    /// The port it listens on.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn listen_port(&self) -> Result<u16> {
        Ok(self
            .host
            .run("wg", &["show", INTERFACE, "listen-port"])?
            .trim()
            .parse()?)
    }

    /// The host that it is in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The other end's value in `wg show wg0 FIELD`, which prints "key TAB value" for each peer.
    fn peer_field(&self, field: &str) -> Result<String> {
        let shown = self.host.run("wg", &["show", INTERFACE, field])?;
        let mut values = shown.lines().filter_map(|line| line.split_once('\t'));
        let value = values.find(|(key, _)| *key == self.peer);
        let (_, value) =
            value.with_context(|| format!("`wg show {INTERFACE} {field}` does not show the other end: {shown:?}"))?;
        Ok(value.to_owned())
    }
}

fn wireguard_go(host: &Host) -> Result<Process> {
    let mut command = host.command("wireguard-go");
    command.args(["-f", INTERFACE]).env("LOG_LEVEL", "error");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn("wireguard-go", command)?;
    poll::wait_until("wireguard-go's UAPI socket", Duration::from_secs(10), || {
        if let Some(status) = process.ended()? {
            bail!("wireguard-go ended ({status})");
        }
        Ok(host.enter(|| std::path::Path::new("/var/run/wireguard/wg0.sock").exists()))
    })?;
    Ok(process)
}

/// `wg ARGS` with `input`; what it printed.
fn wg(args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("wg");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("starting `wg`: install wireguard-tools")?;
    child
        .stdin
        .take()
        .context("no pipe to wg")?
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "`wg {}` failed ({})",
        args.join(" "),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
