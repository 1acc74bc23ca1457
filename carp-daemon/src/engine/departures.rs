//! Virtual hosts that are removed, or added again, while others are served.
//!
//! A virtual host that is removed ends at once. But it is let go only when none of its scripts runs and none of its addresses
//! is left, because until then its fence keeps this host silent about them.
//!
//! If it is added again meanwhile, the new one begins when the scripts of the old one have ended. Its up script must not
//! overtake their last down script, so as MASTER it could not serve its addresses before. It inherits the fence around the
//! addresses that are left.

use std::collections::BTreeSet;

use super::context::Context;
use super::effects::Effects;
use super::error::EngineError;
use super::instance::identity;
use super::memory;
use super::registry::InstanceId;
use super::segment::{FenceFate, strangers};
use super::served::Served;
use crate::api::Place;
use crate::api::event::election::Election;
use crate::api::event::process::Memory;
use crate::config::VhostConfig;

/// Virtual hosts that have ended and are not let go yet, and those that take their places.
#[derive(Debug, Default)]
pub struct Departures {
    leaving: BTreeSet<InstanceId>,
    /// Virtual hosts that begin when no script of the one that they replace is left.
    heirs: Vec<(InstanceId, VhostConfig)>,
}

impl Departures {
    /// Serves one more virtual host, now or when the scripts of the one whose place it takes have ended.
    ///
    /// # Errors
    /// Returns the obstacle. Then everything else is as before.
    pub fn add<E: Effects>(
        &mut self,
        mut config: VhostConfig,
        served: &mut Served,
        cx: &mut Context<E>,
    ) -> Result<InstanceId, EngineError> {
        let name = served.name_of(&config.interface, &cx.namespace)?;
        let given = std::mem::replace(&mut config.interface, name);
        let before = twin(&config, served);
        let is_served = before.is_some_and(|id| !self.leaving.contains(&id));
        if is_served || self.heirs.iter().any(|(_, heir)| is_same(heir, &config)) {
            return Err(EngineError::Unworkable(format!(
                "vhid {} on {} is served already",
                config.election.vhid, given
            )));
        }
        let id = served.reserve();
        if before.is_some_and(|before| cx.effects.runs(before)) {
            self.heirs.push((id, config));
        } else {
            self.begin(id, config, before, served, cx)?;
        }
        Ok(id)
    }

    /// Begins to serve a virtual host, in the place of `before`.
    fn begin<E: Effects>(
        &mut self,
        id: InstanceId,
        config: VhostConfig,
        before: Option<InstanceId>,
        served: &mut Served,
        cx: &mut Context<E>,
    ) -> Result<(), EngineError> {
        served.enter(id, config, cx);
        let is_open = served.visit_segment(id, cx, |it, _| it.interface.ifindex.is_some());
        let is_open = is_open == Some(true);
        if let Some(before) = before.filter(|_| !is_open) {
            // Nothing of it is there, and its locks would be in the way when the interface is opened.
            self.succeed(id, before, served, cx);
        }
        let before = before.filter(|_| is_open);
        // This reads one file of a local directory, of at most 128 KiB, while the others wait.
        let recalled = served.visit(id, cx, |instance, site| {
            memory::recall(instance, &mut site.cx.effects)
        });
        if let Some(Err(first)) = recalled {
            cx.tell(&Place::Process, Memory::Ignored { first, others: 0 });
        }
        let admitted = served.visit_segment(id, cx, |segment, cx| segment.admit(id, before, cx));
        if let Some(Err(error)) = admitted {
            let Some(before) = before else {
                served.leave(id, FenceFate::Lifted, cx);
                return Err(error);
            };
            // The old one goes on removing what is left of it, behind its fence.
            served.visit_segment(before, cx, |segment, cx| {
                segment.lock_again(before, id, cx);
            });
            served.leave(id, FenceFate::Inherited, cx);
            return Err(error);
        }
        if let Some(before) = before {
            self.succeed(id, before, served, cx);
        }
        served.visit_segment(id, cx, |segment, cx| {
            if is_open {
                segment.take_up(cx);
            }
            // The interface may still have addresses of the virtual host that this one replaces.
            strangers::settle(segment, cx);
        });
        Ok(())
    }

    /// Lets a virtual host go whose place another one takes, which goes on removing its addresses.
    fn succeed<E: Effects>(
        &mut self,
        heir: InstanceId,
        before: InstanceId,
        served: &mut Served,
        cx: &mut Context<E>,
    ) {
        let removals = served.visit(before, cx, |instance, _| {
            std::mem::take(&mut instance.rooms.removals)
        });
        self.leaving.remove(&before);
        served.leave(before, FenceFate::Inherited, cx);
        served.visit(heir, cx, |instance, site| {
            if let Some(removals) = removals {
                instance.rooms.removals.inherit(removals);
            }
            site.cx.touched.push(heir);
        });
    }

    /// Ends a virtual host: it bows out, and its memory is stored. It is let go when nothing of it is left.
    pub fn remove<E: Effects>(&mut self, id: InstanceId, served: &mut Served, cx: &mut Context<E>) {
        self.heirs.retain(|(heir, _)| *heir != id);
        let ended = served.visit(id, cx, |instance, site| {
            instance.shut_down(site);
            if let Some(memory) = memory::take(instance) {
                site.cx.effects.keep(vec![memory]);
            }
        });
        if ended.is_some() {
            self.leaving.insert(id);
        }
        self.let_go(served, cx);
    }

    /// Lets virtual hosts go of which nothing is left, and begins to serve those that take their places.
    pub fn let_go<E: Effects>(&mut self, served: &mut Served, cx: &mut Context<E>) {
        for id in self.leaving.clone() {
            let Some(instance) = served.instance(id).filter(|_| !cx.effects.runs(id)) else {
                continue;
            };
            let config = &instance.who.config;
            let heir = self.heirs.iter().position(|(_, it)| is_same(it, config));
            if let Some(heir) = heir {
                let (heir, config) = self.heirs.remove(heir);
                let place = identity::place(&config.interface, &config);
                if let Err(error) = self.begin(heir, config, Some(id), served, cx) {
                    let error = error.to_string();
                    cx.tell(&place, Election::NotServed { error });
                }
            } else if !cx.effects.is_overdue() && !instance.rooms.leaves_something() {
                self.leaving.remove(&id);
                served.leave(id, FenceFate::Lifted, cx);
            }
        }
    }
}

fn is_same(one: &VhostConfig, other: &VhostConfig) -> bool {
    one.interface == other.interface && one.election.vhid == other.election.vhid
}

/// Returns the virtual host that has the vhid on the interface already.
fn twin(config: &VhostConfig, served: &Served) -> Option<InstanceId> {
    let mut served = served.instances();
    let twin = served.find(|instance| is_same(&instance.who.config, config))?;
    Some(twin.who.id)
}
