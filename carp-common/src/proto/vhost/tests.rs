//! One virtual host and a peer that knows its key.

mod bow_outs;
mod outlook;
mod recordings;
mod rivals;
mod scenarios;
mod sequences;
mod table;

use core::fmt::Write as _;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::proto::{
    AddressSet, Command, DatapathState, DemotionCause, Key, LinkState, Notice, Reason, SendOutcome,
    Standing, Transition, drive,
};
use crate::units::{AdvBase, AdvSkew, DeadRatio, Demotion, Profile, Vhid};
use crate::wire::advertisement::{Advertisement, HEADER_LEN};

const PEER: &str = "10.9.0.7";
const UCARP: Profile = Profile::Ucarp;
/// The Ethernet source of a ucarp, and of a carpd with that profile.
const UCARP_MAC: [u8; 6] = [0, 0, 0x5e, 0, 0, 42];
/// The Ethernet source of a BSD.
const BSD_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 42];
/// The actions of a MASTER that heard a worse one, and two advertisements after its takeover.
const REASSERT: &str = "send inet 1/100, announce inet";

/// A virtual host, its clock, and everything needed to speak to it as its peers do.
struct Host {
    vhost: VirtualHost,
    now: Instant,
    /// The authenticator of the peers.
    authenticator: Authenticator,
    /// The next counter of a peer.
    counter: u64,
    /// The standing that the datapath was given.
    standing: Standing,
    /// The last payload of ours.
    sent: Option<[u8; HEADER_LEN]>,
    /// The Ethernet source of the peers' advertisements.
    ethernet_source: [u8; 6],
    /// The kind of the last input.
    last_kind: String,
}

/// Returns the context of the parts of such a host, which sends from one IPv4 address.
pub(super) fn context(settings: Settings) -> CoreContext {
    let Settings { vhid, profile, .. } = settings;
    let authenticator = Authenticator::new(&settings.key, vhid, &settings.addresses, profile, None);
    let now = Instant::from_nanos(1_000_000_000_000);
    let mut cx = CoreContext::new(settings, authenticator, now);
    cx.sources[Family::Inet] = Some(ip("10.9.0.5"));
    cx
}

/// A peer's advertisement that arrives at this time.
pub(super) fn heard_at(arrival: Instant) -> Origin {
    Origin {
        source: ip(PEER),
        ethernet_source: UCARP_MAC,
        arrival,
    }
}

/// Our defaults: vhid 42, 1/100, no preemption, one IPv4 address.
pub(super) fn settings(profile: Profile) -> Settings {
    Settings {
        vhid: Vhid::new(42).unwrap(),
        advbase: AdvBase(1),
        advskew: AdvSkew(100),
        deadratio: DeadRatio::default(),
        preempt: false,
        profile,
        addresses: addresses(&["10.9.0.100"]),
        key: Key::new(b"love").unwrap(),
        strict_counter: false,
        no_openbsd: false,
        announce_refresh: None,
    }
}

fn dual_stack(profile: Profile) -> Settings {
    Settings {
        addresses: addresses(&["10.9.0.100", "2001:db8::100"]),
        ..settings(profile)
    }
}

fn source(family: Family, address: Option<&str>) -> Input<'static> {
    Input::SourceChanged {
        family,
        source: address.map(ip),
    }
}

