//! The traits of the engine, implemented by a [`Recorder`]. It records requests that change something, but not those that
//! only look.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::VhostKey;
use carp_common::proto::Standing;
use carp_common::proto::per_family::PerFamily;
use carp_common::time::Instant;
use carp_common::units::{Family, Vhid};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};

use super::super::effects::{
    Clock, Exclusion, KernelProgram, Links, Netlink, Observe, Receive, Refused, Remember, Scripts,
    Tell, Wire,
};
use super::super::registry::InstanceId;
use super::host::{OURS, RecordedEntry, Recorder, failed, unless};
use crate::api::{Event, Place, Status};
use crate::config::VhostConfig;
use crate::io::datapath::{
    self, AddressOwner, Batch, Choice, Counts, Drained, Endpoints, Fenced, HookLoss, Rung, Survival,
};
use crate::io::neighbour_watch::{NeighbourClaim, NeighbourClaims};
use crate::io::netlink::{self, Address, Link, MonitorDrained, Order};
use crate::io::port::Envelope;
use crate::io::scripts::{Admission, Wish};
use crate::io::state_dir::FileName;
use crate::lock::{self, Wanted};

impl Clock for Recorder {
    fn now(&mut self) -> Instant {
        self.now
    }

    fn wall_clock_nanos(&mut self) -> u64 {
        self.wall_clock + self.now.as_nanos()
    }
}

impl Recorder {
    fn refuse_if(&self, fault: bool) -> Result<(), Refused> {
        match fault {
            true => Err(Refused("no memory".to_owned())),
            false => Ok(()),
        }
    }

    fn refuse_to_receive(&self, link: &str) -> Result<(), datapath::DatapathError> {
        unless(self.faults.attach.then_some(libc::EBUSY)).map_err(|source| {
            datapath::DatapathError::Socket {
                interface: link.to_owned(),
                source,
            }
        })
    }
}

/// Returns an advertisement in words, and its counter.
fn sent(envelope: &Envelope, payload: &[u8; HEADER_LEN]) -> (String, u64) {
    let sent = Advertisement::parse(payload).expect("what we send is valid");
    assert_eq!(sent.vhid, envelope.vhid);
    let (advbase, advskew) = (sent.advbase.0, sent.advskew.0);
    let text = format!(
        "advertise {advbase}/{advskew} from {}",
        envelope.addressing.source()
    );
    (text, sent.counter)
}

impl Receive for Recorder {
    fn prepare_programs(&mut self) -> Result<(), datapath::DatapathError> {
        unless(self.faults.load.then_some(libc::EPERM)).map_err(|source| {
            datapath::DatapathError::Socket {
                interface: "any interface".to_owned(),
                source,
            }
        })
    }

    fn start_cover(&mut self, _links: &Links) {}

