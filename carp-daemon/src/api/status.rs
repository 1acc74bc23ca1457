//! The state of every virtual host and interface at one moment.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use carp_common::proto::Counters;
use carp_common::proto::demotion::Demotions;
use carp_common::proto::outlook::Outlook;
use carp_common::proto::per_family::PerFamily;
use carp_common::units::{Priority, State};

use super::event::Place;
use super::event::election::Cause;

/// The state of the whole process at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The moment, on the wall clock.
    pub taken_at: SystemTime,
    /// Every virtual host, in the order of the configuration.
    pub virtual_hosts: Vec<VirtualHostStatus>,
    /// Every interface that exists.
    pub interfaces: Vec<InterfaceStatus>,
}

/// The state of one virtual host.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHostStatus {
    /// The current name of its interface, and its vhid.
    pub place: Place,
    /// Its state in the election.
    pub state: State,
    /// The time for which it has been in that state.
    pub lasted: Duration,
    /// Why it is in that state. `None` if it has been since the start.
    pub cause: Option<Cause>,
    /// The host that it last heard in an advertisement that counted.
    pub heard: Option<Heard>,
    /// The address that it sends from in each family. There is none in a family that it has no addresses in.
    pub sources: PerFamily<Option<IpAddr>>,
    /// The priority that it advertises, or would as MASTER.
    pub advertises: Priority,
    /// The demotions that make it less eligible than configured.
    pub demotions: Demotions,
    /// The time until the election acts, if nothing is heard before.
    pub due_in: Option<Duration>,
    /// The next event that the core expects.
    pub outlook: Outlook,
    /// The condition that the host waits for in INIT. `None` if it was shut down.
    pub lacks: Option<Lacking>,
    /// The way in which advertisements are received on its interface, if they are.
    pub datapath: Option<String>,
    /// The fence that stops this host from answering for a MASTER's addresses when its daemon is killed. `None` without an
    /// interface.
    pub fence_survives_kill: Option<Survival>,
    /// The lifetime of the addresses in native mode. `None` if it is not limited.
    pub lease: Option<Duration>,
    /// The counters of the election since the start.
    pub counters: Counters,
    /// The counters of the frames that were for this virtual host since the start. `None` without an interface.
    pub frames: Option<DatapathCounters>,
    /// How many addresses were restored.
    pub addresses_restored: u64,
    /// How many packets of other stations, of ARP or neighbour discovery, claimed its addresses.
    pub arp_conflicts: u64,
    /// How many turns of the engine were late by more than half an interval.
    pub stalls: u64,
    /// How late the latest of those turns was.
    pub worst_stall: Duration,
}

/// Another host, and when it was last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The source address of its advertisement.
    pub source: IpAddr,
    /// How long ago that arrived.
    pub ago: Duration,
}

/// The condition that a virtual host in INIT waits for. The core only knows of a link and a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// The interface.
    Interface,
    /// The interface must stop being a port of another one.
    Independence,
    /// Reception of advertisements.
    Reception,
    /// The link.
    Link,
    /// The address that `--srcip` names.
    FixedSource,
    /// An address to send from.
    Source,
}

/// Whether a fence stays after its daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// It stays until the machine stops.
    Yes,
    /// It stays as long as the first process of this container runs.
    WithContainer,
    /// It does not stay, and this host continues to answer.
    No,
}

impl Survival {
    /// Returns the name for programs.
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

/// Counters of the datapath, each with its name in kebab case, or the reason why they cannot be read.
pub type DatapathCounters = Result<Vec<(&'static str, u64)>, String>;

/// The state of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Its current name.
    pub name: String,
    /// The counters of its datapath. All interfaces that use the kernel program have these in common.
    pub counters: DatapathCounters,
    /// The counters of the frames on this interface that were for none of the virtual hosts.
    pub others: DatapathCounters,
}
