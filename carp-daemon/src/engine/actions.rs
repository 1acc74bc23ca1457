//! Carries out what the core decided.

use std::collections::VecDeque;
use std::io;

use carp_common::proto::{Action, Input, LinkState, SendOutcome};
use carp_common::time::Instant;
use carp_common::units::{Family, State};
use carp_common::wire::advertisement::HEADER_LEN;
use tracing::{debug, error, warn};

use super::{AT_ONCE, Engine};
use crate::config::Ownership;
use crate::io::datapath::{self, Chain};
use crate::io::port::Envelope;
use crate::io::scripts::Which;

impl Engine {
    /// Judges the timers that are due at `now`: [`AT_ONCE`] of them, the others in a turn of their own. We last looked at
    /// what arrived at `looked_at`.
    pub(super) fn judge_timers(&mut self, looked_at: Instant, now: Instant) {
        for _ in 0..AT_ONCE {
            let Some((vhost, due)) = self.deadlines.pop_due(now) else {
                return;
            };
            self.note_lateness(vhost, due, now);
            // Silence counts only where something could be heard.
            if self.vhosts[vhost].machine.master_down_at().is_some() && !self.hears(vhost, now) {
                let next = self.vhosts[vhost].machine.next_deadline();
                self.deadlines.set(vhost, next);
                continue;
            }
            self.vhosts[vhost].machine.handle_timeout(now, looked_at);
            self.act(vhost, now);
        }
    }

    /// Carries out everything a virtual host asks for, tells it how that went, and notes when it is due next.
    pub(super) fn act(&mut self, vhost: usize, now: Instant) {
        // Results are told after all actions of one input, in order.
        let mut results = VecDeque::new();
        loop {
            while let Some(action) = self.vhosts[vhost].machine.poll_action() {
                results.extend(self.carry_out(vhost, action, now));
            }
            match results.pop_front() {
                Some(result) => self.vhosts[vhost].machine.handle_input(now, result),
                None => break,
            }
        }
        self.show_life(vhost, now);
        self.deadlines
            .set(vhost, self.vhosts[vhost].machine.next_deadline());
        self.follow_state(vhost, now);
    }

    /// Tells the kernel program that we are alive, when three eighths of what it knows have passed: an idle BACKUP's next
    /// chance is half of it later.
    fn show_life(&mut self, vhost: usize, now: Instant) {
        let served = &mut self.vhosts[vhost];
        let validity = served.life_sign_validity();
        let remaining = served.alive_until.saturating_duration_since(now);
        if let Some(key) = served.key
            && remaining < validity * 5 / 8
        {
            served.alive_until = now + validity;
            let told = self.datapath.keep_alive(key, served.alive_until);
            self.check_datapath(vhost, told);
        }
    }

    /// Says what the datapath refuses, once until it is programmed again: what is told with each advertisement fails
    /// with each.
    pub(super) fn check_datapath(
        &mut self,
        vhost: usize,
        outcome: Result<(), datapath::error::Error>,
    ) {
        let served = &mut self.vhosts[vhost];
        if let Err(error) = outcome
            && !std::mem::replace(&mut served.datapath_refused, true)
        {
            let port = self.interfaces[served.interface].port.as_ref();
            let rung = port.and_then(|port| self.datapath.rung(port.ifindex()));
            let rung = rung.map_or_else(|| "none".to_owned(), |rung| rung.to_string());
            error!("{}: datapath {rung}: {}", served.label, Chain(&error));
        }
    }

