//! Random inputs in random order.

use std::vec;

use proptest::prelude::*;

use super::*;

/// One move of the outside.
#[derive(Clone, Debug)]
pub(super) enum Move {
    Wait(Duration),
    /// The clock of one call is this far behind.
    ClockBack(Duration),
    Timeout,
    NextTimeout,
    Hear {
        source: usize,
        advbase: u8,
        advskew: u8,
        demotion: u8,
        counter: Heard,
        age: Duration,
    },
    Echo {
        source: usize,
    },
    Garbage {
        source: usize,
        bytes: Vec<u8>,
    },
    Link(LinkState),
    Datapath(DatapathState),
    Source(Family, Option<usize>),
    Demote(usize, u8),
    SendCompleted(Family, SendOutcome),
    ClaimCompleted,
    AdvertisementsLost,
    StepDown(Duration),
    Shutdown,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Heard {
    Next,
    Back(u64),
    Any(u64),
}

const YEAR_NANOS: u64 = 365 * 24 * 3600 * 1_000_000_000;
const YEAR: Duration = Duration::from_nanos(YEAR_NANOS);

const SOURCES: [&str; 6] = [
    "10.9.0.5",
    "10.9.0.7",
    "10.9.1.0",
    "fe80::5",
    "fe80::7",
    "2001:db8::100",
];

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0..5_000_000_000u64).prop_map(Duration::from_nanos),
        1 => (0..YEAR_NANOS).prop_map(Duration::from_nanos),
        1 => Just(Duration::ZERO),
    ]
}

fn priority() -> impl Strategy<Value = (u8, u8)> {
    prop_oneof![
        4 => (0..3u8, prop_oneof![Just(50u8), Just(100), Just(200)]),
        1 => Just((255, 255)),
        1 => any::<(u8, u8)>(),
    ]
}

fn counter() -> impl Strategy<Value = Heard> {
    prop_oneof![
        6 => Just(Heard::Next),
        2 => (0..20u64).prop_map(Heard::Back),
        1 => any::<u64>().prop_map(Heard::Any),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Inet), Just(Family::Inet6)]
}

pub(super) fn step() -> impl Strategy<Value = Move> {
    let source = 0..SOURCES.len();
    let hear = (source.clone(), priority(), 0..3u8, counter(), duration()).prop_map(
        |(source, (advbase, advskew), demotion, counter, age)| Move::Hear {
            source,
            advbase,
            advskew,
            demotion,
            counter,
            age,
        },
    );
    let outcome = prop_oneof![
        Just(SendOutcome::Sent),
        Just(SendOutcome::NoMemory),
        Just(SendOutcome::Failed)
    ];
    let garbage = (
        source.clone(),
        proptest::collection::vec(any::<u8>(), 0..64),
    );
    prop_oneof![
        8 => duration().prop_map(Move::Wait),
        1 => duration().prop_map(Move::ClockBack),
        4 => Just(Move::Timeout),
        12 => Just(Move::NextTimeout),
        16 => hear,
        2 => source.clone().prop_map(|source| Move::Echo { source }),
        2 => garbage.prop_map(|(source, bytes)| Move::Garbage { source, bytes }),
        4 => prop_oneof![3 => Just(LinkState::Up), 1 => Just(LinkState::Down)].prop_map(Move::Link),
        2 => prop_oneof![3 => Just(DatapathState::Works), 1 => Just(DatapathState::Refuses)].prop_map(Move::Datapath),
        2 => (family(), proptest::option::weighted(0.8, source)).prop_map(|(f, s)| Move::Source(f, s)),
        2 => (0..DemotionCause::ALL.len(), any::<u8>()).prop_map(|(cause, amount)| Move::Demote(cause, amount)),
        6 => (family(), outcome).prop_map(|(family, outcome)| Move::SendCompleted(family, outcome)),
        1 => Just(Move::ClaimCompleted),
        1 => Just(Move::AdvertisementsLost),
        1 => prop_oneof![5 => duration(), 1 => Just(Duration::MAX)].prop_map(Move::StepDown),
        1 => prop_oneof![9 => Just(Move::ClaimCompleted), 1 => Just(Move::Shutdown)],
    ]
}

