//! Checks the rules for one carpd at each step.
//!
//! Every rule is stated from the outside: from the packets that the kernel under the process received, the inputs of the
//! process, and its requests.

mod order;
mod pace;
mod reign;
mod sent;
mod sleep;
mod terms;

use std::net::IpAddr;
use std::time::Duration;

use std::collections::BTreeMap;

use carp_common::proto::{
    Action, Command, DatapathState, Input, LinkState, Notice, Reason, SendOutcome, Settings,
    Transition, VirtualHost,
};
use carp_common::time::Instant;
use carp_common::units::{Family, State};

use super::model::index;
use super::packet::{Ad, FAMILIES, Group, Packet};
use super::scenario::interval;
use super::signs::Signs;
use order::check_order;
use pace::Pace;
use reign::Reign;
pub use sent::SentCounters;
use sleep::{Look, Sleep};
use terms::Terms;

/// A violated rule, in a sentence.
pub type Violation = String;

/// The provenance of a packet, from which the checks draw conclusions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The first copy of an advertisement that a living peer just sent; a host that hears it must not take the peer
    /// for dead.
    Genuine,
    /// A duplicate, a reflection, a replay or a forgery. The core decides what to make of it, within the other rules.
    Dubious,
}

/// The maximal number of actions that one input may cause: announcement, advertisement and notice of two families,
/// and the four of a transition.
const ACTIONS_MAX: usize = 16;

/// The observations of one process since it started.
#[derive(Debug)]
pub struct Watch {
    terms: Terms,
    group: Group,
    state: State,
    claimed: bool,
    reign: Reign,
    sent: SentCounters,
    /// Per family: when it last heard an advertisement that must restart the master-down timer.
    must_wait_from: [Instant; 2],
    /// Per family: when it last heard, or was told, something that may restart the timer.
    may_wait_from: [Instant; 2],
    /// Per family: the arrived counters, which distinguish signs of life from recordings.
    signs: [Signs; 2],
    sleep: Sleep,
    /// The addresses from which it sends.
    own: [IpAddr; 2],
    /// The advertisements since the process became BACKUP that entitle it to take over.
    heard: Causes,
    /// Per family: the highest counter heard or sent, for strict counters.
    highest: [u64; 2],
    /// The advertisement that is being handled.
    theirs: Option<Ad>,
    /// The actions since its last input or look at its timers.
    batch: Vec<Action>,
    /// Its state before that.
    before: State,
    /// The last known state of the link.
    link: LinkState,
    /// The last known state of the datapath.
    datapath: DatapathState,
    sources: [bool; 2],
    /// Whether it was told to stop.
    stopping: bool,
    /// Whether it is handling the operator's command to step down.
    steps_down: bool,
    held_until: Instant,
    /// Announcements and advertisements as MASTER in the current interval.
    pace: Pace,
}

/// Reasons for a takeover that an advertisement gives.
#[derive(Debug, Default)]
struct Causes {
    slow_master: bool,
    worse_master: bool,
    more_demoted_master: bool,
}

impl Watch {
    /// Creates the watch of a process that starts now, on a host that sent these counters before.
    #[must_use]
    pub fn new(
        settings: &Settings,
        group: &Group,
        own: [IpAddr; 2],
        sent: SentCounters,
        now: Instant,
    ) -> Self {
        Self {
            terms: Terms {
                settings: settings.clone(),
                suppressed: false,
                demotions: BTreeMap::new(),
            },
            group: group.clone(),
            state: State::Init,
            claimed: false,
            reign: Reign::default(),
            sent,
            must_wait_from: [now; 2],
            may_wait_from: [now; 2],
            signs: Default::default(),
            sleep: Sleep::default(),
            own,
            heard: Causes::default(),
            highest: [0; 2],
            theirs: None,
            batch: Vec::new(),
            before: State::Init,
            link: LinkState::Down,
            datapath: DatapathState::Works,
            sources: [false; 2],
            stopping: false,
            steps_down: false,
            held_until: now,
            pace: Pace::default(),
        }
    }

