//! States, transitions, deadlines.
//!
//! Source: OpenBSD `ip_carp.c` r1.370, `carp_setrun`, `carp_input_c`, `carp_send_ad`; FreeBSD 14 `ip_carp.c`, the same
//! functions; ucarp 1.5.2 `carp.c`.

mod challenge;
mod listen;
mod outlook;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use core::net::IpAddr;

use zeroize::Zeroize as _;

use super::auth::Authenticator;
use super::better::BetterMaster;
use super::counters::Counters;
use super::demotion::{self, DemotionCause, Demotions};
use super::doubt::Doubt;
use super::election::Advertiser;
use super::evidence::{Evidence, Memory};
use super::memory;
use super::patience::Patience;
use super::per_family::PerFamily;
use super::queue::ActionQueue;
use super::rate_limit::RateLimit;
use super::send_errors::SendErrors;
use super::sequence::CounterSequence;
use super::tenure::{Lasting, Standing};
use super::timers::{Timer, Timers};
use super::{
    Action, Command, DatapathState, FAMILIES, Input, LinkState, Notice, Origin, Reason, Settings,
    Transition,
};
use crate::digest::PreparedDigest;
use crate::time::{Duration, Instant};
use crate::units::{Demotion, Family, Priority, Profile, State};
use challenge::{Answers, Doubtful};

/// Least time between two notices of one kind.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// One election: one vhid on one interface.
///
/// The contract:
///
/// - Feed one input, drain [`VirtualHost::poll_action`] until `None`, feed what became of the actions; when nothing
///   more is waiting to be fed, call [`VirtualHost::handle_timeout`] if [`VirtualHost::next_deadline`] has passed,
///   else sleep until then. Repeat.
/// - Everything received is fed **before** `handle_timeout`, however late: advertisements are judged by their arrival,
///   and what they call for waits for the timeout, so that a later one in the same queue can still revoke it.
/// - A `now` earlier than the last one counts as no time passed, an arrival later than `now` as an arrival at `now`.
/// - `handle_timeout` before the deadline, or twice, does nothing; after it no deadline has passed. In INIT there is
///   no deadline.
/// - A BACKUP that slept through the end of the master-down time waits once more: [`patience`](super::patience).
/// - No bytes and no order of inputs may panic; a packet in INIT is counted and dropped.
/// - The order of actions is part of the behaviour: [`Action`] says which it is.
/// - Actions for one input have a constant upper bound, asserted in debug builds.
/// - The virtual addresses are released before the first BACKUP, whoever left them there, and at the latest on
///   [`Input::Shutdown`]; afterwards only by who claimed them.
#[derive(Debug)]
pub struct VirtualHost {
    settings: Settings,
    authenticator: Authenticator,
    state: State,
    /// What the kernel side is to know, and what it was told last.
    standing: Standing,
    told: Standing,
    /// The latest `now`.
    now: Instant,
    link: LinkState,
    datapath: DatapathState,
    sources: PerFamily<Option<IpAddr>>,
    /// After [`Input::Shutdown`] for good.
    stopped: bool,
    /// The addresses were released at least once, so that nothing of an earlier run is left.
    released: bool,
    /// No take-over before; see [`Command::StepDown`].
    held_until: Instant,
    timers: Timers,
    /// Why [`Timer::TakeOver`] is set.
    take_over: Option<Planned>,
    /// How often [`Timer::Reannounce`] announces from now on.
    announcements_left: u8,
    /// When an answer to a worse MASTER last announced, or will.
    reasserted_at: Option<Instant>,
    /// Whom we last heard in an advertisement that counted.
    last_heard: Option<Origin>,
    demotions: Demotions,
    send_errors: SendErrors,
    sequence: CounterSequence,
    memory: Memory,
    doubt: Doubt,
    patience: Patience,
    /// How long a BSD in this family, with advbase 0, may be silent.
    bsd_patience: PerFamily<Duration>,
    /// When we last became MASTER, and what called for it, unless it was silence.
    reigns_since: Instant,
    called_by: Option<Planned>,
    /// When we last found out that an altered advertisement had made us MASTER, and when it last seemed so.
    misled_at: Option<Instant>,
    seemed_at: Option<Instant>,
    /// When we last yielded.
    yielded_at: Option<Instant>,
    answers: Answers,
    doubtful: Doubtful,
    /// Our next advertisement is a challenge that no recorded run may answer.
    leaves_out: bool,
    /// The present advertisement is that challenge.
    is_asking: bool,
    /// The counters of the last two challenges, and when the last was sent: the answer to the one may come after the other.
    asked: PerFamily<[Option<u64>; 2]>,
    asked_at: Option<Instant>,
    /// Challenges since we became MASTER.
    unanswered: u8,
    better: BetterMaster,
    limits: Limits,
    counters: Counters,
    actions: ActionQueue,
}

