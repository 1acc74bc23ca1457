//! The virtual hosts that are served, their interfaces, and their deadlines.

use std::collections::BTreeMap;

use carp_common::abi::layout::VhostKey;
use carp_common::time::Instant;
use carp_common::units::Profile;

use super::context::{Context, Site};
use super::deadlines::Deadlines;
use super::effects::Effects;
use super::error::EngineError;
use super::instance::Instance;
use super::namespace::Namespace;
use super::pace::AT_ONCE;
use super::registry::{InstanceId, Registry, SegmentId};
use super::renewals::Renewals;
use super::segment::{FenceFate, Segment, hearing, placement};
use crate::api::Place;
use crate::config::VhostConfig;

/// Every interface with its virtual hosts, and their deadlines.
#[derive(Debug, Default)]
pub struct Served {
    registry: Registry,
    segments: BTreeMap<SegmentId, Segment>,
    /// Deadlines of the elections.
    elections: Deadlines,
    /// Deadlines of everything else that a virtual host has to do.
    chores: Deadlines,
    renewals: Renewals,
}

impl Served {
    /// Returns an id for another virtual host.
    pub fn reserve(&mut self) -> InstanceId {
        self.registry.instance()
    }

    /// Returns the name by which the interface is served that `name` means now. An interface that was renamed keeps the name
    /// that it was configured with, so that one interface is never served twice.
    ///
    /// # Errors
    /// Returns an error if the name means an interface, and another one is served by that name.
    pub fn name_of(&self, name: &str, namespace: &Namespace) -> Result<String, EngineError> {
        let mut interfaces = self.segments.values().map(|segment| &segment.interface);
        let Some(link) = namespace.link_called(name) else {
            return Ok(name.to_owned());
        };
        let at = Some(link.index);
        if let Some(known) = interfaces.clone().find(|known| known.ifindex == at) {
            return Ok(known.name.clone());
        }
        match interfaces.find(|known| known.name == name && known.ifindex.is_some()) {
            Some(known) => Err(EngineError::Unworkable(format!(
                "{name} is not the interface that is served by this name, which is called {} now",
                known.current_name
            ))),
            None => Ok(name.to_owned()),
        }
    }

    /// Enters a virtual host. Its interface has not been looked for yet.
    pub fn enter<E: Effects>(&mut self, id: InstanceId, config: VhostConfig, cx: &mut Context<E>) {
        let name = &config.interface;
        let mut known = self.segments.iter();
        let known = known.find(|(_, segment)| segment.interface.name == *name);
        let place = match known {
            Some((place, _)) => *place,
            None => self.registry.segment(),
        };
        let segment = self
            .segments
            .entry(place)
            .or_insert_with(|| Segment::new(name.clone()));
        self.registry.enter(id, place);
        let first_counter = cx.effects.wall_clock_nanos();
        let instance = Instance::new(id, config, first_counter, cx.now);
        cx.effects
            .enlist(id, &instance.who.place, &instance.who.config);
        segment.enter(instance);
    }

    /// Removes a virtual host that has ended, and its interface if no other one is left there. `fence` is the fate of the
    /// fence around its addresses.
    pub fn leave<E: Effects>(&mut self, id: InstanceId, fence: FenceFate, cx: &mut Context<E>) {
        cx.effects.dismiss(id);
        if let Some(place) = self.registry.place(id)
            && let Some(segment) = self.segments.get_mut(&place)
        {
            segment.dismiss(id, fence, cx);
            if segment.instances.is_empty() {
                self.segments.remove(&place);
            }
        }
        self.elections.set(id, None);
        self.chores.set(id, None);
        self.renewals.set(id, None);
        self.registry.leave(id);
    }

