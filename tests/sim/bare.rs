//! A host that runs only the core, for what the daemon does not serve yet: IPv6, and both families at once.
//!
//! Packets wait in the ring with the time at which the kernel received them. When the process runs, it first drains
//! the ring, then handles everything else that happened, and judges its timers last, so a process that was stopped
//! does not mistake its own absence for the master's. Before that, it is informed of packets that were lost because
//! the ring was full while it was stopped.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use carp_common::proto::{
    Action, Command, Demotion, DemotionCause, Input, LinkState, Origin, Reason, SendOutcome,
    Settings, Standing, VirtualHost,
};
use carp_common::time::Instant;
use carp_common::units::{Family, Profile, State};

use super::model::index;
use super::packet::{Group, Packet};
use super::trace::Trace;
use super::watch::{Provenance, SentCounters, Violation, Watch};

/// An event that waits for the process, other than a packet.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// The carrier changed.
    Link(LinkState),
    /// The source address of a family appeared (true) or disappeared.
    Source(Family, bool),
    /// The operator demotes the host.
    Demotion(u8),
    /// The operator makes the host step down.
    StepDown(Duration),
    /// An up script ended.
    Claimed,
    /// The process gets SIGTERM.
    Shutdown,
}

/// A request of the process to the world.
#[derive(Debug)]
pub enum Request {
    /// A packet for the wire.
    Transmit(Packet),
    /// A packet that its device refused to send.
    Refused(Packet),
    /// A script was started; it ends after its running time.
    ScriptStarted,
    /// The addresses of a family were announced.
    Announced(Family),
    /// The ring was full, and packets were lost.
    Overflowed {
        /// Whether the process was stopped then, rather than busy.
        was_stopped: bool,
    },
    /// The process told the kernel its new standing.
    Programmed(Standing),
    /// The state changed.
    Became(State, Reason),
    /// The operator keeps the host away for a while.
    StaysAway(Duration),
    /// The process ended.
    Exited,
}

/// A packet in the ring.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// When the kernel got it.
    pub at: Instant,
    /// The packet.
    pub packet: Packet,
    /// What the checks may conclude from the packet.
    pub provenance: Provenance,
}

/// The scripts of one virtual host: one at a time; the latest request wins.
#[derive(Debug, Default)]
struct Scripts {
    running: Option<Which>,
    wanted: Option<Which>,
    /// Whether the addresses are on the interface.
    held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Up,
    Down,
}

/// The parameters of a process.
#[derive(Debug)]
pub struct Start {
    /// The prefix of its lines in the trace.
    pub name: String,
    /// The core's settings.
    pub settings: Settings,
    /// The first counter it sends.
    pub initial_counter: u64,
    /// The group as its peers know it.
    pub group: Group,
    /// Source addresses, by family.
    pub sources: [IpAddr; 2],
    /// How long each of its scripts takes; zero for none.
    pub script_time: Duration,
    /// How many packets its ring holds.
    pub ring: usize,
    /// What earlier processes on this host sent.
    pub sent: SentCounters,
}

/// One carpd process and the kernel under it.
#[derive(Debug)]
pub struct Bare {
    name: String,
    sources: [IpAddr; 2],
    ethernet_source: [u8; 6],
    script_time: Duration,
    core: VirtualHost,
    watch: Watch,
    ring: VecDeque<Arrived>,
    ring_size: usize,
    /// Packets that found the ring full since the process last looked.
    lost: u64,
    /// Whether the process was stopped since it last looked.
    was_stopped: bool,
    /// When it last looked at what had arrived.
    looked_at: Instant,
    controls: VecDeque<Control>,
    scripts: Scripts,
    /// Whether the device refuses to send.
    pub send_errors: bool,
    stopping: bool,
}

