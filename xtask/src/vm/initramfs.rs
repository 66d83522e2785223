//! The guest's root: its init, the programs, the libraries that they link with, kernel modules, and the plan.
//!
//! The plan, `/plan`, is what init does, one step a line, its words parted by tabs (`tests/src/bin/vm-init.rs` reads it):
//!
//! ```text
//! env     NAME  VALUE             for what follows
//! module  FILE  PARAMETERS        loaded
//! run     NAME  PROGRAM  ARG…     to its end
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::GuestTest;
use super::cpio::Archive;
use super::kernel::Kernel;
use super::modules;
use crate::sh;

/// Programs of this host that tests start.
const TOOLS: [&str; 4] = ["ip", "tc", "wg", "nft"];

/// Builds the archive and returns its file. The first of `programs` is the guest's init.
pub(crate) fn build(kernel: &Kernel, programs: &[&Path], tests: &[GuestTest]) -> Result<PathBuf> {
    let [init, programs @ ..] = programs else {
        bail!("no init for the guest")
    };
    let mut root = Root::default();
    for empty in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var"] {
        root.directory(empty);
    }
    root.archive.link("/var/run", "/run");
    // For `ip rule … ipproto udp`, and for whoever asks for root's home.
    root.file(
        "/etc/protocols",
        0o644,
        b"icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n",
    );
    root.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/false\n");
    root.file("/etc/group", 0o644, b"root:x:0:\n");

    root.program("/init", init)?;
    for program in programs {
        root.program(&format!("/bin/{}", file_name(program)?), program)?;
    }
    for tool in TOOLS {
        let file =
            sh::find_program(tool).with_context(|| format!("{tool} is not there: `cargo xtask setup` installs it"))?;
        root.program(&format!("/bin/{tool}"), &file)?;
    }
    let mut plan = Plan::default();
    for (name, value) in [
        ("PATH", "/bin"),
        ("HOME", "/root"),
        ("CI", "true"),
        ("RUST_BACKTRACE", "1"),
        ("WGXDP_BIN", "/bin/wgxdp"),
        ("WGXDP_VM", "1"),
        ("WGXDP_VM_SERIES", &kernel.series.to_string()),
    ] {
        plan.step(&["env", name, value])?;
    }
    for module in modules::load_order(kernel)? {
        let file = format!("/modules/{}", module.file_name());
        root.file(&file, 0o644, &module.content()?);
        plan.step(&["module", &file, &module.parameters])?;
    }
    for test in tests {
        let file = format!("/tests/{}", test.name);
        root.program(&file, &test.file)?;
        let mut words = vec!["run", &test.name, &file];
        words.extend(test.args.iter().map(String::as_str));
        plan.step(&words)?;
    }
    root.file("/plan", 0o644, plan.text.as_bytes());

    let image = sh::target_dir().join(format!("vm/{}.cpio", kernel.release));
    fs::write(&image, root.archive.finish()).with_context(|| format!("cannot write {}", image.display()))?;
    Ok(image)
}

#[derive(Default)]
struct Plan {
    text: String,
}

impl Plan {
    fn step(&mut self, words: &[&str]) -> Result<()> {
        if let Some(word) = words.iter().find(|word| word.contains(['\t', '\n'])) {
            bail!("a word for the guest contains a tab or a line's end: {word:?}");
        }
        self.text.push_str(&words.join("\t"));
        self.text.push('\n');
        Ok(())
    }
}

/// The archive, and what is in it already.
#[derive(Default)]
struct Root {
    archive: Archive,
    there: BTreeSet<String>,
}

impl Root {
    fn directory(&mut self, path: &str) {
        if path.is_empty() || path == "/" || self.there.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.archive.directory(path);
        self.there.insert(path.to_owned());
    }

    fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        if self.there.insert(path.to_owned()) {
            if let Some((parent, _)) = path.rsplit_once('/') {
                self.directory(parent);
            }
            self.archive.file(path, permissions, content);
        }
    }

    /// A program without its debug information, and the libraries that it links with, each where its loader looks.
    fn program(&mut self, path: &str, file: &Path) -> Result<()> {
        self.file(path, 0o755, &stripped(file)?);
        let listed = sh::output(sh::command("ldd", [] as [&str; 0]).arg(file))
            .with_context(|| format!("cannot list the libraries of {}", file.display()))?;
        for library in libraries(&listed)? {
            let content = fs::read(library).with_context(|| format!("cannot read {library}"))?;
            self.file(library, 0o755, &content);
        }
        Ok(())
    }
}

fn stripped(file: &Path) -> Result<Vec<u8>> {
    let copy = sh::target_dir().join(format!("vm/{}.stripped", file_name(file)?));
    sh::output(sh::command("strip", ["--strip-debug", "-o"]).args([copy.as_path(), file]))?;
    let content = fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))?;
    fs::remove_file(&copy)?;
    Ok(content)
}

fn file_name(file: &Path) -> Result<&str> {
    file.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no usable name", file.display()))
}

/// The files in ldd's output: `NAME => FILE (ADDRESS)` or `FILE (ADDRESS)`; the vDSO has none.
fn libraries(listed: &str) -> Result<Vec<&str>> {
    let mut files = Vec::new();
    for line in listed.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("a library is missing on this host: {line}");
        }
        let file = line.split_once(" => ").map_or(line, |(_, file)| file);
        if let Some((file, _)) = file.split_once(" (")
            && file.starts_with('/')
        {
            files.push(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldds_output_names_libraries_and_the_loader_but_not_the_vdso() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listed).unwrap(), expected);
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
        assert!(libraries("\tlibnope.so => not found\n").is_err());
    }

    #[test]
    fn a_step_of_the_plan_is_one_line_and_what_would_break_it_is_refused() {
        let mut plan = Plan::default();
        plan.step(&["run", "netns", "/tests/netns", "a filter"]).unwrap();
        assert_eq!(plan.text, "run\tnetns\t/tests/netns\ta filter\n");
        assert!(plan.step(&["run", "a\tb"]).is_err());
        assert!(plan.step(&["run", "a\nrun"]).is_err());
    }

    #[test]
    fn parents_come_before_their_children_and_nothing_comes_twice() {
        let mut root = Root::default();
        root.file("/a/b/c", 0o644, b"1");
        root.file("/a/b/c", 0o644, b"2");
        root.file("/a/d", 0o644, b"3");
        let there: Vec<&str> = root.there.iter().map(String::as_str).collect();
        assert_eq!(there, ["/a", "/a/b", "/a/b/c", "/a/d"]);
        let bytes = root.archive.finish();
        assert_eq!(bytes.windows(6).filter(|window| window == b"070701").count(), 5);
    }
}
