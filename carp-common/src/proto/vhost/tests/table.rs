//! Every event in every state, for every profile: what we do, in order.

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString as _};
use std::vec::Vec;

use super::*;

/// What can happen. The peer is 10.9.0.7 unless said otherwise; we are 10.9.0.5 and advertise 1/100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    LinkUp,
    LinkDown,
    SourceLost,
    SourceMoved,
    DemotionRises,
    DemotionFalls,
    Sent,
    ThirdSendError,
    ThirdSuccessAfterErrors,
    ClaimCompleted,
    StepDown,
    Shutdown,
    /// One nanosecond before the deadline.
    EarlyTimeout,
    /// At the deadline.
    Timeout,
    /// 1/50.
    Better,
    /// 1/200.
    Worse,
    /// 1/200, and we preempt.
    WorseToPreempt,
    /// 1/100, from 10.8.0.9: lower as a number, higher as ucarp compares.
    EqualFromRawHigher,
    /// 1/100, from 10.10.0.1: higher as a number, lower as ucarp compares.
    EqualFromRawLower,
    /// 255/255.
    BowOut,
    /// 4/0, beyond our patience of 3/100.
    TooRare,
    /// 3/100, just within our patience.
    JustOftenEnough,
    /// 1/50, demoted by 5.
    BetterButDemoted,
    /// 1/200, and we are demoted by 5.
    WorseButWeAreDemoted,
    ShortPacket,
    BadChecksum,
    BadVersion,
    BadAuthLength,
    OtherVhid,
    BadDigest,
    /// Our own last advertisement, from our address.
    OwnEcho,
    /// Our own last advertisement, from another address: a peer may have come to the same counter.
    SameCounterFromPeer,
    /// The same 1/200 twice, a quarter of its interval apart less one nanosecond.
    DuplicateTooSoon,
    /// The same 1/200 twice, a quarter of its interval apart.
    DuplicateLater,
    /// 1/200 turned into 1/201, from a peer that has only ever shown one counter.
    ChangedUnderConstantCounter,
    /// 1/200 turned into 0/0, from a peer whose counter moved once: an OpenBSD that was restarted does that.
    ChangedAfterOneMove,
    /// 1/200 turned into 0/0, from a peer whose counter moved with each advertisement.
    Tampered,
    /// Counters are strict, and 1/50 comes with the one before the last.
    StaleCounterWhenStrict,
    /// The buffer overflowed while we were stopped.
    AdvertisementsLost,
    /// The address comes back after it was lost.
    SourceFound,
    /// From here on we serve an IPv6 address as well, and send from fe80::5 too; the peer is fe80::7.
    Source6Lost,
    Source6Moved,
    Source6Found,
    /// IPv4 has no source, IPv6 goes on.
    SourceLostOfTwo,
    Sent6,
    /// Three in a row in IPv6, while IPv4 works.
    ThirdSendError6,
    TimeoutOfTwo,
    Better6,
    Worse6,
    /// 1/100 from fe80::4.
    EqualFromLower6,
    /// 1/100 from fe80::7.
    EqualFromHigher6,
    BowOut6,
    ShutdownOfTwo,
}

const LAST: Event = ShutdownOfTwo;

impl Event {
    /// Whether it happens to a host with addresses of both families.
    fn is_dual_stack(self) -> bool {
        self >= Source6Lost
    }
}

use Event::*;

