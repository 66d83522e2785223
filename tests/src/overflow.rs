//! Packets that were dropped for want of room in a buffer, which no path has lost and no failover can save: those of a machine that stood still for too long.

use std::fs;
use std::ops::Sub;

use anyhow::{Context as _, Result};

use crate::host::Host;
use crate::topology::Lab;
use crate::wireguard::INTERFACE;

/// How many, by whose buffer was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overflow {
    /// A UDP socket's at either end: a user-space WireGuard's or the application's (`RcvbufErrors`).
    pub(crate) sockets: u64,
    /// The tunnel device's at either end, to which a user-space WireGuard listens (`tx_dropped`).
    pub(crate) tunnels: u64,
    /// A processor's, for packets that were handed from device to device (`netdev_max_backlog`), of the whole machine.
    pub(crate) backlogs: u64,
}

impl Overflow {
    /// Since the laboratory, or the machine, was raised.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn read(lab: &Lab) -> Result<Self> {
        let mut sum = Self {
            backlogs: backlogs(&fs::read_to_string("/proc/net/softnet_stat")?).context("/proc/net/softnet_stat")?,
            ..Self::default()
        };
        for host in [&lab.branch, &lab.hub] {
            let (sockets, tunnels) = of_host(host).with_context(|| format!("reading {}'s counters", host.name()))?;
            sum.sockets += sockets;
            sum.tunnels += tunnels;
        }
        Ok(sum)
    }

    /// All of them.
    pub(crate) fn total(self) -> u64 {
        self.sockets + self.tunnels + self.backlogs
    }
}

impl Sub for Overflow {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            sockets: self.sockets - before.sockets,
            tunnels: self.tunnels - before.tunnels,
            backlogs: self.backlogs - before.backlogs,
        }
    }
}

fn of_host(host: &Host) -> Result<(u64, u64)> {
    host.enter(|| {
        let sockets = fs::read_to_string("/proc/thread-self/net/snmp")?;
        let tunnel = fs::read_to_string(format!("/sys/class/net/{INTERFACE}/statistics/tx_dropped"))?;
        Ok((sockets_of(&sockets).context("no RcvbufErrors")?, tunnel.trim().parse()?))
    })
}

/// Two lines for each protocol: names, then values.
fn sockets_of(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "RcvbufErrors")?.1.parse().ok()
}

/// One line for each processor, in hexadecimal: what it took, what it dropped, and more.
fn backlogs(softnet_stat: &str) -> Option<u64> {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    softnet_stat.lines().map(dropped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let snmp = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 9 8 7 6 5\nUdpLite: InDatagrams\nUdpLite: 0\n";
        assert_eq!(sockets_of(snmp), Some(5));
        assert_eq!(sockets_of("Udp: NoPorts\nUdp: 8\n"), None);
        assert_eq!(
            backlogs("0000a1b2 00000010 00000001\n00000000 00000002 00000000\n"),
            Some(18)
        );
        assert_eq!(backlogs("0000a1b2 nothing\n"), None);
    }
}
