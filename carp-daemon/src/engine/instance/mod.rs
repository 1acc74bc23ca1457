//! One virtual host: the core's state machine, and a room for each thing that has to be done about it.
//!
//! | Room | What it is for |
//! |---|---|
//! | [`claim`] | the virtual addresses in native mode |
//! | [`lease`] | how long they outlive us |
//! | [`place`] | the routes to their subnets |
//! | [`restore`] | puts back what others remove |
//! | [`tenure`] | what the kernel program knows: that we live, and until when this host answers |
//! | [`predecessor`] | what an earlier run left |
//! | [`conflict`] | others that have our addresses |
//! | [`script`] | what follows from how scripts ended |
//! | [`source`] | a fixed source address |
//! | [`stalls`] | how late we were |
//! | [`story`] | its state changes: which are told, since when, and why |
//! | [`link`] | what happens to its interface |
//! | `act` | carries out what the core decided |
//!
//! A room decides about its own thing only. It acts through [`Site`], and says in [`Wishes`] what the core is to hear of.

mod act;
pub mod claim;
pub mod conflict;
pub mod lease;
pub mod link;
pub mod place;
pub mod predecessor;
pub mod restore;
pub mod script;
pub mod source;
pub mod stalls;
pub mod story;
pub mod tenure;

use std::net::{IpAddr, Ipv4Addr};