const EVENTS: [Event; 53] = [
    LinkUp,
    LinkDown,
    SourceLost,
    SourceMoved,
    DemotionRises,
    DemotionFalls,
    Sent,
    ThirdSendError,
    ThirdSuccessAfterErrors,
    ClaimCompleted,
    StepDown,
    Shutdown,
    EarlyTimeout,
    Timeout,
    Better,
    Worse,
    WorseToPreempt,
    EqualFromRawHigher,
    EqualFromRawLower,
    BowOut,
    TooRare,
    JustOftenEnough,
    BetterButDemoted,
    WorseButWeAreDemoted,
    ShortPacket,
    BadChecksum,
    BadVersion,
    BadAuthLength,
    OtherVhid,
    BadDigest,
    OwnEcho,
    SameCounterFromPeer,
    DuplicateTooSoon,
    DuplicateLater,
    ChangedUnderConstantCounter,
    ChangedAfterOneMove,
    Tampered,
    StaleCounterWhenStrict,
    AdvertisementsLost,
    SourceFound,
    Source6Lost,
    Source6Moved,
    Source6Found,
    SourceLostOfTwo,
    Sent6,
    ThirdSendError6,
    TimeoutOfTwo,
    Better6,
    Worse6,
    EqualFromLower6,
    EqualFromHigher6,
    BowOut6,
    ShutdownOfTwo,
];

/// A host that was MASTER once, in the state that is asked for, 100 ms after it came there.
fn host_in(state: State, profile: Profile, event: Event) -> Host {
    let settings = match event.is_dual_stack() {
        true => dual_stack(profile),
        false => settings(profile),
    };
    let mut host = Host::master(Settings {
        preempt: event == WorseToPreempt,
        strict_counter: event == StaleCounterWhenStrict,
        ..settings
    });
    match state {
        State::Master => {}
        State::Backup => {
            let command = Command::StepDown {
                hold: Duration::ZERO,
            };
            host.input(Input::Command(command));
        }
        State::Init => {
            host.input(Input::LinkChanged(LinkState::Down));
        }
    }
    host.wait(millis(100));
    assert_eq!(host.machine.state(), state);
    host
}