pub(super) fn any_settings() -> impl Strategy<Value = Settings> {
    let profile = prop_oneof![
        Just(Profile::Ucarp),
        Just(Profile::FreeBsd),
        Just(Profile::OpenBsd)
    ];
    let numbers = (priority(), 1..5u8);
    (profile, numbers, any::<(bool, bool)>(), 0..3usize).prop_map(
        |(profile, ((advbase, advskew), deadratio), (preempt, strict), set)| {
            let both = ["10.9.0.100", "2001:db8::100", "fe80::100"];
            Settings {
                advbase: AdvBase(advbase),
                advskew: AdvSkew(advskew),
                deadratio: DeadRatio::new(deadratio).unwrap(),
                preempt,
                strict_counter: strict,
                no_openbsd: strict,
                addresses: addresses([&both[..1], &both[1..], &both][set]),
                ..settings(profile)
            }
        },
    )
}

/// The actions that the world was told, and their invariants.
#[derive(Default)]
struct World {
    state: Option<State>,
    datapath: Option<Standing>,
    holds_addresses: bool,
    notices: Vec<(String, Instant)>,
}

impl World {
    /// Follows every action of one input.
    fn follow(&mut self, host: &mut Host, actions: Vec<Action>) {
        let mut was_master = self.state == Some(State::Master);
        for action in actions {
            match action {
                Action::Report(Transition { from, to, .. }) => {
                    assert_eq!(from, self.state.unwrap_or(State::Init));
                    assert_ne!(from, to);
                    self.state = Some(to);
                    was_master |= to == State::Master;
                }
                Action::ProgramDatapath(standing) => {
                    assert_ne!(Some(standing), self.datapath, "told twice");
                    self.datapath = Some(standing);
                }
                Action::ClaimAddresses => {
                    assert!(!self.holds_addresses, "claimed twice");
                    let datapath = self.datapath.map(|standing| standing.state);
                    assert_eq!(datapath, Some(State::Master), "the datapath comes first");
                    self.holds_addresses = true;
                }
                Action::ReleaseAddresses => self.holds_addresses = false,
                Action::SendAdvertisement { family, payload } => {
                    assert!(
                        was_master,
                        "only a MASTER, or one that just was, advertises"
                    );
                    assert!(host.vhost.cx.is_active(family));
                    let ours = Advertisement::parse(&payload).unwrap();
                    assert!(host.authenticator.verify(ours.counter, &ours.digest));
                    host.sent = Some(payload);
                }
                Action::Announce(family) => {
                    assert!(self.holds_addresses, "announced without having");
                    assert!(host.vhost.cx.settings.uses(family));
                }
                Action::Notify(notice) => self.note(notice, host.vhost.cx.now),
            }
        }
        let state = host.vhost.state();
        assert_eq!(
            self.state.unwrap_or(State::Init),
            state,
            "every change is reported"
        );
        let datapath = self.datapath.unwrap_or(Standing::INIT);
        assert_eq!(datapath.state, state, "the datapath follows the state");
        assert!(state == State::Master || datapath.owns_until <= host.vhost.cx.now);
        assert_eq!(
            self.holds_addresses,
            state == State::Master,
            "the addresses follow the state"
        );
        assert_eq!(host.vhost.next_deadline().is_none(), state == State::Init);
    }

    fn note(&mut self, notice: Notice, now: Instant) {
        if matches!(notice, Notice::Suppressed | Notice::Unsuppressed) {
            return;
        }
        let name = String::from(name(notice));
        let last = self.notices.iter().rev().find(|(other, _)| *other == name);
        assert!(
            last.is_none_or(|(_, at)| *at + NOTICE_INTERVAL <= now),
            "too many of {name}"
        );
        self.notices.push((name, now));
    }
}

