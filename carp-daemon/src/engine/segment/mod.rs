//! One interface with the virtual hosts that live on it.
//!
//! | Room | What it is for |
//! |---|---|
//! | `attachment` | the events about its attachment |
//! | `follow` | the interface as it comes, changes and goes |
//! | [`hearing`] | checks whether advertisements can be received |
//! | [`claims`] | ARP and neighbour discovery of other hosts |
//! | [`placement`] | the position of virtual addresses among the host's own |
//! | [`strangers`] | leftovers of dead processes that no process serves now |

mod attachment;
pub mod claims;
mod follow;
pub mod hearing;
pub mod placement;
pub mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::context::{Context, Site};
use super::effects::Effects;
use super::error::{self, EngineError};
use super::instance::Instance;
use super::instance::identity::Identity;
use super::interface::Interface;
use super::mistakes;
use super::registry::InstanceId;
use crate::lock;

/// The fate of the fence around the addresses of a virtual host that is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceFate {
    /// It is lifted.
    Lifted,
    /// The virtual host that takes this one's place inherits it.
    Inherited,
}

/// One interface with its virtual hosts.
#[derive(Debug)]
pub struct Segment {
    /// The interface.
    pub interface: Interface,
    /// Its virtual hosts.
    pub instances: BTreeMap<InstanceId, Instance>,
}

impl Segment {
    /// Returns an interface without virtual hosts.
    pub fn new(name: String) -> Self {
        Self {
            interface: Interface::new(name),
            instances: BTreeMap::new(),
        }
    }

    /// Enters a virtual host.
    pub fn enter(&mut self, instance: Instance) {
        self.instances.insert(instance.who.id, instance);
        self.census(None);
    }

    /// Returns the identities of its virtual hosts.
    pub fn who(&self) -> impl Iterator<Item = &Identity> {
        self.instances.values().map(|instance| &instance.who)
    }

    /// Notes which addresses are virtual here, except those of `before`, whose place another one takes.
    fn census(&mut self, before: Option<InstanceId>) {
        let others = self.instances.iter();
        let others = others.filter(|(id, _)| Some(**id) != before);
        let configs = others.map(|(_, it)| &it.who.config);
        self.interface.serve(configs);
    }

    /// Returns the groups to join.
    pub fn groups(&self) -> BTreeSet<IpAddr> {
        self.who().flat_map(Identity::groups).collect()
    }

