//! What the kernel program knows about a virtual host: that its advertisements are wanted, until when it is alive, and
//! until when this host answers for its addresses.
//!
//! As long as we advertise, nobody else takes over. The kernel is told how long that holds, again with each
//! advertisement; should we die, hang or starve, this host falls silent before another one can have taken over.
//!
//! Who is not MASTER any more stays silent for as long as an address that we or our scripts added is still there: while a
//! down script runs, when it fails, and after a run that died. The entry goes when netlink says that the address is gone.

use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::layout::VhostKey;
use carp_common::proto::VirtualHost;
use carp_common::time::Instant;
use carp_common::units::{AdvSkew, DeadRatio, Priority};

use super::super::context::Site;
use super::super::effects::{Effects, Program, Refused};
use super::Identity;
use super::predecessor::leftovers;
use crate::api::event::interface::Datapath;
use crate::config::Ownership;
use crate::io::datapath::{Endpoints, Entry, Fenced, Owner, Standing};

/// The entry of one virtual host.
#[derive(Debug)]
pub struct Tenure {
    /// Its entry in the datapath, while there is one.
    key: Option<VhostKey>,
    /// Until when the datapath takes us to be alive for that entry.
    alive_until: Instant,
    /// Until when this host answers for the addresses.
    owns_until: Instant,
    /// The datapath knows it as the owner of its addresses.
    fenced: bool,
    /// The datapath refused something, which was said.
    refused: bool,
    /// The datapath refused its entry, so it would hear nothing: in INIT until there is one.
    deaf: bool,
}

impl Default for Tenure {
    fn default() -> Self {
        Self {
            key: None,
            alive_until: Instant::ZERO,
            owns_until: Instant::ZERO,
            fenced: false,
            refused: false,
            deaf: false,
        }
    }
}

impl Tenure {
    /// What the datapath knows the virtual host by.
    pub const fn key(&self) -> Option<VhostKey> {
        self.key
    }

    /// Whether it would hear nothing.
    pub const fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Whether it owns its addresses.
    pub const fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Its addresses are fenced already, by an earlier run.
    pub fn inherit(&mut self) {
        self.fenced = true;
    }

    /// The interface is gone, and what the datapath knew of it.
    pub fn forget(&mut self) {
        self.fenced = false;
    }

    /// The key that a virtual host is to have, while its interface is there.
    pub fn key_wanted<E>(who: &Identity, site: &Site<'_, E>) -> Option<VhostKey> {
        let ifindex = site.interface.ifindex?;
        Some(VhostKey::new(ifindex, 0, who.config.election.vhid))
    }

