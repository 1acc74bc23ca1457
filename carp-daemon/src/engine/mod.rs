//! The event loop: it takes inputs, carries out actions, and waits until the next deadline.
//!
//! One value owns every virtual host, so the engine needs no locks and its order is fixed. Each turn reads the clock once and
//! then, in this order, feeds all advertisements that arrived up to that moment, follows the links and addresses, and only
//! then fires timers. However late a turn comes, because the process was stopped or got no processor, a MASTER that
//! advertised in time is heard before its silence counts.
//!
//! The engine never touches the system itself. Its caller waits for the next turn, and passes it an [`effects::Effects`] to
//! act through. The daemon's caller is [`crate::serve`]; the simulation is another one.
//!
//! | Module | What it is |
//! |---|---|
//! | [`effects`] | the traits through which the engine acts on its host |
//! | [`context`] | the context that every room sees and acts through |
//! | [`registry`] | ids of virtual hosts and interfaces |
//! | [`served`] | the virtual hosts that are served, their interfaces and deadlines |
//! | [`deadlines`] | the deadlines of virtual hosts |
//! | [`names`] | names of interfaces in the configuration |
//! | [`namespace`] | every link and address, as reported by netlink |
//! | [`interface`] | a network interface by name |
//! | [`segment`] | an interface with the virtual hosts that live on it |
//! | [`instance`] | one virtual host with its rooms |
//! | `follow` | follows the changes that netlink reported, once per turn |
//! | `reception` | hears advertisements, and notices lost ones |
//! | [`renewals`] | renews leases, in bunches |
//! | [`overheard`] | warns about packets that are for other receivers |
//! | [`orphans`] | fenced addresses that no process looks after at the end |
//! | [`pace`] | intervals and limits |
//! | [`memory`] | the memory of virtual hosts, stored over a restart |
//! | [`mistakes`] | checks whether the configuration makes sense on this host |
//! | `start` | the start, and the end |
//! | `departures` | virtual hosts that are removed, or added again |
//! | [`status`] | the status of everything that is served |

pub mod context;
pub mod deadlines;
mod debts;
mod departures;
pub mod effects;
pub mod error;
mod follow;
pub mod instance;
pub mod interface;
pub mod memory;
pub mod mistakes;
pub mod names;
pub mod namespace;
pub mod orphans;
pub mod overheard;
pub mod pace;
mod reception;
pub mod registry;
pub mod renewals;
pub mod segment;
pub mod served;
mod start;
pub mod status;
#[cfg(test)]
mod tests;

use carp_common::proto::{Demotion, DemotionCause, Input};
use carp_common::time::Instant;

use crate::io::scripts::Completion;
use context::Context;
use departures::Departures;
use effects::Effects;
pub use error::{EngineError, FailedStart};
use instance::Instance;
use memory::Turns;
use overheard::Overheard;
use reception::Reception;
use registry::InstanceId;
use segment::{claims, hearing, strangers};
use served::Served;

/// Events that wake the engine, other than packets, netlink messages and its timer.
#[derive(Debug)]
pub enum Arrival {
    /// A script ended.
    Script(InstanceId, Completion),
    /// SIGUSR1 asks for a report.
    Report,
    /// SIGUSR2 asks to hand over, and to stay away for a while.
    StepDown,
    /// The operator demotes every virtual host, or ends that.
    Demote(Demotion),
}

/// The engine, with every virtual host that it serves.
#[derive(Debug)]
pub struct Engine<E> {
    cx: Context<E>,
    served: Served,
    turns: Turns,
    overheard: Overheard,
    follower: follow::Follower,
    departures: Departures,
    reception: Reception,
    /// When the last turn began.
    looked_at: Instant,
    /// Until when the end of the process tries again what the kernel refuses.
    finish_by: Option<Instant>,
}

impl<E: Effects> Engine<E> {
    /// Returns when the next turn is due, unless something arrives before.
    pub fn next_wake(&self) -> Option<Instant> {
        self.served
            .due()
            .into_iter()
            .chain(self.cx.retry_at)
            .chain(self.follower.due())
            .chain(self.cx.effects.claims_paused_until())
            .chain(self.cx.effects.next_tending())
            .chain(self.finish_by.filter(|by| *by > self.cx.now))
            .min()
    }

    /// Returns whether the last turn left work behind. Then the next turn is due at once.
    pub const fn is_busy(&self) -> bool {
        self.cx.busy
    }

    /// Returns the host, for inspection.
    pub const fn effects(&self) -> &E {
        &self.cx.effects
    }

    /// Returns the host. The engine ends as if it were killed.
    pub fn into_effects(self) -> E {
        self.cx.effects
    }

    /// Returns the host.
    pub const fn effects_mut(&mut self) -> &mut E {
        &mut self.cx.effects
    }

    /// Returns every virtual host, in the order in which they were added.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.served.instances()
    }

    /// Runs one turn: everything that is due, in the order that keeps the election right, and then what woke the engine.
    pub fn turn(&mut self, arrivals: impl IntoIterator<Item = Arrival>) {
        let now = self.cx.effects.now();
        self.cx.now = now;
        self.cx.busy = false;
        let looked_at = std::mem::replace(&mut self.looked_at, now);
        let due = self.served.election_due();
        let Self { served, cx, .. } = self;
        let oldest = self.reception.hear(served, cx);
        let since = due.into_iter().chain(oldest).min();
        self.reception.look_for_losses(since, served, cx);
        self.follower.follow(served, cx);
        follow::look_after_datapath(served, cx);
        self.retry();
        let Self { served, cx, .. } = self;
        served.fire_timers(looked_at, cx);
        served.each_segment(cx, claims::hear);
        served.do_chores(cx);
        served.each_segment(cx, claims::choose_frames);
        cx.busy |= served.due().is_some_and(|due| due <= now);
        self.overheard.look(served, cx);
        self.turns.keep(served, cx);
        for arrival in arrivals {
            self.take(arrival);
        }
        let Self {
            departures,
            served,
            cx,
            ..
        } = self;
        // At the end of the process, all of them end together.
        if !cx.stopping {
            departures.let_go(served, cx);
        }
        // What was read after orders of this turn wakes nobody again.
        cx.busy |= cx.namespace.has_changes();
    }

    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Script(id, completion) => {
                self.served.visit(id, &mut self.cx, |instance, site| {
                    instance.script_ended(completion, site);
                });
            }
            Arrival::Report => {
                let status = status::of(&mut self.served, &mut self.cx);
                self.cx.effects.show(&status);
            }
            Arrival::StepDown => self.served.each(&mut self.cx, Instance::step_down),
            Arrival::Demote(amount) => self.demote(amount),
        }
    }

    fn demote(&mut self, amount: Demotion) {
        let cause = DemotionCause::Administrator;
        self.served.each(&mut self.cx, |instance, site| {
            instance.feed(Input::DemotionChanged { cause, amount }, site);
        });
    }

    /// Tries again to do what failed before.
    fn retry(&mut self) {
        if self.cx.retry_at.is_some_and(|at| at <= self.cx.now) {
            self.cx.retry_at = None;
            self.cx.give_back_again();
            self.served.each_segment(&mut self.cx, hearing::retry);
            self.served.each(&mut self.cx, |instance, site| {
                let (who, machine, rooms) = instance.parts();
                rooms.tell_datapath_again(who, machine, site);
            });
            self.served.each_segment(&mut self.cx, strangers::retry);
        }
    }
}