/// A takeover that an advertisement calls for.
#[derive(Clone, Copy, Debug)]
struct Planned {
    reason: Reason,
    /// Who was heard, and when.
    cause: Origin,
    /// It was heard in two versions.
    is_doubtful: bool,
}

/// One rate limit per kind of notice.
#[derive(Debug, Default)]
struct Limits {
    bad_digest: RateLimit,
    own_echo: RateLimit,
    equal_settings: RateLimit,
    worse_master: RateLimit,
    tampered: RateLimit,
    unproven: RateLimit,
    unanswered: RateLimit,
    stale_counter: RateLimit,
}

impl VirtualHost {
    /// In INIT, with the link down and no source address until inputs say otherwise.
    ///
    /// `initial_counter` is the first replay counter we send; from the wall clock, so that it rises across restarts.
    #[must_use]
    pub fn new(mut settings: Settings, initial_counter: u64, now: Instant) -> Self {
        let Settings { vhid, profile, .. } = settings;
        let authenticator =
            Authenticator::new(&settings.key, vhid, &settings.addresses, profile, None);
        // What was derived from it is all that is needed from here on.
        settings.key.zeroize();
        Self {
            authenticator,
            state: State::Init,
            standing: Standing::INIT,
            told: Standing::INIT,
            now,
            link: LinkState::Down,
            datapath: DatapathState::Works,
            sources: PerFamily::default(),
            stopped: false,
            released: false,
            held_until: Instant::ZERO,
            timers: Timers::default(),
            take_over: None,
            announcements_left: 0,
            reasserted_at: None,
            last_heard: None,
            demotions: Demotions::default(),
            send_errors: SendErrors::default(),
            sequence: CounterSequence::new(initial_counter),
            memory: Memory::default(),
            doubt: Doubt::default(),
            patience: Patience::default(),
            bsd_patience: PerFamily::default(),
            reigns_since: now,
            called_by: None,
            misled_at: None,
            seemed_at: None,
            yielded_at: None,
            doubtful: Doubtful::default(),
            answers: Answers::default(),
            leaves_out: false,
            is_asking: false,
            asked: PerFamily::default(),
            asked_at: None,
            unanswered: 0,
            better: BetterMaster::default(),
            limits: Limits::default(),
            counters: Counters::default(),
            actions: ActionQueue::new(),
            settings,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        self.begin(now);
        match input {
            Input::Advertisement {
                family,
                origin,
                payload,
            } => self.receive(family, origin, payload),
            Input::LinkChanged(link) => self.link_changed(link),
            Input::SourceChanged { family, source } => self.source_changed(family, source),
            Input::StationChanged => {
                if self.state == State::Master {
                    self.announce_in_series();
                }
            }
            Input::DemotionChanged { cause, amount } => self.demote(cause, amount),
            Input::SendCompleted { family, outcome } => self.send_completed(family, outcome),
            Input::DatapathChanged(datapath) => self.datapath_changed(datapath),
            Input::ClaimCompleted => {
                if self.state == State::Master {
                    self.announce();
                }
            }
            Input::AdvertisementsLost => {
                if self.state == State::Backup {
                    self.listen_afresh();
                }
            }
            Input::Command(Command::StepDown { hold }) => self.step_down(hold),
            Input::Shutdown => self.shut_down(),
        }
        self.live();
    }

    /// Time passed. Does what is due and nothing else.
    ///
    /// `looked_at` is when the caller last fed what had arrived, before it did so at `now`: a silence that it slept through
    /// does not count yet.
    pub fn handle_timeout(&mut self, now: Instant, looked_at: Instant) {
        self.begin(now);
        if self.timers.next().is_none_or(|due| due > self.now) {
            return;
        }
        match self.state {
            State::Init => {}
            State::Backup => {
                self.backup_timeout(looked_at);
                self.live();
            }
            // What it sends tells the kernel side more, once that is done.
            State::Master => self.master_timeout(),
        }
    }

    /// The next thing to do, in order; `None` when there is nothing left.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop()
    }

