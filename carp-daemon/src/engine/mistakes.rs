//! Checks at the start whether the configuration makes sense on this host.
//!
//! It refuses a configuration that can never work, and warns of one that may work later or with the help of a script.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use caps::Capability;
use carp_common::proto::Settings;
use carp_common::units::Family;

use super::context::Context;
use super::effects::Effects;
use super::error::EngineError;
use super::instance::identity::Identity;
use super::interface::Interface;
use crate::api::event::interface::Source;
use crate::config::{ADDRESS_PROTOCOL, Subnet, VhostConfig};
use crate::io::netlink::{Address, Link, Order};
use crate::privileges::MissingCapabilities;

/// # Errors
/// Returns an error if two virtual hosts are the same, by two names of an interface. With one name, the configuration is
/// refused before.
pub fn refuse_twins(vhosts: &[VhostConfig]) -> Result<(), EngineError> {
    let mut seen = BTreeSet::new();
    match vhosts
        .iter()
        .find(|it| !seen.insert((&it.interface, it.election.vhid.get())))
    {
        None => Ok(()),
        Some(VhostConfig {
            interface,
            election: Settings { vhid, .. },
            ..
        }) => Err(EngineError::Unworkable(format!(
            "vhid {vhid} on {interface} is given twice, by two names of that interface: one of them needs another --vhid or \
             --interface"
        ))),
    }
}

/// Checks whether this process may assign addresses, with an order that changes nothing: it deletes an address from an
/// interface that cannot exist. In another user namespace, rights may be missing in spite of the capability.
///
/// # Errors
/// Returns an error if it may not, because it would become MASTER without its addresses.
pub fn refuse_without_the_right_to_assign<E: Effects>(
    cx: &mut Context<E>,
) -> Result<(), EngineError> {
    let (ifindex, address) = (i32::MAX.unsigned_abs(), Ipv4Addr::UNSPECIFIED.into());
    let nowhere = Address::new(ifindex, address, 32, ADDRESS_PROTOCOL);
    match cx.give(Order::Delete(nowhere)) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let lacking = MissingCapabilities::of(&[Capability::CAP_NET_ADMIN]);
            Err(EngineError::NotPermitted {
                action: "add and remove virtual addresses".to_owned(),
                way_out: format!(
                    "{}; or let scripts that may do it own the addresses (--upscript)",
                    lacking.way_out()
                ),
            })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// # Errors
/// Returns the mistake that can never work on this interface.
pub fn refuse_the_impossible<'a, E>(
    vhosts: impl Iterator<Item = &'a Identity>,
    interface: &Interface,
    link: &Link,
    cx: &Context<E>,
) -> Result<(), EngineError> {
    if !link.ethernet {
        return Err(EngineError::NotEthernet(link.name.clone()));
    }
    let name = &link.name;
    let own = own_subnets(cx.namespace.on(link.index));
    for who in vhosts {
        for address in who.addresses() {
            let IpAddr::V4(address) = address else {
                continue;
            };
            if let Some(reserved) = own.iter().find_map(|subnet| subnet.reserved(address)) {
                return Err(EngineError::Unworkable(format!(
                    "{address} is {reserved}, which {name} is in: give an address of a host with --addr"
                )));
            }
        }
        let is_virtual = |subnet: &Subnet| interface.is_virtual(subnet.address.into());
        if who.needs_source(Family::Inet) && !own.is_empty() && own.iter().all(is_virtual) {
            return Err(EngineError::Unworkable(format!(
                "{} is the only address of {name}, and a virtual address comes and goes: give {name} an address of \
                 its own beside it, or name another one with --addr",
                own[0].address
            )));
        }
    }
    Ok(())
}

/// Warns of probable mistakes.
pub fn warn_of_the_unlikely<'a, E: Effects>(
    vhosts: impl Iterator<Item = &'a Identity>,
    cx: &mut Context<E>,
) {
    for who in vhosts {
        if let Some(source) = who.config.source
            && !cx.namespace.has(source.into())
        {
            cx.tell(&who.place, Source::FixedAbsent { source });
        }
    }
}

/// Returns the IPv4 addresses of an interface that no carpd added, each with its subnet.
fn own_subnets(here: &[Address]) -> Vec<Subnet> {
    let own = here
        .iter()
        .filter(|address| address.protocol != ADDRESS_PROTOCOL);
    let subnet = |address: &Address| match address.address {
        IpAddr::V4(v4) => Some(Subnet {
            address: v4,
            prefix: address.prefix,
        }),
        IpAddr::V6(_) => None,
    };
    own.filter_map(subnet).collect()
}
