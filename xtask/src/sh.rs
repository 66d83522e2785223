//! Running commands, with errors that say which command failed and how.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Where cargo builds, and where we keep what can be made again.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Whether this is a continuous-integration run, where nothing may be skipped.
pub(crate) fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// `program` with `args`, in the workspace's root.
pub(crate) fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command to its end, its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed; what it said on stderr is in the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", shown(command), output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed what is not UTF-8", shown(command)))
}

/// `program` with `args` under coreutils' `timeout`: bounded even where we are killed first, or may not signal it ourselves.
pub(crate) fn bounded<S: AsRef<OsStr>>(
    limit: Duration,
    program: &Path,
    args: impl IntoIterator<Item = S>,
) -> Vec<OsString> {
    let limit = limit.as_secs().to_string();
    // In the foreground, so that Ctrl-C reaches the program.
    let mut words: Vec<OsString> = ["timeout", "--foreground", "--kill-after=10", &limit]
        .map(OsString::from)
        .into();
    words.push(program.into());
    words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
    words
}

/// What `timeout` exits with when it had to end the program.
pub(crate) const TIMED_OUT: i32 = 124;

/// Runs a command and hands over each line of its stdout as it comes, without the line's end.
///
/// Ends with the command itself, not with its stdout, which a process that it left behind may hold open.
pub(crate) fn stream(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let stdout = child.stdout.take().context("a piped stdout is there")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            if sender.send(text).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    let mut ended = None;
    loop {
        match (lines.recv_timeout(Duration::from_millis(100)), ended) {
            (Ok(text), _) => line(&text),
            (Err(RecvTimeoutError::Timeout), None) => ended = child.try_wait()?,
            (Err(RecvTimeoutError::Timeout), Some(status)) => return Ok(status),
            (Err(RecvTimeoutError::Disconnected), _) => return Ok(child.wait()?),
        }
    }
}

/// Becomes the command: its exit code and its signals are then its own. Returns only what kept it from starting.
pub(crate) fn exec(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(format!("cannot start `{}`", shown(command)))
}

/// Where a program is: in `PATH`, or where Debian keeps what only root types.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0))
}

/// How the parts that need root are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// By sudo, which may ask for a password.
    Sudo,
    /// Not at all.
    None,
}

impl Privilege {
    /// What this process can do.
    pub(crate) fn detect() -> Self {
        if is_root() {
            return Self::Root;
        }
        let asks_nothing = || output(&mut command("sudo", ["-n", "true"])).is_ok();
        if find_program("sudo").is_some() && (std::io::stdin().is_terminal() || asks_nothing()) {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// `program` with `args` and `variables`, run as root.
    pub(crate) fn command<S: AsRef<OsStr>>(
        self,
        variables: &[(&str, &OsStr)],
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        match self {
            Self::Root => {
                let mut command = command(program, args);
                command.envs(variables.iter().copied());
                Ok(command)
            }
            Self::Sudo => {
                // Through `env`, because sudoers may forbid `sudo -E`.
                let mut command = command("sudo", ["env"]);
                for (name, value) in variables {
                    let mut word = OsStr::new(name).to_owned();
                    word.push("=");
                    word.push(value);
                    command.arg(word);
                }
                command.arg(program).args(args);
                Ok(command)
            }
            Self::None => bail!(
                "{} needs root (network namespaces, BPF), and there is no sudo: type this command as root",
                program.display()
            ),
        }
    }
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let command = command("apt-get", ["install", "it's", "a b", ""]);
        assert_eq!(shown(&command), r"apt-get install 'it'\''s' 'a b' ''");
    }

    #[test]
    fn a_failing_command_is_named_with_its_reason() {
        let error = output(&mut command("sh", ["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("no such thing") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn every_line_is_handed_over_and_a_last_one_without_an_end_too() {
        let mut seen = Vec::new();
        let mut both = command("sh", ["-c", r"printf 'a\r\nb\n\nc'; exit 5"]);
        let status = stream(&mut both, |line| seen.push(line.to_owned())).unwrap();
        assert_eq!((seen.join("|").as_str(), status.code()), ("a|b||c", Some(5)));
    }

    #[test]
    fn a_process_left_behind_with_our_stdout_does_not_keep_us_waiting() {
        let started = std::time::Instant::now();
        let status = stream(&mut command("sh", ["-c", "sleep 20 & echo done"]), |_| ()).unwrap();
        assert!(status.success() && started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_bounded_program_is_ended_at_its_limit() {
        let words = bounded(Duration::from_secs(1), Path::new("sleep"), ["20"]);
        let status = stream(&mut command(&words[0], &words[1..]), |_| ()).unwrap();
        assert_eq!(status.code(), Some(TIMED_OUT));
    }

    #[test]
    fn a_program_is_found_and_a_missing_one_is_not() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }
}
