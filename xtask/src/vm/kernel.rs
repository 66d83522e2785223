//! Debian's cloud kernels: the newest of a series, unpacked into `target/vm/kernels/RELEASE/`.
//!
//! What is unpacked there is used again without asking anybody; delete the folder to fetch a newer one.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{setup, sh};

/// A series of long-term kernels that the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// The oldest that wgxdp runs on
    #[value(name = "6.1")]
    V6_1,
    /// The first long-term series with tcx
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// All of them, in the order in which they are tested.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// Whether programs are attached by tcx there (Linux 6.6), and not by clsact.
    pub(crate) const fn has_tcx(self) -> bool {
        match self {
            Self::V6_1 => false,
            Self::V6_12 => true,
        }
    }

    fn number(self) -> [u64; 2] {
        match self {
            Self::V6_1 => [6, 1],
            Self::V6_12 => [6, 12],
        }
    }

    /// Of these releases the newest that is of this series.
    fn newest<'a>(self, releases: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        releases
            .into_iter()
            .filter_map(|release| Some((version(release)?, release)))
            .filter(|(version, _)| version.starts_with(&self.number()))
            .max()
            .map(|(_, release)| release)
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor] = self.number();
        write!(f, "{major}.{minor}")
    }
}

/// The numbers in a cloud kernel's release, for ordering: `6.12.117+deb12-cloud-amd64` → 6, 12, 117, 12.
///
/// Nothing for other kernels, and for packages that only depend on the newest (`6.12-cloud-amd64`).
fn version(release: &str) -> Option<Vec<u64>> {
    let numbers: Vec<u64> = release
        .strip_suffix("-cloud-amd64")?
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (numbers.len() >= 3).then_some(numbers)
}

/// The releases in the output of `apt-cache search`.
fn releases(search: &str) -> impl Iterator<Item = &str> {
    search
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix("linux-image-"))
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// The root into which its package was unpacked.
    pub(crate) root: PathBuf,
}

impl Kernel {
    /// The kernel's image.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }
}

/// The kernel that is unpacked already, else Debian's newest; none where Debian's archive has none.
pub(crate) fn obtain(series: Series) -> Result<Option<Kernel>> {
    let kernels = sh::target_dir().join("vm/kernels");
    fs::create_dir_all(&kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
    let mut cached = Vec::new();
    for entry in fs::read_dir(&kernels)? {
        cached.extend(entry?.file_name().into_string());
    }
    let kernel = |release: &str| Kernel {
        series,
        release: release.to_owned(),
        root: kernels.join(release),
    };
    if let Some(release) = series.newest(cached.iter().map(String::as_str)) {
        return Ok(Some(kernel(release)));
    }
    if sh::find_program("apt-cache").is_none() {
        bail!("the kernel {series} comes from Debian's packages, by apt-cache and apt-get: this is not Debian");
    }
    let fetched = match search_and_fetch(series, &kernels) {
        Ok(Some(release)) => Some(release),
        // No such package, or one that is no longer served: perhaps our lists are old.
        Ok(None) | Err(_) if sh::is_root() => {
            setup::apt_update()?;
            search_and_fetch(series, &kernels)?
        }
        other => other.context("if the lists of packages are old, type `sudo apt-get update`")?,
    };
    Ok(fetched.map(|release| kernel(&release)))
}

fn search_and_fetch(series: Series, kernels: &Path) -> Result<Option<String>> {
    let listed = sh::output(&mut sh::command(
        "apt-cache",
        ["search", "--names-only", "^linux-image-.*-cloud-amd64$"],
    ))?;
    let Some(release) = series.newest(releases(&listed)) else {
        return Ok(None);
    };
    println!("fetching Debian's linux-image-{release} into {}", kernels.display());
    let work = kernels.join(format!("{release}.part"));
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let package = format!("linux-image-{release}");
    // Unsandboxed, because apt's own user may not write into this folder.
    let mut download = sh::command(
        "apt-get",
        ["download", "--quiet", "-o", "APT::Sandbox::User=root", &package],
    );
    sh::output(download.current_dir(&work))?;
    let deb = only_file(&work)?;
    let root = work.join("root");
    sh::output(sh::command("dpkg-deb", ["--extract"]).args([&deb, &root]))?;
    // Newer packages have everything under /usr; kmod and we look in /lib.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    let depmod = sh::find_program("depmod").context("depmod is not there: `cargo xtask setup` installs it")?;
    sh::output(sh::command(depmod, ["--basedir"]).arg(&root).arg(release))?;
    // Whole or not at all: only a finished folder gets its name.
    fs::rename(&root, kernels.join(release)).context("cannot move the unpacked kernel into its place")?;
    fs::remove_dir_all(&work)?;
    Ok(Some(release.to_owned()))
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?;
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file?.path()),
        _ => bail!("apt-get download left not one file in {}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: &str = "\
linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-57-cloud-amd64-unsigned - Linux 6.1 for x86-64 cloud
linux-image-6.1.0-58-rt-amd64 - Linux 6.1 for 64-bit PCs, PREEMPT_RT (signed)
linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)
linux-image-6.12.101+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.99+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-cloud-amd64 - Linux for x86-64 cloud (meta-package)
";

    #[test]
    fn the_newest_of_a_series_is_found_by_number_not_by_letter() {
        assert_eq!(Series::V6_1.newest(releases(SEARCH)), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(
            Series::V6_12.newest(releases(SEARCH)),
            Some("6.12.101+deb12-cloud-amd64")
        );
    }

    #[test]
    fn a_series_is_not_taken_for_another_that_begins_with_the_same_digits() {
        assert_eq!(Series::V6_1.newest(["6.12.99+deb12-cloud-amd64"]), None);
        assert_eq!(Series::V6_12.newest(["6.1.0-12-cloud-amd64"]), None);
    }

    #[test]
    fn half_unpacked_kernels_and_metapackages_are_no_kernels() {
        assert_eq!(version("6.1.0-56-cloud-amd64.part"), None);
        assert_eq!(version("6.12-cloud-amd64"), None);
    }
}
