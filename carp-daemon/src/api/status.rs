//! How every virtual host and interface is at one moment.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use carp_common::proto::Counters;
use carp_common::proto::demotion::Demotions;
use carp_common::proto::outlook::Outlook;
use carp_common::units::{Priority, State};

use super::event::Place;
use super::event::election::Cause;

/// The whole process at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The moment, by the wall clock.
    pub taken_at: SystemTime,
    /// Every virtual host, in the order of the configuration.
    pub virtual_hosts: Vec<VirtualHostStatus>,
    /// Every interface that is there.
    pub interfaces: Vec<InterfaceStatus>,
}

/// One virtual host at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHostStatus {
    /// Its interface's present name, and its vhid.
    pub place: Place,
    /// Its part in the election.
    pub state: State,
    /// For how long.
    pub lasted: Duration,
    /// Why; `None` since the start.
    pub cause: Option<Cause>,
    /// Whom it last heard in an advertisement that counted.
    pub heard: Option<Heard>,
    /// The address that it sends from.
    pub source: Option<IpAddr>,
    /// What it advertises, or would.
    pub advertises: Priority,
    /// What makes it less eligible than it was configured to be.
    pub demotions: Demotions,
    /// When the election has something to do, if nothing is heard before.
    pub due_in: Option<Duration>,
    /// What comes next, as the core expects.
    pub outlook: Outlook,
    /// In INIT what is lacking; `None`: nothing that could come.
    pub lacks: Option<Lacking>,
    /// How its interface is listened to, while it is.
    pub datapath: Option<String>,
    /// What keeps this host from answering for a MASTER's addresses when its daemon is killed; `None` without an interface.
    pub fence_survives_kill: Option<Survival>,
    /// The lifetime of the addresses in native mode; `None`: they stay.
    pub lease: Option<Duration>,
    /// What happened in the election since the start.
    pub counters: Counters,
    /// Addresses that were put back.
    pub addresses_restored: u64,
    /// ARP packets of others that claimed its addresses.
    pub arp_conflicts: u64,
    /// Turns of the engine that were late by more than half an interval.
    pub stalls: u64,
    /// The latest of them.
    pub worst_stall: Duration,
}

/// Another host, and when it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The source of its advertisement.
    pub source: IpAddr,
    /// How long ago that arrived.
    pub ago: Duration,
}

/// What a virtual host in INIT waits for. The core knows only of a link and a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// The interface.
    Interface,
    /// That the interface is no port of another one.
    Independence,
    /// That advertisements can be received.
    Reception,
    /// The link.
    Link,
    /// The address that `--srcip` names.
    FixedSource,
    /// An address to send from.
    Source,
}

/// Whether a fence goes on after its daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Until the machine stops.
    Yes,
    /// As long as the first process of this container runs.
    WithContainer,
    /// No: this host goes on answering.
    No,
}

impl Survival {
    /// Its name for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::WithContainer => "until-the-container-ends",
            Self::No => "no",
        }
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One interface at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Its present name.
    pub name: String,
    /// The counters of its datapath, each with its name in kebab case; or why they cannot be read.
    pub counters: Result<Vec<(&'static str, u64)>, String>,
}
