//! Whether this host takes in packets at all: a prober that cannot hear does not ask.
//!
//! On a busy processor what arrives may lie in the host's own queue for longer than it takes to declare a path dead: what the kernel does not handle at once (`__do_softirq`) it leaves to
//! `ksoftirqd`, an ordinary thread, while the probes leave with real-time priority and pile up unanswered. So before the loop judges and probes, a datagram of its own goes over
//! `lo`, through that same queue (`enqueue_to_backlog`) of the processor that the loop runs on. Where all is well it is back before the call that sends it returns. Where it is not, the
//! wake-up is late until it is: an engine that was late finds the paths as it left them, and the programs convict nobody by less than three probes. What another processor's
//! queue holds it does not tell. Where answers to probes come in, they say the same, and no datagram is needed.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use tracing::info;

use crate::clock::monotonic_ns;

/// A host that heard something so recently need not be asked, or within one and a half of the shortest interval between probes if that is less: fewer leave meanwhile than convict anybody.
const FRESH: Duration = Duration::from_millis(15);
/// For no longer is a wake-up put off.
const PATIENCE: Duration = Duration::from_millis(500);
/// A datagram that is not back by then was lost, which happens where a queue overflows.
const LOST: Duration = Duration::from_secs(60);

/// The datagram, and when it left and came.
#[derive(Debug)]
pub(super) struct Hearing {
    /// Connected to itself, so that nobody else's datagrams count. `None`: nothing passes over `lo` here, and nothing can be told.
    socket: Option<UdpSocket>,
    /// When the one left that is not back yet.
    asked_ns: Option<u64>,
    heard_ns: Option<u64>,
    /// For how long that is worth something.
    fresh: Duration,
}

impl Hearing {
    /// For probes of which none leaves more often than each `interval`. To be called within the runtime. Where nothing passes over `lo`, it takes the host to hear.
    pub(super) async fn open(interval: Option<Duration>) -> Self {
        let socket = Self::connect().await;
        if let Err(e) = &socket {
            info!(
                "nothing passes over lo ({e}): on a busy machine answers that nobody had the time to look at count as missing"
            );
        }
        Self {
            socket: socket.ok(),
            asked_ns: None,
            heard_ns: None,
            fresh: interval.map_or(FRESH, |interval| FRESH.min(interval * 3 / 2)),
        }
    }

    /// A socket from which a first datagram came back.
    async fn connect() -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(socket.local_addr()?).await?;
        socket.send(&[0]).await?;
        timeout(PATIENCE, socket.recv(&mut [0])).await??;
        Ok(socket)
    }

    /// An answer arrived at this moment, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) fn note(&mut self, at_ns: u64) {
        self.heard_ns = self.heard_ns.max(Some(at_ns));
    }

    /// Waits until the host hears, or for as long as it is worth to wait. Dropped in between, it goes on where it was when it is called again.
    pub(super) async fn await_it(&mut self) {
        let now_ns = monotonic_ns();
        let since = |at_ns: u64| Duration::from_nanos(now_ns.saturating_sub(at_ns));
        let Some(socket) = &self.socket else { return };
        if self.heard_ns.is_some_and(|heard_ns| since(heard_ns) < self.fresh) {
            return;
        }
        let waiting_ns = self.asked_ns.filter(|asked_ns| since(*asked_ns) < LOST);
        let asked_ns = match waiting_ns {
            Some(asked_ns) => asked_ns,
            // Refused (`lo` went down) it tells nothing.
            None if socket.send(&[0]).await.is_err() => return,
            None => now_ns,
        };
        self.asked_ns = Some(asked_ns);
        let left = PATIENCE.saturating_sub(since(asked_ns));
        if let Ok(Ok(_)) = timeout(left, socket.recv(&mut [0])).await {
            self.asked_ns = None;
            self.heard_ns = Some(monotonic_ns());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// As if it had heard so long ago, with a datagram under way that left so long ago and never comes.
    async fn deaf(heard: Duration, asked: Duration) -> Hearing {
        let ago = |time: Duration| monotonic_ns() - time.as_nanos() as u64;
        Hearing {
            asked_ns: Some(ago(asked)),
            heard_ns: Some(ago(heard)),
            ..Hearing::open(None).await
        }
    }

    #[tokio::test]
    async fn a_host_that_hears_is_heard_again_and_again() {
        let mut hearing = Hearing::open(None).await;
        for _ in 0..3 {
            let before = monotonic_ns();
            hearing.heard_ns = hearing.heard_ns.map(|_| 0);
            hearing.await_it().await;
            assert!(hearing.heard_ns.is_some_and(|heard_ns| heard_ns >= before));
            assert_eq!(hearing.asked_ns, None);
        }
    }

    #[tokio::test]
    async fn a_deaf_one_is_waited_for_once_and_not_for_ever() {
        let mut hearing = deaf(FRESH, Duration::ZERO).await;
        let asked_ns = hearing.asked_ns;
        let begun = Instant::now();
        hearing.await_it().await;
        assert!(begun.elapsed() >= PATIENCE - Duration::from_millis(1));
        hearing.await_it().await;
        assert!(begun.elapsed() < 2 * PATIENCE, "not for the same one again");
        assert_eq!(hearing.asked_ns, asked_ns);
        // What comes after all shows that it hears.
        hearing
            .socket
            .as_ref()
            .expect("a socket")
            .send(&[0])
            .await
            .expect("lo is up");
        hearing.await_it().await;
        assert_eq!(hearing.asked_ns, None);
    }

    #[tokio::test]
    async fn an_answer_is_as_good_as_the_datagram_and_is_soon_old() {
        let mut hearing = deaf(FRESH, PATIENCE / 2).await;
        let begun = Instant::now();
        hearing.note(monotonic_ns());
        hearing.await_it().await;
        assert!(begun.elapsed() < FRESH, "not waited for");
        let heard_ns = hearing.heard_ns;
        hearing.note(monotonic_ns() - FRESH.as_nanos() as u64);
        assert_eq!(hearing.heard_ns, heard_ns, "an older one changes nothing");
        tokio::time::sleep(FRESH).await;
        hearing.await_it().await;
        assert!(begun.elapsed() >= PATIENCE / 2, "then the datagram is waited for");
    }

    #[tokio::test]
    async fn what_was_heard_is_old_before_three_probes_leave_however_often_they_do() {
        for interval in [1, 5, 10, 50].map(Duration::from_millis) {
            let fresh = Hearing::open(Some(interval)).await.fresh;
            assert!(fresh <= FRESH && fresh < 2 * interval, "{interval:?}: {fresh:?}");
        }
    }

    #[tokio::test]
    async fn a_datagram_that_was_lost_is_followed_by_another() {
        let mut hearing = deaf(LOST, LOST).await;
        hearing.await_it().await;
        assert_eq!(hearing.asked_ns, None);
    }
}
