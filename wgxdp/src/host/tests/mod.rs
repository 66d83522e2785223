//! Laws of the host adapters, on the running kernel: each test in a network and mount namespace of its own, judged by what the
//! commands `ip` and `wg` say.

use std::future::Future;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::anchor::Anchor;

mod anchor;
mod neighbour;
mod udp_socket;
mod watch;
mod wireguard;

/// The longest that a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a test may take.
const TEST_WITHIN: Duration = Duration::from_secs(90);

/// What was missing of the anchor and is no more.
async fn repaired(anchor: &mut Anchor) -> Vec<String> {
    let mut missing = anchor.repair_device().await.expect("the device is repaired");
    missing.extend(anchor.repair_policy().await.expect("rules and routes are repaired"));
    missing
}

/// Runs a test on a thread of its own in new namespaces, with `/run` empty. Without root it fails in CI, and is loudly skipped elsewhere.
#[track_caller]
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{name} needs root, and CI must skip nothing"
        );
        eprintln!("SKIPPED {name}: needs root to make network namespaces");
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces");
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .expect("private mounts");
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("an empty /run");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            tokio::time::timeout(TEST_WITHIN, test())
                .await
                .expect("the test takes too long");
        });
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command that must succeed, and returns what it printed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

/// `ip` with these words.
#[track_caller]
fn ip(words: &str) -> String {
    run("ip", &words.split_whitespace().collect::<Vec<_>>())
}

/// Whether `ip` with these words succeeds.
fn ip_can(words: &str) -> bool {
    Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("ip")
        .status
        .success()
}

/// Everything that `ip` knows of rules, routes, links and addresses here, each in the order of the alphabet: the kernel's own order is that of
/// its tables, which grow.
fn everything() -> String {
    let lists = [
        "rule show",
        "-6 rule show",
        "-4 route show table all",
        "-6 route show table all",
        "link show",
        "address show",
    ];
    let mut all = String::new();
    for words in lists {
        let shown = ip(words);
        let mut lines: Vec<&str> = shown.lines().collect();
        lines.sort_unstable();
        all += &format!("$ ip {words}\n{}\n", lines.join("\n"));
    }
    all
}

/// That everything is as it was, or else which lines are not.
#[track_caller]
fn assert_unchanged(before: &str) {
    let now = everything();
    let only = |one: &str, other: &str| -> Vec<String> {
        one.lines()
            .filter(|line| !other.lines().any(|there| there == *line))
            .map(String::from)
            .collect()
    };
    assert!(
        now == before,
        "gone: {:#?}\nnew: {:#?}\nor another number: {now}",
        only(before, &now),
        only(&now, before)
    );
}

/// Waits until `probe` gives something.
#[track_caller]
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{caller}: waited in vain for {what}\n{}",
                everything()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
