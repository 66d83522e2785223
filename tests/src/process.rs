//! Processes that never outlive the laboratory.
//!
//! Each is killed and waited for by its guard, and by the kernel (`PR_SET_PDEATHSIG`) if the laboratory itself is
//! killed. The kernel ties that signal to the *thread* that spawned, so long-lived children are all spawned by one
//! thread that lives as long as the process. Each gets a process group of its own: Ctrl-C in the terminal reaches the
//! laboratory alone, which takes everything down in order.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::poll;

/// A spawned process, killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Spawns `command`; `name` is for messages.
    ///
    /// # Errors
    /// The program is not there, or the kernel refused.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        command.process_group(0);
        die_with_parent(&mut command);
        let child = nursery(command).with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its sockets, as descriptors of ours (pidfd_getfd(2)).
    ///
    /// # Errors
    /// It has ended, or we may not.
    pub(crate) fn sockets(&self) -> Result<Vec<OwnedFd>> {
        let owned = |fd: libc::c_long| match i32::try_from(fd) {
            // SAFETY: the kernel has just made it for us.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: numbers alone go to the kernel, here and below.
        let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid(), 0) })?;
        let mut sockets = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid()))? {
            let entry = entry?;
            let points_to = fs::read_link(entry.path())?;
            if !points_to.to_string_lossy().starts_with("socket:") {
                continue;
            }
            let number: i32 = entry.file_name().to_string_lossy().parse()?;
            // SAFETY: as above.
            sockets.push(owned(unsafe {
                libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0)
            })?);
        }
        Ok(sockets)
    }

    /// The child itself, to take its pipes from.
    pub(crate) fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        signal::kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    /// It did not end within `bound`; its guard kills it then.
    pub fn stop(&mut self, signal: Signal, bound: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        let what = format!("the end of {} after {signal}", self.name);
        poll::wait_for(&what, bound, || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `command` die with the thread that spawns it.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let arrange = move || {
        // SAFETY: prctl and getppid are plain system calls without pointers.
        let orphan = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::getppid().cast_unsigned() != parent
        };
        if orphan {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(arrange) };
}

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns on the thread that lives as long as the process.
fn nursery(command: Command) -> Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, inbox): (Sender<Order>, Receiver<Order>) = mpsc::channel();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits for the reply only when the asking thread has died; dropping a `Child` kills nothing,
                // but then the process is about to end too.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    orders
        .send((command, reply))
        .context("the thread that spawns children is gone")?;
    Ok(answer.recv().context("the thread that spawns children is gone")??)
}
