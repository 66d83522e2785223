//! A numbered UDP stream from one host to another, through the tunnel.
//!
//! Sender and receiver are threads of this process with sockets in the two hosts, so both read the same clock. The
//! sender keeps to absolute deadlines: when it was scheduled late it sends what fell due in the last [`CATCH_UP`] at
//! once and skips what is older, so that a machine that is too slow is not kept busy by its own backlog. (A late sender's packets
//! come in a bunch, of which an outage takes more than its time's worth: a benchmark that counts them has the sender run in real time.) Each packet's
//! own time is noted, which is what [`super::analysis`] reckons with. A packet that the kernel refuses counts as sent:
//! the application wanted to send it.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::analysis::{Arrival, Report, Window, analyse};
use crate::clock::{now_ns, sleep_until};
use crate::cores;
use crate::host::Host;

/// A sender that is late makes up for no more than this.
pub const CATCH_UP: Duration = Duration::from_millis(10);
/// Bytes of a small packet's payload, about those of a voice packet.
pub const SMALL: usize = 200;
/// Bytes of a payload that makes the largest packet of a tunnel with an MTU of 1420, over IPv4.
pub const FULL: usize = 1420 - 28;
/// How long a receiver waits before it looks whether to stop.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(50);
/// Bytes of the receiver's buffer. The kernel's default holds some 200 packets, which a receiver that a busy machine lets wait for
/// 200 ms overflows: a loss that is not the tunnel's.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What a stream sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Time from packet to packet.
    pub interval: Duration,
    /// Bytes of a packet's payload; the first eight are its number.
    pub payload: usize,
    /// Whether the sender runs before all that is not of real time, as if it were another machine (SCHED_RR).
    pub real_time: bool,
}

/// A running stream; dropped, it stops.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: Mutex<Vec<u64>>,
    arrivals: Mutex<Vec<Arrival>>,
}

impl Stream {
    /// Starts a stream between two hosts, each given with its address in the tunnel.
    ///
    /// # Errors
    /// A socket could not be opened.
    pub fn start(from: (&Host, Ipv4Addr), to: (&Host, Ipv4Addr), load: Load) -> Result<Self> {
        let receiver =
            to.0.enter(|| UdpSocket::bind((to.1, 0)))
                .context("the receiver's socket in the tunnel")?;
        receiver.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        setsockopt(&receiver, RcvBufForce, &RECEIVE_BUFFER).context("enlarging the receiver's buffer (needs root)")?;
        let target = receiver.local_addr()?;
        let sender = from.0.enter(|| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((from.1, 0))?;
            socket.connect(target)?;
            Ok(socket)
        });
        let sender = sender.context("the sender's socket in the tunnel")?;
        let shared = Arc::new(Shared::default());
        let receiving = thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive(&receiver, &shared, load.payload)
        });
        let sending = thread::spawn({
            let shared = Arc::clone(&shared);
            move || send(&sender, &shared, load)
        });
        Ok(Self {
            shared,
            threads: vec![receiving, sending],
        })
    }

    /// Packets sent and packets arrived, so far.
    pub fn counts(&self) -> (u64, u64) {
        (
            lock(&self.shared.sent).len() as u64,
            lock(&self.shared.arrivals).len() as u64,
        )
    }

    /// When the latest arrival was.
    pub fn last_arrival_ns(&self) -> Option<u64> {
        lock(&self.shared.arrivals).last().map(|arrival| arrival.at_ns)
    }

    /// When the first packet arrived that was sent at or after `from_ns`, and when that packet was sent.
    pub fn first_delivery_since(&self, from_ns: u64) -> Option<Delivery> {
        let sent = lock(&self.shared.sent);
        let first = sent.partition_point(|sent_ns| *sent_ns < from_ns) as u64;
        let arrivals = lock(&self.shared.arrivals);
        // Nothing arrives before it was sent.
        let candidates = arrivals.partition_point(|arrival| arrival.at_ns < from_ns);
        let arrival = arrivals.iter().skip(candidates).find(|arrival| arrival.seq >= first)?;
        let sent_ns = *sent.get(usize::try_from(arrival.seq).ok()?)?;
        Some(Delivery {
            sent_ns,
            at_ns: arrival.at_ns,
        })
    }

    /// What became of the packets so far.
    pub fn report(&self, from_ns: u64, until_ns: u64) -> Report {
        // In this order: every arrival that is seen has a packet that is seen, because the sender notes first and sends
        // then.
        let arrivals = lock(&self.shared.arrivals).clone();
        let sent = lock(&self.shared.sent).clone();
        analyse(
            &sent,
            &arrivals,
            Window {
                from_ns,
                until_ns,
                now_ns: now_ns(),
            },
        )
    }
}

/// A packet that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// When it was sent.
    pub sent_ns: u64,
    /// When it arrived.
    pub at_ns: u64,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(socket: &UdpSocket, shared: &Shared, load: Load) {
    if load.real_time
        && let Err(e) = cores::run_in_real_time(libc::SCHED_RR, 1)
    {
        eprintln!("a sender that is to be punctual is not ({e})");
    }
    let [interval, catch_up] = [load.interval, CATCH_UP].map(|time| time.as_nanos() as u64);
    let mut due = now_ns();
    let mut payload = vec![0x57; load.payload];
    for seq in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // Ended early by a signal, it sends early: each packet's own time is noted.
        let _ = sleep_until(due);
        due = (due + interval).max(now_ns().saturating_sub(catch_up));
        let (number, _) = payload.split_at_mut(size_of::<u64>());
        number.copy_from_slice(&seq.to_be_bytes());
        lock(&shared.sent).push(now_ns());
        // What the kernel refuses is missing at the receiver, and counted there.
        let _ = socket.send(&payload);
    }
}

fn receive(socket: &UdpSocket, shared: &Shared, payload: usize) {
    let mut buffer = vec![0; payload + 1];
    while !shared.stop.load(Ordering::Relaxed) {
        // A time-out or an ICMP error; both end in another look.
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let at_ns = now_ns();
        if length != payload {
            continue;
        }
        let Some(number) = buffer.first_chunk() else { continue };
        lock(&shared.arrivals).push(Arrival {
            seq: u64::from_be_bytes(*number),
            at_ns,
        });
    }
}
