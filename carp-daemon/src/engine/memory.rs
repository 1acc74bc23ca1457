//! The memory of what was heard, kept over a restart: read at the start, written now and then and at an orderly stop.
//!
//! The bytes are the core's, which alone understands them.

use std::time::Duration;

use carp_common::time::Instant;

use super::registry::{InstanceId, Registry};

/// Least time between two writes of one virtual host's memory.
const KEEP_INTERVAL: Duration = Duration::from_secs(600);

/// The order in which virtual hosts write: they take turns, so that thousands never write at once.
#[derive(Debug)]
pub struct Turns {
    last: Option<InstanceId>,
    at: Instant,
}

impl Turns {
    /// Nobody has written yet.
    pub fn new(count: usize, now: Instant) -> Self {
        Self {
            last: None,
            at: now + interval(count),
        }
    }

    /// Returns the virtual host that has its turn, when it is time for one.
    pub fn take(&mut self, registry: &Registry, now: Instant) -> Option<InstanceId> {
        if now < self.at {
            return None;
        }
        self.at = now + interval(registry.all().len());
        self.last = registry.next(self.last);
        self.last
    }
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
