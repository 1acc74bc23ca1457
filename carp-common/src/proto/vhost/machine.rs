//! The state machine: which state an input leads to.

use core::net::IpAddr;

use super::announcer::{Announcer, announce};
use super::challenger::Challenger;
use super::conditions::Conditions;
use super::context::CoreContext;
use super::history::History;
use super::listener::{Listener, Takeover};
use super::receive::{self, Received};
use super::speaker::{self, Speaker};
use super::suspicion::{Reign, Suspicion};
use crate::drop_reason::DropReason;
use crate::proto::demotion;
use crate::proto::election::MasterDecision;
use crate::proto::evidence::Evidence;
use crate::proto::send_errors::Change;
use crate::proto::tenure::Standing;
use crate::proto::{
    Action, Command, DemotionCause, Input, Notice, Origin, Reason, SendOutcome, Transition,
};
use crate::time::{Duration, Instant};
use crate::units::{Demotion, Family, Profile, State};

/// The state of a virtual host, and the parts that have a say in it.
#[derive(Debug)]
pub(super) struct Machine {
    /// The state and deadlines that the kernel side is to know.
    standing: Standing,
    /// The state and deadlines that the kernel side was told last.
    told: Standing,
    pub(super) conditions: Conditions,
    /// The addresses were released at least once, so that nothing of an earlier run is left.
    released: bool,
    pub(super) history: History,
    /// The part for a BACKUP.
    pub(super) listener: Listener,
    /// The part for a MASTER.
    reign: Reign,
    pub(super) speaker: Speaker,
    pub(super) announcer: Announcer,
    challenger: Challenger,
    suspicion: Suspicion,
}

impl Machine {
    /// Creates a machine in INIT.
    pub(super) fn new(initial_counter: u64, now: Instant) -> Self {
        Self {
            standing: Standing::INIT,
            told: Standing::INIT,
            conditions: Conditions::new(),
            released: false,
            history: History::new(initial_counter),
            listener: Listener::default(),
            reign: Reign {
                since: now,
                called_by: None,
            },
            speaker: Speaker::default(),
            announcer: Announcer::default(),
            challenger: Challenger::default(),
            suspicion: Suspicion::default(),
        }
    }

    pub(super) const fn state(&self) -> State {
        self.standing.state
    }

    /// Returns when something is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let takeover = self.listener.next().map(|(at, _)| at);
        let deadlines = [takeover, self.speaker.next(), self.announcer.next()];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn input(&mut self, cx: &mut CoreContext, input: Input<'_>) {
        let is_master = self.state() == State::Master;
        match input {
            Input::Advertisement {
                family,
                origin,
                payload,
            } => self.receive(cx, family, origin, payload),
            Input::LinkChanged(link) => {
                self.conditions.link = link;
                self.start_or_stop(cx, Reason::LinkDown);
            }
            Input::DatapathChanged(datapath) => {
                self.conditions.datapath = datapath;
                self.start_or_stop(cx, Reason::DatapathRefused);
            }
            Input::SourceChanged { family, source } => self.source_changed(cx, family, source),
            Input::StationChanged if is_master => self.announcer.announce_in_series(cx),
            Input::ClaimCompleted if is_master => announce(cx),
            Input::StationChanged | Input::ClaimCompleted => {}
            Input::DemotionChanged { cause, amount } => self.demote(cx, cause, amount),
            Input::SendCompleted { family, outcome } => self.send_completed(cx, family, outcome),
            Input::AdvertisementsLost => {
                if self.state() == State::Backup {
                    self.listener.listen_afresh(cx, cx.now);
                }
            }
            Input::Command(Command::StepDown { hold }) => self.step_down(cx, hold),
            Input::Shutdown => self.shut_down(cx),
        }
        self.live(cx);
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, cx: &mut CoreContext, looked_at: Instant) {
        match self.state() {
            State::Init => {}
            State::Backup => {
                if let Some(takeover) = self.listener.timeout(cx, looked_at) {
                    self.take_over(cx, takeover);
                }
                self.live(cx);
            }
            // An advertisement tells the kernel side more once it was sent, so nothing else is renewed here.
            State::Master => {
                if let Some(due) = self.speaker.take_due(cx) {
                    self.advertise(cx);
                    self.speaker.keep_rhythm(cx, due);
                }
                self.announcer.timeout(cx);
            }
        }
    }

    fn receive(&mut self, cx: &mut CoreContext, family: Family, origin: Origin, payload: &[u8]) {
        match family {
            Family::Inet => cx.counters.received_inet_packets += 1,
            Family::Inet6 => cx.counters.received_inet6_packets += 1,
        }
        if self.state() == State::Init {
            cx.counters.drop_for(DropReason::NotRunning);
            return;
        }
        let Some(received) = receive::check(cx, &mut self.history, family, origin, payload) else {
            return;
        };
        if received.evidence.is_proof() {
            self.listener.believe(cx, &received);
        }
        match self.state() {
            State::Init => {}
            State::Backup => {
                let suspense = self.suspicion.suspense(cx);
                self.listener.hear(cx, &received, suspense);
            }
            State::Master => self.hear_as_master(cx, &received),
        }
    }

