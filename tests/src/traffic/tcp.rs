//! One long TCP transfer through the tunnel, with proof of life.
//!
//! The sender writes a known pattern at a bounded rate, so that it never fills the machine; the receiver compares every
//! byte. The transfer is alive after a moment when bytes *written after it* have arrived, and neither end has seen an
//! error.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::clock::{now_ns, sleep_until};
use crate::host::Host;
use crate::poll;

/// Bytes written at a time.
const CHUNK: usize = 10_000;
/// How long a blocked read or write waits before it looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// The pattern's period, prime and so out of step with every segment.
const PERIOD: u64 = 251;

/// A running transfer; dropped, it stops.
#[derive(Debug)]
pub struct Transfer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The end of what has been given to the kernel, or is being given to it at the moment.
    offered: AtomicU64,
    received: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// A place in the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    offered: u64,
}

impl Transfer {
    /// Connects and starts, from one host to another, the receiver given with its address in the tunnel, with 10 kB
    /// written each `interval`.
    ///
    /// # Errors
    /// A socket could not be opened, or the connection did not come about.
    pub fn start(from: &Host, to: (&Host, Ipv4Addr), interval: Duration) -> Result<Self> {
        let listener =
            to.0.enter(|| TcpListener::bind((to.1, 0)))
                .context("listening in the tunnel")?;
        let address = listener.local_addr()?;
        let bound = Duration::from_secs(10);
        let sender = from
            .enter(|| TcpStream::connect_timeout(&address, bound))
            .context("connecting through the tunnel")?;
        let (receiver, _) = listener.accept().context("accepting in the tunnel")?;
        receiver.set_read_timeout(Some(LOOK))?;
        sender.set_write_timeout(Some(LOOK))?;
        sender.set_nodelay(true)?;
        let shared = Arc::new(Shared::default());
        let receiving = watched(&shared, "receiver", move |shared| receive(receiver, shared));
        let sending = watched(&shared, "sender", move |shared| send(sender, shared, interval));
        Ok(Self {
            shared,
            threads: vec![receiving, sending],
        })
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// This moment in the transfer.
    pub fn mark(&self) -> Mark {
        Mark {
            offered: self.shared.offered.load(Ordering::Relaxed),
        }
    }

    /// What went wrong with the connection, if anything did.
    pub fn failure(&self) -> Option<String> {
        self.shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether bytes written after `mark` have arrived, without an error at either end.
    pub fn alive_since(&self, mark: Mark) -> bool {
        self.failure().is_none() && self.received() > mark.offered
    }

    /// Waits until the transfer is alive after `mark`.
    ///
    /// # Errors
    /// It broke, or was not alive within `bound`.
    pub fn await_life(&self, mark: Mark, bound: Duration) -> Result<()> {
        poll::wait_until("bytes of the TCP transfer", bound, || match self.failure() {
            Some(failure) => bail!("the TCP transfer broke: {failure}"),
            None => Ok(self.alive_since(mark)),
        })
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

/// A thread whose error becomes the transfer's failure, unless the transfer is being stopped.
fn watched(
    shared: &Arc<Shared>,
    end: &'static str,
    work: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let outcome = work(&shared);
        if let (Err(error), false) = (outcome, shared.stop.load(Ordering::Relaxed)) {
            let mut failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| format!("{end}: {error}"));
        }
    })
}

fn send(mut stream: TcpStream, shared: &Shared, interval: Duration) -> io::Result<()> {
    // One pattern long enough that a chunk can begin at any phase of it.
    let pattern: Vec<u8> = (0..PERIOD)
        .map(|byte| byte as u8)
        .cycle()
        .take(CHUNK + PERIOD as usize)
        .collect();
    let (mut due, mut written) = (now_ns(), 0);
    while !shared.stop.load(Ordering::Relaxed) {
        // Ended early by a signal, it writes early; no harm.
        let _ = sleep_until(due);
        let chunk = pattern
            .iter()
            .skip((written % PERIOD) as usize)
            .take(CHUNK)
            .copied()
            .collect::<Vec<u8>>();
        // First: the bytes may arrive before the call returns.
        shared.offered.store(written + chunk.len() as u64, Ordering::Relaxed);
        match stream.write(&chunk) {
            Ok(length) => written += length as u64,
            Err(error) if is_time_out(&error) => {}
            Err(error) => return Err(error),
        }
        // A transfer that was held up does not catch up in a burst.
        due = (due + interval.as_nanos() as u64).max(now_ns());
    }
    Ok(())
}

fn receive(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other end closed")),
            Ok(length) => length,
            Err(error) if is_time_out(&error) => continue,
            Err(error) => return Err(error),
        };
        for byte in buffer.iter().take(length) {
            if u64::from(*byte) != offset % PERIOD {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("byte {offset} is wrong"),
                ));
            }
            offset += 1;
        }
        shared.received.store(offset, Ordering::Relaxed);
    }
    Ok(())
}

pub(super) fn is_time_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
