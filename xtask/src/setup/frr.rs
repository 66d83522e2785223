//! FRR, for one benchmark that compares with it: unpacked below `target/`, not installed, because its package would start routing daemons on this host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::packages::{apt_get, apt_update};
use super::say;
use crate::sh;

/// Where its daemons are, below a root.
const DAEMON: &str = "usr/lib/frr/bfdd";

/// The root below which FRR is: this system's, else the one that is unpacked already, else Debian's packages are.
pub(crate) fn root() -> Result<PathBuf> {
    let unpacked = sh::target_dir().join("frr");
    let roots = [PathBuf::from("/"), unpacked.clone()];
    if let Some(found) = roots.into_iter().find(|root| root.join(DAEMON).exists()) {
        return Ok(found);
    }
    if sh::find_program("apt-get").is_none() {
        bail!("FRR comes from Debian's package frr, and this is not Debian: install FRR");
    }
    if !sh::is_root() {
        bail!("FRR's packages are fetched by apt-get as root: run this command once as root, or install frr");
    }
    if fetch(&unpacked).is_err() {
        apt_update()?;
        fetch(&unpacked)?;
    }
    Ok(unpacked)
}

/// Fetches the package with those that it needs and this system lacks, and unpacks them all.
fn fetch(root: &Path) -> Result<()> {
    let work = root.with_extension("part");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    let (debs, unpacked) = (work.join("debs"), work.join("root"));
    fs::create_dir_all(debs.join("partial")).with_context(|| format!("cannot create {}", debs.display()))?;
    say(&format!(
        "fetching Debian's frr into {}, where nothing starts it",
        root.display()
    ));
    let mut download = apt_get(&[
        "install",
        "--download-only",
        "--yes",
        "--quiet",
        "--no-install-recommends",
    ]);
    // Unsandboxed, because apt's own user may not write into this folder.
    download.args(["-o", "APT::Sandbox::User=root", "-o"]);
    download
        .arg(format!("Dir::Cache::archives={}", debs.display()))
        .arg("frr");
    sh::output(&mut download)?;
    for file in fs::read_dir(&debs)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            sh::output(sh::command("dpkg-deb", ["--extract"]).args([&file, &unpacked]))?;
        }
    }
    // Whole or not at all: only a finished folder gets its name.
    fs::rename(&unpacked, root).context("cannot move the unpacked FRR into its place")?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}
