//! The kernel program of one host: the packets that it delivers, and the addresses for which it lets the host answer.
//!
//! It is pinned, so it outlives the process that attached it. The configured virtual hosts no longer matter
//! then, because no process reads their packets; the addresses and their owners do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carp_common::abi::layout::VhostKey;
use carp_common::proto::Standing;
use carp_common::proto::per_family::PerFamily;
use carp_common::time::Instant;
use carp_common::units::Family;
use carp_daemon::io::datapath::{AddressOwner, Endpoints, Fenced};

/// The entry of one virtual host.
#[derive(Clone, Copy, Debug)]
pub struct ProgramEntry {
    /// The endpoints of its advertisements, in the families that it has addresses in.
    pub endpoints: PerFamily<Option<Endpoints>>,
    /// Its standing, and how long that is valid.
    pub standing: Standing,
    /// Whether its process reads the packets that are delivered for it.
    pub is_heard: bool,
    /// Whether no other program changed or removed the entry.
    pub is_intact: bool,
}

/// The programs, and their tables.
#[derive(Debug)]
pub struct Program {
    /// Whether the kernel supports programs at all; otherwise there are sockets, and no fence.
    pub is_possible: bool,
    /// Whether echoes of the host's own frames are dropped.
    pub drops_echoes: bool,
    /// By interface: whether the program is attached there; other programs can detach it.
    attached: BTreeMap<u32, bool>,
    /// By virtual host.
    pub entries: BTreeMap<VhostKey, ProgramEntry>,
    /// By address: its owner, if known.
    owners: BTreeMap<IpAddr, Option<AddressOwner>>,
}

impl Program {
    /// Creates the state in which nothing is attached.
    #[must_use]
    pub const fn new(is_possible: bool, drops_echoes: bool) -> Self {
        Self {
            is_possible,
            drops_echoes,
            attached: BTreeMap::new(),
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    /// Attaches the program, or opens a socket, on an interface.
    pub fn attach(&mut self, ifindex: u32) {
        self.attached.insert(ifindex, true);
    }

    /// Detaches it.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
    }

    /// Detaches it, as another program does. Sockets cannot be taken away.
    pub fn take_off(&mut self, ifindex: u32) {
        if let Some(in_place) = self.attached.get_mut(&ifindex) {
            *in_place = !self.is_possible;
        }
    }

    /// Removes the entries of virtual hosts, as another program does. No other program can reach the tables of
    /// sockets.
    pub fn damage_entries(&mut self) {
        for entry in self.entries.values_mut() {
            entry.is_intact = !self.is_possible;
        }
    }

    /// Whether another program detached it.
    #[must_use]
    pub fn is_lost(&self, ifindex: u32) -> bool {
        self.attached.get(&ifindex) == Some(&false)
    }

    /// Whether another program detached it from any interface.
    #[must_use]
    pub fn is_any_lost(&self) -> bool {
        self.attached.values().any(|in_place| !in_place)
    }

    /// Whether another program removed or changed an entry.
    #[must_use]
    pub fn is_any_damaged(&self) -> bool {
        self.entries.values().any(|entry| !entry.is_intact)
    }

    /// Whether a packet from `source` reaches the process.
    #[must_use]
    pub fn delivers(&self, key: &VhostKey, source: IpAddr) -> bool {
        let in_place = self.attached.get(&key.ifindex) == Some(&true);
        let entry = self.entries.get(key);
        let entry = entry.filter(|entry| entry.is_heard && entry.is_intact);
        let endpoints = entry.and_then(|entry| entry.endpoints[Family::of(source)]);
        let is_echo = |its: Endpoints| self.drops_echoes && its.own == Some(source);
        in_place && endpoints.is_some_and(|its| !is_echo(its))
    }

    /// Whether the host may answer for an address when asked on an interface.
    #[must_use]
    pub fn lets_answer(&self, ifindex: u32, ip: IpAddr, now: Instant) -> bool {
        let in_place = self.attached.get(&ifindex) == Some(&true);
        let owner = self.owners.get(&ip);
        !self.is_possible || !in_place || owner.is_none_or(|owner| self.is_master(*owner, now))
    }

    /// Whether a virtual host may answer for its addresses.
    fn is_master(&self, owner: Option<AddressOwner>, now: Instant) -> bool {
        let entry = owner.and_then(|owner| self.entries.get(&owner.key()));
        entry.is_some_and(|entry| entry.is_intact && now <= entry.standing.owns_until)
    }

    /// Whether the owner of an address is a virtual host of a process that was killed.
    #[must_use]
    pub fn is_inherited(&self, ip: IpAddr) -> bool {
        let owner = self.owners.get(&ip).copied().flatten();
        let entry = owner.and_then(|owner| self.entries.get(&owner.key()));
        entry.is_some_and(|entry| !entry.is_heard)
    }

    /// Writes the standing of a virtual host, and how long that is valid.
    pub fn renew(&mut self, key: &VhostKey, standing: Standing) {
        if let Some(entry) = self.entries.get_mut(key) {
            // The entry is written as a whole, whatever happened to it before.
            (entry.standing, entry.is_intact) = (standing, true);
        }
    }

    /// Lets the host answer for an address while its owner may.
    pub fn own(&mut self, address: IpAddr, owner: AddressOwner) {
        if self.is_possible {
            self.owners.insert(address, Some(owner));
        }
    }

    /// The same for an owner that may not answer now, unless another virtual host may.
    pub fn silence(&mut self, address: IpAddr, owner: AddressOwner, now: Instant) {
        if self
            .entries
            .get(&owner.key())
            .is_some_and(|entry| !entry.is_heard)
        {
            self.entries.remove(&owner.key());
        }
        let known = self.owners.get(&address).copied();
        if known.is_none_or(|it| it == Some(owner) || !self.is_master(it, now)) {
            self.own(address, owner);
        }
    }

    /// Lets the host answer for an address, unless it belongs to another virtual host.
    pub fn disown(&mut self, Fenced { address, owner }: Fenced) {
        if self.owners.get(&address) == Some(&owner) {
            self.owners.remove(&address);
        }
    }

    /// Returns the addresses that have an owner.
    #[must_use]
    pub fn fenced(&self) -> Vec<Fenced> {
        let entries = self.owners.iter();
        entries
            .map(|(address, owner)| Fenced {
                address: *address,
                owner: *owner,
            })
            .collect()
    }

    /// Removes the entries of a deleted interface.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        self.owners
            .retain(|_, owner| owner.is_none_or(|owner| owner.ifindex != ifindex));
        self.entries.retain(|key, _| key.ifindex != ifindex);
    }