fn addresses(texts: &[&str]) -> AddressSet {
    AddressSet::new(texts.iter().map(|text| ip(text)))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Host {
    /// Returns a host in INIT, without link and source.
    fn new(settings: Settings) -> Self {
        Self::with_counter(settings, 1000)
    }

    fn with_counter(settings: Settings, initial_counter: u64) -> Self {
        let Settings { vhid, profile, .. } = settings;
        let now = Instant::from_nanos(1_000_000_000_000);
        let authenticator =
            Authenticator::new(&settings.key, vhid, &settings.addresses, profile, None);
        let vhost = VirtualHost::new(settings, initial_counter, now);
        Self {
            vhost,
            now,
            authenticator,
            counter: 5000,
            standing: Standing::INIT,
            sent: None,
            ethernet_source: UCARP_MAC,
            last_kind: String::new(),
        }
    }

    /// Returns a host that has just started, as BACKUP.
    fn started(settings: Settings) -> Self {
        let inet6 = settings.uses(Family::Inet6);
        let mut host = Self::new(settings);
        host.input(source(Family::Inet, Some("10.9.0.5")));
        if inet6 {
            host.input(source(Family::Inet6, Some("fe80::5")));
        }
        host.input(Input::LinkChanged(LinkState::Up));
        host
    }

    /// Returns a MASTER by timeout that made its last announcement and has just advertised.
    fn master(settings: Settings) -> Self {
        let mut host = Self::started(settings);
        while host.vhost.machine.announcer.refresh_at.is_some()
            || host.vhost.state() != State::Master
        {
            host.next_timeout();
        }
        host.next_timeout();
        host
    }

    fn wait(&mut self, duration: Duration) -> &mut Self {
        self.now = self.now + duration;
        self
    }

    fn input(&mut self, input: Input<'_>) -> String {
        self.last_kind = table::kind(input);
        let actions = self.fed(input);
        self.perform(actions)
    }

    fn timeout(&mut self) -> String {
        let actions = self.timed_out(self.now, self.now);
        self.perform(actions)
    }

    /// Feeds an input. Returns the actions, which are not carried out.
    fn fed(&mut self, input: Input<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        drive::feed(&mut self.vhost, self.now, input, &mut actions);
        actions
    }

    /// Fires the timers that are due at `now`. Returns the actions, which are not carried out.
    fn timed_out(&mut self, now: Instant, looked_at: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        drive::time_out(&mut self.vhost, now, looked_at, &mut actions);
        actions
    }

    /// Sleeps until the next deadline.
    fn next_timeout(&mut self) -> String {
        self.now = self.vhost.next_deadline().expect("a deadline");
        self.timeout()
    }

    /// A valid header of a peer, with the next counter.
    fn payload(&mut self, advbase: u8, advskew: u8, demotion: u8) -> [u8; HEADER_LEN] {
        self.counter += 1;
        self.payload_with_counter(advbase, advskew, demotion, self.counter)
    }

    fn payload_with_counter(
        &self,
        advbase: u8,
        advskew: u8,
        demotion: u8,
        counter: u64,
    ) -> [u8; HEADER_LEN] {
        let advertisement = Advertisement {
            vhid: self.vhost.cx.settings.vhid,
            advskew: AdvSkew(advskew),
            demotion: Demotion(demotion),
            advbase: AdvBase(advbase),
            counter,
            digest: self.authenticator.sign(counter),
        };
        let mut payload = [0xa5; HEADER_LEN];
        advertisement.emit(&mut payload);
        payload
    }

    fn hear_payload(&mut self, source: &str, payload: &[u8]) -> String {
        self.hear_at(source, payload, self.now)
    }

    fn hear_at(&mut self, source: &str, payload: &[u8], arrival: Instant) -> String {
        let source = ip(source);
        let origin = Origin {
            source,
            ethernet_source: self.ethernet_source,
            arrival,
        };
        self.input(Input::Advertisement {
            family: Family::of(source),
            origin,
            payload,
        })
    }

    /// A valid advertisement arrives now.
    fn hear(&mut self, source: &str, advbase: u8, advskew: u8) -> String {
        let payload = self.payload(advbase, advskew, 0);
        self.hear_payload(source, &payload)
    }

    fn send_completed(&mut self, outcome: SendOutcome) -> String {
        self.completes(Family::Inet, outcome)
    }

    fn completes(&mut self, family: Family, outcome: SendOutcome) -> String {
        self.input(Input::SendCompleted { family, outcome })
    }

    /// The counter of our last advertisement.
    fn last_sent(&self) -> u64 {
        let sent = self.sent.expect("we were MASTER");
        Advertisement::parse(&sent).unwrap().counter
    }

    /// Time until the next deadline, negative when it has passed.
    fn next_in(&self) -> Option<i64> {
        let deadline = self.vhost.next_deadline()?.as_nanos().cast_signed();
        Some(deadline - self.now.as_nanos().cast_signed())
    }

    /// Carries out the actions of one input. Their results are inputs of the test.
    fn perform(&mut self, actions: Vec<Action>) -> String {
        let mut shown = Vec::new();
        for action in actions {
            if let Action::SendAdvertisement { payload, .. } = action {
                self.check_own(&payload);
                self.sent = Some(payload);
            }
            if let Action::ProgramDatapath(standing) = action {
                shown.extend(self.program(standing));
            } else {
                shown.push(show(action));
            }
        }
        shown.join(", ")
    }

    /// Returns the state, or the time for which the host owns the addresses if only that changed. A renewal of its life is
    /// not shown.
    fn program(&mut self, standing: Standing) -> Option<String> {
        assert_ne!(standing, self.standing, "told twice");
        let before = core::mem::replace(&mut self.standing, standing);
        let owns = standing.owns_until.saturating_duration_since(self.now);
        match (
            before.state != standing.state,
            before.owns_until != standing.owns_until,
        ) {
            (true, _) => Some(format!("datapath {}", standing.state)),
            (false, true) => Some(format!("own for {} ms", owns.as_millis())),
            (false, false) => None,
        }
    }

    /// Checks that our advertisements are well formed and authentic, and use each counter once.
    fn check_own(&self, payload: &[u8; HEADER_LEN]) {
        let ours = Advertisement::parse(payload).unwrap();
        assert!(self.authenticator.verify(ours.counter, &ours.digest));
        assert_eq!(ours.vhid, self.vhost.cx.settings.vhid);
        let last = self
            .sent
            .map(|payload| Advertisement::parse(&payload).unwrap().counter);
        assert!(
            last.is_none_or(|last| ours.counter > last),
            "{last:?}, {}",
            ours.counter
        );
    }
}

/// An action in a few words.
fn show(action: Action) -> String {
    let mut text = String::new();
    match action {
        Action::ProgramDatapath(standing) => write!(text, "datapath {}", standing.state),
        Action::SendAdvertisement { family, payload } => {
            let Advertisement {
                advbase,
                advskew,
                demotion,
                ..
            } = Advertisement::parse(&payload).unwrap();
            write!(text, "send {family} {}", Priority { advbase, advskew }).unwrap();
            if demotion == Demotion::NONE {
                Ok(())
            } else {
                write!(text, " demoted {}", demotion.0)
            }
        }
        Action::ClaimAddresses => write!(text, "claim"),
        Action::ReleaseAddresses => write!(text, "release"),
        Action::Announce(family) => write!(text, "announce {family}"),
        Action::Report(Transition { from, to, reason }) => {
            write!(text, "{from} to {to}: {reason:?}")
        }
        Action::Notify(notice) => write!(text, "{}", name(notice)),
    }
    .unwrap();
    text
}

fn name(notice: Notice) -> &'static str {
    match notice {
        Notice::BadDigest { .. } => "notice bad digest",
        Notice::EqualSettings { .. } => "notice equal settings",
        Notice::OwnEcho { .. } => "notice own echo",
        Notice::WorseMasterAdvertised { .. } => "notice worse master",
        Notice::Tampered { .. } => "notice tampered",
        Notice::StaleCounter { .. } => "notice stale counter",
        Notice::Unproven { .. } => "notice unproven",
        Notice::Unanswered { .. } => "notice unanswered",
        Notice::Suppressed => "notice suppressed",
        Notice::Unsuppressed => "notice unsuppressed",
    }
}
