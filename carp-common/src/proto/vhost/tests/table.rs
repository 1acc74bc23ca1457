//! Every event in every state, for every profile, in IPv4 alone and in IPv6 beside it: our actions, in order.

use std::format;
use std::string::{String, ToString as _};
use std::vec::Vec;

use super::*;

mod event;

use event::Event::{self, *};
pub(super) use event::kind;
use event::{EVENTS, kinds_of, reasons};

/// The families of the host, and the family that events are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stack {
    /// IPv4 alone, and events in IPv4.
    Inet,
    /// IPv4 and IPv6, and events in IPv6, each with its IPv4 as it was.
    Dual,
}

impl Stack {
    /// The family that events are about.
    fn family(self) -> Family {
        match self {
            Self::Inet => Family::Inet,
            Self::Dual => Family::Inet6,
        }
    }

    fn other_family(self) -> Family {
        match self {
            Self::Inet => Family::Inet6,
            Self::Dual => Family::Inet,
        }
    }

    /// One of two addresses, by the family that events are about.
    fn pick<T>(self, inet: T, inet6: T) -> T {
        match self {
            Self::Inet => inet,
            Self::Dual => inet6,
        }
    }

    fn peer(self) -> &'static str {
        self.pick(PEER, "fe80::7")
    }

    fn ours(self) -> &'static str {
        self.pick("10.9.0.5", "fe80::5")
    }
}

/// A host that was MASTER once, in the state that is asked for, 100 ms after it came there.
fn host_in(state: State, profile: Profile, stack: Stack, event: Event) -> Host {
    let settings = match stack {
        Stack::Inet => settings(profile),
        Stack::Dual => dual_stack(profile),
    };
    let mut host = Host::master(Settings {
        preempt: matches!(event, WorseToPreempt | WorseToPreemptWhileHeld),
        strict_counter: matches!(
            event,
            StrictRisingCounter | StrictEqualCounter | StrictStaleCounter
        ),
        ..settings
    });
    match state {
        State::Master => {}
        State::Backup => {
            host.input(Input::Command(Command::StepDown {
                hold: Duration::ZERO,
            }));
        }
        State::Init if event == SourceFound => {
            host.input(source(Family::Inet, None));
            host.input(source(Family::Inet6, None));
        }
        State::Init => {
            host.input(Input::LinkChanged(LinkState::Down));
        }
    }
    // A peer that hears us goes on above our counters.
    host.counter = host.last_sent();
    host.wait(millis(100));
    assert_eq!(host.vhost.state(), state);
    host
}

