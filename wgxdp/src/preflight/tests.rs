//! Laws of the checks. Those about mounts run in a mount namespace of their own, so that nobody else sees them.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// Whether privileged tests can run. Where they must (CI) they fail otherwise; elsewhere their absence is announced.
fn privileged(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{test} needs root");
    if !root {
        eprintln!("NOT RUN: {test} needs root");
    }
    root
}

#[test]
fn kernels_from_6_1_on_are_accepted_whatever_follows_their_number() {
    for (release, major, minor) in [
        ("6.1.0-13-amd64", 6, 1),
        ("6.1", 6, 1),
        ("6.12.117+deb13-cloud-amd64", 6, 12),
        ("6.18-rc3", 6, 18),
        ("7.0.0", 7, 0),
        ("10.2.1", 10, 2),
    ] {
        assert_eq!(
            check_kernel(release).unwrap(),
            KernelVersion { major, minor },
            "{release}"
        );
    }
    check_kernel(&kernel_release()).unwrap();
}

#[test]
fn an_older_kernel_is_named_with_what_is_needed() {
    for release in ["6.0.19", "5.15.0-91-generic", "4.19.0", "2.6.32"] {
        assert_eq!(
            check_kernel(release).unwrap_err().to_string(),
            format!("this kernel is {release}, but wgxdp needs 6.1 or newer; boot a newer kernel")
        );
    }
    for release in ["", "6", "six.one", "6.", ".1", "99999999999.1"] {
        assert_eq!(
            check_kernel(release).unwrap_err().to_string(),
            format!("cannot tell this kernel's version from its release {release:?}; wgxdp needs 6.1 or newer")
        );
    }
}

/// Checks a status file that says `effective`.
fn capabilities(effective: &str) -> Result<(), PreflightError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("status");
    fs::write(
        &path,
        format!("Name:\twgxdp\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\n"),
    )
    .unwrap();
    check_capabilities(&path)
}

const ADVICE: &str = "run wgxdp as root (sudo wgxdp …), or in its systemd unit set AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON \
                      CAP_NET_RAW";

#[test]
fn exactly_the_missing_capabilities_are_listed() {
    for (effective, missing) in [
        (0, "CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW"),
        (1 << 12 | 1 << 38 | 1 << 39, "CAP_NET_RAW"),
        (1 << 12 | 1 << 13, "CAP_BPF and CAP_PERFMON"),
        (1 << 12 | 1 << 13 | 1 << 39, "CAP_PERFMON"),
        // CAP_SYS_ADMIN stands for these two, but not for the others.
        (1_u64 << 21, "CAP_NET_ADMIN and CAP_NET_RAW"),
        (1 << 21 | 1 << 13, "CAP_NET_ADMIN"),
    ] {
        assert_eq!(
            capabilities(&format!("{effective:016x}")).unwrap_err().to_string(),
            format!("missing {missing}; {ADVICE}")
        );
    }
    for enough in [
        1_u64 << 12 | 1 << 13 | 1 << 38 | 1 << 39,
        1 << 12 | 1 << 13 | 1 << 21,
        u64::MAX,
    ] {
        capabilities(&format!("{enough:016x}")).unwrap();
    }
}

#[test]
fn a_status_file_that_says_nothing_is_an_error_not_a_pass() {
    assert!(matches!(
        capabilities("many"),
        Err(PreflightError::CapabilitiesUnreadable { .. })
    ));
    assert_eq!(
        check_capabilities(Path::new("/nonexistent/status"))
            .unwrap_err()
            .to_string(),
        "cannot read this process's capabilities from /nonexistent/status: No such file or directory (os error 2); is /proc mounted?"
    );
}

/// Checks the status that the kernel gives to a process made by `command`.
fn capabilities_of(command: &mut Command) -> Result<(), PreflightError> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("status");
    fs::write(&path, output.stdout).unwrap();
    check_capabilities(&path)
}