    fn attach(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError> {
        self.note(format_args!("attach {}", link.name));
        self.refuse_to_receive(&link.name)?;
        self.attached.insert(link.index);
        self.losses.remove(&link.index);
        Ok(Choice {
            summary: format!("receiving on {}", link.name),
            expected: true,
        })
    }

    fn attach_again(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError> {
        self.attach(link)
    }

    fn detach(&mut self, ifindex: u32) {
        self.note(format_args!("detach {ifindex}"));
        self.attached.remove(&ifindex);
    }

    fn forget(&mut self, ifindex: u32) {
        self.note(format_args!("forget {ifindex}"));
        self.attached.remove(&ifindex);
        self.owners
            .retain(|it| it.owner.is_none_or(|owner| owner.ifindex != ifindex));
    }

    fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        while let Some(event) = self.arrived.front().copied() {
            if event.arrival_ns > now.as_nanos() {
                return Drained::Later;
            }
            self.arrived.pop_front();
            *self.delivered.entry(event.key).or_default() += 1;
            batch.push(event);
            if batch.is_full() {
                return Drained::Full;
            }
        }
        Drained::Empty
    }

    fn take_losses(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn take_failures(&mut self) -> Vec<(u32, io::Error)> {
        std::mem::take(&mut self.failures)
    }

    fn loss(&mut self, ifindex: u32) -> Option<HookLoss> {
        self.losses.get(&ifindex).copied()
    }

    fn cover(&mut self, _links: &Links) {}

    fn tend(&mut self, _links: &Links, _now: Instant) -> bool {
        std::mem::take(&mut self.suspicious)
    }

    fn look_at_cover(&mut self, _links: &Links, _now: Instant) {}

    fn next_tending(&self) -> Option<Instant> {
        None
    }

    fn rung(&self, ifindex: u32) -> Option<Rung> {
        self.attached.contains(&ifindex).then_some(Rung::Socket)
    }

    fn survival(&self, _ifindex: u32) -> Survival {
        Survival::Yes
    }

    fn counts(&mut self, _ifindex: u32) -> Result<Counts, Refused> {
        Ok(Counter::ALL.map(|counter| self.counts.get(counter.name()).copied().unwrap_or(0)))
    }

    fn count(&mut self, counter: Counter) -> Result<u64, Refused> {
        Ok(self.counts.get(counter.name()).copied().unwrap_or(0))
    }

    fn counts_of(&mut self, key: VhostKey) -> Result<Counts, Refused> {
        let delivered = self.delivered.get(&key).copied();
        let count = |counter| delivered.filter(|_| counter == Counter::Delivered);
        Ok(Counter::ALL.map(|counter| count(counter).unwrap_or(0)))
    }

    fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, Refused> {
        self.counts(ifindex)
    }
}

impl KernelProgram for Recorder {
    fn configure(&mut self, key: VhostKey, told: &datapath::Entry<'_>) -> Result<(), Refused> {
        self.note(format_args!("configure {}", key.vhid));
        if self.faults.configure {
            return Err(Refused("no room".to_owned()));
        }
        assert!(!told.digests.is_empty(), "the program could verify nothing");
        assert!(!told.endpoints.is_empty(), "it would hear nothing");
        let mut endpoints = PerFamily::<Option<Endpoints>>::default();
        for told in told.endpoints {
            let before = endpoints[Family::of(told.group)].replace(*told);
            assert_eq!(before, None, "one for each family");
        }
        let closed = Standing {
            owns_until: Instant::ZERO,
            ..told.standing
        };
        let entry = RecordedEntry {
            endpoints,
            standing: closed,
            lives: true,
            intact: true,
        };
        self.entries.insert(key, entry);
        self.set_standing(key, told.standing);
        Ok(())
    }

    fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), Refused> {
        self.refuse_if(self.faults.renew)?;
        self.set_standing(key, standing);
        Ok(())
    }

    fn set_endpoints(&mut self, key: VhostKey, endpoints: Endpoints) -> Result<(), Refused> {
        if let Some(entry) = self.entries.get_mut(&key) {
            let family = Family::of(endpoints.group);
            let before = entry.endpoints[family].replace(endpoints);
            assert!(before.is_some(), "it is not heard in {family}");
        }
        Ok(())
    }

    fn withdraw(&mut self, key: VhostKey) -> Result<(), Refused> {
        self.note(format_args!("withdraw {}", key.vhid));
        self.refuse_if(self.faults.withdraw)?;
        self.entries.remove(&key);
        Ok(())
    }

    fn is_intact(&mut self, key: VhostKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.intact)
    }

