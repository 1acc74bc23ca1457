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
//! | [`served`] | who is served, where, and when each is due |
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
//! | `start` | the start, and the end |
//! | `departures` | virtual hosts that are removed, or added again |
//! | [`status`] | how everything is, and what SIGUSR2 costs |

pub mod context;
pub mod deadlines;
mod departures;
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
pub mod served;
mod start;
pub mod status;
#[cfg(test)]
mod tests;

use std::time::Duration;

use carp_common::proto::{Demotion, DemotionCause, Input};
use carp_common::time::Instant;

use crate::api::Place;
use crate::api::event::process::Stall;
use crate::io::datapath::{Batch, Drained};
use crate::io::scripts::Completion;
use context::Context;
use departures::Departures;
use effects::Effects;
pub use error::Error;
use instance::Instance;
use memory::Turns;
use overheard::Overheard;
use registry::InstanceId;
use segment::{claims, hearing, strangers};
use served::Served;
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
    /// The operator makes every virtual host less eligible, or ends that.
    Demote(Demotion),
}

/// Everything that is served.
#[derive(Debug)]
pub struct Engine<E> {
    cx: Context<E>,
    served: Served,
    turns: Turns,
    overheard: Overheard,
    follower: follow::Follower,
    departures: Departures,
    batch: Batch,
    /// When the last turn began.
    looked_at: Instant,
    /// When to look next at what did not fit into the buffers.
    loss_check_at: Instant,
}

impl<E: Effects> Engine<E> {
    /// When the next turn is wanted, unless something arrives before.
    pub fn next_wake(&self) -> Option<Instant> {
        self.served
            .due()
            .into_iter()
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

    /// The host, to look at.
    pub const fn effects(&self) -> &E {
        &self.cx.effects
    }

    /// The host, of an engine that ends as if it were killed.
    pub fn into_effects(self) -> E {
        self.cx.effects
    }

    /// The host.
    pub const fn effects_mut(&mut self) -> &mut E {
        &mut self.cx.effects
    }

    /// Every virtual host, in the order in which they came.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.served.instances()
    }

    /// One turn: what there is to do now, in the order that keeps the election right, and then what woke us.
    pub fn turn(&mut self, arrivals: impl IntoIterator<Item = Arrival>) {
        let now = self.cx.effects.now();
        self.cx.now = now;
        self.cx.busy = false;
        let looked_at = std::mem::replace(&mut self.looked_at, now);
        let due = self.served.election_due();
        let oldest = self.hear();
        self.look_for_losses(due.into_iter().chain(oldest).min());
        self.follow_links();
        self.look_after_datapath();
        self.retry();
        let Self { served, cx, .. } = self;
        served.judge_timers(looked_at, cx);
        served.each_segment(cx, claims::hear);
        served.do_chores(cx);
        served.each_segment(cx, claims::choose_frames);
        cx.busy |= served.due().is_some_and(|due| due <= now);
        self.overheard.look(served, cx);
        self.keep_memory();
        for arrival in arrivals {
            self.take(arrival);
        }
        let Self {
            departures,
            served,
            cx,
            ..
        } = self;
        // At the end of the process all of them end together.
        if !cx.stopping {
            departures.let_go(served, cx);
        }
    }

    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Script(id, completion) => {
                self.served.visit(id, &mut self.cx, |instance, site| {
                    instance.script_ended(completion, site);
                });
            }
            Arrival::Report => {
                let status = self.status();
                self.cx.effects.show(&status);
            }
            Arrival::StepDown => self.step_down(),
            Arrival::Demote(amount) => self.demote(amount),
        }
    }

    fn demote(&mut self, amount: Demotion) {
        let cause = DemotionCause::Administrator;
        self.served.each(&mut self.cx, |instance, site| {
            instance.feed(Input::DemotionChanged { cause, amount }, site);
        });
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
                if let Some(id) = self.served.owner(&event.key) {
                    self.served.visit(id, &mut self.cx, |instance, site| {
                        instance.receive(&event, site);
                    });
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
            self.served.each(&mut self.cx, |instance, site| {
                instance.feed(Input::AdvertisementsLost, site);
            });
        }
    }

    /// Tries again what failed.
    fn retry(&mut self) {
        if self.cx.retry_at.is_some_and(|at| at <= self.cx.now) {
            self.cx.retry_at = None;
            self.served.each_segment(&mut self.cx, hearing::retry);
            self.served.each_segment(&mut self.cx, strangers::retry);
        }
    }

    /// Starts to write the memory of the next virtual host, when it is time for one and there is something new.
    fn keep_memory(&mut self) {
        // A disk that stands still must not collect threads.
        if !self.cx.effects.can_keep() {
            return;
        }
        if let Some(id) = self.turns.take(self.served.registry(), self.cx.now) {
            self.served.visit(id, &mut self.cx, |instance, site| {
                if let Some(memory) = instance.take_memory() {
                    site.cx.effects.keep(vec![(instance.file(), memory)]);
                }
            });
        }
    }
}
