//! The loop: whatever happens becomes an input of the engine, and its actions are carried out before the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};
use wgxdp_common::id::{PathId, UplinkId};
use wgxdp_common::liveness::Flags;
use wgxdp_common::record::{Record, RecordKind, Registration};

use super::priority::Priority;
use super::tunnels::Answer;
use super::{Daemon, Error, tunnels, uplink};
use crate::clock::{Alarm, monotonic_ns};
use crate::engine::Input;
use crate::host::view::View;
use crate::host::watch::Event;

/// What the programs tell of.
enum Told {
    Record(Record),
    Registration(Registration),
}

/// Nanoseconds between two wake-ups of the engine, at least: thousands of paths share them.
const TOGETHER_NS: u64 = 1_000_000;

/// What could not be repaired is tried again so much later, or when somebody touches what is ours.
const REPAIR_AGAIN_NS: u64 = 1_000_000_000;

const RECORD: usize = size_of::<Record>();
const REGISTRATION: usize = size_of::<Registration>();

fn no_timer(source: std::io::Error) -> Error {
    Error::System {
        what: "waiting for the next probe",
        source,
    }
}

/// SIGINT and SIGTERM, caught before anything is touched.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|source| Error::System {
                what: "catching signals",
                source,
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

impl Daemon {
    pub(super) async fn serve(&mut self, mut signals: Signals) -> Result<(), Error> {
        let mut poll = tunnels::Poll::start(&self.config, &self.tunnels, std::mem::take(&mut self.locksmith));
        let mut alarm = Alarm::new().map_err(no_timer)?;
        // The engine's wake-up is due, and the host still to hear.
        let mut listens = false;
        let mut ticked_ns = 0;
        self.priority = Priority::raise();
        loop {
            let wakeup = self.engine.next_wakeup();
            let tick = wakeup
                .filter(|_| !listens)
                .map(|at_ns| at_ns.max(ticked_ns + TOGETHER_NS));
            let next = [tick, self.next_chore()];
            tokio::select! {
                biased;
                name = signals.next() => {
                    info!("{name}: leaving");
                    return Ok(());
                }
                event = self.watch.next() => self.host_changed(event?).await?,
                ready = self.records.readable_mut() => {
                    let mut ready = ready.map_err(|source| Error::System { what: "waiting for records", source })?;
                    ready.clear_ready();
                    self.drain_records();
                    self.settle_clients()?;
                }
                () = self.hearing.await_it(), if listens => {
                    listens = false;
                    ticked_ns = self.tick(wakeup);
                    self.settle_clients()?;
                }
                rung = alarm.ring(next.into_iter().flatten().min()) => {
                    rung.map_err(no_timer)?;
                    let now_ns = monotonic_ns();
                    if tick.is_some_and(|at_ns| at_ns <= now_ns) {
                        // Most answers wake nobody, and the latest tells whether the host hears.
                        self.drain_records();
                        listens = true;
                    }
                    self.do_chores(now_ns).await?;
                }
                answer = poll.next() => {
                    let _rest = self.priority.rest();
                    match answer {
                        Answer::Changed(tunnels, keys) => {
                            self.settle_keys(&keys)?;
                            self.follow_tunnels(tunnels).await?;
                        }
                        Answer::Same(tunnels) => {
                            self.tunnels = Arc::new(tunnels);
                            self.note_handshakes();
                            self.settle_neighbours_again().await;
                        }
                        Answer::None => self.forget_handshakes(),
                    }
                }
            }
        }
    }

    /// When there is something to do at a certain time, other than the engine's wake-up.
    fn next_chore(&self) -> Option<u64> {
        let untold = self.untold.map(|untold| untold.at_ns);
        let chores = [
            self.registered.next_look(),
            untold,
            Some(self.traffic.next_ns),
            self.repair_again_ns,
        ];
        chores.into_iter().flatten().min()
    }

    /// Does what is due of it.
    async fn do_chores(&mut self, now_ns: u64) -> Result<(), Error> {
        let is_due = |at_ns: Option<u64>| at_ns.is_some_and(|at_ns| at_ns <= now_ns);
        if is_due(self.registered.next_look()) {
            let _rest = self.priority.rest();
            self.look_at_clients()?;
        }
        if is_due(self.untold.map(|untold| untold.at_ns)) {
            self.tell_more_families();
        }
        if is_due(Some(self.traffic.next_ns)) {
            self.read_traffic();
        }
        if is_due(self.repair_again_ns) {
            self.repair().await;
        }
        Ok(())
    }