    fn own(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused> {
        self.refuse_if(self.faults.own)?;
        let owner = Some(owner);
        self.set_owner(Fenced { address, owner }, true);
        Ok(())
    }

    fn silence(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused> {
        // An earlier run may have left the entry open.
        let is_dead = |entry: &RecordedEntry| !entry.lives;
        if self.entries.get(&owner.key()).is_some_and(is_dead) {
            self.entries.remove(&owner.key());
        }
        self.refuse_if(self.faults.own)?;
        if self.answers_for(address) {
            self.note(format_args!("silence {address}"));
        }
        let owner = Some(owner);
        self.set_owner(Fenced { address, owner }, true);
        Ok(())
    }

    fn disown(&mut self, fenced: Fenced) -> Result<(), Refused> {
        self.note(format_args!("disown {}", fenced.address));
        self.refuse_if(self.faults.disown)?;
        self.set_owner(fenced, false);
        Ok(())
    }

    fn fenced(&self) -> Vec<Fenced> {
        self.owners.clone()
    }

    fn remove_unowned_but(&mut self, _links: &Links) {}
}

impl Netlink for Recorder {
    fn notifications(
        &mut self,
        visit: &mut dyn FnMut(netlink::NetlinkEvent),
    ) -> io::Result<MonitorDrained> {
        unless(self.faults.watch)?;
        self.notifications.drain(..).for_each(visit);
        Ok(match std::mem::take(&mut self.overrun) {
            true => MonitorDrained::Overrun,
            false => MonitorDrained::All,
        })
    }

    fn watch_anew(&mut self) -> io::Result<()> {
        self.note("watch");
        unless(self.faults.watch)?;
        self.notifications.clear();
        Ok(())
    }

    fn links(&mut self) -> io::Result<Vec<Link>> {
        self.note("list");
        unless(self.faults.list)?;
        Ok(self.links.values().cloned().collect())
    }

    fn addresses(&mut self) -> io::Result<Vec<Address>> {
        unless(self.faults.list)?;
        Ok(self.addresses.iter().map(|(address, _)| *address).collect())
    }

    fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        let link = self.links.get(&ifindex).cloned();
        link.ok_or_else(|| failed(libc::ENODEV))
    }

    fn give(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        orders.iter().map(|order| self.order(order)).collect()
    }

    fn give_later(&mut self, orders: Vec<Order>) {
        if self.faults.slow {
            self.delayed_bunch = Some(orders);
        } else {
            self.outcomes = Some(self.give(&orders));
        }
    }

    fn take_outcomes(&mut self) -> Option<Vec<io::Result<()>>> {
        self.outcomes.take()
    }

    fn is_overdue(&self) -> bool {
        !self.delayed.is_empty()
    }

    fn finish(&mut self, _limit: Duration) -> bool {
        if !self.faults.stuck {
            self.catch_up();
        }
        !self.faults.stuck
    }

    fn port(&self) -> u32 {
        OURS
    }
}

impl Wire for Recorder {
    fn open(
        &mut self,
        link: &Link,
        groups: &mut dyn Iterator<Item = IpAddr>,
    ) -> Result<(), (&'static str, io::Error)> {
        self.note(format_args!("open {}", link.name));
        unless(self.faults.open).map_err(|error| ("open a packet socket", error))?;
        self.open.insert(link.index, groups.collect());
        self.macs.insert(link.index, link.mac);
        Ok(())
    }

    fn close(&mut self, ifindex: u32) {
        self.note(format_args!("close {ifindex}"));
        self.open.remove(&ifindex);
        self.watched.remove(&ifindex);
    }

    fn join(&mut self, ifindex: u32, group: IpAddr) -> io::Result<()> {
        self.note(format_args!("join {group}"));
        let groups = self.open.get_mut(&ifindex);
        groups.expect("it is open").insert(group);
        Ok(())
    }

    fn leave(&mut self, ifindex: u32, group: IpAddr) {
        self.note(format_args!("leave {group}"));
        let groups = self.open.get_mut(&ifindex);
        groups.expect("it is open").remove(&group);
    }

    fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> bool {
        self.macs.insert(ifindex, mac) != Some(mac)
    }

    fn advertise(
        &mut self,
        ifindex: u32,
        envelope: &Envelope,
        payload: &[u8; HEADER_LEN],
    ) -> io::Result<()> {
        assert!(
            self.open.contains_key(&ifindex),
            "advertises where nothing is open"
        );
        let (text, counter) = sent(envelope, payload);
        self.note(text);
        unless(self.faults.send)?;
        self.last_counter = self.last_counter.max(counter);
        Ok(())
    }

    fn announce(&mut self, _ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.note(format_args!("announce {address}"));
        Ok(())
    }

    fn probe(&mut self, _ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.note(format_args!("probe {address}"));
        Ok(())
    }

    fn watch(&mut self, ifindex: u32, addresses: &[IpAddr]) -> io::Result<()> {
        self.watched.insert(ifindex, addresses.to_vec());
        Ok(())
    }

    fn claims(&mut self, ifindex: u32, _now: Instant) -> io::Result<NeighbourClaims> {
        let watched = self.watched.get(&ifindex).cloned().unwrap_or_default();
        let claims = std::mem::take(&mut self.claims);
        let passes = |claim: &NeighbourClaim| watched.contains(&claim.address);
        Ok(NeighbourClaims {
            claims: claims.into_iter().filter(passes).collect(),
            lost: 0,
        })
    }

