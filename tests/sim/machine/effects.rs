//! The effects of the engine on a simulated host, and its sources of information.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::{FAMILY_INET, FAMILY_INET6, NO_COUNTS, VhostKey};
use carp_common::proto::per_family::PerFamily;
use carp_common::proto::{Action, Input, Standing, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::{Family, Profile, Vhid};
use carp_common::wire::advertisement::HEADER_LEN;
use carp_daemon::api::{self, Place, Status};
use carp_daemon::config::VhostConfig;
use carp_daemon::engine::effects::{
    Clock, Exclusion, KernelProgram, Links, Netlink, Observe, Receive, Refused, Remember, Scripts,
    Tell, Wire,
};
use carp_daemon::engine::registry::InstanceId;
use carp_daemon::io::datapath::{
    self, AddressOwner, Batch, Choice, Counts, Drained, Endpoints, Fenced, HookLoss, Rung, Survival,
};
use carp_daemon::io::neighbour_watch::NeighbourClaims as Claims;
use carp_daemon::io::netlink::{Address, Link, MonitorDrained, NetlinkEvent, Order};
use carp_daemon::io::port::Envelope;
use carp_daemon::io::scripts::{Admission, Wish};
use carp_daemon::io::state_dir::FileName;
use carp_daemon::lock::{self, Wanted};

use super::{Awaited, Machine, Request, Waiting, answer, witness};
use crate::sim::kernel::Actor;
use crate::sim::kernel::namespace::errno;
use crate::sim::kernel::program::ProgramEntry;
use crate::sim::packet::{LENGTH, Packet};

/// The wall clock at the origin of the monotonic clock, in nanoseconds; carpd takes its first replay counter from it.
const WALL_CLOCK_AT_ORIGIN: u64 = 1_700_000_000_000_000_000;

/// The address of every host's loopback interface, with the kernel's own number (`IFAPROT_KERNEL_LO`).
const LOOPBACK: Address = Address::new(1, IpAddr::V4(Ipv4Addr::LOCALHOST), 8, 1);

/// The least time between two looks at ARP claims of others.
const CLAIMS_PAUSE: Duration = Duration::from_secs(1);

impl Clock for Machine {
    fn now(&mut self) -> Instant {
        self.now
    }

    fn wall_clock_nanos(&mut self) -> u64 {
        WALL_CLOCK_AT_ORIGIN + self.now.as_nanos()
    }
}

impl Receive for Machine {
    fn prepare_programs(&mut self) -> Result<(), datapath::DatapathError> {
        Ok(())
    }

    fn start_cover(&mut self, _links: &Links) {}

    fn attach(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError> {
        if self.sabotage.attaching {
            return Err(datapath::DatapathError::Socket {
                interface: link.name.clone(),
                source: failed(errno::ENOBUFS),
            });
        }
        self.program.attach(link.index);
        Ok(Choice {
            summary: String::new(),
            expected: true,
        })
    }

    fn attach_again(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError> {
        self.attach(link)
    }

    fn detach(&mut self, ifindex: u32) {
        self.program.detach(ifindex);
    }

    fn forget(&mut self, ifindex: u32) {
        self.program.forget(ifindex);
    }

    fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained {
        while let Some(event) = self.ring.pop(now) {
            batch.push(event);
            if batch.is_full() {
                return Drained::Full;
            }
        }
        Drained::Empty
    }

    fn take_losses(&mut self) -> u64 {
        self.ring.take_losses()
    }

    fn take_failures(&mut self) -> Vec<(u32, io::Error)> {
        Vec::new()
    }

    fn loss(&mut self, ifindex: u32) -> Option<HookLoss> {
        self.program.is_lost(ifindex).then_some(HookLoss::Detached)
    }

    fn cover(&mut self, _links: &Links) {}

    fn tend(&mut self, _links: &Links, now: Instant) -> bool {
        self.suspects_at.take_if(|at| *at <= now).is_some()
    }

    fn look_at_cover(&mut self, _links: &Links, _now: Instant) {}

    fn next_tending(&self) -> Option<Instant> {
        self.suspects_at
    }

    fn rung(&self, _ifindex: u32) -> Option<Rung> {
        Some(Rung::Socket)
    }

    fn survival(&self, _ifindex: u32) -> Survival {
        match self.program.is_possible {
            true => Survival::Yes,
            false => Survival::No,
        }
    }

    fn counts(&mut self, _ifindex: u32) -> Result<Counts, Refused> {
        Ok(NO_COUNTS)
    }

    fn count(&mut self, _counter: Counter) -> Result<u64, Refused> {
        Ok(0)
    }

    fn counts_of(&mut self, _key: VhostKey) -> Result<Counts, Refused> {
        Ok(NO_COUNTS)
    }

    fn counts_of_others(&mut self, _ifindex: u32) -> Result<Counts, Refused> {
        Ok(NO_COUNTS)
    }
}

impl KernelProgram for Machine {
    fn configure(&mut self, key: VhostKey, entry: &datapath::Entry<'_>) -> Result<(), Refused> {
        let is_full = self.sabotage.tables || self.sabotage.changes;
        if is_full {
            self.program.entries.remove(&key);
            return Err(Refused("no room".to_owned()));
        }
        let mut endpoints = PerFamily::default();
        for each in entry.endpoints {
            endpoints[Family::of(each.group)] = Some(*each);
        }
        let entry = ProgramEntry {
            endpoints,
            standing: entry.standing,
            is_heard: true,
            is_intact: true,
        };
        self.program.entries.insert(key, entry);
        self.unwithdrawn.remove(&key);
        self.unchanged.remove(&key);
        Ok(())
    }

    fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), Refused> {
        self.unchanged.insert(key);
        self.change()?;
        self.unchanged.remove(&key);
        self.program.renew(&key, standing);
        Ok(())
    }

    fn set_endpoints(&mut self, key: VhostKey, endpoints: Endpoints) -> Result<(), Refused> {
        if let Some(entry) = self.program.entries.get_mut(&key) {
            entry.endpoints[Family::of(endpoints.group)] = Some(endpoints);
            entry.is_intact = true;
        }
        Ok(())
    }

    fn withdraw(&mut self, key: VhostKey) -> Result<(), Refused> {
        if self.sabotage.removals {
            self.unwithdrawn.insert(key);
            return Err(refused());
        }
        self.unwithdrawn.remove(&key);
        self.program.entries.remove(&key);
        Ok(())
    }

    fn is_intact(&mut self, key: VhostKey) -> bool {
        let entry = self.program.entries.get(&key);
        entry.is_none_or(|entry| entry.is_intact)
    }

    fn own(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused> {
        self.unfenced.insert(address);
        self.change()?;
        self.unfenced.remove(&address);
        self.program.own(address, owner);
        Ok(())
    }

    fn silence(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused> {
        self.unfenced.insert(address);
        self.change()?;
        self.unfenced.remove(&address);
        self.program.silence(address, owner, self.now);
        Ok(())
    }

    fn disown(&mut self, fenced: Fenced) -> Result<(), Refused> {
        if self.sabotage.removals {
            return Err(refused());
        }
        self.unfenced.remove(&fenced.address);
        self.program.disown(fenced);
        Ok(())
    }

    fn fenced(&self) -> Vec<Fenced> {
        self.program.fenced()
    }

    fn remove_unowned_but(&mut self, _links: &Links) {}
}

impl Netlink for Machine {
    fn notifications(&mut self, visit: &mut dyn FnMut(NetlinkEvent)) -> io::Result<MonitorDrained> {
        Ok(self.namespace.monitor.drain(visit))
    }

    fn watch_anew(&mut self) -> io::Result<()> {
        self.namespace.monitor.watch();
        Ok(())
    }

    fn links(&mut self) -> io::Result<Vec<Link>> {
        self.ask(true)?;
        Ok(self.namespace.links().values().cloned().collect())
    }

    fn addresses(&mut self) -> io::Result<Vec<Address>> {
        self.ask(true)?;
        self.namespace.monitor.is_listed();
        let all = self.namespace.addresses.iter().map(|it| it.address);
        Ok(std::iter::once(LOOPBACK).chain(all).collect())
    }

    fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        self.ask(false)?;
        let link = self.namespace.links().get(&ifindex).cloned();
        link.ok_or_else(|| failed(errno::ENODEV))
    }

    fn give(&mut self, orders: &[Order]) -> Vec<io::Result<()>> {
        self.catch_up();
        if self.sabotage.is_slow || self.is_overdue() {
            // Another attempt at an addition would only wait behind the first one.
            let adds = orders.iter().any(|it| matches!(it, Order::Add(..)));
            if !adds || !self.is_overdue() {
                let orders = orders.iter().copied();
                let overdue = |it| Waiting::new(it, Awaited::Overdue, &self.namespace);
                self.waiting.extend(orders.map(overdue));
            }
            return orders.iter().map(|_| Err(late())).collect();
        }
        let by = Actor::Carpd(self.port());
        let outcomes = orders.iter().map(|order| self.order(order, by));
        outcomes.map(answer).collect()
    }

    fn give_later(&mut self, orders: Vec<Order>) {
        self.catch_up();
        let of_bunch = |it| Waiting::new(it, Awaited::Bunch, &self.namespace);
        self.waiting.extend(orders.into_iter().map(of_bunch));
        self.is_bunch_given = true;
        self.requests.push(Request::OrdersGiven);
    }

    fn take_outcomes(&mut self) -> Option<Vec<io::Result<()>>> {
        self.outcomes.take()
    }

    fn is_overdue(&self) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|it| it.awaited == Awaited::Overdue)
    }

    fn finish(&mut self, _limit: Duration) -> bool {
        self.catch_up();
        !self.is_overdue()
    }

    fn port(&self) -> u32 {
        1_000 + self.process
    }
}

impl Wire for Machine {
    fn open(
        &mut self,
        link: &Link,
        _groups: &mut dyn Iterator<Item = IpAddr>,
    ) -> Result<(), (&'static str, io::Error)> {
        if !self.namespace.links().contains_key(&link.index) {
            return Err(("open a packet socket", failed(errno::ENODEV)));
        }
        self.macs.insert(link.index, link.mac);
        self.has_opened = true;
        Ok(())
    }

    fn close(&mut self, ifindex: u32) {
        self.macs.remove(&ifindex);
        self.claims.clear();
        self.claims_paused_until = None;
    }

    fn join(&mut self, _ifindex: u32, _group: IpAddr) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self, _ifindex: u32, _group: IpAddr) {}

    fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> bool {
        let before = self.macs.insert(ifindex, mac);
        before.is_some_and(|before| before != mac)
    }

    fn advertise(
        &mut self,
        ifindex: u32,
        envelope: &Envelope,
        payload: &[u8; HEADER_LEN],
    ) -> io::Result<()> {
        let kind = u8::from(envelope.profile != Profile::Ucarp);
        let packet = Packet {
            family: Family::of(envelope.addressing.source()),
            source: envelope.addressing.source(),
            ethernet_source: [0, 0, 0x5e, 0, kind, envelope.vhid.get()],
            payload: payload.to_vec(),
        };
        let link = self.namespace.links().get(&ifindex);
        if self.sabotage.sending || link.is_none_or(|link| !link.admin_up) {
            self.refused.insert(envelope.vhid.get());
            self.requests.push(Request::Refused(packet));
            return Err(failed(errno::ENETDOWN));
        }
        self.refused.remove(&envelope.vhid.get());
        self.requests.push(Request::Transmit(packet));
        Ok(())
    }

    fn announce(&mut self, _ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.requests.push(Request::Announced(address));
        Ok(())
    }

    fn probe(&mut self, _ifindex: u32, _address: IpAddr) -> io::Result<()> {
        Ok(())
    }

    fn watch(&mut self, _ifindex: u32, addresses: &[IpAddr]) -> io::Result<()> {
        self.watched = addresses.to_vec();
        Ok(())
    }

    fn claims(&mut self, _ifindex: u32, now: Instant) -> io::Result<Claims> {
        let rests = self.claims_paused_until.is_some_and(|until| now < until);
        if rests {
            return Ok(Claims::default());
        }
        let claims = std::mem::take(&mut self.claims);
        self.claims_paused_until = (!claims.is_empty()).then_some(now + CLAIMS_PAUSE);
        Ok(Claims { claims, lost: 0 })
    }

    fn claims_paused_until(&self) -> Option<Instant> {
        self.claims_paused_until
    }
}

