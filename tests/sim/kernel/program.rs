//! The kernel program of one host: what it delivers, and what it lets the host answer for.
//!
//! It is pinned, so that it outlives the process that attached it. What it was told about virtual hosts does not matter
//! then, because nobody reads what it delivers; what it was told about addresses does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carp_common::abi::layout::VhostKey;
use carp_common::time::Instant;
use carp_daemon::io::datapath::{Endpoints, Fenced, Owner};

/// What was told about one virtual host.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Between whom its advertisements go.
    pub endpoints: Endpoints,
    /// Until when its carpd counts as alive.
    pub alive_until: Instant,
    /// Nobody else changed or removed it.
    pub is_intact: bool,
}

/// Programs, and the tables that they look into.
#[derive(Debug)]
pub struct Program {
    /// Whether the kernel has programs at all; otherwise there are sockets, and no fence.
    pub is_possible: bool,
    /// Echoes of what a host itself sent are dropped.
    pub drops_echoes: bool,
    /// By interface: whether it is in its place, which others can change.
    attached: BTreeMap<u32, bool>,
    /// By virtual host.
    pub entries: BTreeMap<VhostKey, Entry>,
    fence: BTreeMap<IpAddr, (Owner, Instant)>,
}

impl Program {
    /// Nothing is attached yet.
    #[must_use]
    pub const fn new(is_possible: bool, drops_echoes: bool) -> Self {
        Self {
            is_possible,
            drops_echoes,
            attached: BTreeMap::new(),
            entries: BTreeMap::new(),
            fence: BTreeMap::new(),
        }
    }

    /// Puts the program, or a socket, on an interface.
    pub fn attach(&mut self, ifindex: u32) {
        self.attached.insert(ifindex, true);
    }

    /// Takes it off.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
    }

    /// Somebody else takes it off. Nobody can take a socket away.
    pub fn take_off(&mut self, ifindex: u32) {
        if let Some(in_place) = self.attached.get_mut(&ifindex) {
            *in_place = !self.is_possible;
        }
    }

    /// Whether it was taken off by somebody else.
    #[must_use]
    pub fn is_lost(&self, ifindex: u32) -> bool {
        self.attached.get(&ifindex) == Some(&false)
    }

    /// Whether it is anywhere but in its place.
    #[must_use]
    pub fn is_any_lost(&self) -> bool {
        self.attached.values().any(|in_place| !in_place)
    }

    /// Whether a packet from `source` reaches the process.
    #[must_use]
    pub fn delivers(&self, key: &VhostKey, source: IpAddr) -> bool {
        let in_place = self.attached.get(&key.ifindex) == Some(&true);
        let entry = self.entries.get(key).filter(|entry| entry.is_intact);
        let is_echo = |entry: &Entry| self.drops_echoes && entry.endpoints.own == Some(source);
        in_place && entry.is_some_and(|entry| !is_echo(entry))
    }

    /// Whether the host may answer for an address, asked on an interface.
    #[must_use]
    pub fn lets_answer(&self, ifindex: u32, ip: IpAddr, now: Instant) -> bool {
        let in_place = self.attached.get(&ifindex) == Some(&true);
        let open = |(_, deadline): &(Owner, Instant)| now < *deadline;
        !self.is_possible || !in_place || self.fence.get(&ip).is_none_or(open)
    }

    /// The host may answer for an address until then.
    pub fn fence(&mut self, Fenced { address, owner }: Fenced, deadline: Instant) {
        if self.is_possible {
            self.fence.insert(address, (owner, deadline));
        }
    }

    /// The host may not answer for an address, unless another virtual host may.
    pub fn silence(&mut self, fenced: Fenced, now: Instant) {
        let known = self.fence.get(&fenced.address);
        if known.is_none_or(|(owner, deadline)| *owner == fenced.owner || *deadline <= now) {
            self.fence(fenced, Instant::ZERO);
        }
    }

    /// An address is not fenced any more, unless for another virtual host.
    pub fn unfence(&mut self, Fenced { address, owner }: Fenced) {
        if self.fence.get(&address).is_some_and(|(it, _)| *it == owner) {
            self.fence.remove(&address);
        }
    }

    /// Returns the fenced addresses.
    #[must_use]
    pub fn fenced(&self) -> Vec<Fenced> {
        let entries = self.fence.iter();
        entries
            .map(|(address, (owner, _))| Fenced {
                address: *address,
                owner: *owner,
            })
            .collect()
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        self.fence.retain(|_, (owner, _)| owner.ifindex != ifindex);
        self.entries.retain(|key, _| key.ifindex != ifindex);
    }

    /// The process was killed. Programs are pinned, sockets are not.
    pub fn is_orphaned(&mut self) {
        self.entries.clear();
        if !self.is_possible {
            self.attached.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use carp_common::units::{Family, Vhid};

    use super::*;

    const fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn fenced(vhid: u8) -> Fenced {
        Fenced {
            address: [10, 0, 0, 100].into(),
            owner: Owner {
                ifindex: 2,
                vhid: Vhid::new(vhid).unwrap(),
            },
        }
    }

    #[test]
    fn a_fence_closes_at_its_deadline_where_the_program_is_in_place() {
        let mut program = Program::new(true, true);
        let ip = fenced(1).address;
        program.attach(2);
        assert!(program.lets_answer(2, ip, at(1)), "it is not fenced");
        program.fence(fenced(1), at(5));
        assert!(program.lets_answer(2, ip, at(4)));
        assert!(!program.lets_answer(2, ip, at(5)));
        program.is_orphaned();
        assert!(!program.lets_answer(2, ip, at(5)), "it is pinned");
        program.take_off(2);
        assert!(program.is_lost(2) && program.is_any_lost());
        assert!(program.lets_answer(2, ip, at(5)));
    }

    #[test]
    fn an_entry_of_another_virtual_host_that_is_open_stays() {
        let mut program = Program::new(true, true);
        program.attach(2);
        program.fence(fenced(1), at(5));
        program.silence(fenced(2), at(4));
        program.unfence(fenced(2));
        assert!(program.lets_answer(2, fenced(1).address, at(4)));
        program.silence(fenced(2), at(6));
        program.unfence(fenced(1));
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
        program.fence(fenced(1), at(1));
        assert!(program.lets_answer(2, fenced(1).address, at(2)));
    }

    #[test]
    fn what_is_configured_and_no_echo_is_delivered() {
        let mut program = Program::new(true, true);
        let key = VhostKey::new(2, 0, Family::Inet, Vhid::new(1).unwrap());
        let own = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
        let peer = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
        program.attach(2);
        assert!(!program.delivers(&key, peer));
        let entry = Entry {
            endpoints: Endpoints {
                group: [224, 0, 0, 18].into(),
                own: Some(own),
            },
            alive_until: at(9),
            is_intact: true,
        };
        program.entries.insert(key, entry);
        assert!(program.delivers(&key, peer) && !program.delivers(&key, own));
        program.drops_echoes = false;
        assert!(program.delivers(&key, own));
        program.entries.insert(
            key,
            Entry {
                is_intact: false,
                ..entry
            },
        );
        assert!(!program.delivers(&key, peer));
    }
}
