//! A host that is a few tables. It carries out requests at once, fails if a test demands that, and records every request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::abi::event::AdvertisementEvent;
use carp_common::abi::layout::VhostKey;
use carp_common::proto::Standing;
use carp_common::proto::per_family::PerFamily;
use carp_common::time::Instant;
use carp_common::units::Vhid;

use super::super::effects::Links;
use super::super::registry::InstanceId;
use crate::api::{self, Status};
use crate::config::Scripts;
use crate::io::datapath::{Endpoints, Fenced, HookLoss};
use crate::io::neighbour_watch::NeighbourClaim;
use crate::io::netlink::{Address, Link, NetlinkEvent, Order, Route};
use crate::io::scripts::{Admission, Which};

/// The netlink ports of the engine, of other programs, and of the kernel.
pub const OURS: u32 = 77;
const SOMEBODY: u32 = 78;
const KERNEL: u32 = 0;

/// Whether, and until when, this host answers for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceState {
    /// It answers until then, unless that is prolonged.
    Open(Instant),
    /// It does not answer.
    Closed,
}

/// An entry of the kernel program for one virtual host.
#[derive(Clone, Copy, Debug)]
pub struct RecordedEntry {
    /// The addresses between which its advertisements are sent, in the families that it is heard in.
    pub endpoints: PerFamily<Option<Endpoints>>,
    /// Its state, and how long that lasts.
    pub standing: Standing,
    /// Whether its process lives.
    pub lives: bool,
    /// Whether it is unchanged.
    pub intact: bool,
}

/// The faults that a test has caused.
#[derive(Debug, Default)]
pub struct Faults {
    /// Adding or renewing an address ends with this error number.
    pub add: Option<i32>,
    /// Deleting an address ends with this error number.
    pub delete: Option<i32>,
    /// Adding or renewing an address works, but the answer is lost.
    pub unanswered: bool,
    /// The kernel takes longer for orders than the engine waits. [`Recorder::catch_up`] carries them out.
    pub slow: bool,
    /// It does not carry them out before the process ends.
    pub stuck: bool,
    /// The interface of an address is deleted just after the address.
    pub vanishing: bool,
    /// Sending an advertisement ends with this error number.
    pub send: Option<i32>,
    /// Sockets cannot be opened.
    pub open: Option<i32>,
    /// Nothing can be attached.
    pub attach: bool,
    /// The kernel program cannot be loaded.
    pub load: bool,
    /// The kernel program has no room.
    pub configure: bool,
    /// The kernel program has no memory to change an entry.
    pub renew: bool,
    /// The kernel program has no memory to fence an address.
    pub own: bool,
    /// It refuses to lift the fence around an address.
    pub disown: bool,
    /// It refuses to remove an entry.
    pub withdraw: bool,
    /// Links and addresses cannot be listed.
    pub list: Option<i32>,
    /// Notifications cannot be read.
    pub watch: Option<i32>,
    /// Locks that another process has: `vhid 2/1`, `10.0.0.101`.
    pub locked: BTreeSet<String>,
    /// The memory cannot be read.
    pub recall: bool,
}

