//! FRR as operators run it for this job: at both ends `bfdd` with 10 ms × 3 by each uplink, a BGP session beside each, and `zebra`, which moves the branch's
//! route to the hub when BFD ends the session that it came by.
//!
//! The sessions are multihop, between the branch's uplink addresses and the hub's addresses towards the two routers, so that they see a cut beyond the
//! branch's own link. Daemons run in the foreground as our children; sockets, pid files and configurations are in each host's own `/run`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, iter};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::host::Host;
use crate::poll;
use crate::process::Process;
use crate::topology::{Family, Lab, Uplink};

/// Names the root below which FRR was unpacked or installed.
pub const ROOT_VARIABLE: &str = "WGXDP_FRR";
/// From BFD packet to BFD packet: the least that bfdd takes.
pub(super) const INTERVAL: Duration = Duration::from_millis(10);
/// The daemons in the order in which they are started, and the socket that shows each to be ready.
const DAEMONS: [(&str, &str); 3] = [("zebra", "zserv.api"), ("bfdd", "bfdd.vty"), ("bgpd", "bgpd.vty")];
/// How long a daemon may take to start, and the sessions to come up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a question to a daemon may take.
const ANSWER: Duration = Duration::from_secs(2);
/// The ends' autonomous systems.
const BRANCH_AS: u32 = 65_001;
const HUB_AS: u32 = 65_002;

/// FRR at both ends; dropped, all daemons end.
#[derive(Debug)]
pub(super) struct Frr {
    _daemons: Vec<Process>,
}

/// Where FRR is.
///
/// # Errors
/// Nowhere; the message says why.
pub(super) fn root() -> Result<PathBuf> {
    let root = env::var_os(ROOT_VARIABLE).map(PathBuf::from);
    let root = root.with_context(|| {
        format!("{ROOT_VARIABLE} does not name it, as `cargo xtask bench` does where FRR can be fetched")
    })?;
    let bfdd = program(&root, "bfdd");
    ensure!(
        bfdd.is_file(),
        "{ROOT_VARIABLE} names {}, but there is no {}",
        root.display(),
        bfdd.display()
    );
    Ok(root)
}

impl Frr {
    /// Starts all daemons and waits until both BFD sessions are up and the branch's route goes by isp-a.
    ///
    /// # Errors
    /// There is no FRR, a daemon ended, or the sessions do not come up.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let root = root()?;
        // Each session keeps to its uplink, whatever becomes of the default route.
        lab.branch.ip(Uplink::ALL.map(|uplink| {
            let (transit, lan) = (uplink.transit().0, uplink.subnets().0);
            format!("route add {transit}.0/24 via {lan}.1 dev {}", uplink.name())
        }))?;
        let mut daemons = raise(&root, &lab.branch, &branch_bgp())?;
        daemons.extend(raise(&root, &lab.hub, &hub_bgp(lab))?);
        let frr = Self { _daemons: daemons };
        poll::wait_until("both BFD sessions and the route by isp-a", PATIENCE, || {
            Ok(sessions_up(&lab.branch)? == Uplink::ALL.len() && goes_by_isp_a(lab)?)
        })?;
        Ok(frr)
    }
}

fn goes_by_isp_a(lab: &Lab) -> Result<bool> {
    let route = lab
        .branch
        .run("ip", &["route", "show", &lab.hub_endpoint().ip().to_string()])?;
    Ok(route.contains(&format!("dev {}", Uplink::A.name())))
}

/// Starts the daemons in `host`.
fn raise(root: &Path, host: &Host, bgp: &str) -> Result<Vec<Process>> {
    host.run("mkdir", &["-p", "/run/frr"])?;
    accounts(host)?;
    let profile = format!(
        "bfd\n profile lab\n  detect-multiplier 3\n  transmit-interval {0}\n  receive-interval {0}\n exit\nexit\n",
        INTERVAL.as_millis()
    );
    let mut daemons = Vec::new();
    for ((daemon, socket), configuration) in DAEMONS.into_iter().zip(["", &profile, bgp]) {
        let file = format!("/run/frr/{daemon}.conf");
        host.write(&file, configuration)?;
        let mut command = host.command(program(root, daemon));
        // The vty's TCP port stays closed: its Unix socket is enough.
        command.args([
            "--config_file",
            &file,
            "--vty_port",
            "0",
            "--log",
            &format!("file:/run/frr/{daemon}.log"),
        ]);
        command.env("LD_LIBRARY_PATH", env::join_paths(libraries(root))?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(daemon, command)?;
        let socket = PathBuf::from("/run/frr").join(socket);
        poll::wait_until(&format!("FRR's {daemon}"), PATIENCE, || {
            if let Some(status) = process.ended()? {
                let log = host
                    .run("cat", &[&format!("/run/frr/{daemon}.log")])
                    .unwrap_or_default();
                bail!("{daemon} ended ({status}) in {}: {log}", host.name());
            }
            Ok(host.enter(|| socket.exists()))
        })?;
        daemons.push(process);
    }
    Ok(daemons)
}

fn program(root: &Path, daemon: &str) -> PathBuf {
    root.join("usr/lib/frr").join(daemon)
}

fn libraries(root: &Path) -> impl Iterator<Item = PathBuf> {
    let multiarch = root.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH));
    iter::once(multiarch.join("frr")).chain([multiarch])
}

