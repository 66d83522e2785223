//! The guest is what the tests in it take it for. Runs in guests alone: `cargo xtask test --only vm`.
//!
//! Without these, a kernel that lacks WireGuard or a dummy device would pass as one on which the tests prove something: they
//! would fall back to what this host, too, can do.

use std::env;
use std::fs;
use std::process::Command;

/// A network namespace of its own, deleted at the end.
struct Namespace(&'static str);

impl Namespace {
    fn new(name: &'static str) -> Self {
        ip(&["netns", "add", name]);
        Self(name)
    }

    fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", self.0], args].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", self.0]);
    }
}

fn ip(args: &[&str]) -> String {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_guest_runs_the_kernel_that_it_was_made_for() {
    let series = env::var("WGXDP_VM_SERIES").expect("set by the guest's init");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    assert!(
        release.starts_with(&format!("{series}.")),
        "{release} is not of the series {series}"
    );
}

#[test]
fn wireguard_is_the_kernels_and_a_dummy_is_a_dummy() {
    let namespace = Namespace::new("vm-devices");
    for kind in ["wireguard", "dummy", "veth", "ifb"] {
        namespace.ip(&["link", "add", kind, "type", kind]);
        let shown = namespace.ip(&["-details", "link", "show", kind]);
        assert!(shown.contains(&format!("    {kind} ")), "{kind}: {shown}");
    }
}

#[test]
fn netem_and_clsact_attach_to_a_device() {
    let namespace = Namespace::new("vm-qdiscs");
    namespace.ip(&["link", "add", "d0", "type", "dummy"]);
    let tc = |args: &[&str]| run("tc", &[&["-n", "vm-qdiscs", "qdisc"], args].concat());
    tc(&["add", "dev", "d0", "root", "netem", "delay", "5ms", "loss", "1%"]);
    tc(&["add", "dev", "d0", "clsact"]);
    let shown = tc(&["show", "dev", "d0"]);
    assert!(shown.contains("netem") && shown.contains("clsact"), "{shown}");
}

#[test]
fn a_rule_by_protocol_and_port_is_understood() {
    let namespace = Namespace::new("vm-rules");
    namespace.ip(&[
        "rule", "add", "ipproto", "udp", "sport", "51820", "iif", "lo", "lookup", "5747",
    ]);
    assert!(
        namespace
            .ip(&["rule", "show"])
            .contains("ipproto udp sport 51820 lookup 5747")
    );
}

#[test]
fn bpffs_and_btf_are_there() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    assert!(
        mounts
            .lines()
            .any(|line| line.split(' ').skip(1).take(2).eq(["/sys/fs/bpf", "bpf"])),
        "{mounts}"
    );
    assert!(fs::exists("/sys/kernel/btf/vmlinux").expect("/sys is mounted"));
}