/// The host.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The clock, which only a test moves.
    pub now: Instant,
    /// How far the wall clock is ahead of it.
    pub wall_clock: u64,
    /// The time from which times in [`Self::asked`] are counted.
    pub origin: Instant,
    /// The requests, in order.
    pub asked: Vec<String>,
    /// The events, in order.
    pub told: Vec<api::Event>,
    /// The statuses that were shown.
    pub statuses: Vec<Status>,
    /// The faults that a test has caused.
    pub faults: Faults,

    /// The interfaces.
    pub links: Links,
    /// The addresses, in the kernel's order, each with the time at which its lease ends.
    pub addresses: Vec<(Address, Option<Instant>)>,
    /// The routes.
    pub routes: Vec<Route>,
    /// Notifications that were not read yet.
    pub notifications: VecDeque<NetlinkEvent>,
    /// Notifications were lost.
    pub overrun: bool,
    /// Orders that take long.
    pub delayed: Vec<Order>,
    /// A bunch of orders that takes long. It was given before those.
    pub delayed_bunch: Option<Vec<Order>>,
    /// The outcomes of a bunch of orders.
    pub outcomes: Option<Vec<io::Result<()>>>,

    /// Advertisements that were not read yet, in order of arrival.
    pub arrived: VecDeque<AdvertisementEvent>,
    /// The number of advertisements that did not fit.
    pub lost: u64,
    /// Interfaces that are listened to.
    pub attached: BTreeSet<u32>,
    /// The loss of the program on an interface because of another program, and whether the lookout noticed it.
    pub losses: BTreeMap<u32, HookLoss>,
    pub suspicious: bool,
    /// Sockets that failed.
    pub failures: Vec<(u32, io::Error)>,
    /// Statistics of the kernel program.
    pub counts: BTreeMap<&'static str, u64>,
    /// How many advertisements it delivered for each virtual host.
    pub delivered: BTreeMap<VhostKey, u64>,
    /// Its table of virtual hosts.
    pub entries: BTreeMap<VhostKey, RecordedEntry>,
    /// How often an entry of that table was written.
    pub writes: usize,
    /// Its table of addresses.
    pub owners: Vec<Fenced>,

    /// Interfaces whose sockets are open, with their groups.
    pub open: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// Their Ethernet addresses.
    pub macs: BTreeMap<u32, [u8; 6]>,
    /// The highest counter that was sent.
    pub last_counter: u64,
    /// Addresses whose ARP and neighbour discovery is wanted.
    pub watched: BTreeMap<u32, Vec<IpAddr>>,
    /// Claims of others.
    pub claims: Vec<NeighbourClaim>,

    /// The scripts of the virtual hosts that may request them.
    pub enlisted: BTreeMap<InstanceId, Scripts>,
    /// For each virtual host, the script that runs and the one that waits.
    pub running: BTreeMap<InstanceId, Vec<Which>>,
    /// Our locks, each with the virtual host that it was taken for.
    pub locks: BTreeMap<String, (u32, Vhid)>,
    /// Virtual hosts that another process serves.
    pub living: BTreeSet<(u32, Vhid)>,
    /// The memories that are stored over a restart.
    pub memories: BTreeMap<String, Vec<u8>>,
    /// Whether anything is stored.
    pub keeps: bool,
}

