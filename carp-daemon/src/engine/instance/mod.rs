//! One virtual host: the core's state machine, and a room for each thing that has to be done about it.
//!
//! | Room | What it is for |
//! |---|---|
//! | [`identity`] | who it is |
//! | [`holdings`] | the virtual addresses in native mode |
//! | [`lease`] | how long they outlive us |
//! | [`place`] | the routes to their subnets |
//! | [`restore`] | puts back what others remove |
//! | [`removals`] | what the kernel refused to remove |
//! | [`tenure`] | what the kernel program knows: that we live, and until when this host answers |
//! | [`predecessor`] | what an earlier run left |
//! | [`conflict`] | others that have our addresses |
//! | [`script`] | what follows from how scripts ended |
//! | [`source`] | a fixed source address |
//! | [`stalls`] | how late we were |
//! | [`story`] | its state changes: which are told, since when, and why |
//! | [`uplink`] | its link and source, as the core was last told |
//! | [`rooms`] | all of them together |
//! | `act` | has them carry out what the core decided |
//!
//! A room decides about its own thing only. It acts through [`Site`], and says in [`Wishes`] what the core is to hear of.

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
use identity::{Identity, Wishes};
use restore::Suspects;
use rooms::Rooms;
use story::Story;

/// One virtual host.
#[derive(Debug)]
pub struct Instance {
    /// Who it is.
    pub who: Identity,
    machine: VirtualHost,
    /// What is done about it.
    pub rooms: Rooms,
    /// It ended for good.
    ended: bool,
}

impl Instance {
    /// One that is in INIT, and whose interface was not looked for yet.
    pub fn new(id: InstanceId, mut config: VhostConfig, first_counter: u64, now: Instant) -> Self {
        let machine = VirtualHost::new(config.election.clone(), first_counter, now);
        // The machine keeps what it derived from it.
        config.election.key.zeroize();
        let rooms = Rooms::new(config.addresses.len(), Story::new(now));
        let place = identity::place(&config.interface, &config);
        Self {
            who: Identity { id, config, place },
            machine,
            rooms,
            ended: false,
        }
    }

    /// The election.
    #[must_use]
    pub const fn machine(&self) -> &VirtualHost {
        &self.machine
    }

    /// Returns its parts, for what concerns the rooms and not the election.
    pub const fn parts(&mut self) -> (&Identity, &VirtualHost, &mut Rooms) {
        (&self.who, &self.machine, &mut self.rooms)
    }

    /// What was heard before, from an earlier run. Returns whether it could be read.
    pub fn recall(&mut self, memory: &[u8]) -> bool {
        self.machine.recall(memory)
    }

    /// What is to be written for the next run; nothing when that is in its file already.
    pub fn take_memory(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.rooms.outdated).then(|| self.machine.memory())
    }

    /// When it has something to do besides the election. An idle BACKUP has nothing and is not woken.
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

    /// An advertisement for it arrived.
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

    /// Its timers are due. We last looked at what arrived at `looked_at`.
    pub fn timeout<E: Effects>(&mut self, looked_at: Instant, site: &mut Site<'_, E>) {
        let now = site.cx.now;
        site.cx.effects.fires(self.who.id, now, looked_at);
        self.machine.handle_timeout(now, looked_at);
        self.act(site);
        site.cx
            .effects
            .settles(self.who.id, site.cx.now, &self.machine);
    }

    /// Does what is due besides the election.
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

    /// Addresses may be missing: a MASTER puts them back.
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

    /// A script ended.
    pub fn script_ended<E: Effects>(&mut self, completion: Completion, site: &mut Site<'_, E>) {
        let state = self.machine.state();
        let wishes = self.rooms.script.ended(&self.who, state, completion, site);
        self.grant(wishes, DemotionCause::Script, site);
        let (who, machine, rooms) = self.parts();
        rooms.settle_fence(who, machine, site);
        site.cx.touched.push(self.who.id);
    }

    /// Tells the core what a room wishes.
    fn grant<E: Effects>(&mut self, wishes: Wishes, cause: DemotionCause, site: &mut Site<'_, E>) {
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