/// Debian's FRR becomes the user `frr`, whom its package's installation would have made: in this host alone there is one, and it is root.
fn accounts(host: &Host) -> Result<()> {
    host.write("/run/passwd", "root:x:0:0::/root:/bin/sh\nfrr:x:0:0::/:/bin/false\n")?;
    host.write("/run/group", "root:x:0:\nfrr:x:0:\nfrrvty:x:0:\n")?;
    for name in ["passwd", "group"] {
        host.run("mount", &["--bind", &format!("/run/{name}"), &format!("/etc/{name}")])?;
    }
    Ok(())
}

/// The branch hears of the hub by both uplinks and prefers isp-a.
fn branch_bgp() -> String {
    let sessions = Uplink::ALL.map(|uplink| neighbour(far(uplink), HUB_AS, near(uplink)));
    let preferred = format!(
        " address-family ipv4 unicast\n  neighbor {} weight 200\n exit-address-family\n",
        far(Uplink::A)
    );
    bgp(BRANCH_AS, near(Uplink::A), &(sessions.concat() + &preferred))
}

/// The hub tells where its WireGuard is.
fn hub_bgp(lab: &Lab) -> String {
    let sessions = Uplink::ALL.map(|uplink| neighbour(near(uplink), BRANCH_AS, far(uplink)));
    let told = format!(
        " address-family ipv4 unicast\n  network {}/32\n exit-address-family\n",
        lab.hub_endpoint().ip()
    );
    bgp(HUB_AS, far(Uplink::B), &(sessions.concat() + &told))
}

fn bgp(number: u32, id: String, sessions: &str) -> String {
    format!("router bgp {number}\n bgp router-id {id}\n no bgp ebgp-requires-policy\n{sessions}exit\n")
}

/// A session: quick to come back, ended by BFD.
fn neighbour(peer: String, number: u32, source: String) -> String {
    [
        format!("remote-as {number}"),
        "ebgp-multihop 4".to_owned(),
        format!("update-source {source}"),
        "timers connect 1".to_owned(),
        "advertisement-interval 0".to_owned(),
        "bfd".to_owned(),
        "bfd profile lab".to_owned(),
    ]
    .map(|line| format!(" neighbor {peer} {line}\n"))
    .concat()
}

/// The branch's address on an uplink.
fn near(uplink: Uplink) -> String {
    uplink.address(Family::V4).to_string()
}

/// The hub's address towards the uplink's router.
fn far(uplink: Uplink) -> String {
    format!("{}.2", uplink.transit().0)
}

/// How many BFD sessions are up at `host`.
fn sessions_up(host: &Host) -> Result<usize> {
    let answer = ask(host, "bfdd", "show bfd peers json")?;
    let peers: Vec<Value> = serde_json::from_str(&answer).with_context(|| format!("bfdd's answer: {answer}"))?;
    Ok(peers.iter().filter(|peer| peer["status"] == "up").count())
}

/// Asks a daemon by its Unix socket, as vtysh does.
fn ask(host: &Host, daemon: &str, question: &str) -> Result<String> {
    let connect = || UnixStream::connect(format!("/run/frr/{daemon}.vty"));
    let vty = host
        .enter(connect)
        .with_context(|| format!("connecting to FRR's {daemon}"))?;
    vty.set_read_timeout(Some(ANSWER))?;
    say(&vty, "enable")
        .and_then(|_| say(&vty, question))
        .with_context(|| format!("asking FRR's {daemon} {question:?}"))
}

/// A command ends with a zero byte, its answer with three of them and a status.
fn say(mut vty: &UnixStream, command: &str) -> Result<String> {
    vty.write_all(&[command.as_bytes(), &[0]].concat())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = vty.read(&mut buffer)?;
        ensure!(length > 0, "it hung up");
        answer.extend(buffer.iter().take(length));
        if let Some((text, [0, 0, 0, _])) = answer.split_last_chunk() {
            return Ok(String::from_utf8_lossy(text).into_owned());
        }
    }
}
