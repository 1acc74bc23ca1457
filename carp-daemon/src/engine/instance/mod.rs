//! One virtual host: the core's state machine, and a room for each task around it.
//!
//! | Room | What it is for |
//! |---|---|
//! | [`identity`] | its identity |
//! | [`holdings`] | the virtual addresses in native mode |
//! | [`lease`] | how long they outlive carpd |
//! | [`place`] | the routes to their subnets |
//! | [`restore`] | restores addresses that others remove |
//! | [`removals`] | addresses that the kernel refused to remove |
//! | [`tenure`] | its entry in the kernel: how long it lives, and how long this host answers |
//! | [`predecessor`] | addresses that an earlier run left |
//! | [`conflict`] | other hosts that have our addresses |
//! | [`script`] | its scripts, and the consequences of their ends |
//! | [`source`] | a fixed source address |
//! | [`stalls`] | how late the engine was |
//! | [`story`] | its state changes |
//! | [`uplink`] | its link and source, as the core was last told |
//! | [`rooms`] | all of them together |
//! | `act` | carries out the decisions of the core |
//!
//! A room decides about its own task only. It acts through [`Site`], and asks the core for changes with [`CoreRequests`].

mod act;
pub mod conflict;
pub mod holdings;
pub mod identity;
pub mod lease;
pub mod place;
pub mod predecessor;
pub mod removals;
pub mod restore;
pub mod rooms;
pub mod script;
pub mod source;
pub mod stalls;
pub mod story;
pub mod tenure;
pub mod uplink;

