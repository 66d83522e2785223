//! What can be wrong with a configuration, and how that is said: where, what, and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use wgxdp_common::abi::{MAX_PATHS_PER_PEER, MAX_TUNNELS, MAX_UPLINKS};

use super::file::MAX_BYTES;
use super::value::{Protect, ValueError};
use crate::mtu::IPV6_LEAST;

/// Where something stands. The order is that of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Nowhere in particular.
    Whole,
    /// On a line of the file (from 1), at a column (from 1, in characters) where the line holds several things.
    Line(usize, Option<usize>),
    /// In this flag of the command line.
    Flag(&'static str),
}

/// Follows "already used": where the other one is.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("elsewhere"),
            Self::Line(line, _) => write!(f, "on line {line}"),
            Self::Flag(flag) => write!(f, "by another {flag}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub fault: Fault,
}

/// One thing that is accepted but will not do what its author may expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file; `None` for the command line.
    pub origin: Option<PathBuf>,
    /// Where.
    pub place: Place,
    /// What.
    pub notice: Notice,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        located(f, self.origin.as_ref(), self.place)?;
        self.notice.fmt(f)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; name a readable file with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Longer than any configuration.
    #[error("{} is longer than {MAX_BYTES} bytes, so it is no configuration of wgxdp; name another file with --config", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Neither a file nor flags.
    #[error(
        "nothing to run: there is no {}; name a file with --config FILE, or say what to do with flags, such as \
         --tunnel wg0 --uplink eth0 --uplink wwan0", path.display()
    )]
    Nothing {
        /// The file that would have been read.
        path: PathBuf,
    },
    /// It says things that cannot be done.
    #[error("{}", Listed(origin.as_ref(), problems))]
    Invalid {
        /// The file; `None` for the command line.
        origin: Option<PathBuf>,
        /// At least one, in the order of reading.
        problems: Vec<Problem>,
    },
}

struct Listed<'a>(Option<&'a PathBuf>, &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.1.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            located(f, self.0, problem.place)?;
            problem.fault.fmt(f)?;
        }
        Ok(())
    }
}

fn located(f: &mut fmt::Formatter<'_>, origin: Option<&PathBuf>, place: Place) -> fmt::Result {
    if let Some(path) = origin {
        write!(f, "{}", path.display())?;
        match place {
            Place::Line(line, Some(column)) => write!(f, ":{line}:{column}")?,
            Place::Line(line, None) => write!(f, ":{line}")?,
            Place::Whole | Place::Flag(_) => {}
        }
        return f.write_str(": ");
    }
    match place {
        Place::Flag(flag) => write!(f, "{flag}: "),
        Place::Whole | Place::Line(..) => Ok(()),
    }
}

