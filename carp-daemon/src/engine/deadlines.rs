//! Who is due next.

use std::collections::BTreeSet;

use carp_common::time::Instant;

/// One deadline per virtual host, ordered.
///
/// A virtual host is its index in the engine. Setting replaces, in logarithmic time, so that thousands of virtual hosts
/// whose timers restart with every advertisement cost no scan.
#[derive(Debug, Default)]
pub struct Deadlines {
    queue: BTreeSet<(Instant, usize)>,
    current: Vec<Option<Instant>>,
}

impl Deadlines {
    /// Replaces the deadline of `vhost`; `None` removes it.
    pub fn set(&mut self, vhost: usize, deadline: Option<Instant>) {
        if self.current.len() <= vhost {
            self.current.resize(vhost + 1, None);
        }
        let slot = &mut self.current[vhost];
        if *slot == deadline {
            return;
        }
        if let Some(old) = slot.take() {
            self.queue.remove(&(old, vhost));
        }
        if let Some(new) = deadline {
            self.queue.insert((new, vhost));
        }
        *slot = deadline;
    }

    /// The earliest deadline of all.
    #[must_use]
    pub fn earliest(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the virtual host that has been due longest at `now`, and since when it is.
    pub fn pop_due(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let (deadline, vhost) = *self.queue.first()?;
        if deadline > now {
            return None;
        }
        self.set(vhost, None);
        Some((vhost, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn the_longest_due_comes_first_and_only_when_due() {
        let mut deadlines = Deadlines::default();
        deadlines.set(0, Some(at(30)));
        deadlines.set(2, Some(at(10)));
        deadlines.set(1, Some(at(20)));
        assert_eq!(deadlines.earliest(), Some(at(10)));
        assert_eq!(deadlines.pop_due(at(9)), None);
        assert_eq!(deadlines.pop_due(at(20)), Some((2, at(10))));
        assert_eq!(deadlines.pop_due(at(20)), Some((1, at(20))));
        assert_eq!(deadlines.pop_due(at(20)), None);
        assert_eq!(deadlines.earliest(), Some(at(30)));
    }

    #[test]
    fn setting_replaces_and_none_removes() {
        let mut deadlines = Deadlines::default();
        deadlines.set(5, Some(at(10)));
        deadlines.set(5, Some(at(50)));
        assert_eq!(deadlines.pop_due(at(49)), None);
        deadlines.set(5, None);
        assert_eq!(deadlines.earliest(), None);
        assert_eq!(deadlines.pop_due(at(u64::MAX)), None);
    }

    #[test]
    fn equal_deadlines_of_two_vhosts_both_fire() {
        let mut deadlines = Deadlines::default();
        deadlines.set(0, Some(at(10)));
        deadlines.set(1, Some(at(10)));
        assert_eq!(
            (deadlines.pop_due(at(10)), deadlines.pop_due(at(10))),
            (Some((0, at(10))), Some((1, at(10))))
        );
    }
}
