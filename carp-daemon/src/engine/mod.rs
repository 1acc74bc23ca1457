//! The event loop: input in, actions out, until the next deadline.
//!
//! One value owns every virtual host, so nothing needs a lock and every order is the program's. Each turn looks at the
//! clock once and then, in this order: feeds all advertisements that arrived up to that moment, follows the links and
//! addresses, and only then judges timers. However late a turn comes (the process was stopped, or starved), a MASTER
//! that advertised in time is heard before its silence is judged.
//!
//! The engine never waits and never touches the system: both are its caller's, who gives it an [`effects::Effects`]. The
//! daemon's caller is [`crate::serve`]; the simulation is another one.
//!
//! | Module | What it is |
//! |---|---|
//! | [`effects`] | what the engine learns from its host, and does to it |
//! | [`context`] | what every room sees and acts through |
//! | [`registry`] | ids of virtual hosts and interfaces |
//! | [`deadlines`] | who is due next |
//! | [`namespace`] | every link and address, as netlink tells it |
//! | [`interface`] | a network interface by name |
//! | [`segment`] | an interface with the virtual hosts that live on it |
//! | [`instance`] | one virtual host with its rooms |
//! | `follow` | what netlink told, followed once a turn |
//! | [`renewals`] | renews leases, in bunches |
//! | [`overheard`] | what is heard that is not for us |
//! | [`memory`] | what was heard, kept over a restart |
//! | [`mistakes`] | what the configuration cannot, or will hardly, mean on this host |
//! | `start` | the start, virtual hosts that come and go, the end |
//! | [`status`] | how everything is, and what SIGUSR2 costs |

pub mod context;
pub mod deadlines;
pub mod effects;
mod error;
mod follow;
pub mod instance;
pub mod interface;
pub mod memory;
pub mod mistakes;
pub mod namespace;
pub mod overheard;
pub mod registry;
pub mod renewals;
pub mod segment;
mod start;
pub mod status;

use std::collections::BTreeMap;
use std::time::Duration;

use carp_common::proto::Input;
use carp_common::time::Instant;
use carp_common::units::Profile;

use crate::api::Place;
use crate::api::event::process::Stall;
use crate::io::datapath::{Batch, Drained};
use crate::io::scripts::Completion;
use context::Context;
use deadlines::Deadlines;
use effects::Effects;
pub use error::Error;
use instance::Instance;
use memory::Turns;
use overheard::Overheard;
use registry::{InstanceId, Registry, SegmentId};
use renewals::Renewals;
use segment::Segment;
pub use start::FailedStart;

/// Lateness that means we were stopped, by a signal, a debugger, a suspended machine or the want of a processor.
const STALL: Duration = Duration::from_millis(100);

/// Time between two looks at what did not fit into the buffers. They wake nobody.
const LOSS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two attempts at what failed: to open or attach what is there, to list what there is.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Virtual hosts whose timers are judged in one turn, and whose chores are done in one.
///
/// Before the next ones there is another look at what has arrived and at the clock. So those that are due at one
/// instant, as all are after a start, do not stay so for ever: when they take over, each bunch gets a phase of its own.
/// Fewer at once would mean more wake-ups, and more of them a longer wait for everything else.
pub const AT_ONCE: usize = 64;

/// What wakes the engine besides packets, netlink and its timer.
#[derive(Debug)]
pub enum Arrival {
    /// A script ended.
    Script(InstanceId, Completion),
    /// SIGUSR1: a report is wanted.
    Report,
    /// SIGUSR2: hand over, and stay away for a while.
    StepDown,
}

/// Everything that is served.
#[derive(Debug)]
pub struct Engine<E> {
    cx: Context<E>,
    registry: Registry,
    segments: BTreeMap<SegmentId, Segment>,
    /// Of the elections.
    elections: Deadlines,
    /// Of everything else that a virtual host has to do.
    chores: Deadlines,
    renewals: Renewals,
    turns: Turns,
    overheard: Overheard,
    follower: follow::Follower,
    batch: Batch,
    /// When the last turn began.
    looked_at: Instant,
    /// When to look next at what did not fit into the buffers.
    loss_check_at: Instant,
}

