//! Watch first, then dump, then tell what changed, and resync for ever.
//!
//! ```text
//! notifications ─┬─ of a link's state ───────────► LinkChanged, LinkGone    at once, from the notification itself
//!                ├─ of what a View shows ─► dump ─► View                     a few ms after the last one,
//!                ├─ of our rules, routes, anchor ─► OursTouched              a few tens after the first one
//!                └─ lost (ENOBUFS) ──────────────► View, OursTouched
//! ```
//!
//! - The socket listens before the first dump, so that no change falls between.
//! - A [`View`] never contradicts the latest [`Event::LinkChanged`] about a link's state: a dump may be older than a notification
//!   that was read while it ran.
//! - Dumps take at most half of the time, however large the tables are and however often they change. Notifications about routes
//!   other than defaults cost a glance at their header.
//! - All of it is bounded: events wait in a short queue, and while that is full, notifications wait in the socket, where the kernel
//!   drops them and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use netlink_packet_core::{NetlinkBuffer, ParseableParametrized as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use rtnetlink::MulticastGroup;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::anchor::policy::is_our_rule;
use super::anchor::{CANONICAL_V4, CANONICAL_V6, NAME, PEER_NAME, device};
use super::link::Link;
use super::netlink::Netlink;
use super::view::{View, is_foreign_default, table};
use super::{Error, Result, TABLE};

/// What is dumped only after this much quiet …
const QUIET: Duration = Duration::from_millis(4);
/// … or once this long has passed since the first change.
const PATIENCE: Duration = Duration::from_millis(40);
/// Before a failed dump is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Events that wait for the daemon.
const QUEUE: usize = 64;
/// Notifications that wait for us, in bytes.
const SOCKET_BYTES: usize = 4 << 20;
/// The largest netlink datagram there is.
const DATAGRAM: usize = 64 << 10;

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// What the host's network did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link appeared, or its name or state changed.
    LinkChanged {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
        /// The operator wants it up.
        admin_up: bool,
        /// Packets can leave.
        carrier: bool,
    },
    /// A link was deleted, or moved to another namespace.
    LinkGone {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// The host after one or more changes.
    View(View),
    /// Somebody touched our rules, our routes or the anchor, or may have: see [`super::anchor::Anchor::repair`].
    OursTouched,
}

/// A watch on the host's network. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts watching, and returns the host as it is. Changes made through `own` are not held against anybody.
    ///
    /// # Errors
    /// No sockets to be had, or the first dump failed.
    pub async fn start(own: &Netlink) -> Result<(Self, View)> {
        let ear = Ear::listen().map_err(Error::Socket)?;
        let netlink = Netlink::connect()?;
        let view = View::read(&netlink).await?;
        let (sender, events) = mpsc::channel(QUEUE);
        let watcher = Watcher {
            ear,
            netlink,
            own_port: own.port(),
            events: sender,
            live: view.links.values().map(|link| (link.index, Live::of(link))).collect(),
            last: view.clone(),
            gone: BTreeSet::new(),
            dirty: None,
            touched: None,
            told: false,
            not_before: Instant::now(),
        };
        let task = tokio::spawn(watcher.run());
        Ok((Self { events, task }, view))
    }

    /// Waits for the next event; nothing is lost when the wait is abandoned.
    ///
    /// # Errors
    /// [`Error::WatchEnded`].
    pub async fn next(&mut self) -> Result<Event> {
        self.events.recv().await.ok_or(Error::WatchEnded)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The socket that notifications arrive on.
struct Ear(AsyncFd<OwnedFd>);

impl Ear {
    fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let family = socket::AddressFamily::Netlink;
        let socket = socket::socket(family, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        // More than `rmem_max` needs CAP_NET_ADMIN; with less, notifications are lost sooner, and that is noticed.
        if socket::setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BYTES).is_err() {
            socket::setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BYTES)?;
        }
        let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // SAFETY: an `OwnedFd` is open, and the same socket, for as long as it lives; the `AsyncFd` owns it and never replaces it.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(registered?))
    }

    async fn hear(&self, datagram: &mut [u8]) -> io::Result<usize> {
        let receive = |socket: &OwnedFd| Ok(socket::recv(socket.as_raw_fd(), datagram, MsgFlags::empty())?);
        self.0.async_io(Interest::READABLE, receive).await
    }
}