#[test]
fn a_real_process_without_privilege_is_refused_and_one_with_it_is_not() {
    if !privileged("a_real_process_without_privilege_is_refused_and_one_with_it_is_not") {
        return;
    }
    check_capabilities(&Places::default().status).unwrap();
    let status = || {
        let mut cat = Command::new("cat");
        cat.arg("/proc/self/status");
        cat
    };
    capabilities_of(&mut status()).unwrap();
    assert_eq!(
        capabilities_of(status().uid(65534)).unwrap_err().to_string(),
        format!("missing CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW; {ADVICE}")
    );
    let mut setpriv = Command::new("setpriv");
    setpriv.args([
        "--bounding-set",
        "-net_raw,-perfmon,-sys_admin",
        "--",
        "cat",
        "/proc/self/status",
    ]);
    assert_eq!(
        capabilities_of(&mut setpriv).unwrap_err().to_string(),
        format!("missing CAP_PERFMON and CAP_NET_RAW; {ADVICE}")
    );
}

/// Runs `test` with a directory in a mount namespace of its own.
fn in_own_mounts(test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let outcome = thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .unwrap();
            test(directory.path());
        });
        run.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn mount_fs(kind: &str, at: &Path, flags: MsFlags) {
    mount(Some(kind), at, Some(kind), flags, None::<&str>).unwrap();
}

#[test]
fn a_place_that_is_no_bpffs_is_told_how_to_become_one() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path();
    for path in [plain, &plain.join("absent")] {
        let shown = path.display();
        assert_eq!(
            check_bpffs(path, &path.join("wgxdp")).unwrap_err().to_string(),
            format!("no bpffs at {shown}; mount one: mount -t bpf bpf {shown}")
        );
    }
}

#[test]
fn a_tmpfs_in_the_place_of_the_bpffs_is_no_bpffs() {
    if !privileged("a_tmpfs_in_the_place_of_the_bpffs_is_no_bpffs") {
        return;
    }
    in_own_mounts(|root| {
        mount_fs("bpf", root, MsFlags::empty());
        check_bpffs(root, &root.join("wgxdp")).unwrap();
        mount_fs("tmpfs", root, MsFlags::empty());
        let error = check_bpffs(root, &root.join("wgxdp")).unwrap_err();
        assert!(
            matches!(&error, PreflightError::BpffsAbsent { path } if path == root),
            "{error}"
        );
    });
}

#[test]
fn a_read_only_bpffs_is_refused_unless_the_pin_directory_is_writable() {
    if !privileged("a_read_only_bpffs_is_refused_unless_the_pin_directory_is_writable") {
        return;
    }
    in_own_mounts(|root| {
        let pins = root.join("wgxdp");
        mount_fs("bpf", root, MsFlags::empty());
        fs::create_dir(&pins).unwrap();
        check_bpffs(root, &pins).unwrap();
        // What systemd's ReadWritePaths= does: a mount of its own, made before the rest becomes read-only.
        mount(Some(&pins), &pins, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, root, None::<&str>, read_only, None::<&str>).unwrap();
        assert!(File::create(root.join("probe")).is_err(), "it really is read-only");
        check_bpffs(root, &pins).unwrap();
        let other = root.join("other");
        let (root, other_shown) = (root.display(), other.display());
        assert_eq!(
            check_bpffs(Path::new(&root.to_string()), &other)
                .unwrap_err()
                .to_string(),
            format!(
                "the bpffs at {root} is read-only; remount it (mount -o remount,rw {root}), or, where systemd's ProtectKernelTunables made \
                 it so, set ReadWritePaths={other_shown} in the unit and create that directory before it starts"
            )
        );
    });
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first_and_admitted_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let first = Lock::acquire(&run).unwrap();
    assert_eq!(first.directory(), run);
    let pid = std::process::id();
    assert_eq!(
        Lock::acquire(&run).unwrap_err().to_string(),
        format!(
            "another wgxdp runs already (pid {pid}): it holds {}; stop that one first, for example with kill {pid}",
            run.join("lock").display()
        )
    );
    assert!(run.join("lock").exists(), "a refusal leaves the holder's lock alone");
    drop(first);
    assert!(!run.exists(), "nothing is left behind");
    drop(Lock::acquire(&run).unwrap());
}

