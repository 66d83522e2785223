//! A laboratory host: an anonymous pair of namespaces.
//!
//! A thread unshares its network and mount namespaces, mounts a `/sys`, a `/sys/fs/bpf` and a `/run` of its own there, sets `lo` up
//! and ends; two file descriptors keep the namespaces. Nothing is named in `/var/run/netns`, so when the laboratory
//! ends, however it ends, the kernel takes the namespaces with all devices, routes, rules, programs and pins in them.
//! WireGuard's UAPI sockets and wgxdp's lock live in `/run` and are therefore each host's own: both ends of a tunnel
//! may be called `wg0`.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process;

/// A host of the laboratory.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespaces: Arc<Namespaces>,
}

#[derive(Debug)]
struct Namespaces {
    net: File,
    mount: File,
}

impl Namespaces {
    /// Moves the calling thread, which must share its working directory with no other.
    fn join(&self) -> nix::Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        setns(&self.mount, CloneFlags::CLONE_NEWNS)
    }
}

impl Host {
    /// Makes a host; `name` is for messages only.
    ///
    /// # Errors
    /// Not root, or the kernel has no such namespaces or file systems.
    pub fn new(name: &str) -> Result<Self> {
        let made = thread::scope(|scope| scope.spawn(make_namespaces).join());
        let namespaces = made
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
            .with_context(|| format!("making the namespaces of host {name} (needs root)"))?;
        Ok(Self {
            name: name.to_owned(),
            namespaces: Arc::new(namespaces),
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path by which `ip link … netns PATH` finds this host, as long as it lives.
    pub fn netns_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespaces.net.as_raw_fd())
    }

    /// The network namespace's inode number, its identity.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn netns_inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(self.namespaces.net.metadata()?.ino())
    }

    /// Runs `work` inside, on a thread of its own. Sockets opened there stay in this host.
    ///
    /// # Panics
    /// If `work` panics, or the namespaces cannot be entered although they exist.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespaces = &*self.namespaces;
        let inside = move || {
            // A mount namespace is entered only by a thread with file-system attributes of its own.
            let entered = unshare(CloneFlags::CLONE_FS).and_then(|()| namespaces.join());
            if let Err(errno) = entered {
                panic!("entering a laboratory host: {errno}");
            }
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// A command that runs inside. It dies with the thread that spawns it; long-lived ones go through
    /// [`process::Process`].
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespaces = Arc::clone(&self.namespaces);
        // SAFETY: between fork and exec the closure makes two system calls on descriptors that it keeps open, and
        // allocates nothing.
        unsafe { command.pre_exec(move || namespaces.join().map_err(io::Error::from)) };
        process::die_with_parent(&mut command);
        command
    }

    /// Runs a command inside to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// It is not there, or it failed: then with what it wrote to standard error.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let described = || format!("`{program} {}` in {}", args.join(" "), self.name);
        let output = self.command(program).args(args).output().with_context(described)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed ({}): {}", described(), output.status, stderr.trim());
        }
        String::from_utf8(output.stdout).with_context(described)
    }

    /// Runs lines of `ip` as one batch.
    ///
    /// # Errors
    /// The first line that failed.
    pub fn ip<L: AsRef<str>>(&self, lines: impl IntoIterator<Item = L>) -> Result<()> {
        let batch = lines
            .into_iter()
            .fold(String::new(), |batch, line| batch + line.as_ref() + "\n");
        self.write("/run/ip.batch", &batch)?;
        self.run("ip", &["-batch", "/run/ip.batch"])
            .map(|_| ())
            .with_context(|| format!("the batch was:\n{batch}"))
    }

    /// Sets a device down as `ip link set NAME down` does, and at once: to start a program takes a processor for longer than the gap of a pulled cable lasts.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn set_link_down(&self, name: &str) -> Result<()> {
        self.enter(|| set_link(name, false))
            .with_context(|| format!("setting {name} down in {}", self.name))
    }

    /// Writes `settings` below `/proc/sys`, as (`net/ipv4/ip_forward`, `1`).
    ///
    /// # Errors
    /// The first that failed, by name.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("writing {value} to {} in {}", path.display(), self.name))?;
            }
            Ok(())
        })
    }

    /// Writes a file as this host sees it: below `/run` it is the host's own.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write(&self, path: &str, contents: &str) -> Result<()> {
        self.enter(|| fs::write(path, contents))
            .with_context(|| format!("writing {path} in {}", self.name))
    }
}

fn make_namespaces() -> Result<Namespaces> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making / private")?;
    // sysfs shows the devices of the namespace that mounted it.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mounting sysfs on /sys")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("mounting bpffs on /sys/fs/bpf")?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .context("mounting tmpfs on /run")?;
    if fs::canonicalize("/var/run").is_ok_and(|path| path != Path::new("/run")) {
        mount(Some("/run"), "/var/run", none, MsFlags::MS_BIND, none).context("binding /run to /var/run")?;
    }
    set_link("lo", true).context("setting lo up")?;
    let net = File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
    let mount = File::open("/proc/thread-self/ns/mnt").context("/proc/thread-self/ns/mnt")?;
    Ok(Namespaces { net, mount })
}

/// Sets a device up or down as `ip link set` does (netdevice(7)), without a program: of those, each costs a law in an emulated guest a tenth of a second.
fn set_link(name: &str, up: bool) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: an interface request is plain numbers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let ask = |what, request: &mut libc::ifreq| {
        // SAFETY: the kernel reads and writes a request, which outlives the call.
        match unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    ask(libc::SIOCGIFFLAGS, &mut request)?;
    let bit = libc::IFF_UP as libc::c_short;
    // SAFETY: what the kernel has answered are the flags.
    let flags = unsafe { &mut request.ifr_ifru.ifru_flags };
    *flags = if up { *flags | bit } else { *flags & !bit };
    ask(libc::SIOCSIFFLAGS, &mut request)
}