/// Brings the event about and returns what the last input of it led to.
fn happen(host: &mut Host, event: Event) -> String {
    let administrator = DemotionCause::Administrator;
    match event {
        LinkUp => host.input(Input::LinkChanged(LinkState::Up)),
        LinkDown => host.input(Input::LinkChanged(LinkState::Down)),
        SourceLost | SourceLostOfTwo => host.input(source(Family::Inet, None)),
        SourceMoved => host.input(source(Family::Inet, Some("10.9.0.6"))),
        SourceFound => {
            host.input(Input::LinkChanged(LinkState::Up));
            host.input(source(Family::Inet, None));
            host.wait(millis(1));
            host.input(source(Family::Inet, Some("10.9.0.5")))
        }
        Source6Lost => host.input(source(Family::Inet6, None)),
        Source6Moved => host.input(source(Family::Inet6, Some("fe80::6"))),
        Source6Found => {
            host.input(source(Family::Inet6, None));
            host.wait(millis(1));
            host.input(source(Family::Inet6, Some("fe80::5")))
        }
        DemotionRises => host.input(Input::DemotionChanged {
            cause: administrator,
            amount: Demotion(5),
        }),
        DemotionFalls => {
            host.input(Input::DemotionChanged {
                cause: administrator,
                amount: Demotion(5),
            });
            host.wait(millis(1));
            host.input(Input::DemotionChanged {
                cause: administrator,
                amount: Demotion::NONE,
            })
        }
        Sent => host.send_completed(SendOutcome::Sent),
        Sent6 => host.input(Input::SendCompleted {
            family: Family::Inet6,
            outcome: SendOutcome::Sent,
        }),
        ThirdSendError6 => {
            let failed = Input::SendCompleted {
                family: Family::Inet6,
                outcome: SendOutcome::Failed,
            };
            host.input(failed);
            host.send_completed(SendOutcome::Sent);
            host.input(failed);
            host.send_completed(SendOutcome::Sent);
            host.input(failed)
        }
        AdvertisementsLost => host.input(Input::AdvertisementsLost),
        ThirdSendError => {
            host.send_completed(SendOutcome::NoMemory);
            host.send_completed(SendOutcome::Failed);
            host.send_completed(SendOutcome::Failed)
        }
        ThirdSuccessAfterErrors => {
            for _ in 0..3 {
                host.send_completed(SendOutcome::Failed);
            }
            host.wait(millis(1));
            host.send_completed(SendOutcome::Sent);
            host.send_completed(SendOutcome::Sent);
            host.send_completed(SendOutcome::Sent)
        }
        ClaimCompleted => host.input(Input::ClaimCompleted),
        StepDown => host.input(Input::Command(Command::StepDown { hold: millis(3000) })),
        Shutdown | ShutdownOfTwo => host.input(Input::Shutdown),
        EarlyTimeout => {
            if let Some(deadline) = host.machine.next_deadline() {
                host.now = Instant::from_nanos(deadline.as_nanos() - 1);
            }
            host.timeout()
        }
        Timeout | TimeoutOfTwo => {
            host.now = host.machine.next_deadline().unwrap_or(host.now);
            host.timeout()
        }
        Better => host.hear(PEER, 1, 50),
        Worse | WorseToPreempt => host.hear(PEER, 1, 200),
        EqualFromRawHigher => host.hear("10.8.0.9", 1, 100),
        EqualFromRawLower => host.hear("10.10.0.1", 1, 100),
        BowOut => host.hear(PEER, 255, 255),
        Better6 => host.hear("fe80::7", 1, 50),
        Worse6 => host.hear("fe80::7", 1, 200),
        EqualFromLower6 => host.hear("fe80::4", 1, 100),
        EqualFromHigher6 => host.hear("fe80::7", 1, 100),
        BowOut6 => host.hear("fe80::7", 255, 255),
        TooRare => host.hear(PEER, 4, 0),
        JustOftenEnough => host.hear(PEER, 3, 100),
        BetterButDemoted => {
            let payload = host.payload(1, 50, 5);
            host.hear_payload(PEER, &payload)
        }
        WorseButWeAreDemoted => {
            let amount = Demotion(5);
            host.input(Input::DemotionChanged {
                cause: administrator,
                amount,
            });
            host.hear(PEER, 1, 200)
        }
        ShortPacket => {
            let payload = host.payload(1, 50, 0);
            host.hear_payload(PEER, &payload[..HEADER_LEN - 1])
        }
        BadChecksum => hear_altered(host, |payload| payload[7] ^= 1),
        BadVersion => hear_altered(host, |payload| set_byte(payload, 0, 0x31)),
        BadAuthLength => hear_altered(host, |payload| set_byte(payload, 3, 8)),
        OtherVhid => hear_altered(host, |payload| set_byte(payload, 1, 43)),
        BadDigest => hear_altered(host, |payload| set_byte(payload, 35, payload[35] ^ 1)),
        OwnEcho => {
            let payload = host.sent.expect("we were MASTER");
            host.hear_payload("10.9.0.5", &payload)
        }
        SameCounterFromPeer => {
            let ours = Advertisement::parse(&host.sent.expect("we were MASTER")).unwrap();
            let payload = host.payload_with_counter(1, 200, 0, ours.counter);
            host.hear_payload(PEER, &payload)
        }
        DuplicateTooSoon => hear_twice(host, Duration::from_nanos(445_312_499)),
        DuplicateLater => hear_twice(host, Duration::from_nanos(445_312_500)),
        ChangedUnderConstantCounter => hear_changed(host, 1, (1, 201)),
        ChangedAfterOneMove => hear_changed(host, 2, (0, 0)),
        Tampered => hear_changed(host, 3, (0, 0)),
        StaleCounterWhenStrict => {
            // Above what we have sent.
            host.counter = 1 << 40;
            let stale = host.payload(1, 50, 0);
            let next = host.payload(1, 200, 0);
            host.hear_payload(PEER, &next);
            host.hear_payload("10.9.0.8", &stale)
        }
    }
}

