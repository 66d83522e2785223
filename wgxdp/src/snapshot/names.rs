//! Which id is called what: `/run/wgxdp/state.json`.
//!
//! The maps know numbers alone. The daemon writes this file whenever names change, whole or not at all (a temporary file, then a
//! rename), readable by everyone, and removes it at a clean exit. A daemon that was killed leaves it behind together with its pins,
//! so that `wgxdp status` can still tell what they mean.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wgxdp_common::id::{PathId, PeerId, UplinkId};

use crate::state_file::{remove_if_there, write_whole};

/// Where the daemon writes its [`Names`].
pub const STATE_FILE: &str = "/run/wgxdp/state.json";

/// Raised whenever a reader of the old shape would misunderstand the new one.
pub const STATE_FORMAT: u32 = 1;

/// What the entries of the maps are called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// [`STATE_FORMAT`].
    pub format: u32,
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// When the daemon started, in whole seconds.
    #[serde(with = "rfc3339")]
    pub started_at: SystemTime,
    /// Uplinks, in the order of the configuration.
    pub uplinks: Vec<UplinkName>,
    /// Tunnels, in the order of the configuration.
    pub tunnels: Vec<TunnelName>,
}

/// An uplink's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkName {
    /// Its place in the maps.
    #[serde(with = "UplinkNumber")]
    pub id: UplinkId,
    /// Its label, never empty: the empty one stands for no uplink.
    pub name: String,
    /// Its interface.
    pub interface: String,
}

/// A tunnel's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelName {
    /// The WireGuard interface.
    pub interface: String,
    /// Its listen port.
    pub listen_port: u16,
    /// Its peers.
    pub peers: Vec<PeerName>,
}

/// A peer's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerName {
    /// Its place in the maps.
    #[serde(with = "PeerNumber")]
    pub id: PeerId,
    /// The configured name.
    pub name: Option<String>,
    /// Its public key, in base64.
    pub public_key: String,
    /// Its paths.
    pub paths: Vec<PathName>,
}

/// What a path joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathName {
    /// Its place in the maps.
    #[serde(with = "PathNumber")]
    pub id: PathId,
    /// The uplink.
    #[serde(with = "UplinkNumber")]
    pub uplink: UplinkId,
    /// The endpoint.
    pub endpoint: SocketAddr,
}

/// What can be wrong with the file of names.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It could not be written.
    #[error("cannot write {path}, which gives `wgxdp status` its names")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be read.
    #[error("cannot read {path}, which holds the names of what wgxdp's maps count")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a daemon writes.
    #[error("{path} is damaged; `wgxdp run` writes it anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// Another version wrote it.
    #[error("{path} has format {found}, this wgxdp reads {STATE_FORMAT}: use the `wgxdp` that runs as the daemon")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
}

impl Names {
    /// Those of this process.
    #[must_use]
    pub fn new(started_at: SystemTime, uplinks: Vec<UplinkName>, tunnels: Vec<TunnelName>) -> Self {
        Self {
            format: STATE_FORMAT,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at,
            uplinks,
            tunnels,
        }
    }

    /// The label of an uplink; `?` for one that has none, which the daemon never writes.
    #[must_use]
    pub fn uplink_name(&self, id: UplinkId) -> &str {
        self.uplinks
            .iter()
            .find(|uplink| uplink.id == id)
            .map_or("?", |uplink| &uplink.name)
    }

    /// Writes the file, whole or not at all. Only the daemon that holds the lock may.
    ///
    /// # Errors
    /// Names the file and the cause.
    pub fn write(&self, path: &Path) -> Result<(), StateFileError> {
        let wrong = |source| StateFileError::Write {
            path: path.to_owned(),
            source,
        };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| wrong(error.into()))?;
        text.push(b'\n');
        write_whole(path, &text).map_err(wrong)
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// Unreadable, damaged, or of another format.
    pub fn read(path: &Path) -> Result<Option<Self>, StateFileError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }

        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StateFileError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let damaged = |source| StateFileError::Damaged {
            path: path.to_owned(),
            source,
        };
        let Head { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != STATE_FORMAT {
            return Err(StateFileError::Format {
                path: path.to_owned(),
                found: format,
            });
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Removes the file; whether there was one.
    ///
    /// # Errors
    /// Names the file and the cause.
    pub fn remove(path: &Path) -> Result<bool, StateFileError> {
        remove_if_there(path).map_err(|source| StateFileError::Remove {
            path: path.to_owned(),
            source,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "UplinkId")]
struct UplinkNumber(u32);

#[derive(Serialize, Deserialize)]
#[serde(remote = "PeerId")]
struct PeerNumber(u32);

#[derive(Serialize, Deserialize)]
#[serde(remote = "PathId")]
struct PathNumber(u32);

/// Times as RFC 3339 text, in whole seconds.
mod rfc3339 {
    use super::{Deserialize, SystemTime};
    use serde::{Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

/// The same, where there may be none.
pub(super) mod rfc3339_option {
    use super::{Deserialize, Serialize, SystemTime, rfc3339};
    use serde::{Deserializer, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "rfc3339")] SystemTime);

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Time).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(time)| time))
    }
}

/// A path's state as its word.
pub(super) mod path_state {
    use std::borrow::Cow;

    use super::Deserialize;
    use serde::{Deserializer, Serializer, de::Error as _};
    use wgxdp_common::table::PathState;

    pub(in super::super) fn serialize<S: Serializer>(state: &PathState, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(state.as_str())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathState, D::Error> {
        let word = Cow::<'de, str>::deserialize(deserializer)?;
        let state = PathState::ALL.into_iter().find(|state| state.as_str() == word);
        state.ok_or_else(|| D::Error::custom(format_args!("`{word}` is no state of a path")))
    }
}