impl Scripts for Machine {
    fn enlist(&mut self, instance: InstanceId, _place: &Place, config: &VhostConfig) {
        witness::enlist_seen(self, instance, config);
    }

    fn dismiss(&mut self, instance: InstanceId) {
        witness::dismissed(self, instance);
    }

    fn run(&mut self, instance: InstanceId, wish: Wish) -> Admission {
        let scripts = self.seen.get_mut(&instance);
        let Some(scripts) = scripts.and_then(|seen| seen.scripts.as_mut()) else {
            return Admission::default();
        };
        if scripts.is_idle() {
            self.requests.push(Request::ScriptStarted(instance));
        }
        scripts.ask(wish.which)
    }

    fn runs(&self, instance: InstanceId) -> bool {
        let scripts = self.seen.get(&instance).and_then(|it| it.scripts.as_ref());
        scripts.is_some_and(|scripts| !scripts.is_idle())
    }
}

impl Exclusion for Machine {
    fn lock(&mut self, wanted: &Wanted<'_>, _patient: bool) -> Result<(), lock::LockError> {
        let lock = (wanted.ifindex, wanted.vhid);
        self.is_locked_out = self.sabotage.locks && !self.locks.contains(&lock);
        if self.is_locked_out {
            return Err(lock::LockError::Socket {
                action: "bind",
                name: String::new(),
                source: failed(errno::EADDRINUSE),
            });
        }
        self.locks.insert(lock);
        Ok(())
    }

