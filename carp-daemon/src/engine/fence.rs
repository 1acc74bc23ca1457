//! Until when the kernel lets this host answer for the virtual addresses.
//!
//! As long as we advertise, nobody else takes over. The kernel is told how long that holds, again with each
//! advertisement; should we die, hang or starve, this host falls silent before another one can have taken over.
//!
//! Who is not MASTER any more stays silent for as long as an address that we or our scripts added is still there: while a
//! down script runs, when it fails, and after a run that died. The entry goes when netlink says that the address is gone.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::time::Instant;
use carp_common::units::{AdvSkew, DeadRatio, Priority, State};
use tracing::{info, warn};

use super::{Engine, Error};
use crate::config::{ADDRESS_PROTOCOL, Ownership};
use crate::io::datapath::{self, Datapath, Fenced, Leaving, Owner};
use crate::io::netlink::Address;
use crate::io::port::Port;
use crate::lock;

impl Engine {
    /// What the kernel must know about a virtual host that is now in `state`.
    pub(super) fn fence(&mut self, vhost: usize, state: State, now: Instant) {
        match state {
            State::Master => {
                self.vhosts[vhost].fenced = true;
                self.move_fence(vhost, now);
            }
            State::Backup | State::Init => self.keep_fence(vhost),
        }
    }

    /// A MASTER advertised at `now`: it is one for a while.
    pub(super) fn move_fence(&mut self, vhost: usize, now: Instant) {
        let served = &self.vhosts[vhost];
        if served.fenced && served.machine.state() == State::Master {
            let lasts = advertisement_lasts(
                served.machine.advertised(),
                served.config.election.deadratio,
            );
            self.set_fence(vhost, now + lasts);
        }
    }

    /// No longer MASTER, and about to say so: another one may take over while the kernel lets us wait before it removes the
    /// address.
    pub(super) fn fall_silent(&mut self, vhost: usize) {
        if self.vhosts[vhost].fenced {
            self.tell_fence(vhost, Datapath::silence);
        }
    }

    /// Not MASTER: silent as long as what we or our scripts added is there, or what an earlier run left.
    pub(super) fn keep_fence(&mut self, vhost: usize) {
        let served = &self.vhosts[vhost];
        if !served.fenced {
            return;
        }
        let stays = match served.config.ownership {
            Ownership::Native => {
                // The kernel may have had no time to remove what was ours.
                let is_late = self.netlink.is_overdue() && !self.leftovers(vhost).is_empty();
                served.has_leftovers || is_late
            }
            Ownership::Scripts => {
                let mut addresses = served.config.addresses.iter();
                addresses.any(|wanted| self.is_here(wanted.address))
            }
        };
        if stays {
            self.tell_fence(vhost, Datapath::silence);
        } else {
            self.remove_fence(vhost);
        }
    }

    /// Netlink said that addresses are gone: there may be nothing left to be silent about.
    pub(super) fn lift_fences(&mut self) {
        for vhost in 0..self.vhosts.len() {
            if self.vhosts[vhost].fenced && self.vhosts[vhost].machine.state() != State::Master {
                self.keep_fence(vhost);
            }
        }
    }

    /// What an earlier run left stays fenced until the election says whose it is.
    pub(super) fn fence_leftovers(&mut self, vhost: usize) {
        self.vhosts[vhost].fenced = true;
        self.tell_fence(vhost, Datapath::silence);
    }

    /// What is fenced already, by an earlier run, stays so until the election says otherwise; and so does what scripts
    /// left where the down script, which runs first of all, is to remove it.
    ///
    /// # Errors
    /// The kernel program cannot be loaded.
    pub(super) fn inherit_fences(&mut self, interface: usize) -> Result<(), Error> {
        let wanted = &self.interfaces[interface];
        let Some(ifindex) = wanted.port.as_ref().map(Port::ifindex) else {
            return Ok(());
        };
        let fenced = self.datapath.fenced(ifindex);
        for vhost in wanted.vhosts.clone() {
            let config = &self.vhosts[vhost].config;
            let mut addresses = config.addresses.iter().map(|wanted| wanted.address);
            let was_fenced = |address| fenced.iter().any(|known| known.address == address);
            let will_be_removed = config.ownership == Ownership::Scripts
                && config.scripts.down.is_some()
                && !config.neutral;
            if addresses.clone().any(was_fenced) {
                self.vhosts[vhost].fenced = true;
            } else if will_be_removed && addresses.any(|address| self.is_here(address)) {
                self.datapath.prepare()?;
                self.fence_leftovers(vhost);
            }
        }
        Ok(())
    }

