//! The times until which this host is certainly MASTER and its process certainly alive.
//!
//! While a MASTER advertises, no other host takes over. With each advertisement the kernel side gets the time until which
//! that holds. If the process dies, hangs or starves, the host falls silent before another host can have taken over.

use crate::time::{Duration, Instant};
use crate::units::{AdvBase, AdvSkew, DeadRatio, Priority, State};

/// The state and the deadlines of a virtual host, for the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The state of the virtual host. In INIT advertisements pass.
    pub state: State,
    /// Time until which the process counts as alive, unless it renews this. Afterwards nothing is dropped on its behalf.
    pub alive_until: Instant,
    /// Time until which the host may answer for the virtual addresses; the zero of the clock if it is not MASTER.
    pub owns_until: Instant,
}

impl Standing {
    /// The standing of a virtual host that was never started.
    pub const INIT: Self = Self {
        state: State::Init,
        alive_until: Instant::ZERO,
        owns_until: Instant::ZERO,
    };

    /// Sets the deadlines for a host that enters `state`. A MASTER owns the addresses as soon as it enters MASTER.
    pub(super) fn enter(&mut self, state: State, now: Instant, lasts: Lasting) {
        *self = Self {
            state,
            alive_until: now + lasts.life,
            owns_until: match state {
                State::Master => now + lasts.advertisement,
                State::Backup | State::Init => Instant::ZERO,
            },
        };
    }

    /// Renews the ownership of a MASTER, whose advertisement was sent. It lasts as long as that one announced, so it may end
    /// earlier than it would have after the one before, which announced a longer interval.
    pub(super) fn advertised(&mut self, now: Instant, lasts: Duration) {
        if self.state == State::Master {
            self.owns_until = now + lasts;
        }
    }

    /// Renews the life of the process, which has just run, if three eighths of it are over. The next chance of an idle BACKUP
    /// comes after another half of it.
    pub(super) fn live(&mut self, now: Instant, lasts: Lasting) {
        let remaining = self.alive_until.saturating_duration_since(now);
        if self.state != State::Init && remaining < lasts.life * 5 / 8 {
            self.alive_until = now + lasts.life;
        }
    }
}

/// The lengths of the deadlines that begin now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting {
    /// Time for which an advertisement keeps its sender MASTER.
    pub(super) advertisement: Duration,
    /// Time for which the process counts as alive after it ran.
    pub(super) life: Duration,
}

impl Lasting {
    /// Returns the lengths for a host that advertises this priority and takes over after `master_down`.
    pub(super) fn new(advertised: Priority, deadratio: DeadRatio, master_down: Duration) -> Self {
        Self {
            advertisement: advertisement_lasts(advertised, deadratio),
            // The process hears, sends or times out at least twice in this time.
            life: master_down.max(advertised.interval()) * 2,
        }
    }
}

/// Returns the time after an advertisement for which its sender is certainly still MASTER. It ends halfway between the next
/// advertisement and the earliest takeover by an equal peer with advskew 0.
///
/// If that takeover is not later than the next advertisement, the time ends a moment after that advertisement. With a
/// deadratio of 1 a peer takes over within the interval itself. The moment is short then, and two hosts may answer during it.
fn advertisement_lasts(advertised: Priority, deadratio: DeadRatio) -> Duration {
    let interval = advertised.interval();
    let fastest_peer = Priority {
        advskew: AdvSkew(0),
        ..advertised
    };
    let takeover = fastest_peer.master_down_time(deadratio);
    match takeover.checked_sub(interval) {
        Some(margin) if !margin.is_zero() => interval + margin / 2,
        Some(_) | None if deadratio.get() == 1 => interval + interval / 16,
        Some(_) | None => interval + interval / 4,
    }
}

