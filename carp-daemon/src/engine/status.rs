//! How everything is, for whoever asks; and what SIGUSR2 costs.

use std::time::{Duration, SystemTime};

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{Counts, VhostKey};
use carp_common::proto::outlook::{Lack, Outlook};
use carp_common::proto::{Command, Input};
use carp_common::units::State;

use super::Engine;
use super::context::{Context, Site};
use super::effects::{Effects, Refused};
use super::instance::Instance;
use super::interface::Interface;
use super::segment::Segment;
use crate::api::event::election::Election;
use crate::api::status::{
    DatapathCounters, Heard, InterfaceStatus, Lacking, Status, VirtualHostStatus,
};
use crate::config::Ownership;

/// How long USR2 keeps us away, as in ucarp.
const STEP_DOWN_HOLD: Duration = Duration::from_secs(3);

impl<E: Effects> Engine<E> {
    /// USR2: hands over, and stays away for a while.
    pub(super) fn step_down(&mut self) {
        self.served.each(&mut self.cx, Instance::step_down);
    }

    /// How every virtual host and interface is.
    pub fn status(&mut self) -> Status {
        let mut virtual_hosts = Vec::new();
        let Self { served, cx, .. } = self;
        served.each(cx, |instance, site| {
            virtual_hosts.push(instance.status(site.interface, site.cx));
        });
        let since_epoch = Duration::from_nanos(cx.effects.wall_clock_nanos());
        let interfaces = served.segments();
        let interfaces = interfaces.filter_map(|segment| segment.status(&mut cx.effects));
        Status {
            taken_at: SystemTime::UNIX_EPOCH + since_epoch,
            virtual_hosts,
            interfaces: interfaces.collect(),
        }
    }
}

impl Segment {
    fn status<E: Effects>(&self, effects: &mut E) -> Option<InterfaceStatus> {
        let ifindex = self.interface.ifindex?;
        Some(InterfaceStatus {
            name: self.interface.current_name.clone(),
            counters: named(effects.counts(ifindex)),
            others: named(effects.counts_of_others(ifindex)),
        })
    }
}

/// Returns the counters with their names.
fn named(counts: Result<Counts, Refused>) -> DatapathCounters {
    let counts = counts.map_err(|refused| refused.to_string())?;
    let names = Counter::ALL.map(|counter| counter.name()).into_iter();
    Ok(names.zip(counts).collect())
}

impl Instance {
    fn step_down<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        let hold = STEP_DOWN_HOLD;
        if self.machine().state() == State::Master {
            self.rooms.story.step_down(site.cx.now);
            if self.machine().last_heard().is_none() {
                let lasts = hold + self.machine().master_down_time();
                let alone = Election::SteppingDownAlone { lasts };
                site.cx.tell(&self.who.place, alone);
            }
        }
        self.feed(Input::Command(Command::StepDown { hold }), site);
    }

    fn status<E: Effects>(&self, interface: &Interface, cx: &mut Context<E>) -> VirtualHostStatus {
        let (machine, now) = (self.machine(), cx.now);
        let config = &self.who.config;
        let ifindex = interface.ifindex;
        let outlook = machine.outlook(now);
        let lease = cx.lease_of(config);
        let frames = ifindex.map(|ifindex| {
            let key = VhostKey::new(ifindex, 0, config.election.vhid);
            named(cx.effects.counts_of(key))
        });
        VirtualHostStatus {
            place: self.who.place.clone(),
            state: machine.state(),
            lasted: now.saturating_duration_since(self.rooms.story.since),
            cause: self
                .rooms
                .story
                .reason
                .map(|it| self.rooms.cause(it, interface)),
            heard: machine.last_heard().map(|heard| Heard {
                source: heard.source,
                ago: now.saturating_duration_since(heard.arrival),
            }),
            source: self.rooms.uplink.source().map(Into::into),
            advertises: machine.advertised(),
            demotions: *machine.demotions(),
            due_in: machine
                .next_deadline()
                .map(|at| at.saturating_duration_since(now)),
            lacks: self.lacks(outlook, interface),
            outlook,
            datapath: ifindex
                .and_then(|ifindex| cx.effects.rung(ifindex))
                .map(|rung| rung.to_string()),
            fence_survives_kill: ifindex.map(|ifindex| cx.effects.survival(ifindex)),
            lease: lease.filter(|_| config.ownership == Ownership::Native),
            counters: *machine.counters(),
            frames,
            addresses_restored: self.rooms.restore.count(),
            arp_conflicts: self.rooms.conflict.count(),
            stalls: self.stalls.count,
            worst_stall: self.stalls.worst,
        }
    }

    /// What a virtual host in INIT lacks, behind what the core was told.
    fn lacks(&self, outlook: Outlook, interface: &Interface) -> Option<Lacking> {
        let Outlook::Start { lacks } = outlook else {
            return None;
        };
        match lacks {
            _ if interface.ifindex.is_none() => Some(Lacking::Interface),
            Lack::Link | Lack::Datapath if interface.upper.is_some() => Some(Lacking::Independence),
            Lack::Datapath => Some(Lacking::Reception),
            Lack::Link => Some(Lacking::Link),
            Lack::Source if self.rooms.uplink.lacks_fixed_source() => Some(Lacking::FixedSource),
            Lack::Source => Some(Lacking::Source),
            Lack::Stopped => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use carp_common::time::Instant;

    use super::*;
    use crate::config::example::plain;
    use crate::engine::registry::Registry;

    fn in_init() -> (Instance, Interface) {
        let mut registry = Registry::default();
        let instance = Instance::new(registry.instance(), plain("eth0", 7), 1, Instant::ZERO);
        (instance, Interface::new("eth0".to_owned()))
    }

    #[test]
    fn what_is_lacking_is_what_is_behind_a_link_that_is_down() {
        let (instance, mut interface) = in_init();
        let lacks = |interface: &Interface, lacks| {
            let outlook = Outlook::Start { lacks };
            instance.lacks(outlook, interface)
        };
        assert_eq!(
            instance.machine().outlook(Instant::ZERO),
            Outlook::Start { lacks: Lack::Link }
        );
        assert_eq!(lacks(&interface, Lack::Link), Some(Lacking::Interface));
        interface.ifindex = Some(2);
        assert_eq!(lacks(&interface, Lack::Link), Some(Lacking::Link));
        let reception = lacks(&interface, Lack::Datapath);
        assert_eq!(reception, Some(Lacking::Reception));
        interface.upper = Some(3);
        for lack in [Lack::Link, Lack::Datapath] {
            assert_eq!(lacks(&interface, lack), Some(Lacking::Independence));
        }
        assert_eq!(lacks(&interface, Lack::Source), Some(Lacking::Source));
        assert_eq!(lacks(&interface, Lack::Stopped), None);
    }

    #[test]
    fn only_a_virtual_host_in_init_lacks_something() {
        let (instance, interface) = in_init();
        let outlook = Outlook::Yield {
            better_than: instance.machine().advertised(),
            heard: None,
        };
        assert_eq!(instance.lacks(outlook, &interface), None);
    }
}
