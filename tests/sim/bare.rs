//! A host that runs the core alone, for what the daemon does not serve yet: IPv6, and both families at once.
//!
//! Packets wait in the ring with the time at which the kernel got them. When the process runs it drains the ring, then
//! what else happened, and judges its timers last: so a process that was stopped does not take its own absence for
//! the master's. What the ring had no room for while the process was stopped it is told of before that.

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
use super::watch::{Heard, SentCounters, Violation, Watch};

/// What waits for the process besides packets.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// Carrier.
    Link(LinkState),
    /// The source address of a family appeared (true) or went.
    Source(Family, bool),
    /// The operator's demotion.
    Demotion(u8),
    /// The operator's wish.
    StepDown(Duration),
    /// An up script ended.
    Claimed,
    /// TERM.
    Shutdown,
}

/// What the process asks the world for.
#[derive(Debug)]
pub enum Request {
    /// A packet for the wire.
    Transmit(Packet),
    /// A packet that its device refused to send.
    Refused(Packet),
    /// A script was started; it ends after its time.
    ScriptStarted,
    /// It announced the addresses of a family.
    Announced(Family),
    /// Its ring was full, and packets were lost.
    Overflowed {
        /// While it was stopped, and not while it had other things to do.
        was_stopped: bool,
    },
    /// It told the kernel what holds from now on.
    Programmed(Standing),
    /// Its state changed.
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
    /// What the checks may conclude from it.
    pub heard: Heard,
}

/// The scripts of one virtual host: one at a time, the latest wish wins.
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

/// What a process is started with.
#[derive(Debug)]
pub struct Start {
    /// How its lines in the trace begin.
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
    /// The process was stopped since it last looked.
    was_stopped: bool,
    /// When it last looked at what had arrived.
    looked_at: Instant,
    controls: VecDeque<Control>,
    scripts: Scripts,
    /// The device refuses to send.
    pub send_errors: bool,
    stopping: bool,
}

impl Bare {
    /// A process that just started.
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

    /// Where it is in the election.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.state()
    }

    /// When it wants to run next, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.next_deadline()
    }

    /// The process is stopped.
    pub const fn stop(&mut self) {
        self.was_stopped = true;
    }

    /// The kernel got a packet. Returns whether the process must take it for a sign of life.
    pub fn enqueue(&mut self, arrived: Arrived) -> bool {
        let full = self.ring.len() >= self.ring_size;
        if full {
            self.lost += 1;
            // A process that runs misses it as if it had been lost on the way. One that is stopped must not conclude
            // from its own absence that the sender is dead, so for the watch it counts as heard.
            if !self.was_stopped {
                return false;
            }
        }
        let counts = self
            .watch
            .arrives(arrived.at, &arrived.packet, arrived.heard);
        if !full {
            self.ring.push_back(arrived);
        }
        counts
    }

    /// Something else happened.
    pub fn control(&mut self, control: Control) {
        self.controls.push_back(control);
    }

    /// The running script ended. True when another one starts.
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

    /// Whether the addresses are on the interface, and no script is about to change that.
    #[must_use]
    pub fn settled_holding(&self) -> Option<bool> {
        self.scripts.running.is_none().then_some(self.scripts.held)
    }

    /// The process runs until it has nothing left to do.
    ///
    /// # Errors
    /// The first thing it did that it must not.
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

    /// What was lost while it ran is a matter of luck, as on the wire; what was lost while it was stopped is its own doing.
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

    /// One input, and everything that follows from it.
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
        // Twice does nothing.
        self.core.handle_timeout(now, looked_at);
        match self.core.poll_action() {
            None => Ok(()),
            Some(action) => Err(format!(
                "a second handle_timeout at the same time asked for {action:?}"
            )),
        }
    }

    /// Drains the actions of one input and carries them out, and those of the inputs that result.
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
            // Native mode: done before the next input, reported like any other effect.
            self.scripts.held = which == Which::Up;
            if which == Which::Up {
                self.controls.push_back(Control::Claimed);
            }
        } else {
            self.scripts.running = Some(which);
            requests.push(Request::ScriptStarted);
        }
    }

    /// Whether send errors demote it, which nobody can tell from outside.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        self.watch.is_suppressed()
    }

    /// The process is dead: what its host remembers of it.
    #[must_use]
    pub fn into_sent(self) -> SentCounters {
        self.watch.into_sent()
    }
}