    /// A wake-up may be late: whatever kept the loop, the processor, or what the host was to hear first, delays probes.
    fn note_lateness(&mut self, wakeup: Option<u64>, now_ns: u64) {
        let late = Duration::from_nanos(wakeup.map_or(0, |at_ns| now_ns.saturating_sub(at_ns)));
        self.observed.note_lateness(late);
        if let Some(complaint) = self.punctuality.note(late, now_ns) {
            warn!("{complaint}");
        }
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.engine.handle(input, monotonic_ns(), &mut actions);
        self.perform(actions);
    }

    /// The engine's wake-up, which it wanted at `wakeup`: records first, then the kernel's own words about the paths that are due. Returns when it was.
    fn tick(&mut self, wakeup: Option<u64>) -> u64 {
        self.observed.beat();
        self.drain_records();
        let now_ns = monotonic_ns();
        self.note_lateness(wakeup, now_ns);
        let mut actions = Vec::new();
        let due: Vec<PathId> = self.engine.due(now_ns).collect();
        for path in due {
            let proof = self.dataplane.tables().proof(path);
            let latched_ns = Some(proof.latched_ns).filter(|ns| *ns != 0);
            let input = Input::Proof {
                path,
                proof_ns: proof.proof_ns,
                unanswered: proof.unanswered,
                latched_ns,
            };
            self.engine.handle(input, now_ns, &mut actions);
        }
        self.engine.handle(Input::Tick, now_ns, &mut actions);
        self.perform(actions);
        now_ns
    }

    fn drain_records(&mut self) {
        while let Some(told) = self.next_told() {
            let record = match told {
                Told::Record(record) => record,
                Told::Registration(registration) => {
                    self.register(&registration);
                    continue;
                }
            };
            let Record {
                at_ns,
                value_ns,
                path,
                from,
                sequence,
                ..
            } = record;
            let value = Duration::from_nanos(value_ns);
            match record.kind {
                RecordKind::REPLY => {
                    self.hearing.note(at_ns);
                    let Some(runtime) = self.paths.get(&path) else { continue };
                    // The kernel knows 16 bits of it; the rest is the last one's that left.
                    let behind = (runtime.sequence as u16).wrapping_sub(sequence as u16);
                    let sequence = runtime.sequence.wrapping_sub(u32::from(behind));
                    self.input(Input::Reply {
                        path,
                        sequence,
                        rtt: value,
                        at_ns,
                    });
                }
                RecordKind::LATCHED => {
                    self.lift_late_latch(path);
                    self.input(Input::Latched {
                        path,
                        silence: value,
                        at_ns,
                    });
                }
                RecordKind::SWITCHED => {
                    let from = Some(from).filter(|from| *from != PathId::NONE);
                    debug!("{} carries the traffic", self.names.path(path));
                    self.input(Input::Switched {
                        path,
                        from,
                        silence: value,
                        at_ns,
                    });
                }
                other => warn!("a record of unknown kind {}", other.0),
            }
        }
    }

    fn next_told(&mut self) -> Option<Told> {
        let item = self.records.get_mut().next()?;
        let bytes: &[u8] = &item;
        // SAFETY: the length is right, and any bits are a value (plain data); the copy need not be aligned.
        unsafe {
            match bytes.len() {
                RECORD => Some(Told::Record(bytes.as_ptr().cast::<Record>().read_unaligned())),
                REGISTRATION => Some(Told::Registration(
                    bytes.as_ptr().cast::<Registration>().read_unaligned(),
                )),
                _ => None,
            }
        }
    }

