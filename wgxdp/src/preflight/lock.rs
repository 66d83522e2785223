//! One daemon at a time: a lock in the run directory.
//!
//! The lock is `flock` on a file, so it ends with its holder, however that ends; the file holds the holder's pid, for messages alone. The holder
//! unlinks the file before it lets go, therefore who gets a lock must look whether it is still the one that others would find.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::PreflightError;

/// The lock's name in the run directory.
const LOCK_FILE: &str = "lock";
/// Times that a lock may be unlinked under us before we give up: each is another daemon that ended meanwhile.
const ATTEMPTS: usize = 64;

/// Held as long as the daemon runs. Dropped, it removes its file, and the run directory if nothing else is left there.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    directory: PathBuf,
}

impl Lock {
    /// Takes the lock in the run directory `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be made.
    pub fn acquire(directory: &Path) -> Result<Self, PreflightError> {
        let path = directory.join(LOCK_FILE);
        let failed = |source| PreflightError::Lock {
            path: path.clone(),
            source,
        };
        for _ in 0..ATTEMPTS {
            match fs::create_dir_all(directory) {
                Ok(()) => {}
                // It came and went while others started and ended; but what is there and no directory will stay.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !is_something_else(directory) => continue,
                Err(source) => {
                    return Err(PreflightError::RunDirectory {
                        path: directory.to_owned(),
                        source,
                    });
                }
            }
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let mut file = match opened {
                Ok(file) => file,
                // The last holder removed the directory between our two steps.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(PreflightError::AlreadyRunning {
                        pid: read_pid(&mut file),
                        path,
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            if !is_at(&file, &path) {
                continue;
            }
            write_pid(&mut file).map_err(failed)?;
            return Ok(Self {
                file,
                path,
                directory: directory.to_owned(),
            });
        }
        Err(failed(io::Error::other("it kept being removed")))
    }

    /// Whether some process holds the lock in the run directory, without taking it: a daemon that starts at this moment is not disturbed.
    #[must_use]
    pub fn is_held(directory: &Path) -> bool {
        let path = directory.join(LOCK_FILE);
        let Ok(found) = fs::metadata(&path) else {
            return false;
        };
        let pid = File::open(&path).ok().and_then(|mut file| read_pid(&mut file));
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| is_lock_on(line, &found, pid))
    }

    /// The run directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked: nobody else can be using a file that we are about to unlink, unless it is not ours any more.
        if is_at(&self.file, &self.path) {
            // Nothing can be done about a failure, and nothing depends on it: the kernel's lock ends in any case.
            let _ = fs::remove_file(&self.path);
        }
        // Refused by the kernel if anything is left in it.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Whether a line of proc_locks(5), such as `1: FLOCK  ADVISORY  WRITE 4711 fe:01:123456 0 EOF`, is about a lock on this file. Other file systems have inodes of the
/// same number, and the device's number is of the file system's, which differs from the file's in some: that, or the process that the file names, must be right, too.
fn is_lock_on(line: &str, file: &fs::Metadata, holder: Option<u32>) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, pid, place, ..] = words[..] else {
        return false;
    };
    let device = format!("{:02x}:{:02x}", major(file.dev()), minor(file.dev()));
    place.rsplit_once(':').is_some_and(|(on, inode)| {
        inode == file.ino().to_string() && (on == device || pid.parse().ok() == holder.filter(|pid| *pid != 0))
    })
}

fn is_something_else(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| !found.is_dir())
}

/// Whether `path` leads to this very file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(found)) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// `None` where the holder has not written it yet.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_the_file_if_the_inode_is_right_and_the_device_or_the_holder() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let file = file.as_file().metadata().expect("its metadata");
        let (inode, device) = (
            file.ino(),
            format!("{:02x}:{:02x}", major(file.dev()), minor(file.dev())),
        );
        let rows = [
            (format!("1: FLOCK  ADVISORY  WRITE 9 {device}:{inode} 0 EOF"), true),
            (format!("1: FLOCK  ADVISORY  WRITE 4711 ff:ff:{inode} 0 EOF"), true),
            (format!("1: FLOCK  ADVISORY  WRITE 9 ff:ff:{inode} 0 EOF"), false),
            (
                format!("1: FLOCK  ADVISORY  WRITE 4711 {device}:{}1 0 EOF", inode),
                false,
            ),
            (format!("1: POSIX  ADVISORY  WRITE 4711 {device}:{inode} 0 EOF"), false),
            (String::new(), false),
        ];
        for (line, expected) in rows {
            assert_eq!(is_lock_on(&line, &file, Some(4711)), expected, "{line}");
        }
        assert!(!is_lock_on(
            &format!("1: FLOCK  ADVISORY  WRITE 0 ff:ff:{inode} 0 EOF"),
            &file,
            Some(0)
        ));
    }
}