/// An event of the table that is about such an input. Without a wildcard, so that a new input wants an event.
fn event_about(input: &Input<'_>) -> Event {
    match input {
        Input::Advertisement { family, .. } => match family {
            Family::Inet => Better,
            Family::Inet6 => Better6,
        },
        Input::LinkChanged(LinkState::Up) => LinkUp,
        Input::LinkChanged(LinkState::Down) => LinkDown,
        Input::SourceChanged { family, source } => match (family, source) {
            (Family::Inet, None) => SourceLost,
            (Family::Inet, Some(_)) => SourceMoved,
            (Family::Inet6, None) => Source6Lost,
            (Family::Inet6, Some(_)) => Source6Moved,
        },
        Input::DemotionChanged { .. } => DemotionRises,
        Input::SendCompleted { family, outcome } => match (family, outcome) {
            (Family::Inet, SendOutcome::Sent) => Sent,
            (Family::Inet6, SendOutcome::Sent) => Sent6,
            (Family::Inet, SendOutcome::NoMemory | SendOutcome::Failed) => ThirdSendError,
            (Family::Inet6, SendOutcome::NoMemory | SendOutcome::Failed) => ThirdSendError6,
        },
        Input::ClaimCompleted => ClaimCompleted,
        Input::AdvertisementsLost => AdvertisementsLost,
        Input::Command(Command::StepDown { .. }) => StepDown,
        Input::Shutdown => Shutdown,
    }
}

/// So many 1/200, each with a counter of its own, and then the last one again with another priority.
fn hear_changed(host: &mut Host, times: u8, (advbase, advskew): (u8, u8)) -> String {
    for _ in 0..times {
        host.hear(PEER, 1, 200);
        host.timeout();
        host.wait(millis(400));
    }
    let payload = host.payload_with_counter(advbase, advskew, 0, host.counter);
    host.hear_payload(PEER, &payload)
}

/// A better MASTER's advertisement, spoilt.
fn hear_altered(host: &mut Host, alter: impl FnOnce(&mut [u8; HEADER_LEN])) -> String {
    let mut payload = host.payload(1, 50, 0);
    alter(&mut payload);
    host.hear_payload(PEER, &payload)
}

/// Sets one byte and makes the checksum hold again.
fn set_byte(payload: &mut [u8; HEADER_LEN], offset: usize, value: u8) {
    payload[offset] = value;
    payload[6..8].fill(0);
    let sum = crate::wire::checksum::internet_checksum(payload);
    payload[6..8].copy_from_slice(&sum);
}

fn hear_twice(host: &mut Host, pause: Duration) -> String {
    let payload = host.payload(1, 200, 0);
    host.hear_payload(PEER, &payload);
    host.timeout();
    host.wait(pause);
    host.hear_payload(PEER, &payload)
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

/// What the event leads to: the actions of the last input; after a bar, those of the timeout that is due at once; then
/// the state, the time to the next deadline, and the counters that grew.
fn outcome(state: State, profile: Profile, event: Event) -> String {
    let mut host = host_in(state, profile, event);
    let before = *host.machine.counters();
    let mut text = happen(&mut host, event);
    if host.next_in().is_some_and(|nanos| nanos <= 0) {
        text += &format!(" | {}", host.timeout());
    }
    let next = host
        .next_in()
        .map_or(String::new(), |nanos| format!(", next in {nanos} ns"));
    let grown = grown(&before, host.machine.counters());
    let grown = if grown.is_empty() {
        grown
    } else {
        format!(" ({grown})")
    };
    format!("{text} => {}{next}{grown}", host.machine.state())
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
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for state in STATES {
        for event in EVENTS {
            let mut groups: Vec<(String, String)> = Vec::new();
            for (profile, name) in PROFILES {
                let outcome = outcome(state, profile, event);
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

#[test]
fn every_state_and_event_pair_has_the_listed_outcome() {
    let listed = include_str!("table.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let listed: Vec<_> = listed.collect();
    let actual = lines();
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
    assert_eq!(listed.len(), actual.len(), "a line is listed twice");
}

#[test]
fn every_event_is_in_the_table() {
    let all: BTreeSet<_> = EVENTS.into_iter().collect();
    assert_eq!(all.len(), EVENTS.len());
    assert_eq!(EVENTS.last(), Some(&LAST));
    assert_eq!(EVENTS.len(), LAST as usize + 1);
    assert!(all.contains(&event_about(&Input::AdvertisementsLost)));
}
