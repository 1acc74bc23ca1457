//! The virtual addresses in native mode: added and removed by netlink, tagged with our protocol number, and lent to us by
//! the kernel for a while only.
//!
//! Each is added as a host address (/32), whatever prefix it was given. The kernel makes the first address of a subnet its
//! primary and deletes the others with it, so a longer stretch would put other addresses at our mercy, and ours at theirs.
//! `placement` has what the prefix is for.
//!
//! What a run that died left behind stays where it is until the election is settled: the next MASTER of this host
//! takes it over without a gap, and once another MASTER is heard it is removed. Until then the kernel keeps this host from
//! claiming it, where there is a fence.

use std::io;
use std::net::IpAddr;

use carp_common::time::Instant;
use carp_common::units::State;
use tracing::{debug, error, info, warn};

use super::{Engine, Error};
use crate::config::{ADDRESS_PROTOCOL, Ownership};
use crate::io::netlink::{Address, Order};
use crate::io::port::Port;

/// What we have to do with one virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    None,
    /// We told the kernel to add it, but it had no time yet: it may be there soon. The guard asks again; where it is not to
    /// be there any more, it is removed like one of ours.
    Ordered,
    /// We added it, or took it over from an earlier run: ours to renew and to remove.
    Ours,
    /// It was there, added by someone else: it serves as well, and is never touched. That was said.
    Theirs,
}

