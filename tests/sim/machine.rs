//! Everything of a simulated host except its process: the kernel, and what the checks see of the process from
//! outside.
//!
//! It outlives the process. The engine owns it while there is one, and acts through it (`effects`).

mod effects;
pub mod others;
mod sabotage;
mod seen;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::abi::layout::VhostKey;
use carp_common::proto::{Reason, Standing};
use carp_common::time::Instant;
use carp_common::units::{State, Vhid};
use carp_daemon::engine::effects::Netlink as _;
use carp_daemon::engine::registry::InstanceId;
use carp_daemon::io::datapath::Fenced;
use carp_daemon::io::neighbour_watch::NeighbourClaim;
use carp_daemon::io::netlink::Order;
use carp_daemon::io::scripts::Which;

use super::kernel::Actor;
use super::kernel::namespace::{Namespace, errno};
use super::kernel::program::Program;
use super::kernel::ring::Ring;
use super::packet::{FAMILIES, Group, Packet};
use super::rng::Rng;
use super::trace::Trace;
use super::watch::{Provenance, SentCounters, Violation};
pub use sabotage::Sabotage;
pub use seen::Seen;

/// The name of the interface that the group is on.
pub const INTERFACE: &str = "eth0";

/// The kernel counts ticks, and may end a lease this much early.
const EARLY_MS: u64 = 90;

/// A request of the process to the world.
#[derive(Debug)]
pub enum Request {
    /// A packet for the wire.
    Transmit(Packet),
    /// A packet that its device refused to send.
    Refused(Packet),
    /// A script of a virtual host was started; it ends after its time.
    ScriptStarted(InstanceId),
    /// Orders were given to a thread; the kernel carries them out in a moment.
    OrdersGiven,
    /// An address of a virtual host was announced.
    Announced(IpAddr),
    /// The ring was full, and packets were lost.
    Overflowed {
        /// Whether the process was stopped then, rather than busy.
        was_stopped: bool,
    },
    /// The process told the kernel the new standing of a virtual host.
    Programmed(Vhid, Standing),
    /// The state of a virtual host changed.
    Became(Vhid, State, Reason),
    /// It advertises another priority from now on, for a reason that only it knows.
    Demoted,
    /// The operator keeps the host away for a while.
    StaysAway(Duration),
}

/// Whether anybody waits for the outcome of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// It belongs to a bunch.
    Bunch,
    /// It took too long to wait for it.
    Overdue,
}

/// An order that the kernel has not carried out yet.
#[derive(Debug)]
struct Waiting {
    order: Order,
    awaited: Awaited,
    /// Whether the process knew the latest change of its address, or could know it, when it gave the order.
    was_told: bool,
}

impl Waiting {
    /// Returns an order that is given now.
    fn new(order: Order, awaited: Awaited, namespace: &Namespace) -> Self {
        Self {
            order,
            awaited,
            was_told: !namespace.is_untold(&order),
        }
    }
}

