//! One guest, from boot to power-off, bounded in time.
//!
//! The first serial line is the kernel's console and goes to a file; the second carries what init and the tests print, and
//! is handed on as it comes, and what it asks of us: to be suspended for a while. The guest has no disk and no screen, and two virtio network cards that are joined to each other and to nothing else.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::serial::Log;
use super::{Guest, GuestResult};
use crate::sh;

/// No guest runs longer.
const LIMIT: Duration = Duration::from_secs(35 * 60);

/// Without hardware virtualisation a guest may stand still for seconds: its watchdogs would speak of us, not of it. Grace periods are
/// expedited, because making and unmaking a host in the laboratory waits for dozens. An emulated processor does not speculate, but the kernel would take it for one that does and
/// has no remedy in hardware: every indirect call, to a BPF program among them, would be a detour that no current processor takes.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic nowatchdog rcupdate.rcu_cpu_stall_suppress=1 rcupdate.rcu_expedited=1 mitigations=off rdinit=/init";

/// The network cards: two ports of one hub inside QEMU, which knows no offloads. Without the option ROM they need no file.
const CARDS: [&str; 8] = [
    "-netdev",
    "hubport,id=left,hubid=0",
    "-device",
    "virtio-net-pci,netdev=left,mac=02:57:00:00:00:0a,romfile=",
    "-netdev",
    "hubport,id=right,hubid=0",
    "-device",
    "virtio-net-pci,netdev=right,mac=02:57:00:00:00:0b,romfile=",
];

/// How much of the kernel's console is shown when it had trouble.
const CONSOLE_TAIL: usize = 60;

/// Boots it and follows it to its end.
pub(super) fn run(guest: &Guest, show: &mut dyn FnMut(&str)) -> Result<GuestResult> {
    let Guest {
        kernel,
        image,
        tests,
        processors,
    } = guest;
    let [console, pid_file] =
        ["console", "pid"].map(|kind| sh::target_dir().join(format!("vm/{}.{kind}", kernel.release)));
    let qemu = sh::find_program("qemu-system-x86_64")
        .context("qemu-system-x86_64 is not there: `cargo xtask setup` installs it")?;
    let accelerator = if has_kvm() { "kvm" } else { "tcg,thread=multi" };
    show(&format!(
        "{} in QEMU ({accelerator}); its console is in {}",
        kernel.release,
        console.display()
    ));

    let words = sh::bounded(
        LIMIT,
        &qemu,
        ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
    );
    let mut command = sh::command(&words[0], &words[1..]);
    command.args(["-accel", accelerator, "-cpu", "max", "-m", "1536"]);
    command.args(["-smp", &processors.to_string()]);
    command.args(CARDS);
    command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(image);
    command.args(["-append", KERNEL_ARGUMENTS]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    command.arg("-pidfile").arg(&pid_file);

    let mut log = Log::new(tests.iter().map(|test| test.name.as_str()));
    let status = sh::stream(&mut command, |line| {
        if !line.is_empty() {
            show(line);
        }
        if let Some(time) = log.line(line) {
            log.suspended(suspend(&pid_file, time));
        }
    })?;
    let said = fs::read(&console).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let own = if let Some(trouble) = trouble(&said) {
        Some(format!("the guest's kernel: {trouble}"))
    } else if status.code() == Some(sh::TIMED_OUT) {
        Some(format!("the guest was still running after {} s", LIMIT.as_secs()))
    } else {
        (!status.success()).then(|| format!("QEMU failed ({status})"))
    };
    let failures: Vec<String> = own.into_iter().chain(log.failure(&kernel.release)).collect();
    if trouble(&said).is_some() || !log.has_booted() {
        show(&format!("the end of {}:", console.display()));
        for line in tail(&said) {
            show(&format!("console | {line}"));
        }
    }
    Ok(GuestResult {
        tally: log.tally(),
        failure: (!failures.is_empty()).then(|| failures.join(", ")),
    })
}

/// Stops the QEMU that wrote this file, and has it go on after `time`: by a process of its own, which does so whatever becomes of us. Nobody tells QEMU, so the clocks that it shows its
/// guest, which are the host's, go on. (Asked by its monitor it would stop them, too.)
fn suspend(pid_file: &Path, time: Duration) -> Result<()> {
    let pid = fs::read_to_string(pid_file).with_context(|| format!("cannot read {}", pid_file.display()))?;
    let script = "kill -STOP $0 && sleep $1; kill -CONT $0";
    sh::run(&mut sh::command(
        "sh",
        ["-c", script, pid.trim(), &time.as_secs_f64().to_string()],
    ))
}

/// The first line in which the kernel complains of itself.
fn trouble(console: &str) -> Option<&str> {
    const SIGNS: [&str; 6] = [
        "Kernel panic",
        "BUG:",
        "Oops",
        "WARNING: CPU",
        "general protection fault",
        "Out of memory:",
    ];
    console
        .lines()
        .map(str::trim)
        .find(|line| SIGNS.iter().any(|sign| line.contains(sign)))
}

/// From some lines before the first trouble, else the last lines.
fn tail(console: &str) -> Vec<&str> {
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let first = trouble(console).and_then(|trouble| lines.iter().position(|line| line.trim() == trouble));
    let start = first.map_or(lines.len().saturating_sub(CONSOLE_TAIL), |line| line.saturating_sub(5));
    lines[start..].iter().take(CONSOLE_TAIL).copied().collect()
}

/// Whether there is hardware virtualisation. /dev/kvm alone is no sign: it may be there, open, and not run a guest.
fn has_kvm() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
        && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_complaint_is_found_and_shown_with_what_came_before() {
        let quiet: String = (0..100).map(|n| format!("[ {n}] fine\r\n")).collect();
        assert_eq!(trouble(&quiet), None);
        let loud = format!("{quiet}[ 100] BUG: kernel NULL pointer dereference\r\n[ 101] RIP: 0010:steer\r\n");
        assert_eq!(trouble(&loud), Some("[ 100] BUG: kernel NULL pointer dereference"));
        let shown = tail(&loud);
        assert_eq!(
            (shown.first(), shown.last()),
            (Some(&"[ 95] fine"), Some(&"[ 101] RIP: 0010:steer"))
        );
        assert_eq!(tail(&quiet).len(), CONSOLE_TAIL);
    }
}
