//! The virtual addresses in native mode: added and removed by netlink, tagged with our protocol number.

use std::io;

use tracing::{debug, error, info, warn};

use super::Engine;
use crate::config::{ADDRESS_PROTOCOL, Ownership};
use crate::io::netlink::Address;

impl Engine {
    /// Adds the virtual addresses. Whether all of them are there now.
    ///
    /// One that is there already and not ours was configured by someone else: it serves as well, and stays when we
    /// leave.
    pub(super) fn claim_addresses(&mut self, vhost: usize) -> bool {
        let mut complete = true;
        for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
            let Address {
                address: ip,
                prefix,
                ..
            } = address;
            let label = &self.vhosts[vhost].label;
            match self.requests.add_address(&address) {
                Ok(()) => {
                    debug!("{label}: added {ip}/{prefix}");
                    self.vhosts[vhost].owned[index] = true;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !self.vhosts[vhost].owned[index] {
                        warn!(
                            "{label}: {ip}/{prefix} is there already, added by someone else: it will be left there"
                        );
                    }
                }
                Err(error) => {
                    complete = false;
                    error!("{label}: failed to add {ip}/{prefix}: {error}");
                }
            }
        }
        complete
    }

    /// Removes those virtual addresses that we added.
    pub(super) fn release_addresses(&mut self, vhost: usize) {
        for (index, address) in self.native_addresses(vhost).into_iter().enumerate() {
            if std::mem::take(&mut self.vhosts[vhost].owned[index]) {
                self.delete(vhost, &address);
            }
        }
    }

    /// Removes what an earlier run left on an interface: the addresses of our virtual hosts that carry our protocol
    /// number. Every virtual host starts without them. Those of others may belong to another carpd that is alive.
    pub(super) fn remove_leftovers(&mut self, interface: usize) {
        let Some(ifindex) = self.interfaces[interface]
            .port
            .as_ref()
            .map(crate::io::port::Port::ifindex)
        else {
            return;
        };
        let here = self.addresses.get(&ifindex).cloned().unwrap_or_default();
        for vhost in self.interfaces[interface].vhosts.clone() {
            let served = &self.vhosts[vhost];
            if served.config.ownership != Ownership::Native {
                continue;
            }
            let ours = |address: &&Address| {
                address.protocol == ADDRESS_PROTOCOL
                    && served
                        .config
                        .addresses
                        .iter()
                        .any(|virtual_one| virtual_one.address == address.address)
            };
            for address in here.iter().filter(ours).copied().collect::<Vec<_>>() {
                info!(
                    "{}: removing {}, left by an earlier run",
                    self.vhosts[vhost].label, address.address
                );
                self.delete(vhost, &address);
            }
        }
    }

    fn delete(&mut self, vhost: usize, address: &Address) {
        let Address {
            address: ip,
            prefix,
            ..
        } = address;
        let label = &self.vhosts[vhost].label;
        match self.requests.delete_address(address) {
            Ok(()) => debug!("{label}: removed {ip}/{prefix}"),
            // Someone else was faster, or the interface is gone.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EADDRNOTAVAIL | libc::ENODEV)
                ) => {}
            Err(error) => error!("{label}: failed to remove {ip}/{prefix}: {error}"),
        }
    }

    /// What native mode assigns for a virtual host; nothing while its interface is absent.
    fn native_addresses(&self, vhost: usize) -> Vec<Address> {
        let served = &self.vhosts[vhost];
        let Some(port) = &self.interfaces[served.interface].port else {
            return Vec::new();
        };
        let ifindex = port.ifindex();
        let assign = |address: &crate::config::VirtualAddress| Address {
            ifindex,
            address: address.address,
            prefix: address.prefix,
            protocol: ADDRESS_PROTOCOL,
        };
        served.config.addresses.iter().map(assign).collect()
    }
}
