//! The start, virtual hosts that come and go while others are served, and the end.

use std::collections::BTreeMap;

use carp_common::proto::rate_limit::RateLimit;

use super::context::Context;
use super::deadlines::Deadlines;
use super::effects::Effects;
use super::instance::Instance;
use super::memory::Turns;
use super::namespace::Namespace;
use super::overheard::Overheard;
use super::registry::{InstanceId, Registry, SegmentId};
use super::renewals::Renewals;
use super::segment::{Segment, strangers};
use super::{Engine, Error, follow, interface, mistakes};
use crate::api::Place;
use crate::api::event::process::{Memory, Refusal};
use crate::config::{Config, Ownership, VhostConfig};
use crate::io::datapath::{Batch, Fenced};
use crate::io::state_dir::FileName;

/// A start that failed.
#[derive(Debug)]
pub struct FailedStart<E> {
    /// The host.
    pub effects: E,
    /// The addresses that are to stay fenced, because nobody sees to them.
    pub orphans: Vec<Fenced>,
    /// Why.
    pub error: Error,
}

impl<E: Effects> Engine<E> {
    /// Finds everything that is configured on this host, and serves it from the first turn on.
    ///
    /// # Errors
    /// What stands in the way. Then nothing is left behind, and the host is to be closed.
    pub fn start(mut config: Config, effects: E) -> Result<Self, Box<FailedStart<E>>> {
        let mut engine = Self::new(&config, effects);
        match engine.open(std::mem::take(&mut config.vhosts)) {
            Ok(()) => Ok(engine),
            Err(error) => {
                let (effects, orphans) = engine.close();
                Err(Box::new(FailedStart {
                    effects,
                    orphans,
                    error,
                }))
            }
        }
    }

    fn new(config: &Config, mut effects: E) -> Self {
        let now = effects.now();
        Self {
            cx: Context {
                effects,
                now,
                namespace: Namespace::default(),
                lease: config.lease,
                wait_interface: config.wait_interface,
                stopping: false,
                busy: false,
                retry_at: None,
                touched: Vec::new(),
                stall_limit: RateLimit::default(),
                netlink_limit: RateLimit::default(),
            },
            registry: Registry::default(),
            segments: BTreeMap::new(),
            elections: Deadlines::default(),
            chores: Deadlines::default(),
            renewals: Renewals::default(),
            turns: Turns::new(config.vhosts.len(), now),
            overheard: Overheard::new(now),
            follower: follow::Follower::default(),
            batch: Batch::new(),
            looked_at: now,
            loss_check_at: now,
        }
    }

    /// What can fail at the start and would leave something behind.
    fn open(&mut self, mut vhosts: Vec<VhostConfig>) -> Result<(), Error> {
        let cx = &mut self.cx;
        cx.namespace
            .list(&mut cx.effects)
            .map_err(|source| Error::System {
                action: "list links and addresses",
                source,
            })?;
        interface::take_present_names(&mut vhosts, cx);
        mistakes::refuse_twins(&vhosts)?;
        for config in vhosts {
            self.enter(config);
        }
        self.recall_memories();
        let cx = &mut self.cx;
        let mut all = self.segments.values().flat_map(|it| it.instances.values());
        if all.any(|instance| instance.who.config.ownership == Ownership::Native) {
            mistakes::refuse_without_the_right_to_assign(cx)?;
        }
        // All of them before anything is touched.
        for segment in self.segments.values_mut() {
            if let Some(link) = segment.link(cx) {
                mistakes::refuse_the_impossible(segment, &link, cx)?;
                segment.lock(link.index, &link.name, true, cx)?;
                mistakes::warn_of_the_unlikely(segment, cx);
            }
        }
        strangers::settle_gone(cx);
        for segment in self.segments.values_mut() {
            segment.find_at_start(cx)?;
        }
        cx.effects.prepare_programs()?;
        cx.effects.start_cover(cx.namespace.links());
        // Loading and attaching took a while; listening begins now.
        cx.now = cx.effects.now();
        for segment in self.segments.values_mut() {
            segment.place_addresses(cx);
        }
        for segment in self.segments.values_mut() {
            segment.follow(cx);
        }
        self.reschedule();
        Ok(())
    }

    /// Gives a virtual host its place; its interface was not looked for yet.
    fn enter(&mut self, config: VhostConfig) -> (SegmentId, InstanceId) {
        let name = &config.interface;
        let known = self.segments.iter();
        let known = known
            .filter(|(_, segment)| segment.interface.name == *name)
            .map(|(place, _)| *place)
            .next();
        let place = known.unwrap_or_else(|| self.registry.segment());
        let segment = self
            .segments
            .entry(place)
            .or_insert_with(|| Segment::new(name.clone()));
        let id = self.registry.enter(place);
        let first_counter = self.cx.effects.wall_clock_nanos();
        let instance = Instance::new(id, config, first_counter, self.cx.now);
        self.cx
            .effects
            .enlist(id, &instance.who.place, &instance.who.config);
        segment.enter(instance);
        (place, id)
    }