/// What a notification says of a link's state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Live {
    name: String,
    admin_up: bool,
    carrier: bool,
}

impl Live {
    fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            admin_up: link.admin_up,
            carrier: link.carrier,
        }
    }
}

/// Something has to be done about changes since `first`, the last of them at `latest`.
#[derive(Clone, Copy, Debug)]
struct Since {
    first: Instant,
    latest: Instant,
}

impl Since {
    fn mark(this: &mut Option<Self>) {
        let latest = Instant::now();
        let first = this.map_or(latest, |since| since.first);
        *this = Some(Self { first, latest });
    }

    fn due(self) -> Instant {
        (self.latest + QUIET).min(self.first + PATIENCE)
    }
}

struct Watcher {
    ear: Ear,
    netlink: Netlink,
    own_port: u32,
    events: mpsc::Sender<Event>,
    /// The latest word on each link, from notifications, else from dumps.
    live: BTreeMap<u32, Live>,
    /// Links deleted since the running dump began.
    gone: BTreeSet<u32>,
    /// The last view told.
    last: View,
    dirty: Option<Since>,
    touched: Option<Since>,
    /// A link's change was told since the last view.
    told: bool,
    not_before: Instant,
}

/// Nobody listens any more.
struct Deaf;

impl Watcher {
    async fn run(mut self) {
        let mut datagram = vec![0; DATAGRAM];
        let mut dump: Option<BoxFuture<'static, (Result<View>, Duration)>> = None;
        loop {
            let dump_due = self
                .dirty
                .filter(|_| dump.is_none())
                .map(|since| since.due().max(self.not_before));
            let touched_due = self.touched.map(Since::due);
            let heard = tokio::select! {
                received = self.ear.hear(&mut datagram) => match received {
                    Ok(length) => self.hear(&datagram[..length]).await,
                    Err(error) => self.missed(&error),
                },
                (view, took) = async { dump.as_mut().expect("guarded").await }, if dump.is_some() => {
                    dump = None;
                    self.not_before = Instant::now() + took;
                    self.tell(view).await
                }
                () = until(dump_due), if dump_due.is_some() => {
                    self.dirty = None;
                    self.gone.clear();
                    dump = Some(timed_view(self.netlink.clone()).boxed());
                    Ok(())
                }
                () = until(touched_due), if touched_due.is_some() => {
                    self.touched = None;
                    self.send(Event::OursTouched).await
                }
            };
            if heard.is_err() {
                return;
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), Deaf> {
        self.events.send(event).await.map_err(|_| Deaf)
    }

    /// Notifications were lost.
    fn missed(&mut self, error: &io::Error) -> Result<(), Deaf> {
        if error.raw_os_error() != Some(libc::ENOBUFS) {
            tracing::warn!(%error, "netlink socket broke, opening another");
            self.ear = Ear::listen().map_err(|error| {
                tracing::error!(%error, "no netlink socket, the watch ends");
                Deaf
            })?;
        }
        self.live.clear();
        Since::mark(&mut self.dirty);
        Since::mark(&mut self.touched);
        Ok(())
    }

    /// A dump ended.
    async fn tell(&mut self, view: Result<View>) -> Result<(), Deaf> {
        let mut view = match view {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(%error, "could not read the host's network, trying again");
                self.not_before = Instant::now() + RETRY;
                Since::mark(&mut self.dirty);
                return Ok(());
            }
        };
        view.links.retain(|_, link| !self.gone.contains(&link.index));
        for link in view.links.values_mut() {
            let live = self.live.entry(link.index).or_insert_with(|| Live::of(link));
            link.admin_up = live.admin_up;
            link.carrier = live.carrier;
        }
        if view == self.last && !self.told {
            return Ok(());
        }
        self.told = false;
        self.last = view.clone();
        self.send(Event::View(view)).await
    }

    /// One datagram of notifications.
    async fn hear(&mut self, mut datagram: &[u8]) -> Result<(), Deaf> {
        while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
            let own = message.port_number() == self.own_port;
            let length = (message.length() as usize).next_multiple_of(4).min(datagram.len());
            if is_relevant(message.message_type(), message.payload()) {
                match RouteNetlinkMessage::parse_with_param(message.payload(), message.message_type()) {
                    Ok(parsed) => self.notice(parsed, own).await?,
                    Err(error) => {
                        tracing::debug!(%error, "a notification in a shape that is not known");
                        Since::mark(&mut self.dirty);
                    }
                }
            }
            datagram = &datagram[length..];
        }
        Ok(())
    }