/// Brings the event about and returns the outcome of its last input.
fn happen(host: &mut Host, stack: Stack, event: Event) -> String {
    let (family, peer) = (stack.family(), stack.peer());
    let demote = |amount| Input::DemotionChanged {
        cause: DemotionCause::Administrator,
        amount: Demotion(amount),
    };
    match event {
        LinkUp => host.input(Input::LinkChanged(LinkState::Up)),
        LinkUpWithoutSource => {
            host.input(source(Family::Inet, None));
            host.input(source(Family::Inet6, None));
            host.input(Input::LinkChanged(LinkState::Up))
        }
        LinkUpAfterShutdown => {
            host.input(Input::Shutdown);
            host.input(Input::LinkChanged(LinkState::Up))
        }
        LinkDown => host.input(Input::LinkChanged(LinkState::Down)),
        DatapathRefuses => host.input(Input::DatapathChanged(DatapathState::Refuses)),
        DatapathWorks | DatapathWorksWithoutLink => {
            host.input(Input::DatapathChanged(DatapathState::Refuses));
            if event == DatapathWorksWithoutLink {
                host.input(Input::LinkChanged(LinkState::Down));
            }
            host.wait(millis(1));
            host.input(Input::DatapathChanged(DatapathState::Works))
        }
        LinkUpWhileDatapathRefuses => {
            host.input(Input::DatapathChanged(DatapathState::Refuses));
            host.input(Input::LinkChanged(LinkState::Down));
            host.input(Input::LinkChanged(LinkState::Up))
        }
        SourceLost => host.input(source(family, None)),
        OtherSourceLost => host.input(source(stack.other_family(), None)),
        BothSourcesLost => {
            host.input(source(stack.other_family(), None));
            host.input(source(family, None))
        }
        SourceMoved => host.input(source(family, Some(stack.pick("10.9.0.6", "fe80::6")))),
        SourceFound | SourceFoundWithoutLink => {
            if event == SourceFoundWithoutLink {
                host.input(Input::LinkChanged(LinkState::Down));
            }
            host.input(source(family, None));
            host.wait(millis(1));
            host.input(source(family, Some(stack.ours())))
        }
        SourceOfWrongFamily => host.input(source(family, Some(stack.pick("fe80::5", "10.9.0.5")))),
        StationChanged => host.input(Input::StationChanged),
        DemotionRises => host.input(demote(5)),
        DemotionFalls => {
            host.input(demote(5));
            host.wait(millis(1));
            host.input(demote(0))
        }
        Sent => host.completes(family, SendOutcome::Sent),
        ThirdSendError => {
            host.completes(family, SendOutcome::NoMemory);
            host.completes(family, SendOutcome::Failed);
            host.completes(family, SendOutcome::Failed)
        }
        ThirdSuccessAfterErrors => {
            for _ in 0..3 {
                host.completes(family, SendOutcome::Failed);
            }
            host.wait(millis(1));
            host.completes(family, SendOutcome::Sent);
            host.completes(family, SendOutcome::Sent);
            host.completes(family, SendOutcome::Sent)
        }
        ClaimCompleted => host.input(Input::ClaimCompleted),
        AdvertisementsLost => host.input(Input::AdvertisementsLost),
        AdvertisementsLostAfterBowOut => {
            host.hear(peer, 255, 255);
            host.input(Input::AdvertisementsLost)
        }
        StepDown => host.input(Input::Command(Command::StepDown { hold: millis(3000) })),
        Shutdown => host.input(Input::Shutdown),
        EarlyTimeout => {
            if let Some(deadline) = host.vhost.next_deadline() {
                host.now = Instant::from_nanos(deadline.as_nanos() - 1);
            }
            host.timeout()
        }
        Timeout | TimeoutAfterBowOut => {
            if event == TimeoutAfterBowOut {
                host.hear(peer, 255, 255);
                host.timeout();
                host.last_kind.clear();
            }
            host.now = host.vhost.next_deadline().unwrap_or(host.now);
            host.timeout()
        }
        Better => host.hear(peer, 1, 50),
        Worse | WorseToPreempt => host.hear(peer, 1, 200),
        WorseToPreemptWhileHeld => {
            host.input(Input::Command(Command::StepDown { hold: millis(3000) }));
            host.counter = host.last_sent();
            host.hear(peer, 1, 200)
        }
        EqualFromRawHigher => host.hear(stack.pick("10.8.0.9", "fe80::9"), 1, 100),
        EqualFromRawLower => host.hear(stack.pick("10.10.0.1", "fe80::1"), 1, 100),
        EqualFromBsd => {
            host.ethernet_source = BSD_MAC;
            host.hear(stack.pick("10.10.0.1", "fe80::1"), 1, 100)
        }
        BetterThatDidNotHearUs => {
            host.counter = 1 << 40;
            host.hear(peer, 1, 50)
        }
        BetterAnswers => {
            host.counter = 1 << 40;
            host.hear(peer, 1, 50);
            host.timeout();
            host.wait(millis(1));
            host.counter = host.last_sent();
            host.hear(peer, 1, 50)
        }
        BetterHeardBefore => {
            for _ in 0..3 {
                host.hear(peer, 1, 200);
                host.timeout();
                host.wait(millis(400));
            }
            let payload = host.payload_with_counter(1, 50, 0, host.counter - 2);
            host.hear_payload(stack.pick("10.9.0.8", "fe80::8"), &payload)
        }
        OursFromPeer => {
            let payload = host.payload_with_counter(1, 50, 0, host.last_sent());
            host.hear_payload(peer, &payload)
        }
        OursThatWeNeverSent => host.hear(stack.ours(), 1, 50),
        ConstantCounter => {
            let payload = host.payload_with_counter(1, 50, 0, 1 << 40);
            host.hear_payload(peer, &payload);
            host.timeout();
            host.wait(millis(1500));
            host.timeout();
            host.hear_payload(peer, &payload)
        }
        AlteredBowOut => {
            let altered = host.payload(255, 255, 0);
            host.hear_payload(peer, &altered);
            host.wait(millis(5));
            let genuine = host.payload_with_counter(1, 50, 0, host.counter);
            host.hear_payload(peer, &genuine)
        }
        BowOut => host.hear(peer, 255, 255),
        TooRare => host.hear(peer, 4, 0),
        JustOftenEnough => host.hear(peer, 3, 100),
        BetterButDemoted => {
            let payload = host.payload(1, 50, 5);
            host.hear_payload(peer, &payload)
        }
        WorseButWeAreDemoted => {
            host.input(demote(5));
            host.counter = host.last_sent();
            host.hear(peer, 1, 200)
        }
        ShortPacket => {
            let payload = host.payload(1, 50, 0);
            host.hear_payload(peer, &payload[..HEADER_LEN - 1])
        }
        BadChecksum => hear_altered(host, peer, |payload| payload[7] ^= 1),
        BadVersion => hear_altered(host, peer, |payload| set_byte(payload, 0, 0x31)),
        BadAuthLength => hear_altered(host, peer, |payload| set_byte(payload, 3, 8)),
        OtherVhid => hear_altered(host, peer, |payload| set_byte(payload, 1, 43)),
        BadDigest => hear_altered(host, peer, |payload| set_byte(payload, 35, payload[35] ^ 1)),
        OwnEcho => {
            let payload = host.sent.expect("we were MASTER");
            host.hear_payload(stack.ours(), &payload)
        }
        SameCounterFromPeer => {
            let payload = host.payload_with_counter(1, 200, 0, host.last_sent());
            host.hear_payload(peer, &payload)
        }
        DuplicateTooSoon => hear_twice(host, peer, Duration::from_nanos(445_312_499)),
        DuplicateLater => hear_twice(host, peer, Duration::from_nanos(445_312_500)),
        ChangedUnderConstantCounter => hear_changed(host, peer, 1, (1, 201)),
        ChangedAfterOneMove => hear_changed(host, peer, 2, (0, 0)),
        Tampered => hear_changed(host, peer, 3, (0, 0)),
        StrictRisingCounter => hear_with_counter(host, peer, 1),
        StrictEqualCounter => hear_with_counter(host, stack.pick("10.9.0.8", "fe80::8"), 0),
        StrictStaleCounter => hear_with_counter(host, peer, -1),
    }
}