    fn claims_paused_until(&self) -> Option<Instant> {
        None
    }
}

impl Scripts for Recorder {
    fn enlist(&mut self, instance: InstanceId, place: &Place, config: &VhostConfig) {
        self.note(format_args!("enlist {place}"));
        let scripts = config.scripts.clone();
        let before = self.enlisted.insert(instance, scripts);
        assert!(before.is_none(), "it is new");
    }

    fn dismiss(&mut self, instance: InstanceId) {
        self.note("dismiss");
        assert!(self.enlisted.remove(&instance).is_some(), "it was enlisted");
    }

    fn run(&mut self, instance: InstanceId, wish: Wish) -> Admission {
        assert!(self.enlisted.contains_key(&instance), "it is enlisted");
        let admission = self.ask(instance, wish.which);
        let which = format!("{:?}", wish.which).to_lowercase();
        self.note(format_args!(
            "run {which} on {} as {}",
            wish.interface, wish.state
        ));
        admission
    }

    fn runs(&self, instance: InstanceId) -> bool {
        let running = self.running.get(&instance);
        running.is_some_and(|running| !running.is_empty())
    }
}

impl Exclusion for Recorder {
    fn lock(&mut self, wanted: &Wanted<'_>, patient: bool) -> Result<(), lock::LockError> {
        let Wanted { ifindex, vhid, .. } = *wanted;
        let how = if patient { " and wait" } else { "" };
        self.note(format_args!("lock {vhid}{how}"));
        let owner = (ifindex, vhid);
        let mut names = vec![format!("vhid {ifindex}/{vhid}")];
        names.extend(wanted.addresses.iter().map(ToString::to_string));
        let has = |name: &String| self.locks.get(name).is_some_and(|it| *it != owner);
        let taken = |name: &&String| self.faults.locked.contains(*name) || has(name);
        if let Some(name) = names.iter().find(taken) {
            return Err(lock::LockError::Socket {
                action: "bind",
                name: name.clone(),
                source: failed(libc::EADDRINUSE),
            });
        }
        let is_needed = |name: &String| names.contains(name);
        self.locks
            .retain(|name, held_by| *held_by != owner || is_needed(name));
        self.locks
            .extend(names.into_iter().map(|name| (name, owner)));
        Ok(())
    }

    fn unlock(&mut self, ifindex: u32) {
        self.note(format_args!("unlock all on {ifindex}"));
        self.locks.retain(|_, (index, _)| *index != ifindex);
    }

    fn unlock_one(&mut self, wanted: &Wanted<'_>) {
        self.note(format_args!("unlock {}", wanted.vhid));
        let owner = (wanted.ifindex, wanted.vhid);
        self.locks.retain(|_, held_by| *held_by != owner);
    }

    fn living(&mut self) -> Result<Box<dyn Fn(u32, Vhid) -> bool>, lock::LockError> {
        let mut living = self.living.clone();
        living.extend(self.locks.values().copied());
        Ok(Box::new(move |ifindex, vhid| {
            living.contains(&(ifindex, vhid))
        }))
    }
}

impl Remember for Recorder {
    fn recall(&mut self, name: &FileName) -> Result<Option<Vec<u8>>, Refused> {
        match self.faults.recall {
            true => Err(Refused("not a directory".to_owned())),
            false => Ok(self.memories.get(&format!("{name:?}")).cloned()),
        }
    }

    fn keeps_in(&self) -> Option<PathBuf> {
        self.keeps.then(|| PathBuf::from("/var/lib/carpd"))
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        PathBuf::from(format!("/var/lib/carpd/{name:?}"))
    }

    fn can_keep(&mut self) -> bool {
        self.keeps
    }

    fn keep(&mut self, files: Vec<(FileName, Vec<u8>)>) {
        for (name, bytes) in files {
            self.memories.insert(format!("{name:?}"), bytes);
        }
    }
}

impl Tell for Recorder {
    fn tell(&mut self, event: Event) {
        self.told.push(event);
    }

    fn show(&mut self, status: &Status) {
        self.statuses.push(status.clone());
    }
}

impl Observe for Recorder {}