    fn hear_as_master(&mut self, cx: &mut CoreContext, received: &Received) {
        let Received {
            family,
            origin,
            theirs,
            evidence,
            ..
        } = *received;
        let source = origin.source;
        if let Evidence::OtherVersion { since, .. } = evidence {
            self.reign.hear_another_version(since);
        }
        // With strict counters, an advertisement that was heard before gets no answer.
        let is_old = cx.settings.strict_counter && !evidence.is_new();
        if is_old && !matches!(evidence, Evidence::OtherVersion { .. }) {
            return;
        }
        cx.counters.conflicting_masters += 1;
        let (reason, since) = match cx.as_master(source, theirs) {
            // An equal host advertised in IPv6, and IPv4 is going to decide, so there is nothing to answer yet.
            MasterDecision::Stay if cx.tie(source).inet_decides && cx.ours() == theirs => return,
            MasterDecision::Stay if is_old => return,
            MasterDecision::Stay => {
                // The advertisement has a pace of its own, because the other one waits for it before it yields.
                self.speaker.answer(cx, evidence);
                self.announcer.reassert(cx);
                cx.notify(
                    |limits| &mut limits.worse_master,
                    |suppressed| Notice::WorseMasterAdvertised { source, suppressed },
                );
                return;
            }
            MasterDecision::YieldToBetter => (Reason::BetterMasterAdvertised, origin.arrival),
            // Two BSDs whose equal advertisements cross both yield, and would both be back at the same moment, again and again.
            // The one with the higher address waits longer.
            MasterDecision::YieldOnTie if cx.sources[family] > Some(source) => {
                (Reason::TieLost, origin.arrival + cx.interval())
            }
            MasterDecision::YieldOnTie => (Reason::TieLost, origin.arrival),
        };
        let better = &self.listener.better;
        if self
            .challenger
            .is_answer(cx, &self.history, received, &self.reign, better)
        {
            self.suspicion.yields(cx, &self.reign, evidence);
            self.listener.yields(cx, received);
            self.give_way(cx, reason, since, origin.ethernet_source);
        } else if !is_old {
            let is_tie = reason == Reason::TieLost;
            self.challenger
                .challenge(cx, &mut self.speaker, received, is_tie);
        }
    }
}

/// Inputs from the system and the operator.
impl Machine {
    fn source_changed(&mut self, cx: &mut CoreContext, family: Family, source: Option<IpAddr>) {
        let source = source.filter(|source| Family::of(*source) == family);
        if cx.sources[family] == source {
            return;
        }
        let was_active = cx.is_active(family);
        cx.sources[family] = source;
        if self.state() == State::Init || cx.active_families().next().is_none() {
            self.start_or_stop(cx, Reason::NoSourceAddress);
            return;
        }
        match (self.state(), was_active, cx.is_active(family)) {
            (State::Backup, false, true) => self.listener.listen(cx, family, cx.now),
            (State::Backup, _, false) => self.listener.leave(family),
            // The backups of this family do not know us yet, and switches do not know the new address.
            (State::Master, _, true) => self.advertise(cx),
            (State::Backup, true, true) | (State::Master, _, false) | (State::Init, _, _) => {}
        }
    }

    /// Changes one cause of demotion. A rise is advertised at once, so that a better host can preempt.
    fn demote(&mut self, cx: &mut CoreContext, cause: DemotionCause, amount: Demotion) {
        let before = cx.demotions.sum();
        cx.demotions.set(cause, amount);
        if self.state() == State::Master && cx.demotions.sum() > before {
            self.advertise(cx);
        }
    }

    fn send_completed(&mut self, cx: &mut CoreContext, family: Family, outcome: SendOutcome) {
        let history = &mut self.history;
        let change = self.speaker.completed(cx, history, family, outcome);
        if outcome == SendOutcome::Sent {
            self.standing.advertised(cx.now, self.speaker.lasts);
        }
        self.send_errors_changed(cx, change);
    }

    fn send_errors_changed(&mut self, cx: &mut CoreContext, change: Change) {
        let (notice, amount) = match change {
            Change::None => return,
            Change::Suppressed => (
                Notice::Suppressed,
                demotion::send_error_demotion(cx.settings.profile),
            ),
            Change::Unsuppressed => (Notice::Unsuppressed, Demotion::NONE),
        };
        cx.act(Action::Notify(notice));
        self.demote(cx, DemotionCause::SendErrors, amount);
    }