/// What is wrong with a place, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not TOML; the words are the parser's.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A key that means nothing here.
    #[error("unknown key {key:?} in {table}; {}", Nearest { nearest, known })]
    UnknownKey {
        /// The key.
        key: String,
        /// The table, as a header.
        table: &'static str,
        /// The known key that was probably meant.
        nearest: Option<&'static str>,
        /// All known keys.
        known: Vec<&'static str>,
    },
    /// Somebody put a secret where it does not belong.
    #[error(
        "{key:?} in {table}: secrets stay with WireGuard; remove it here, and replace it there if others could read this file"
    )]
    Secret {
        /// The key, never its value.
        key: String,
        /// The table, as a header.
        table: &'static str,
    },
    /// A key without which the table means nothing.
    #[error("{table} has no {key}; add {example}")]
    Missing {
        /// The table, as a header.
        table: &'static str,
        /// The key.
        key: &'static str,
        /// A line to add.
        example: &'static str,
    },
    /// A value of the wrong type.
    #[error("{key} must be {expected}, not {found}")]
    Type {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A single table where a list of tables belongs.
    #[error("{header} must be a list of tables: {advice}")]
    NotTables {
        /// The table, as its header should be.
        header: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// None of the words.
    #[error("{key} must be {}, not {found:?}{}", Alternatives(known), DidYouMean(*nearest))]
    Word {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        known: Vec<&'static str>,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// A word of the language that this version cannot do.
    #[error("{key} = {word:?} is not in this version; {advice}")]
    NotYet {
        /// The key.
        key: &'static str,
        /// The word.
        word: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A value that breaks its type's rule.
    #[error("{key} {found:?} is {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
        /// The rule.
        rule: ValueError,
    },
    /// A key that is no key. It is not repeated: it might be a secret, or most of one.
    #[error("{key} is {rule}")]
    Key {
        /// The key of the table.
        key: &'static str,
        /// The rule.
        rule: ValueError,
    },
    /// A number or a duration that is too small or too large.
    #[error("{key} must be {range}, not {found}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
        /// What it may be.
        range: &'static str,
    },
    /// Not an address.
    #[error("{key} {found:?} is not an IP address{advice}")]
    Address {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
        /// What to write, with its own punctuation.
        advice: &'static str,
    },
    /// An address that no host has, or that leads nowhere from here.
    #[error("{key} {found}: {why}")]
    Unusable {
        /// The key.
        key: &'static str,
        /// The address.
        found: String,
        /// Why, and what to do.
        why: &'static str,
    },
    /// Not `address:port`.
    #[error("endpoint {found:?} {advice}")]
    Endpoint {
        /// What it says.
        found: String,
        /// What is wrong with it, and what to do.
        advice: &'static str,
    },
    /// Not an address to listen at.
    #[error("listen {found:?} {advice}")]
    Listen {
        /// What it says.
        found: String,
        /// What is wrong with it, and what to do.
        advice: &'static str,
    },
    /// Two addresses of one family.
    #[error("{key} has two {family} addresses; keep one, an uplink uses one of each family")]
    TwoOfFamily {
        /// The key.
        key: &'static str,
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// A list with nothing in it.
    #[error("{key} is an empty list; {advice}")]
    Empty {
        /// The key.
        key: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Both sides of a hop have the same address.
    #[error("gateway {0} is the uplink's own address; give the router's")]
    GatewayIsSelf(String),
    /// A setting that its probe has no use for.
    #[error(
        "an icmp probe has no port; remove it, or ask a STAMP reflector with kind = \"stamp\", or a TCP port with kind = \"tcp\""
    )]
    ProbePort,
    /// A tunnel's MTU as a number.
    #[error(
        "mtu cannot be a number here: set it in WireGuard's own configuration (MTU = … for wg-quick), or write mtu = \"auto\" to \
         have wgxdp lower it to what fits while it runs"
    )]
    TunnelMtu,
    /// An uplink for IPv6 on which IPv6 cannot be.
    #[error(
        "mtu {0} is below {IPV6_LEAST}, the least that IPv6 needs (RFC 8200, section 5), but the uplink's {1} names an IPv6 address; \
         raise the one or remove the other"
    )]
    Ipv6Mtu(u32, &'static str),
    /// Two of a kind where there can be only one.
    #[error("{what} {found:?} is already used {other}; {advice}")]
    Duplicate {
        /// What.
        what: &'static str,
        /// The value.
        found: String,
        /// Where the first one is.
        other: Place,
        /// What to do.
        advice: &'static str,
    },
    /// An interface that is both.
    #[error("interface {found:?} is already an uplink{}; a tunnel cannot carry itself, name another interface", OnLine(*other))]
    TunnelIsUplink {
        /// The interface.
        found: String,
        /// Where it is an uplink.
        other: Place,
    },
    /// An interface that cannot be an uplink or a tunnel.
    #[error("interface {found:?} cannot be {what}: {why}")]
    Reserved {
        /// The interface.
        found: String,
        /// An uplink or a tunnel.
        what: &'static str,
        /// Why, and what to do.
        why: &'static str,
    },
    /// `policy = "duplicate"` with fewer copies than that.
    #[error(
        "protect = \"{0}\" contradicts policy = \"duplicate\", which copies every data packet; remove one of the two"
    )]
    DuplicateUnprotected(Protect),
    /// Nothing to send by.
    #[error("no uplink; add [[uplink]] with interface = \"eth0\" for each interface that can carry the tunnel")]
    NoUplink,
    /// Nothing to send.
    #[error("no tunnel; add [[tunnel]] with interface = \"wg0\" for the WireGuard interface to protect")]
    NoTunnel,
    /// As [`Fault::NoUplink`], said to the command line.
    #[error("no uplink; add --uplink eth0 for each interface that can carry the tunnel")]
    NoUplinkFlag,
    /// As [`Fault::NoTunnel`], said to the command line.
    #[error("no tunnel; add --tunnel wg0 for the WireGuard interface to protect")]
    NoTunnelFlag,
    /// More than there is room for.
    #[error("{0} uplinks, but there is room for {MAX_UPLINKS}; remove some")]
    TooManyUplinks(usize),
    /// More than there is room for.
    #[error("{0} tunnels, but there is room for {MAX_TUNNELS}; remove some")]
    TooManyTunnels(usize),
    /// More than `steer` looks at.
    #[error(
        "{uplinks} uplinks × {endpoints} endpoints are {} paths, but a peer has room for {MAX_PATHS_PER_PEER}; remove uplinks or \
         endpoints", uplinks * endpoints
    )]
    TooManyPaths {
        /// Uplinks of the host.
        uplinks: usize,
        /// Endpoints of the peer.
        endpoints: usize,
    },
}

/// What is accepted but will not do what its author may expect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Nothing to fail over to.
    #[error("{0:?} is the only uplink, so there is nothing to fail over to; add a second one")]
    OneUplink(String),
    /// More uplinks than paths.
    #[error("{0} uplinks, but a peer has room for {MAX_PATHS_PER_PEER} paths: the uplinks of highest cost stay unused")]
    MoreUplinksThanPaths(usize),
}

struct Nearest<'a> {
    nearest: &'a Option<&'static str>,
    known: &'a [&'static str],
}

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nearest {
            Some(nearest) => write!(f, "did you mean {nearest:?}?"),
            None => write!(f, "known keys: {}", self.known.join(", ")),
        }
    }
}

/// Where, if that is a line.
struct OnLine(Place);

impl fmt::Display for OnLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Line(..) => write!(f, " {}", self.0),
            Place::Whole | Place::Flag(_) => Ok(()),
        }
    }
}

struct DidYouMean(Option<&'static str>);

impl fmt::Display for DidYouMean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |nearest| write!(f, "; did you mean {nearest:?}?"))
    }
}

struct Alternatives<'a>(&'a [&'static str]);

impl fmt::Display for Alternatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            let joint = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{joint}{word:?}")?;
        }
        Ok(())
    }
}