impl Engine {
    /// Adds the virtual addresses. Whether all of them are there now.
    pub(super) fn claim_addresses(&mut self, vhost: usize) -> bool {
        let mut complete = true;
        for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
            complete &= self.hold(vhost, index, &address);
        }
        // What is left of an earlier run now has another prefix length.
        self.remove_leftovers(vhost, true);
        complete
    }

    /// Sees to it that one address is there. Whether it is.
    pub(super) fn hold(&mut self, vhost: usize, index: usize, address: &Address) -> bool {
        let Address {
            address: ip,
            prefix,
            ..
        } = *address;
        let added = self.netlink.give(Order::Add(*address, self.lease(vhost)));
        let exists = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        if added.as_ref().is_err_and(exists) {
            // An order of ours may have been carried out late.
            self.listen();
        }
        let known = self.known(address).copied();
        let tagged = self.tagged;
        let served = &mut self.vhosts[vhost];
        let interface = served.interface;
        let label = &served.label;
        let holding = &mut served.holdings[index];
        match added {
            Ok(()) => {
                debug!("{label}: added {ip}/{prefix}");
                *holding = Holding::Ours;
            }
            Err(error) if exists(&error) => {
                // A kernel without numbers does not say whose it is.
                let is_late = *holding == Holding::Ordered && !tagged;
                if !is_late && known.is_none_or(|known| known.protocol != ADDRESS_PROTOCOL) {
                    self.hand_over(vhost, index, address);
                    return true;
                }
                if !matches!(*holding, Holding::Ours | Holding::Ordered) {
                    info!("{label}: took over {ip}/{prefix}, left by an earlier run");
                }
                *holding = Holding::Ours;
                // It may have been there before the host's own addresses.
                self.interfaces[interface].unplaced = true;
                if !self.renew(vhost, address) {
                    return false;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let before = std::mem::replace(holding, Holding::Ordered);
                if before != Holding::Ordered {
                    warn!(
                        "{label}: the kernel takes long to add {ip}/{prefix}: going on meanwhile"
                    );
                }
                return false;
            }
            Err(error) => {
                error!("{label}: failed to add {ip}/{prefix}: {error}");
                return false;
            }
        }
        self.vhosts[vhost].routes[index] = None;
        self.place(vhost, index);
        true
    }

    /// One address is somebody else's; says so once.
    pub(super) fn hand_over(&mut self, vhost: usize, index: usize, address: &Address) {
        let served = &mut self.vhosts[vhost];
        let before = std::mem::replace(&mut served.holdings[index], Holding::Theirs);
        if before != Holding::Theirs {
            warn!(
                "{}: {}/{} is there already, added by someone else: it will be left there",
                served.label, address.address, address.prefix
            );
        }
    }

    /// Removes those virtual addresses that we added.
    pub(super) fn release_addresses(&mut self, vhost: usize) {
        // What is somebody else's by now stays.
        self.listen();
        for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
            let ours = self.is_ours(vhost, index, &address);
            if !matches!(
                self.vhosts[vhost].holdings[index],
                Holding::Ours | Holding::Ordered
            ) {
                continue;
            }
            self.vhosts[vhost].holdings[index] = Holding::None;
            if ours {
                self.remove_route(vhost, index);
                let label = self.vhosts[vhost].label.clone();
                self.delete(&label, &address);
            }
        }
    }

    fn renew(&mut self, vhost: usize, address: &Address) -> bool {
        let renewed = self.netlink.give(Order::Renew(*address, self.lease(vhost)));
        if let Err(error) = &renewed {
            let Address {
                address: ip,
                prefix,
                ..
            } = address;
            let label = &self.vhosts[vhost].label;
            error!("{label}: failed to renew the lease of {ip}/{prefix}: {error}");
        }
        renewed.is_ok()
    }

    /// Looks what the orders just given met, and gives back what was not ours.
    pub(super) fn look_back(&mut self) {
        self.listen();
        self.give_back();
    }

    /// Gives back what an order of ours took from somebody else, because he put it there at the same moment.
    pub(super) fn give_back(&mut self) {
        let taken = std::mem::take(&mut self.changes.taken);
        if !self.tagged {
            return;
        }
        for address in taken {
            let Address {
                address: ip,
                prefix,
                ..
            } = address;
            match self.netlink.give(Order::Renew(address, None)) {
                Ok(()) => info!("{ip}/{prefix} is somebody else's since a moment ago: left there"),
                Err(error) => error!("failed to leave {ip}/{prefix} to somebody else: {error}"),
            }
        }
    }

    /// Looks at the virtual addresses that are there before we claim any: an earlier run's are remembered, somebody
    /// else's are said.
    ///
    /// # Errors
    /// The kernel program that is to fence them cannot be loaded.
    pub(super) fn look_for_leftovers(&mut self, interface: usize) -> Result<(), Error> {
        for vhost in self.interfaces[interface].vhosts.clone() {
            if self.vhosts[vhost].config.ownership != Ownership::Native {
                continue;
            }
            let leftovers = self.leftovers(vhost);
            let natives = self.native_addresses(vhost);
            let theirs: Vec<Option<Address>> = natives
                .iter()
                .map(|address| self.known(address).copied())
                .collect();
            let served = &mut self.vhosts[vhost];
            let label = &served.label;
            for Address {
                address: ip,
                prefix,
                ..
            } in &leftovers
            {
                info!(
                    "{label}: {ip}/{prefix} was left by an earlier run: kept until another MASTER is heard"
                );
            }
            served.has_leftovers = !leftovers.is_empty();
            let fence = served.has_leftovers;
            for (holding, known) in served.holdings.iter_mut().zip(theirs) {
                if let Some(known) = known
                    && known.protocol != ADDRESS_PROTOCOL
                    && *holding != Holding::Theirs
                {
                    warn!(
                        "{label}: {}/{} is there already, added by someone else: it will be left there, so this host \
                         answers for it as BACKUP too",
                        known.address, known.prefix
                    );
                    *holding = Holding::Theirs;
                }
            }
            if fence {
                self.datapath.prepare()?;
                self.fence_leftovers(vhost);
            }
        }
        Ok(())
    }

    /// Removes what an earlier run left once the election says that the addresses are not ours.
    pub(super) fn settle_leftovers(&mut self, vhost: usize, now: Instant) {
        let served = &self.vhosts[vhost];
        if !served.has_leftovers {
            return;
        }
        let settled = match served.machine.state() {
            State::Init => true,
            // Unless we take over from it in this very turn.
            State::Backup => {
                served.machine.last_heard().is_some()
                    && served.machine.next_deadline().is_none_or(|at| at > now)
            }
            // Claimed.
            State::Master => false,
        };
        if settled {
            self.remove_leftovers(vhost, false);
        }
    }

    /// Removes what an earlier run left, except what a MASTER holds.
    pub(super) fn remove_leftovers(&mut self, vhost: usize, master: bool) {
        if !std::mem::take(&mut self.vhosts[vhost].has_leftovers) {
            return;
        }
        let held = if master {
            self.native_addresses(vhost)
        } else {
            Vec::new()
        };
        for address in self.leftovers(vhost) {
            if !held.contains(&address) {
                let label = self.vhosts[vhost].label.clone();
                info!(
                    "{label}: removing {}/{}, left by an earlier run",
                    address.address, address.prefix
                );
                self.delete(&label, &address);
            }
        }
        if !master && self.netlink.is_overdue() {
            self.keep_fence(vhost);
        } else if !master {
            self.remove_fence(vhost);
        }
    }

    /// The addresses of a virtual host that carry our protocol number, whatever their prefix length. Those of others
    /// may belong to another carpd that is alive.
    pub(super) fn leftovers(&self, vhost: usize) -> Vec<Address> {
        let served = &self.vhosts[vhost];
        let ifindex = self.interfaces[served.interface]
            .port
            .as_ref()
            .map(Port::ifindex);
        let here = ifindex.and_then(|ifindex| self.addresses.get(&ifindex));
        let ours = |address: &&Address| {
            let mut virtual_ones = served.config.addresses.iter();
            address.protocol == ADDRESS_PROTOCOL
                && virtual_ones.any(|virtual_one| virtual_one.address == address.address)
        };
        here.into_iter().flatten().filter(ours).copied().collect()
    }

    pub(super) fn delete(&mut self, label: &str, address: &Address) {
        let Address {
            address: ip,
            prefix,
            ..
        } = address;
        match self.netlink.give(Order::Delete(*address)) {
            Ok(()) => {
                debug!("{label}: removed {ip}/{prefix}");
                self.look_back();
            }
            // Someone else was faster, or the interface is gone.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EADDRNOTAVAIL | libc::ENODEV)
                ) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                warn!("{label}: the kernel takes long to remove {ip}/{prefix}: going on meanwhile");
            }
            Err(error) => error!("{label}: failed to remove {ip}/{prefix}: {error}"),
        }
    }

    /// What netlink said last about an address with this prefix length.
    pub(super) fn known(&self, wanted: &Address) -> Option<&Address> {
        let here = self.addresses.get(&wanted.ifindex)?;
        here.iter()
            .find(|known| (known.address, known.prefix) == (wanted.address, wanted.prefix))
    }

    /// Whether an address carries somebody else's number, where the kernel tells numbers.
    pub(super) fn is_theirs(&self, known: &Address) -> bool {
        self.tagged && known.protocol != ADDRESS_PROTOCOL
    }

    /// What native mode assigns for a virtual host; nothing while its interface is absent.
    pub(super) fn native_addresses(&self, vhost: usize) -> Vec<Address> {
        let served = &self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return Vec::new();
        };
        let ifindex = port.ifindex();
        let assign = |address: &crate::config::VirtualAddress| Address {
            ifindex,
            address: address.address,
            prefix: host_prefix(address.address),
            protocol: ADDRESS_PROTOCOL,
            primary: true,
        };
        served.config.addresses.iter().map(assign).collect()
    }
}

/// That of one address alone.
pub const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