    /// Whether it has a demotion that is invisible from outside, as when it cannot send.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        self.terms.is_suppressed()
    }

    /// Returns the state that it reported last.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Returns its virtual host.
    #[must_use]
    pub const fn vhid(&self) -> u8 {
        self.group.vhid
    }

    /// Ends the watch of a removed virtual host. Returns what its host remembers of it.
    pub fn take_sent(&mut self) -> SentCounters {
        std::mem::take(&mut self.sent)
    }

    /// Ends the watch of a dead process. Returns what its host remembers of it.
    #[must_use]
    pub fn into_sent(self) -> SentCounters {
        self.sent
    }

    /// Notes that the kernel received an advertisement; the process may read it later. Returns whether it must
    /// restart the master-down timer.
    pub fn arrives(&mut self, at: Instant, packet: &Packet, provenance: Provenance) -> bool {
        let Packet { family, source, .. } = *packet;
        let Some(ad) = self.group.open(&packet.payload) else {
            return false;
        };
        if source == self.own[index(family)] || self.state == State::Init {
            return false;
        }
        let highest = &mut self.highest[index(family)];
        let stale = self.terms.settings.strict_counter && ad.counter <= *highest;
        *highest = (*highest).max(ad.counter);
        // A host that may take over because of it need not wait because of it.
        let entitles = self.terms.will_time_out(ad)
            || self.terms.is_more_demoted(ad)
            || (self.terms.settings.preempt && self.terms.is_worse(ad));
        let is_sign = self.signs[index(family)].arrives(at, source, ad);
        let counts = provenance == Provenance::Genuine && !stale && !entitles && is_sign;
        if counts {
            let must = &mut self.must_wait_from[index(family)];
            *must = self.signs[index(family)].counts(ad.counter, at, *must);
        }
        counts
    }

    /// Notes that the process is about to handle an advertisement.
    fn hears(&mut self, now: Instant, arrival: Instant, family: Family, payload: &[u8]) {
        self.theirs = self.group.open(payload);
        let Some(ad) = self.theirs else { return };
        self.heard.slow_master |= self.terms.will_time_out(ad);
        self.heard.worse_master |= self.terms.is_worse(ad);
        self.heard.more_demoted_master |= self.terms.is_more_demoted(ad);
        let may = &mut self.may_wait_from[index(family)];
        *may = (*may).max(arrival.min(now));
    }

    /// Notes that the process is about to give the core an input.
    ///
    /// # Errors
    /// Returns the first rule that it broke since it last did so.
    pub fn told(&mut self, now: Instant, input: &Input<'_>) -> Result<(), Violation> {
        self.close(now)?;
        match *input {
            Input::Advertisement {
                family,
                origin,
                payload,
            } => self.hears(now, origin.arrival, family, payload),
            Input::Command(Command::StepDown { hold }) => {
                self.steps_down = true;
                self.held_until = now + hold;
                self.may_wait_from = self.may_wait_from.map(|from| from.max(now + hold));
            }
            Input::DemotionChanged { cause, amount } => {
                self.terms.demotions.insert(cause, amount.0);
            }
            Input::SourceChanged { family, source } => {
                self.sources[index(family)] = source.is_some();
                if let Some(source) = source {
                    self.own[index(family)] = source;
                }
                let may = &mut self.may_wait_from[index(family)];
                *may = (*may).max(now);
            }
            Input::LinkChanged(link) => self.link = link,
            Input::DatapathChanged(datapath) => self.datapath = datapath,
            Input::Shutdown => self.stopping = true,
            Input::AdvertisementsLost => self.loses_track(now),
            Input::SendCompleted {
                outcome: SendOutcome::Sent,
                ..
            } => self.reign.sent(),
            Input::ClaimCompleted | Input::SendCompleted { .. } | Input::StationChanged => {}
        }
        Ok(())
    }

    /// Notes that advertisements were lost, so silence counts from now on.
    fn loses_track(&mut self, now: Instant) {
        self.must_wait_from = self.must_wait_from.map(|from| from.max(now));
        self.may_wait_from = self.may_wait_from.map(|from| from.max(now));
        self.heard = Causes::default();
        self.signs.iter_mut().for_each(|signs| signs.begins(now));
    }

    /// Notes that the process is about to judge its timers; it last looked at `before`.
    ///
    /// # Errors
    /// Returns the first rule that it broke since its last input.
    pub fn looks(&mut self, now: Instant, before: Instant) -> Result<(), Violation> {
        self.close(now)?;
        let ends = |from: [Instant; 2], patience| {
            let families = FAMILIES
                .into_iter()
                .filter(|family| self.takes_part(*family));
            families.map(|family| from[index(family)] + patience).min()
        };
        let earliest = ends(self.must_wait_from, self.terms.master_down());
        let latest = ends(self.may_wait_from, self.terms.patience());
        match (self.state, earliest, latest) {
            (State::Backup, Some(earliest), Some(latest)) => {
                let silence = self.may_wait_from;
                let look = Look {
                    now,
                    before,
                    silence,
                };
                let interval = self.terms.interval(self.terms.settings.advskew.0)
                    ..=self.terms.longest_interval();
                self.sleep.looks(look, earliest..=latest, interval);
            }
            (State::Init | State::Backup | State::Master, _, _) => self.sleep.is_over(),
        }
        Ok(())
    }

    /// Whether it has a virtual address and a source in the family.
    fn takes_part(&self, family: Family) -> bool {
        self.terms.settings.uses(family) && self.sources[index(family)]
    }

    /// Notes a decision of the core.
    ///
    /// # Errors
    /// Returns the first rule that it breaks.
    pub fn decided(&mut self, now: Instant, action: &Action) -> Result<(), Violation> {
        self.batch.push(*action);
        self.action(now, *action)
    }

    /// Checks everything that one input, or a timeout, caused.
    fn close(&mut self, now: Instant) -> Result<(), Violation> {
        let actions = std::mem::take(&mut self.batch);
        let before = std::mem::replace(&mut self.before, self.state);
        self.theirs = None;
        self.steps_down = false;
        let (state, master) = (self.state, self.state == State::Master);
        if actions.len() > ACTIONS_MAX {
            return Err(format!("{} actions at once: {actions:?}", actions.len()));
        }
        if self.claimed != master {
            return Err(format!(
                "is {state} with addresses {}",
                if self.claimed { "claimed" } else { "released" }
            ));
        }
        let life = self.terms.master_down().max(self.terms.longest_interval()) * 2;
        self.reign.acted(now, state, life)?;
        if before != state {
            check_order(before, state, &actions)?;
        }
        self.batch = actions;
        self.batch.clear();
        Ok(())
    }

    fn action(&mut self, now: Instant, action: Action) -> Result<(), Violation> {
        match action {
            Action::ProgramDatapath(standing) => self.reign.programmed(now, standing)?,
            Action::ClaimAddresses if self.claimed => {
                return Err("claimed addresses that it has".into());
            }
            Action::ClaimAddresses => self.claimed = true,
            // The down script also runs at startup.
            Action::ReleaseAddresses if !self.claimed && self.before != State::Init => {
                return Err("released addresses that it does not have".into());
            }
            Action::ReleaseAddresses => self.claimed = false,
            Action::Announce(family) => {
                if !self.claimed {
                    return Err(format!(
                        "announced {family} addresses that it does not have"
                    ));
                }
                self.pace(now).announces(family)?;
            }
            Action::SendAdvertisement { family, payload } => self.sends(now, family, &payload)?,
            Action::Report(transition) => self.reports(now, transition)?,
            Action::Notify(Notice::Suppressed) => self.terms.suppressed = true,
            Action::Notify(Notice::Unsuppressed) => self.terms.suppressed = false,
            Action::Notify(_) => {}
        }
        Ok(())
    }

    fn sends(&mut self, now: Instant, family: Family, payload: &[u8]) -> Result<(), Violation> {
        let Some(ad) = self.group.open(payload) else {
            return Err(format!(
                "sent an advertisement that its peers cannot read: {payload:02x?}"
            ));
        };
        let (batch, before) = (&self.batch, self.before);
        let leaves = batch
            .iter()
            .any(|action| matches!(action, Action::Report(change) if change.from == State::Master));
        let enters = batch
            .iter()
            .any(|action| matches!(action, Action::Report(change) if change.to == State::Master));
        if before != State::Master && !enters {
            return Err(format!("advertised while {before}"));
        }
        let bow_out = (ad.advbase, ad.advskew) == (255, 255) && leaves;
        if !bow_out
            && (ad.advbase != self.terms.settings.advbase.0
                || ad.advskew < self.terms.settings.advskew.0)
        {
            return Err(format!("advertised as better than it is: {ad:?}"));
        }
        self.sent.add(ad.counter)?;
        let announced = interval(ad.advbase, ad.advskew);
        self.reign.advertises(now, leaves, announced)?;
        let must = &mut self.must_wait_from[index(family)];
        *must = self.signs[index(family)].sent(ad.counter, *must);
        if !self.terms.settings.uses(family) {
            return Err(format!(
                "advertised in {family}, in which it has no address"
            ));
        }
        self.highest[index(family)] = self.highest[index(family)].max(ad.counter);
        self.pace(now).advertises(family)
    }

    fn reports(
        &mut self,
        now: Instant,
        Transition { from, to, reason }: Transition,
    ) -> Result<(), Violation> {
        if from != self.state || from == to {
            return Err(format!("reported {from} -> {to} while {}", self.state));
        }
        if to == State::Master && now < self.held_until {
            return Err(format!(
                "took over because {reason:?}, though the operator keeps it away for {:?} more",
                self.held_until.saturating_duration_since(now)
            ));
        }
        let has_source = FAMILIES.iter().any(|family| self.takes_part(*family));
        let justified = match reason {
            Reason::Started => {
                (from, to) == (State::Init, State::Backup)
                    && self.link == LinkState::Up
                    && self.datapath == DatapathState::Works
                    && has_source
                    && !self.stopping
            }
            Reason::MasterTimedOut => {
                let waited = FAMILIES.iter().any(|family| {
                    self.terms.settings.uses(*family)
                        && self.must_wait_from[index(*family)] + self.terms.master_down() <= now
                });
                if !waited {
                    return Err(format!(
                        "declared a master dead that it heard {:?} ago, before the master-down time of {:?}",
                        self.must_wait_from
                            .map(|from| now.saturating_duration_since(from)),
                        self.terms.master_down()
                    ));
                }
                if self.sleep.must_wait() {
                    return Err(
                        "took silence that it slept through for a reason to take over".into(),
                    );
                }
                (from, to) == (State::Backup, State::Master)
            }
            Reason::PreemptingWorseMaster => {
                to == State::Master && self.terms.settings.preempt && self.heard.worse_master
            }
            Reason::PreemptingMoreDemotedMaster => {
                to == State::Master && self.heard.more_demoted_master
            }
            Reason::MasterWillTimeOut => to == State::Master && self.heard.slow_master,
            Reason::BetterMasterAdvertised => {
                to == State::Backup
                    && self
                        .theirs
                        .is_some_and(|theirs| theirs.standing() < self.terms.standing())
            }
            Reason::TieLost => {
                to == State::Backup
                    && self
                        .theirs
                        .is_some_and(|theirs| theirs.standing() == self.terms.standing())
            }
            Reason::Requested => to == State::Backup && self.steps_down,
            Reason::DatapathRefused => to == State::Init && self.datapath == DatapathState::Refuses,
            Reason::LinkDown => to == State::Init && self.link == LinkState::Down,
            Reason::NoSourceAddress => to == State::Init && !has_source,
            Reason::Shutdown => to == State::Init && self.stopping,
        };
        if !justified {
            return Err(format!(
                "{from} -> {to} because {reason:?}, having heard {:?}",
                self.theirs
            ));
        }
        if reason == Reason::Started {
            self.signs.iter_mut().for_each(|signs| signs.begins(now));
        }
        if to == State::Backup {
            self.heard = Causes::default();
            // Two BSDs that yielded to each other: the one with the higher address waits longer.
            let patience = if reason == Reason::TieLost {
                self.terms.longest_interval()
            } else {
                Duration::ZERO
            };
            self.may_wait_from = self.may_wait_from.map(|may| may.max(now + patience));
        }
        if to == State::Master {
            self.pace = Pace::from(now);
        }
        self.state = to;
        Ok(())
    }

    /// Notes that the core judged its timers.
    ///
    /// # Errors
    /// Returns the first rule that it broke since its last input.
    pub fn judged(&mut self, now: Instant, core: &VirtualHost) -> Result<(), Violation> {
        self.close(now)?;
        let state = core.state();
        if state != self.state {
            return Err(format!("is {state} but reported {}", self.state));
        }
        Ok(())
    }

    /// Notes that the process has nothing left to do and is about to sleep.
    ///
    /// # Errors
    /// Returns a rule that it broke, a deadline in the past, or one too far away.
    pub fn settled(&mut self, now: Instant, core: &VirtualHost) -> Result<(), Violation> {
        self.judged(now, core)?;
        let latest = match self.state {
            State::Init => None,
            State::Backup => FAMILIES
                .iter()
                .filter(|family| self.takes_part(**family))
                .map(|family| self.may_wait_from[index(*family)] + self.terms.patience())
                .map(|latest| latest.max(self.sleep.may_wait_until()))
                .min(),
            State::Master => Some(now + self.terms.longest_interval()),
        };
        match (core.next_deadline(), latest) {
            (None, None) => Ok(()),
            (Some(deadline), Some(latest)) if now < deadline && deadline <= latest => {
                // The exceptions are an operator who keeps it away, and its patience with a BSD.
                let pace = self.terms.interval(self.terms.settings.advskew.0);
                let is_patient = self.terms.patience() > self.terms.master_down();
                let usual = !is_patient
                    && deadline <= now + self.terms.master_down().max(pace)
                    && deadline > self.held_until + self.terms.master_down();
                self.reign.settled(now, usual.then_some(deadline))
            }
            (deadline, latest) => Err(format!(
                "{} sleeps until {deadline:?}; now is {now:?}, and it must wake by {latest:?}",
                self.state
            )),
        }
    }

    /// Returns the counts of the current interval.
    fn pace(&mut self, now: Instant) -> &mut Pace {
        // This is the interval without demotion, which only makes it longer.
        if self.pace.since + self.terms.interval(self.terms.settings.advskew.0) < now {
            self.pace = Pace::from(now);
        }
        &mut self.pace
    }
}
