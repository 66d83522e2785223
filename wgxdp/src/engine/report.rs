//! The one line that a transition is worth in the log: `isp-a down after 61 ms silence → isp-b`.
//!
//! A path is called by its uplink, and by its endpoint too where its peer has several; the peer is named where there are several. The arrow
//! says where the traffic goes, and is there exactly when this transition moved it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use wgxdp_common::id::{PathId, PeerId};
use wgxdp_common::table::PathState;

use super::path_range;
use super::transition::{Cause, Patience, Transition};

/// What peers and paths are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    peers: BTreeMap<PeerId, String>,
    paths: BTreeMap<PathId, PathName>,
}

#[derive(Clone, Debug)]
struct PathName {
    uplink: String,
    endpoint: String,
}

impl Names {
    /// Names a peer.
    pub fn add_peer(&mut self, peer: PeerId, name: impl Into<String>) {
        self.peers.insert(peer, name.into());
    }

    /// Forgets a peer and its paths.
    pub fn remove_peer(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        let paths: Vec<PathId> = self.paths.range(path_range(peer)).map(|(path, _)| *path).collect();
        for path in paths {
            self.paths.remove(&path);
        }
    }

    /// Names a path.
    pub fn add_path(&mut self, path: PathId, uplink: impl Into<String>, endpoint: impl Into<String>) {
        self.paths.insert(
            path,
            PathName {
                uplink: uplink.into(),
                endpoint: endpoint.into(),
            },
        );
    }

    /// What a path is called, among the paths of its peer.
    #[must_use]
    pub fn path(&self, path: PathId) -> String {
        let Some(name) = self.paths.get(&path) else {
            return format!("path {}", path.0);
        };
        let mut siblings = self.paths.range(path_range(path.peer()));
        if siblings.any(|(_, sibling)| sibling.endpoint != name.endpoint) {
            format!("{} ({})", name.uplink, name.endpoint)
        } else {
            name.uplink.clone()
        }
    }

    /// The line for the log.
    #[must_use]
    pub fn line(&self, transition: &Transition) -> String {
        let &Transition {
            peer,
            path,
            from,
            to,
            cause,
            patience,
            now_on,
            moved,
        } = transition;
        let prefix = self.prefix(peer);
        let what = What {
            from,
            to,
            cause,
            patience,
        };
        let traffic = match now_on {
            Some(now_on) if moved => format!(" → {}", self.path(now_on)),
            None if to == PathState::Down => "; no path left, trying all".to_owned(),
            _ => String::new(),
        };
        format!("{prefix}{} {what}{traffic}", self.path(path))
    }

    /// The line about a path over which nothing returns, and there is none left to try; `everywhere`: nothing returned over the others either.
    #[must_use]
    pub fn unanswered(&self, path: PathId, everywhere: bool) -> String {
        let (prefix, path) = (self.prefix(path.peer()), self.path(path));
        if everywhere {
            format!("{prefix}nothing returns over {path} either: the far end's WireGuard does not answer")
        } else {
            format!(
                "{prefix}{path}: data leaves and nothing returns, though probes pass; there is no other path to try"
            )
        }
    }

    /// Names the peer where there are several.
    fn prefix(&self, peer: PeerId) -> String {
        match self.peers.get(&peer) {
            Some(name) if self.peers.len() > 1 => format!("{name}: "),
            _ => String::new(),
        }
    }
}

impl Transition {
    /// What happened, without to whom and what of it.
    #[must_use]
    pub fn what(&self) -> String {
        let &Self {
            from,
            to,
            cause,
            patience,
            ..
        } = self;
        What {
            from,
            to,
            cause,
            patience,
        }
        .to_string()
    }
}

/// What happened to a path, in words.
struct What {
    from: PathState,
    to: PathState,
    cause: Cause,
    patience: Patience,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.happened(f)?;
        let patience = self.patience.to_string();
        if self.to == PathState::Down && matches!(self.cause, Cause::Silence(_)) && !patience.is_empty() {
            write!(f, " ({patience})")?;
        }
        Ok(())
    }
}