/// One host.
#[derive(Debug)]
pub struct Machine {
    /// The prefix of its lines in the trace.
    pub name: String,
    /// The clock.
    pub now: Instant,
    /// Links, addresses, routes.
    pub namespace: Namespace,
    /// The kernel program.
    pub program: Program,
    /// Advertisements that wait.
    pub ring: Ring,
    /// The present faults.
    pub sabotage: Sabotage,
    /// When an order of carpd was last refused because of [`Sabotage::orders`].
    pub refused_at: Option<Instant>,
    /// When something last happened that may keep carpd from removing its addresses.
    pub disturbed_at: Option<Instant>,
    /// The index of the interface; `None` while it is deleted.
    pub ifindex: Option<u32>,
    /// The groups that its virtual hosts may be in.
    groups: Vec<Group>,
    /// The host's own source addresses, by family.
    pub sources: [IpAddr; 2],
    /// The virtual hosts of the present process.
    pub seen: BTreeMap<InstanceId, Seen>,
    /// The counters that its processes sent, by vhid.
    pub sent: BTreeMap<u8, SentCounters>,
    /// Virtual hosts whose last advertisement was refused by the device.
    pub refused: BTreeSet<u8>,
    /// Virtual hosts that received an input, or judged their timers, since the last check.
    pub touched: BTreeSet<InstanceId>,
    /// The requests of the process.
    pub requests: Vec<Request>,
    /// The first rule that it broke.
    pub violation: Option<Violation>,
    /// The trace, in words.
    pub trace: Trace,
    /// The number of the present process.
    process: u32,
    /// Orders that the kernel has not carried out yet, in the order in which they were given: those of a bunch whose
    /// outcomes are awaited, and those that took too long to wait for.
    waiting: Vec<Waiting>,
    /// Whether a bunch is under way, which may be empty, and the outcomes of the last one.
    is_bunch_given: bool,
    outcomes: Option<Vec<io::Result<()>>>,
    /// Addresses about which the tables refused to be told anything, so that there may be no fence.
    pub unfenced: BTreeSet<IpAddr>,
    /// Entries that the tables refused to remove.
    pub unwithdrawn: BTreeSet<VhostKey>,
    /// Entries that the tables refused to change.
    pub unchanged: BTreeSet<VhostKey>,
    /// Claims of other hosts that wait, and when they may be read.
    claims: Vec<NeighbourClaim>,
    watched: Vec<IpAddr>,
    claims_paused_until: Option<Instant>,
    /// When the process learns that its program was detached.
    pub suspects_at: Option<Instant>,
    macs: BTreeMap<u32, [u8; 6]>,
    /// Whether the present process has opened the interface.
    has_opened: bool,
    locks: BTreeSet<(u32, Vhid)>,
    /// Whether another process held the last lock that carpd wanted.
    pub is_locked_out: bool,
    rng: Rng,
}

/// The parameters of a host.
#[derive(Debug)]
pub struct Parts {
    /// The prefix of its lines in the trace.
    pub name: String,
    /// The groups that its virtual hosts may be in.
    pub groups: Vec<Group>,
    /// Its own addresses, by family.
    pub sources: [IpAddr; 2],
    /// Room in its ring.
    pub ring: usize,
    /// Whether its trace is wanted.
    pub traced: bool,
    /// Its own random numbers.
    pub rng: Rng,
    /// Room for notifications.
    pub notifications: usize,
    /// Whether the kernel has programs.
    pub programs: bool,
}

impl Machine {
    /// Creates a host that has just been started: an interface with its own address, and no process.
    #[must_use]
    pub fn new(parts: Parts, now: Instant) -> Self {
        let Parts {
            name,
            groups,
            sources,
            ring,
            traced,
            mut rng,
            notifications,
            programs,
        } = parts;
        let namespace = Namespace::new(notifications, rng.chance(500));
        let mut machine = Self {
            name,
            now,
            namespace,
            program: Program::new(programs, rng.chance(500)),
            ring: Ring::new(ring),
            sabotage: Sabotage::default(),
            refused_at: None,
            disturbed_at: None,
            ifindex: None,
            groups,
            sources,
            seen: BTreeMap::new(),
            sent: BTreeMap::new(),
            refused: BTreeSet::new(),
            touched: BTreeSet::new(),
            requests: Vec::new(),
            violation: None,
            trace: Trace::new(traced),
            process: 0,
            waiting: Vec::new(),
            is_bunch_given: false,
            outcomes: None,
            unfenced: BTreeSet::new(),
            unwithdrawn: BTreeSet::new(),
            unchanged: BTreeSet::new(),
            claims: Vec::new(),
            watched: Vec::new(),
            claims_paused_until: None,
            suspects_at: None,
            macs: BTreeMap::new(),
            has_opened: false,
            locks: BTreeSet::new(),
            is_locked_out: false,
            rng,
        };
        others::create_interface(&mut machine);
        for family in FAMILIES {
            others::set_source(&mut machine, family, true);
        }
        machine
    }

    /// Advances the clock.
    pub fn advance(&mut self, now: Instant) {
        self.now = now;
        self.namespace.advance(now);
    }

