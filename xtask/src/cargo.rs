//! Building with cargo, and what it built, by cargo's own account.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::sh;

/// An executable that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// Its package's directory, in which cargo runs tests.
    pub(crate) package_dir: PathBuf,
    /// Its target's name: `wgxdp`, `lab`, `netns`.
    pub(crate) name: String,
    /// `bin`, `lib`, `test`.
    pub(crate) kind: String,
    /// Its source, for a heading.
    pub(crate) source: PathBuf,
    /// Whether it is a test harness.
    pub(crate) is_test: bool,
    /// The file itself.
    pub(crate) file: PathBuf,
}

/// The cargo that runs us, else the one in `PATH`.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    sh::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Builds, with cargo's progress shown, and returns the executables.
pub(crate) fn build<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Vec<Executable>> {
    let mut command = cargo(["build", "--message-format=json-render-diagnostics"]);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", sh::shown(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed", sh::shown(&command));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// The one binary of this name.
pub(crate) fn binary<'a>(executables: &'a [Executable], name: &str) -> Result<&'a Path> {
    executables
        .iter()
        .find(|executable| executable.kind == "bin" && !executable.is_test && executable.name == name)
        .map(|executable| executable.file.as_path())
        .with_context(|| format!("cargo built no binary called `{name}`"))
}

fn parse(messages: &str) -> Vec<Executable> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(|message| executable(&message))
        .collect()
}

fn executable(message: &Value) -> Option<Executable> {
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let target = &message["target"];
    Some(Executable {
        package_dir: Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf(),
        name: target["name"].as_str()?.to_owned(),
        kind: target["kind"][0].as_str()?.to_owned(),
        source: PathBuf::from(target["src_path"].as_str()?),
        is_test: message["profile"]["test"].as_bool()?,
        file: PathBuf::from(message["executable"].as_str()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: &str = r#"{"reason":"compiler-artifact","package_id":"p","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["bin"],"crate_types":["bin"],"name":"lab","src_path":"/w/tests/src/bin/lab.rs"},"profile":{"opt_level":"0","test":false},"features":[],"filenames":["/w/target/debug/lab"],"executable":"/w/target/debug/lab","fresh":true}"#;

    #[test]
    fn executables_are_read_from_cargos_messages_and_other_messages_are_not() {
        let library = LAB.replace(r#""executable":"/w/target/debug/lab""#, r#""executable":null"#);
        let script = r#"{"reason":"build-script-executed","package_id":"p"}"#;
        let executables = parse(&format!("{script}\n{library}\nnot json\n{LAB}\n"));
        assert_eq!(executables.len(), 1);
        let lab = &executables[0];
        assert_eq!(
            (lab.name.as_str(), lab.kind.as_str(), lab.is_test),
            ("lab", "bin", false)
        );
        assert_eq!(lab.package_dir, Path::new("/w/tests"));
        assert_eq!(binary(&executables, "lab").unwrap(), Path::new("/w/target/debug/lab"));
    }

    #[test]
    fn a_test_harness_is_not_taken_for_the_binary_of_the_same_name() {
        let harness = LAB.replace(r#""test":false"#, r#""test":true"#);
        assert!(binary(&parse(&harness), "lab").is_err());
    }
}
