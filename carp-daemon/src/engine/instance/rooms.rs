//! The rooms of a virtual host together: they carry out what the core decided, and follow the interface.

use carp_common::proto::{
    Action, DatapathState, Input, SendOutcome, Standing, Transition, VirtualHost,
};
use carp_common::units::{Family, State};

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::conflict::Conflict;
use super::holdings::Holdings;
use super::identity::Identity;
use super::lease;
use super::predecessor::Predecessor;
use super::removals::Removals;
use super::restore::Restore;
use super::script::ScriptWatch;
use super::stalls::Stalls;
use super::story::Story;
use super::tenure::Tenure;
use super::uplink::Uplink;
use crate::api::Event;
use crate::api::event::election::{Election, Transmit};
use crate::config::Ownership;
use crate::io::datapath::{self, Endpoints};
use crate::io::scripts::Which;

/// The rooms of one virtual host.
#[derive(Debug)]
pub struct Rooms {
    /// What the core was last told of link and source.
    pub uplink: Uplink,
    /// The virtual addresses in native mode.
    pub holdings: Holdings,
    /// Against removal by others.
    pub restore: Restore,
    /// What the kernel refused to remove.
    pub removals: Removals,
    /// Its entry in the kernel.
    pub tenure: Tenure,
    /// What an earlier run left.
    pub predecessor: Predecessor,
    /// Against others that have our addresses.
    pub conflict: Conflict,
    /// Against an up script that fails.
    pub script: ScriptWatch,
    /// How late we were.
    pub stalls: Stalls,
    /// Its state changes.
    pub story: Story,
    /// Something was heard or sent that is not in its file.
    pub outdated: bool,
    /// The state that the rooms have followed.
    followed: State,
    /// It claimed its addresses at least once.
    was_master: bool,
}

impl Rooms {
    /// Of a virtual host with so many addresses that is in INIT.
    pub fn new(addresses: usize, story: Story) -> Self {
        Self {
            uplink: Uplink::default(),
            holdings: Holdings::new(addresses),
            restore: Restore::new(addresses),
            removals: Removals::default(),
            tenure: Tenure::default(),
            predecessor: Predecessor::default(),
            conflict: Conflict::default(),
            script: ScriptWatch::default(),
            stalls: Stalls::default(),
            story,
            outdated: false,
            followed: State::Init,
            was_master: false,
        }
    }

    /// The interface is here: looks what an earlier run left, before we claim anything.
    ///
    /// # Errors
    /// The kernel program that is to fence it cannot be loaded.
    pub fn arrive<E: Effects>(
        &mut self,
        who: &Identity,
        site: &mut Site<'_, E>,
    ) -> Result<(), datapath::DatapathError> {
        self.predecessor
            .look(who, &mut self.holdings, &mut self.tenure, site)?;
        // A script that began on another interface of that name may add the addresses to this one.
        if self.awaits_addresses(who) {
            self.tenure.silence(who, site);
        }
        Ok(())
    }

    /// The interface is gone, and with it whatever was configured on it.
    pub fn depart(&mut self) {
        self.holdings.lose_all();
        self.removals.forget();
        self.tenure.forget();
    }

    /// Whether nothing that its peers say can reach it.
    pub const fn is_deaf(&self, interface: &Interface) -> bool {
        self.tenure.is_deaf() || interface.hearing.lost
    }

    /// Whether addresses of an earlier run are there until the election is settled, some are still to be removed, or a script
    /// may still add some.
    fn awaits_addresses(&self, who: &Identity) -> bool {
        let has_scripts = who.config.ownership == Ownership::Scripts;
        self.predecessor.has_leftovers()
            || self.removals.are_pending()
            || (has_scripts && self.script.may_add())
    }

    /// Whether an address is left, or may come, of a virtual host that has ended and whose scripts have ended.
    pub const fn leaves_something(&self) -> bool {
        self.tenure.is_fenced() || self.removals.are_pending()
    }

