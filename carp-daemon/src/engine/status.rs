//! The status of everything that is served.

use std::time::{Duration, SystemTime};

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::{Counts, VhostKey};
use carp_common::proto::outlook::{Lack, Outlook};

use super::context::Context;
use super::effects::{Effects, Refused};
use super::instance::Instance;
use super::instance::lease;
use super::instance::uplink::Uplink;
use super::interface::Interface;
use super::served::Served;
use crate::api::status::{
    DatapathCounters, Heard, InterfaceStatus, Lacking, Status, VirtualHostStatus,
};
use crate::config::Ownership;
use crate::io::datapath::Survival;

/// Returns the status of every virtual host and interface.
pub fn of<E: Effects>(served: &mut Served, cx: &mut Context<E>) -> Status {
    let mut virtual_hosts = Vec::new();
    served.each(cx, |instance, site| {
        virtual_hosts.push(virtual_host(instance, site.interface, site.cx));
    });
    let since_epoch = Duration::from_nanos(cx.effects.wall_clock_nanos());
    let interfaces = served.segments();
    let interfaces = interfaces.filter_map(|it| interface(&it.interface, &mut cx.effects));
    Status {
        taken_at: SystemTime::UNIX_EPOCH + since_epoch,
        virtual_hosts,
        interfaces: interfaces.collect(),
    }
}

fn interface<E: Effects>(interface: &Interface, effects: &mut E) -> Option<InterfaceStatus> {
    let ifindex = interface.ifindex?;
    Some(InterfaceStatus {
        name: interface.current_name.clone(),
        counters: named(effects.counts(ifindex)),
        others: named(effects.counts_of_others(ifindex)),
    })
}

/// Returns the counters with their names.
fn named(counts: Result<Counts, Refused>) -> DatapathCounters {
    let counts = counts.map_err(|refused| refused.to_string())?;
    let names = Counter::ALL.map(|counter| counter.name()).into_iter();
    Ok(names.zip(counts).collect())
}

fn virtual_host<E: Effects>(
    instance: &Instance,
    interface: &Interface,
    cx: &mut Context<E>,
) -> VirtualHostStatus {
    let (machine, rooms, now) = (instance.machine(), &instance.rooms, cx.now);
    let config = &instance.who.config;
    let ifindex = interface.ifindex;
    let outlook = machine.outlook(now);
    let lease = lease::of(cx.lease, config);
    let frames = ifindex.map(|ifindex| {
        let key = VhostKey::new(ifindex, 0, config.election.vhid);
        named(cx.effects.counts_of(key))
    });
    VirtualHostStatus {
        place: instance.who.place.clone(),
        state: machine.state(),
        lasted: now.saturating_duration_since(rooms.story.since),
        cause: rooms
            .story
            .reason
            .map(|it| rooms.uplink.cause(it, interface)),
        heard: machine.last_heard().map(|heard| Heard {
            source: heard.source,
            ago: now.saturating_duration_since(heard.arrival),
        }),
        sources: rooms.uplink.sources(),
        advertises: machine.advertised(),
        demotions: *machine.demotions(),
        due_in: machine
            .next_deadline()
            .map(|at| at.saturating_duration_since(now)),
        lacks: lacks(outlook, &rooms.uplink, interface),
        outlook,
        datapath: ifindex
            .and_then(|ifindex| cx.effects.rung(ifindex))
            .map(|rung| rung.to_string()),
        fence_survives_kill: ifindex.map(|ifindex| match rooms.tenure.is_unsettled() {
            true => Survival::No,
            false => cx.effects.survival(ifindex),
        }),
        lease: lease.filter(|_| config.ownership == Ownership::Native),
        counters: *machine.counters(),
        frames,
        addresses_restored: rooms.restore.count(),
        arp_conflicts: rooms.conflict.count(),
        stalls: rooms.stalls.count,
        worst_stall: rooms.stalls.worst,
    }
}

/// Returns the precondition that a virtual host in INIT lacks: the cause behind the state that the core was told.
fn lacks(outlook: Outlook, uplink: &Uplink, interface: &Interface) -> Option<Lacking> {
    let Outlook::Start { lacks } = outlook else {
        return None;
    };
    match lacks {
        _ if interface.ifindex.is_none() => Some(Lacking::Interface),
        Lack::Link | Lack::Datapath if interface.upper.is_some() => Some(Lacking::Independence),
        Lack::Datapath => Some(Lacking::Reception),
        Lack::Link => Some(Lacking::Link),
        Lack::Source if uplink.lacks_fixed_source() => Some(Lacking::FixedSource),
        Lack::Source => Some(Lacking::Source),
        Lack::Stopped => None,
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
    fn a_link_that_is_down_does_not_hide_the_condition_behind_it() {
        let (instance, mut interface) = in_init();
        let lacks = |interface: &Interface, lacks| {
            let outlook = Outlook::Start { lacks };
            super::lacks(outlook, &instance.rooms.uplink, interface)
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
        assert_eq!(lacks(outlook, &instance.rooms.uplink, &interface), None);
    }
}