    fn unlock(&mut self, ifindex: u32) {
        self.locks.retain(|(index, _)| *index != ifindex);
    }

    fn unlock_one(&mut self, wanted: &Wanted<'_>) {
        self.locks.remove(&(wanted.ifindex, wanted.vhid));
    }

    fn living(&mut self) -> Result<Box<dyn Fn(u32, Vhid) -> bool>, lock::LockError> {
        let (locks, others) = (self.locks.clone(), self.sabotage.locks);
        Ok(Box::new(move |ifindex, vhid| {
            others || locks.contains(&(ifindex, vhid))
        }))
    }
}

impl Remember for Machine {
    fn recall(&mut self, _name: &FileName) -> Result<Option<Vec<u8>>, Refused> {
        Ok(None)
    }

    fn keeps_in(&self) -> Option<PathBuf> {
        None
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        PathBuf::from(format!("{name:?}"))
    }

    fn can_keep(&mut self) -> bool {
        false
    }

    fn keep(&mut self, _files: Vec<(FileName, Vec<u8>)>) {}
}

impl Tell for Machine {
    fn tell(&mut self, event: api::Event) {
        self.trace
            .note(self.now, &self.name, || format!("  says {event:?}"));
    }

    fn show(&mut self, _status: &Status) {}
}

impl Observe for Machine {
    fn tells(&mut self, instance: InstanceId, _now: Instant, input: &Input<'_>) {
        witness::told(self, instance, input);
    }