    fn step_down(&mut self, cx: &mut CoreContext, hold: Duration) {
        self.listener.held_until = cx.now + hold;
        match self.state() {
            State::Init => return,
            State::Backup => {}
            State::Master => {
                self.enter(cx, State::Backup, Reason::Requested);
                speaker::bow_out(cx, &mut self.history);
                self.release(cx);
            }
        }
        self.listener.listen_afresh(cx, cx.now);
    }

    fn shut_down(&mut self, cx: &mut CoreContext) {
        self.conditions.is_stopped = true;
        if self.state() == State::Master {
            self.enter(cx, State::Init, Reason::Shutdown);
            speaker::bow_out(cx, &mut self.history);
            self.release(cx);
        } else {
            self.start_or_stop(cx, Reason::Shutdown);
            self.release_if_never(cx);
        }
    }
}

/// Transitions.
impl Machine {
    /// The one place where the state changes.
    fn enter(&mut self, cx: &mut CoreContext, to: State, reason: Reason) {
        let from = self.state();
        self.listener.stop();
        self.speaker.stop();
        self.announcer.stop();
        self.challenger.stop();
        if to == State::Master {
            cx.counters.transitions_to_master += 1;
        }
        if from == State::Master {
            cx.counters.transitions_from_master += 1;
        }
        cx.act(Action::Report(Transition { from, to, reason }));
        self.standing.enter(to, cx.now, cx.lasting());
        self.program_datapath(cx);
    }

    /// An input was handled, or what was due is done.
    fn live(&mut self, cx: &mut CoreContext) {
        self.standing.live(cx.now, cx.lasting());
        self.program_datapath(cx);
    }

    /// Tells the kernel side what it does not know yet.
    fn program_datapath(&mut self, cx: &mut CoreContext) {
        if self.told != self.standing {
            self.told = self.standing;
            cx.act(Action::ProgramDatapath(self.standing));
        }
    }

    /// INIT to BACKUP if nothing is lacking any more. To INIT if something is, without a bow-out: there is nothing to send it
    /// with, or nobody to tell.
    fn start_or_stop(&mut self, cx: &mut CoreContext, reason: Reason) {
        match (self.state(), self.conditions.lack(cx)) {
            (State::Init, None) => {
                self.enter(cx, State::Backup, Reason::Started);
                self.release_if_never(cx);
                // A new link starts without send errors.
                let change = self.speaker.send_errors.reset();
                self.send_errors_changed(cx, change);
                self.listener.listen_afresh(cx, cx.now);
            }
            (State::Backup, Some(_)) => self.enter(cx, State::Init, reason),
            (State::Master, Some(_)) => {
                self.enter(cx, State::Init, reason);
                self.release(cx);
            }
            (State::Init, Some(_)) | (State::Backup | State::Master, None) => {}
        }
    }

    /// BACKUP to MASTER.
    fn take_over(&mut self, cx: &mut CoreContext, takeover: Takeover) {
        self.enter(cx, State::Master, takeover.reason());
        self.reign = Reign {
            since: cx.now,
            called_by: takeover.called_by,
        };
        if takeover.asks {
            self.challenger.ask();
        }
        cx.act(Action::ClaimAddresses);
        self.advertise(cx);
        self.announcer.announce_in_series(cx);
    }

    /// MASTER to BACKUP, because of another host that was heard at `since`.
    fn give_way(&mut self, cx: &mut CoreContext, reason: Reason, since: Instant, winner: [u8; 6]) {
        self.enter(cx, State::Backup, reason);
        self.release(cx);
        // The winner may have been heard before it heard us: without an advertisement from us it would not know that it has
        // to announce the addresses again. A BSD yields to an equal, so a tie with one must end in silence, or both would;
        // a ucarp stays, and so does a carpd that sends from its own MAC address. And every OpenBSD takes over from
        // whoever says that it is more demoted, whether a better one lives or not.
        let speaks = match reason == Reason::TieLost {
            true => cx.settings.profile == Profile::Ucarp && !cx.is_bsd(winner),
            false => cx.ours().demotion == Demotion::NONE,
        };
        if speaks {
            speaker::last_word(cx, &mut self.history);
        }
        self.listener.listen_afresh(cx, since);
    }

    /// Advertises, as a challenge if that is due.
    fn advertise(&mut self, cx: &mut CoreContext) {
        let asks = self.challenger.leave_out(cx, &mut self.history);
        let sent = self.speaker.advertise(cx, &mut self.history);
        if asks {
            self.challenger.asked_with(sent);
        }
    }

    fn release(&mut self, cx: &mut CoreContext) {
        self.released = true;
        cx.act(Action::ReleaseAddresses);
    }

    /// Releases whatever an earlier run left behind.
    fn release_if_never(&mut self, cx: &mut CoreContext) {
        if !self.released {
            self.release(cx);
        }
    }
}