    /// Notes that the process was killed. Programs are pinned, sockets are not.
    pub fn is_orphaned(&mut self) {
        for entry in self.entries.values_mut() {
            entry.is_heard = false;
        }
        if !self.is_possible {
            self.attached.clear();
            self.entries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use carp_common::units::{State, Vhid};

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));
    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1));

    const fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn owner(vhid: u8) -> AddressOwner {
        AddressOwner {
            ifindex: 2,
            vhid: Vhid::new(vhid).unwrap(),
        }
    }

    fn fenced(vhid: u8) -> Fenced {
        Fenced {
            address: ADDRESS,
            owner: Some(owner(vhid)),
        }
    }

    const fn until(owns_until: Instant) -> Standing {
        Standing {
            state: State::Master,
            alive_until: at(9),
            owns_until,
        }
    }

    fn entry(owns_until: Instant) -> ProgramEntry {
        ProgramEntry {
            endpoints: PerFamily {
                inet: Some(Endpoints {
                    group: [224, 0, 0, 18].into(),
                    own: Some(OWN),
                }),
                inet6: None,
            },
            standing: until(owns_until),
            is_heard: true,
            is_intact: true,
        }
    }

    /// Vhid 1 owns the address until then.
    fn program(owns_until: Instant) -> Program {
        let mut program = Program::new(true, true);
        program.attach(2);
        program.entries.insert(owner(1).key(), entry(owns_until));
        program.own(ADDRESS, owner(1));
        program
    }

    #[test]
    fn a_fence_closes_with_its_owner_where_the_program_is_in_place() {
        let mut program = program(at(5));
        assert!(program.lets_answer(2, [10, 0, 0, 101].into(), at(9)));
        assert!(program.lets_answer(2, ADDRESS, at(5)));
        assert!(!program.lets_answer(2, ADDRESS, at(6)));
        program.renew(&owner(1).key(), until(at(7)));
        assert!(program.lets_answer(2, ADDRESS, at(6)));
        program.is_orphaned();
        assert!(program.lets_answer(2, ADDRESS, at(6)), "it is pinned");
        assert!(!program.lets_answer(2, ADDRESS, at(8)), "it is pinned");
        program.take_off(2);
        assert!(program.is_lost(2) && program.is_any_lost());
        assert!(program.lets_answer(2, ADDRESS, at(8)));
    }

    #[test]
    fn an_address_without_its_owner_is_silent() {
        let mut program = program(at(5));
        program.entries.remove(&owner(1).key());
        assert!(!program.lets_answer(2, ADDRESS, at(1)));
        program.disown(fenced(1));
        assert!(program.lets_answer(2, ADDRESS, at(1)));
    }

    #[test]
    fn entries_that_a_dead_run_left_open_end_with_the_next_run() {
        let mut program = program(at(5));
        program.is_orphaned();
        program.silence(ADDRESS, owner(1), at(2));
        assert!(!program.lets_answer(2, ADDRESS, at(2)));
    }

    #[test]
    fn an_entry_of_another_virtual_host_that_is_open_stays() {
        let mut program = program(at(5));
        program.silence(ADDRESS, owner(2), at(4));
        program.disown(fenced(2));
        assert!(program.lets_answer(2, ADDRESS, at(4)));
        program.silence(ADDRESS, owner(2), at(6));
        program.disown(fenced(1));
        assert_eq!(program.fenced(), [fenced(2)]);
        program.forget(2);
        assert_eq!(program.fenced(), []);
    }

    #[test]
    fn a_socket_cannot_be_taken_away_and_fences_nothing() {
        let mut program = Program::new(false, true);
        program.attach(2);
        program.take_off(2);
        assert!(!program.is_any_lost());
        program.own(ADDRESS, owner(1));
        assert!(program.lets_answer(2, ADDRESS, at(2)));
    }

    #[test]
    fn a_configured_advertisement_that_is_no_echo_is_delivered() {
        let mut program = Program::new(true, true);
        let key = owner(1).key();
        let peer = [10, 9, 0, 2].into();
        program.attach(2);
        assert!(!program.delivers(&key, peer));
        program.entries.insert(key, entry(at(1)));
        assert!(program.delivers(&key, peer) && !program.delivers(&key, OWN));
        program.drops_echoes = false;
        assert!(program.delivers(&key, OWN));
        for other in [
            ProgramEntry {
                is_intact: false,
                ..entry(at(1))
            },
            ProgramEntry {
                is_heard: false,
                ..entry(at(1))
            },
        ] {
            program.entries.insert(key, other);
            assert!(!program.delivers(&key, peer));
        }
    }
}
