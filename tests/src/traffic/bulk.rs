//! TCP as fast as it goes: one connection, one sender, one receiver that throws everything away.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::tcp::is_time_out;
use crate::clock::now_ns;
use crate::host::Host;
use crate::poll;

/// Bytes of a write and of a read.
const CHUNK: usize = 256 * 1024;
/// How long a blocked read or write waits before it looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Megabits of payload in a second that arrive from one host at another, which is given with its address in the tunnel, over `time`
/// after `warm_up`.
///
/// # Errors
/// The connection did not come about or broke, or the run was interrupted.
pub fn rate(from: &Host, to: (&Host, Ipv4Addr), warm_up: Duration, time: Duration) -> Result<f64> {
    let listener = to.0.enter(|| TcpListener::bind((to.1, 0)));
    let listener = listener.context("listening in the tunnel")?;
    let address = listener.local_addr()?;
    let connected = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)));
    let sender = connected.context("connecting through the tunnel")?;
    let (receiver, _) = listener.accept().context("accepting in the tunnel")?;
    sender.set_write_timeout(Some(LOOK))?;
    receiver.set_read_timeout(Some(LOOK))?;

    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(sender, &stop));
        let receiving = scope.spawn(|| receive(receiver, &received, &stop));
        let measured = measure(&received, warm_up, time);
        stop.store(true, Ordering::Relaxed);
        for (end, thread) in [("sender", sending), ("receiver", receiving)] {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.with_context(|| format!("the {end} of the TCP transfer"))?;
        }
        measured
    })
}

fn measure(received: &AtomicU64, warm_up: Duration, time: Duration) -> Result<f64> {
    poll::observe_for(warm_up)?;
    let (bytes, since_ns) = (received.load(Ordering::Relaxed), now_ns());
    poll::observe_for(time)?;
    let bits = 8 * (received.load(Ordering::Relaxed) - bytes);
    // Bits in a nanosecond are gigabits in a second.
    Ok(bits as f64 / (now_ns() - since_ns) as f64 * 1e3)
}

/// Sends until told to stop, or until the receiver, which stops at the same time, has gone.
fn send(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    let chunk = vec![0x57; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_time_out(&error) || stop.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(mut stream: TcpStream, received: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) if stop.load(Ordering::Relaxed) => {}
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed")),
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if is_time_out(&error) || stop.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