impl Bare {
    /// Creates a process that has just started.
    #[must_use]
    pub fn new(start: Start, now: Instant) -> Self {
        let Start {
            name,
            settings,
            initial_counter,
            group,
            sources,
            script_time,
            ring,
            sent,
        } = start;
        Self {
            name,
            sources,
            ethernet_source: [
                0,
                0,
                0x5e,
                0,
                u8::from(settings.profile != Profile::Ucarp),
                group.vhid,
            ],
            script_time,
            watch: Watch::new(&settings, &group, sources, sent, now),
            core: VirtualHost::new(settings, initial_counter, now),
            ring: VecDeque::new(),
            ring_size: ring,
            lost: 0,
            was_stopped: false,
            looked_at: now,
            controls: VecDeque::new(),
            scripts: Scripts::default(),
            send_errors: false,
            stopping: false,
        }
    }

    /// Returns the state of its election.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.state()
    }

    /// Returns when it wants to run next if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.next_deadline()
    }

    /// Stops the process.
    pub const fn stop(&mut self) {
        self.was_stopped = true;
    }

    /// Delivers a packet to the kernel. Returns whether the process must take it for a sign of life.
    pub fn enqueue(&mut self, arrived: Arrived) -> bool {
        let full = self.ring.len() >= self.ring_size;
        if full {
            self.lost += 1;
            // A running process misses the packet as if it had been lost on the way. A stopped one must not conclude
            // from its own absence that the sender is dead, so for the watch the packet counts as heard.
            if !self.was_stopped {
                return false;
            }
        }
        let counts = self
            .watch
            .arrives(arrived.at, &arrived.packet, arrived.provenance);
        if !full {
            self.ring.push_back(arrived);
        }
        counts
    }

    /// Delivers another event.
    pub fn control(&mut self, control: Control) {
        self.controls.push_back(control);
    }

    /// Ends the running script. Returns whether another one starts.
    pub fn script_ended(&mut self) -> bool {
        let ended = self.scripts.running.take();
        self.scripts.held = ended == Some(Which::Up);
        if ended == Some(Which::Up) {
            self.controls.push_back(Control::Claimed);
        }
        self.scripts.running = self
            .scripts
            .wanted
            .take()
            .filter(|wanted| Some(*wanted) != ended);
        self.scripts.running.is_some()
    }

    /// Whether the addresses are on the interface, with no script about to change that.
    #[must_use]
    pub fn settled_holding(&self) -> Option<bool> {
        self.scripts.running.is_none().then_some(self.scripts.held)
    }

    /// Runs the process until it has nothing left to do.
    ///
    /// # Errors
    /// Returns the first thing that it did and must not do.
    pub fn run(
        &mut self,
        now: Instant,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        let looked_at = std::mem::replace(&mut self.looked_at, now);
        loop {
            while let Some(arrived) = self.ring.pop_front() {
                self.advertisement(now, &arrived, trace, requests)?;
            }
            self.losses(now, trace, requests)?;
            while let Some(control) = self.controls.pop_front() {
                self.apply(now, control, trace, requests)?;
            }
            self.timers(now, looked_at, trace, requests)?;
            if self.controls.is_empty() {
                break;
            }
        }
        if self.stopping {
            requests.push(Request::Exited);
        }
        Ok(())
    }

    /// Packets lost while the process ran count as lost on the wire. For packets lost while it was stopped, the
    /// process itself is responsible.
    fn losses(
        &mut self,
        now: Instant,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        let lost = std::mem::take(&mut self.lost);
        let was_stopped = std::mem::take(&mut self.was_stopped);
        if lost > 0 {
            requests.push(Request::Overflowed { was_stopped });
        }
        if lost == 0 || !was_stopped {
            return Ok(());
        }
        trace.note(now, &self.name, || {
            format!("lost {lost} packets while it was stopped")
        });
        self.tell(now, Input::AdvertisementsLost, trace, requests)
    }

    fn advertisement(
        &mut self,
        now: Instant,
        arrived: &Arrived,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        let Packet {
            family,
            source,
            ethernet_source,
            ref payload,
        } = arrived.packet;
        let origin = Origin {
            source,
            ethernet_source,
            arrival: arrived.at,
        };
        let input = Input::Advertisement {
            family,
            origin,
            payload,
        };
        self.tell(now, input, trace, requests)
    }

    fn apply(
        &mut self,
        now: Instant,
        control: Control,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        trace.note(now, &self.name, || format!("{control:?}"));
        let input = match control {
            Control::Link(link) => Input::LinkChanged(link),
            Control::Source(family, there) => Input::SourceChanged {
                family,
                source: there.then_some(self.sources[index(family)]),
            },
            Control::Demotion(amount) => Input::DemotionChanged {
                cause: DemotionCause::Administrator,
                amount: Demotion(amount),
            },
            Control::StepDown(hold) => {
                requests.push(Request::StaysAway(hold));
                Input::Command(Command::StepDown { hold })
            }
            Control::Claimed => Input::ClaimCompleted,
            Control::Shutdown => {
                self.stopping = true;
                Input::Shutdown
            }
        };
        self.tell(now, input, trace, requests)
    }

    /// Feeds one input, and carries out everything that follows from it.
    fn tell(
        &mut self,
        now: Instant,
        input: Input<'_>,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        self.watch.told(now, &input)?;
        self.core.handle_input(now, input);
        self.carry_out(now, trace, requests)
    }

    fn timers(
        &mut self,
        now: Instant,
        looked_at: Instant,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        self.watch.looks(now, looked_at)?;
        self.core.handle_timeout(now, looked_at);
        self.carry_out(now, trace, requests)?;
        self.watch.settled(now, &self.core)?;
        // A second call at the same time does nothing.
        self.core.handle_timeout(now, looked_at);
        match self.core.poll_action() {
            None => Ok(()),
            Some(action) => Err(format!(
                "a second handle_timeout at the same time asked for {action:?}"
            )),
        }
    }

    /// Carries out the actions of one input, and those of the inputs that result from them.
    fn carry_out(
        &mut self,
        now: Instant,
        trace: &mut Trace,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        let mut outcomes = VecDeque::new();
        loop {
            while let Some(action) = self.core.poll_action() {
                trace.action(now, &self.name, &action);
                self.watch.decided(now, &action)?;
                self.perform(action, requests, &mut outcomes);
            }
            self.watch.judged(now, &self.core)?;
            let Some((family, outcome)) = outcomes.pop_front() else {
                return Ok(());
            };
            let input = Input::SendCompleted { family, outcome };
            self.watch.told(now, &input)?;
            self.core.handle_input(now, input);
        }
    }

    fn perform(
        &mut self,
        action: Action,
        requests: &mut Vec<Request>,
        outcomes: &mut VecDeque<(Family, SendOutcome)>,
    ) {
        match action {
            Action::SendAdvertisement { family, payload } => {
                let packet = Packet {
                    family,
                    source: self.sources[index(family)],
                    ethernet_source: self.ethernet_source,
                    payload: payload.to_vec(),
                };
                if self.send_errors {
                    outcomes.push_back((family, SendOutcome::Failed));
                    requests.push(Request::Refused(packet));
                } else {
                    outcomes.push_back((family, SendOutcome::Sent));
                    requests.push(Request::Transmit(packet));
                }
            }
            Action::ClaimAddresses => self.script(Which::Up, requests),
            Action::ReleaseAddresses => self.script(Which::Down, requests),
            Action::Announce(family) => requests.push(Request::Announced(family)),
            Action::Report(change) => requests.push(Request::Became(change.to, change.reason)),
            Action::ProgramDatapath(standing) => requests.push(Request::Programmed(standing)),
            Action::Notify(_) => {}
        }
    }

    fn script(&mut self, which: Which, requests: &mut Vec<Request>) {
        if self.scripts.running.is_some() {
            self.scripts.wanted = Some(which);
        } else if self.script_time.is_zero() {
            // Native mode: done before the next input, and reported like any other effect.
            self.scripts.held = which == Which::Up;
            if which == Which::Up {
                self.controls.push_back(Control::Claimed);
            }
        } else {
            self.scripts.running = Some(which);
            requests.push(Request::ScriptStarted);
        }
    }

    /// Whether send errors demote it, which is invisible from outside.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        self.watch.is_suppressed()
    }

    /// Kills the process. Returns what its host remembers of it.
    #[must_use]
    pub fn into_sent(self) -> SentCounters {
        self.watch.into_sent()
    }
}