/// Applies a move. Returns the actions that follow from it.
pub(super) fn apply(host: &mut Host, step: &Move) -> Vec<Action> {
    match step {
        Move::Wait(duration) => {
            host.wait(*duration);
            Vec::new()
        }
        Move::ClockBack(duration) => {
            let earlier = earlier(host.now, *duration);
            host.timed_out(earlier, earlier)
        }
        // The process was asleep since the beginning.
        Move::Timeout => host.timed_out(host.now, Instant::ZERO),
        Move::NextTimeout => {
            // This excludes only the end of time, where an endless hold ends.
            let next = host
                .vhost
                .next_deadline()
                .filter(|next| *next < host.now + YEAR);
            host.now = host.now.max(next.unwrap_or(host.now));
            host.timed_out(host.now, host.now)
        }
        Move::Hear {
            source,
            advbase,
            advskew,
            demotion,
            counter,
            age,
        } => {
            let counter = match counter {
                Heard::Next => {
                    host.counter += 1;
                    host.counter
                }
                Heard::Back(by) => host.counter.saturating_sub(*by),
                Heard::Any(counter) => *counter,
            };
            let payload = host.payload_with_counter(*advbase, *advskew, *demotion, counter);
            hear(host, *source, &payload, *age)
        }
        Move::Echo { source } => match host.sent {
            Some(payload) => hear(host, *source, &payload, Duration::ZERO),
            None => Vec::new(),
        },
        Move::Garbage { source, bytes } => hear(host, *source, bytes, Duration::ZERO),
        Move::Link(link) => host.fed(Input::LinkChanged(*link)),
        Move::Datapath(datapath) => host.fed(Input::DatapathChanged(*datapath)),
        Move::Source(family, source) => {
            let source = source.map(|index| ip(SOURCES[index]));
            host.fed(Input::SourceChanged {
                family: *family,
                source,
            })
        }
        Move::Demote(cause, amount) => {
            let cause = DemotionCause::ALL[*cause];
            host.fed(Input::DemotionChanged {
                cause,
                amount: Demotion(*amount),
            })
        }
        Move::SendCompleted(family, outcome) => host.fed(Input::SendCompleted {
            family: *family,
            outcome: *outcome,
        }),
        Move::ClaimCompleted => host.fed(Input::ClaimCompleted),
        Move::AdvertisementsLost => host.fed(Input::AdvertisementsLost),
        Move::StepDown(hold) => host.fed(Input::Command(Command::StepDown { hold: *hold })),
        Move::Shutdown => host.fed(Input::Shutdown),
    }
}

fn hear(host: &mut Host, source: usize, payload: &[u8], age: Duration) -> Vec<Action> {
    let source = ip(SOURCES[source]);
    let origin = Origin {
        source,
        ethernet_source: UCARP_MAC,
        arrival: earlier(host.now, age),
    };
    host.fed(Input::Advertisement {
        family: Family::of(source),
        origin,
        payload,
    })
}

fn earlier(now: Instant, by: Duration) -> Instant {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos(now.as_nanos().saturating_sub(by))
}

/// Returns the next deadline of the host in any state.
fn plans(host: &Host) -> String {
    let machine = &host.vhost.machine;
    let (listener, announcer) = (&machine.listener, &machine.announcer);
    format!("{listener:?} {:?} {announcer:?}", machine.speaker)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_input_sequence_panics_or_leaves_a_stale_deadline(
        settings in any_settings(),
        initial_counter in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut host = Host::with_counter(settings, initial_counter);
        let mut world = World::default();
        for (index, text) in [(0, "10.9.0.5"), (3, "fe80::5")] {
            let family = Family::of(ip(text));
            let actions = apply(&mut host, &Move::Source(family, Some(index)));
            world.follow(&mut host, actions);
        }
        let actions = apply(&mut host, &Move::Link(LinkState::Up));
        world.follow(&mut host, actions);
        for step in &steps {
            let actions = apply(&mut host, step);
            world.follow(&mut host, actions);
            if matches!(step, Move::Timeout | Move::NextTimeout) {
                let now = host.vhost.cx.now;
                let next = host.vhost.next_deadline();
                prop_assert!(next.is_none_or(|next| next > now), "{next:?} is not after {now:?}");
                let before = plans(&host);
                prop_assert_eq!(host.timed_out(now, now), [], "a second timeout does nothing");
                prop_assert_eq!(before, plans(&host));
            }
        }
    }
}
