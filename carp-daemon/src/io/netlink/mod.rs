//! rtnetlink: reads links and addresses, follows their changes, and sets the addresses of native mode.
//!
//! | Module | What it does |
//! |---|---|
//! | `address` | represents an address with its scope and flags |
//! | [`message`] | parses datagrams into [`NetlinkEvent`]s |
//! | `monitor` | receives the kernel's notifications, and notices when some were lost |
//! | `client` | sends requests: lists, and orders about addresses and routes |

mod address;
mod client;
pub mod message;
mod monitor;

use std::net::IpAddr;

pub use address::{Address, AddressFlags, AddressScope};
pub use client::{Client, Order};
pub use monitor::{Monitor, MonitorDrained};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index. It stays when the interface is renamed, and changes when it is created again.
    pub index: u32,
    /// The name.
    pub name: String,
    /// Alternative names (`ip link property add … altname`, Linux 5.5).
    pub other_names: Vec<String>,
    /// Carries Ethernet frames. Loopback and tunnels of IP packets do not.
    pub ethernet: bool,
    /// The Ethernet address. Zeros if the interface has none.
    pub mac: [u8; 6],
    /// The administrator set it up.
    pub admin_up: bool,
    /// It has a carrier and may be used (`IFF_RUNNING`: the operational state is up or unknown).
    pub running: bool,
    /// The bridge, bond or team that this interface is a port of, which takes the frames that arrive here.
    pub upper: Option<u32>,
    /// The id of the program at the XDP hook. 0 if the hook is free.
    pub xdp_program: u32,
    /// The kind of virtual interface, as in `ip link add type`. Empty for hardware.
    pub kind: String,
}

#[cfg(test)]
impl Link {
    /// Returns an Ethernet interface that is up, for tests.
    pub fn up(index: u32, name: &str) -> Self {
        Self {
            index,
            name: name.to_owned(),
            other_names: Vec::new(),
            ethernet: true,
            mac: [2, 0, 0, 0, 0, 1],
            admin_up: true,
            running: true,
            upper: None,
            xdp_program: 0,
            kind: String::new(),
        }
    }
}

impl Link {
    /// Returns whether this is its name or one of its alternative names.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.other_names.iter().any(|other| other == name)
    }

    /// Returns whether it is one end of a virtual cable.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind == "veth"
    }
}

/// A subnet that is directly reachable through an interface from one of its addresses. The kernel removes the route
/// with that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub ifindex: u32,
    /// The first address of the subnet.
    pub subnet: IpAddr,
    /// The prefix length.
    pub prefix: u8,
    /// The preferred source, of the same family.
    pub source: Option<IpAddr>,
    /// The program that added the route.
    pub protocol: u8,
}

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetlinkEvent {
    /// The link is new or has changed in any way.
    Link(Link),
    /// The link was deleted, or moved to another namespace.
    LinkGone {
        /// The kernel's index.
        ifindex: u32,
    },
    /// The address is new or has changed in any way.
    Address(Address),
    /// The address was deleted.
    AddressGone {
        /// The address as it was.
        address: Address,
        /// The port of the socket that sent the order. 0 if the kernel acted by itself.
        by: u32,
    },
}
