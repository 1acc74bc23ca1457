//! One thing that happened: where, what, and how much it matters.
//!
//! Each room of the engine has its kinds of events, in a file of its own. A kind has typed fields, a severity and a name for
//! programs, which stays the same when its text is improved. `log/event` has the texts.
//!
//! | Module | What it is about |
//! |---|---|
//! | [`address`] | virtual addresses: claim, restoration, placement, what an earlier run left |
//! | [`election`] | states, other hosts, sending |
//! | [`interface`] | links, source addresses, how an interface is listened to |
//! | [`process`] | netlink, scripts, memory, stalls, start and end |

pub mod address;
pub mod election;
pub mod interface;
pub mod process;

use std::fmt;
use std::net::IpAddr;

use carp_common::units::Vhid;

use self::address::{Assignment, Placement, Predecessor, Restore};
use self::election::{Conflict, Election, Transmit};
use self::interface::{Datapath, Link, Source};
use self::process::{Memory, Netlink, Process, Script, Stall};

/// Declares the events of one room once: a variant, its severity, and its name for programs.
macro_rules! events {
    (
        $(#[$about:meta])* $room:ident
        $($(#[$doc:meta])* $variant:ident $({
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)+
        })? => $severity:ident $name:literal,)+
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $room {
            $($(#[$doc])* $variant $({ $($(#[$field_doc])* $field: $type,)+ })?,)+
        }

        impl $room {
            /// The names of all its events.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Its name for programs.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name,)+ }
            }

            /// How much it matters.
            #[must_use]
            pub const fn severity(&self) -> $crate::api::event::Severity {
                match self { $(Self::$variant { .. } => $crate::api::event::Severity::$severity,)+ }
            }
        }
    };
}
pub(crate) use events;

/// How much an event matters; its number is syslog's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// We cannot do our job.
    Error = 3,
    /// Someone should look.
    Warning = 4,
    /// Normal, and worth knowing: changes of state.
    Notice = 5,
    /// Start and stop, and what was asked for.
    Info = 6,
    /// Everything.
    Debug = 7,
}

/// Where something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the process as a whole.
    Process,
    /// On an interface, by the name that it has now.
    Interface(String),
    /// At a virtual host.
    VirtualHost {
        /// The name that its interface has now.
        interface: String,
        /// Its id.
        vhid: Vhid,
    },
}

impl Place {
    /// The interface, unless the whole process is meant.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Process => None,
            Self::Interface(interface) | Self::VirtualHost { interface, .. } => Some(interface),
        }
    }

    /// The virtual host's id, where one is meant.
    #[must_use]
    pub const fn vhid(&self) -> Option<Vhid> {
        match self {
            Self::Process | Self::Interface(_) => None,
            Self::VirtualHost { vhid, .. } => Some(*vhid),
        }
    }
}

/// `eth0 id 1`, `eth0`, or nothing for the process.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => Ok(()),
            Self::Interface(interface) => f.write_str(interface),
            Self::VirtualHost { interface, vhid } => write!(f, "{interface} id {vhid}"),
        }
    }
}

/// An address with its prefix length, or a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// The address; of a subnet, its first.
    pub address: IpAddr,
    /// Length of the prefix. Unit: bits.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub place: Place,
    /// What.
    pub what: What,
    /// How many like it were left out since the last one that was not. Always 0 where nothing limits their rate.
    pub suppressed: u64,
}

impl Event {
    /// An event whose rate is not limited.
    #[must_use]
    pub fn new(place: Place, what: impl Into<What>) -> Self {
        Self {
            place,
            what: what.into(),
            suppressed: 0,
        }
    }

    /// The same, after so many that were left out.
    #[must_use]
    pub fn after(self, suppressed: u64) -> Self {
        Self { suppressed, ..self }
    }
}

/// Declares what can happen once: the rooms, each an enum of its own.
macro_rules! rooms {
    ($($(#[$doc:meta])* $room:ident,)+) => {
        /// What happened, by the room of the engine in which it did.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum What {
            $($(#[$doc])* $room($room),)+
        }

        impl What {
            /// Its name for programs: unique, in kebab case, and the same in every later version.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$room(it) => it.name(),)+ }
            }

            /// How much it matters.
            #[must_use]
            pub const fn severity(&self) -> Severity {
                match self { $(Self::$room(it) => it.severity(),)+ }
            }

            /// The names of all events.
            pub fn names() -> impl Iterator<Item = &'static str> {
                [$($room::NAMES),+].into_iter().flatten().copied()
            }
        }

        $(impl From<$room> for What {
            fn from(it: $room) -> Self {
                Self::$room(it)
            }
        })+
    };
}

rooms! {
    /// States, and the other hosts of the group.
    Election,
    /// Advertisements and announcements of ours.
    Transmit,
    /// Others that have our addresses.
    Conflict,
    /// The virtual addresses in native mode.
    Assignment,
    /// Virtual addresses that went although carpd did not remove them.
    Restore,
    /// Where virtual addresses stand among the host's own.
    Placement,
    /// What a carpd that died left.
    Predecessor,
    /// How an interface is listened to.
    Datapath,
    /// Interfaces.
    Link,
    /// The addresses that advertisements come from.
    Source,
    /// News about links and addresses.
    Netlink,
    /// Up scripts.
    Script,
    /// What was heard, kept over a restart.
    Memory,
    /// Lateness.
    Stall,
    /// Start and end.
    Process,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_in_kebab_case() {
        let mut seen = BTreeSet::new();
        for name in What::names() {
            let is_kebab = name
                .split('-')
                .all(|word| !word.is_empty() && word.chars().all(|it| it.is_ascii_lowercase()));
            assert!(is_kebab, "{name}");
            assert!(seen.insert(name), "{name} twice");
        }
        assert!(seen.len() > 80, "{}", seen.len());
    }

    #[test]
    fn a_place_is_called_as_in_log_lines() {
        let interface = || "eth0".to_owned();
        let vhid = Vhid::new(7).unwrap();
        let virtual_host = Place::VirtualHost {
            interface: interface(),
            vhid,
        };
        for (place, text, has_interface, has_vhid) in [
            (Place::Process, "", false, false),
            (Place::Interface(interface()), "eth0", true, false),
            (virtual_host, "eth0 id 7", true, true),
        ] {
            assert_eq!(place.to_string(), text);
            assert_eq!(place.interface(), has_interface.then_some("eth0"));
            assert_eq!(place.vhid(), has_vhid.then_some(vhid));
        }
    }
}
