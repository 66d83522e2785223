//! The Python client's OpenMetrics parser, as the judge of our text.
//!
//! It is what `cargo xtask setup` installs (Debian's python3-prometheus-client). Where it is missing, a test fails under `CI=true` and
//! is announced as skipped elsewhere.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

const PROGRAM: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print("ready", flush=True)
for line in sys.stdin:
    try:
        families = [
            {"name": f.name, "kind": f.type, "unit": f.unit, "help": f.documentation,
             "samples": [{"name": s.name, "labels": s.labels, "value": s.value} for s in f.samples]}
            for f in parse(json.loads(line))
        ]
        print(json.dumps({"families": families}), flush=True)
    except Exception as error:
        print(json.dumps({"error": repr(error)}), flush=True)
"#;

/// A family of metrics, as read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Family {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) unit: String,
    pub(super) help: String,
    pub(super) samples: Vec<Sample>,
}

/// A sample, as read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

/// A Python that parses one text after the other; it ends when this is dropped.
pub(super) struct Parser {
    python: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    families: Option<Vec<Family>>,
    error: Option<String>,
}

impl Parser {
    /// The first Python that has the module; `None`, announced, where there is none outside CI.
    pub(super) fn find() -> Option<Self> {
        let found = ["/usr/bin/python3", "python3"].into_iter().find_map(Self::start);
        if found.is_none() {
            let missing =
                "no python3 with prometheus_client: install Debian's python3-prometheus-client (`cargo xtask setup`)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("SKIPPED: {missing}");
        }
        found
    }

    /// This Python, if it runs and has the module.
    pub(super) fn start(python: &str) -> Option<Self> {
        let mut command = Command::new(python);
        command
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut python = command.spawn().ok()?;
        let stdin = python.stdin.take();
        let stdout = BufReader::new(python.stdout.take().expect("piped"));
        let mut parser = Self { python, stdin, stdout };
        (parser.line() == "ready\n").then_some(parser)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("Python's answer");
        line
    }

    /// The families, or why the text is not OpenMetrics.
    pub(super) fn parse(&mut self, text: &str) -> Result<Vec<Family>, String> {
        let mut question = serde_json::to_vec(text).expect("text");
        question.push(b'\n');
        self.stdin
            .as_mut()
            .expect("until it is dropped")
            .write_all(&question)
            .expect("Python listens");
        let answer: Answer = serde_json::from_str(&self.line()).expect("one JSON object");
        answer
            .families
            .ok_or_else(|| answer.error.expect("families or an error"))
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.stdin.take());
        let _ = self.python.wait();
    }
}
