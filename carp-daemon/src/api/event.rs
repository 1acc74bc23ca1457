//! A single event: its place, its kind and its severity.
//!
//! Each room of the engine, and each part of `io` that tells something, has its kinds of events. A kind has typed fields, a
//! severity, and a name for programs that stays the same when its text is improved. The texts are in `log/event`.
//!
//! | Module | Events about |
//! |---|---|
//! | [`address`] | virtual addresses: claim, restoration, placement, and what an earlier run left |
//! | [`election`] | states, other hosts, sending |
//! | [`interface`] | links, source addresses, reception |
//! | [`kernel`] | programs and pins, and what other runs left of them |
//! | [`process`] | netlink, scripts, memory, stalls, start and end |

pub mod address;
pub mod election;
pub mod interface;
pub mod kernel;
pub mod process;

use std::fmt;
use std::net::IpAddr;

use carp_common::units::Vhid;

use self::address::{Assignment, Placement, Predecessor, Restore};
use self::election::{Conflict, Election, Transmit};
use self::interface::{Datapath, Link, Source};
use self::kernel::{Egress, Ingress, Layout, Pin};
use self::process::{Memory, Netlink, Process, Run, Script, Stall};

/// Declares the events of one room: for each a variant, its severity, and its name for programs.
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
            /// The names of all events of this room.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Returns the event's name for programs.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name,)+ }
            }

            /// Returns how much the event matters.
            #[must_use]
            pub const fn severity(&self) -> $crate::api::event::Severity {
                match self { $(Self::$variant { .. } => $crate::api::event::Severity::$severity,)+ }
            }
        }
    };
}
pub(crate) use events;

/// The importance of an event. The numbers are those of syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// carpd cannot do its job.
    Error = 3,
    /// An operator should look.
    Warning = 4,
    /// Normal but important: changes of state.
    Notice = 5,
    /// Start and stop, and answers to requests.
    Info = 6,
    /// Details.
    Debug = 7,
}

/// The place of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The process as a whole.
    Process,
    /// An interface, by its current name.
    Interface(String),
    /// A virtual host.
    VirtualHost {
        /// The current name of its interface.
        interface: String,
        /// Its vhid.
        vhid: Vhid,
    },
}

impl Place {
    /// Returns the interface, unless the place is the whole process.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Process => None,
            Self::Interface(interface) | Self::VirtualHost { interface, .. } => Some(interface),
        }
    }

    /// Returns the vhid, if the place is a virtual host.
    #[must_use]
    pub const fn vhid(&self) -> Option<Vhid> {
        match self {
            Self::Process | Self::Interface(_) => None,
            Self::VirtualHost { vhid, .. } => Some(*vhid),
        }
    }
}

/// Displays `eth0 id 1`, `eth0`, or nothing for the process.
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
    /// The address. Of a subnet, the first address.
    pub address: IpAddr,
    /// The prefix length. Unit: bits.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A single event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The place.
    pub place: Place,
    /// The kind, with its fields.
    pub what: What,
    /// How many similar events were suppressed since the last one that was not. Always 0 if the rate is not limited.
    pub suppressed: u64,
}

impl Event {
    /// Creates an event whose rate is not limited.
    #[must_use]
    pub fn new(place: Place, what: impl Into<What>) -> Self {
        Self {
            place,
            what: what.into(),
            suppressed: 0,
        }
    }

    /// Returns the same event, after so many suppressed ones.
    #[must_use]
    pub fn after(self, suppressed: u64) -> Self {
        Self { suppressed, ..self }
    }
}

/// Declares the rooms, each an enum of its own.
macro_rules! rooms {
    ($($(#[$doc:meta])* $room:ident,)+) => {
        /// The kind of an event, by the room that it comes from.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum What {
            $($(#[$doc])* $room($room),)+
        }

        impl What {
            /// Returns the event's name for programs. It is unique, in kebab case, and the same in every later
            /// version.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$room(it) => it.name(),)+ }
            }

            /// Returns how much the event matters.
            #[must_use]
            pub const fn severity(&self) -> Severity {
                match self { $(Self::$room(it) => it.severity(),)+ }
            }

            /// Returns the names of all events.
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
    /// Sending of our advertisements and announcements.
    Transmit,
    /// Other stations that use our addresses.
    Conflict,
    /// The virtual addresses in native mode.
    Assignment,
    /// Virtual addresses that disappeared although carpd did not remove them.
    Restore,
    /// The position of virtual addresses among the host's own.
    Placement,
    /// The leftovers of a dead carpd.
    Predecessor,
    /// Reception on an interface.
    Datapath,
    /// Pins.
    Pin,
    /// Tables of a carpd that has another layout.
    Layout,
    /// Programs at the ingress of interfaces.
    Ingress,
    /// Programs at the egress of interfaces.
    Egress,
    /// Interfaces.
    Link,
    /// The source addresses of advertisements.
    Source,
    /// Notifications about links and addresses.
    Netlink,
    /// Runs of scripts.
    Run,
    /// Up scripts.
    Script,
    /// The memory of virtual hosts, stored over a restart.
    Memory,
    /// Late turns of the engine.
    Stall,
    /// Start and end of the process.
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
