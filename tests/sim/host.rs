//! A host that runs the engine of the daemon: the process on top of a [`Machine`], its kernel.
//!
//! The process is woken when something waits for it or its deadline has come, and then has turns until nothing is
//! left to do.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::Demotion;
use carp_common::time::Instant;
use carp_common::units::State;
use carp_daemon::config::VhostConfig;
use carp_daemon::config::{Config, Datapath, Fence, Lease};
use carp_daemon::engine::registry::InstanceId;
use carp_daemon::engine::{Arrival, Engine};
use carp_daemon::io::scripts::{Completion, Outcome};

use super::duty;
use super::kernel::scripts::Scripts;
use super::machine::{Machine, Request, Seen};
use super::watch::Violation;

/// A bound for every lease in a scenario: four seconds, five times, and two.
const LONGEST_LEASE: Duration = Duration::from_secs(22);

/// The maximal number of turns without time passing; no process has that much to do.
const TURNS_MAX: u32 = 1_000;

/// A request of the operator.
#[derive(Clone, Debug)]
pub enum Control {
    /// Change the priority.
    Demotion(u8),
    /// Hand over and stay away for a while.
    StepDown,
    /// Add a virtual host.
    Add(Box<VhostConfig>),
    /// Remove a virtual host, by its vhid.
    Remove(u8),
    /// End the process.
    Shutdown,
}

/// One carpd process on its machine.
#[derive(Debug)]
pub struct Host {
    engine: Engine<Machine>,
    arrivals: Vec<Arrival>,
    controls: VecDeque<Control>,
    /// Removed virtual hosts whose scripts own the addresses. They are let go when the scripts have removed them.
    leaving: Vec<InstanceId>,
    /// When it was stopped, if it is stopped.
    stopped_at: Option<Instant>,
    /// Whether it was told to end and waits for its scripts.
    is_ending: bool,
    /// The interface that it had then.
    ended_on: Option<u32>,
}

/// The way in which an ending process returns its machine.
#[derive(Debug)]
pub enum Ended {
    /// It is still busy.
    NotYet(Box<Host>),
    /// It is gone. It may have harmed addresses of other programs in the end.
    Gone(Box<Machine>, Option<Violation>),
}

impl Host {
    /// Starts a process.
    ///
    /// # Errors
    /// Returns the machine, and why the process did not start.
    pub fn start(
        vhosts: Vec<VhostConfig>,
        mut machine: Machine,
    ) -> Result<Self, Box<(Machine, String)>> {
        machine.begin_process();
        let config = Config {
            vhosts,
            datapath: Datapath::Auto,
            fence: Fence::Arp,
            lease: Lease::Auto,
            wait_interface: true,
            realtime: false,
            state_directory: None,
            debug: false,
        };
        match Engine::start(config, machine) {
            Ok(engine) => Ok(Self {
                engine,
                arrivals: Vec::new(),
                controls: VecDeque::new(),
                leaving: Vec::new(),
                stopped_at: None,
                is_ending: false,
                ended_on: None,
            }),
            Err(failed) => {
                let mut machine = failed.effects;
                machine.close_programs(&failed.orphans);
                machine.end_process();
                Err(Box::new((machine, failed.error.to_string())))
            }
        }
    }

    /// Returns the machine.
    pub const fn machine(&mut self) -> &mut Machine {
        self.engine.effects_mut()
    }

    /// Returns the machine, read-only.
    #[must_use]
    pub const fn machine_ref(&self) -> &Machine {
        self.engine.effects()
    }

    /// Returns the state of a virtual host's election.
    #[must_use]
    pub fn state(&self, vhid: u8) -> State {
        let seen = self.machine_ref().seen_of(vhid);
        seen.map_or(State::Init, |seen| seen.watch.state())
    }

