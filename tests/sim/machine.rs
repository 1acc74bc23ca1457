//! Everything of a simulated host except its process: the kernel, and what the checks see of the process from
//! outside.
//!
//! It outlives the process. The engine owns it while there is one, and acts through it (`effects`).

mod effects;
mod sabotage;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carp_common::proto::{Action, Command, DemotionCause, Input, Reason, Standing, VirtualHost};
use carp_common::time::Instant;
use carp_common::units::{State, Vhid};
use carp_daemon::config::VhostConfig;
use carp_daemon::engine::registry::InstanceId;
use carp_daemon::io::arp_watch::ArpClaim;
use carp_daemon::io::datapath::Fenced;
use carp_daemon::io::netlink::{Address, Order};
use carp_daemon::io::scripts::Which;

use super::kernel::Actor;
use super::kernel::namespace::{Namespace, errno};
use super::kernel::program::Program;
use super::kernel::ring::Ring;
use super::kernel::scripts::Scripts;
use super::packet::{Group, Packet};
use super::rng::Rng;
use super::trace::Trace;
use super::watch::{Provenance, SentCounters, Violation, Watch};
pub use sabotage::Sabotage;
pub use seen::Seen;

/// The name of the interface that the group is on.
pub const INTERFACE: &str = "eth0";

