//! The traits through which the engine learns from the host that it runs on, and acts on it.
//!
//! The engine decides and never touches the system itself. Everything goes through one value that implements [`Effects`]. The
//! daemon's is [`crate::host::Host`], which calls `io`. Tests record the calls, and the simulation has a host with a clock
//! that jumps.
//!
//! | Trait | What it is for |
//! |---|---|
//! | [`Clock`] | the clocks |
//! | [`Receive`] | advertisements, and the programs or sockets that pick them out |
//! | [`KernelProgram`] | the knowledge of the kernel program about virtual hosts and their addresses |
//! | [`Netlink`] | lists, changes and orders about links, addresses and routes |
//! | [`Wire`] | frames that are sent, and claims of neighbours that are received |
//! | [`Scripts`] | up and down scripts |
//! | [`Exclusion`] | the locks of virtual hosts |
//! | [`Remember`] | the memory of virtual hosts, stored over a restart |
//! | [`Tell`] | events and status, for people and programs |
//! | [`Observe`] | hooks for tests; the daemon does not use them |

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::VhostKey;
use carp_common::proto::{Action, Input, Standing, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::Vhid;
use carp_common::wire::advertisement::HEADER_LEN;

use super::registry::InstanceId;
use crate::api::{self, Status};
use crate::config::VhostConfig;
use crate::io::datapath::{
    self, AddressOwner, Batch, Choice, Counts, Drained, Endpoints, Entry, Fenced, HookLoss, Rung,
    Survival,
};
use crate::io::neighbour_watch::NeighbourClaims;
use crate::io::netlink::{Address, Link, MonitorDrained, NetlinkEvent, Order};
use crate::io::port::Envelope;
use crate::io::scripts::{Admission, Wish};
use crate::io::state_dir::FileName;
use crate::lock::{self, Wanted};

/// All traits together.
pub trait Effects:
    Clock + Receive + KernelProgram + Netlink + Wire + Scripts + Exclusion + Remember + Tell + Observe
{
}

impl<E> Effects for E where
    E: Clock
        + Receive
        + KernelProgram
        + Netlink
        + Wire
        + Scripts
        + Exclusion
        + Remember
        + Tell
        + Observe
{
}

/// The reason why the tables of the kernel program could not be changed: the error and its causes, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The links of the network namespace, by index.
pub type Links = BTreeMap<u32, Link>;

/// The clocks.
pub trait Clock {
    /// Returns CLOCK_MONOTONIC, the clock of the kernel's arrival times.
    fn now(&mut self) -> Instant;

    /// Returns the nanoseconds of the wall clock. The first replay counter that is sent comes from it, so that counters rise
    /// over a restart.
    fn wall_clock_nanos(&mut self) -> u64;
}

/// Advertisements, and the programs or sockets that pick them out.
pub trait Receive {
    /// Loads the programs that may be used.
    ///
    /// # Errors
    /// Returns an error if they cannot be loaded and there is no other way to receive.
    fn prepare_programs(&mut self) -> Result<(), datapath::DatapathError>;

    /// Attaches, at the start, to the egress of every link that exists.
    fn start_cover(&mut self, links: &Links);

    /// Starts to listen on an interface.
    ///
    /// # Errors
    /// Returns why no permitted way works.
    fn attach(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError>;

    /// Starts to listen again after something was lost.
    ///
    /// # Errors
    /// Returns the errors of [`attach`](Self::attach).
    fn attach_again(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError>;

    /// Stops listening on an interface, which may be gone.
    fn detach(&mut self, ifindex: u32);

    /// Forgets an interface that is gone, and everything that was known about it.
    fn forget(&mut self, ifindex: u32);

    /// Fetches advertisements that arrived up to `now`, as many as fit into the batch.
    fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained;

    /// Returns how many advertisements did not fit since the last call.
    fn take_losses(&mut self) -> u64;

    /// Returns the interfaces whose sockets failed since the last call, with the errors.
    fn take_failures(&mut self) -> Vec<(u32, io::Error)>;

    /// Returns whether another program removed or replaced carpd's program on an interface.
    fn loss(&mut self, ifindex: u32) -> Option<HookLoss>;

    /// Attaches to the egress of links that are new.
    fn cover(&mut self, links: &Links);

    /// Keeps the programs in their places; called in each turn. Returns whether something seems to be gone, so that the
    /// engine checks each interface.
    fn tend(&mut self, links: &Links, now: Instant) -> bool;

    /// Checks the egress of every link, because something seems to be gone.
    fn look_at_cover(&mut self, links: &Links, now: Instant);

    /// Returns the latest time at which [`tend`](Self::tend) must be called.
    fn next_tending(&self) -> Option<Instant>;

    /// Returns how carpd listens on an interface.
    fn rung(&self, ifindex: u32) -> Option<Rung>;

    /// Returns whether the fence on an interface outlives a daemon that is killed.
    fn survival(&self, ifindex: u32) -> Survival;

    /// Returns the statistics of an interface's rung.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn counts(&mut self, ifindex: u32) -> Result<Counts, Refused>;

    /// Returns one of the statistics, summed over all interfaces.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn count(&mut self, counter: Counter) -> Result<u64, Refused>;

    /// Returns the statistics of the frames for a virtual host since the start.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn counts_of(&mut self, key: VhostKey) -> Result<Counts, Refused>;

    /// Returns the statistics of the frames on an interface that were for none of the virtual hosts.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, Refused>;
}

/// The knowledge of the kernel program about virtual hosts and their addresses.
pub trait KernelProgram {
    /// Begins to deliver the advertisements for a virtual host.
    ///
    /// # Errors
    /// Returns the kernel's error. Then there is no such virtual host.
    fn configure(&mut self, key: VhostKey, entry: &Entry<'_>) -> Result<(), Refused>;

    /// Tells the kernel program the state of a virtual host and how long it lasts, and with that how long this host answers
    /// for its addresses.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), Refused>;

    /// Changes the addresses between which the advertisements for `key` are sent. Our own are dropped when they come back.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn set_endpoints(&mut self, key: VhostKey, endpoints: Endpoints) -> Result<(), Refused>;

    /// Stops delivering the advertisements for `key`.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn withdraw(&mut self, key: VhostKey) -> Result<(), Refused>;

    /// Returns whether the configuration for `key` is unchanged.
    fn is_intact(&mut self, key: VhostKey) -> bool;

    /// Makes this host answer for an address only while its owner is MASTER.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn own(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused>;

    /// Does the same for an owner that is not MASTER.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn silence(&mut self, address: IpAddr, owner: AddressOwner) -> Result<(), Refused>;

    /// Lets this host answer for an address if it has it.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn disown(&mut self, fenced: Fenced) -> Result<(), Refused>;

    /// Returns all addresses that have an owner.
    fn fenced(&self) -> Vec<Fenced>;

    /// Removes the objects that dead processes left pinned for links other than these.
    fn remove_unowned_but(&mut self, links: &Links);
}

/// Links, addresses and routes of the network namespace.
pub trait Netlink {
    /// Takes the notifications that wait.
    ///
    /// # Errors
    /// Returns the kernel's error. After an error, and after [`MonitorDrained::Overrun`], everything must be watched anew and
    /// listed.
    fn notifications(&mut self, visit: &mut dyn FnMut(NetlinkEvent)) -> io::Result<MonitorDrained>;

    /// Begins to watch anew, and drops the notifications that wait.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn watch_anew(&mut self) -> io::Result<()>;

    /// Lists every link.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn links(&mut self) -> io::Result<Vec<Link>>;

    /// Lists every address, in the kernel's order.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn addresses(&mut self) -> io::Result<Vec<Address>>;

    /// Returns one link.
    ///
    /// # Errors
    /// Returns ENODEV if the link is gone.
    fn link(&mut self, ifindex: u32) -> io::Result<Link>;

    /// Gives orders, one after the other, and waits for them.
    fn give(&mut self, orders: &[Order]) -> Vec<io::Result<()>>;

    /// Gives a bunch of orders without waiting. Only one bunch may be under way.
    fn give_later(&mut self, orders: Vec<Order>);

    /// Returns the outcomes of the latest bunch, once.
    fn take_outcomes(&mut self) -> Option<Vec<io::Result<()>>>;

    /// Returns whether the kernel has not yet carried out an order that took too long to wait for.
    fn is_overdue(&self) -> bool;

    /// Waits until every order is carried out, but no longer than `limit`. Returns whether they are.
    fn finish(&mut self, limit: Duration) -> bool;

    /// Returns the netlink port of our orders, by which notifications about them are recognised.
    fn port(&self) -> u32;
}

/// The frames that are sent, and the claims of neighbours that are heard, on open interfaces.
pub trait Wire {
    /// Opens an interface.
    ///
    /// # Errors
    /// Returns the attempted operation, and the kernel's error.
    fn open(
        &mut self,
        link: &Link,
        groups: &mut dyn Iterator<Item = IpAddr>,
    ) -> Result<(), (&'static str, io::Error)>;

    /// Closes an interface, which may be gone.
    fn close(&mut self, ifindex: u32);

    /// Joins a multicast group.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn join(&mut self, ifindex: u32, group: IpAddr) -> io::Result<()>;

    /// Leaves a multicast group.
    fn leave(&mut self, ifindex: u32, group: IpAddr);

    /// Updates the interface's own Ethernet address. Returns whether it changed.
    fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> bool;

    /// Sends one advertisement.
    ///
    /// # Errors
    /// Returns the error of `send(2)`.
    fn advertise(
        &mut self,
        ifindex: u32,
        envelope: &Envelope,
        payload: &[u8; HEADER_LEN],
    ) -> io::Result<()>;

    /// Announces on the link that an address is here now.
    ///
    /// # Errors
    /// Returns the error of `send(2)`.
    fn announce(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()>;

    /// Asks the link which host has an address, in a way that changes no host's tables.
    ///
    /// # Errors
    /// Returns the error of `send(2)`.
    fn probe(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()>;

    /// Chooses the addresses whose ARP and neighbour discovery is received.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn watch(&mut self, ifindex: u32, addresses: &[IpAddr]) -> io::Result<()>;

    /// Returns the claims of other hosts since the last call.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn claims(&mut self, ifindex: u32, now: Instant) -> io::Result<NeighbourClaims>;

    /// Returns when there will be claims to take although nothing is readable.
    fn claims_paused_until(&self) -> Option<Instant>;
}

/// Up and down scripts. Their ends are reported as [`super::Arrival::Script`].
pub trait Scripts {
    /// Accepts requests for a virtual host's scripts from now on.
    fn enlist(&mut self, instance: InstanceId, place: &api::Place, config: &VhostConfig);

    /// Accepts no more requests. A script that runs or waits still runs to its end.
    fn dismiss(&mut self, instance: InstanceId);

    /// Runs a script of a virtual host after the one that runs. The latest request wins. Does nothing if it has no such
    /// script. The completions of the accepted requests come in their order.
    fn run(&mut self, instance: InstanceId, wish: Wish) -> Admission;

    /// Returns whether a script of a virtual host runs or waits to run.
    fn runs(&self, instance: InstanceId) -> bool;
}

/// The locks that let only one carpd serve a virtual host of an interface.
pub trait Exclusion {
    /// Takes the locks of one virtual host. Those that it, or one whose place it takes, holds already are never free, and those
    /// that it does not need are released. `patient` means to wait for an owner that is stopping.
    ///
    /// # Errors
    /// Returns which process serves the virtual host, or its address. Then the locks are held as before.
    fn lock(&mut self, wanted: &Wanted<'_>, patient: bool) -> Result<(), lock::LockError>;

    /// Releases the locks of an interface.
    fn unlock(&mut self, ifindex: u32);

    /// Releases the locks of one virtual host.
    fn unlock_one(&mut self, wanted: &Wanted<'_>);

    /// Returns a test for which virtual hosts a living process serves.
    ///
    /// # Errors
    /// Returns an error if that cannot be determined.
    fn living(&mut self) -> Result<Box<dyn Fn(u32, Vhid) -> bool>, lock::LockError>;
}

/// The memory of virtual hosts, stored over a restart.
pub trait Remember {
    /// Returns the stored memory of a virtual host. `None` if there is none, or if nothing is stored at all.
    ///
    /// # Errors
    /// Returns why it could not be read, on one line.
    fn recall(&mut self, name: &FileName) -> Result<Option<Vec<u8>>, Refused>;

    /// Returns the directory, for messages. `None` if nothing is stored.
    fn keeps_in(&self) -> Option<PathBuf>;

    /// Returns the path of a file, for messages.
    fn path_of(&self, name: &FileName) -> PathBuf;

    /// Returns whether something can be stored now: there is a directory, and the last write has ended.
    fn can_keep(&mut self) -> bool;

    /// Begins to write files, without waiting.
    fn keep(&mut self, files: Vec<(FileName, Vec<u8>)>);
}

/// Events and status. The engine logs nothing itself.
pub trait Tell {
    /// Takes an event.
    fn tell(&mut self, event: api::Event);

    /// Takes a status that was asked for.
    fn show(&mut self, status: &Status);
}

/// Hooks for tests, which see the inputs and decisions of the core of a virtual host.
pub trait Observe {
    /// Called before the core is told something.
    fn tells(&mut self, instance: InstanceId, now: Instant, input: &Input<'_>) {
        let _ = (instance, now, input);
    }

    /// Called before the timers of the core fire. Before `now`, the engine last read all arrived advertisements at `looked_at`.
    fn fires(&mut self, instance: InstanceId, now: Instant, looked_at: Instant) {
        let _ = (instance, now, looked_at);
    }

    /// Called before a decision of the core is carried out.
    fn decides(&mut self, instance: InstanceId, now: Instant, action: &Action) {
        let _ = (instance, now, action);
    }

    /// Called when the core was told everything and its due timers have fired.
    fn settles(&mut self, instance: InstanceId, now: Instant, machine: &VirtualHost) {
        let _ = (instance, now, machine);
    }
}
