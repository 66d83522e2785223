//! The MTUs that tunnels had before wgxdp lowered them, in `/run/wgxdp/mtu.json`: whoever of us ends last puts them back, also after a crash.
//!
//! - An original is written down before anything is set, and never overwritten by a value of ours: a restarted daemon finds it here.
//! - With it stand the values that are ours: the one that is set and the one before, for a crash falls between writing and setting. An MTU
//!   that is neither was set by somebody else, and stays.
//! - A device is known by its index: one that was made anew under the same name has an MTU of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::host::link::Link;
use crate::host::netlink::Netlink;
use crate::host::{self, view};
use crate::state_file::{remove_if_there, write_whole};

/// Where they are remembered.
const FILE: &str = "/run/wgxdp/mtu.json";
/// Raised whenever a reader of the old shape would misunderstand the new one.
const FORMAT: u32 = 1;

/// What a tunnel's MTU was and what we made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Original {
    /// The device's index.
    index: u32,
    /// Its MTU before us.
    pub(super) mtu: u32,
    /// What we set it to, and what we set it to before that.
    ours: [u32; 2],
}

impl Original {
    /// Whether the device is still the one that was changed, with a value of ours.
    pub(super) fn is_ours(&self, link: &Link) -> bool {
        self.index == link.index && self.ours.contains(&link.mtu)
    }
}

/// By the tunnels' interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Originals {
    format: u32,
    tunnels: BTreeMap<String, Original>,
    #[serde(skip)]
    path: PathBuf,
}

impl Originals {
    /// What a run before left; nothing if there is no such file, or one that another version wrote.
    pub(super) fn load() -> Self {
        Self::read(Path::new(FILE))
    }

    fn read(path: &Path) -> Self {
        let none = Self {
            format: FORMAT,
            tunnels: BTreeMap::new(),
            path: path.to_owned(),
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return none,
            Err(e) => {
                warn!(
                    "cannot read {}: {e}; MTUs that a run before lowered stay as they are",
                    path.display()
                );
                return none;
            }
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(found) if found.format == FORMAT => Self {
                path: path.to_owned(),
                ..found
            },
            Ok(_) | Err(_) => {
                warn!(
                    "{} is not of this version; MTUs that a run before lowered stay as they are",
                    path.display()
                );
                none
            }
        }
    }

    /// What is remembered of a tunnel.
    pub(super) fn get(&self, interface: &str) -> Option<&Original> {
        self.tunnels.get(interface)
    }

    /// Remembers that `link` is going to be set to `mtu`; its own value is the original unless one is remembered.
    ///
    /// # Errors
    /// The file cannot be written: then nothing may be set.
    pub(super) fn remember(&mut self, link: &Link, mtu: u32) -> io::Result<()> {
        let known = self.tunnels.get(&link.name).filter(|known| known.is_ours(link));
        let original = Original {
            index: link.index,
            mtu: known.map_or(link.mtu, |known| known.mtu),
            ours: [mtu, known.map_or(mtu, |_| link.mtu)],
        };
        self.tunnels.insert(link.name.clone(), original);
        self.write()
    }

    /// The tunnel's MTU is no longer ours.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn forget(&mut self, interface: &str) -> io::Result<()> {
        match self.tunnels.remove(interface) {
            Some(_) => self.write(),
            None => Ok(()),
        }
    }

    fn write(&self) -> io::Result<()> {
        if self.tunnels.is_empty() {
            return remove_if_there(&self.path).map(drop);
        }
        write_whole(&self.path, &serde_json::to_vec(self)?)
    }

    /// Puts every MTU back that is still ours; the interfaces. What cannot be put back is said and stays remembered.
    pub(super) async fn put_back(mut self, netlink: &Netlink) -> Vec<String> {
        let mut done = Vec::new();
        for (interface, original) in self.tunnels.clone() {
            let put = match put_back(netlink, &interface, &original).await {
                Ok(put) => put,
                Err(e) => {
                    warn!("{e}; it was {} before wgxdp lowered it", original.mtu);
                    continue;
                }
            };
            if put {
                done.push(interface.clone());
            }
            if let Err(e) = self.forget(&interface) {
                warn!("cannot write {}: {e}", self.path.display());
            }
        }
        done
    }
}

async fn put_back(netlink: &Netlink, interface: &str, original: &Original) -> host::Result<bool> {
    match view::link(netlink, interface).await? {
        Some(link) if original.is_ours(&link) => host::mtu::set(netlink, &link, original.mtu).await.map(|()| true),
        // Gone, made anew, or set by somebody else.
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests;