    /// Visits each virtual host.
    pub fn each<E: Effects>(
        &mut self,
        cx: &mut Context<E>,
        mut visit: impl FnMut(&mut Instance, &mut Site<'_, E>),
    ) {
        let interface = &mut self.interface;
        for instance in self.instances.values_mut() {
            visit(instance, &mut Site { interface, cx });
        }
    }

    /// Visits one virtual host.
    pub fn visit<E: Effects, T>(
        &mut self,
        id: InstanceId,
        cx: &mut Context<E>,
        visit: impl FnOnce(&mut Instance, &mut Site<'_, E>) -> T,
    ) -> Option<T> {
        let interface = &mut self.interface;
        let instance = self.instances.get_mut(&id)?;
        Some(visit(instance, &mut Site { interface, cx }))
    }

    /// Takes the locks of its virtual hosts, so that no other process serves them. `patient` means to wait for an owner that
    /// is stopping.
    ///
    /// # Errors
    /// Returns which process serves one of them, or its address. Then those that were taken just now are free again.
    pub fn lock<E: Effects>(
        &mut self,
        ifindex: u32,
        name: &str,
        patient: bool,
        cx: &mut Context<E>,
    ) -> Result<(), lock::LockError> {
        let mut taken = Vec::new();
        for (id, instance) in &mut self.instances {
            let held = instance.locked_on == Some(ifindex);
            match instance.lock(ifindex, name, patient, &mut cx.effects) {
                Ok(()) if held => {}
                Ok(()) => taken.push(*id),
                Err(error) => {
                    for id in taken {
                        self.visit(id, cx, |instance, site| {
                            instance.unlock(&mut site.cx.effects);
                        });
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives the locks back to a virtual host whose place another one cannot take.
    pub fn lock_again<E: Effects>(
        &mut self,
        before: InstanceId,
        heir: InstanceId,
        cx: &mut Context<E>,
    ) {
        let is_locked = |it: &Instance| it.locked_on.is_some();
        if self.instances.get(&heir).is_some_and(is_locked) {
            // Another process that was faster has an address of it now.
            let _ = pass_locks(self, heir, before, cx);
        }
    }

    /// Does the steps that may fail of beginning to serve one more of its virtual hosts, while others may be served
    /// already. If the
    /// interface is open, [`take_up`](Self::take_up) does the rest. `before` is the one whose place it takes.
    ///
    /// # Errors
    /// Returns what prevents that. Then it may hold the locks of `before`.
    pub fn admit<E: Effects>(
        &mut self,
        id: InstanceId,
        before: Option<InstanceId>,
        cx: &mut Context<E>,
    ) -> Result<(), EngineError> {
        let Some(ifindex) = self.interface.ifindex else {
            return match self.link(cx) {
                Some(link) => {
                    mistakes::refuse_the_impossible(self.who(), &self.interface, &link, cx)?;
                    self.begin(&link, cx)
                }
                None => self.find_at_start(cx),
            };
        };
        let link = cx.namespace.links().get(&ifindex).cloned();
        let Some(link) = link else {
            return Ok(());
        };
        self.census(before);
        let others = self.who().filter(|who| Some(who.id) != before);
        mistakes::refuse_the_impossible(others, &self.interface, &link, cx)?;
        // Both want the lock of the vhid, and may want those of the same addresses.
        if let Some(before) = before {
            pass_locks(self, before, id, cx)?;
        }
        let Some(instance) = self.instances.get_mut(&id) else {
            return Ok(());
        };
        instance.lock(ifindex, &link.name, false, &mut cx.effects)?;
        for group in instance.who.groups() {
            cx.effects
                .join(ifindex, group)
                .map_err(|source| error::refused("join the multicast group", &link.name, source))?;
        }
        let name = self.interface.current_name.clone();
        self.visit(id, cx, |instance, site| {
            instance.who.call(&name);
            instance.rooms.arrive(&instance.who, site)
        })
        .transpose()?;
        Ok(())
    }

    /// Begins to serve a virtual host that was admitted while the interface was open.
    pub fn take_up<E: Effects>(&mut self, cx: &mut Context<E>) {
        self.interface.unplaced = true;
        self.follow(cx);
    }

    /// Removes a virtual host, with everything that belongs to it alone.
    pub fn dismiss<E: Effects>(&mut self, id: InstanceId, fence: FenceFate, cx: &mut Context<E>) {
        self.visit(id, cx, |instance, site| {
            instance.rooms.tenure.withdraw(&instance.who, site);
            if fence == FenceFate::Lifted {
                instance.rooms.tenure.unfence(&instance.who, site);
            }
        });
        let groups = self.groups();
        let Some(mut gone) = self.instances.remove(&id) else {
            return;
        };
        self.census(None);
        let is_last = self.instances.is_empty();
        if let Some(ifindex) = self.interface.ifindex.filter(|_| is_last) {
            cx.effects.detach(ifindex);
        }
        // It may hold them although the interface could not be opened.
        gone.unlock(&mut cx.effects);
        let Some(ifindex) = self.interface.ifindex else {
            return;
        };
        if is_last {
            cx.close(ifindex);
            return;
        }
        self.interface.watched_changed = true;
        for group in groups.difference(&self.groups()) {
            cx.effects.leave(ifindex, *group);
        }
    }
}

/// Gives the locks of a virtual host to another one with its vhid. Those that both need are never free.
///
/// # Errors
/// Returns which process serves an address of the other one. Then nothing has changed.
fn pass_locks<E: Effects>(
    segment: &mut Segment,
    from: InstanceId,
    to: InstanceId,
    cx: &mut Context<E>,
) -> Result<(), lock::LockError> {
    let name = segment.interface.current_name.clone();
    if let (Some(ifindex), Some(to)) = (segment.interface.ifindex, segment.instances.get_mut(&to)) {
        to.lock(ifindex, &name, false, &mut cx.effects)?;
    }
    if let Some(from) = segment.instances.get_mut(&from) {
        from.locked_on = None;
    }
    Ok(())
}