use carp_common::abi::event::AdvertisementEvent;
use carp_common::proto::demotion::lost_addresses_demotion;
use carp_common::proto::{Demotion, DemotionCause, Input, Origin, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::State;
use zeroize::Zeroize as _;

use super::context::Site;
use super::effects::Effects;
use super::registry::InstanceId;
use crate::config::VhostConfig;
use crate::io::scripts::{Completion, Which};
use crate::lock::LockError;
use identity::{CoreRequests, Identity};
use restore::Suspects;
use rooms::Rooms;
use story::Story;

/// One virtual host.
#[derive(Debug)]
pub struct Instance {
    /// Its identity.
    pub who: Identity,
    machine: VirtualHost,
    /// Its rooms.
    pub rooms: Rooms,
    /// The index of the interface on which it holds its locks.
    pub locked_on: Option<u32>,
    /// Whether it has ended for good.
    ended: bool,
}

impl Instance {
    /// Returns a virtual host in INIT, whose interface has not been looked for yet.
    pub fn new(id: InstanceId, mut config: VhostConfig, first_counter: u64, now: Instant) -> Self {
        let machine = VirtualHost::new(config.election.clone(), first_counter, now);
        // The machine keeps the state that it derived from the key.
        config.election.key.zeroize();
        let rooms = Rooms::new(config.addresses.len(), Story::new(now));
        let place = identity::place(&config.interface, &config);
        Self {
            who: Identity { id, config, place },
            machine,
            rooms,
            locked_on: None,
            ended: false,
        }
    }

    /// Returns its state machine.
    #[must_use]
    pub const fn machine(&self) -> &VirtualHost {
        &self.machine
    }

    /// Returns its parts, for tasks that do not change the election.
    pub const fn parts(&mut self) -> (&Identity, &VirtualHost, &mut Rooms) {
        (&self.who, &self.machine, &mut self.rooms)
    }

    /// Takes its locks on an interface, unless it holds them, so that no other process serves it. `patient` means to wait for
    /// an owner that is stopping.
    ///
    /// # Errors
    /// Returns which process serves it, or its address. Then it holds none; one whose place it takes holds its own.
    pub fn lock<E: Effects>(
        &mut self,
        ifindex: u32,
        name: &str,
        patient: bool,
        effects: &mut E,
    ) -> Result<(), LockError> {
        if self.locked_on == Some(ifindex) {
            return Ok(());
        }
        // An interface that could not be opened may have been replaced by one of the same name.
        self.unlock(effects);
        let wanted = self.who.locks(ifindex, name);
        effects.lock(&wanted, patient)?;
        self.locked_on = Some(ifindex);
        Ok(())
    }

    /// Releases its locks.
    pub fn unlock<E: Effects>(&mut self, effects: &mut E) {
        if let Some(ifindex) = self.locked_on.take() {
            effects.unlock_one(&self.who.locks(ifindex, &self.who.config.interface));
        }
    }

    /// Gives the core back its memory of an earlier run. Returns whether that could be read.
    pub fn recall(&mut self, memory: &[u8]) -> bool {
        self.machine.recall(memory)
    }

    /// Returns the memory to store for the next run. `None` if its file is up to date.
    pub fn take_memory(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.rooms.outdated).then(|| self.machine.memory())
    }

    /// Returns when it has something to do besides the election. An idle BACKUP has nothing and causes no wake-up.
    pub fn chore_at(&self) -> Option<Instant> {
        self.rooms
            .restore
            .deadline()
            .into_iter()
            .chain(self.rooms.script.deadline())
            .chain(self.rooms.conflict.deadline())
            .chain(self.rooms.removals.deadline())
            .min()
    }

    /// Takes an advertisement for it.
    pub fn receive<E: Effects>(&mut self, event: &AdvertisementEvent, site: &mut Site<'_, E>) {
        let Some(family) = event.carried_by() else {
            return;
        };
        let origin = Origin {
            source: event.source_address(),
            ethernet_source: event.ethernet_source,
            arrival: Instant::from_nanos(event.arrival_ns),
        };
        let (who, machine) = (&self.who, &self.machine);
        self.rooms.stalls.late(who, machine, origin.arrival, site);
        self.rooms.outdated = true;
        let input = Input::Advertisement {
            family,
            origin,
            payload: event.payload(),
        };
        self.feed(input, site);
        let (who, machine, rooms) = self.parts();
        rooms.settle_predecessor(who, machine, site);
    }

    /// Does everything else that is due.
    pub fn do_chores<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        let is_master = self.machine.state() == State::Master;
        let wishes =
            self.rooms
                .restore
                .timeout(&self.who, &mut self.rooms.holdings, is_master, site);
        self.grant(wishes, DemotionCause::LostAddresses, site);
        let is_master = self.machine.state() == State::Master;
        let (wishes, run) = self.rooms.script.timeout(&self.who, is_master, site);
        self.grant(wishes, DemotionCause::Script, site);
        if run {
            let state = self.machine.state();
            self.rooms.script.run(&self.who, state, Which::Up, site);
        }
        self.rooms.conflict.timeout(&self.who, site);
        self.rooms.remove_again(&self.who, &self.machine, site);
        site.cx.touched.push(self.who.id);
    }

    /// Lets a MASTER restore addresses that may be missing.
    pub fn keep_addresses<E: Effects>(&mut self, suspects: &Suspects, site: &mut Site<'_, E>) {
        if self.machine.state() == State::Master {
            let wishes =
                self.rooms
                    .restore
                    .look(&self.who, &mut self.rooms.holdings, suspects, site);
            self.grant(wishes, DemotionCause::LostAddresses, site);
            site.cx.touched.push(self.who.id);
        }
    }

    /// Follows the end of a script.
    pub fn script_ended<E: Effects>(&mut self, completion: Completion, site: &mut Site<'_, E>) {
        let state = self.machine.state();
        let wishes = self.rooms.script.ended(&self.who, state, completion, site);
        self.grant(wishes, DemotionCause::Script, site);
        let (who, machine, rooms) = self.parts();
        rooms.settle_fence(who, machine, site);
        site.cx.touched.push(self.who.id);
    }

    /// Passes the requests of a room to the core.
    fn grant<E: Effects>(
        &mut self,
        wishes: CoreRequests,
        cause: DemotionCause,
        site: &mut Site<'_, E>,
    ) {
        if let Some(demoted) = wishes.demoted {
            let amount = if demoted {
                lost_addresses_demotion(self.who.config.election.profile)
            } else {
                Demotion::NONE
            };
            self.feed(Input::DemotionChanged { cause, amount }, site);
        }
        if wishes.claimed {
            self.feed(Input::ClaimCompleted, site);
        }
    }
}