    fn fires(&mut self, instance: InstanceId, now: Instant, looked_at: Instant) {
        self.touched.insert(instance);
        witness::observe(self, instance, |watch| watch.looks(now, looked_at));
    }

    fn decides(&mut self, instance: InstanceId, _now: Instant, action: &Action) {
        witness::decided(self, instance, action);
    }

    fn settles(&mut self, instance: InstanceId, _now: Instant, machine: &VirtualHost) {
        witness::settled(self, instance, machine);
    }
}

impl Machine {
    /// Changes the tables of the program, unless they refuse.
    fn change(&self) -> Result<(), Refused> {
        match self.sabotage.changes {
            true => Err(refused()),
            false => Ok(()),
        }
    }

    /// Asks the kernel for links or addresses, unless it does not answer.
    fn ask(&self, is_list: bool) -> io::Result<()> {
        if self.sabotage.is_slow || self.is_overdue() {
            return Err(late());
        }
        match is_list && self.sabotage.lists {
            true => Err(failed(errno::ENOBUFS)),
            false => Ok(()),
        }
    }

    /// Whether the program delivers a packet. Its other checks do not matter here: a packet of another length is not
    /// an advertisement.
    pub(super) fn event(&self, packet: &Packet) -> Option<AdvertisementEvent> {
        let payload: [u8; LENGTH] = packet.payload.as_slice().try_into().ok()?;
        let vhid = Vhid::new(payload[1])?;
        let key = VhostKey::new(self.ifindex?, 0, vhid);
        if !self.program.delivers(&key, packet.source) {
            return None;
        }
        let mut event = AdvertisementEvent::empty(self.now.as_nanos());
        event.key = key;
        match packet.source {
            IpAddr::V4(source) => event.source[..4].copy_from_slice(&source.octets()),
            IpAddr::V6(source) => event.source = source.octets(),
        }
        event.ethernet_source = packet.ethernet_source;
        event.family = match packet.family {
            Family::Inet => FAMILY_INET,
            Family::Inet6 => FAMILY_INET6,
        };
        event.length = u16::try_from(LENGTH).ok()?;
        event.payload[..LENGTH].copy_from_slice(&payload);
        Some(event)
    }
}

fn refused() -> Refused {
    Refused("no memory".to_owned())
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

fn failed(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
