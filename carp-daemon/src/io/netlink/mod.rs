//! rtnetlink: what links and addresses there are, what happens to them, and the addresses that native mode assigns.
//!
//! | Module | What it is |
//! |---|---|
//! | `address` | an address with its scope and flags |
//! | [`message`] | datagrams to [`Event`]s |
//! | `monitor` | the kernel's notifications, and when some were lost |
//! | `client` | requests: lists, and orders about addresses and routes |

mod address;
mod client;
pub mod message;
mod monitor;

use std::net::IpAddr;

pub use address::{Address, AddressFlags, AddressScope};
pub use client::{Client, Order};
pub use monitor::{Heard, Monitor};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index: stays when the interface is renamed, changes when it is created again.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alternative names (`ip link property add … altname`), Linux 5.5.
    pub other_names: Vec<String>,
    /// Has Ethernet frames; loopback and tunnels of IP packets have not.
    pub ethernet: bool,
    /// Ethernet address; zeros when the interface has none.
    pub mac: [u8; 6],
    /// Set up by the administrator.
    pub admin_up: bool,
    /// Has a carrier and may be used (`IFF_RUNNING`: operational state up or unknown).
    pub running: bool,
    /// The interface that takes what arrives here: the bridge, bond or team that this one is a port of.
    pub upper: Option<u32>,
    /// Program that holds the XDP hook, 0 when it is free.
    pub xdp_program: u32,
    /// The kind of virtual interface, as in `ip link add type`; empty for hardware.
    pub kind: String,
}

impl Link {
    /// Whether it has this name, or has it as well.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.other_names.iter().any(|other| other == name)
    }

    /// Whether it is an end of a virtual cable.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind == "veth"
    }
}

/// A subnet that is reached directly through an interface, from an address of it. The kernel drops it with that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub ifindex: u32,
    /// First address of the subnet.
    pub subnet: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The preferred source, of the same family.
    pub source: Option<IpAddr>,
    /// Who added it.
    pub protocol: u8,
}

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// New, or changed in any way.
    Link(Link),
    /// Deleted, or moved to another namespace.
    LinkGone {
        /// Kernel index.
        ifindex: u32,
    },
    /// Added, or changed in any way.
    Address(Address),
    /// Deleted.
    AddressGone {
        /// As it was.
        address: Address,
        /// The port of the socket that the order came from; 0 when it was the kernel's own doing.
        by: u32,
    },
}
