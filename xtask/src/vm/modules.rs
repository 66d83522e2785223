//! Which kernel modules a guest loads, and in which order.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::sh;

/// What the tests use and Debian's kernels have as modules (or built in: that is no error), with parameters.
const WANTED: [(&str, &str); 21] = [
    ("wireguard", ""),
    // No dummy0 and no ifb0: devices are there when a test makes them.
    ("dummy", "numdummies=0"),
    ("veth", ""),
    ("tun", ""),
    ("ifb", "numifbs=0"),
    ("8021q", ""),
    ("vrf", ""),
    ("sch_ingress", ""),
    ("cls_bpf", ""),
    ("act_bpf", ""),
    ("act_gact", ""),
    ("act_mirred", ""),
    ("cls_matchall", ""),
    ("sch_netem", ""),
    ("sch_fq", ""),
    ("sch_htb", ""),
    ("nf_tables", ""),
    ("nft_chain_nat", ""),
    ("nft_masq", ""),
    // The guest's own cards.
    ("virtio_pci", ""),
    ("virtio_net", ""),
];

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file, perhaps compressed.
    pub(crate) file: PathBuf,
    pub(crate) parameters: String,
}

impl Module {
    /// Its file's name without what says that it is compressed: `dummy.ko`.
    pub(crate) fn file_name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.strip_suffix(".xz").or_else(|| name.strip_suffix(".zst"));
        plain.unwrap_or(&name).to_owned()
    }

    /// The module itself, unpacked here so that the guest needs nothing for it.
    pub(crate) fn content(&self) -> Result<Vec<u8>> {
        let unpacker = match self.file.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            _ => return fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display())),
        };
        let output = sh::command(unpacker, ["--decompress", "--stdout", "--quiet"])
            .arg(&self.file)
            .output()
            .with_context(|| format!("cannot start {unpacker}"))?;
        if !output.status.success() {
            bail!("{unpacker} cannot unpack {}", self.file.display());
        }
        Ok(output.stdout)
    }
}

/// The wanted modules and those that they need, in an order in which they load.
pub(crate) fn load_order(kernel: &Kernel) -> Result<Vec<Module>> {
    let modprobe = sh::find_program("modprobe").context("modprobe is not there: `cargo xtask setup` installs it")?;
    // This host's own settings (/etc/modprobe.d) are none of the guest's business.
    let mut command = sh::command(
        modprobe,
        ["--config", "/dev/null", "--all", "--show-depends", "--dirname"],
    );
    command
        .arg(&kernel.root)
        .args(["--set-version", &kernel.release])
        .args(WANTED.map(|(name, _)| name));
    let listed = sh::output(&mut command)?;
    parse(&listed).with_context(|| format!("`{}` was not understood", sh::shown(&command)))
}

/// Reads `insmod FILE [PARAMETERS]` and `builtin NAME`; a module that several need is loaded once, at its first place.
fn parse(listed: &str) -> Result<Vec<Module>> {
    let mut seen = HashSet::new();
    let mut modules = Vec::new();
    for line in listed.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(' ') {
            Some(("insmod", rest)) => {
                let file = Path::new(rest.split(' ').next().unwrap_or(rest));
                if seen.insert(file.to_path_buf()) {
                    modules.push(Module {
                        file: file.to_path_buf(),
                        parameters: parameters(file).to_owned(),
                    });
                }
            }
            Some(("builtin", _)) => {}
            _ => bail!("unknown line `{line}`"),
        }
    }
    Ok(modules)
}

fn parameters(file: &Path) -> &'static str {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    WANTED
        .iter()
        .find(|(wanted, _)| *wanted == stem)
        .map_or("", |(_, parameters)| *parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_and_a_shared_module_is_loaded_once() {
        let listed =
            "insmod /r/llc.ko.xz \ninsmod /r/stp.ko.xz \nbuiltin ipv6\ninsmod /r/llc.ko.xz \ninsmod /r/dummy.ko.xz \n";
        let modules = parse(listed).unwrap();
        let names: Vec<String> = modules.iter().map(Module::file_name).collect();
        assert_eq!(names, ["llc.ko", "stp.ko", "dummy.ko"]);
        assert_eq!(modules[2].parameters, "numdummies=0");
        assert_eq!(modules[0].parameters, "");
    }

    #[test]
    fn a_line_that_modprobe_never_wrote_before_is_an_error() {
        assert!(parse("install /bin/false\n").is_err());
        assert!(parse("").unwrap().is_empty());
    }
}