/// Delivers 1/200 from the peer, and then 1/50 from that source with a counter so much higher. A MASTER sends its answers
/// between the two.
fn hear_with_counter(host: &mut Host, source: &str, rise: i64) -> String {
    let first = host.payload(1, 200, 0);
    let peer = if source.contains(':') {
        "fe80::7"
    } else {
        PEER
    };
    host.hear_payload(peer, &first);
    host.wait(millis(500));
    let counter = host.counter.strict_add_signed(rise);
    let payload = host.payload_with_counter(1, 50, 0, counter);
    host.hear_payload(source, &payload)
}

/// Delivers so many 1/200, each with another counter, and then the last one again with another priority.
fn hear_changed(host: &mut Host, peer: &str, times: u8, (advbase, advskew): (u8, u8)) -> String {
    for _ in 0..times {
        host.hear(peer, 1, 200);
        host.timeout();
        host.wait(millis(400));
    }
    let payload = host.payload_with_counter(advbase, advskew, 0, host.counter);
    host.hear_payload(peer, &payload)
}

/// A better MASTER's advertisement, spoilt.
fn hear_altered(host: &mut Host, peer: &str, alter: impl FnOnce(&mut [u8; HEADER_LEN])) -> String {
    let mut payload = host.payload(1, 50, 0);
    alter(&mut payload);
    host.hear_payload(peer, &payload)
}

/// Sets one byte and makes the checksum hold again.
fn set_byte(payload: &mut [u8; HEADER_LEN], offset: usize, value: u8) {
    payload[offset] = value;
    payload[6..8].fill(0);
    let sum = crate::wire::checksum::internet_checksum(payload);
    payload[6..8].copy_from_slice(&sum);
}