    /// One action; what became of it, where the core wants to know.
    fn carry_out(&mut self, vhost: usize, action: Action, now: Instant) -> Option<Input<'static>> {
        match action {
            Action::ProgramDatapath(state) => return self.program_datapath(vhost, state, now),
            Action::SendAdvertisement { family, payload } => {
                let outcome = self.send_advertisement(vhost, family, &payload);
                if outcome == SendOutcome::Sent {
                    self.memories.outdate(vhost);
                    self.move_fence(vhost, now);
                }
                return Some(Input::SendCompleted { family, outcome });
            }
            Action::ClaimAddresses => return self.claim(vhost, now),
            Action::ReleaseAddresses => self.release(vhost),
            Action::Announce(family) => self.announce(vhost, family),
            Action::Report(transition) => {
                if transition.from == State::Master {
                    self.fall_silent(vhost);
                }
                self.report(vhost, transition, now);
            }
            Action::Notify(notice) => self.notify(vhost, notice),
        }
        None
    }

    /// In INIT advertisements are nobody's business of ours and pass; a MASTER's addresses are fenced.
    ///
    /// A virtual host that the datapath refuses would hear nobody, and think them all dead: the core hears of a link that
    /// is down.
    pub(super) fn program_datapath(
        &mut self,
        vhost: usize,
        state: State,
        now: Instant,
    ) -> Option<Input<'static>> {
        self.fence(vhost, state, now);
        let key = match state {
            State::Init => None,
            State::Backup | State::Master => self.key_of(vhost),
        };
        let served = &mut self.vhosts[vhost];
        if key == served.key {
            return None;
        }
        if let Some(old) = std::mem::replace(&mut served.key, key) {
            self.keys.remove(&old);
            let removed = self.datapath.remove(old);
            self.check_datapath(vhost, removed);
        }
        if self.program(vhost, key?, now) {
            return None;
        }
        self.vhosts[vhost].link = LinkState::Down;
        Some(Input::LinkChanged(LinkState::Down))
    }

    fn send_advertisement(
        &mut self,
        vhost: usize,
        family: Family,
        payload: &[u8; HEADER_LEN],
    ) -> SendOutcome {
        let served = &self.vhosts[vhost];
        let sent = match (
            family,
            served.source,
            &mut self.interfaces[served.interface].port,
        ) {
            (Family::Inet, Some(source), Some(port)) => {
                let envelope = Envelope {
                    vhid: served.config.election.vhid,
                    own_mac: served.config.own_mac,
                    profile: served.config.election.profile,
                    source,
                    group: served.config.group,
                    broadcast: served.config.broadcast,
                };
                port.send_advertisement(&envelope, payload)
            }
            (Family::Inet | Family::Inet6, _, _) => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        match sent {
            Ok(()) => SendOutcome::Sent,
            Err(error) => {
                debug!("{}: failed to send an advertisement: {error}", served.label);
                match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => SendOutcome::NoMemory,
                    _ => SendOutcome::Failed,
                }
            }
        }
    }

    fn announce(&self, vhost: usize, family: Family) {
        let served = &self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return;
        };
        let of_family = |address: &std::net::IpAddr| address.is_ipv4() == (family == Family::Inet);
        for address in served
            .config
            .addresses
            .iter()
            .map(|address| address.address)
            .filter(of_family)
        {
            if let Err(error) = port.announce(address) {
                debug!("{}: failed to announce {address}: {error}", served.label);
            }
        }
    }

    fn claim(&mut self, vhost: usize, now: Instant) -> Option<Input<'static>> {
        self.vhosts[vhost].was_master = true;
        self.run_script(vhost, Which::Up);
        // Told when the script ends.
        if self.vhosts[vhost].config.ownership == Ownership::Scripts {
            return None;
        }
        let complete = self.claim_addresses(vhost);
        if !complete {
            self.vhosts[vhost].guard.incomplete(now);
        }
        complete.then_some(Input::ClaimCompleted)
    }

    fn release(&mut self, vhost: usize) {
        if self.vhosts[vhost].config.ownership == Ownership::Native {
            self.release_addresses(vhost);
        }
        let neutral_start = self.vhosts[vhost].config.neutral && !self.vhosts[vhost].was_master;
        // What runs at the end is decided by `release_at_exit`.
        if !neutral_start && !self.stopping {
            self.run_script(vhost, Which::Down);
        }
    }

    /// The end of a virtual host that was in state `before`: native addresses always go; the down script runs as in
    /// ucarp, when it was asked for (`-z`) and unless BACKUP, where it ran already.
    pub(super) fn release_at_exit(&mut self, vhost: usize, before: State) {
        if self.vhosts[vhost].config.ownership == Ownership::Native {
            self.release_addresses(vhost);
            self.remove_leftovers(vhost, false);
        }
        let served = &self.vhosts[vhost];
        let config = &served.config;
        if config.release_at_exit && before != State::Backup {
            self.run_script(vhost, Which::Down);
        } else if config.ownership == Ownership::Scripts
            && before == State::Master
            && !served.script_guard.has_failed()
        {
            warn!(
                "{}: the address stays on this host, although another one takes over now: nothing removes it without \
                 --shutdown (-z)",
                served.label
            );
        }
    }
}