    /// Returns the registry.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns every virtual host, in the order in which they were added.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.registry
            .all()
            .filter_map(|(id, place)| self.segments.get(&place)?.instances.get(&id))
    }

    /// Returns one virtual host.
    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        let place = self.registry.place(id)?;
        self.segments.get(&place)?.instances.get(&id)
    }

    /// Returns every interface.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> + Clone {
        self.segments.values()
    }

    /// Visits each interface.
    pub fn each_segment<E: Effects>(
        &mut self,
        cx: &mut Context<E>,
        mut visit: impl FnMut(&mut Segment, &mut Context<E>),
    ) {
        for segment in self.segments.values_mut() {
            visit(segment, cx);
        }
        self.reschedule(cx);
    }

    /// Visits each interface until a visit fails.
    ///
    /// # Errors
    /// Returns the first failure.
    pub fn try_each_segment<E: Effects, F>(
        &mut self,
        cx: &mut Context<E>,
        mut visit: impl FnMut(&mut Segment, &mut Context<E>) -> Result<(), F>,
    ) -> Result<(), F> {
        let done = self
            .segments
            .values_mut()
            .try_for_each(|segment| visit(segment, cx));
        self.reschedule(cx);
        done
    }

    /// Visits each virtual host.
    pub fn each<E: Effects>(
        &mut self,
        cx: &mut Context<E>,
        mut visit: impl FnMut(&mut Instance, &mut Site<'_, E>),
    ) {
        self.each_segment(cx, |segment, cx| segment.each(cx, &mut visit));
    }

    /// Visits the interface of one virtual host.
    pub fn visit_segment<E: Effects, T>(
        &mut self,
        id: InstanceId,
        cx: &mut Context<E>,
        visit: impl FnOnce(&mut Segment, &mut Context<E>) -> T,
    ) -> Option<T> {
        let segment = self.segments.get_mut(&self.registry.place(id)?)?;
        let done = visit(segment, cx);
        self.reschedule(cx);
        Some(done)
    }

    /// Visits one virtual host.
    pub fn visit<E: Effects, T>(
        &mut self,
        id: InstanceId,
        cx: &mut Context<E>,
        visit: impl FnOnce(&mut Instance, &mut Site<'_, E>) -> T,
    ) -> Option<T> {
        self.visit_segment(id, cx, |segment, cx| segment.visit(id, cx, visit))?
    }

    /// Returns the virtual host that an advertisement is for.
    pub fn owner(&self, key: &VhostKey) -> Option<InstanceId> {
        self.registry.owner(key)
    }

    /// Returns the earliest deadline of all.
    pub fn due(&self) -> Option<Instant> {
        self.elections
            .earliest()
            .into_iter()
            .chain(self.renewals.due())
            .chain(self.chores.earliest())
            .min()
    }

    /// Returns the earliest deadline of an election.
    pub fn election_due(&self) -> Option<Instant> {
        self.elections.earliest()
    }

    /// Fires the timers that are due, of [`AT_ONCE`] virtual hosts; the others follow in the next turn. The engine last looked
    /// at what arrived at `looked_at`.
    pub fn fire_timers<E: Effects>(&mut self, looked_at: Instant, cx: &mut Context<E>) {
        for _ in 0..AT_ONCE {
            let Some((id, due)) = self.elections.pop_due(cx.now) else {
                return;
            };
            self.visit_segment(id, cx, |segment, cx| {
                hearing::fire_timers(segment, id, due, looked_at, cx)
            });
        }
    }

    /// Does everything else that is due, for [`AT_ONCE`] virtual hosts. The others follow in the next turn.
    pub fn do_chores<E: Effects>(&mut self, cx: &mut Context<E>) {
        self.renewals.renew(&self.registry, &mut self.segments, cx);
        self.each_segment(cx, placement::place_addresses);
        for _ in 0..AT_ONCE {
            let Some((id, _)) = self.chores.pop_due(cx.now) else {
                return;
            };
            self.visit(id, cx, Instance::do_chores);
        }
    }

    /// Notes the next deadlines, and the keys in the datapath, of the virtual hosts that were touched.
    fn reschedule<E: Effects>(&mut self, cx: &mut Context<E>) {
        while let Some(id) = cx.touched.pop() {
            let place = self.registry.place(id);
            let segment = place.and_then(|place| self.segments.get(&place));
            let Some(instance) = segment.and_then(|segment| segment.instances.get(&id)) else {
                continue;
            };
            self.elections.set(id, instance.machine().next_deadline());
            self.chores.set(id, instance.chore_at());
            self.renewals
                .set(id, instance.rooms.holdings.term.renew_at());
            self.registry.rekey(id, instance.rooms.tenure.key());
        }
    }

    /// Returns the place of events that counters of all interfaces reveal: the interface if there is only one.
    pub fn only_place(&self) -> Place {
        let mut segments = self.segments.values();
        match (segments.next(), segments.next()) {
            (Some(only), None) => only.interface.place(),
            _ => Place::Process,
        }
    }

    /// Returns whether a virtual host has the virtual MAC address of the BSDs.
    pub fn has_bsd(&self) -> bool {
        self.instances()
            .any(|instance| instance.who.config.election.profile != Profile::Ucarp)
    }
}
