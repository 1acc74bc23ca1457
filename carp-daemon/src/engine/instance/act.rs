//! Carries out what the core decided.

use std::collections::VecDeque;
use std::io;

use carp_common::proto::{Action, Input, LinkState, SendOutcome, Standing};
use carp_common::units::{Family, State};
use carp_common::wire::advertisement::HEADER_LEN;

use super::super::context::Site;
use super::super::effects::Effects;
use super::tenure::Tenure;
use super::{Instance, script};
use crate::api::Event;
use crate::api::event::election::{Election, Transmit};
use crate::config::Ownership;
use crate::io::port::Envelope;
use crate::io::scripts::Which;

impl Instance {
    /// Carries out everything that the core asks for, and tells it how that went.
    pub(super) fn act<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        // Results are told after all actions of one input, in order.
        let mut results = VecDeque::new();
        loop {
            while let Some(action) = self.machine.poll_action() {
                site.cx.effects.decides(self.who.id, site.cx.now, &action);
                results.extend(self.carry_out(action, site));
            }
            match results.pop_front() {
                Some(result) => self.machine.handle_input(site.cx.now, result),
                None => break,
            }
        }
        self.follow_state(site);
        site.cx.touched.push(self.who.id);
    }

    /// One action; what became of it, where the core wants to know.
    fn carry_out<E: Effects>(
        &mut self,
        action: Action,
        site: &mut Site<'_, E>,
    ) -> Option<Input<'static>> {
        match action {
            Action::ProgramDatapath(standing) => return self.program_datapath(standing, site),
            Action::SendAdvertisement { family, payload } => {
                let outcome = self.advertise(family, &payload, site);
                if outcome == SendOutcome::Sent {
                    self.outdated = true;
                }
                return Some(Input::SendCompleted { family, outcome });
            }
            Action::ClaimAddresses => return self.take_addresses(site),
            Action::ReleaseAddresses => self.release(site),
            Action::Announce(family) => self.announce(family, site),
            Action::Report(transition) => self.report(transition, site),
            Action::Notify(notice) => {
                let event = Event::of_notice(self.who.place.clone(), notice);
                site.cx.effects.tell(event);
            }
        }
        None
    }

    /// A virtual host that the datapath refuses would hear nobody, and think them all dead: the core hears of a link that
    /// is down.
    fn program_datapath<E: Effects>(
        &mut self,
        standing: Standing,
        site: &mut Site<'_, E>,
    ) -> Option<Input<'static>> {
        let before = self.tenure.follow(&self.who, standing, site);
        // What leaves MASTER is silent, at least until the addresses are released.
        if before.state != State::Master && standing.state != before.state {
            self.settle_fence(site);
        }
        let wanted = match standing.state {
            State::Init => None,
            State::Backup | State::Master => Tenure::key_wanted(&self.who, site),
        };
        if wanted == self.tenure.key() {
            self.tenure.renew(&self.who, site);
            return None;
        }
        self.tenure.withdraw(&self.who, site);
        if wanted.is_none() || self.program(site) {
            return None;
        }
        self.link = LinkState::Down;
        Some(Input::LinkChanged(LinkState::Down))
    }

    fn advertise<E: Effects>(
        &self,
        family: Family,
        payload: &[u8; HEADER_LEN],
        site: &mut Site<'_, E>,
    ) -> SendOutcome {
        let config = &self.who.config;
        let sent = match (family, self.source, site.interface.ifindex) {
            (Family::Inet, Some(source), Some(ifindex)) => {
                let envelope = Envelope {
                    vhid: config.election.vhid,
                    own_mac: config.own_mac,
                    profile: config.election.profile,
                    source,
                    group: config.group,
                    broadcast: config.broadcast,
                };
                site.cx.effects.advertise(ifindex, &envelope, payload)
            }
            (Family::Inet | Family::Inet6, _, _) => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        match sent {
            Ok(()) => SendOutcome::Sent,
            Err(error) => {
                let outcome = match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => SendOutcome::NoMemory,
                    _ => SendOutcome::Failed,
                };
                let error = error.to_string();
                let failed = Transmit::AdvertisementFailed { error };
                site.cx.tell(&self.who.place, failed);
                outcome
            }
        }
    }

    fn announce<E: Effects>(&self, family: Family, site: &mut Site<'_, E>) {
        let Some(ifindex) = site.interface.ifindex else {
            return;
        };
        for virtual_one in &self.who.config.addresses {
            let address = virtual_one.address;
            if address.is_ipv4() == (family == Family::Inet)
                && let Err(error) = site.cx.effects.announce(ifindex, address)
            {
                let error = error.to_string();
                let failed = Transmit::AnnouncementFailed { address, error };
                site.cx.tell(&self.who.place, failed);
            }
        }
    }

    fn take_addresses<E: Effects>(&mut self, site: &mut Site<'_, E>) -> Option<Input<'static>> {
        self.was_master = true;
        script::run(&self.who, self.machine.state(), Which::Up, site);
        // Told when the script ends.
        if self.who.config.ownership == Ownership::Scripts {
            return None;
        }
        let complete = self.claim.take(&self.who, site);
        // What is left of an earlier run now has another prefix length.
        self.predecessor
            .remove(&self.who, true, &mut self.tenure, site);
        if !complete {
            self.restore.incomplete(site.cx.now);
        }
        complete.then_some(Input::ClaimCompleted)
    }

    fn release<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        if self.who.config.ownership == Ownership::Native {
            self.claim.release(&self.who, site);
        }
        self.settle_fence(site);
        let neutral_start = self.who.config.neutral && !self.was_master;
        // What runs at the end is decided by `shut_down`.
        if !neutral_start && !site.cx.stopping {
            script::run(&self.who, self.machine.state(), Which::Down, site);
        }
    }

    /// Ends for good. Native addresses always go; the down script runs as in ucarp, when it was asked for (`-z`) and
    /// unless BACKUP, where it ran already. Returns whether it was MASTER.
    pub fn shut_down<E: Effects>(&mut self, site: &mut Site<'_, E>) -> bool {
        let before = self.machine.state();
        let stopping = std::mem::replace(&mut site.cx.stopping, true);
        self.feed(Input::Shutdown, site);
        site.cx.stopping = stopping;
        if self.who.config.ownership == Ownership::Native {
            self.claim.release(&self.who, site);
            self.predecessor
                .remove(&self.who, false, &mut self.tenure, site);
        }
        let config = &self.who.config;
        if config.release_at_exit && before != State::Backup {
            script::run(&self.who, self.machine.state(), Which::Down, site);
        } else if config.ownership == Ownership::Scripts
            && before == State::Master
            && !self.script.has_failed()
        {
            site.cx.tell(&self.who.place, Election::AddressStays);
        }
        before == State::Master
    }

    /// What changes with its state, besides.
    fn follow_state<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        let state = self.machine.state();
        let before = std::mem::replace(&mut self.followed, state);
        match (before, state) {
            (State::Init | State::Backup, State::Master) => {
                self.conflict.begin(&self.who, site.cx.now);
                if self.who.config.ownership == Ownership::Native {
                    let lease = site.cx.lease_of(&self.who.config);
                    self.claim.term.begin(lease, true, site.cx.now);
                }
            }
            (State::Master, State::Init | State::Backup) => {
                site.interface.watched_changed |= self.conflict.end();
                self.claim.term.end();
                self.restore.released();
                self.script.released();
            }
            (State::Init | State::Backup, State::Init | State::Backup)
            | (State::Master, State::Master) => {}
        }
    }
}