    /// Has the advertisements delivered, from now on. Returns whether that worked.
    pub fn program<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        key: VhostKey,
        endpoints: Endpoints,
        site: &mut Site<'_, E>,
    ) -> bool {
        let entry = Entry {
            endpoints: &[endpoints],
            digests: machine.digests(),
            standing: self.standing(machine, site.cx.now),
        };
        let told = site.cx.effects.configure(key, &entry);
        self.deaf = told.is_err();
        self.key = (!self.deaf).then_some(key);
        if self.deaf {
            site.cx.retry_soon();
        } else {
            self.refused = false;
        }
        self.check(who, told, site);
        !self.deaf
    }

    /// Advertisements are nobody's business of ours.
    pub fn withdraw<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        if let Some(key) = self.key.take() {
            let removed = site.cx.effects.withdraw(key);
            self.check(who, removed, site);
        }
    }

    /// Tells the kernel program that we are alive, when three eighths of what it knows have passed: an idle BACKUP's next
    /// chance is half of it later.
    pub fn show_life<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        let validity = life_sign_validity(machine);
        let remaining = self.alive_until.saturating_duration_since(site.cx.now);
        if remaining < validity * 5 / 8 {
            self.renew(who, machine, site);
        }
    }

    /// Tells the kernel program what the virtual host is, and for how long: one write, however many addresses it has.
    pub fn renew<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        if let Some(key) = self.key {
            let standing = self.standing(machine, site.cx.now);
            let told = site.cx.effects.renew(key, standing);
            self.check(who, told, site);
        }
    }

    /// From now on we are alive for a while.
    fn standing(&mut self, machine: &VirtualHost, now: Instant) -> Standing {
        self.alive_until = now + life_sign_validity(machine);
        Standing {
            state: machine.state(),
            alive_until: self.alive_until,
            owns_until: self.owns_until,
        }
    }

    /// The address that we send from is another one.
    pub fn tell_own_source<E: Effects>(
        &mut self,
        who: &Identity,
        own: Option<IpAddr>,
        site: &mut Site<'_, E>,
    ) {
        if let Some(key) = self.key {
            let group = who.config.group.into();
            let told = site.cx.effects.set_endpoints(key, Endpoints { group, own });
            self.check(who, told, site);
        }
    }

    /// Becomes the owner of its addresses, for a while. The kernel is told how long with what else it is told now.
    pub fn take_over<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        self.fenced = true;
        self.tell(who, site, Program::own);
        self.extend(who, machine, site.cx.now);
    }

    /// A MASTER advertised: it is one for a while.
    pub fn answer_for_a_while<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        self.extend(who, machine, site.cx.now);
        self.renew(who, machine, site);
    }

    fn extend(&mut self, who: &Identity, machine: &VirtualHost, now: Instant) {
        let lasts = advertisement_lasts(machine.advertised(), who.config.election.deadratio);
        self.owns_until = now + lasts;
    }

    /// No longer MASTER: another one may take over while the kernel lets us wait before it removes the address.
    pub fn fall_silent<E: Effects>(
        &mut self,
        who: &Identity,
        machine: &VirtualHost,
        site: &mut Site<'_, E>,
    ) {
        if self.fenced {
            self.owns_until = Instant::ZERO;
            self.renew(who, machine, site);
        }
    }

    /// What is there stays fenced until the election says whose it is.
    pub fn silence<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        self.fenced = true;
        self.owns_until = Instant::ZERO;
        self.tell(who, site, Program::silence);
    }

    /// Not MASTER: silent as long as what we or our scripts added is there, or what an earlier run left.
    pub fn settle<E: Effects>(
        &mut self,
        who: &Identity,
        has_leftovers: bool,
        site: &mut Site<'_, E>,
    ) {
        if !self.fenced {
            return;
        }
        let stays = match who.config.ownership {
            Ownership::Native => {
                // The kernel may have had no time to remove what was ours.
                let ifindex = site.interface.ifindex;
                let is_late = site.cx.effects.is_overdue()
                    && !leftovers(who, ifindex, &site.cx.namespace).is_empty();
                has_leftovers || is_late
            }
            Ownership::Scripts => {
                let mut addresses = who.config.addresses.iter();
                addresses.any(|wanted| site.cx.namespace.has(wanted.address))
            }
        };
        // The kernel is told with what else has changed.
        self.owns_until = Instant::ZERO;
        if stays {
            self.silence(who, site);
        } else {
            self.unfence(who, site);
        }
    }

    /// Whether this host answers for the addresses is nobody's business of ours any more.
    pub fn unfence<E: Effects>(&mut self, who: &Identity, site: &mut Site<'_, E>) {
        if std::mem::take(&mut self.fenced) {
            self.tell(who, site, |datapath, address, owner| {
                let owner = Some(owner);
                datapath.disown(Fenced { address, owner })
            });
        }
    }

    /// The same for each of the addresses, while the interface is there.
    fn tell<E: Effects>(
        &mut self,
        who: &Identity,
        site: &mut Site<'_, E>,
        mut tell: impl FnMut(&mut E, IpAddr, Owner) -> Result<(), Refused>,
    ) {
        let Some(ifindex) = site.interface.ifindex else {
            return;
        };
        let owner = Owner {
            ifindex,
            vhid: who.config.election.vhid,
        };
        let mut outcome = Ok(());
        for wanted in &who.config.addresses {
            outcome = outcome.and(tell(&mut site.cx.effects, wanted.address, owner));
        }
        self.check(who, outcome, site);
    }

    /// Says what the datapath refuses, once until it is programmed again: what is told with each advertisement fails
    /// with each.
    fn check<E: Effects>(
        &mut self,
        who: &Identity,
        outcome: Result<(), Refused>,
        site: &mut Site<'_, E>,
    ) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.refused, true)
        {
            let rung = site.interface.ifindex;
            let rung = rung.and_then(|ifindex| site.cx.effects.rung(ifindex));
            let refused = Datapath::Refused {
                rung: rung.map(|rung| rung.to_string()),
                error: error.to_string(),
            };
            site.cx.tell(&who.place, refused);
        }
    }
}

/// How long a sign of life of ours is good for: we hear, send or time out at least twice in it.
fn life_sign_validity(machine: &VirtualHost) -> Duration {
    let interval = machine.advertised().interval();
    2 * machine.master_down_time().max(interval)
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
