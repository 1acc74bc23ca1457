//! What the engine learns from the host that it runs on, and what it does to it.
//!
//! The engine decides and never touches the system itself: everything goes through one value that implements
//! [`Effects`]. The daemon's is [`crate::host::Host`], which hands each call on to `io`. Tests record what was asked for,
//! and the simulation has a host of its own, with a clock that jumps.
//!
//! | Trait | What it is for |
//! |---|---|
//! | [`Clock`] | what time it is |
//! | [`Receive`] | advertisements, and the programs or sockets that pick them out |
//! | [`Program`] | what the kernel program knows about virtual hosts and their addresses |
//! | [`Netlink`] | links, addresses and routes: what is there, what changed, what is to change |
//! | [`Wire`] | frames that are sent, and ARP that is heard |
//! | [`Scripts`] | up and down scripts |
//! | [`Exclusion`] | one carpd for each virtual host |
//! | [`Remember`] | what was heard, kept over a restart |
//! | [`Tell`] | what happened, and how everything is, for people and programs |
//! | [`Observe`] | nothing in the daemon: tests see what the core is told and decides |

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::VhostKey;
use carp_common::proto::{Action, Input, Standing, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::Vhid;
use carp_common::wire::advertisement::HEADER_LEN;

use super::registry::InstanceId;
use crate::api::{self, Status};
use crate::config::VhostConfig;
use crate::io::arp_watch::ArpClaims;
use crate::io::datapath::{
    self, Batch, Choice, Counts, Drained, Endpoints, Entry, Fenced, Loss, Owner, Rung, Survival,
};
use crate::io::netlink::{Address, Event, Heard, Link, Order};
use crate::io::port::Envelope;
use crate::io::scripts::Wish;
use crate::io::state_dir::FileName;
use crate::lock::{self, Wanted};

/// Everything at once.
pub trait Effects:
    Clock + Receive + Program + Netlink + Wire + Scripts + Exclusion + Remember + Tell + Observe
{
}

impl<E> Effects for E where
    E: Clock + Receive + Program + Netlink + Wire + Scripts + Exclusion + Remember + Tell + Observe
{
}

/// Why the kernel program's tables could not be changed: the error and its causes, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The links of the network namespace, by index.
pub type Links = BTreeMap<u32, Link>;

/// What time it is.
pub trait Clock {
    /// CLOCK_MONOTONIC, the clock of the kernel's arrival times.
    fn now(&mut self) -> Instant;

    /// Nanoseconds of the wall clock: the first replay counter that is sent, so that it rises over a restart.
    fn wall_clock_nanos(&mut self) -> u64;
}

/// Advertisements, and the programs or sockets that pick them out.
pub trait Receive {
    /// Loads the programs that may ever be used.
    ///
    /// # Errors
    /// They cannot be loaded, and there is no other way to receive.
    fn prepare_programs(&mut self) -> Result<(), datapath::DatapathError>;

    /// Covers, at the start, the egress of every link that is there.
    fn start_cover(&mut self, links: &Links);

    /// Starts to listen on an interface.
    ///
    /// # Errors
    /// Why none of the ways that may be used works.
    fn attach(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError>;

    /// The same after something was lost.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    fn attach_again(&mut self, link: &Link) -> Result<Choice, datapath::DatapathError>;

    /// Stops listening on an interface, which may be gone.
    fn detach(&mut self, ifindex: u32);

    /// Forgets an interface that is gone, with everything that was known about it.
    fn forget(&mut self, ifindex: u32);

    /// Fetches what arrived up to `now`, as far as the batch has room.
    fn drain(&mut self, now: Instant, batch: &mut Batch) -> Drained;

    /// How many advertisements found no room since this was last asked.
    fn take_losses(&mut self) -> u64;

    /// The interfaces whose sockets failed since this was last asked, and why.
    fn take_failures(&mut self) -> Vec<(u32, io::Error)>;

    /// What others did to the program on an interface, if they did.
    fn loss(&mut self, ifindex: u32) -> Option<Loss>;

    /// Links came, changed or went: their egress is to be covered too.
    fn cover(&mut self, links: &Links);

    /// Does, in each turn, what keeps programs in their places. Returns whether something seems to be gone, so that each
    /// interface should be looked at.
    fn tend(&mut self, links: &Links, now: Instant) -> bool;

    /// Looks at the egress of every link, because something seems to be gone.
    fn look_at_cover(&mut self, links: &Links, now: Instant);

    /// When [`tend`](Self::tend) is wanted at the latest.
    fn next_tending(&self) -> Option<Instant>;

    /// How an interface is listened to.
    fn rung(&self, ifindex: u32) -> Option<Rung>;

    /// Whether the fence there outlives a daemon that is killed.
    fn survival(&self, ifindex: u32) -> Survival;

    /// The statistics of an interface's rung.
    ///
    /// # Errors
    /// What the kernel answers.
    fn counts(&mut self, ifindex: u32) -> Result<Counts, Refused>;

    /// One of the statistics, of all interfaces together.
    ///
    /// # Errors
    /// What the kernel answers.
    fn count(&mut self, counter: Counter) -> Result<u64, Refused>;

    /// The statistics of the frames that were for a virtual host since the start.
    ///
    /// # Errors
    /// What the kernel answers.
    fn counts_of(&mut self, key: VhostKey) -> Result<Counts, Refused>;

    /// The statistics of the frames on an interface that were for none of the virtual hosts.
    ///
    /// # Errors
    /// What the kernel answers.
    fn counts_of_others(&mut self, ifindex: u32) -> Result<Counts, Refused>;
}

/// What the kernel program knows about virtual hosts and their addresses.
pub trait Program {
    /// Has the advertisements for a virtual host delivered.
    ///
    /// # Errors
    /// What the kernel answers; then there is no such virtual host.
    fn configure(&mut self, key: VhostKey, entry: &Entry<'_>) -> Result<(), Refused>;

    /// Says how long a virtual host is what it is, and with that how long this host answers for its addresses.
    ///
    /// # Errors
    /// What the kernel answers.
    fn renew(&mut self, key: VhostKey, standing: Standing) -> Result<(), Refused>;

    /// Changes between whom the advertisements for `key` go; our own are dropped when they come back.
    ///
    /// # Errors
    /// What the kernel answers.
    fn set_endpoints(&mut self, key: VhostKey, endpoints: Endpoints) -> Result<(), Refused>;

    /// From now on advertisements for `key` are not ours.
    ///
    /// # Errors
    /// What the kernel answers.
    fn withdraw(&mut self, key: VhostKey) -> Result<(), Refused>;

    /// Whether nobody changed what was configured for `key`.
    fn is_intact(&mut self, key: VhostKey) -> bool;

    /// This host answers for an address only while its owner is MASTER.
    ///
    /// # Errors
    /// What the kernel answers.
    fn own(&mut self, address: IpAddr, owner: Owner) -> Result<(), Refused>;

    /// The same, for an owner that is not MASTER.
    ///
    /// # Errors
    /// What the kernel answers.
    fn silence(&mut self, address: IpAddr, owner: Owner) -> Result<(), Refused>;

    /// This host answers for an address if it has it.
    ///
    /// # Errors
    /// What the kernel answers.
    fn disown(&mut self, fenced: Fenced) -> Result<(), Refused>;

    /// The addresses that have an owner, of whomever.
    fn fenced(&self) -> Vec<Fenced>;

    /// Removes what dead ones left pinned for links that are not among these.
    fn remove_unowned_but(&mut self, links: &Links);
}

/// Links, addresses and routes of the network namespace.
pub trait Netlink {
    /// Takes the notifications that wait.
    ///
    /// # Errors
    /// What the kernel answers; then, and after [`Heard::Overrun`], everything is to be watched anew and listed.
    fn notifications(&mut self, visit: &mut dyn FnMut(Event)) -> io::Result<Heard>;

    /// Begins to watch anew; what waited is dropped.
    ///
    /// # Errors
    /// What the kernel answers.
    fn watch_anew(&mut self) -> io::Result<()>;

    /// Lists every link.
    ///
    /// # Errors
    /// What the kernel answers.
    fn links(&mut self) -> io::Result<Vec<Link>>;

    /// Lists every address, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel answers.
    fn addresses(&mut self) -> io::Result<Vec<Address>>;

    /// One link.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    fn link(&mut self, ifindex: u32) -> io::Result<Link>;

    /// Gives orders, one after the other, and waits for them.
    fn give(&mut self, orders: &[Order]) -> Vec<io::Result<()>>;

    /// Gives orders without waiting; one bunch at a time.
    fn give_later(&mut self, orders: Vec<Order>);

    /// What became of the latest bunch, once.
    fn take_outcomes(&mut self) -> Option<Vec<io::Result<()>>>;

    /// Whether the kernel still has to carry out an order that took too long to wait for.
    fn is_overdue(&self) -> bool;

    /// Waits until every order is carried out.
    fn finish(&mut self);

    /// The netlink port that our orders come from, to know them again in notifications.
    fn port(&self) -> u32;
}

/// Frames that are sent, and ARP that is heard, on interfaces that are open.
pub trait Wire {
    /// Opens an interface.
    ///
    /// # Errors
    /// What was attempted and what the kernel answers.
    fn open(
        &mut self,
        link: &Link,
        groups: &mut dyn Iterator<Item = Ipv4Addr>,
    ) -> Result<(), (&'static str, io::Error)>;

    /// Closes it; it may be gone.
    fn close(&mut self, ifindex: u32);

    /// Receives a group's packets from now on.
    ///
    /// # Errors
    /// What the kernel answers.
    fn join(&mut self, ifindex: u32, group: Ipv4Addr) -> io::Result<()>;

    /// Nobody wants a group's packets any more.
    fn leave(&mut self, ifindex: u32, group: Ipv4Addr);

    /// Takes in the interface's own Ethernet address; returns whether it changed.
    fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> bool;

    /// Sends one advertisement.
    ///
    /// # Errors
    /// What `send(2)` answers.
    fn advertise(
        &mut self,
        ifindex: u32,
        envelope: &Envelope,
        payload: &[u8; HEADER_LEN],
    ) -> io::Result<()>;

    /// Tells the link that an address is here now.
    ///
    /// # Errors
    /// What `send(2)` answers.
    fn announce(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()>;

    /// Asks the link who has an address, in a way that changes nobody's tables.
    ///
    /// # Errors
    /// What `send(2)` answers.
    fn probe(&mut self, ifindex: u32, address: Ipv4Addr) -> io::Result<()>;

    /// Which addresses' ARP is wanted.
    ///
    /// # Errors
    /// What the kernel answers.
    fn watch(&mut self, ifindex: u32, addresses: &[Ipv4Addr]) -> io::Result<()>;

    /// What others claimed since this was last asked.
    ///
    /// # Errors
    /// What the kernel answers.
    fn claims(&mut self, ifindex: u32, now: Instant) -> io::Result<ArpClaims>;

    /// When there will be claims to take although nothing is readable.
    fn claims_paused_until(&self) -> Option<Instant>;
}

/// Up and down scripts. How they ended comes back as [`super::Arrival::Script`].
pub trait Scripts {
    /// A virtual host's scripts may be asked for from now on.
    fn enlist(&mut self, instance: InstanceId, place: &api::Place, config: &VhostConfig);

    /// No more will be asked for; one that runs, or waits, still runs to its end.
    fn dismiss(&mut self, instance: InstanceId);

    /// Runs a script of a virtual host after the one that runs; the latest wish wins. Does nothing where it has none.
    fn run(&mut self, instance: InstanceId, wish: Wish);

    /// Returns whether a script of a virtual host runs or waits to run.
    fn runs(&self, instance: InstanceId) -> bool;
}

/// One carpd for each virtual host of an interface.
pub trait Exclusion {
    /// Whether the locks of an interface are ours.
    fn has_locks(&self, ifindex: u32) -> bool;

    /// Takes the lock of one virtual host. `patient`: waits for an owner that is stopping.
    ///
    /// # Errors
    /// Who else serves it, or its address.
    fn lock(&mut self, wanted: &Wanted<'_>, patient: bool) -> Result<(), lock::LockError>;

    /// Releases the locks of an interface.
    fn unlock(&mut self, ifindex: u32);

    /// Releases the locks of one virtual host.
    fn unlock_one(&mut self, wanted: &Wanted<'_>);

    /// Who lives.
    ///
    /// # Errors
    /// It cannot be told.
    fn living(&mut self) -> Result<Box<dyn Fn(u32, Vhid) -> bool>, lock::LockError>;
}

/// What was heard, kept over a restart.
pub trait Remember {
    /// What was kept for a virtual host; nothing where nothing is kept at all.
    ///
    /// # Errors
    /// Why it could not be read, on one line.
    fn recall(&mut self, name: &FileName) -> Result<Option<Vec<u8>>, Refused>;

    /// Where it is kept, for messages; `None`: nowhere.
    fn keeps_in(&self) -> Option<PathBuf>;

    /// The path of a file, for messages.
    fn path_of(&self, name: &FileName) -> PathBuf;

    /// Whether something can be kept now: there is a place, and the last write has ended.
    fn can_keep(&mut self) -> bool;

    /// Writes some, without waiting.
    fn keep(&mut self, files: Vec<(FileName, Vec<u8>)>);
}

/// What happened, and how everything is. The engine logs nothing itself.
pub trait Tell {
    /// Something happened.
    fn tell(&mut self, event: api::Event);

    /// Somebody asked how everything is.
    fn show(&mut self, status: &Status);
}

/// For tests: what the core of a virtual host is told and decides.
pub trait Observe {
    /// It is about to be told this.
    fn tells(&mut self, instance: InstanceId, now: Instant, input: &Input<'_>) {
        let _ = (instance, now, input);
    }

    /// Its timers are about to fire. Before now, the engine last looked at what had arrived at `looked_at`.
    fn fires(&mut self, instance: InstanceId, now: Instant, looked_at: Instant) {
        let _ = (instance, now, looked_at);
    }

    /// It decided this, which is about to be carried out.
    fn decides(&mut self, instance: InstanceId, now: Instant, action: &Action) {
        let _ = (instance, now, action);
    }

    /// It was told everything, and its timers that were due have fired.
    fn settles(&mut self, instance: InstanceId, now: Instant, machine: &VirtualHost) {
        let _ = (instance, now, machine);
    }
}
