//! Requests to the kernel's routing subsystem.
//!
//! - Every request ends within [`ANSWER_WITHIN`], with the kernel's answer or an error that says what was asked.
//! - A dump that was interrupted by a change (`NLM_F_DUMP_INTR`, on any of its messages or on the last) is read again.
//! - One socket carries one dump at a time, for the kernel refuses a second (`EBUSY`).
//! - [`Netlink::port`] identifies our own changes in the notifications that everybody gets.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, SocketAddr};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::link::Link;
use super::{Error, Result};

/// The longest that the kernel may take for one answer (or one part of a dump); it answers within the system call unless the machine starves.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// In so many parts.
const TURNS: u32 = 5;
/// Attempts at reading a whole dump.
const DUMP_TRIES: u32 = 20;
/// Pause between them, where the socket is busy with the rest of an abandoned dump.
const DUMP_PAUSE: Duration = Duration::from_millis(5);

/// A connection to the kernel's routing subsystem, in the network namespace of the thread that made it. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    dumping: Arc<Mutex<()>>,
    port: u32,
}

impl Netlink {
    /// Connects; needs a tokio runtime with I/O and time, on which it spawns a task that ends with the last clone.
    ///
    /// # Errors
    /// No socket to be had.
    pub fn connect() -> Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check().map_err(Error::Socket)?;
        // The end of a dump may be what says that it was interrupted.
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        let port = socket.bind_auto().map_err(Error::Socket)?.port_number();
        tokio::spawn(connection);
        Ok(Self {
            handle,
            dumping: Arc::default(),
            port,
        })
    }

    /// The netlink port by which notifications name who made a change.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Asks for a change (`flags` besides request and acknowledgement) and waits until it is made.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's error number; [`Error::Unanswered`].
    pub async fn change(&self, action: &str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.exchange(action, message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ())
            .await
            .map(drop)
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// As [`Self::change`]; the error number of a missing object depends on its kind.
    pub async fn get(&self, action: &str, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage> {
        let (found, _) = self.exchange(action, message, NLM_F_REQUEST, |inner| inner).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| Error::Unanswered { action: action.into() })
    }

    /// Reads all objects of a kind and keeps what `keep` makes of them, whole and without interruption.
    ///
    /// # Errors
    /// As [`Self::change`]; [`Error::Unsettled`].
    pub async fn dump<T>(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>> {
        let _one_at_a_time = self.dumping.lock().await;
        for _ in 0..DUMP_TRIES {
            match self
                .exchange(action, message.clone(), NLM_F_REQUEST | NLM_F_DUMP, &mut keep)
                .await
            {
                Ok((found, Whole::Yes)) => return Ok(found.into_iter().flatten().collect()),
                Ok((_, Whole::Interrupted)) => {}
                Err(error) if error.is(&[libc::EBUSY, libc::EINTR]) => sleep(DUMP_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unsettled { action: action.into() })
    }

    async fn exchange<T>(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage) -> T,
    ) -> Result<(Vec<T>, Whole)> {
        let unanswered = || Error::Unanswered { action: action.into() };
        let refused = |source| Error::Refused {
            action: action.into(),
            source,
        };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        let mut answers = self.handle.clone().request(request).map_err(|_| unanswered())?;
        let mut found = Vec::new();
        let mut whole = Whole::Yes;
        while let Some(answer) = in_time(ANSWER_WITHIN, answers.next()).await.ok_or_else(unanswered)? {
            if answer.header.flags & NLM_F_DUMP_INTR != 0 && flags & NLM_F_DUMP == NLM_F_DUMP {
                whole = Whole::Interrupted;
            }
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => found.push(each(inner)),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(refused(error.to_io())),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(refused(std::io::Error::from_raw_os_error(-done.code)));
                }
                NetlinkPayload::Overrun(_) => return Err(unanswered()),
                _ => {}
            }
        }
        Ok((found, whole))
    }
}

/// An answer that comes `within` this. Who was stopped or suspended for longer finds that the time is over before the task that reads the answer could: so the time passes in
/// [`TURNS`], of which a suspension ends one.
async fn in_time<T>(within: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    for _ in 0..TURNS {
        if let Ok(answer) = timeout(within / TURNS, &mut answer).await {
            return Some(answer);
        }
    }
    None
}

/// Whether a dump shows one state of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    Interrupted,
}

/// One device by its name, without a runtime. Fails with `ENODEV` where there is none.
pub(super) fn link_now(name: &str) -> std::io::Result<Link> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.into()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetLink(request));
    let mut request = NetlinkMessage::new(header, payload);
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    // The kernel answers within the call to send: there is nothing to wait for.
    socket.set_non_blocking(true)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::deserialize(&answer).map_err(std::io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
            Link::from_message(&message).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::thread;

    use super::*;

    const WITHIN: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn an_answer_that_lay_there_while_everybody_was_stopped_is_in_time() {
        let (reader, answer) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { reader.send(()) });
        let answer = in_time(WITHIN, async {
            thread::sleep(2 * WITHIN);
            answer.await
        });
        assert_eq!(answer.await, Some(Ok(())));
    }

    #[tokio::test]
    async fn silence_ends() {
        assert_eq!(in_time(WITHIN, pending::<()>()).await, None);
    }
}
