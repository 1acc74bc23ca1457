//! Fuzzes the protocol core with a configuration and a sequence of inputs and times.
//!
//! Advertisements of peers are signed with the right key unless the input says otherwise, so that every state can be
//! reached. After each step the simulated host, which carries out the actions, must fit the state.
//!
//! Input: the settings, then steps until it ends. See [`Play::new`] and [`Play::step`].

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use carp_common::proto::{
    Action, AddressSet, Authenticator, Command, Counters, DatapathState, DemotionCause, Input, Key,
    LinkState, Notice, Origin, SendOutcome, Settings, Standing, Transition, VirtualHost, drive,
    vhost::NOTICE_INTERVAL,
};
use carp_common::time::{Duration, Instant};
use carp_common::units::{AdvBase, AdvSkew, DeadRatio, Demotion, Family, Profile, State, Vhid};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};
use std::net::IpAddr;

/// The most actions of one input: a takeover in both families and a notice.
const ACTIONS_MAX: usize = 8;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The time at which a play ends. It is before the end of the clock, whose arithmetic saturates, and no deadline lies
/// beyond that.
const END: Instant = Instant::from_nanos(1 << 62);

/// Addresses of this host, of peers, and the virtual addresses themselves.
const ADDRESSES: [&str; 8] = [
    "10.9.0.5",
    "10.9.0.7",
    "10.9.1.0",
    "10.9.0.100",
    "fe80::5",
    "fe80::7",
    "2001:db8::100",
    "fe80::100",
];
const FAMILIES: [Family; 2] = [Family::Inet, Family::Inet6];

/// Runs one input; see the module.
pub fn target(data: &[u8]) {
    play(data);
}

/// The result of an input, to see where it leads.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The states that were entered, in order.
    pub states: Vec<State>,
    /// The core's counters at the end.
    pub counters: Counters,
}

/// Plays the input. An input that is too short for the settings has no result.
pub fn play(data: &[u8]) -> Outcome {
    let mut input = Unstructured::new(data);
    // An error means that the bytes ran out.
    let Ok(mut play) = Play::new(&mut input) else {
        return Outcome::default();
    };
    while !input.is_empty() && play.now < END && play.step(&mut input).is_ok() {}
    Outcome {
        states: play.states,
        counters: play.counters,
    }
}

/// A virtual host, the peers that it hears, and the effects of its actions.
struct Play {
    host: VirtualHost,
    settings: Settings,
    authenticator: Authenticator,
    now: Instant,
    /// The latest time that the core was given.
    told: Instant,
    stopped: bool,
    /// The last counter of the peers.
    counter: u64,
    /// The last advertisement of this host.
    sent: Option<[u8; HEADER_LEN]>,
    sent_counter: Option<u64>,
    reported: State,
    states: Vec<State>,
    datapath: Standing,
    holds_addresses: bool,
    noticed: BTreeMap<&'static str, Instant>,
    counters: Counters,
}

