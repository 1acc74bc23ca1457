//! The kernel under one simulated host: its state, what it does by itself, and what other programs do to it.
//!
//! | Module | Contents |
//! |---|---|
//! | [`namespace`] | links, addresses and routes, and the orders that change them |
//! | [`addresses`] | the table of addresses, in the kernel's order |
//! | [`monitor`] | notifications, which can overrun |
//! | [`program`] | the program that picks out advertisements and fences addresses |
//! | [`ring`] | advertisements that wait for the process |
//! | [`scripts`] | up and down scripts, which take time |
//!
//! It follows Linux and knows none of the daemon's rules. A process that is killed leaves its addresses, its routes
//! and its fence behind, as on a real host.

pub mod addresses;
pub mod monitor;
pub mod namespace;
pub mod program;
pub mod ring;
pub mod scripts;

/// The originator of a change in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The kernel itself, as when a lease ends.
    Kernel,
    /// A carpd, through the netlink socket with this port.
    Carpd(u32),
    /// An administrator, a script or a network manager.
    Somebody,
}

impl Actor {
    /// Returns the port of its netlink socket, as notifications report it.
    #[must_use]
    pub const fn port(self) -> u32 {
        match self {
            Self::Kernel => 0,
            Self::Carpd(port) => port,
            Self::Somebody => 1,
        }
    }

    /// Whether it is a carpd.
    #[must_use]
    pub const fn is_carpd(self) -> bool {
        matches!(self, Self::Carpd(_))
    }
}