    /// Serves one more virtual host from now on.
    ///
    /// # Errors
    /// What stands in the way; everything else is as before.
    pub fn add(&mut self, mut config: VhostConfig) -> Result<InstanceId, Error> {
        self.cx.now = self.cx.effects.now();
        self.cx.listen();
        interface::take_present_names(std::slice::from_mut(&mut config), &mut self.cx);
        let (interface, vhid) = (&config.interface, config.election.vhid);
        let is_twin = |instance: &Instance| {
            let served = &instance.who.config;
            served.interface == *interface && served.election.vhid == vhid
        };
        if self.instances().any(is_twin) {
            return Err(Error::Unworkable(format!(
                "vhid {vhid} on {interface} is served already"
            )));
        }
        let (place, id) = self.enter(config);
        let cx = &mut self.cx;
        let added = self
            .segments
            .get_mut(&place)
            .map_or(Ok(()), |segment| segment.admit(id, cx));
        self.reschedule();
        match added {
            Ok(()) => Ok(id),
            Err(error) => {
                self.drop_instance(id);
                Err(error)
            }
        }
    }

    /// Serves a virtual host no longer: it bows out, and nothing of it is left.
    pub fn remove(&mut self, id: InstanceId) {
        self.cx.now = self.cx.effects.now();
        self.visit(id, Instance::shut_down);
        self.drop_instance(id);
    }

    fn drop_instance(&mut self, id: InstanceId) {
        self.cx.effects.dismiss(id);
        if let Some(place) = self.registry.place(id)
            && let Some(segment) = self.segments.get_mut(&place)
        {
            segment.dismiss(id, &mut self.cx);
            if segment.instances.is_empty() {
                self.segments.remove(&place);
            }
        }
        for queue in [&mut self.elections, &mut self.chores] {
            queue.set(id, None);
        }
        self.renewals.set(id, None);
        self.registry.leave(id);
    }

    /// Gives each virtual host back what it heard before, and logs how many had something.
    fn recall_memories(&mut self) {
        let (mut recalled, mut refused) = (0, Vec::new());
        self.each(
            |instance, site| match site.cx.effects.recall(&instance.file()) {
                Ok(None) => {}
                Ok(Some(bytes)) if instance.recall(&bytes) => recalled += 1,
                Ok(Some(_)) => {
                    refused.push(Refusal::Damaged(site.cx.effects.path_of(&instance.file())))
                }
                Err(error) => refused.push(Refusal::Unreadable(error.to_string())),
            },
        );
        let Some(directory) = self.cx.effects.keeps_in() else {
            return;
        };
        let ignored = refused.len();
        if let Some(first) = refused.into_iter().next() {
            let others = ignored - 1;
            self.cx
                .tell(&Place::Process, Memory::Ignored { first, others });
        }
        let total = self.registry.all().len();
        let recalled = Memory::Recalled {
            recalled,
            total,
            directory,
        };
        self.cx.tell(&Place::Process, recalled);
    }

    /// The orderly stop: every virtual host bows out and releases its addresses. Returns whether one was MASTER. Scripts may
    /// still run, and memories are to be kept ([`take_memories`](Self::take_memories)).
    pub fn shut_down(&mut self) -> bool {
        self.cx.stopping = true;
        self.cx.now = self.cx.effects.now();
        let mut handed_over = false;
        self.each(|instance, site| handed_over |= instance.shut_down(site));
        handed_over
    }

    /// What is to be kept for the next run, and is not yet.
    pub fn take_memories(&mut self) -> Vec<(FileName, Vec<u8>)> {
        let mut memories = Vec::new();
        self.each(|instance, _| {
            memories.extend(instance.take_memory().map(|bytes| (instance.file(), bytes)));
        });
        memories
    }

    /// The end, after [`shut_down`](Self::shut_down) and the scripts. Returns the addresses that are to stay fenced, because
    /// nobody sees to them.
    pub fn close(mut self) -> (E, Vec<Fenced>) {
        if self.cx.stopping {
            // No address is to lose its fence before it is gone.
            self.cx.effects.finish();
            self.cx.listen();
            self.each(|instance, site| instance.tenure.unfence(&instance.who, site));
        }
        let orphans = strangers::orphans(&self.segments, &mut self.cx);
        (self.cx.effects, orphans)
    }
}

impl Instance {
    /// The file that its memory is in.
    pub(super) fn file(&self) -> FileName {
        let config = &self.who.config;
        FileName::new(&config.interface, config.election.vhid)
    }
}