impl Play {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let all = ["10.9.0.100", "2001:db8::100", "fe80::100"];
        let addresses = *input.choose(&[&all[..1], &all[1..], &all, &all[..0]])?;
        let election = Settings {
            vhid: Vhid::new(42).expect("not 0"),
            advbase: AdvBase(number(input)?),
            advskew: AdvSkew(number(input)?),
            deadratio: DeadRatio::new(number(input)?).unwrap_or_default(),
            preempt: input.arbitrary()?,
            profile: *input.choose(&[Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd])?,
            addresses: AddressSet::new(addresses.iter().map(|text| ip(text))),
            key: Key::new(b"love").expect("short enough"),
            strict_counter: false,
            no_openbsd: false,
            announce_refresh: None,
        };
        // The corpus depends on this order of reading.
        let initial_counter = *input.choose(&[1000, 0, u64::MAX - 3])?;
        let settings = Settings {
            strict_counter: input.arbitrary()?,
            no_openbsd: input.arbitrary()?,
            announce_refresh: *input.choose(&[None, Some(Duration::from_secs(1)), Some(YEAR)])?,
            ..election
        };
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut play = Self {
            host: VirtualHost::new(settings.clone(), initial_counter, now),
            authenticator: Authenticator::new(
                &settings.key,
                settings.vhid,
                &settings.addresses,
                settings.profile,
                None,
            ),
            settings,
            now,
            told: now,
            stopped: false,
            counter: 5000,
            sent: None,
            sent_counter: None,
            reported: State::Init,
            states: Vec::new(),
            datapath: Standing::INIT,
            holds_addresses: false,
            noticed: BTreeMap::new(),
            counters: Counters::default(),
        };
        if input.arbitrary()? {
            for address in ["10.9.0.5", "fe80::5"] {
                let (family, source) = (Family::of(ip(address)), Some(ip(address)));
                play.feed(Input::SourceChanged { family, source });
            }
            play.feed(Input::LinkChanged(LinkState::Up));
        }
        Ok(play)
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=31)? {
            0..=5 => {
                // The end of time is left out: a hold without end would end there.
                let next = self.host.next_deadline();
                if let Some(next) = next.filter(|next| *next < self.now + YEAR) {
                    self.now = self.now.max(next);
                }
                self.time_out(self.now);
            }
            6 => self.time_out(self.now),
            7 => {
                let back = duration(input)?;
                self.time_out(earlier(self.now, back));
            }
            8..=10 => self.now = self.now + duration(input)?,
            11..=18 => self.hear_a_peer(input)?,
            19 => {
                let source = source(input)?;
                if let Some(payload) = self.sent {
                    self.hear(source, &payload, Duration::ZERO);
                }
            }
            20 => {
                let length = input.int_in_range(0..=HEADER_LEN + 2)?;
                let (source, payload) = (source(input)?, input.bytes(length)?);
                self.hear(source, payload, Duration::ZERO);
            }
            21 => {
                let link = *input.choose(&[LinkState::Up, LinkState::Up, LinkState::Down])?;
                self.feed(Input::LinkChanged(link));
            }
            22 => {
                let family = *input.choose(&FAMILIES)?;
                // A source of the other family is chosen now and then, and counts as none.
                let source = Some(source(input)?).filter(|_| input.ratio(3, 4).unwrap_or(true));
                self.feed(Input::SourceChanged { family, source });
            }
            23 => {
                let cause = *input.choose(&DemotionCause::ALL)?;
                let amount = Demotion(number(input)?);
                self.feed(Input::DemotionChanged { cause, amount });
            }
            24..=26 => {
                let family = *input.choose(&FAMILIES)?;
                let outcomes = [
                    SendOutcome::Failed,
                    SendOutcome::Sent,
                    SendOutcome::NoMemory,
                ];
                let outcome = *input.choose(&outcomes)?;
                self.feed(Input::SendCompleted { family, outcome });
            }
            27 => self.feed(Input::ClaimCompleted),
            28 => self.feed(Input::StationChanged),
            29 => self.feed(*input.choose(&[
                Input::AdvertisementsLost,
                Input::DatapathChanged(DatapathState::Refuses),
                Input::DatapathChanged(DatapathState::Works),
            ])?),
            30 => {
                let hold =
                    *input.choose(&[Duration::from_secs(3), Duration::MAX, Duration::ZERO])?;
                self.feed(Input::Command(Command::StepDown { hold }));
            }
            _ => {
                // A shutdown cannot be undone, so it should be rare early in a play.
                if input.arbitrary::<u8>()? > 250 {
                    self.feed(Input::Shutdown);
                    self.stopped = true;
                }
            }
        }
        assert!(!self.stopped || self.host.state() == State::Init);
        Ok(())
    }

    /// Hears a header with a right checksum, and in most cases the right vhid and digest.
    fn hear_a_peer(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let counter = match input.int_in_range(0..=7)? {
            0..=4 => {
                self.counter = self.counter.saturating_add(1);
                self.counter
            }
            5 | 6 => self.counter.saturating_sub(input.int_in_range(0..=20)?),
            _ => input.arbitrary()?,
        };
        let mut advertisement = Advertisement {
            vhid: self.settings.vhid,
            advbase: AdvBase(number(input)?),
            advskew: AdvSkew(number(input)?),
            demotion: Demotion(*input.choose(&[0, 0, 0, 1, 240, 255])?),
            counter,
            digest: self.authenticator.sign(counter),
        };
        match input.int_in_range(0..=15)? {
            0 => advertisement.digest[0] ^= input.arbitrary::<u8>()?,
            1 => advertisement.vhid = Vhid::new(input.arbitrary()?).unwrap_or(advertisement.vhid),
            _ => {}
        }
        let mut payload = [0xa5; HEADER_LEN];
        advertisement.emit(&mut payload);
        let age = if input.ratio(1, 4)? {
            duration(input)?
        } else {
            Duration::ZERO
        };
        self.hear(source(input)?, &payload, age);
        Ok(())
    }

    /// A sender that does not know the key must not change what this host does.
    fn hear(&mut self, source: IpAddr, payload: &[u8], age: Duration) {
        let host = &self.host;
        let before = (
            host.state(),
            host.next_deadline(),
            host.last_heard(),
            host.advertised(),
        );
        let authentic = Advertisement::parse(payload).is_ok_and(|heard| {
            heard.vhid == self.settings.vhid
                && self.authenticator.verify(heard.counter, &heard.digest)
        });
        let origin = Origin {
            source,
            ethernet_source: [0, 0, 0x5e, 0, 0, 42],
            arrival: earlier(self.now, age),
        };
        self.feed(Input::Advertisement {
            family: Family::of(source),
            origin,
            payload,
        });
        let host = &self.host;
        let after = (
            host.state(),
            host.next_deadline(),
            host.last_heard(),
            host.advertised(),
        );
        assert!(authentic || before == after, "{before:?}, {after:?}");
    }

    fn feed(&mut self, input: Input<'_>) {
        let was = self.host.state();
        self.told = self.told.max(self.now);
        let mut actions = Vec::new();
        drive::feed(&mut self.host, self.now, input, &mut actions);
        self.follow(was, actions);
    }

    fn time_out(&mut self, now: Instant) {
        let (was, due) = (self.host.state(), self.host.next_deadline());
        let looked_at = self.told;
        self.told = self.told.max(now);
        let mut actions = Vec::new();
        drive::time_out(&mut self.host, now, looked_at, &mut actions);
        let number = actions.len();
        self.follow(was, actions);
        let next = self.host.next_deadline();
        assert!(
            next.is_none_or(|next| next > self.told),
            "a deadline in the past"
        );
        if due.is_none_or(|due| due > self.told) {
            assert_eq!((number, next), (0, due), "nothing was due");
        }
        let mut again = Vec::new();
        drive::time_out(&mut self.host, now, looked_at, &mut again);
        assert_eq!(again, [], "twice");
        assert_eq!(self.host.next_deadline(), next, "twice");
    }

    /// Carries out the actions of one input.
    fn follow(&mut self, was: State, actions: Vec<Action>) {
        let number = actions.len();
        let mut was_master = was == State::Master;
        for action in actions {
            match action {
                Action::Report(Transition { from, to, .. }) => {
                    assert_eq!(from, self.reported);
                    assert_ne!(from, to);
                    self.reported = to;
                    self.states.push(to);
                    was_master |= to == State::Master;
                }
                Action::ProgramDatapath(standing) => {
                    assert_ne!(standing, self.datapath, "told twice");
                    self.datapath = standing;
                }
                Action::ClaimAddresses => {
                    assert!(!self.holds_addresses, "claimed twice");
                    assert_eq!(
                        self.datapath.state,
                        State::Master,
                        "the datapath comes first"
                    );
                    self.holds_addresses = true;
                }
                Action::ReleaseAddresses => self.holds_addresses = false,
                Action::SendAdvertisement { family, payload } => {
                    assert!(
                        was_master,
                        "only a MASTER, or one that just was, advertises"
                    );
                    self.check_own(family, &payload);
                }
                Action::Announce(family) => {
                    assert!(self.holds_addresses, "announced without having");
                    assert!(self.settings.uses(family));
                }
                Action::Notify(notice) => self.note(notice),
            }
        }
        assert!(number <= ACTIONS_MAX, "{number} actions");
        let state = self.host.state();
        assert_eq!(self.reported, state, "every change is reported");
        assert_eq!(self.datapath.state, state, "the datapath follows the state");
        assert!(
            state == State::Master || self.datapath.owns_until <= self.told,
            "only a MASTER owns the addresses"
        );
        assert_eq!(
            self.holds_addresses,
            state == State::Master,
            "the addresses follow the state"
        );
        assert_eq!(self.host.next_deadline().is_none(), state == State::Init);
        assert_eq!(self.host.master_down_at().is_some(), state == State::Backup);
        let counters = *self.host.counters();
        let grown = self.counters.iter().zip(counters.iter());
        assert!(
            grown
                .into_iter()
                .all(|((_, before), (_, now))| before <= now)
        );
        self.counters = counters;
    }

    /// Checks an advertisement of this host: it must be well formed and authentic, and sent in a family with an
    /// address. No counter may be used twice, except the last one of all.
    fn check_own(&mut self, family: Family, payload: &[u8; HEADER_LEN]) {
        let ours = Advertisement::parse(payload).expect("well formed");
        assert_eq!(ours.vhid, self.settings.vhid);
        assert!(self.authenticator.verify(ours.counter, &ours.digest));
        assert!(self.settings.uses(family) && self.host.source(family).is_some());
        let rises = self.sent_counter.is_none_or(|last| ours.counter > last);
        assert!(
            rises || ours.counter > u64::MAX - (1 << 20),
            "{}",
            ours.counter
        );
        self.sent_counter = self.sent_counter.max(Some(ours.counter));
        self.sent = Some(*payload);
    }

    fn note(&mut self, notice: Notice) {
        let name = match notice {
            Notice::BadDigest { .. } => "bad digest",
            Notice::EqualSettings { .. } => "equal settings",
            Notice::OwnEcho { .. } => "own echo",
            Notice::WorseMasterAdvertised { .. } => "worse master",
            Notice::Tampered { .. } => "tampered",
            Notice::StaleCounter { .. } => "stale counter",
            Notice::Unproven { .. } => "unproven",
            Notice::Unanswered { .. } => "unanswered",
            // These come as often as sending breaks and works again.
            Notice::Suppressed | Notice::Unsuppressed => return,
        };
        if let Some(last) = self.noticed.insert(name, self.told) {
            assert!(last + NOTICE_INTERVAL <= self.told, "too many of {name}");
        }
    }
}

/// Reads a number, in most cases a likely one, so that priorities are equal now and then.
fn number(input: &mut Unstructured<'_>) -> Result<u8> {
    const LIKELY: [u8; 7] = [1, 0, 2, 3, 100, 200, 255];
    let index = input.int_in_range(0..=LIKELY.len())?;
    LIKELY
        .get(index)
        .map_or_else(|| input.arbitrary(), |likely| Ok(*likely))
}

fn duration(input: &mut Unstructured<'_>) -> Result<Duration> {
    Ok(match input.int_in_range(0..=3)? {
        0 => Duration::from_micros(input.arbitrary::<u16>()?.into()),
        1 => Duration::from_millis(input.arbitrary::<u16>()?.into()),
        2 => Duration::from_nanos(3_906_250) * u32::from(input.arbitrary::<u8>()?),
        _ => Duration::from_millis(input.arbitrary::<u32>()?.into()),
    })
}

fn source(input: &mut Unstructured<'_>) -> Result<IpAddr> {
    input.choose(&ADDRESSES).map(|text| ip(text))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn earlier(now: Instant, by: Duration) -> Instant {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos(now.as_nanos().saturating_sub(by))
}
