//! One virtual host: states, transitions, deadlines.
//!
//! Source: OpenBSD `ip_carp.c` r1.370, `carp_setrun`, `carp_input_c`, `carp_send_ad`; FreeBSD 14 `ip_carp.c`, the same
//! functions; ucarp 1.5.2 `carp.c`.
//!
//! | Module | What it decides |
//! |---|---|
//! | `machine` | which state an input leads to |
//! | `receive` | which advertisements count, check by check |
//! | `listener` | when a BACKUP takes over |
//! | `challenger` | whom a MASTER believes, and how it asks |
//! | `suspicion` | whether an altered advertisement made us MASTER |
//! | `speaker` | when a MASTER advertises |
//! | `announcer` | when a MASTER announces the addresses |
//! | `conditions` | which precondition is lacking in INIT |
//! | `history` | which counter is sent next |
//! | `outlook` | what would happen next |
//! | `context` | nothing; all others see and act through it |

mod announcer;
mod challenger;
mod conditions;
mod context;
mod history;
mod listener;
mod machine;
mod outlook;
mod receive;
mod speaker;
mod suspicion;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::net::IpAddr;

use zeroize::Zeroize as _;

use super::auth::Authenticator;
use super::counters::Counters;
use super::demotion::Demotions;
use super::outlook::Outlook;
use super::{Action, Input, Origin, Settings};
use crate::digest::PreparedDigest;
use crate::time::{Duration, Instant};
use crate::units::{Family, Priority, State};
use context::CoreContext;
use machine::Machine;

pub use context::NOTICE_INTERVAL;
pub use listener::LONGEST_TURN;

/// One election: one vhid on one interface.
///
/// The contract:
///
/// - [`drive`](super::drive) runs it: feed one input with [`feed`](super::drive::feed), which carries out the actions and
///   feeds their results; when nothing more is waiting to be fed, call [`time_out`](super::drive::time_out) if
///   [`VirtualHost::next_deadline`] has passed, else sleep until then. Repeat.
/// - Everything received is fed **before** `time_out`, however late: advertisements are judged by their arrival, and
///   what they call for waits for the timeout, so that a later one in the same queue can still revoke it.
/// - A `now` earlier than the last one counts as no time passed, an arrival later than `now` as an arrival at `now`.
/// - `time_out` before the deadline, or twice, does nothing; after it no deadline has passed. In INIT there is
///   no deadline.
/// - A BACKUP that slept through the end of the master-down time waits once more: [`patience`](super::patience).
/// - No bytes and no order of inputs may panic; a packet in INIT is counted and dropped.
/// - The order of actions is part of the behaviour: [`Action`] says which it is.
/// - Actions for one input have a constant upper bound, asserted in debug builds.
/// - The virtual addresses are released before the first BACKUP, whoever left them there, and at the latest on
///   [`Input::Shutdown`]; afterwards only by who claimed them.
#[derive(Debug)]
pub struct VirtualHost {
    cx: CoreContext,
    machine: Machine,
}

impl VirtualHost {
    /// Creates a host in INIT, with the link down and no source address until inputs say otherwise.
    ///
    /// `initial_counter` is the first replay counter we send; from the wall clock, so that it rises across restarts.
    #[must_use]
    pub fn new(mut settings: Settings, initial_counter: u64, now: Instant) -> Self {
        let Settings { vhid, profile, .. } = settings;
        let authenticator =
            Authenticator::new(&settings.key, vhid, &settings.addresses, profile, None);
        // From here on, only the values derived from the key are needed.
        settings.key.zeroize();
        Self {
            cx: CoreContext::new(settings, authenticator, now),
            machine: Machine::new(initial_counter, now),
        }
    }

    /// Handles something that happened.
    pub(super) fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        self.cx.begin(now);
        self.machine.input(&mut self.cx, input);
    }

    /// Does what is due at `now`, and nothing else.
    ///
    /// `looked_at` is when the caller last fed what had arrived, before it did so at `now`: a silence that it slept through
    /// does not count yet.
    pub(super) fn handle_timeout(&mut self, now: Instant, looked_at: Instant) {
        self.cx.begin(now);
        if self.next_deadline().is_some_and(|due| due <= self.cx.now) {
            self.machine.timeout(&mut self.cx, looked_at);
        }
    }

    /// Returns the next thing to do, in order; `None` when there is nothing left.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.cx.actions.pop()
    }

    /// Returns when to call [`time_out`](super::drive::time_out); `None` in INIT.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.machine.next_deadline()
    }

    /// Returns what it would do next, as things stand at `now`.
    #[must_use]
    pub fn outlook(&self, now: Instant) -> Outlook {
        outlook::of(&self.machine, &self.cx, self.cx.now.max(now))
    }

    /// Returns the part that it plays.
    #[must_use]
    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// Returns the counts of what happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.cx.counters
    }

    /// Returns what it advertises, or would: demotion included, except in the OpenBSD profile.
    #[must_use]
    pub fn advertised(&self) -> Priority {
        self.cx.advertised()
    }

    /// Returns the digests that it accepts, for whatever tells authentic advertisements from others before it hears of them.
    #[must_use]
    pub fn digests(&self) -> &[PreparedDigest] {
        self.cx.authenticator.digests()
    }

    /// Returns what demotes it at present.
    #[must_use]
    pub fn demotions(&self) -> &Demotions {
        &self.cx.demotions
    }

    /// Returns the address that it sends from.
    #[must_use]
    pub fn source(&self, family: Family) -> Option<IpAddr> {
        self.cx.sources[family]
    }

    /// Returns which host it last heard in an advertisement that counted, and when.
    #[must_use]
    pub fn last_heard(&self) -> Option<Origin> {
        self.machine.listener.last_heard
    }

    /// Whether another MASTER advertises: it was heard within the master-down time.
    #[must_use]
    pub fn hears_a_master(&self, now: Instant) -> bool {
        let last = self.last_heard().map(|heard| heard.arrival);
        last.is_some_and(|last| now < last + self.master_down_time())
    }

    /// Whether the election says that the addresses are not ours, so that what an earlier run left of them can go. In INIT
    /// nobody says otherwise; a BACKUP has heard another MASTER, and does not take over from it at this very moment.
    #[must_use]
    pub fn has_lost(&self, now: Instant) -> bool {
        match self.state() {
            State::Init => true,
            State::Backup => {
                self.last_heard().is_some() && self.next_deadline().is_none_or(|due| due > now)
            }
            State::Master => false,
        }
    }

    /// Returns when a BACKUP takes over if the MASTER stays silent; `None` in the other states.
    #[must_use]
    pub fn master_down_at(&self) -> Option<Instant> {
        self.machine.listener.master_down_at()
    }

    /// Returns the silence after which it takes over. Demotion does not enter.
    #[must_use]
    pub fn master_down_time(&self) -> Duration {
        self.cx.master_down_time()
    }

    /// Returns what was heard and sent, for [`VirtualHost::recall`] of a later start. No key is in it. Length: below 72 KiB,
    /// and below 3 KiB where no peer draws its counters by chance.
    #[must_use]
    pub fn memory(&self) -> Vec<u8> {
        self.machine.history.write()
    }

    /// Takes in what [`VirtualHost::memory`] of an earlier start returned; `false` when it is not understood or not whole, and
    /// nothing was taken in. To be called before the first input.
    pub fn recall(&mut self, bytes: &[u8]) -> bool {
        self.machine.history.go_on_with(bytes, self.cx.now)
    }
}
