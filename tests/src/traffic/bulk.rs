//! As fast as it goes, by TCP or UDP: one sender, one receiver that throws everything away, each on a core of its own.
//!
//! TCP's sender is held back by its receiver. UDP's is, too: of its packets, as large as the tunnel takes whole, no more than [`WINDOW`] bytes are under way.
//! A sender without that would measure how a machine drops what is too much, and take the processor from those who carry the packets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, panic};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::tcp::is_time_out;
use crate::clock::now_ns;
use crate::cores::on_core;
use crate::host::Host;
use crate::poll;

/// Bytes of a write and of a read.
const CHUNK: usize = 256 * 1024;
/// Bytes of a UDP packet's payload: what an MTU of 1420 leaves beside the headers of IPv4 and UDP.
const PAYLOAD: usize = 1420 - 28;
/// Most bytes of UDP under way.
const WINDOW: u64 = 256 * PAYLOAD as u64;
/// Bytes of the UDP receiver's buffer: the window with all that the kernel adds to a packet, and more.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What has not arrived after so long without any arrival is lost.
const LOST: Duration = Duration::from_millis(20);
/// How long a UDP sender with a full window waits before it looks again.
const FULL: Duration = Duration::from_micros(50);
/// How long a blocked read or write waits before it looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What carries the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One connection.
    Tcp,
    /// Full packets.
    Udp,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Megabits of payload in a second.
    pub rate: f64,
    /// Nanoseconds that all cores together were busy for a byte of payload, with whatever else they had to do. The kernel counts in hundredths of a second.
    pub busy: f64,
}

/// An end of a transfer: the host, its address in the tunnel, and the core for our thread there.
pub type End<'a> = (&'a Host, Ipv4Addr, usize);

/// Payload that arrives from one host at another over `time` after `warm_up`.
///
/// # Errors
/// The connection did not come about or broke, or the run was interrupted.
pub fn measure(
    transport: Transport,
    from: End<'_>,
    to: End<'_>,
    warm_up: Duration,
    time: Duration,
) -> Result<Measured> {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let state = (&stop, &received);
    match transport {
        Transport::Tcp => {
            let (sender, receiver) = connect(from, to)?;
            let send = || send(sender, &stop);
            transfer(
                state,
                (from.2, send),
                (to.2, || receive(receiver, &received, &stop)),
                (warm_up, time),
            )
        }
        Transport::Udp => {
            let (sender, receiver) = sockets(from, to)?;
            let send = || flood(&sender, &received, &stop);
            transfer(
                state,
                (from.2, send),
                (to.2, || drain(&receiver, &received, &stop)),
                (warm_up, time),
            )
        }
    }
    .with_context(|| format!("{transport:?} from {} to {}", from.0.name(), to.0.name()))
}

fn connect(from: End<'_>, to: End<'_>) -> Result<(TcpStream, TcpStream)> {
    let listener = to.0.enter(|| TcpListener::bind((to.1, 0)));
    let listener = listener.context("listening in the tunnel")?;
    let address = listener.local_addr()?;
    let connected = from
        .0
        .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)));
    let sender = connected.context("connecting through the tunnel")?;
    let (receiver, _) = listener.accept().context("accepting in the tunnel")?;
    sender.set_write_timeout(Some(LOOK))?;
    receiver.set_read_timeout(Some(LOOK))?;
    Ok((sender, receiver))
}

fn sockets(from: End<'_>, to: End<'_>) -> Result<(UdpSocket, UdpSocket)> {
    let receiver = to.0.enter(|| UdpSocket::bind((to.1, 0)));
    let receiver = receiver.context("the receiver's socket in the tunnel")?;
    receiver.set_read_timeout(Some(LOOK))?;
    setsockopt(&receiver, RcvBufForce, &RECEIVE_BUFFER).context("enlarging the receiver's buffer (needs root)")?;
    let sender = from.0.enter(|| UdpSocket::bind((from.1, 0)));
    let sender = sender.context("the sender's socket in the tunnel")?;
    sender.connect(receiver.local_addr()?)?;
    Ok((sender, receiver))
}

/// Runs both ends, each on its core, and measures meanwhile.
fn transfer(
    (stop, received): (&AtomicBool, &AtomicU64),
    (from_core, send): (usize, impl FnOnce() -> io::Result<()> + Send),
    (to_core, receive): (usize, impl FnOnce() -> io::Result<()> + Send),
    (warm_up, time): (Duration, Duration),
) -> Result<Measured> {
    thread::scope(|scope| {
        let sending = scope.spawn(|| on_core(from_core, || Ok(send()?)));
        let receiving = scope.spawn(|| on_core(to_core, || Ok(receive()?)));
        let measured = observe(received, warm_up, time);
        stop.store(true, Ordering::Relaxed);
        for (end, thread) in [("sender", sending), ("receiver", receiving)] {
            let ended = thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
            ended.with_context(|| format!("the {end}"))?;
        }
        measured
    })
}

fn observe(received: &AtomicU64, warm_up: Duration, time: Duration) -> Result<Measured> {
    poll::observe_for(warm_up)?;
    let (bytes, busy, since_ns) = (received.load(Ordering::Relaxed), busy()?, now_ns());
    poll::observe_for(time)?;
    let bytes = (received.load(Ordering::Relaxed) - bytes) as f64;
    ensure!(bytes > 0.0, "nothing arrived in {time:?}");
    Ok(Measured {
        // Bits in a nanosecond are gigabits in a second.
        rate: 8.0 * bytes / (now_ns() - since_ns) as f64 * 1e3,
        busy: (self::busy()? - busy).as_secs_f64() * 1e9 / bytes,
    })
}

/// In what the kernel tells programs processor time (USER_HZ is 100 on all but a few old machines).
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// How long all cores together have been busy since the start of the machine.
pub(crate) fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    busy_in(&text).context("/proc/stat is not as proc_stat(5) says")
}

/// The first line's times, in ticks: user, nice, system, not idle, not waiting, interrupts, soft interrupts.
fn busy_in(text: &str) -> Option<Duration> {
    let mut times = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut total = 0;
    for counts in [true, true, true, false, false, true, true] {
        let ticks: u64 = times.next()?.parse().ok()?;
        total += if counts { ticks } else { 0 };
    }
    Some(Duration::from_millis(TICK.as_millis() as u64 * total))
}

/// Sends packets while there is room in the window, until told to stop.
fn flood(socket: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let packet = [0x57; PAYLOAD];
    let (mut sent, mut lost) = (0_u64, 0);
    let mut last = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let arrived = received.load(Ordering::Relaxed);
        if arrived != last.0 {
            last = (arrived, Instant::now());
        }
        if sent.saturating_sub(arrived + lost) >= WINDOW {
            if last.1.elapsed() > LOST {
                lost = sent - arrived;
            }
            thread::sleep(FULL);
            continue;
        }
        match socket.send(&packet) {
            Ok(length) => sent += length as u64,
            // A queue on the way is full.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::sleep(FULL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drain(socket: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; PAYLOAD];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if is_time_out(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_stolen_and_guests_time_is_not_busy() {
        let stat = "cpu  100 20 3 99999 88888 4 5 7777 666 55\ncpu0 1 1 1 1 1 1 1\n";
        assert_eq!(busy_in(stat), Some(Duration::from_millis(1320)));
        assert_eq!(busy_in("cpu  1 2 3\n"), None);
        assert!(busy().is_ok_and(|busy| busy > Duration::ZERO));
    }
}
