//! The knowledge of the kernel about one process: its state, how long it owns the addresses, and how long it counts as alive.

use std::time::Duration;

use carp_common::proto::Standing;
use carp_common::time::Instant;
use carp_common::units::State;

use super::Violation;

/// The last reports of the process to its kernel and to its peers.
#[derive(Debug)]
pub struct Reign {
    known: Standing,
    /// Whether the device took an advertisement since the kernel learned how long the process owns the addresses.
    has_sent: bool,
    /// When the next advertisement is due, according to the last one of a MASTER that the device took.
    next: Option<Instant>,
    /// The advertisement that is being sent.
    sending: Option<Instant>,
}

impl Default for Reign {
    fn default() -> Self {
        Self {
            known: Standing::INIT,
            has_sent: false,
            next: None,
            sending: None,
        }
    }
}

impl Reign {
    /// Notes a report of the process to its kernel.
    ///
    /// # Errors
    /// Returns that it was told the same again, or a longer time without an advertisement that went out.
    pub fn programmed(&mut self, now: Instant, standing: Standing) -> Result<(), Violation> {
        let before = std::mem::replace(&mut self.known, standing);
        if before == standing {
            return Err(format!("told the datapath twice: {standing:?}"));
        }
        let is_longer = standing.owns_until > before.owns_until && standing.owns_until > now;
        let entitled = self.has_sent || before.state != State::Master;
        if is_longer && !(standing.state == State::Master && entitled) {
            return Err("owns the addresses for longer, although no advertisement went out".into());
        }
        Ok(())
    }

    /// Notes that the process hands an advertisement with this interval to the device; its last one, if it `leaves`.
    ///
    /// # Errors
    /// Returns that other hosts learn that it leaves while it still answers for the addresses.
    pub fn advertises(
        &mut self,
        now: Instant,
        leaves: bool,
        interval: Duration,
    ) -> Result<(), Violation> {
        self.has_sent = false;
        self.sending = (!leaves).then_some(now + interval);
        if leaves && self.known.owns_until > now {
            return Err("advertised that it leaves before it stopped answering".into());
        }
        Ok(())
    }

    /// Notes that the device took the advertisement.
    pub const fn sent(&mut self) {
        self.has_sent = true;
        self.next = self.sending;
    }

    /// Checks after one input, when its actions are carried out.
    ///
    /// # Errors
    /// Returns that the kernel knows another state, takes a process that is not MASTER for an owner, or would take
    /// the process for alive for longer than `life`.
    pub fn acted(&mut self, now: Instant, state: State, life: Duration) -> Result<(), Violation> {
        let Standing {
            state: known,
            alive_until,
            owns_until,
        } = self.known;
        if known != state {
            return Err(format!("is {state} but told the datapath {known}"));
        }
        if state != State::Master {
            self.next = None;
            if owns_until > now {
                return Err(format!("is {state} and owns the addresses"));
            }
        }
        if alive_until > now + life {
            return Err(format!(
                "counts as alive for {:?}",
                alive_until.saturating_duration_since(now)
            ));
        }
        Ok(())
    }

    /// Checks before it sleeps, normally until this deadline.
    ///
    /// # Errors
    /// Returns that it will count as dead, or no longer own the addresses, before it can renew that.
    pub fn settled(&self, now: Instant, deadline: Option<Instant>) -> Result<(), Violation> {
        if deadline.is_some_and(|deadline| self.known.alive_until <= deadline) {
            return Err(format!(
                "counts as alive for {:?}, and sleeps for longer",
                self.known.alive_until.saturating_duration_since(now)
            ));
        }
        if self.next.is_some_and(|next| self.known.owns_until <= next) {
            return Err(format!(
                "owns the addresses for {:?}, and not until the next advertisement",
                self.known.owns_until.saturating_duration_since(now)
            ));
        }
        Ok(())
    }
}
