//! Values that have a rule of their own: names, keys, words, durations. Each type can only be made from text that keeps its rule.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use wgxdp_common::liveness;

/// Longest label of an uplink or a peer, in bytes.
const MAX_LABEL: usize = 63;
/// Longest name that the kernel gives a network interface, in bytes (`IFNAMSIZ` without its NUL).
const MAX_INTERFACE: usize = 15;

/// Why a text is not what it should be. The text itself is named by whoever knows where it stood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The kernel would refuse it as an interface's name.
    #[error("not the name of an interface: those have 1 to 15 bytes, without \"/\", \":\" or whitespace")]
    Interface,
    /// Not fit to be typed in a command or found in a log.
    #[error(
        "not usable as a label: take 1 to 63 bytes, without whitespace, quotes, \"/\" or \"=\", and no \"-\" at the start"
    )]
    Label,
    /// Not base64, or not canonical.
    #[error("not base64; copy the key as `wg show` prints it")]
    KeyEncoding,
    /// Base64, but not of 32 bytes.
    #[error("{0} bytes long, but a WireGuard key has 32 (44 characters of base64); copy it as `wg show` prints it")]
    KeyLength(usize),
    /// The placeholder of 32 zero bytes.
    #[error("all zeros, which is no key; copy it as `wg show` prints it")]
    KeyZero,
    /// Not a duration.
    #[error("not a duration; write a number with its unit, such as \"50ms\" or \"10s\"")]
    Duration,
}

/// The name of a network interface, as the kernel would accept it (`dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_INTERFACE || text == "." || text == ".." || text.contains(odd) {
            return Err(ValueError::Interface);
        }
        Ok(Self(text.to_owned()))
    }
}

fn label(text: &str) -> Result<String, ValueError> {
    let odd = |c: char| matches!(c, '/' | '=' | '"' | '\'' | '\\') || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > MAX_LABEL || text.starts_with('-') || text.contains(odd) {
        return Err(ValueError::Label);
    }
    Ok(text.to_owned())
}

/// What an uplink is called in commands, metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkName(String);

impl FromStr for UplinkName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        label(text).map(Self)
    }
}

/// What a peer is called in commands, metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName(String);

impl FromStr for PeerName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        label(text).map(Self)
    }
}

macro_rules! text {
    ($($t:ty),+) => {
        $(
            impl $t {
                /// The text.
                #[must_use]
                pub fn as_str(&self) -> &str {
                    &self.0
                }
            }

            impl AsRef<str> for $t {
                fn as_ref(&self) -> &str {
                    &self.0
                }
            }

            impl fmt::Display for $t {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.pad(&self.0)
                }
            }
        )+
    };
}

text!(InterfaceName, UplinkName, PeerName);

/// A WireGuard peer's public key; as text, base64 like `wg` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its first characters, by which people tell keys apart.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

/// From what WireGuard itself reports, which is a key by definition.
impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bytes = STANDARD.decode(text).map_err(|_| ValueError::KeyEncoding)?;
        let key: [u8; 32] = bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| ValueError::KeyLength(bytes.len()))?;
        if key == [0; 32] {
            Err(ValueError::KeyZero)
        } else {
            Ok(Self(key))
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Parses a duration with its unit, such as `50ms`, `10s` or `1m 30s`.
///
/// # Errors
/// [`ValueError::Duration`], for a number without a unit too.
pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    humantime::parse_duration(text).map_err(|_| ValueError::Duration)
}

/// A setting that is one of a few words.
pub trait Word: Copy + 'static {
    /// The words of this version.
    const KNOWN: &'static [(&'static str, Self)];
    /// Words that belong to the setting but not to this version, each with what to do instead.
    const NOT_YET: &'static [(&'static str, &'static str)];
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? } not yet { $($later:literal: $advice:literal),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl Word for $name {
            const KNOWN: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
            const NOT_YET: &'static [(&'static str, &'static str)] = &[$(($later, $advice)),*];
        }

        impl $name {
            /// The word that stands for it in the file.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// How much probing is worth: how soon a failure is noticed against how much is sent.
    Profile {
        /// A probe every 10 ms.
        Fast = "fast",
        /// A probe every 50 ms.
        Balanced = "balanced",
        /// A probe every 500 ms.
        Thrifty = "thrifty",
    } not yet {}
}

impl Profile {
    /// From one probe to the next, on each path.
    #[must_use]
    pub const fn probe_interval(self) -> Duration {
        match self {
            Self::Fast => Duration::from_millis(10),
            Self::Balanced => Duration::from_millis(50),
            Self::Thrifty => Duration::from_millis(500),
        }
    }
}

words! {
    /// Which of a peer's live paths carry its packets.
    Policy {
        /// The first one.
        Failover = "failover",
        /// The first one, and a copy of each data packet another: [`Protect::Always`].
        Duplicate = "duplicate",
    } not yet { "balance": "use \"failover\"" }
}

words! {
    /// When a data packet is sent a second time, over another live path.
    Protect {
        /// Never.
        Off = "off",
        /// While its path is suspect.
        Suspect = "suspect",
        /// Always.
        Always = "always",
    } not yet {}
}

impl From<Protect> for liveness::Protect {
    fn from(protect: Protect) -> Self {
        match protect {
            Protect::Off => Self::OFF,
            Protect::Suspect => Self::SUSPECT,
            Protect::Always => Self::ALWAYS,
        }
    }
}

words! {
    /// Whether `guard`, the XDP program, runs on an uplink, and who runs it. Without it everything works, more slowly.
    XdpMode {
        /// The device's driver if it can, else nobody.
        Auto = "auto",
        /// The device's driver; if it cannot, wgxdp does not start.
        Native = "native",
        /// The kernel, behind the driver, which every device takes.
        Generic = "generic",
        /// Nobody.
        Off = "off",
    } not yet {}
}

words! {
    /// Who sets a tunnel's MTU, if not whoever configures WireGuard.
    TunnelMtu {
        /// wgxdp, as long as it runs.
        Auto = "auto",
    } not yet {}
}

words! {
    /// What a probe is made of.
    ProbeKind {
        /// ICMP or ICMPv6 echo.
        Icmp = "icmp",
        /// A STAMP test packet (RFC 8762) to a session-reflector.
        Stamp = "stamp",
        /// The beginning of a TCP connection, which is reset.
        Tcp = "tcp",
    } not yet {}
}
