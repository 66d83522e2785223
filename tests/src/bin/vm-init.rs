//! The first and only process of a guest that `cargo xtask test` boots: it does what `/plan` says and powers off.
//!
//! The plan has one step a line, its words parted by tabs; `xtask` writes it:
//!
//! ```text
//! env     NAME  VALUE             for what follows
//! module  FILE  PARAMETERS        loaded
//! run     NAME  PROGRAM  ARG…     to its end
//! ```
//!
//! Everything is said on the second serial line, because the kernel writes on the first: what the programs print, and lines
//! of our own, `WGXDP-VM boot RELEASE`, `start NAME`, `exit NAME CODE`, `error TEXT`, `end`. The first step that cannot be
//! done ends the run, with `error`. (A test may write such a line, too: `suspend MS`.)

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;
use nix::sys::utsname::uname;

const SERIAL: &str = "/dev/ttyS1";

/// Type, where, whether it must be there.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
];

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "vm-init is the first process of a guest that `cargo xtask test` boots; it does nothing anywhere else"
        );
        std::process::exit(2);
    }
    // Where the serial line itself cannot be had, the console says so, and the missing lines are the failure.
    if let Err(error) = guest() {
        eprintln!("vm-init: {error:#}");
    }
    let Err(error): nix::Result<Infallible> = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vm-init: cannot power off: {error}");
}

fn guest() -> Result<()> {
    for (kind, target) in MOUNTS {
        let none: Option<&str> = None;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), none).with_context(|| format!("{kind} on {target}"))?;
    }
    let mut serial = OpenOptions::new()
        .write(true)
        .open(SERIAL)
        .with_context(|| format!("cannot open {SERIAL}"))?;
    if let Err(error) = carry_out(&mut serial) {
        say(
            &mut serial,
            &format!("error {}", format!("{error:#}").replace('\n', " ")),
        )?;
    }
    tcdrain(&serial).context("what was said last may not have been sent")
}

fn carry_out(serial: &mut File) -> Result<()> {
    let release = uname()?.release().to_string_lossy().into_owned();
    say(serial, &format!("boot {release}"))?;
    let lo = Command::new("/bin/ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("cannot start ip")?;
    if !lo.success() {
        bail!("`ip link set lo up` failed ({lo})");
    }
    let plan = fs::read_to_string("/plan").context("cannot read /plan")?;
    let mut environment = Vec::new();
    for line in plan.lines() {
        match Step::parse(line)? {
            Step::Variable { name, value } => environment.push((name, value)),
            Step::Module { file, parameters } => load(file, parameters)?,
            Step::Run { name, program, args } => {
                say(serial, &format!("start {name}"))?;
                let mut command = Command::new(program);
                command
                    .args(args)
                    .env_clear()
                    .envs(environment.iter().copied())
                    .current_dir("/");
                command
                    .stdin(Stdio::null())
                    .stdout(serial.try_clone()?)
                    .stderr(serial.try_clone()?);
                let status = command.status().with_context(|| format!("cannot start {program}"))?;
                say(serial, &format!("exit {name} {}", code(status)))?;
            }
        }
    }
    say(serial, "end")
}

/// One line of ours, in one write; a program may have left its last line without an end.
fn say(serial: &mut File, what: &str) -> Result<()> {
    serial
        .write_all(format!("\nWGXDP-VM {what}\n").as_bytes())
        .with_context(|| format!("cannot write to {SERIAL}"))
}

/// The exit code, or as in a shell 128 and the signal.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn load(file: &str, parameters: &str) -> Result<()> {
    let module = File::open(file).with_context(|| format!("cannot open {file}"))?;
    finit_module(&module, &CString::new(parameters)?, ModuleInitFlags::empty())
        .with_context(|| format!("cannot load {file}"))
}

/// A line of the plan.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Variable {
        name: &'a str,
        value: &'a str,
    },
    Module {
        file: &'a str,
        parameters: &'a str,
    },
    Run {
        name: &'a str,
        program: &'a str,
        args: Vec<&'a str>,
    },
}

impl<'a> Step<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        let words: Vec<&str> = line.split('\t').collect();
        Ok(match words[..] {
            ["env", name, value] => Self::Variable { name, value },
            ["module", file, parameters] => Self::Module { file, parameters },
            ["run", name, program, ref args @ ..] => Self::Run {
                name,
                program,
                args: args.to_vec(),
            },
            _ => bail!("the plan says what we cannot do: {line:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_step_is_read() {
        assert_eq!(
            Step::parse("env\tPATH\t/bin").unwrap(),
            Step::Variable {
                name: "PATH",
                value: "/bin"
            }
        );
        let module = Step::Module {
            file: "/modules/veth.ko",
            parameters: "",
        };
        assert_eq!(Step::parse("module\t/modules/veth.ko\t").unwrap(), module);
        let run = Step::Run {
            name: "netns",
            program: "/tests/netns",
            args: vec!["--test-threads=1", "a filter"],
        };
        assert_eq!(
            Step::parse("run\tnetns\t/tests/netns\t--test-threads=1\ta filter").unwrap(),
            run
        );
    }

    #[test]
    fn what_is_no_step_is_refused() {
        for line in ["", "env\tPATH", "run\tnetns", "module /x.ko", "reboot"] {
            assert!(Step::parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_program_ended_by_a_signal_has_a_code_that_is_not_zero() {
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(code(ExitStatus::from_raw(101 << 8)), 101);
    }
}
