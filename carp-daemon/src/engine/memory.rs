//! The memory of virtual hosts, stored over a restart. It is read at the start, and written from time to time and at an
//! orderly stop.
//!
//! Only the core understands the bytes.

use std::time::Duration;

use carp_common::time::Instant;

use super::context::Context;
use super::effects::Effects;
use super::instance::Instance;
use super::instance::identity::Identity;
use super::registry::{InstanceId, Registry};
use super::served::Served;
use crate::api::Place;
use crate::api::event::process::{Memory, Refusal};
use crate::io::state_dir::FileName;

/// The least time between two writes of one virtual host's memory.
const KEEP_INTERVAL: Duration = Duration::from_secs(600);

/// The order in which virtual hosts write. They take turns, so that thousands never write at once.
#[derive(Debug)]
pub struct Turns {
    last: Option<InstanceId>,
    at: Instant,
}

impl Turns {
    /// No virtual host has written yet.
    pub fn new(count: usize, now: Instant) -> Self {
        Self {
            last: None,
            at: now + interval(count),
        }
    }

    /// Returns the virtual host whose turn it is, if it is time for one.
    fn take(&mut self, registry: &Registry, now: Instant) -> Option<InstanceId> {
        if now < self.at {
            return None;
        }
        self.at = now + interval(registry.all().len());
        self.last = registry.next(self.last);
        self.last
    }

    /// Begins to write the memory of the next virtual host, if it is time for one and there is something new.
    pub fn keep<E: Effects>(&mut self, served: &mut Served, cx: &mut Context<E>) {
        // Threads must not pile up while a disk stalls.
        if !cx.effects.can_keep() {
            return;
        }
        if let Some(id) = self.take(served.registry(), cx.now) {
            served.visit(id, cx, |instance, site| {
                if let Some(memory) = take(instance) {
                    site.cx.effects.keep(vec![memory]);
                }
            });
        }
    }
}

/// Gives each virtual host back its memory, and reports how many had one.
pub fn recall_all<E: Effects>(served: &mut Served, cx: &mut Context<E>) {
    let (mut recalled, mut refused) = (0, Vec::new());
    served.each(cx, |instance, site| {
        match recall(instance, &mut site.cx.effects) {
            Ok(true) => recalled += 1,
            Ok(false) => {}
            Err(refusal) => refused.push(refusal),
        }
    });
    let Some(directory) = cx.effects.keeps_in() else {
        return;
    };
    let ignored = refused.len();
    if let Some(first) = refused.into_iter().next() {
        let others = ignored - 1;
        cx.tell(&Place::Process, Memory::Ignored { first, others });
    }
    let total = served.registry().all().len();
    let recalled = Memory::Recalled {
        recalled,
        total,
        directory,
    };
    cx.tell(&Place::Process, recalled);
}

/// Gives a virtual host back its memory. Returns whether there was one.
///
/// # Errors
/// Returns why its file is ignored.
pub fn recall(instance: &mut Instance, effects: &mut impl Effects) -> Result<bool, Refusal> {
    let file = file(&instance.who);
    match effects.recall(&file) {
        Ok(None) => Ok(false),
        Ok(Some(bytes)) if instance.recall(&bytes) => Ok(true),
        Ok(Some(_)) => Err(Refusal::Damaged(effects.path_of(&file))),
        Err(error) => Err(Refusal::Unreadable(error.to_string())),
    }
}

/// Returns the memory of a virtual host with its file, if there is something new to store.
pub fn take(instance: &mut Instance) -> Option<(FileName, Vec<u8>)> {
    let memory = instance.take_memory()?;
    Some((file(&instance.who), memory))
}

/// Returns the name of the file with the memory of a virtual host.
fn file(who: &Identity) -> FileName {
    FileName::new(&who.config.interface, who.config.election.vhid)
}

fn interval(count: usize) -> Duration {
    KEEP_INTERVAL / u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_virtual_host_has_its_turn_once_in_the_interval_and_none_at_once() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut registry = Registry::default();
        let place = registry.segment();
        let [a, b, c] = [(); 3].map(|()| registry.instance());
        for id in [a, b, c] {
            registry.enter(id, place);
        }
        let mut turns = Turns::new(3, at(1000));
        let taken: Vec<_> = (1000..2200)
            .filter_map(|second| turns.take(&registry, at(second)).map(|turn| (second, turn)))
            .collect();
        assert_eq!(
            taken,
            [(1200, a), (1400, b), (1600, c), (1800, a), (2000, b)]
        );
        // However late: one at a time.
        assert_eq!(turns.take(&registry, at(9000)), Some(c));
        assert_eq!(turns.take(&registry, at(9000)), None);
    }

    #[test]
    fn thousands_of_virtual_hosts_write_a_few_times_a_second() {
        assert!(interval(4080) > Duration::from_millis(140));
        assert_eq!(interval(0), KEEP_INTERVAL);
    }
}
