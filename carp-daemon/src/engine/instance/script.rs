//! The scripts of a virtual host: which ones run, and the consequences of their ends.
//!
//! A MASTER whose up script failed, and whose address is not on this host, serves nobody. It advertises a worse priority, so
//! that a better host can take over, and runs the script again every ten seconds while it is MASTER. The demotion ends when
//! the script has worked, or, on a host that is no longer MASTER, a minute after the last failure.

use std::collections::VecDeque;
use std::time::Duration;

use carp_common::proto::probation::{Probation, QUIET};
use carp_common::time::Instant;
use carp_common::units::State;

use super::super::context::Site;
use super::super::effects::Effects;
use super::identity::{CoreRequests, Identity};
use crate::api::event::process::Script;
use crate::config::Ownership;
use crate::io::scripts::{Admission, Completion, Outcome, Which, Wish};

/// Time between the end of an up script that failed and the next attempt.
const RETRY: Duration = Duration::from_secs(10);

/// The scripts that were requested, and the consequences of an up script that fails.
#[derive(Debug, Default)]
pub struct ScriptWatch {
    /// The requested scripts whose ends are not known yet, in the order in which they run. There are one that runs, one that
    /// waits, and those that have ended since the last turn.
    pending: VecDeque<Which>,
    retry_at: Option<Instant>,
    probation: Probation,
}

impl ScriptWatch {
    /// Requests a script, under the interface's present name.
    pub fn run<E: Effects>(
        &mut self,
        who: &Identity,
        state: State,
        which: Which,
        site: &mut Site<'_, E>,
    ) {
        let interface = site.interface.current_name.clone();
        let wish = Wish {
            which,
            state,
            interface,
        };
        let admission = site.cx.effects.run(who.id, wish);
        self.asked(which, admission);
    }

    fn asked(&mut self, which: Which, admission: Admission) {
        if admission.overtakes {
            self.pending.pop_back();
        }
        self.pending.extend(admission.accepted.then_some(which));
    }

    /// Returns whether an up script may still add the addresses.
    pub fn may_add(&self) -> bool {
        self.pending.contains(&Which::Up)
    }

    /// Notes the end of a script. Scripts run one after the other, so the addresses that an up script added are there from now
    /// on.
    fn note_end(&mut self, which: Which) {
        if let Some(place) = self.pending.iter().position(|it| *it == which) {
            self.pending.drain(..=place);
        }
    }

    /// Notes that the up script failed. Returns whether that is new.
    fn failed(&mut self, now: Instant) -> bool {
        self.retry_at = Some(now + RETRY);
        self.probation.fail(now)
    }

    /// Notes that the up script worked. Returns whether it had failed before.
    fn worked(&mut self) -> bool {
        self.retry_at = None;
        self.probation.succeed()
    }

    /// Notes that this host is no longer MASTER.
    pub fn released(&mut self) {
        self.retry_at = None;
    }

    /// Returns whether the up script failed and has not worked since, so the address is not on this host.
    pub const fn has_failed(&self) -> bool {
        self.probation.is_on()
    }

    /// Returns when something is due.
    pub fn deadline(&self) -> Option<Instant> {
        let ends = self.probation.deadline();
        self.retry_at.into_iter().chain(ends).min()
    }
}

impl ScriptWatch {
    /// Follows the end of a script, while the virtual host is in `state`.
    pub fn ended<E: Effects>(
        &mut self,
        who: &Identity,
        state: State,
        completion: Completion,
        site: &mut Site<'_, E>,
    ) -> CoreRequests {
        self.note_end(completion.which);
        let mut wishes = CoreRequests::default();
        if completion.which != Which::Up
            || who.config.ownership != Ownership::Scripts
            || state != State::Master
        {
            return wishes;
        }
        // ucarp ignores the exit status, so an address that is there serves whatever the script returned.
        let mut addresses = who.config.addresses.iter();
        let are_here = addresses.all(|address| site.cx.namespace.has(address.address));
        if completion.outcome == Outcome::Succeeded || are_here {
            if self.worked() {
                site.cx.tell(&who.place, Script::Worked);
                wishes.demoted = Some(false);
            }
            wishes.claimed = true;
        } else if self.failed(site.cx.now) {
            site.cx.tell(&who.place, Script::Failed { retry: RETRY });
            wishes.demoted = Some(true);
        }
        wishes
    }

    /// Does what is due. Returns whether the up script must run again.
    pub fn timeout<E: Effects>(
        &mut self,
        who: &Identity,
        is_master: bool,
        site: &mut Site<'_, E>,
    ) -> (CoreRequests, bool) {
        let now = site.cx.now;
        let mut wishes = CoreRequests::default();
        let retry = self.retry_at.take_if(|at| *at <= now).is_some();
        let quiet = self.probation.timeout(now);
        if quiet && is_master {
            // The next attempt is still running.
            self.probation.fail(now);
        } else if quiet {
            let expired = Script::FailureExpired { quiet: QUIET };
            site.cx.tell(&who.place, expired);
            wishes.demoted = Some(false);
        }
        (wishes, retry && is_master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// Requests a script that runs, now or after the one that runs.
    const ACCEPTED: Admission = Admission {
        accepted: true,
        overtakes: false,
    };
    /// Requests what runs already, while the opposite waits.
    const BACK_TO_THE_RUNNING_ONE: Admission = Admission {
        accepted: false,
        overtakes: true,
    };

    #[test]
    fn an_up_script_may_add_addresses_until_it_has_ended_or_will_not_run() {
        let mut watch = ScriptWatch::default();
        watch.asked(Which::Down, ACCEPTED);
        watch.asked(Which::Up, ACCEPTED);
        assert!(watch.may_add());
        watch.asked(Which::Down, BACK_TO_THE_RUNNING_ONE);
        assert!(!watch.may_add(), "it was dropped");
        watch.note_end(Which::Down);
        // That one has ended is known only after the next one was asked for.
        watch.asked(Which::Up, ACCEPTED);
        watch.asked(Which::Down, ACCEPTED);
        watch.asked(Which::Up, ACCEPTED);
        watch.note_end(Which::Up);
        watch.note_end(Which::Down);
        assert!(watch.may_add());
        watch.asked(Which::Down, ACCEPTED);
        watch.asked(Which::Up, BACK_TO_THE_RUNNING_ONE);
        assert!(watch.may_add(), "it still runs");
        watch.note_end(Which::Up);
        assert!(watch.pending.is_empty());
    }

    #[test]
    fn a_failure_is_news_once_until_the_script_has_worked() {
        let mut watch = ScriptWatch::default();
        assert!(!watch.worked());
        assert!(watch.failed(at(1)) && !watch.failed(at(11)));
        assert!(watch.worked() && !watch.worked());
        assert_eq!(watch.deadline(), None);
        assert!(watch.failed(at(20)));
    }

    #[test]
    fn a_master_tries_again_and_any_other_host_only_waits_for_the_end_of_its_demotion() {
        let mut watch = ScriptWatch::default();
        let _ = watch.failed(at(1));
        assert_eq!(watch.deadline(), Some(at(11)));
        watch.released();
        assert_eq!(watch.deadline(), Some(at(61)));
    }
}