use carp_common::abi::event::AdvertisementEvent;
use carp_common::proto::demotion::lost_addresses_demotion;
use carp_common::proto::{Demotion, DemotionCause, Input, LinkState, Origin, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::State;
use zeroize::Zeroize as _;

use super::context::Site;
use super::effects::Effects;
use super::interface::Interface;
use super::registry::InstanceId;
use crate::api::Place;
use crate::config::{ADDRESS_PROTOCOL, VhostConfig};
use crate::io::arp_watch::ArpClaim;
use crate::io::netlink::{Address, AddressFlags};
use crate::io::scripts::{Completion, Which};
use claim::Claim;
use conflict::Conflict;
use predecessor::Predecessor;
use restore::{Restore, Suspects};
use script::ScriptWatch;
use source::FixedSource;
use stalls::Stalls;
use story::Story;
use tenure::Tenure;

/// Who it is.
#[derive(Debug)]
pub struct Identity {
    /// Stays the same for as long as it is served.
    pub id: InstanceId,
    /// What was asked for. The password is not in it any more.
    pub config: VhostConfig,
    /// Where its events happen.
    pub place: Place,
}

impl Identity {
    /// The interface is called so now.
    fn call(&mut self, interface: &str) {
        self.place = place(interface, &self.config);
    }

    /// Its IPv4 addresses.
    pub fn inet_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let addresses = self.config.addresses.iter();
        addresses.filter_map(|virtual_one| match virtual_one.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// What native mode assigns; nothing while the interface is absent.
    pub fn native_addresses(&self, interface: &Interface) -> Vec<Address> {
        let Some(ifindex) = interface.ifindex else {
            return Vec::new();
        };
        let assign = |virtual_one: &crate::config::VirtualAddress| {
            let ip = virtual_one.address;
            let address = Address::new(ifindex, ip, host_prefix(ip), ADDRESS_PROTOCOL);
            match ip {
                IpAddr::V4(_) => address,
                // The election has settled who owns it; duplicate address detection would only delay its use.
                IpAddr::V6(_) => address.with_flags(AddressFlags::Nodad),
            }
        };
        self.config.addresses.iter().map(assign).collect()
    }
}

fn place(interface: &str, config: &VhostConfig) -> Place {
    Place::VirtualHost {
        interface: interface.to_owned(),
        vhid: config.election.vhid,
    }
}

/// The prefix length of one address alone.
const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// What the core is to hear of, from a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Wishes {
    /// The host cannot serve its addresses, or can again: it advertises a worse priority, or the configured one.
    pub demoted: Option<bool>,
    /// The addresses are there now.
    pub claimed: bool,
}

/// One virtual host.
#[derive(Debug)]
pub struct Instance {
    /// Who it is.
    pub who: Identity,
    machine: VirtualHost,
    /// What the core was last told.
    link: LinkState,
    /// What the core was last told.
    source: Option<Ipv4Addr>,
    /// The virtual addresses in native mode.
    pub claim: Claim,
    /// Against removal by others.
    pub restore: Restore,
    /// Its entry in the kernel.
    pub tenure: Tenure,
    /// What an earlier run left.
    pub predecessor: Predecessor,
    /// Against others that have our addresses.
    pub conflict: Conflict,
    /// Against an up script that fails.
    script: ScriptWatch,
    fixed_source: FixedSource,
    /// How late we were.
    pub stalls: Stalls,
    /// Its state changes.
    pub story: Story,
    /// The state that the rooms have followed.
    followed: State,
    /// It claimed its addresses at least once.
    was_master: bool,
    /// Something was heard or sent that is not in its file.
    outdated: bool,
}

impl Instance {
    /// One that is in INIT, and whose interface was not looked for yet.
    pub fn new(id: InstanceId, mut config: VhostConfig, first_counter: u64, now: Instant) -> Self {
        let machine = VirtualHost::new(config.election.clone(), first_counter, now);
        // The machine keeps what it derived from it.
        config.election.key.zeroize();
        let addresses = config.addresses.len();
        let place = place(&config.interface, &config);
        Self {
            who: Identity { id, config, place },
            machine,
            link: LinkState::Down,
            source: None,
            claim: Claim::new(addresses),
            restore: Restore::new(addresses),
            tenure: Tenure::default(),
            predecessor: Predecessor::default(),
            conflict: Conflict::default(),
            script: ScriptWatch::default(),
            fixed_source: FixedSource::default(),
            stalls: Stalls::default(),
            story: Story::new(now),
            followed: State::Init,
            was_master: false,
            outdated: false,
        }
    }

    /// The election.
    #[must_use]
    pub const fn machine(&self) -> &VirtualHost {
        &self.machine
    }

    /// What was heard before, from an earlier run. Returns whether it could be read.
    pub fn recall(&mut self, memory: &[u8]) -> bool {
        self.machine.recall(memory)
    }

    /// What is to be written for the next run; nothing when that is in its file already.
    pub fn take_memory(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.outdated).then(|| self.machine.memory())
    }

    /// When its timers are to be judged.
    pub fn deadline(&self) -> Option<Instant> {
        self.machine.next_deadline()
    }

    /// When it has something to do besides the election. An idle BACKUP has nothing and is not woken.
    pub fn chore_at(&self) -> Option<Instant> {
        self.restore
            .deadline()
            .into_iter()
            .chain(self.script.deadline())
            .chain(self.conflict.deadline())
            .min()
    }

    /// One input, and everything that follows from it.
    pub fn feed<E: Effects>(&mut self, input: Input<'_>, site: &mut Site<'_, E>) {
        site.cx.effects.tells(self.who.id, site.cx.now, &input);
        self.machine.handle_input(site.cx.now, input);
        self.act(site);
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
        self.note_lateness(origin.arrival, site);
        self.outdated = true;
        let input = Input::Advertisement {
            family,
            origin,
            payload: event.payload(),
        };
        self.feed(input, site);
        self.settle_predecessor(site);
    }

    /// What it waits for since `due` is looked at only now.
    pub fn note_lateness<E: Effects>(&mut self, due: Instant, site: &mut Site<'_, E>) {
        let interval = self.machine.advertised().interval();
        self.stalls.late(&self.who, due, interval, site.cx);
    }

    /// Its timers are due. We last looked at what arrived at `looked_at`.
    pub fn timeout<E: Effects>(&mut self, looked_at: Instant, site: &mut Site<'_, E>) {
        self.machine.handle_timeout(site.cx.now, looked_at);
        self.act(site);
        site.cx
            .effects
            .settles(self.who.id, site.cx.now, &self.machine);
    }

    /// Does what is due besides the election.
    pub fn do_chores<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        let is_master = self.machine.state() == State::Master;
        let wishes = self
            .restore
            .timeout(&self.who, &mut self.claim, is_master, site);
        self.grant(wishes, DemotionCause::LostAddresses, site);
        let is_master = self.machine.state() == State::Master;
        let (wishes, run) = self.script.timeout(&self.who, is_master, site);
        self.grant(wishes, DemotionCause::Script, site);
        if run {
            script::run(&self.who, self.machine.state(), Which::Up, site);
        }
        self.conflict.timeout(&self.who, site);
        site.cx.touched.push(self.who.id);
    }

    /// Addresses may be missing: a MASTER puts them back.
    pub fn keep_addresses<E: Effects>(&mut self, suspects: &Suspects, site: &mut Site<'_, E>) {
        if self.machine.state() == State::Master {
            let wishes = self
                .restore
                .look(&self.who, &mut self.claim, suspects, site);
            self.grant(wishes, DemotionCause::LostAddresses, site);
            site.cx.touched.push(self.who.id);
        }
    }

    /// Others claim addresses in ARP. Returns whether one of its own is among them.
    pub fn hear_claims<E: Effects>(&mut self, claims: &[ArpClaim], site: &mut Site<'_, E>) -> bool {
        self.conflict.hear(&self.who, &self.machine, claims, site)
    }

    /// A script ended.
    pub fn script_ended<E: Effects>(&mut self, completion: Completion, site: &mut Site<'_, E>) {
        let state = self.machine.state();
        let wishes = self.script.ended(&self.who, state, completion, site);
        self.grant(wishes, DemotionCause::Script, site);
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

    /// Sees to the routes and places of its addresses.
    pub fn place<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        for index in 0..self.who.config.addresses.len() {
            self.claim.place(&self.who, index, site);
        }
    }
}