    /// Not MASTER: there may be nothing left to be silent about.
    pub fn settle_fence<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        self.removals.follow(site);
        if machine.state() != State::Master {
            let is_awaited = self.awaits_addresses(who);
            self.tenure.settle(who, is_awaited, site);
        }
    }

    /// Removes what an earlier run left, once the election says so.
    pub fn settle_predecessor<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        let had_leftovers = self.predecessor.has_leftovers();
        self.predecessor
            .settle(who, machine, &mut self.removals, site);
        if had_leftovers && !self.predecessor.has_leftovers() {
            self.settle_fence(who, machine, site);
        }
    }

    /// Tries again to remove what the kernel refused to, when it is time.
    pub fn remove_again<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        let is_master = machine.state() == State::Master;
        if self.removals.timeout(who, is_master, site) {
            self.settle_fence(who, machine, site);
        }
    }

    /// The process ends. What scripts left stays, and this host answers for it, as with ucarp. An address of ours that could
    /// not be removed stays silent.
    pub fn close<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        match who.config.ownership {
            Ownership::Native => {
                self.removals.retry(who, false, site);
                self.settle_fence(who, machine, site);
            }
            Ownership::Scripts => self.tenure.unfence(who, site),
        }
    }

    /// Has the advertisements for it delivered. Returns whether that worked.
    pub fn program<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) -> bool {
        let Some(key) = Tenure::key_wanted(who, site) else {
            return false;
        };
        let endpoints = Endpoints {
            group: who.config.group.into(),
            own: self.uplink.own_source(site.interface),
        };
        site.cx.touched.push(who.id);
        self.tenure.program(who, machine, key, endpoints, site)
    }

    /// Tells of a change of state, unless there are too many.
    fn report<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        transition: Transition,
        site: &mut Site<'_, E>,
    ) {
        self.story.note(who, machine, transition, site);
        let Transition { from, to, reason } = transition;
        let cause = self.uplink.cause(reason, site.interface);
        if let Some(suppressed) = self.story.admit(site.cx.now) {
            let changed = Election::StateChanged { from, to, cause };
            site.cx.tell_after(suppressed, &who.place, changed);
        }
    }

    /// One action; what became of it, where the core wants to know.
    pub fn carry_out<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        action: Action,
        site: &mut Site<'_, E>,
    ) -> Option<Input<'static>> {
        match action {
            Action::ProgramDatapath(standing) => {
                return self.program_datapath(who, machine, standing, site);
            }
            Action::SendAdvertisement { family, payload } => {
                let outcome = self.uplink.advertise(who, family, &payload, site);
                self.outdated |= outcome == SendOutcome::Sent;
                return Some(Input::SendCompleted { family, outcome });
            }
            Action::ClaimAddresses => return self.take_addresses(who, machine, site),
            Action::ReleaseAddresses => self.release(who, machine, site),
            Action::Announce(family) => announce(who, family, site),
            Action::Report(transition) => self.report(who, machine, transition, site),
            Action::Notify(notice) => {
                let event = Event::of_notice(who.place.clone(), notice);
                site.cx.effects.tell(event);
            }
        }
        None
    }

    /// A virtual host that the datapath refuses would hear nobody, and think them all dead: the core hears of that.
    fn program_datapath<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        standing: Standing,
        site: &mut Site<'_, E>,
    ) -> Option<Input<'static>> {
        let before = self.tenure.follow(who, standing, site);
        // What leaves MASTER is silent, at least until the addresses are released.
        if before.state != State::Master && standing.state != before.state {
            self.settle_fence(who, machine, site);
        }
        let wanted = match standing.state {
            State::Init => None,
            State::Backup | State::Master => Tenure::key_wanted(who, site),
        };
        if wanted == self.tenure.key() {
            self.tenure.renew(who, site);
            return None;
        }
        self.tenure.withdraw(who, site);
        if wanted.is_none() || self.program(who, machine, site) {
            return None;
        }
        self.uplink.set_datapath(DatapathState::Refuses);
        Some(Input::DatapathChanged(DatapathState::Refuses))
    }

    fn take_addresses<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) -> Option<Input<'static>> {
        self.was_master = true;
        self.script.run(who, machine.state(), Which::Up, site);
        // Told when the script ends.
        if who.config.ownership == Ownership::Scripts {
            return None;
        }
        let complete = self.holdings.take(who, site);
        // What is left of an earlier run now has another prefix length.
        self.predecessor.remove(who, true, &mut self.removals, site);
        if !complete {
            self.restore.incomplete(site.cx.now);
        }
        complete.then_some(Input::ClaimCompleted)
    }

    fn release<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        if who.config.ownership == Ownership::Native {
            self.holdings.release(who, &mut self.removals, site);
        }
        self.settle_fence(who, machine, site);
        let neutral_start = who.config.neutral && !self.was_master;
        // What runs at the end is decided by `shut_down`.
        if !neutral_start && !site.cx.stopping {
            self.script.run(who, machine.state(), Which::Down, site);
        }
    }

    /// It ends for good. Native addresses always go; the down script runs as in ucarp, when it was asked for (`-z`) and
    /// unless BACKUP, where it ran already. It was in state `before`, and the core has been shut down.
    pub fn end<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        before: State,
        site: &mut Site<'_, E>,
    ) {
        if who.config.ownership == Ownership::Native {
            self.holdings.release(who, &mut self.removals, site);
            self.predecessor
                .remove(who, false, &mut self.removals, site);
            self.settle_fence(who, machine, site);
        }
        let config = &who.config;
        if config.release_at_exit && before != State::Backup {
            self.script.run(who, machine.state(), Which::Down, site);
        } else if config.ownership == Ownership::Scripts
            && before == State::Master
            && !self.script.has_failed()
        {
            site.cx.tell(&who.place, Election::AddressStays);
        }
    }

    /// What changes with its state, besides.
    pub fn follow_state<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        let state = machine.state();
        let before = std::mem::replace(&mut self.followed, state);
        match (before, state) {
            (State::Init | State::Backup, State::Master) => {
                self.conflict.begin(who, site.cx.now);
                if who.config.ownership == Ownership::Native {
                    let lease = lease::of(site.cx.lease, &who.config);
                    self.holdings.term.begin(lease, true, site.cx.now);
                }
            }
            (State::Master, State::Init | State::Backup) => {
                site.interface.watched_changed |= self.conflict.end();
                self.holdings.term.end();
                self.restore.released();
                self.script.released();
            }
            (State::Init | State::Backup, State::Init | State::Backup)
            | (State::Master, State::Master) => {}
        }
    }
}

/// Announces the addresses of one family.
fn announce<E: Effects>(who: &Identity, family: Family, site: &mut Site<'_, E>) {
    let Some(ifindex) = site.interface.ifindex else {
        return;
    };
    for virtual_one in &who.config.addresses {
        let address = virtual_one.address;
        if address.is_ipv4() == (family == Family::Inet)
            && let Err(error) = site.cx.effects.announce(ifindex, address)
        {
            let error = error.to_string();
            let failed = Transmit::AnnouncementFailed { address, error };
            site.cx.tell(&who.place, failed);
        }
    }
}