    async fn host_changed(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::LinkChanged {
                name,
                admin_up,
                carrier,
                ..
            } => self.link_worsened(&name, uplink::link_flags(admin_up, carrier)),
            Event::LinkGone { name, .. } => self.link_worsened(&name, Flags::ABSENT),
            Event::View(view) => return self.view_changed(view).await,
            Event::OursTouched => self.repair().await,
        }
        Ok(())
    }

    /// Flags an uplink at once. What got better waits for the view, which knows addresses and gateways, too.
    fn link_worsened(&mut self, interface: &str, flags: Flags) {
        let Some(index) = self
            .config
            .uplinks()
            .iter()
            .position(|uplink| uplink.interface.as_str() == interface)
        else {
            return;
        };
        if flags != Flags::NONE && self.uplinks[index].state.flags != flags {
            self.uplinks[index].state.flags = flags;
            self.set_flags(UplinkId(index as u32), flags);
        }
    }

    /// What speaks against an uplink the kernel learns first, and that it is back after all of its paths are on probation: the engine's to say.
    fn set_flags(&mut self, uplink: UplinkId, flags: Flags) {
        if flags != Flags::NONE {
            self.dataplane.set_uplink_flags(uplink, flags);
        }
        self.input(Input::UplinkFlags { uplink, flags });
    }

    /// The devices as they are now: attach first, then publish, then resolve, and only then let packets there.
    async fn view_changed(&mut self, view: View) -> Result<(), Error> {
        let _rest = self.priority.rest();
        let mut families_changed = false;
        for (index, uplink) in self.config.uplinks().iter().enumerate() {
            let runtime = &mut self.uplinks[index];
            let before = runtime.state.entry;
            runtime.state = uplink::State::of(UplinkId(index as u32), uplink, &view, &mut runtime.remembered);
            let now = runtime.state.entry;
            families_changed |= (before.v4.has, before.v6.has) != (now.v4.has, now.v6.has);
            if before.ifindex != now.ifindex || before.v4 != now.v4 || before.v6 != now.v6 {
                debug!(
                    "{}: device {}, {:?}, {:?}",
                    uplink.name.as_str(),
                    now.ifindex,
                    now.v4,
                    now.v6
                );
            }
        }
        for index in 0..self.uplinks.len() {
            if let Err(e) = self.attach_restore(index) {
                // It may be gone again: another view will say so.
                warn!("{e}");
                self.uplinks[index].state.flags = Flags::ABSENT;
            } else if let Err(e) = self.attach_guard(index) {
                warn!("{e}");
            }
        }
        self.settle_locals(&view)?;
        // What got worse before packets can meet it, what got better after they can use it.
        if families_changed {
            self.flag_lost_families();
            self.flag_clients(false);
        }
        self.publish()?;
        self.fit_paths();
        if let Err(e) = self.settle_neighbours().await {
            warn!("{e}");
        }
        for index in 0..self.uplinks.len() {
            self.set_flags(UplinkId(index as u32), self.uplinks[index].state.flags);
        }
        if families_changed {
            self.tell_families();
            self.flag_clients(true);
        }
        self.mtus.note(&self.config, &view);
        self.settle_mtus().await;
        Ok(())
    }

    /// Makes good what somebody else removed. What cannot be made good now, because it is being removed again, say, is tried again.
    async fn repair(&mut self) {
        let _rest = self.priority.rest();
        let mut missing = Vec::new();
        let repaired = self.try_to_repair(&mut missing).await;
        if !missing.is_empty() {
            warn!("somebody removed what is ours; repaired: {}", missing.join(", "));
        }
        match repaired {
            Ok(()) => self.repair_again_ns = None,
            Err(e) => self.cannot_repair(&e),
        }
    }

    /// The anchor, or what leads there, is not as it should be: said once.
    pub(super) fn cannot_repair(&mut self, e: &Error) {
        if self.repair_again_ns.is_none() {
            error!("the anchor, or what leads packets there, is not as it should be: {e}; trying again");
        }
        self.repair_again_ns = Some(monotonic_ns() + REPAIR_AGAIN_NS);
    }

    /// Says what was missing and is no more, also when something else still is.
    async fn try_to_repair(&mut self, missing: &mut Vec<String>) -> Result<(), Error> {
        missing.extend(self.anchor.repair_device().await?);
        self.attach_steer()?;
        missing.extend(self.anchor.repair_policy().await?);
        if !missing.is_empty() {
            // Meanwhile WireGuard may have found another way, and the kernel's keeps an IPv6 one for as long as that exists.
            self.refresh_endpoints().await;
        }
        Ok(())
    }
}