    /// When to call [`VirtualHost::handle_timeout`]; `None` in INIT.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Our part.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What we advertise, or would: demotion included, except in the OpenBSD profile.
    #[must_use]
    pub fn advertised(&self) -> Priority {
        let Settings {
            advbase,
            advskew,
            profile,
            ..
        } = self.settings;
        let advskew = demotion::advertised_advskew(advskew, self.demotions.sum(), profile);
        Priority { advbase, advskew }
    }

    /// The digests that it accepts, for whatever tells authentic advertisements from others before it hears of them.
    #[must_use]
    pub fn digests(&self) -> &[PreparedDigest] {
        self.authenticator.digests()
    }

    /// What demotes us at present.
    #[must_use]
    pub fn demotions(&self) -> &Demotions {
        &self.demotions
    }

    /// The address we send from.
    #[must_use]
    pub fn source(&self, family: Family) -> Option<IpAddr> {
        self.sources[family]
    }

    /// Whom we last heard in an advertisement that counted, and when.
    #[must_use]
    pub fn last_heard(&self) -> Option<Origin> {
        self.last_heard
    }

    /// Whether another MASTER advertises: it was heard within the master-down time.
    #[must_use]
    pub fn hears_a_master(&self, now: Instant) -> bool {
        let last = self.last_heard.map(|heard| heard.arrival);
        last.is_some_and(|last| now < last + self.master_down_time())
    }

    /// Whether the election says that the addresses are not ours, so that what an earlier run left of them can go. In INIT
    /// nobody says otherwise; a BACKUP has heard another MASTER, and does not take over from it at this very moment.
    #[must_use]
    pub fn has_lost(&self, now: Instant) -> bool {
        match self.state {
            State::Init => true,
            State::Backup => {
                self.last_heard.is_some() && self.timers.next().is_none_or(|due| due > now)
            }
            State::Master => false,
        }
    }

    /// When a BACKUP takes over if the MASTER stays silent; `None` in the other states.
    #[must_use]
    pub fn master_down_at(&self) -> Option<Instant> {
        FAMILIES
            .into_iter()
            .filter_map(|family| self.timers.get(Timer::MasterDown(family)))
            .min()
    }

    /// Silence after which we take over. Demotion does not enter.
    #[must_use]
    pub fn master_down_time(&self) -> Duration {
        let Settings {
            advbase,
            advskew,
            deadratio,
            ..
        } = self.settings;
        Priority { advbase, advskew }.master_down_time(deadratio)
    }

    fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.actions.begin();
    }

    /// Time between two advertisements of ours.
    fn interval(&self) -> Duration {
        self.advertised().interval()
    }

    /// Whether we take part in this family: it has a virtual address, and we can send in it.
    fn is_active(&self, family: Family) -> bool {
        self.settings.uses(family) && self.sources[family].is_some()
    }

    /// The families we take part in, in the order in which they are advertised.
    fn active_families(&self) -> impl Iterator<Item = Family> + use<> {
        let active = FAMILIES.map(|family| (family, self.is_active(family)));
        active
            .into_iter()
            .filter_map(|(family, active)| active.then_some(family))
    }
}

/// What comes from the system and the operator.
impl VirtualHost {
    fn link_changed(&mut self, link: LinkState) {
        self.link = link;
        match link {
            LinkState::Up => self.start_if_possible(),
            LinkState::Down => self.stop(Reason::LinkDown),
        }
    }

    fn datapath_changed(&mut self, datapath: DatapathState) {
        self.datapath = datapath;
        match datapath {
            DatapathState::Works => self.start_if_possible(),
            DatapathState::Refuses => self.stop(Reason::DatapathRefused),
        }
    }

    fn source_changed(&mut self, family: Family, source: Option<IpAddr>) {
        let source = source.filter(|source| Family::of(*source) == family);
        if self.sources[family] == source {
            return;
        }
        let was_active = self.is_active(family);
        self.sources[family] = source;
        if self.active_families().next().is_none() {
            self.stop(Reason::NoSourceAddress);
            return;
        }
        match (self.state, was_active, self.is_active(family)) {
            (State::Init, _, _) => self.start_if_possible(),
            (State::Backup, false, true) => self.listen(family, self.now),
            (State::Backup, _, false) => self.timers.clear(Timer::MasterDown(family)),
            // The family's backups do not know us yet, and switches do not know the new address.
            (State::Master, _, true) => self.advertise(),
            (State::Backup, true, true) | (State::Master, _, false) => {}
        }
    }

    /// A rise says so at once, so that a better host can preempt.
    fn demote(&mut self, cause: DemotionCause, amount: Demotion) {
        let before = self.demotions.sum();
        self.demotions.set(cause, amount);
        if self.state == State::Master && self.demotions.sum() > before {
            self.advertise();
        }
    }

