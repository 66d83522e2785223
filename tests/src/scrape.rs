//! The metrics of a running daemon, asked for in its host.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::host::Host;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The first line.
    pub status: String,
    /// In lower case.
    pub headers: String,
    /// What is behind them.
    pub body: String,
}

/// `GET path` in `host`, of whoever listens at `address`.
///
/// # Errors
/// Nobody listens, or what came is no answer.
pub fn get(host: &Host, address: &str, path: &str) -> Result<Answer> {
    let text = host.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect(address).context("connecting to the metrics")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("no headers: {text}"))?;
    let (status, headers) = head.split_once("\r\n").context("no status line")?;
    Ok(Answer {
        status: status.to_owned(),
        headers: headers.to_lowercase(),
        body: body.to_owned(),
    })
}

/// The sum of the samples of this name that bear all of these labels; `None` where there are none.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let found: Vec<f64> = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
        .collect();
    (!found.is_empty()).then(|| found.iter().sum())
}
