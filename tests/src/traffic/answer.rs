//! Questions and answers through a tunnel: the least that shows that it carries packets both ways, for hosts that have much to say to nobody.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::tcp::is_time_out;
use crate::host::Host;
use crate::poll;

/// Where questions are answered (RFC 862).
const PORT: u16 = 7;
/// How long an answer is waited for before the question is asked again, and how often a responder looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Answers what a host is asked; dropped, it stops.
#[derive(Debug)]
pub struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts answering in `host` at `address`.
    ///
    /// # Errors
    /// The address or its port cannot be had.
    pub fn start(host: &Host, address: Ipv4Addr) -> Result<Self> {
        let socket = host.enter(|| UdpSocket::bind((address, PORT)));
        let socket = socket.with_context(|| format!("a responder at {address} in {}", host.name()))?;
        socket.set_read_timeout(Some(LOOK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut question = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    // Nothing for a while, or an ICMP error; both end in another look.
                    let Ok((length, whence)) = socket.recv_from(&mut question) else {
                        continue;
                    };
                    // An answer that cannot be sent is missing at the asker, who asks again.
                    let _ = socket.send_to(question.get(..length).unwrap_or_default(), whence);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so on standard error.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asks from `from`, a host with its address in the tunnel, until `to` answers.
///
/// # Errors
/// No answer came within `bound`.
pub fn ask(from: (&Host, Ipv4Addr), to: Ipv4Addr, bound: Duration) -> Result<()> {
    let socket = from.0.enter(|| UdpSocket::bind((from.1, 0)));
    let socket = socket.with_context(|| format!("asking from {} in {}", from.1, from.0.name()))?;
    socket.set_read_timeout(Some(LOOK))?;
    let what = format!("an answer from {to} to {} in {}", from.1, from.0.name());
    let (mut number, mut answer) = (0_u64, [0; 64]);
    poll::wait_until(&what, bound, || {
        number += 1;
        // What the kernel refuses now (no route, no endpoint yet) is asked again.
        let _ = socket.send_to(&number.to_be_bytes(), (to, PORT));
        match socket.recv_from(&mut answer) {
            Ok((_, whence)) => Ok(whence == (to, PORT).into()),
            Err(error) if is_time_out(&error) => Ok(false),
            Err(error) => Err(error).context("waiting for the answer"),
        }
    })
}
