//! The rooms of a virtual host together, which carry out the decisions of the core and follow the interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

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
    /// The link and source, as the core was last told.
    pub uplink: Uplink,
    /// The virtual addresses in native mode.
    pub holdings: Holdings,
    /// Restores addresses that others remove.
    pub restore: Restore,
    /// Addresses that the kernel refused to remove.
    pub removals: Removals,
    /// Its entry in the kernel.
    pub tenure: Tenure,
    /// Addresses that an earlier run left.
    pub predecessor: Predecessor,
    /// Detects other hosts that have our addresses.
    pub conflict: Conflict,
    /// Watches the scripts.
    pub script: ScriptWatch,
    /// The lateness of the engine.
    pub stalls: Stalls,
    /// Its state changes.
    pub story: Story,
    /// Whether something was heard or sent that is not in its file.
    pub outdated: bool,
    /// The state that the rooms have followed.
    followed: State,
    /// Whether it has claimed its addresses at least once.
    was_master: bool,
    /// Whether its addresses stay after its end, and this host goes on answering for them.
    leaves_addresses: bool,
    /// Whether nobody looks after them any more.
    is_closed: bool,
}

impl Rooms {
    /// Returns the rooms of a virtual host in INIT with so many addresses.
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
            leaves_addresses: false,
            is_closed: false,
        }
    }

    /// Looks for addresses of an earlier run on an interface that appeared, before any address is claimed.
    ///
    /// # Errors
    /// Returns an error if the kernel program that must fence it cannot be loaded.
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

    /// Notes that the interface is gone, and everything that was configured on it.
    pub fn depart(&mut self) {
        self.holdings.lose_all();
        self.removals.forget();
        self.tenure.forget();
    }

    /// Returns whether it cannot receive anything from its peers.
    pub const fn is_deaf(&self, interface: &Interface) -> bool {
        self.tenure.is_deaf() || interface.hearing.lost
    }

    /// Returns whether addresses may still be there or come: of an earlier run, until the election is decided, ones that are
    /// still to be removed, or ones that a script may add.
    fn awaits_addresses(&self, who: &Identity) -> bool {
        let has_scripts = who.config.ownership == Ownership::Scripts;
        self.predecessor.has_leftovers()
            || self.removals.are_pending()
            || (has_scripts && self.script.may_add())
    }

    /// Returns whether something of a virtual host that has ended, and whose scripts have ended, is left in the datapath, or
    /// one of its addresses is left or may come.
    pub const fn leaves_something(&self) -> bool {
        self.tenure.is_fenced() || self.tenure.lingers() || self.removals.are_pending()
    }

    /// Returns whether the datapath refuses to remove something, which carpd tries again.
    pub const fn is_refused(&self) -> bool {
        self.tenure.is_unsettled() || self.tenure.lingers()
    }

    /// Lifts the fence of a virtual host that is not MASTER if none of its addresses is left, and closes it otherwise.
    pub fn settle_fence<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        self.removals.follow(site);
        if self.is_closed && self.leaves_addresses {
            self.tenure.unfence(who, site);
        } else if machine.state() != State::Master {
            let is_awaited = self.awaits_addresses(who);
            self.tenure.settle(who, is_awaited, site);
        }
    }

    /// Settles the fence after these addresses came or went. `None` means that any may have.
    pub fn follow_addresses<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        came_or_went: Option<&BTreeSet<IpAddr>>,
        site: &mut Site<'_, E>,
    ) {
        let mut addresses = who.config.addresses.iter();
        let changed = |ip: &IpAddr| came_or_went.is_none_or(|all| all.contains(ip));
        if self.tenure.is_fenced() || addresses.any(|it| changed(&it.address)) {
            self.settle_fence(who, machine, site);
        }
    }

    /// Tries again what the datapath refused: to settle the fence of a virtual host that is not MASTER, and to remove an entry.
    pub fn tell_datapath_again<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        if self.tenure.lingers() && self.tenure.key().is_none() {
            self.tenure.withdraw(who, site);
        }
        if self.tenure.is_unsettled() {
            self.settle_fence(who, machine, site);
        }
    }

    /// Removes the addresses of an earlier run once the election has decided.
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

    /// Tries again to remove the addresses that the kernel refused to remove, if it is time.
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

    /// Settles the fence at the end of the process, when the scripts have ended.
    ///
    /// The addresses of a MASTER whose down script does not run at the end stay, and this host answers for them, as with ucarp.
    /// Every other address that is left stays silent: one that the kernel refuses to remove, or that the down script failed
    /// to remove. Another host may be MASTER with it.
    pub fn close<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        self.is_closed = true;
        if who.config.ownership == Ownership::Native {
            self.removals.retry(who, false, site);
        }
        self.settle_fence(who, machine, site);
    }

    /// Begins to receive its advertisements. Returns whether that worked.
    pub fn program<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) -> bool {
        let Some(key) = Tenure::key_wanted(who, site) else {
            return false;
        };
        let families = who.families();
        let endpoints: Vec<Endpoints> = families
            .map(|family| self.uplink.endpoints(who, family, site.interface))
            .collect();
        site.cx.touched.push(who.id);
        self.tenure.program(who, machine, key, &endpoints, site)
    }

    /// Reports a change of state, unless there are too many.
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

    /// Carries out one action. Returns the result if the core needs it.
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

    /// Tells the datapath the state. If the datapath refuses, the core is told, because the virtual host would receive
    /// nothing and would consider all peers dead.
    fn program_datapath<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        standing: Standing,
        site: &mut Site<'_, E>,
    ) -> Option<Input<'static>> {
        let before = self.tenure.follow(who, standing, site);
        // A virtual host that leaves MASTER is silent at least until the addresses are released.
        if before.state != State::Master && standing.state != before.state {
            self.settle_fence(who, machine, site);
        }
        let wanted = match standing.state {
            State::Init => None,
            State::Backup | State::Master => Tenure::key_wanted(who, site),
        };
        // The entry of a MASTER that leaves says so as well, because the datapath may refuse to remove it.
        let is_wanted = wanted == self.tenure.key();
        let is_told = is_wanted || before.state == State::Master;
        if is_told && self.tenure.renew(who, site) && is_wanted {
            return None;
        }
        // An entry that could not be renewed would let this host answer for as long as the state before allowed. Removing it
        // takes no memory and silences this host at once, and a new one may use the memory that becomes free.
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
        // The core is told when the script ends.
        if who.config.ownership == Ownership::Scripts {
            return None;
        }
        let complete = self.holdings.take(who, site);
        // Addresses of an earlier run that are left have another prefix length.
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
            let keeps = self.predecessor.has_leftovers();
            self.holdings.release(who, keeps, &mut self.removals, site);
        }
        self.settle_fence(who, machine, site);
        let neutral_start = who.config.neutral && !self.was_master;
        // `shut_down` decides which script runs at the end.
        if !neutral_start && !site.cx.stopping {
            self.script.run(who, machine.state(), Which::Down, site);
        }
    }

    /// Ends it for good. Native addresses always go. The down script runs as in ucarp: only with `-z`, and not on a BACKUP,
    /// where it ran already. `before` is the state before the core was shut down.
    pub fn end<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        before: State,
        site: &mut Site<'_, E>,
    ) {
        if who.config.ownership == Ownership::Native {
            self.holdings.release(who, false, &mut self.removals, site);
            self.predecessor
                .remove(who, false, &mut self.removals, site);
            self.settle_fence(who, machine, site);
        }
        let config = &who.config;
        if config.release_at_exit && before != State::Backup {
            self.script.run(who, machine.state(), Which::Down, site);
        } else if config.ownership == Ownership::Scripts && before == State::Master {
            self.leaves_addresses = true;
            if !self.script.has_failed() {
                site.cx.tell(&who.place, Election::AddressStays);
            }
        }
    }

    /// Follows a change of state in the rooms.
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