/// Returns the error of an error number.
pub fn failed(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Returns `Ok`, or the error of an error number.
pub fn unless(fault: Option<i32>) -> io::Result<()> {
    fault.map_or(Ok(()), |errno| Err(failed(errno)))
}

impl Recorder {
    /// Records a request.
    pub fn note(&mut self, what: impl Display) {
        self.asked.push(what.to_string());
    }

    /// Returns a time as tests write it: in milliseconds since the start.
    pub fn millis(&self, at: Instant) -> u128 {
        at.saturating_duration_since(self.origin).as_millis()
    }

    /// Plugs a link in, or changes it.
    pub fn plug(&mut self, link: Link) {
        self.links.insert(link.index, link.clone());
        self.notifications.push_back(NetlinkEvent::Link(link));
    }

    /// Changes a link that is there.
    pub fn change(&mut self, ifindex: u32, change: impl FnOnce(&mut Link)) {
        let mut link = self.links[&ifindex].clone();
        change(&mut link);
        self.plug(link);
    }

    /// Deletes a link, and what is on it.
    pub fn unplug(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.addresses
            .retain(|(address, _)| address.ifindex != ifindex);
        self.routes.retain(|route| route.ifindex != ifindex);
        self.notifications
            .push_back(NetlinkEvent::LinkGone { ifindex });
    }

    /// Adds an address, or replaces one, as another program.
    pub fn assign(&mut self, address: Address) {
        self.put(address, None);
    }

    /// Removes an address of any prefix length, as another program.
    pub fn remove(&mut self, ip: IpAddr) {
        let found = self.addresses.iter().find(|(it, _)| it.address == ip);
        let address = found.expect("it is there").0;
        self.take_away(&address, SOMEBODY);
    }

    /// Returns whether an address is there.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(it, _)| it.address == ip)
    }

    /// Returns when the lease of an address ends.
    pub fn lease_end(&self, ip: IpAddr) -> Option<Instant> {
        assert!(self.has(ip), "{ip} is there");
        self.addresses.iter().find(|(it, _)| it.address == ip)?.1
    }

    /// Returns the next time at which the kernel does something by itself.
    pub fn next_end(&self) -> Option<Instant> {
        self.addresses.iter().filter_map(|(_, ends)| *ends).min()
    }

    /// Removes the addresses whose lease is over.
    pub fn expire(&mut self) {
        let over = |ends: Option<Instant>| ends.is_some_and(|ends| ends <= self.now);
        let gone = self.addresses.iter().filter(|(_, ends)| over(*ends));
        let gone: Vec<Address> = gone.map(|(address, _)| *address).collect();
        for address in gone {
            self.take_away(&address, KERNEL);
        }
    }

    /// Returns whether the fence lets the host answer for an address.
    pub fn answers_for(&self, ip: IpAddr) -> bool {
        match self.fence(ip) {
            Some(FenceState::Open(until)) => self.now < until,
            Some(FenceState::Closed) => false,
            None => true,
        }
    }

    /// Returns what the kernel program knows about an address.
    pub fn fence(&self, ip: IpAddr) -> Option<FenceState> {
        let found = self.owners.iter().find(|it| it.address == ip)?;
        let entry = found.owner.and_then(|owner| self.entries.get(&owner.key()));
        let until = entry.map_or(Instant::ZERO, |entry| entry.standing.owns_until);
        Some(match until {
            Instant::ZERO => FenceState::Closed,
            until => FenceState::Open(until),
        })
    }

    /// Requests a script of a virtual host.
    pub fn ask(&mut self, id: InstanceId, which: Which) -> Admission {
        let scripts = &self.enlisted[&id];
        let script = match which {
            Which::Up => &scripts.up,
            Which::Down => &scripts.down,
        };
        if script.is_none() {
            return Admission::default();
        }
        let running = self.running.entry(id).or_default();
        let overtakes = running.len() > 1;
        running.truncate(1);
        let accepted = running.last() != Some(&which);
        running.extend(accepted.then_some(which));
        Admission {
            accepted,
            overtakes,
        }
    }

    /// Ends a script, and the one that ran before it.
    pub fn end(&mut self, id: InstanceId, which: Which) {
        let running = self.running.entry(id).or_default();
        let ended = running.iter().position(|it| *it == which);
        running.drain(..ended.map_or(0, |place| place + 1));
    }

    /// Gives an address an owner, or takes it away.
    pub fn set_owner(&mut self, fenced: Fenced, owned: bool) {
        self.owners.retain(|it| it.address != fenced.address);
        self.owners.extend(owned.then_some(fenced));
    }

    /// Sets the state of an entry, and records what that means for the addresses of its virtual host.
    pub fn set_standing(&mut self, key: VhostKey, standing: Standing) {
        let before = self
            .entries
            .get_mut(&key)
            .map(|entry| std::mem::replace(&mut entry.standing, standing).owns_until);
        self.writes += 1;
        let addresses: Vec<IpAddr> = self
            .owners
            .iter()
            .filter(|it| it.owner.is_some_and(|owner| owner.key() == key))
            .map(|it| it.address)
            .collect();
        for address in addresses {
            match standing.owns_until {
                until if before == Some(until) => {}
                Instant::ZERO => self.note(format_args!("silence {address}")),
                until => {
                    let text = format!("answer {address} until {}", self.millis(until));
                    self.note(text);
                }
            }
        }
    }

    /// Counts something in the kernel program.
    pub fn count_one(&mut self, counter: Counter) {
        *self.counts.entry(counter.name()).or_default() += 1;
    }

    /// Carries out the orders that were slow.
    pub fn catch_up(&mut self) {
        self.faults.slow = false;
        if let Some(bunch) = self.delayed_bunch.take() {
            self.outcomes = Some(bunch.iter().map(|order| self.carry_out(order)).collect());
        }
        for order in std::mem::take(&mut self.delayed) {
            let _ = self.carry_out(&order);
        }
    }

    /// Takes an order of the engine.
    pub fn order(&mut self, order: &Order) -> io::Result<()> {
        let text = self.words(order);
        self.note(text);
        if self.faults.slow {
            self.delayed.push(*order);
            return Err(io::ErrorKind::TimedOut.into());
        }
        let outcome = self.carry_out(order);
        if let Order::Delete(address) = order
            && self.faults.vanishing
        {
            self.unplug(address.ifindex);
        }
        let brings = matches!(order, Order::Add(..) | Order::Renew(..));
        unless((brings && self.faults.unanswered).then_some(libc::ENOBUFS))?;
        outcome
    }

    fn words(&self, order: &Order) -> String {
        let lease = |lease: &Option<Duration>| match lease {
            Some(lease) => format!("for {} s", lease.as_secs()),
            None => "for good".to_owned(),
        };
        let cidr = |address: &Address| format!("{}/{}", address.address, address.prefix);
        match order {
            Order::Add(address, time) => format!("add {} {}", cidr(address), lease(time)),
            Order::Renew(address, time) => {
                format!(
                    "renew {} {} as {}",
                    cidr(address),
                    lease(time),
                    address.protocol
                )
            }
            Order::Delete(address) => format!("delete {}", cidr(address)),
            Order::AddRoute(route) => format!("add-route {}/{}", route.subnet, route.prefix),
            Order::DeleteRoute(route) => format!("delete-route {}/{}", route.subnet, route.prefix),
        }
    }

    fn carry_out(&mut self, order: &Order) -> io::Result<()> {
        let end = |now: Instant, lease: &Option<Duration>| lease.map(|lease| now + lease);
        match order {
            Order::Add(address, lease) => {
                unless(self.faults.add)?;
                if self.addresses.iter().any(|(it, _)| it.is_same(address)) {
                    return Err(failed(libc::EEXIST));
                }
                self.put(*address, end(self.now, lease));
            }
            Order::Renew(address, lease) => {
                unless(self.faults.add)?;
                self.put(*address, end(self.now, lease));
            }
            Order::Delete(address) => {
                unless(self.faults.delete)?;
                if !self.take_away(address, OURS) {
                    return Err(failed(libc::EADDRNOTAVAIL));
                }
            }
            Order::AddRoute(route) => {
                if self.routes.contains(route) {
                    return Err(failed(libc::EEXIST));
                }
                self.routes.push(*route);
            }
            Order::DeleteRoute(route) => {
                if !self.routes.contains(route) {
                    return Err(failed(libc::ESRCH));
                }
                self.routes.retain(|it| it != route);
            }
        }
        Ok(())
    }

    /// Adds an address, or changes its number and lease.
    pub fn put(&mut self, address: Address, ends: Option<Instant>) {
        match self
            .addresses
            .iter_mut()
            .find(|(it, _)| it.is_same(&address))
        {
            Some(known) => *known = (address, ends),
            None => self.addresses.push((address, ends)),
        }
        self.notifications.push_back(NetlinkEvent::Address(address));
    }

    /// Removes an address on the order of a netlink port.
    pub fn take_away(&mut self, wanted: &Address, by: u32) -> bool {
        let found = self.addresses.iter().position(|(it, _)| it.is_same(wanted));
        let Some(place) = found else {
            return false;
        };
        let (address, _) = self.addresses.remove(place);
        self.routes
            .retain(|route| route.source != Some(address.address));
        self.notifications
            .push_back(NetlinkEvent::AddressGone { address, by });
        true
    }
}