/// The shortest lease. The kernel counts whole seconds, and with a shorter lease there would be no time for a second attempt.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// Returns the time for which the kernel keeps the addresses of a MASTER that does not renew that: a second more than an equal
/// peer with advskew 0 waits before it takes over. A MASTER that is late for less keeps its addresses, and those of a dead one
/// vanish a moment after the takeover.
#[must_use]
pub fn lease(advbase: AdvBase, deadratio: DeadRatio) -> Duration {
    let fastest_peer = Priority {
        advbase,
        advskew: AdvSkew(0),
    };
    let takeover = fastest_peer.master_down_time(deadratio);
    let seconds = takeover.as_secs() + u64::from(takeover.subsec_nanos() > 0) + 1;
    Duration::from_secs(seconds).max(SHORTEST_LEASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_a_second_longer_than_the_fastest_takeover_and_2_s_at_least() {
        for (advbase, deadratio, seconds) in
            [(1, 3, 4), (0, 3, 2), (0, 100, 2), (10, 3, 31), (1, 1, 2)]
        {
            let deadratio = DeadRatio::new(deadratio).unwrap();
            let expected = Duration::from_secs(seconds);
            let lease = lease(AdvBase(advbase), deadratio);
            assert_eq!(lease, expected, "{advbase} × {deadratio:?}");
        }
    }

    #[test]
    fn an_advertisement_lasts_beyond_the_next_one_but_not_until_the_takeover() {
        for (advbase, advskew, deadratio, millis) in [
            (1, 0, 3, 2000),
            (1, 128, 3, 2250),
            (1, 0, 2, 1500),
            (0, 64, 3, 312),
            (0, 50, 3, 244),
            (0, 0, 3, 7),
        ] {
            let advertised = Priority {
                advbase: AdvBase(advbase),
                advskew: AdvSkew(advskew),
            };
            let deadratio = DeadRatio::new(deadratio).unwrap();
            let lasts = advertisement_lasts(advertised, deadratio);
            assert_eq!(lasts.as_millis(), millis, "{advertised} at {deadratio:?}");
            assert!(lasts > advertised.interval());
            assert!(
                lasts < advertised.master_down_time(deadratio),
                "an equal peer's"
            );
        }
    }

    #[test]
    fn with_deadratio_1_it_lasts_a_sixteenth_longer_than_the_interval() {
        for (advskew, micros) in [(0, 1_062_500), (128, 1_593_750)] {
            let advertised = Priority {
                advbase: AdvBase(1),
                advskew: AdvSkew(advskew),
            };
            let lasts = advertisement_lasts(advertised, DeadRatio::new(1).unwrap());
            assert_eq!(lasts.as_micros(), micros);
        }
    }

    const LASTS: Lasting = Lasting {
        advertisement: Duration::from_secs(2),
        life: Duration::from_secs(8),
    };

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_master_owns_the_addresses_from_the_start_and_until_it_leaves() {
        let mut standing = Standing::INIT;
        standing.enter(State::Backup, at(10), LASTS);
        assert_eq!((standing.owns_until, standing.alive_until), (at(0), at(18)));
        standing.advertised(at(10), LASTS.advertisement);
        assert_eq!(standing.owns_until, at(0), "it is no MASTER");
        standing.enter(State::Master, at(20), LASTS);
        assert_eq!(standing.owns_until, at(22));
        standing.advertised(at(21), LASTS.advertisement);
        assert_eq!(standing.owns_until, at(23));
        standing.advertised(at(21), Duration::from_secs(1));
        assert_eq!(standing.owns_until, at(22), "the next one comes earlier");
        standing.enter(State::Backup, at(22), LASTS);
        assert_eq!(standing.owns_until, at(0));
    }

    #[test]
    fn life_is_renewed_when_three_eighths_of_it_are_over() {
        let mut standing = Standing::INIT;
        standing.live(at(5), LASTS);
        assert_eq!(standing, Standing::INIT);
        standing.enter(State::Backup, at(10), LASTS);
        standing.live(at(13), LASTS);
        assert_eq!(standing.alive_until, at(18));
        standing.live(at(14), LASTS);
        assert_eq!(standing.alive_until, at(22));
    }
}