impl<E: Effects> Engine<E> {
    /// When the next turn is wanted, unless something arrives before.
    pub fn next_wake(&self) -> Option<Instant> {
        self.elections
            .earliest()
            .into_iter()
            .chain(self.renewals.due())
            .chain(self.chores.earliest())
            .chain(self.cx.retry_at)
            .chain(self.follower.due())
            .chain(self.cx.effects.claims_paused_until())
            .chain(self.cx.effects.next_tending())
            .min()
    }

    /// Whether something was left behind in the last turn: the next one is wanted at once.
    pub const fn is_busy(&self) -> bool {
        self.cx.busy
    }

    /// The host.
    pub const fn effects(&mut self) -> &mut E {
        &mut self.cx.effects
    }

    /// Every virtual host, in the order in which they came.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.registry
            .all()
            .filter_map(|(id, place)| self.segments.get(&place)?.instances.get(&id))
    }

    /// One turn: what there is to do now, in the order that keeps the election right, and then what woke us.
    pub fn turn(&mut self, arrivals: impl IntoIterator<Item = Arrival>) {
        let now = self.cx.effects.now();
        self.cx.now = now;
        self.cx.busy = false;
        let looked_at = std::mem::replace(&mut self.looked_at, now);
        let due = self.elections.earliest();
        let oldest = self.hear();
        self.look_for_losses(due.into_iter().chain(oldest).min());
        self.follow_links();
        self.look_after_datapath();
        self.retry();
        self.judge_timers(looked_at);
        self.hear_claims();
        self.do_chores();
        for segment in self.segments.values_mut() {
            segment.choose_frames(&mut self.cx);
        }
        let rest = [
            self.elections.earliest(),
            self.renewals.due(),
            self.chores.earliest(),
        ];
        self.cx.busy |= rest.into_iter().flatten().any(|due| due <= now);
        let (place, with_bsd) = (self.only_place(), self.has_bsd());
        self.overheard.look(&place, with_bsd, &mut self.cx);
        self.keep_memory();
        for arrival in arrivals {
            self.take(arrival);
        }
    }

    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Script(id, completion) => {
                self.visit(id, |instance, site| instance.script_ended(completion, site));
            }
            Arrival::Report => {
                let status = self.status();
                self.cx.effects.show(&status);
            }
            Arrival::StepDown => self.step_down(),
        }
    }

    /// Feeds every advertisement that arrived up to now; when the first of them did.
    fn hear(&mut self) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        loop {
            let drained = self.cx.effects.drain(self.cx.now, &mut self.batch);
            let mut batch = std::mem::take(&mut self.batch);
            for event in batch.take() {
                let arrival = Instant::from_nanos(event.arrival_ns);
                oldest = Some(oldest.map_or(arrival, |oldest| oldest.min(arrival)));
                if let Some(id) = self.registry.owner(&event.key) {
                    self.visit(id, |instance, site| instance.receive(&event, site));
                }
            }
            self.batch = batch;
            match drained {
                Drained::Full => {}
                Drained::Later => {
                    self.cx.busy = true;
                    return oldest;
                }
                Drained::Empty => return oldest,
            }
        }
    }

    /// What did not fit into the buffers while we were stopped was never heard, and it is the latest that did not fit.
    /// `since` is when this turn should have come: something was due or had arrived.
    ///
    /// Only what was lost while we were stopped counts: were losses alone enough, a flood could keep a BACKUP from ever
    /// taking over.
    fn look_for_losses(&mut self, since: Option<Instant>) {
        let now = self.cx.now;
        let stopped = since.is_some_and(|since| now > since + STALL);
        if !stopped && now < self.loss_check_at {
            return;
        }
        self.loss_check_at = now + LOSS_CHECK_INTERVAL;
        let lost = self.cx.effects.take_losses();
        if stopped && lost > 0 {
            let lost = Stall::AdvertisementsLost { lost };
            self.cx.tell(&Place::Process, lost);
            self.each(|instance, site| instance.feed(Input::AdvertisementsLost, site));
        }
    }

    /// Judges the timers that are due: [`AT_ONCE`] of them, the others in a turn of their own. We last looked at what
    /// arrived at `looked_at`.
    fn judge_timers(&mut self, looked_at: Instant) {
        for _ in 0..AT_ONCE {
            let Some((id, due)) = self.elections.pop_due(self.cx.now) else {
                return;
            };
            let place = self.registry.place(id);
            if let Some(segment) = place.and_then(|place| self.segments.get_mut(&place)) {
                segment.judge(id, due, looked_at, &mut self.cx);
            }
            self.reschedule();
        }
    }

    fn hear_claims(&mut self) {
        for segment in self.segments.values_mut() {
            segment.hear_claims(&mut self.cx);
        }
        self.reschedule();
    }

    /// Does what is due, after the election has been decided: of [`AT_ONCE`] virtual hosts, the others in a turn of
    /// their own.
    fn do_chores(&mut self) {
        let Self {
            renewals,
            registry,
            segments,
            cx,
            ..
        } = self;
        renewals.renew(registry, segments, cx);
        for segment in segments.values_mut() {
            segment.place_addresses(cx);
        }
        self.reschedule();
        for _ in 0..AT_ONCE {
            let Some((id, _)) = self.chores.pop_due(self.cx.now) else {
                return;
            };
            self.visit(id, Instance::do_chores);
        }
    }

    /// Tries again what failed.
    fn retry(&mut self) {
        if self.cx.retry_at.is_none_or(|at| at > self.cx.now) {
            return;
        }
        self.cx.retry_at = None;
        for segment in self.segments.values_mut() {
            segment.retry(&mut self.cx);
        }
        self.reschedule();
    }

    /// Something for one virtual host.
    fn visit<T>(
        &mut self,
        id: InstanceId,
        visit: impl FnOnce(&mut Instance, &mut context::Site<'_, E>) -> T,
    ) -> Option<T> {
        let segment = self.segments.get_mut(&self.registry.place(id)?)?;
        let done = segment.visit(id, &mut self.cx, visit);
        self.reschedule();
        done
    }

    /// The same for each virtual host.
    fn each(&mut self, mut visit: impl FnMut(&mut Instance, &mut context::Site<'_, E>)) {
        for segment in self.segments.values_mut() {
            segment.each(&mut self.cx, &mut visit);
        }
        self.reschedule();
    }

    /// Notes when those are due next who were busy, and by what key the datapath knows them.
    fn reschedule(&mut self) {
        while let Some(id) = self.cx.touched.pop() {
            let place = self.registry.place(id);
            let segment = place.and_then(|place| self.segments.get(&place));
            let Some(instance) = segment.and_then(|segment| segment.instances.get(&id)) else {
                continue;
            };
            self.elections.set(id, instance.deadline());
            self.chores.set(id, instance.chore_at());
            self.renewals.set(id, instance.claim.term.renew_at());
            self.registry.rekey(id, instance.tenure.key());
        }
    }

    /// The interface, for what the counters of all of them tell: known only where there is one.
    fn only_place(&self) -> Place {
        let mut segments = self.segments.values();
        match (segments.next(), segments.next()) {
            (Some(only), None) => only.interface.place(),
            _ => Place::Process,
        }
    }

    fn has_bsd(&self) -> bool {
        self.instances()
            .any(|instance| instance.who.config.election.profile != Profile::Ucarp)
    }

    /// Starts to write the memory of the next virtual host, when it is time for one and there is something new.
    fn keep_memory(&mut self) {
        // A disk that stands still must not collect threads.
        if !self.cx.effects.can_keep() {
            return;
        }
        if let Some(id) = self.turns.take(&self.registry, self.cx.now) {
            self.visit(id, |instance, site| {
                if let Some(memory) = instance.take_memory() {
                    site.cx.effects.keep(vec![(instance.file(), memory)]);
                }
            });
        }
    }
}
