//! Finding what there is on this host: the lock, the pins, the file of names.

use std::path::Path;

use super::Found;
use crate::clock::monotonic_ns;
use crate::dataplane::{self, Pins, Tables};
use crate::preflight::{Lock, Places};
use crate::snapshot::{Daemon, Names, STATE_FILE, Snapshot, StateFileError};

/// Why the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The file of names.
    #[error(transparent)]
    Names(#[from] StateFileError),
    /// The maps.
    #[error("{0}; reading them takes CAP_BPF: try it with sudo")]
    Tables(#[from] dataplane::Error),
}

/// Reads the pinned maps, whether or not a daemon runs.
///
/// # Errors
/// There is something that cannot be read.
pub fn find() -> Result<Found, FindError> {
    let running = Lock::is_held(&Places::default().run);
    let pins = Pins::default();
    let names = Names::read(Path::new(STATE_FILE))?;
    let daemon = if running {
        Daemon::running(names.as_ref())
    } else {
        Daemon::stopped()
    };
    match (pins.exist(), names) {
        (false, _) if !running => Ok(Found::Nothing),
        (false, _) | (true, None) => Ok(Found::Unnamed(daemon)),
        (true, Some(names)) => {
            let tables = Tables::pinned(&pins)?;
            Ok(Found::Wgxdp(Snapshot::take(&names, &tables, daemon, monotonic_ns())?))
        }
    }
}
