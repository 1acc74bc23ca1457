//! What a virtual host has to do besides the election, each at its time: put addresses back, run a failed script again,
//! watch ARP; and, in bunches, renew leases and place addresses.
//!
//! An idle BACKUP has none of it and is not woken. A few are done in each turn, so that an advertisement waits for no more
//! than these.

use carp_common::time::Instant;
use carp_common::units::State;

use super::{AT_ONCE, Engine};
use crate::config::Ownership;

impl Engine {
    /// A virtual host's actions of one input were carried out: what changes with its state, besides.
    pub(super) fn follow_state(&mut self, vhost: usize, now: Instant) {
        let state = self.vhosts[vhost].machine.state();
        let before = std::mem::replace(&mut self.vhosts[vhost].followed, state);
        match (before, state) {
            (State::Init | State::Backup, State::Master) => {
                self.begin_watch(vhost, now);
                if self.vhosts[vhost].config.ownership == Ownership::Native {
                    self.note_lease(vhost, true, now);
                }
            }
            (State::Master, State::Init | State::Backup) => {
                self.end_watch(vhost);
                self.end_lease(vhost);
                let served = &mut self.vhosts[vhost];
                served.guard.released();
                served.script_guard.released();
            }
            (State::Init | State::Backup, State::Init | State::Backup)
            | (State::Master, State::Master) => {}
        }
        self.schedule_chores(vhost);
    }

    /// Notes when the next chore is due.
    pub(super) fn schedule_chores(&mut self, vhost: usize) {
        let served = &self.vhosts[vhost];
        let next = served
            .guard
            .deadline()
            .into_iter()
            .chain(served.script_guard.deadline())
            .chain(served.watch.deadline())
            .min();
        self.chores.set(vhost, next);
    }

    /// Does what is due, after the election has been decided: of [`AT_ONCE`] virtual hosts, the others in a turn of
    /// their own.
    pub(super) fn do_chores(&mut self, now: Instant) {
        self.renew_leases(now);
        self.place_addresses(now);
        for _ in 0..AT_ONCE {
            let Some((vhost, _)) = self.chores.pop_due(now) else {
                return;
            };
            self.guard_timeout(vhost, now);
            self.script_timeout(vhost, now);
            self.watch_timeout(vhost, now);
            self.schedule_chores(vhost);
        }
    }
}
