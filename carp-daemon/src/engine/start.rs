//! The start of the engine, and its end.

use std::collections::BTreeSet;
use std::time::Duration;

use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;

use super::context::Context;
use super::departures::Departures;
use super::effects::Effects;
use super::error::{EngineError, FailedStart};
use super::instance::Instance;
use super::memory::Turns;
use super::namespace::Namespace;
use super::overheard::Overheard;
use super::reception::Reception;
use super::registry::InstanceId;
use super::segment::{Segment, placement, strangers};
use super::served::Served;
use super::{Engine, follow, memory, mistakes, names, orphans};
use crate::api::Place;
use crate::api::event::interface::Datapath;
use crate::api::event::process::Netlink;
use crate::config::{Config, Ownership, VhostConfig};
use crate::io::datapath::Fenced;
use crate::io::netlink::Address;
use crate::io::state_dir::FileName;

/// Time for which the end waits for the kernel's lock for links (rtnl), and tries again what the datapath refuses. A service
/// manager kills a process that takes much longer, and the fence stays closed around what is left either way.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

impl<E: Effects> Engine<E> {
    /// Finds everything that is configured on this host, and serves it from the first turn on.
    ///
    /// # Errors
    /// Returns the obstacle. Then nothing is left behind, and the caller must close the host.
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
                open: BTreeSet::new(),
                touched: Vec::new(),
                stall_limit: RateLimit::default(),
                netlink_limit: RateLimit::default(),
            },
            served: Served::default(),
            turns: Turns::new(config.vhosts.len(), now),
            overheard: Overheard::new(now),
            follower: follow::Follower::default(),
            departures: Departures::default(),
            reception: Reception::new(now),
            looked_at: now,
            finish_by: None,
        }
    }

    /// Does the steps of the start that can fail and would leave something behind.
    fn open(&mut self, mut vhosts: Vec<VhostConfig>) -> Result<(), EngineError> {
        let cx = &mut self.cx;
        cx.namespace
            .list(&mut cx.effects)
            .map_err(|source| EngineError::System {
                action: "list links and addresses",
                source,
            })?;
        names::take_present_names(&mut vhosts, cx);
        mistakes::refuse_twins(&vhosts)?;
        for config in vhosts {
            let id = self.served.reserve();
            self.served.enter(id, config, cx);
        }
        let Self { served, cx, .. } = self;
        memory::recall_all(served, cx);
        let is_native = |instance: &Instance| instance.who.config.ownership == Ownership::Native;
        if served.instances().any(is_native) {
            mistakes::refuse_without_the_right_to_assign(cx)?;
        }
        // All locks are taken before anything is touched.
        served.try_each_segment(cx, |segment, cx| {
            if let Some(link) = segment.link(cx) {
                mistakes::refuse_the_impossible(segment.who(), &segment.interface, &link, cx)?;
                segment.lock(link.index, &link.name, true, cx)?;
                mistakes::warn_of_the_unlikely(segment.who(), cx);
            }
            Ok::<_, EngineError>(())
        })?;
        strangers::settle_gone(cx);
        served.try_each_segment(cx, Segment::find_at_start)?;
        cx.effects.prepare_programs()?;
        cx.effects.start_cover(cx.namespace.links());
        // Loading and attaching took a while, so the time at which listening begins is now.
        cx.now = cx.effects.now();
        served.each_segment(cx, placement::place_addresses);
        served.each_segment(cx, Segment::follow);
        Ok(())
    }

    /// Serves one more virtual host, from now on or, if it takes the place of one that was removed, when the scripts of that
    /// one have ended.
    ///
    /// # Errors
    /// Returns the obstacle. Then everything else is as before.
    pub fn add(&mut self, mut config: VhostConfig) -> Result<InstanceId, EngineError> {
        self.cx.now = self.cx.effects.now();
        self.cx.listen();
        names::take_present_names(std::slice::from_mut(&mut config), &mut self.cx);
        let Self {
            departures,
            served,
            cx,
            ..
        } = self;
        departures.add(config, served, cx)
    }

    /// Ends a virtual host. It bows out, and is let go when its scripts have ended and nothing is left of it.
    pub fn remove(&mut self, id: InstanceId) {
        self.cx.now = self.cx.effects.now();
        self.departures.remove(id, &mut self.served, &mut self.cx);
    }

    /// Begins the orderly stop: every virtual host bows out and releases its addresses. Returns whether one was MASTER.
    /// Scripts may still run, and memories must be stored ([`take_memories`](Self::take_memories)).
    pub fn shut_down(&mut self) -> bool {
        self.cx.stopping = true;
        self.cx.now = self.cx.effects.now();
        let mut handed_over = false;
        self.served.each(&mut self.cx, |instance, site| {
            handed_over |= instance.shut_down(site);
        });
        handed_over
    }

    /// Returns the memories that must still be stored for the next run.
    pub fn take_memories(&mut self) -> Vec<(FileName, Vec<u8>)> {
        let mut memories = Vec::new();
        self.served.each(&mut self.cx, |instance, _| {
            memories.extend(memory::take(instance));
        });
        memories
    }

    /// Does what remains of the orderly stop when the scripts have ended. Returns whether the engine can be closed, because
    /// everything is done, or the kernel has refused something for too long. Otherwise the next turns try again.
    pub fn finish(&mut self) -> bool {
        let by = match self.finish_by {
            Some(by) => by,
            None => self.begin_to_finish(),
        };
        self.cx.effects.now() >= by || !self.refused().any(|_| true)
    }

    /// Returns the virtual hosts of which the datapath refuses to remove something.
    fn refused(&self) -> impl Iterator<Item = &Instance> {
        let all = self.served.instances();
        all.filter(|instance| instance.rooms.is_refused())
    }

    /// Settles every fence for the time after the process. Returns until when that is tried.
    fn begin_to_finish(&mut self) -> Instant {
        let by = self.cx.effects.now() + FINISH_LIMIT;
        self.finish_by = Some(by);
        // No address may lose its fence before it is gone.
        let has_finished = self.cx.effects.finish(FINISH_LIMIT);
        self.cx.now = self.cx.effects.now();
        self.cx.catch_up();
        self.cx.give_back_again();
        self.served.each(&mut self.cx, |instance, site| {
            let (who, machine, rooms) = instance.parts();
            rooms.close(who, machine, site);
        });
        if !has_finished {
            let left = self.served.instances();
            let left = left.flat_map(|instance| instance.rooms.removals.pending());
            let addresses = left.map(Address::cidr).collect();
            let waited = FINISH_LIMIT;
            let unfinished = Netlink::Unfinished { waited, addresses };
            self.cx.tell(&Place::Process, unfinished);
        }
        by
    }

    /// Ends the engine, after [`shut_down`](Self::shut_down), the scripts and [`finish`](Self::finish). Returns the addresses
    /// that must stay fenced, because no process looks after them.
    ///
    /// What the datapath still refuses to remove stays in its tables. Nobody is MASTER there, so this host is silent about
    /// such an address for as long as a carpd keeps the tables, and the next start on the interface removes it.
    pub fn close(mut self) -> (E, Vec<Fenced>) {
        if self.cx.stopping && self.finish_by.is_none() {
            self.begin_to_finish();
        }
        // A last attempt.
        self.served.each(&mut self.cx, |instance, site| {
            let (who, machine, rooms) = instance.parts();
            rooms.tell_datapath_again(who, machine, site);
        });
        let refused = self.refused().map(|it| it.who.place.clone());
        for place in refused.collect::<Vec<_>>() {
            self.cx.tell(&place, Datapath::Left);
        }
        let orphans = orphans::settle(&self.served, &mut self.cx);
        (self.cx.effects, orphans)
    }
}