#[test]
fn a_lock_whose_holder_has_not_said_who_it_is_holds_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let held = File::create(directory.path().join("lock")).unwrap();
    held.try_lock().unwrap();
    assert_eq!(
        Lock::acquire(directory.path()).unwrap_err().to_string(),
        format!(
            "another wgxdp runs already: it holds {}; stop that one first",
            directory.path().join("lock").display()
        )
    );
}

#[test]
fn what_a_killed_daemon_left_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("lock"), "4194304999\n").unwrap();
    let lock = Lock::acquire(&run).unwrap();
    assert_eq!(
        fs::read_to_string(run.join("lock")).unwrap(),
        format!("{}\n", std::process::id())
    );
    drop(lock);
    assert!(!run.exists());
}

#[test]
fn a_lock_removes_neither_another_s_lock_nor_a_directory_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let first = Lock::acquire(&run).unwrap();
    // Somebody removed our lock by hand, and another daemon started.
    fs::remove_file(run.join("lock")).unwrap();
    let second = Lock::acquire(&run).unwrap();
    drop(first);
    assert!(
        matches!(Lock::acquire(&run), Err(PreflightError::AlreadyRunning { .. })),
        "the second one's lock still holds"
    );
    fs::write(run.join("state.json"), "{}").unwrap();
    drop(second);
    assert!(run.join("state.json").exists() && !run.join("lock").exists());
}

#[test]
fn of_many_that_start_and_stop_at_once_only_one_runs_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let (report, reports) = mpsc::channel();
    let inside = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let (report, run, inside) = (report.clone(), &run, &inside);
            scope.spawn(move || {
                for _ in 0..200 {
                    match Lock::acquire(run) {
                        Ok(_lock) => {
                            let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            report.send(others).unwrap();
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        }
                        Err(PreflightError::AlreadyRunning { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    drop(report);
    let others: Vec<_> = reports.iter().collect();
    assert!(
        !others.is_empty() && others.iter().all(|others| *others == 0),
        "{others:?}"
    );
    assert!(!run.exists());
}

#[test]
fn a_run_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    File::create(&file).unwrap();
    let run = file.join("wgxdp");
    assert_eq!(
        Lock::acquire(&run).unwrap_err().to_string(),
        format!(
            "cannot make the directory {}: Not a directory (os error 20); run wgxdp as root, or set RuntimeDirectory=wgxdp in its systemd unit",
            run.display()
        )
    );
    assert!(matches!(Lock::acquire(&file), Err(PreflightError::RunDirectory { path, .. }) if path == file));
    fs::create_dir_all(directory.path().join("run/lock")).unwrap();
    let run = directory.path().join("run");
    assert_eq!(
        Lock::acquire(&run).unwrap_err().to_string(),
        format!(
            "cannot lock {}: Is a directory (os error 21); wgxdp must be able to write there",
            run.join("lock").display()
        )
    );
}

#[test]
fn all_checks_together_end_with_the_lock_or_with_the_first_that_fails() {
    if !privileged("all_checks_together_end_with_the_lock_or_with_the_first_that_fails") {
        return;
    }
    in_own_mounts(|root| {
        let (bpffs, run) = (root.join("bpf"), root.join("run"));
        fs::create_dir(&bpffs).unwrap();
        let places = Places {
            pins: bpffs.join("wgxdp"),
            bpffs,
            run,
            ..Places::default()
        };
        assert!(matches!(check(&places), Err(PreflightError::BpffsAbsent { .. })));
        assert!(!places.run.exists(), "a failed check leaves nothing behind");
        mount_fs("bpf", &places.bpffs, MsFlags::empty());
        let lock = check(&places).unwrap();
        assert!(matches!(check(&places), Err(PreflightError::AlreadyRunning { .. })));
        drop(lock);
    });
}
