//! Impairment of a router's devices, by the laboratory's own TC program (a kernel need not have netem).
//!
//! One object is loaded for each router and attached to both directions of its devices. It hangs on clsact, which every
//! kernel since 4.5 has, rather than on tcx, so that there is one way for all kernels. Loss is switched by one write of
//! one word, both directions at the same instant.

use std::mem;

use anyhow::{Context as _, Result};
use aya::maps::{Array, PerCpuArray};
use aya::programs::tc::{self, NlOptions, TcAttachOptions};
use aya::programs::{Program, ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, include_bytes_aligned};

use crate::clock::now_ns;
use crate::host::Host;

/// The laboratory's programs, as built by this crate's build script.
pub static PROGRAMS: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab-programs"));

/// Loss in thousandths, by direction as seen from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Of what leaves through the device.
    pub egress: u16,
    /// Of what comes in through the device.
    pub ingress: u16,
}

impl Loss {
    /// Nothing is lost.
    pub const NONE: Self = Self { egress: 0, ingress: 0 };
    /// Everything is lost, both ways.
    pub const ALL: Self = Self {
        egress: 1000,
        ingress: 1000,
    };
    /// Everything that leaves is lost.
    pub const ALL_EGRESS: Self = Self {
        egress: 1000,
        ingress: 0,
    };
    /// Everything that comes in is lost.
    pub const ALL_INGRESS: Self = Self {
        egress: 0,
        ingress: 1000,
    };

    fn word(self) -> u32 {
        u32::from(self.egress) << 16 | u32::from(self.ingress)
    }
}

/// The impairment of one router.
#[derive(Debug)]
pub struct Impair {
    router: Host,
    programs: Ebpf,
}

impl Impair {
    /// Loads the programs for `router`; they do nothing until attached.
    ///
    /// # Errors
    /// The kernel refused them.
    pub fn load(router: &Host) -> Result<Self> {
        let mut programs = Ebpf::load(PROGRAMS).context("loading the laboratory's programs (needs root)")?;
        for name in ["impair_egress", "impair_ingress"] {
            classifier(&mut programs, name)?
                .load()
                .with_context(|| format!("loading {name}"))?;
        }
        Ok(Self {
            router: router.clone(),
            programs,
        })
    }

    /// Attaches to both directions of `device`, once for each device. The filters live and die with the device.
    ///
    /// # Errors
    /// There is no such device, or the kernel refused.
    pub fn attach(&mut self, device: &str) -> Result<()> {
        let (router, programs) = (&self.router, &mut self.programs);
        router
            .enter(|| {
                tc::qdisc_add_clsact(device).context("adding clsact")?;
                let directions = [
                    ("impair_egress", TcAttachType::Egress),
                    ("impair_ingress", TcAttachType::Ingress),
                ];
                let attach = |(name, direction)| hang(classifier(programs, name)?, device, direction);
                directions.into_iter().try_for_each(attach)
            })
            .with_context(|| format!("impairing {device} in {}", router.name()))
    }

    /// From now on `device` loses `loss`. Says when: the clock is read last, just before the write.
    ///
    /// # Errors
    /// There is no such device.
    pub fn set(&mut self, device: &str, loss: Loss) -> Result<u64> {
        self.write("LOSS", device, loss.word())
    }

    /// From now on `device`, which is Ethernet's, drops what is larger than an IP packet of `largest` bytes, both ways; without it, nothing for its size. Says
    /// when, as [`Self::set`].
    ///
    /// # Errors
    /// There is no such device.
    pub fn narrow(&mut self, device: &str, largest: Option<u16>) -> Result<u64> {
        self.write("LARGEST", device, largest.map_or(0, u32::from))
    }

    /// Packets dropped so far at `device`: egress, ingress.
    ///
    /// # Errors
    /// There is no such device.
    pub fn dropped(&self, device: &str) -> Result<(u64, u64)> {
        let ifindex = self.ifindex(device)?;
        let map = self
            .programs
            .map("DROPPED")
            .context("the laboratory's programs have no map DROPPED")?;
        let dropped = PerCpuArray::<_, u64>::try_from(map)?;
        let total = |slot: u32| -> Result<u64> { Ok(dropped.get(&slot, 0)?.iter().sum()) };
        Ok((total(2 * ifindex)?, total(2 * ifindex + 1)?))
    }

    /// Writes the word of `device` in a map, and says when.
    fn write(&mut self, map: &str, device: &str, word: u32) -> Result<u64> {
        let ifindex = self.ifindex(device)?;
        let found = self.programs.map_mut(map);
        let found = found.with_context(|| format!("the laboratory's programs have no map {map}"))?;
        let mut words = Array::<_, u32>::try_from(found)?;
        let at_ns = now_ns();
        words
            .set(ifindex, word, 0)
            .with_context(|| format!("impairing {device}"))?;
        Ok(at_ns)
    }

    fn ifindex(&self, device: &str) -> Result<u32> {
        let ifindex = self.router.enter(|| nix::net::if_::if_nametoindex(device));
        ifindex.with_context(|| format!("no device {device} in {}", self.router.name()))
    }
}

/// From now on every IPv4 packet that comes in by `device` ends there: what is sent there costs its receiver nothing more, and nobody answers.
pub(crate) fn sink(router: &Host, device: &str) -> Result<()> {
    let mut programs = Ebpf::load(PROGRAMS).context("loading the laboratory's programs (needs root)")?;
    let program = classifier(&mut programs, "sink")?;
    program.load().context("loading sink")?;
    router
        .enter(|| {
            tc::qdisc_add_clsact(device).context("adding clsact")?;
            hang(program, device, TcAttachType::Ingress)
        })
        .with_context(|| format!("a sink at {device} in {}", router.name()))
}

/// Attaches a program to clsact, for as long as the device lives.
fn hang(program: &mut SchedClassifier, device: &str, direction: TcAttachType) -> Result<()> {
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let link = program.attach_with_options(device, direction, options)?;
    // Dropped, the link would be detached by netlink in whatever namespace the dropping thread is in then,
    // where the same ifindex is another device.
    mem::forget(program.take_link(link)?);
    Ok(())
}

/// One of the laboratory's programs, by name.
pub(crate) fn classifier<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    program(programs, name)
}

/// The same for a program of any type.
pub(crate) fn program<'a, P>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = programs
        .program_mut(name)
        .with_context(|| format!("the laboratory's programs have no {name}"))?;
    Ok(program.try_into()?)
}
