//! Until when the kernel lets this host answer for the virtual addresses.
//!
//! As long as we advertise, nobody else takes over. The kernel is told how long that holds, again with each
//! advertisement; should we die, hang or starve, this host falls silent before another one can have taken over.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{AdvSkew, DeadRatio, Priority, State};

use super::{Engine, Error};
use crate::config::Ownership;
use crate::io::datapath::{self, Datapath};
use crate::io::port::Port;

impl Engine {
    /// What the kernel must know about a virtual host that is now in `state`.
    pub(super) fn fence(&mut self, vhost: usize, state: State, now: Instant) {
        let served = &mut self.vhosts[vhost];
        match state {
            State::Master => {
                served.fenced = true;
                self.move_fence(vhost, now);
            }
            State::Backup | State::Init if !served.fenced || served.has_leftovers => {}
            // The address stays until the script has run.
            State::Backup | State::Init
                if served.config.ownership == Ownership::Scripts
                    && served.config.scripts.down.is_some()
                    && (!self.stopping || served.config.release_at_exit) =>
            {
                self.set_fence(vhost, now);
            }
            State::Backup | State::Init => self.remove_fence(vhost),
        }
    }

    /// What an earlier run left stays fenced until the election says whose it is.
    pub(super) fn fence_leftovers(&mut self, vhost: usize) {
        self.vhosts[vhost].fenced = true;
        self.set_fence(vhost, Instant::ZERO);
    }

    /// What an earlier run's up script left stays fenced until the down script has run, which it does first of all.
    ///
    /// # Errors
    /// The kernel program cannot be loaded.
    pub(super) fn fence_what_scripts_left(&mut self, interface: usize) -> Result<(), Error> {
        let wanted = &self.interfaces[interface];
        let ifindex = wanted.port.as_ref().map(Port::ifindex);
        let here = ifindex.and_then(|ifindex| self.addresses.get(&ifindex));
        let has = |address: IpAddr| {
            let mut here = here.into_iter().flatten();
            here.any(|known| known.address == address)
        };
        let left = |vhost: &usize| {
            let config = &self.vhosts[*vhost].config;
            config.ownership == Ownership::Scripts
                && config.scripts.down.is_some()
                && !config.neutral
                && config.addresses.iter().any(|wanted| has(wanted.address))
        };
        for vhost in wanted
            .vhosts
            .iter()
            .copied()
            .filter(left)
            .collect::<Vec<_>>()
        {
            self.datapath.prepare()?;
            self.fence_leftovers(vhost);
        }
        Ok(())
    }

    /// A MASTER advertised at `now`: it is one for a while.
    pub(super) fn move_fence(&mut self, vhost: usize, now: Instant) {
        let served = &self.vhosts[vhost];
        if served.fenced && served.machine.state() == State::Master {
            let lasts = advertisement_lasts(served.machine.advertised(), served.config.deadratio);
            self.set_fence(vhost, now + lasts);
        }
    }

    /// The down script has run: what it left is not ours to fence.
    pub(super) fn lift_fence_after_release(&mut self, vhost: usize) {
        if self.vhosts[vhost].machine.state() != State::Master {
            self.remove_fence(vhost);
        }
    }

    fn set_fence(&mut self, vhost: usize, deadline: Instant) {
        self.tell_fence(vhost, |datapath, ifindex, address| {
            datapath.fence(ifindex, address, deadline)
        });
    }

    pub(super) fn remove_fence(&mut self, vhost: usize) {
        if std::mem::take(&mut self.vhosts[vhost].fenced) {
            self.tell_fence(vhost, Datapath::unfence);
        }
    }

    /// The same for each of a virtual host's addresses, while its interface is there.
    fn tell_fence(
        &mut self,
        vhost: usize,
        mut tell: impl FnMut(&mut Datapath, u32, IpAddr) -> Result<(), datapath::error::Error>,
    ) {
        let served = &self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return;
        };
        let mut outcome = Ok(());
        for address in &served.config.addresses {
            outcome = outcome.and(tell(&mut self.datapath, port.ifindex(), address.address));
        }
        self.check_datapath(vhost, outcome);
    }
}

/// How long after an advertisement the sender is certainly still MASTER: until half the time between the next one and
/// the earliest that an equal peer with advskew 0 could take over, or a quarter of the interval beyond the next one
/// when that is not later.
fn advertisement_lasts(advertised: Priority, deadratio: DeadRatio) -> Duration {
    let interval = advertised.interval();
    let fastest_peer = Priority {
        advskew: AdvSkew(0),
        ..advertised
    };
    let takeover = fastest_peer.master_down_time(deadratio);
    match takeover.checked_sub(interval) {
        Some(margin) if !margin.is_zero() => interval + margin / 2,
        Some(_) | None => interval * 5 / 4,
    }
}

#[cfg(test)]
mod tests {
    use carp_common::units::AdvBase;

    use super::*;

    #[test]
    fn an_advertisement_lasts_beyond_the_next_one_but_not_until_the_takeover() {
        for (advbase, advskew, deadratio, millis) in [
            (1, 0, 3, 2000),
            (1, 128, 3, 2250),
            (1, 0, 1, 1250),
            (1, 128, 1, 1875),
            (0, 64, 3, 312),
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
        }
    }
}