/// Prefix length of a host's own address.
const OWN_PREFIX: u8 = 16;

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
    /// What does not work.
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
    /// What its processes sent, by vhid.
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
    /// Orders that a thread is about to give, and the results of the last ones.
    later: Option<Vec<Order>>,
    outcomes: Option<Vec<io::Result<()>>>,
    /// ARP claims of other hosts that wait, and when they may be read.
    claims: Vec<ArpClaim>,
    watched: Vec<Ipv4Addr>,
    claims_paused_until: Option<Instant>,
    /// When the process learns that its program was detached.
    pub suspects_at: Option<Instant>,
    macs: BTreeMap<u32, [u8; 6]>,
    locks: BTreeSet<(u32, Vhid)>,
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
            later: None,
            outcomes: None,
            claims: Vec::new(),
            watched: Vec::new(),
            claims_paused_until: None,
            suspects_at: None,
            macs: BTreeMap::new(),
            locks: BTreeSet::new(),
            rng,
        };
        machine.create_interface();
        machine.set_source(true);
        machine
    }

    /// Advances the clock.
    pub fn advance(&mut self, now: Instant) {
        self.now = now;
        self.namespace.advance(now);
    }

    /// Creates the interface, without an address.
    pub fn create_interface(&mut self) {
        let IpAddr::V4(source) = self.sources[0] else {
            return;
        };
        let [.., third, last] = source.octets();
        if self.ifindex.is_none() {
            self.ifindex = Some(self.namespace.create(INTERFACE, [2, 0, 0, 9, third, last]));
        }
    }

    /// Deletes the interface.
    pub fn delete_interface(&mut self) {
        if let Some(index) = self.ifindex.take() {
            self.namespace.delete(index);
        }
    }

    /// Adds the host's own address, or removes every address that is neither carpd's nor virtual.
    pub fn set_source(&mut self, there: bool) {
        let Some(ifindex) = self.ifindex else { return };
        let own = Address::new(ifindex, self.sources[0], OWN_PREFIX, 0);
        if there {
            self.by_somebody(&Order::Add(own, None));
            return;
        }
        let is_own = |ip: IpAddr| !self.groups.iter().any(|group| group.has(ip));
        let all: Vec<Address> = self
            .namespace
            .on(ifindex)
            .map(|it| it.address)
            .filter(|it| is_own(it.address))
            .collect();
        for address in all {
            self.by_somebody(&Order::Delete(address));
        }
    }

    /// Removes an address, whoever added it.
    pub fn remove(&mut self, ip: IpAddr) {
        let here: Vec<Address> = self
            .namespace
            .addresses
            .iter()
            .map(|it| it.address)
            .filter(|it| it.address == ip)
            .collect();
        for address in here {
            self.by_somebody(&Order::Delete(address));
        }
    }

    /// Removes those of these addresses that were added by `assign`.
    pub fn remove_foreign(&mut self, ips: &[IpAddr]) {
        let here: Vec<Address> = self
            .namespace
            .addresses
            .iter()
            .filter(|it| it.foreign.is_some() && ips.contains(&it.address.address))
            .map(|it| it.address)
            .collect();
        for address in here {
            self.by_somebody(&Order::Delete(address));
        }
    }

    /// Adds an address to the interface, as another program does.
    pub fn assign(&mut self, ip: IpAddr, prefix: u8) {
        if let Some(ifindex) = self.ifindex {
            let address = Address::new(ifindex, ip, prefix, 0);
            self.by_somebody(&Order::Renew(address, None));
        }
    }

    /// Notes that another program changes addresses that scripts manage.
    pub fn meddle(&mut self) {
        for seen in self.seen.values_mut() {
            seen.is_meddled_with = true;
        }
    }

    /// Detaches programs where they are no longer needed; `orphans` stay fenced.
    pub fn close_programs(&mut self, orphans: &[Fenced]) {
        let is_needed = |index: u32| {
            orphans
                .iter()
                .any(|fenced| fenced.owner.is_none_or(|owner| owner.ifindex == index))
        };
        if let Some(ifindex) = self.ifindex.filter(|it| !is_needed(*it)) {
            self.program.detach(ifindex);
        }
    }

    /// Gives an order of another program, which may fail.
    fn by_somebody(&mut self, order: &Order) {
        let _ = self.order(order, Actor::Somebody);
    }

    /// Carries out one order. Returns the kernel's error number.
    pub fn order(&mut self, order: &Order, by: Actor) -> Result<(), i32> {
        let failing = self.sabotage.orders.filter(|_| by.is_carpd());
        self.refused_at = failing.map(|_| self.now).or(self.refused_at);
        // The answer found no room, so it is unknown whether the order was carried out.
        let done = failing.is_none() || (failing == Some(errno::ENOBUFS) && self.rng.chance(500));
        let lent = match *order {
            Order::Add(address, Some(lease)) => Order::Add(address, Some(self.shortened(lease))),
            Order::Renew(address, Some(lease)) => {
                Order::Renew(address, Some(self.shortened(lease)))
            }
            Order::Add(..)
            | Order::Renew(..)
            | Order::Delete(_)
            | Order::AddRoute(_)
            | Order::DeleteRoute(_) => *order,
        };
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

    fn shortened(&mut self, lease: Duration) -> Duration {
        lease.saturating_sub(Duration::from_millis(self.rng.between(0, EARLY_MS)))
    }

    /// Carries out the orders of a thread.
    pub fn carry_out_later(&mut self) {
        if let Some(orders) = self.later.take() {
            let by = Actor::Carpd(self.port_number());
            let outcomes = orders.iter().map(|order| self.order(order, by));
            self.outcomes = Some(outcomes.map(answer).collect());
        }
    }

    const fn port_number(&self) -> u32 {
        1_000 + self.process
    }

    /// Delivers an ARP claim of an address by another host.
    pub fn is_claimed(&mut self, claim: ArpClaim) {
        if self.watched.contains(&claim.arp.sender_ip) {
            self.claims.push(claim);
        }
    }

    /// Detaches the program from the interface, as another program does.
    pub fn take_program_off(&mut self) {
        if let Some(ifindex) = self.ifindex {
            self.program.take_off(ifindex);
            if self.program.is_any_lost() {
                let after = Duration::from_millis(self.rng.between(0, 1_000));
                self.suspects_at.get_or_insert(self.now + after);
            }
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
        self.namespace.monitor.watch();
    }

    /// Ends the process, killed or not.
    pub fn end_process(&mut self) {
        self.ring.close();
        self.namespace.monitor.close();
        self.namespace.forgive();
        self.program.is_orphaned();
        self.locks.clear();
        self.macs.clear();
        self.watched.clear();
        self.claims.clear();
        self.claims_paused_until = None;
        self.suspects_at = None;
        (self.later, self.outcomes) = (None, None);
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
                Which::Up => self.assign(ip, prefix),
                Which::Down => self.remove(ip),
            }
        }
        Some((which, works, another))
    }

    fn enlist_seen(&mut self, id: InstanceId, config: &VhostConfig) {
        let vhid = config.election.vhid.get();
        let Some(group) = self.groups.iter().find(|group| group.vhid == vhid) else {
            return;
        };
        // The one whose place it takes may still be there.
        let mut before = self.seen.values_mut();
        let before = before.find(|seen| seen.watch.vhid() == vhid);
        let before = before.map(|seen| seen.watch.take_sent());
        let mut sent = before
            .or_else(|| self.sent.remove(&vhid))
            .unwrap_or_default();
        sent.restart(config.election.strict_counter);
        let watch = Watch::new(&config.election, group, self.sources, sent, self.now);
        // With a shorter prefix, the kernel would remove addresses of one script together with those of another.
        let addresses = config.addresses.iter().map(|it| (it.address, 32));
        let scripts = config.scripts.up.is_some().then(Scripts::default);
        let seen = Seen {
            watch,
            addresses: addresses.collect(),
            scripts,
            is_meddled_with: config
                .addresses
                .iter()
                .any(|it| self.namespace.has(it.address)),
        };
        self.seen.insert(id, seen);
    }

    /// Notes that a virtual host was let go. Its scripts must have ended.
    fn dismissed(&mut self, id: InstanceId) {
        let Some(mut seen) = self.seen.remove(&id) else {
            return;
        };
        let sent = seen.watch.take_sent();
        self.sent.insert(seen.watch.vhid(), sent);
        if seen.scripts.as_ref().is_some_and(|it| !it.is_idle()) {
            let what = "let a virtual host go while its script runs";
            self.violation.get_or_insert(what.to_owned());
        }
    }

    fn observe(&mut self, id: InstanceId, look: impl FnOnce(&mut Watch) -> Result<(), Violation>) {
        if let Some(seen) = self.seen.get_mut(&id)
            && let Err(what) = look(&mut seen.watch)
        {
            self.violation.get_or_insert(what);
        }
    }

    /// Returns the prefix of lines about a virtual host.
    fn name_of(&self, id: InstanceId) -> String {
        let vhid = self.seen.get(&id).map(|seen| seen.watch.vhid());
        let first = self.groups.first().map(|group| group.vhid);
        match vhid.filter(|_| self.trace.is_wanted() && vhid != first) {
            Some(_) => format!("{} second", self.name),
            None => self.name.clone(),
        }
    }

    fn told(&mut self, id: InstanceId, input: &Input<'_>) {
        let now = self.now;
        self.touched.insert(id);
        if !matches!(input, Input::Advertisement { .. }) {
            let name = self.name_of(id);
            self.trace.note(now, &name, || format!("{input:?}"));
        }
        if let Input::Command(Command::StepDown { hold }) = *input {
            self.requests.push(Request::StaysAway(hold));
        }
        if let Input::DemotionChanged { cause, .. } = input
            && *cause != DemotionCause::Administrator
        {
            self.requests.push(Request::Demoted);
        }
        self.observe(id, |watch| watch.told(now, input));
    }

    fn decided(&mut self, id: InstanceId, action: &Action) {
        let now = self.now;
        let name = self.name_of(id);
        self.trace.action(now, &name, action);
        let vhid = self.seen.get(&id).map(|seen| seen.watch.vhid());
        if let Some(vhid) = vhid.and_then(Vhid::new) {
            if let Action::ProgramDatapath(standing) = action {
                self.requests.push(Request::Programmed(vhid, *standing));
            }
            if let Action::Report(change) = action {
                self.requests
                    .push(Request::Became(vhid, change.to, change.reason));
            }
        }
        self.observe(id, |watch| watch.decided(now, action));
    }

    fn settled(&mut self, id: InstanceId, machine: &VirtualHost) {
        let now = self.now;
        self.observe(id, |watch| watch.judged(now, machine));
    }
}

fn answer(outcome: Result<(), i32>) -> io::Result<()> {
    outcome.map_err(io::Error::from_raw_os_error)
}
