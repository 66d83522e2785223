//! Which core of the processor does what, and before whom, where a measurement is not to depend on how the kernel moves threads about.

use std::fs;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The cores that the calling thread may use.
///
/// # Errors
/// What the kernel said.
pub(crate) fn all_usable() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(THIS_THREAD)?;
    let is_allowed = |core: &usize| allowed.is_set(*core) == Ok(true);
    Ok((0..CpuSet::count()).filter(is_allowed).collect())
}

/// One of these cores, counted from 0 on and, when there are not so many, from 0 on again.
///
/// # Errors
/// What the kernel said.
pub(crate) fn usable(number: usize) -> Result<usize> {
    let cores = all_usable()?;
    let core = cores.get(number % cores.len().max(1));
    core.copied().context("this thread may run nowhere")
}

/// Keeps the calling thread to this core for as long as `work` takes.
///
/// # Errors
/// There is no such core, or `work` failed.
pub(crate) fn on_core<T>(core: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(THIS_THREAD)?;
    sched_setaffinity(THIS_THREAD, &only(core)?)?;
    let done = work();
    sched_setaffinity(THIS_THREAD, &before)?;
    done
}

/// Keeps all threads of a process to this core; those that they start inherit it.
///
/// # Errors
/// There is no such process or core.
pub(crate) fn keep(pid: u32, core: usize) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let thread = task?.file_name().to_string_lossy().parse().context(tasks.clone())?;
        match sched_setaffinity(Pid::from_raw(thread), &only(core)?) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("keeping thread {thread} to core {core}")),
        }
    }
    Ok(())
}

/// Has the calling thread run by this real-time policy, at this priority of 1 to 99.
///
/// # Errors
/// What the kernel said.
pub(crate) fn run_in_real_time(policy: libc::c_int, priority: libc::c_int) -> Result<(), Errno> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the pointer is to a structure that lives through the call; 0 names the calling thread.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
}

fn only(core: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("core {core}"))?;
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_on_its_core_during_its_work_and_free_again_afterwards() {
        let before = sched_getaffinity(THIS_THREAD).expect("there is one");
        let core = usable(1).expect("there is a core");
        let during = on_core(core, || Ok(sched_getaffinity(THIS_THREAD)?)).expect("the core is usable");
        let is_set = |set: &CpuSet| {
            (0..CpuSet::count())
                .filter(|core| set.is_set(*core) == Ok(true))
                .collect::<Vec<_>>()
        };
        assert_eq!(is_set(&during), [core]);
        assert_eq!(sched_getaffinity(THIS_THREAD), Ok(before));
    }

    #[test]
    fn cores_are_counted_round() {
        let count = std::thread::available_parallelism().expect("there are cores").get();
        assert_eq!(usable(count).ok(), usable(0).ok());
    }
}
