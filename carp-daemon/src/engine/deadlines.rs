//! The deadlines of virtual hosts.

use std::collections::{BTreeSet, HashMap};

use carp_common::time::Instant;

use super::registry::InstanceId;

/// Deadlines in order, one per virtual host.
///
/// Replacing a deadline takes logarithmic time. So thousands of virtual hosts whose timers restart with every advertisement
/// need no scan.
#[derive(Debug, Default)]
pub struct Deadlines {
    queue: BTreeSet<(Instant, InstanceId)>,
    current: HashMap<InstanceId, Instant>,
}

impl Deadlines {
    /// Replaces the deadline of a virtual host. `None` removes it.
    pub fn set(&mut self, id: InstanceId, deadline: Option<Instant>) {
        let old = match deadline {
            Some(new) => self.current.insert(id, new),
            None => self.current.remove(&id),
        };
        if old == deadline {
            return;
        }
        if let Some(old) = old {
            self.queue.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.queue.insert((new, id));
        }
    }

    /// Returns the earliest deadline of all.
    #[must_use]
    pub fn earliest(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// Removes and returns the virtual host that has been due longest at `now`, with its deadline.
    pub fn pop_due(&mut self, now: Instant) -> Option<(InstanceId, Instant)> {
        let (deadline, id) = *self.queue.first()?;
        if deadline > now {
            return None;
        }
        self.set(id, None);
        Some((id, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn ids<const N: usize>() -> [InstanceId; N] {
        let mut registry = Registry::default();
        [(); N].map(|()| registry.instance())
    }

    #[test]
    fn the_longest_due_comes_first_and_only_when_due() {
        let [a, b, c] = ids();
        let mut deadlines = Deadlines::default();
        deadlines.set(a, Some(at(30)));
        deadlines.set(c, Some(at(10)));
        deadlines.set(b, Some(at(20)));
        assert_eq!(deadlines.earliest(), Some(at(10)));
        assert_eq!(deadlines.pop_due(at(9)), None);
        assert_eq!(deadlines.pop_due(at(20)), Some((c, at(10))));
        assert_eq!(deadlines.pop_due(at(20)), Some((b, at(20))));
        assert_eq!(deadlines.pop_due(at(20)), None);
        assert_eq!(deadlines.earliest(), Some(at(30)));
    }

    #[test]
    fn setting_replaces_and_none_removes() {
        let [a] = ids();
        let mut deadlines = Deadlines::default();
        deadlines.set(a, Some(at(10)));
        deadlines.set(a, Some(at(50)));
        assert_eq!(deadlines.pop_due(at(49)), None);
        deadlines.set(a, None);
        assert_eq!(deadlines.earliest(), None);
        assert_eq!(deadlines.pop_due(at(u64::MAX)), None);
    }

    #[test]
    fn equal_deadlines_of_two_virtual_hosts_both_fire() {
        let [a, b] = ids();
        let mut deadlines = Deadlines::default();
        deadlines.set(a, Some(at(10)));
        deadlines.set(b, Some(at(10)));
        assert_eq!(
            (deadlines.pop_due(at(10)), deadlines.pop_due(at(10))),
            (Some((a, at(10))), Some((b, at(10))))
        );
    }
}