fn hear_twice(host: &mut Host, peer: &str, pause: Duration) -> String {
    let payload = host.payload(1, 200, 0);
    host.hear_payload(peer, &payload);
    host.timeout();
    host.wait(pause);
    host.hear_payload(peer, &payload)
}

/// The counters that grew, those of packets received apart.
fn grown(before: &Counters, after: &Counters) -> String {
    let pairs = before.iter().zip(after.iter());
    let names = pairs
        .filter(|(before, after)| before != after)
        .map(|(_, (name, _))| name);
    names
        .filter(|name| !name.starts_with("received"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the outcome of an event: the actions of the last input; after a bar, those of the timeout that is due at once; then
/// the state, the time to the next deadline, and the counters that grew.
fn outcome(state: State, profile: Profile, stack: Stack, event: Event) -> String {
    let mut host = host_in(state, profile, stack, event);
    let before = *host.vhost.counters();
    host.last_kind.clear();
    let mut text = happen(&mut host, stack, event);
    let kinds = kinds_of(event);
    assert!(
        kinds.is_empty() && host.last_kind.is_empty() || kinds.contains(&host.last_kind),
        "{event:?} ends with {}",
        host.last_kind
    );
    if host.next_in().is_some_and(|nanos| nanos <= 0) {
        text += &format!(" | {}", host.timeout());
    }
    let next = host
        .next_in()
        .map_or(String::new(), |nanos| format!(", next in {nanos} ns"));
    let grown = grown(&before, host.vhost.counters());
    let grown = if grown.is_empty() {
        grown
    } else {
        format!(" ({grown})")
    };
    format!("{text} => {}{next}{grown}", host.vhost.state())
        .trim()
        .to_string()
}

const STATES: [State; 3] = [State::Init, State::Backup, State::Master];
const PROFILES: [(Profile, &str); 3] = [
    (Profile::Ucarp, "ucarp"),
    (Profile::FreeBsd, "freebsd"),
    (Profile::OpenBsd, "openbsd"),
];

/// One line for each (state, event), or one for each group of profiles that do the same.
fn lines(stack: Stack) -> Vec<String> {
    let mut lines = Vec::new();
    for state in STATES {
        for event in EVENTS.iter().copied() {
            let mut groups: Vec<(String, String)> = Vec::new();
            for (profile, name) in PROFILES {
                let outcome = outcome(state, profile, stack, event);
                match groups.last_mut() {
                    Some((names, last)) if *last == outcome => *names += &format!(", {name}"),
                    Some(_) | None => groups.push((name.to_string(), outcome)),
                }
            }
            for (names, outcome) in groups {
                let names = if names.matches(',').count() == 2 {
                    "all"
                } else {
                    &names
                };
                lines.push(format!("{state}, {event:?}, {names}: {outcome}"));
            }
        }
    }
    lines
}

/// The lines of a table, without comments.
fn listed(table: &str) -> Vec<&str> {
    let lines = table.lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// Checks that the outcomes are exactly those that the table lists, in this order.
fn check(table: &str, stack: Stack) {
    let (listed, actual) = (listed(table), lines(stack));
    let missing: Vec<_> = actual
        .iter()
        .filter(|line| !listed.contains(&line.as_str()))
        .collect();
    let wrong: Vec<_> = listed
        .iter()
        .filter(|line| !actual.iter().any(|actual| actual == **line))
        .collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "listed: {wrong:#?}\nactual: {missing:#?}"
    );
    assert_eq!(listed, actual, "in another order, or a line twice");
}

const INET: &str = include_str!("table.txt");
const DUAL: &str = include_str!("table_dual.txt");

#[test]
fn every_state_and_event_pair_has_the_listed_outcome() {
    check(INET, Stack::Inet);
}

#[test]
fn every_state_and_event_pair_in_ipv6_beside_ipv4_has_the_listed_outcome() {
    check(DUAL, Stack::Dual);
}

#[test]
fn every_reason_is_in_the_table() {
    for reason in reasons() {
        let mut lines = listed(INET).into_iter().chain(listed(DUAL));
        let shown = format!(": {reason:?},");
        assert!(
            lines.any(|line| line.contains(&shown)),
            "{reason:?} is in no line"
        );
    }
}
