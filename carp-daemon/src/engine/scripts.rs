//! The scripts of the virtual hosts: which to run, and what follows from how they ended.
//!
//! A MASTER whose up script failed, and whose address is not on this host, serves nobody. It advertises a worse priority, so
//! that a better host can take over, and runs the script again every ten seconds while it is MASTER. The demotion ends once
//! the script has worked, or a minute after the last failure on a host that is MASTER no longer.

use std::time::Duration;

use carp_common::proto::{DemotionCause, Input};
use carp_common::time::Instant;
use carp_common::units::State;
use tracing::{error, info};

use super::Engine;
use crate::config::Ownership;
use crate::io::scripts::{Completion, Outcome, Which, Wish};

/// Between the end of an up script that failed and the next attempt.
const RETRY: Duration = Duration::from_secs(10);
/// How long a host that left MASTER stays demoted: well above [`RETRY`], so that two hosts do not hand the address to and
/// fro in its rhythm.
const QUIET: Duration = Duration::from_secs(60);

/// What an up script that fails leads to.
#[derive(Debug, Default)]
pub struct ScriptGuard {
    retry_at: Option<Instant>,
    demoted_until: Option<Instant>,
}

impl ScriptGuard {
    /// The up script failed. Whether that is news.
    fn failed(&mut self, now: Instant) -> bool {
        self.retry_at = Some(now + RETRY);
        self.demoted_until.replace(now + QUIET).is_none()
    }

    /// The up script worked. Whether it had failed before.
    fn worked(&mut self) -> bool {
        self.retry_at = None;
        self.demoted_until.take().is_some()
    }

    /// This host is MASTER no longer.
    pub fn released(&mut self) {
        self.retry_at = None;
    }

    /// Whether the up script failed and has not worked since: the address is not on this host.
    pub fn has_failed(&self) -> bool {
        self.demoted_until.is_some()
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.demoted_until).min()
    }
}

impl Engine {
    /// Runs a script for the present state, under the interface's present name.
    pub(super) fn run_script(&self, vhost: usize, which: Which) {
        let served = &self.vhosts[vhost];
        if let Some(runner) = &served.runner {
            runner.request(Wish {
                which,
                state: served.machine.state(),
                interface: self.interfaces[served.interface].current_name.clone(),
            });
        }
    }

    pub(super) fn script_ended(&mut self, vhost: usize, completion: Completion, now: Instant) {
        let served = &self.vhosts[vhost];
        if completion.which != Which::Up
            || served.config.ownership != Ownership::Scripts
            || served.machine.state() != State::Master
        {
            return;
        }
        // ucarp does not look at the exit status, so an address that is there serves whatever the script says.
        if completion.outcome == Outcome::Succeeded || self.is_address_here(vhost) {
            if self.vhosts[vhost].script_guard.worked() {
                info!(
                    "{}: its up script has worked: the configured priority again",
                    self.vhosts[vhost].label
                );
                self.demote(vhost, DemotionCause::Script, false, now);
            }
            self.feed(vhost, now, Input::ClaimCompleted);
        } else if self.vhosts[vhost].script_guard.failed(now) {
            error!(
                "{}: its up script failed and the address is not on this host: advertising a worse priority until the \
                 script works, and running it again every {} s",
                self.vhosts[vhost].label,
                RETRY.as_secs()
            );
            self.demote(vhost, DemotionCause::Script, true, now);
        }
        self.schedule_chores(vhost);
    }

    /// What the timers of the guard are for.
    pub(super) fn script_timeout(&mut self, vhost: usize, now: Instant) {
        let is_due = |at: &mut Instant| *at <= now;
        let is_master = self.vhosts[vhost].machine.state() == State::Master;
        let guard = &mut self.vhosts[vhost].script_guard;
        let retry = guard.retry_at.take_if(is_due).is_some();
        let quiet = guard.demoted_until.take_if(is_due).is_some();
        if quiet && is_master {
            // The next attempt is still running.
            guard.demoted_until = Some(now + QUIET);
        } else if quiet {
            info!(
                "{}: its up script last failed {} s ago: the configured priority again",
                self.vhosts[vhost].label,
                QUIET.as_secs()
            );
            self.demote(vhost, DemotionCause::Script, false, now);
        }
        if retry && is_master {
            self.run_script(vhost, Which::Up);
        }
    }

    /// Whether every address of the virtual host is on this host, on whatever interface the script chose.
    fn is_address_here(&self, vhost: usize) -> bool {
        let mut addresses = self.vhosts[vhost].config.addresses.iter();
        addresses.all(|address| self.is_here(address.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_failure_is_news_once_until_the_script_has_worked() {
        let mut guard = ScriptGuard::default();
        assert!(!guard.worked());
        assert!(guard.failed(at(1)) && !guard.failed(at(11)));
        assert!(guard.worked() && !guard.worked());
        assert_eq!(guard.deadline(), None);
        assert!(guard.failed(at(20)));
    }

    #[test]
    fn a_master_tries_again_and_any_other_host_only_waits_for_the_end_of_its_demotion() {
        let mut guard = ScriptGuard::default();
        let _ = guard.failed(at(1));
        assert_eq!(guard.deadline(), Some(at(11)));
        guard.released();
        assert_eq!(guard.deadline(), Some(at(61)));
    }
}