    fn step_down(&mut self, hold: Duration) {
        self.held_until = self.now + hold;
        match self.state {
            State::Init => {}
            State::Backup => self.listen_afresh(),
            State::Master => {
                self.enter(State::Backup, Reason::Requested);
                self.bow_out();
                self.release();
                self.listen_afresh();
            }
        }
    }

    fn shut_down(&mut self) {
        self.stopped = true;
        if self.state == State::Master {
            self.enter(State::Init, Reason::Shutdown);
            self.bow_out();
            self.release();
        } else {
            self.stop(Reason::Shutdown);
            self.release_if_never();
        }
    }
}

/// Transitions.
impl VirtualHost {
    /// The one place where the state changes.
    fn enter(&mut self, to: State, reason: Reason) {
        let from = core::mem::replace(&mut self.state, to);
        self.timers.clear_all();
        self.take_over = None;
        self.unanswered = 0;
        self.asked = PerFamily::default();
        self.asked_at = None;
        if to != State::Master {
            self.leaves_out = false;
        }
        if to == State::Master {
            self.reigns_since = self.now;
            self.called_by = None;
            self.counters.transitions_to_master += 1;
        }
        if from == State::Master {
            self.counters.transitions_from_master += 1;
        }
        self.actions
            .push(Action::Report(Transition { from, to, reason }));
        let lasting = self.lasting();
        self.standing.enter(to, self.now, lasting);
        self.program_datapath();
    }

    /// An input was handled, or what was due is done.
    fn live(&mut self) {
        let lasting = self.lasting();
        self.standing.live(self.now, lasting);
        self.program_datapath();
    }

    /// Tells the kernel side what it does not know yet.
    fn program_datapath(&mut self) {
        if self.told != self.standing {
            self.told = self.standing;
            self.actions.push(Action::ProgramDatapath(self.standing));
        }
    }

    fn lasting(&self) -> Lasting {
        let deadratio = self.settings.deadratio;
        Lasting::new(self.advertised(), deadratio, self.master_down_time())
    }

    fn start_if_possible(&mut self) {
        let possible = self.link == LinkState::Up
            && self.datapath == DatapathState::Works
            && self.active_families().next().is_some();
        if self.stopped || !possible || self.state != State::Init {
            return;
        }
        self.enter(State::Backup, Reason::Started);
        self.release_if_never();
        self.forget_send_errors();
        self.listen_afresh();
    }

    /// To INIT, without a bow-out: there is nothing to send it with, or nobody to tell.
    fn stop(&mut self, reason: Reason) {
        let was = self.state;
        if was == State::Init {
            return;
        }
        self.enter(State::Init, reason);
        if was == State::Master {
            self.release();
        }
    }

    fn become_master(&mut self, reason: Reason) {
        self.enter(State::Master, reason);
        self.actions.push(Action::ClaimAddresses);
        self.advertise();
        self.reasserted_at = None;
        self.announce_in_series();
    }

    fn master_timeout(&mut self) {
        if let Some(due) = self.timers.take_due(Timer::Advertise, self.now) {
            self.advertise();
            // Keep the rhythm, unless we are so late that the next one is due as well.
            let in_rhythm = due + self.interval();
            if in_rhythm > self.now {
                self.timers.set(Timer::Advertise, in_rhythm);
            }
        }
        self.announce_if_due();
    }

    fn release(&mut self) {
        self.released = true;
        self.actions.push(Action::ReleaseAddresses);
    }

    /// Whatever an earlier run left behind.
    fn release_if_never(&mut self) {
        if !self.released {
            self.release();
        }
    }

    fn notify(&mut self, notice: Notice) {
        self.actions.push(Action::Notify(notice));
    }
}

/// What outlives the process.
impl VirtualHost {
    /// What was heard and sent, for [`VirtualHost::recall`] of a later start. No key is in it. Length: below 72 KiB, and below
    /// 3 KiB where no peer draws its counters by chance.
    #[must_use]
    pub fn memory(&self) -> alloc::vec::Vec<u8> {
        memory::write(&self.memory, self.sequence.next())
    }

    /// Takes in what [`VirtualHost::memory`] of an earlier start returned; `false` when it is not understood or not whole, and
    /// nothing was taken in. To be called before the first input.
    pub fn recall(&mut self, bytes: &[u8]) -> bool {
        let Some((memory, next)) = memory::read(bytes, self.now) else {
            return false;
        };
        self.memory = memory;
        self.sequence.go_on_with(next);
        true
    }
}