    async fn notice(&mut self, message: RouteNetlinkMessage, own: bool) -> Result<(), Deaf> {
        match message {
            RouteNetlinkMessage::NewLink(message) => self.link_is(&message).await?,
            RouteNetlinkMessage::DelLink(message) => self.link_is_gone(&message).await?,
            RouteNetlinkMessage::NewAddress(_) => Since::mark(&mut self.dirty),
            RouteNetlinkMessage::DelAddress(message) => {
                Since::mark(&mut self.dirty);
                self.touch(!own && is_canonical(&message));
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                if is_foreign_default(&route) {
                    Since::mark(&mut self.dirty);
                }
                self.touch(!own && is_in_our_table(&route));
            }
            RouteNetlinkMessage::DelRule(rule) => self.touch(!own && is_our_rule(&rule)),
            _ => {}
        }
        Ok(())
    }

    fn touch(&mut self, touched: bool) {
        if touched {
            Since::mark(&mut self.touched);
        }
    }

    async fn link_is(&mut self, message: &LinkMessage) -> Result<(), Deaf> {
        let Some(link) = Link::from_message(message) else {
            return Ok(());
        };
        Since::mark(&mut self.dirty);
        self.gone.remove(&link.index);
        let live = Live::of(&link);
        let before = self.live.insert(link.index, live.clone());
        let renamed = before
            .as_ref()
            .is_some_and(|before| is_anchor(&before.name) && before.name != live.name);
        self.touch(renamed || is_anchor(&live.name) && !(live.carrier && link.noarp && device::is_ours(&link)));
        if before.as_ref() == Some(&live) {
            return Ok(());
        }
        self.told = true;
        let Live {
            name,
            admin_up,
            carrier,
        } = live;
        self.send(Event::LinkChanged {
            index: link.index,
            name,
            admin_up,
            carrier,
        })
        .await
    }

    async fn link_is_gone(&mut self, message: &LinkMessage) -> Result<(), Deaf> {
        let Some(link) = Link::from_message(message) else {
            return Ok(());
        };
        Since::mark(&mut self.dirty);
        self.live.remove(&link.index);
        self.gone.insert(link.index);
        self.touch(is_anchor(&link.name));
        self.told = true;
        self.send(Event::LinkGone {
            index: link.index,
            name: link.name,
        })
        .await
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due).await;
    }
}

async fn timed_view(netlink: Netlink) -> (Result<View>, Duration) {
    let begin = Instant::now();
    let view = View::read(&netlink).await;
    (view, begin.elapsed())
}

/// Whether a notification is worth parsing: of routes, only those of length 0 are, and those in a table whose number is too
/// large for the header, as ours is.
fn is_relevant(message_type: u16, payload: &[u8]) -> bool {
    const LONG_TABLE: u8 = 252;
    match message_type {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => match payload {
            [_family, 0, ..] => true,
            [_family, _, _, _, table, ..] => *table == LONG_TABLE || *table == 0,
            _ => false,
        },
        _ => true,
    }
}

fn is_in_our_table(route: &RouteMessage) -> bool {
    table(route) == TABLE
}

fn is_canonical(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => *ip == CANONICAL_V4 || *ip == CANONICAL_V6,
        _ => false,
    })
}

fn is_anchor(name: &str) -> bool {
    name == NAME || name == PEER_NAME
}