impl What {
    fn happened(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to, self.cause) {
            (PathState::Down, Cause::Silence(silence)) if self.from == PathState::Held => {
                write!(f, "down again after {} silence", Brief(silence))
            }
            (to, Cause::Silence(silence)) => write!(f, "{} after {} silence", to.as_str(), Brief(silence)),
            (to, Cause::NoCarrier) => write!(f, "{}: no carrier", to.as_str()),
            (to, Cause::AdminDown) => write!(f, "{}: set down by the administrator", to.as_str()),
            (to, Cause::Absent) => write!(f, "{}: its device or address is gone", to.as_str()),
            (to, Cause::Violates(violation)) => write!(f, "{}: {violation}", to.as_str()),
            (to, Cause::Mtu) => write!(f, "{}: large packets get lost, small ones pass", to.as_str()),
            (to, Cause::Stall) => write!(
                f,
                "{}: data leaves and nothing returns, though probes pass",
                to.as_str()
            ),
            (_, Cause::Answered) => f.write_str("answers again"),
            (_, Cause::OnProbation(hold_down)) => write!(f, "answers again, held for {}", Brief(hold_down)),
            (_, Cause::OnLongerProbation(hold_down)) => {
                write!(
                    f,
                    "answers again, held for {} because it keeps failing",
                    Brief(hold_down)
                )
            }
            (to, Cause::HoldDownOver(hold_down)) => write!(f, "{} after {} clean", to.as_str(), Brief(hold_down)),
            (_, Cause::NothingBetter) if self.from == PathState::Down => f.write_str("answers again, nothing better"),
            (to, Cause::NothingBetter) => write!(f, "{} before its time: nothing better", to.as_str()),
            (to, Cause::Started) => write!(f, "{} on credit", to.as_str()),
        }
    }
}

