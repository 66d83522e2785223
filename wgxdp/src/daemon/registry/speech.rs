//! Whether a client asks by itself, and if not whether it is asked from here. Pure.
//!
//! A client decides by which path it is reached as long as its own requests come: they are the evidence at both ends. Once its daemon is stopped or killed neither end asks, and a black hole
//! is nobody's business, although its programs still answer. Then it is asked from here: the answers tell ours which of its paths are live, and our requests tell its own programs.
//!
//! ```text
//!   by itself ── silent over its several paths, in session ─▶ tried ── an answer ──▶ asked
//!       ▲                                                  │   ▲                   │
//!       │                                           in vain│   │another session    │ no answer for long
//!       └── its own request, from any ──                   ▼   │                   │
//!                                                      left in peace ◀─────────────┘
//! ```
//!
//! **Tried**: one request over each of its paths at each look, [`TRIES`] times, so that whoever sleeps is not kept awake. **Asked**: each [`INTERVAL`] over each path, like a listed peer, which
//! costs what that does; hence [`AT_ONCE`].

use std::time::{Duration, SystemTime};

use crate::config::Profile;

/// Looks at which a client is tried before it is left in peace.
pub(super) const TRIES: u32 = 3;
/// From one request to the next over each path of a client that is asked: as often as a listed peer's by default, so a black hole is found as soon.
pub(in crate::daemon) const INTERVAL: Duration = Profile::Balanced.probe_interval();
/// Clients that are tried or asked at the same time, at most: with two paths each they are sent 5,120 requests in a second, with eight 20,480.
pub(in crate::daemon) const AT_ONCE: usize = 128;
/// Longer than WireGuard waits before it shakes hands with whoever is silent (its Keepalive-Timeout and Rekey-Timeout, 15 s together): whoever is there after a longer darkness has another session.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// Who asks about a client's paths. Times are of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// It does, or nothing was to be had of it yet.
    ByItself,
    /// Nobody: it was tried so many times since it was last heard.
    Tried { since_ns: u64, times: u32 },
    /// This end, since it was last heard before that.
    Asked { since_ns: u64 },
    /// Nobody, as long as this session lasts: it does not answer.
    LeftInPeace { session: Option<SystemTime> },
}

/// What is known of a client at a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// When its latest own request came.
    pub(super) spoke_ns: u64,
    /// Whether it has been silent since for longer than its requests are apart.
    pub(super) is_silent: bool,
    /// When anything authentic came of it last, answers included.
    pub(super) heard_ns: u64,
    /// Whether there is more than one way to it: else there is nothing to be found out.
    pub(super) has_choice: bool,
    /// When the handshake of its session was, if that is valid still.
    pub(super) session: Option<SystemTime>,
}

/// What a look changed for a client, where somebody must do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Turn {
    /// Send a request over each of its paths.
    Try,
    /// It is to be asked from now on.
    Ask,
    /// It answers no more: it is asked no longer.
    GiveUp,
    /// It speaks for itself again.
    Speaks {
        /// Until now it was asked.
        was_asked: bool,
    },
}

impl Speech {
    /// Whether it is among the [`AT_ONCE`].
    pub(super) const fn is_busy(self) -> bool {
        matches!(self, Self::Tried { .. } | Self::Asked { .. })
    }

    /// Whether it is to be tried, if there is room.
    pub(super) fn wants_trying(self, of: &Evidence) -> bool {
        let is_worthwhile = of.has_choice && of.session.is_some();
        match self {
            Self::ByItself => of.is_silent && is_worthwhile,
            Self::LeftInPeace { session } => of.session != session && is_worthwhile,
            Self::Tried { .. } | Self::Asked { .. } => false,
        }
    }

    /// After a look.
    pub(super) fn next(self, of: &Evidence, is_room: bool, now_ns: u64) -> Self {
        let (spoke_since, heard_since) = (|ns| of.spoke_ns > ns, |ns| of.heard_ns > ns);
        match self {
            Self::LeftInPeace { .. } if !of.is_silent => Self::ByItself,
            Self::ByItself | Self::LeftInPeace { .. } if self.wants_trying(of) && is_room => Self::Tried {
                since_ns: of.heard_ns,
                times: 1,
            },
            Self::ByItself | Self::LeftInPeace { .. } => self,
            Self::Tried { since_ns, .. } | Self::Asked { since_ns } if spoke_since(since_ns) => Self::ByItself,
            Self::Tried { since_ns, .. } if heard_since(since_ns) => Self::Asked { since_ns },
            Self::Tried { since_ns, times } if times < TRIES => Self::Tried {
                since_ns,
                times: times + 1,
            },
            Self::Asked { .. } if of.heard_ns + GIVEN_UP_AFTER.as_nanos() as u64 >= now_ns => self,
            Self::Tried { .. } | Self::Asked { .. } => Self::LeftInPeace { session: of.session },
        }
    }

    /// What is to be done after it was `before`.
    pub(super) fn turn(self, before: Self) -> Option<Turn> {
        match (before, self) {
            (_, Self::Tried { .. }) => Some(Turn::Try),
            (Self::Tried { .. }, Self::Asked { .. }) => Some(Turn::Ask),
            (Self::Asked { .. }, Self::LeftInPeace { .. }) => Some(Turn::GiveUp),
            (Self::Tried { .. } | Self::LeftInPeace { .. }, Self::ByItself) => Some(Turn::Speaks { was_asked: false }),
            (Self::Asked { .. }, Self::ByItself) => Some(Turn::Speaks { was_asked: true }),
            (Self::ByItself, _) | (_, Self::Asked { .. } | Self::LeftInPeace { .. }) => None,
        }
    }
}
