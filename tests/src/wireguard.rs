//! WireGuard at both ends, set up with `wg` and `ip`: the kernel's where there is one, else wireguard-go.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use wireguard_control::Key;

use crate::host::Host;
use crate::poll;
use crate::process::Process;

/// The interface, at both ends, unless there are several.
pub const INTERFACE: &str = "wg0";
/// The listen port, at both ends, unless there are several.
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
    #[must_use]
    pub fn generate() -> Self {
        let private = Key::generate_private();
        Self {
            public: private.get_public().to_base64(),
            private: private.to_base64(),
        }
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

/// One end as it shall be.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The interface's name.
    pub interface: &'a str,
    /// The port it listens on; without one WireGuard takes any.
    pub listen_port: Option<u16>,
    /// Its keys.
    pub keys: &'a Keys,
    /// Its address inside the tunnel, with the length of the tunnel's prefix.
    pub address: &'a str,
    /// Its peers.
    pub peers: &'a [Peer<'a>],
}

impl<'a> Setup<'a> {
    /// [`INTERFACE`] on [`LISTEN_PORT`].
    pub fn new(keys: &'a Keys, address: &'a str, peers: &'a [Peer<'a>]) -> Self {
        Self {
            interface: INTERFACE,
            listen_port: Some(LISTEN_PORT),
            keys,
            address,
            peers,
        }
    }

    /// For `wg setconf`.
    fn configuration(&self) -> String {
        let port = self.listen_port.map(|port| format!("ListenPort = {port}\n"));
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\n{}",
            self.keys.private,
            port.unwrap_or_default()
        );
        for peer in self.peers {
            text += &format!(
                "[Peer]\nPublicKey = {}\nAllowedIPs = {}\n",
                peer.public_key, peer.allowed_ip
            );
            text += &peer
                .endpoint
                .map(|endpoint| format!("Endpoint = {endpoint}\n"))
                .unwrap_or_default();
        }
        text
    }
}

/// One end of a tunnel. Dropped, a wireguard-go is killed; a kernel interface goes with its host.
#[derive(Debug)]
pub struct WireGuard {
    host: Host,
    interface: String,
    userspace: Option<Process>,
    /// The public key of the first peer.
    peer: Option<String>,
}

impl WireGuard {
    /// Raises an interface in `host`.
    ///
    /// # Errors
    /// Neither the kernel nor wireguard-go would, or the configuration was refused.
    pub fn raise(host: &Host, setup: &Setup<'_>) -> Result<Self> {
        let interface = setup.interface;
        let kernel = host.run("ip", &["link", "add", interface, "type", "wireguard"]);
        let userspace = match kernel {
            Ok(_) => None,
            Err(kernel) => Some(
                wireguard_go(host, interface)
                    .context(kernel)
                    .context("no WireGuard in the kernel, and no other")?,
            ),
        };
        let file = format!("/run/{interface}.conf");
        host.write(&file, &setup.configuration())?;
        host.run("wg", &["setconf", interface, &file])?;
        host.ip([
            format!("addr add {} dev {interface}", setup.address),
            format!("link set {interface} mtu 1420 up"),
        ])?;
        Ok(Self {
            host: host.clone(),
            interface: interface.to_owned(),
            userspace,
            peer: setup.peers.first().map(|peer| peer.public_key.to_owned()),
        })
    }

    /// Ends it: the interface is gone, and its port free.
    ///
    /// # Errors
    /// It stays.
    pub fn end(&mut self) -> Result<()> {
        match self.userspace.take() {
            Some(process) => drop(process),
            None => self.host.ip([format!("link del {}", self.interface)])?,
        }
        let interface = self.interface.clone();
        poll::wait_until(&format!("{interface} to be gone"), Duration::from_secs(5), || {
            Ok(self.host.run("ip", &["link", "show", &interface]).is_err())
        })
    }

    /// Changes something while it runs, as `wg set INTERFACE CHANGE…`.
    ///
    /// # Errors
    /// `wg` failed.
    pub fn set(&self, change: &[&str]) -> Result<()> {
        self.host
            .run("wg", &[&["set", &self.interface], change].concat())
            .map(drop)
    }

    /// Who carries the packets here.
    pub fn implementation(&self) -> Implementation {
        if self.userspace.is_some() {
            Implementation::WireguardGo
        } else {
            Implementation::Kernel
        }
    }

    /// Keeps a wireguard-go to this core; the kernel's WireGuard works on all of them.
    ///
    /// # Errors
    /// There is no such core, or it has ended.
    pub fn keep_to(&self, core: usize) -> Result<()> {
        let userspace = self.userspace.as_ref();
        userspace.map_or(Ok(()), |process| crate::cores::keep(process.pid(), core))
    }

    /// Gives a wireguard-go's sockets room for so many bytes of what it has not read yet, as `net.core.rmem_default` does for the whole machine before it starts; the kernel's
    /// WireGuard reads at once.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn make_room(&self, bytes: usize) -> Result<()> {
        let Some(userspace) = &self.userspace else {
            return Ok(());
        };
        for socket in userspace.sockets()? {
            setsockopt(&socket, RcvBufForce, &bytes)?;
        }
        Ok(())
    }

    /// The first peer's endpoint as WireGuard has it now, once it has one.
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

    /// Unix time of the first peer's latest handshake, 0 before there was one.
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
            .run("wg", &["show", &self.interface, "listen-port"])?
            .trim()
            .parse()?)
    }

    /// The host that it is in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The first peer's value in `wg show INTERFACE FIELD`, which prints "key TAB value" for each peer, in an order of its own.
    fn peer_field(&self, field: &str) -> Result<String> {
        let interface = &self.interface;
        let shown = self.host.run("wg", &["show", interface, field])?;
        let mut values = shown.lines().filter_map(|line| line.split_once('\t'));
        let value = values.find(|(key, _)| Some(*key) == self.peer.as_deref());
        let (_, value) =
            value.with_context(|| format!("`wg show {interface} {field}` does not show the first peer: {shown:?}"))?;
        Ok(value.to_owned())
    }
}

fn wireguard_go(host: &Host, interface: &str) -> Result<Process> {
    let mut command = host.command("wireguard-go");
    command.args(["-f", interface]).env("LOG_LEVEL", "error");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::spawn("wireguard-go", command)?;
    poll::wait_until("wireguard-go's UAPI socket", Duration::from_secs(10), || {
        if let Some(status) = process.ended()? {
            bail!("wireguard-go ended ({status})");
        }
        let socket = format!("/var/run/wireguard/{interface}.sock");
        // Being there is not enough: until it listens `wg` takes the socket for a dead one's and removes it.
        Ok(host.enter(|| UnixStream::connect(&socket)).is_ok())
    })?;
    Ok(process)
}