    /// Sees to what dead runs left on an interface that nobody serves any more: virtual hosts and addresses that are not
    /// configured now. Addresses of ours are removed; a script's stay, and stay fenced.
    pub(super) fn settle_strangers(&mut self, interface: usize) {
        let wanted = &self.interfaces[interface];
        let Some(ifindex) = wanted.port.as_ref().map(Port::ifindex) else {
            return;
        };
        let name = wanted.current_name.clone();
        let configured = |fenced: &Fenced| {
            wanted.vhosts.iter().any(|vhost| {
                let config = &self.vhosts[*vhost].config;
                config.election.vhid == fenced.owner.vhid
                    && config
                        .addresses
                        .iter()
                        .any(|known| known.address == fenced.address)
            })
        };
        let mut strangers = self.datapath.fenced(ifindex);
        strangers.retain(|fenced| !configured(fenced));
        if strangers.is_empty() {
            return;
        }
        // Whoever holds its lock lives, and knows what to do.
        let held = match lock::Held::look() {
            Ok(held) => held,
            Err(error) => {
                warn!(
                    "{name}: what other carpd left is not looked at: {}",
                    datapath::Chain(&error)
                );
                return;
            }
        };
        strangers.retain(|fenced| self.is_orphan(fenced, &held));
        for fenced in strangers {
            let address = fenced.address;
            let vhid = fenced.owner.vhid;
            let here = self.addresses.get(&ifindex).into_iter().flatten();
            let left: Vec<Address> = here
                .filter(|known| known.address == address && known.protocol == ADDRESS_PROTOCOL)
                .copied()
                .collect();
            for known in &left {
                info!(
                    "{name}: removing {address}/{}, left by a carpd for vhid {vhid} that died",
                    known.prefix
                );
                self.delete(&name, known);
            }
            let stays = self
                .addresses
                .values()
                .flatten()
                .any(|known| known.address == address && !left.contains(known));
            if stays {
                warn!(
                    "{name}: {address} was left by a carpd for vhid {vhid} that died: this host does not answer for it \
                     until that one runs again, the address is removed, or `carpd --detach {name}` is run after all \
                     carpd there have stopped"
                );
            } else {
                // It can be told again with the next address that goes.
                let _ = self.datapath.unfence(fenced);
            }
        }
    }

    /// Lets go what dead runs left on interfaces that are not here any more: deleted ones, and those that were moved to another
    /// network namespace.
    pub(super) fn settle_gone(&mut self) {
        self.datapath.remove_unowned_but(&self.links);
        for fenced in self.datapath.all_fenced() {
            let is_gone = !self.links.contains_key(&fenced.owner.ifindex);
            if is_gone && !self.is_here(fenced.address) {
                // What cannot be removed goes with the last program.
                let _ = self.datapath.unfence(fenced);
            }
        }
    }

    /// Whether no other process lives that would see to a fenced address: it is ours, or its carpd died.
    fn is_orphan(&self, fenced: &Fenced, held: &lock::Held) -> bool {
        let owner = fenced.owner;
        let is_ours = self.vhosts.iter().any(|vhost| {
            let port = self.interfaces[vhost.interface].port.as_ref();
            vhost.config.election.vhid == owner.vhid
                && port.is_some_and(|port| port.ifindex() == owner.ifindex)
        });
        is_ours || !held.serves(owner.ifindex, owner.vhid)
    }

    /// Closes everything; what is pinned stays where it still fences an address that nobody sees to.
    pub(super) fn close(mut self) {
        let leaving = self.close_datapath();
        // Leaves the groups and releases the locks.
        drop(self);
        if let Some(leaving) = leaving {
            leaving.leave();
        }
    }

    fn close_datapath(&mut self) -> Option<Leaving> {
        let mut orphans = self.datapath.all_fenced();
        // Where it cannot be told who lives, everything stays.
        if let Ok(held) = lock::Held::look() {
            orphans.retain(|fenced| self.is_orphan(fenced, &held));
        }
        // Nor where it is not known yet which addresses are there. One that is gone, as with its lease, needs no fence.
        if !self.addresses.is_empty() {
            orphans.retain(|fenced| self.is_here(fenced.address));
        }
        self.datapath.close(&orphans)
    }

    pub(super) fn is_here(&self, address: IpAddr) -> bool {
        let mut all = self.addresses.values().flatten();
        all.any(|known| known.address == address)
    }

    fn set_fence(&mut self, vhost: usize, deadline: Instant) {
        self.tell_fence(vhost, |datapath, fenced| datapath.fence(fenced, deadline));
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
        mut tell: impl FnMut(&mut Datapath, Fenced) -> Result<(), datapath::error::Error>,
    ) {
        let served = &self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return;
        };
        let owner = Owner {
            ifindex: port.ifindex(),
            vhid: served.config.election.vhid,
        };
        let mut outcome = Ok(());
        for wanted in &served.config.addresses {
            let address = wanted.address;
            outcome = outcome.and(tell(&mut self.datapath, Fenced { address, owner }));
        }
        self.check_datapath(vhost, outcome);
    }
}

/// How long after an advertisement the sender is certainly still MASTER: until half the time between the next one and
/// the earliest that an equal peer with advskew 0 could take over.
///
/// Where that is not later than the next advertisement, a moment beyond that one: with a deadratio of 1 a peer takes over
/// within the interval itself, so there it is a short moment, and for as long two hosts may answer.
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

#[cfg(test)]
mod tests {
    use carp_common::units::AdvBase;

    use super::*;

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
}