    /// Whether its process holds the lock of a virtual host.
    #[must_use]
    pub fn holds_lock(&self, vhid: u8) -> bool {
        self.locks.iter().any(|(_, locked)| locked.get() == vhid)
    }

    /// Whether the entry of a virtual host may still let the host answer, because the tables refused to change and to remove
    /// it.
    #[must_use]
    pub fn may_outlast(&self, vhid: u8) -> bool {
        let mut both = self.unwithdrawn.intersection(&self.unchanged);
        both.any(|key| key.vhid == vhid)
    }

    /// Detaches programs where they are no longer needed; `orphans` stay fenced. Where another process holds the locks, it
    /// keeps the program as well.
    pub fn close_programs(&mut self, orphans: &[Fenced]) {
        if self.sabotage.locks {
            return;
        }
        let is_needed = |index: u32| {
            orphans
                .iter()
                .any(|fenced| fenced.owner.is_none_or(|owner| owner.ifindex == index))
        };
        if let Some(ifindex) = self.ifindex.filter(|it| !is_needed(*it)) {
            self.program.detach(ifindex);
        }
    }

    /// Carries out one order at once. Returns the kernel's error number.
    pub fn order(&mut self, order: &Order, by: Actor) -> Result<(), i32> {
        self.carry_out(order, by, self.sabotage.lists)
    }

    /// Carries out one order. `is_unknowable` means that a carpd could not list the addresses, or knew the latest change when
    /// it gave the order.
    fn carry_out(&mut self, order: &Order, by: Actor, is_unknowable: bool) -> Result<(), i32> {
        let failing = self.sabotage.orders.filter(|_| by.is_carpd());
        self.refused_at = failing.map(|_| self.now).or(self.refused_at);
        // The answer found no room, so it is unknown whether the order was carried out.
        let done = failing.is_none() || (failing == Some(errno::ENOBUFS) && self.rng.chance(500));
        let lent = match *order {
            Order::Add(address, Some(lease)) => {
                Order::Add(address, Some(shortened(&mut self.rng, lease)))
            }
            Order::Renew(address, Some(lease)) => {
                Order::Renew(address, Some(shortened(&mut self.rng, lease)))
            }
            Order::Add(..)
            | Order::Renew(..)
            | Order::Delete(_)
            | Order::AddRoute(_)
            | Order::DeleteRoute(_) => *order,
        };
        if done && by.is_carpd() && is_unknowable {
            self.namespace.excuse(order);
        }
        let outcome = match done {
            true => self.namespace.carry_out(self.now, &lent, by),
            false => Ok(()),
        };
        let outcome = failing.map_or(outcome, Err);
        self.trace.note(self.now, &self.name, || {
            format!("  {by:?}: {order:?}: {outcome:?}")
        });
        outcome
    }