/// A duration as one reads it: milliseconds below a second, else seconds with at most one decimal.
struct Brief(Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms < 1000 {
            write!(f, "{ms} ms")
        } else if ms % 1000 < 100 {
            write!(f, "{} s", ms / 1000)
        } else {
            write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Violation;
    use super::*;

    const A: PathId = PathId(0);
    const B: PathId = PathId(1);

    fn names() -> Names {
        let mut names = Names::default();
        names.add_peer(PeerId(0), "hq");
        names.add_path(A, "isp-a", "198.51.100.1:51820");
        names.add_path(B, "isp-b", "198.51.100.1:51820");
        names
    }

    fn transition(from: PathState, to: PathState, cause: Cause) -> Transition {
        Transition {
            peer: PeerId(0),
            path: A,
            from,
            to,
            cause,
            patience: Patience::default(),
            now_on: Some(B),
            moved: true,
        }
    }

    #[test]
    fn a_path_that_is_given_more_time_to_die_says_why_when_it_does() {
        let patience = |probes, loss_ppm, burst_permille| Patience {
            probes,
            loss_ppm,
            burst_permille,
        };
        let after = |ms| Cause::Silence(Duration::from_millis(ms));
        let down = |cause, patience| Transition {
            patience,
            ..transition(PathState::Suspect, PathState::Down, cause)
        };
        let rows = [
            (
                down(after(640), patience(12, 204_000, 1253)),
                "isp-a down after 640 ms silence (needs 12 probes: loss 20 %, bursts of 1.3) → isp-b",
            ),
            (
                down(after(240), patience(4, 9_600, 1000)),
                "isp-a down after 240 ms silence (needs 4 probes: loss 1.0 %, bursts of 1.0) → isp-b",
            ),
            (
                down(Cause::NoCarrier, patience(12, 204_000, 1253)),
                "isp-a down: no carrier → isp-b",
            ),
        ];
        for (transition, line) in rows {
            assert_eq!(names().line(&transition), line);
        }
    }

    #[test]
    fn each_transition_has_its_line() {
        use PathState::{Down, Held, Suspect, Up};
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let to_b = |from, to, cause| transition(from, to, cause);
        let to_a = |from, to, cause| Transition {
            now_on: Some(A),
            ..transition(from, to, cause)
        };
        let stays = |from, to, cause| Transition {
            moved: false,
            ..transition(from, to, cause)
        };
        let nowhere = |from, to, cause| Transition {
            now_on: None,
            moved: false,
            ..transition(from, to, cause)
        };
        let rows = [
            (
                to_b(Suspect, Down, Cause::Silence(ms(61))),
                "isp-a down after 61 ms silence → isp-b",
            ),
            (to_b(Up, Down, Cause::NoCarrier), "isp-a down: no carrier → isp-b"),
            (
                to_b(Up, Down, Cause::AdminDown),
                "isp-a down: set down by the administrator → isp-b",
            ),
            (
                to_b(Up, Down, Cause::Absent),
                "isp-a down: its device or address is gone → isp-b",
            ),
            (
                to_b(Up, Down, Cause::Mtu),
                "isp-a down: large packets get lost, small ones pass → isp-b",
            ),
            (
                to_b(Up, Down, Cause::Stall),
                "isp-a down: data leaves and nothing returns, though probes pass → isp-b",
            ),
            (
                nowhere(Up, Down, Cause::Silence(ms(64))),
                "isp-a down after 64 ms silence; no path left, trying all",
            ),
            (
                to_b(
                    Up,
                    Held,
                    Cause::Violates(Violation::Loss {
                        seen_ppm: 211_000,
                        most_ppm: 50_000,
                    }),
                ),
                "isp-a held: loss 21 % above max-loss 5 % → isp-b",
            ),
            (
                stays(Held, Down, Cause::Silence(ms(1250))),
                "isp-a down again after 1.2 s silence",
            ),
            (
                stays(Up, Suspect, Cause::Silence(ms(35))),
                "isp-a suspect after 35 ms silence",
            ),
            (stays(Suspect, Up, Cause::Answered), "isp-a answers again"),
            (
                stays(Down, Held, Cause::OnProbation(s(10))),
                "isp-a answers again, held for 10 s",
            ),
            (
                stays(Down, Held, Cause::OnLongerProbation(s(40))),
                "isp-a answers again, held for 40 s because it keeps failing",
            ),
            (
                to_a(Held, Up, Cause::HoldDownOver(s(10))),
                "isp-a up after 10 s clean → isp-a",
            ),
            (
                to_a(Down, Up, Cause::NothingBetter),
                "isp-a answers again, nothing better → isp-a",
            ),
            (
                stays(Held, Up, Cause::NothingBetter),
                "isp-a up before its time: nothing better",
            ),
            (to_a(Down, Up, Cause::Answered), "isp-a answers again → isp-a"),
        ];
        for (transition, line) in rows {
            assert_eq!(names().line(&transition), line);
        }
    }

    #[test]
    fn a_peer_with_several_endpoints_has_them_named() {
        let mut names = names();
        names.add_path(PathId(2), "isp-b", "203.0.113.1:51820");
        let line = names.line(&transition(PathState::Up, PathState::Down, Cause::NoCarrier));
        assert_eq!(
            line,
            "isp-a (198.51.100.1:51820) down: no carrier → isp-b (198.51.100.1:51820)"
        );
    }

    #[test]
    fn with_several_peers_the_line_names_the_peer_and_another_peers_endpoint_is_none_of_its_business() {
        let mut names = names();
        names.add_peer(PeerId(1), "lab");
        names.add_path(PathId::new(PeerId(1), 0), "isp-a", "203.0.113.1:51820");
        let line = names.line(&transition(PathState::Up, PathState::Down, Cause::NoCarrier));
        assert_eq!(line, "hq: isp-a down: no carrier → isp-b");
    }

    #[test]
    fn a_far_end_that_answers_nowhere_is_told_from_a_path_without_another() {
        let mut names = names();
        assert_eq!(
            names.unanswered(B, true),
            "nothing returns over isp-b either: the far end's WireGuard does not answer"
        );
        names.add_peer(PeerId(1), "lab");
        assert_eq!(
            names.unanswered(A, false),
            "hq: isp-a: data leaves and nothing returns, though probes pass; there is no other path to try"
        );
    }

    #[test]
    fn a_path_without_a_name_is_called_by_its_number() {
        assert_eq!(Names::default().path(PathId(9)), "path 9");
    }
}
