//! The kernel under one simulated host: what it holds, what it does by itself, and what others do to it.
//!
//! | Module | What it is |
//! |---|---|
//! | [`namespace`] | links, addresses and routes, and the orders that change them |
//! | [`addresses`] | the table of addresses, in the kernel's order |
//! | [`monitor`] | notifications, which can overrun |
//! | [`program`] | the program that picks out advertisements and fences addresses |
//! | [`ring`] | advertisements that wait for the process |
//! | [`scripts`] | up and down scripts, which take their time |
//!
//! It is written from what Linux does, and knows none of the daemon's rules. A process that is killed leaves its
//! addresses, its routes and its fence behind, as on a real host.

pub mod addresses;
pub mod monitor;
pub mod namespace;
pub mod program;
pub mod ring;
pub mod scripts;

/// Who does something to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The kernel by itself, as when a lease ends.
    Kernel,
    /// A carpd, through the netlink socket of this port.
    Carpd(u32),
    /// An administrator, a script or a network manager.
    Somebody,
}

impl Actor {
    /// The port of his netlink socket, as notifications tell it.
    #[must_use]
    pub const fn port(self) -> u32 {
        match self {
            Self::Kernel => 0,
            Self::Carpd(port) => port,
            Self::Somebody => 1,
        }
    }

    /// Whether he is a carpd.
    #[must_use]
    pub const fn is_carpd(self) -> bool {
        matches!(self, Self::Carpd(_))
    }
}