    /// Carries out the orders that wait, unless the kernel is still busy.
    pub fn catch_up(&mut self) {
        if self.sabotage.is_slow {
            return;
        }
        let by = Actor::Carpd(self.port());
        let mut outcomes = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let is_unknowable = waiting.was_told || self.sabotage.lists;
            let outcome = answer(self.carry_out(&waiting.order, by, is_unknowable));
            match waiting.awaited {
                Awaited::Bunch => outcomes.push(outcome),
                // Nobody waits for the outcome.
                Awaited::Overdue => self.disturbed_at = Some(self.now),
            }
        }
        if std::mem::take(&mut self.is_bunch_given) {
            self.outcomes = Some(outcomes);
        }
    }

    /// Whether an event waits that wakes the process.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let claims = !self.claims.is_empty() && self.claims_paused_until.is_none();
        self.namespace.monitor.is_readable()
            || !self.ring.is_empty()
            || self.outcomes.is_some()
            || claims
    }

    /// Whether the interface was renamed.
    #[must_use]
    pub fn is_renamed(&self) -> bool {
        let link = self.ifindex.and_then(|it| self.namespace.links().get(&it));
        link.is_some_and(|link| link.name != INTERFACE)
    }

    /// Whether the present process has never found the interface, because it was renamed before. Then the process cannot know
    /// what an earlier one left there.
    #[must_use]
    pub fn was_never_found(&self) -> bool {
        !self.has_opened && self.is_renamed()
    }

    /// Whether frames can come in and go out.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        let link = self.ifindex.and_then(|it| self.namespace.links().get(&it));
        link.is_some_and(|link| link.admin_up && link.running && link.upper.is_none())
    }

    /// Whether the host answers a request for an address.
    #[must_use]
    pub fn answers(&self, ip: IpAddr) -> bool {
        self.ifindex.is_some_and(|ifindex| {
            self.namespace.has(ip) && self.program.lets_answer(ifindex, ip, self.now)
        })
    }

    /// Begins another process.
    pub fn begin_process(&mut self) {
        self.process += 1;
        self.has_opened = false;
        self.namespace.monitor.watch();
        // It lists everything, or does not start.
        self.namespace.monitor.is_listed();
    }

    /// Ends the process, killed or not.
    pub fn end_process(&mut self) {
        self.ring.close();
        self.namespace.monitor.close();
        self.namespace.forgive();
        self.program.is_orphaned();
        self.locks.clear();
        self.is_locked_out = false;
        self.macs.clear();
        self.watched.clear();
        self.claims.clear();
        self.claims_paused_until = None;
        self.suspects_at = None;
        self.waiting.clear();
        (self.is_bunch_given, self.outcomes) = (false, None);
        let sent = std::mem::take(&mut self.seen).into_values();
        self.sent
            .extend(sent.map(|seen| (seen.watch.vhid(), seen.watch.into_sent())));
    }

    /// Returns a group by its vhid.
    #[must_use]
    pub fn group(&self, vhid: u8) -> Option<&Group> {
        self.groups.iter().find(|group| group.vhid == vhid)
    }

    /// Returns what the checks see of a virtual host of the present process.
    #[must_use]
    pub fn seen_of(&self, vhid: u8) -> Option<&Seen> {
        self.seen.values().find(|seen| seen.watch.vhid() == vhid)
    }

    /// Delivers a CARP packet to the kernel. Returns whether the process must take it for a sign of life.
    pub fn receives(&mut self, packet: &Packet, provenance: Provenance) -> bool {
        let now = self.now;
        let Some(event) = self.event(packet) else {
            return false;
        };
        let vhid = event.key.vhid;
        // A packet that is lost while the process runs is missed as if it had been lost on the way. Of packets that
        // are lost while it is stopped, the process is informed.
        if !self.ring.push(event) {
            return false;
        }
        let mut all = self.seen.values_mut();
        let seen = all.find(|it| it.watch.vhid() == vhid);
        seen.is_some_and(|seen| seen.watch.arrives(now, packet, provenance))
    }

    /// Ends a script of a virtual host. It did its work, unless it failed. Returns which script it was, whether it
    /// worked, and whether another one starts.
    pub fn end_script(&mut self, id: InstanceId) -> Option<(Which, bool, bool)> {
        let seen = self.seen.get_mut(&id)?;
        let (ended, another) = seen.scripts.as_mut()?.end();
        let (which, addresses) = (ended?, seen.addresses.clone());
        let works = which == Which::Down || !self.sabotage.scripts;
        seen.is_meddled_with = !works;
        for (ip, prefix) in addresses.into_iter().filter(|_| works) {
            match which {
                Which::Up => others::assign(self, ip, prefix),
                Which::Down => others::remove(self, ip),
            }
        }
        Some((which, works, another))
    }
}

fn answer(outcome: Result<(), i32>) -> io::Result<()> {
    outcome.map_err(io::Error::from_raw_os_error)
}

/// Returns the time for which the kernel keeps a lease.
fn shortened(rng: &mut Rng, lease: Duration) -> Duration {
    lease.saturating_sub(Duration::from_millis(rng.between(0, EARLY_MS)))
}
