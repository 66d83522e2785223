//! What the maps cost, in the kernel's own reckoning: `memlock` in /proc/self/fdinfo (`bpf_map_show_fdinfo`, kernel/bpf/syscall.c).

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;

use aya::Ebpf;
use wgxdp_common::abi::{MAP_CLIENTS, MAP_HANDSHAKES, MAP_SESSIONS, MAPS};

use super::Error;
use super::tables::Source as _;

/// Bytes that maps take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of them.
    pub maps: u64,
    /// Those that learned clients are in, which `--max-clients` sizes.
    pub clients: u64,
}

/// Of a loaded object.
pub(super) fn of_maps(ebpf: &Ebpf) -> Result<Memory, Error> {
    let of = |names: &[&'static str]| names.iter().map(|name| of_map(ebpf, name)).sum::<Result<u64, _>>();
    Ok(Memory {
        maps: of(&MAPS)?,
        clients: of(&[MAP_CLIENTS, MAP_HANDSHAKES, MAP_SESSIONS])?,
    })
}

fn of_map(ebpf: &Ebpf, name: &'static str) -> Result<u64, Error> {
    let map = ebpf.open(name)?;
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()));
    let text = fs::read_to_string(&path).map_err(|source| Error::Info { path, source })?;
    Ok(memlock(&text).unwrap_or(0))
}

fn memlock(fdinfo: &str) -> Option<u64> {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::memlock;

    #[test]
    fn the_kernels_line_is_read_and_its_absence_is_seen() {
        assert_eq!(
            memlock("pos:\t0\nmax_entries:\t4\nmemlock:\t1234567\nmap_id:\t7\n"),
            Some(1_234_567)
        );
        assert_eq!(memlock("pos:\t0\n"), None);
    }
}