    /// Returns when it wants to run next if nothing else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.engine.next_wake()
    }

    /// Whether it was told to end.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether it only waits for its scripts, and the interface has been replaced since.
    #[must_use]
    pub fn has_lost_sight(&self) -> bool {
        self.is_ending && self.ended_on != self.machine_ref().ifindex
    }

    /// Stops the process.
    pub fn stop(&mut self, now: Instant) {
        self.stopped_at.get_or_insert(now);
    }

    /// Delivers a request of the operator.
    pub fn control(&mut self, control: Control) {
        self.controls.push_back(control);
    }

    /// Ends a script of a virtual host. Returns whether another one starts.
    pub fn end_script(&mut self, id: InstanceId) -> bool {
        let Some((which, works, another)) = self.machine().end_script(id) else {
            return false;
        };
        let outcome = match works {
            true => Outcome::Succeeded,
            false => Outcome::Failed,
        };
        let completion = Completion { which, outcome };
        self.arrivals.push(Arrival::Script(id, completion));
        another
    }

    /// Runs the process until it has nothing left to do.
    ///
    /// # Errors
    /// Returns the first thing that it did and must not do.
    pub fn run(&mut self, now: Instant) -> Result<(), Violation> {
        self.machine().advance(now);
        let lost = self.machine_ref().ring.losses();
        let slept = self.stopped_at.take();
        if lost > 0 {
            self.machine().requests.push(Request::Overflowed {
                was_stopped: slept.is_some(),
            });
        }
        self.turn()?;
        let removed = self.obey()?;
        self.turn()?;
        for vhid in removed {
            self.check_removed(vhid)?;
        }
        self.check_leaving()?;
        self.check_addresses()?;
        self.look()
    }

    /// Checks that a virtual host that is not MASTER has none of its addresses.
    ///
    /// # Errors
    /// One has.
    pub fn check_addresses(&self) -> Result<(), Violation> {
        // A process that only waits for its scripts no longer follows the interface.
        if self.has_lost_sight() {
            return Ok(());
        }
        let machine = self.engine.effects();
        self.engine.instances().try_for_each(|instance| {
            let seen = machine.seen.get(&instance.who.id);
            seen.map_or(Ok(()), |seen| {
                duty::check_removed(machine, seen, instance.machine())
            })
        })
    }

    fn turn(&mut self) -> Result<(), Violation> {
        for _ in 0..TURNS_MAX {
            self.engine.turn(std::mem::take(&mut self.arrivals));
            if let Some(what) = self.machine().violation.take() {
                return Err(what);
            }
            if !self.engine.is_busy() {
                return Ok(());
            }
        }
        Err(format!("is busy after {TURNS_MAX} turns"))
    }

    /// Checks that nothing is left of a removed virtual host whose addresses carpd itself adds and removes.
    fn check_removed(&mut self, vhid: u8) -> Result<(), Violation> {
        let machine = self.machine();
        let group = machine.group(vhid);
        let finds = !machine.is_renamed();
        // An address that could not be removed stays until its lease ends.
        let was_refused = machine
            .refused_at
            .is_some_and(|at| machine.now < at + LONGEST_LEASE);
        match group.filter(|_| finds && !was_refused && !duty::may_be_left(machine)) {
            Some(group) => duty::check_nothing_left(machine, group),
            None => Ok(()),
        }
    }

    /// Checks that a removed virtual host with scripts is let go when none of them runs and none of its addresses is there.
    fn check_leaving(&mut self) -> Result<(), Violation> {
        // A process that ends lets everything go at once, at its end.
        if self.is_ending || duty::may_be_left(self.machine_ref()) {
            return Ok(());
        }
        let mut served = self.engine.instances();
        let served: BTreeSet<InstanceId> = served.by_ref().map(|it| it.who.id).collect();
        self.leaving.retain(|id| served.contains(id));
        let machine = self.engine.effects();
        let is_idle = |seen: &Seen| {
            let mut addresses = seen.addresses.iter();
            seen.scripts.as_ref().is_none_or(Scripts::is_idle)
                && !addresses.any(|(ip, _)| machine.namespace.has(*ip))
        };
        let is_over = |id: &&InstanceId| machine.seen.get(id).is_some_and(is_idle);
        match self.leaving.iter().find(is_over) {
            Some(id) => Err(format!("does not let {id:?} go, of which nothing is left")),
            None => Ok(()),
        }
    }

    /// Carries out the requests of operators. Returns the removed virtual hosts that have no scripts.
    fn obey(&mut self) -> Result<Vec<u8>, Violation> {
        let mut removed = Vec::new();
        if self.is_ending {
            self.controls.clear();
        }
        while let Some(control) = self.controls.pop_front() {
            match control {
                Control::Demotion(amount) => {
                    self.arrivals.push(Arrival::Demote(Demotion(amount)));
                }
                Control::StepDown => self.arrivals.push(Arrival::StepDown),
                Control::Add(config) => {
                    removed.retain(|vhid| *vhid != config.election.vhid.get());
                    // An obstacle may be gone when the process tries again.
                    let _ = self.engine.add(*config);
                }
                Control::Remove(vhid) => {
                    if let Some(id) = self.id_of(vhid) {
                        let has_scripts = |seen: &Seen| seen.scripts.is_some();
                        if self.machine_ref().seen_of(vhid).is_some_and(has_scripts) {
                            self.leaving.push(id);
                        } else {
                            removed.push(vhid);
                        }
                        self.engine.remove(id);
                    }
                }
                Control::Shutdown => {
                    let _ = self.engine.shut_down();
                    self.is_ending = true;
                    self.ended_on = self.machine_ref().ifindex;
                    self.controls.clear();
                }
            }
            if let Some(what) = self.machine().violation.take() {
                return Err(what);
            }
        }
        Ok(removed)
    }

    fn id_of(&self, vhid: u8) -> Option<InstanceId> {
        let mut instances = self.engine.instances();
        let instance = instances.find(|it| it.who.config.election.vhid.get() == vhid)?;
        Some(instance.who.id)
    }

    /// Checks what it did, from outside.
    fn look(&mut self) -> Result<(), Violation> {
        let now = self.machine_ref().now;
        if let Some(what) = duty::harm(self.machine_ref(), duty::GIVEN_BACK_WITHIN) {
            return Err(what);
        }
        let touched = std::mem::take(&mut self.machine().touched);
        let mut seen = std::mem::take(&mut self.machine().seen);
        let mut instances = self.engine.instances();
        let looked = instances.try_for_each(|instance| match seen.get_mut(&instance.who.id) {
            Some(seen) if touched.contains(&instance.who.id) => {
                seen.watch.settled(now, instance.machine())
            }
            Some(_) | None => Ok(()),
        });
        drop(instances);
        self.machine().seen = seen;
        looked
    }

    /// Ends the process if it was told to end and its scripts have ended.
    #[must_use]
    pub fn end(mut self: Box<Self>) -> Ended {
        let idle = |seen: &Seen| seen.scripts.as_ref().is_none_or(Scripts::is_idle);
        if !self.is_ending || !self.machine_ref().seen.values().all(idle) {
            return Ended::NotYet(self);
        }
        // It tries again what its kernel refuses.
        if !self.engine.finish() {
            return Ended::NotYet(self);
        }
        let (mut machine, orphans) = self.engine.close();
        machine.close_programs(&orphans);
        let harm = duty::harm(&machine, Duration::ZERO);
        machine.end_process();
        Ended::Gone(Box::new(machine), harm)
    }

    /// Kills the process.
    #[must_use]
    pub fn kill(self) -> Machine {
        let mut machine = self.engine.into_effects();
        machine.end_process();
        machine
    }

    /// Whether a virtual host has a demotion that it does not show, by its own account.
    #[must_use]
    pub fn is_suppressed(&self, vhid: u8) -> bool {
        let seen = self.machine_ref().seen_of(vhid);
        seen.is_some_and(|seen| seen.watch.is_suppressed())
    }

    /// Whether the host answers a request for an address.
    #[must_use]
    pub fn answers(&self, ip: IpAddr) -> bool {
        self.machine_ref().answers(ip)
    }
}
