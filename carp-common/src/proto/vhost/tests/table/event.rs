//! The events of a virtual host, and a check that none is missing.

use crate::proto::{
    Command, DatapathState, DemotionCause, Input, LinkState, Origin, Reason, SendOutcome,
};
use crate::time::{Duration, Instant};
use crate::units::{Demotion, Family};

use super::super::ip;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// An event. The peer is 10.9.0.7, or fe80::7, unless stated otherwise; we are 10.9.0.5, and fe80::5, and
        /// advertise 1/100.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Event { $($(#[$doc])* $name,)* }

        /// Every event, in the table's order.
        pub const EVENTS: &[Event] = &[$(Event::$name,)*];
    };
}

events! {
    LinkUp,
    /// The link comes up, and there is no source address in any family.
    LinkUpWithoutSource,
    LinkUpAfterShutdown,
    LinkDown,
    DatapathRefuses,
    /// The datapath refuses, and works again one millisecond later.
    DatapathWorks,
    /// The datapath refuses, and works again while the link is down.
    DatapathWorksWithoutLink,
    /// The link goes and comes back while the datapath refuses.
    LinkUpWhileDatapathRefuses,
    /// The source address of the family goes.
    SourceLost,
    /// The source address of the other family goes.
    OtherSourceLost,
    /// The source addresses of both families go, the family's last.
    BothSourcesLost,
    /// The family's source address becomes another one.
    SourceMoved,
    /// The family's source address goes, and one millisecond later is there again. In INIT nothing else was missing.
    SourceFound,
    /// The same as the event before, but the link is down.
    SourceFoundWithoutLink,
    /// An address of the other family is given as this one's: that is none.
    SourceOfWrongFamily,
    StationChanged,
    DemotionRises,
    DemotionFalls,
    Sent,
    ThirdSendError,
    ThirdSuccessAfterErrors,
    ClaimCompleted,
    AdvertisementsLost,
    /// Advertisements are lost while a bow-out waits for its turn. The sender of the bow-out may have come back in them.
    AdvertisementsLostAfterBowOut,
    StepDown,
    Shutdown,
    /// One nanosecond before the deadline.
    EarlyTimeout,
    /// At the deadline.
    Timeout,
    /// At the first deadline after a bow-out was heard.
    TimeoutAfterBowOut,
    /// 1/50.
    Better,
    /// 1/200.
    Worse,
    /// 1/200, and we preempt.
    WorseToPreempt,
    /// 1/200, we preempt, and the operator has stepped us down.
    WorseToPreemptWhileHeld,
    /// 1/100, from 10.8.0.9: lower as a number, higher as ucarp compares; from fe80::9, which is higher.
    EqualFromRawHigher,
    /// 1/100, from 10.10.0.1: higher as a number, lower as ucarp compares; from fe80::1, which is lower.
    EqualFromRawLower,
    /// The same as the event before, and its Ethernet source is a BSD's.
    EqualFromBsd,
    /// 1/50, with a new counter that is not near above ours.
    BetterThatDidNotHearUs,
    /// The same, and then one near above the counter that we answered with.
    BetterAnswers,
    /// 1/50 with a counter that was heard before, from another address.
    BetterHeardBefore,
    /// Our own last advertisement as 1/50, from another address.
    OursFromPeer,
    /// 1/50 with a new counter, from our address.
    OursThatWeNeverSent,
    /// 1/50, and more than an interval later the same again: an OpenBSD.
    ConstantCounter,
    /// 255/255, and 5 ms later the same counter as 1/50.
    AlteredBowOut,
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
    /// 1/200 turned into 1/201, from a peer that has shown one counter.
    ChangedUnderConstantCounter,
    /// 1/200 turned into 0/0, from a peer that has shown two counters.
    ChangedAfterOneMove,
    /// 1/200 turned into 0/0, from a peer whose counter moved with each advertisement.
    Tampered,
    /// Strict counters: 1/200, and then 1/50 with a counter that rises.
    StrictRisingCounter,
    /// Strict counters: 1/200, and then 1/50 with the same counter, as from another address.
    StrictEqualCounter,
    /// Strict counters: 1/200, and then 1/50 with a counter below.
    StrictStaleCounter,
}

use Event::*;

/// The events that end with a call of `handle_timeout` instead of an input.
const TIMEOUTS: [Event; 3] = [EarlyTimeout, Timeout, TimeoutAfterBowOut];

/// The events that end with an input of this kind. A new input needs an event here, and a place in
/// [`input_after`].
fn events_of(input: Input<'_>) -> &'static [Event] {
    match input {
        Input::Advertisement { .. } => &[
            Better,
            Worse,
            WorseToPreempt,
            WorseToPreemptWhileHeld,
            EqualFromRawHigher,
            EqualFromRawLower,
            EqualFromBsd,
            BetterThatDidNotHearUs,
            BetterAnswers,
            BetterHeardBefore,
            OursFromPeer,
            OursThatWeNeverSent,
            ConstantCounter,
            AlteredBowOut,
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
            StrictRisingCounter,
            StrictEqualCounter,
            StrictStaleCounter,
        ],
        Input::LinkChanged(LinkState::Up) => &[
            LinkUp,
            LinkUpWithoutSource,
            LinkUpAfterShutdown,
            LinkUpWhileDatapathRefuses,
        ],
        Input::LinkChanged(LinkState::Down) => &[LinkDown],
        Input::DatapathChanged(DatapathState::Refuses) => &[DatapathRefuses],
        Input::DatapathChanged(DatapathState::Works) => &[DatapathWorks, DatapathWorksWithoutLink],
        Input::SourceChanged { source: None, .. } => {
            &[SourceLost, OtherSourceLost, BothSourcesLost]
        }
        Input::SourceChanged {
            source: Some(_), ..
        } => &[
            SourceMoved,
            SourceFound,
            SourceFoundWithoutLink,
            SourceOfWrongFamily,
        ],
        Input::StationChanged => &[StationChanged],
        Input::DemotionChanged { .. } => &[DemotionRises, DemotionFalls],
        Input::SendCompleted { outcome, .. } => match outcome {
            SendOutcome::Sent => &[Sent, ThirdSuccessAfterErrors],
            // The event contains both kinds of error, and the second kind last.
            SendOutcome::NoMemory | SendOutcome::Failed => &[ThirdSendError],
        },
        Input::ClaimCompleted => &[ClaimCompleted],
        Input::AdvertisementsLost => &[AdvertisementsLost, AdvertisementsLostAfterBowOut],
        Input::Command(Command::StepDown { .. }) => &[StepDown],
        Input::Shutdown => &[Shutdown],
    }
}

/// A chain through every kind of input, without a wildcard: a new one does not compile until it has its place.
fn input_after(input: Option<Input<'static>>) -> Option<Input<'static>> {
    let family = Family::Inet;
    let source = ip("10.9.0.7");
    let arrival = Instant::ZERO;
    let sent = |outcome| Input::SendCompleted { family, outcome };
    let source_changed = |source| Input::SourceChanged { family, source };
    let Some(input) = input else {
        return Some(Input::Advertisement {
            family,
            origin: Origin {
                source,
                ethernet_source: [0; 6],
                arrival,
            },
            payload: &[],
        });
    };
    Some(match input {
        Input::Advertisement { .. } => Input::LinkChanged(LinkState::Up),
        Input::LinkChanged(LinkState::Up) => Input::LinkChanged(LinkState::Down),
        Input::LinkChanged(LinkState::Down) => Input::DatapathChanged(DatapathState::Refuses),
        Input::DatapathChanged(DatapathState::Refuses) => {
            Input::DatapathChanged(DatapathState::Works)
        }
        Input::DatapathChanged(DatapathState::Works) => source_changed(None),
        Input::SourceChanged { source: None, .. } => source_changed(Some(source)),
        Input::SourceChanged {
            source: Some(_), ..
        } => Input::StationChanged,
        Input::StationChanged => Input::DemotionChanged {
            cause: DemotionCause::Administrator,
            amount: Demotion::NONE,
        },
        Input::DemotionChanged { .. } => sent(SendOutcome::Sent),
        Input::SendCompleted { outcome, .. } => match outcome {
            SendOutcome::Sent => sent(SendOutcome::NoMemory),
            SendOutcome::NoMemory => sent(SendOutcome::Failed),
            SendOutcome::Failed => Input::ClaimCompleted,
        },
        Input::ClaimCompleted => Input::AdvertisementsLost,
        Input::AdvertisementsLost => Input::Command(Command::StepDown {
            hold: Duration::ZERO,
        }),
        Input::Command(Command::StepDown { .. }) => Input::Shutdown,
        Input::Shutdown => return None,
    })
}

/// A chain through every reason, in the same manner.
fn reason_after(reason: Option<Reason>) -> Option<Reason> {
    let Some(reason) = reason else {
        return Some(Reason::Started);
    };
    Some(match reason {
        Reason::Started => Reason::MasterTimedOut,
        Reason::MasterTimedOut => Reason::PreemptingWorseMaster,
        Reason::PreemptingWorseMaster => Reason::PreemptingMoreDemotedMaster,
        Reason::PreemptingMoreDemotedMaster => Reason::MasterWillTimeOut,
        Reason::MasterWillTimeOut => Reason::BetterMasterAdvertised,
        Reason::BetterMasterAdvertised => Reason::TieLost,
        Reason::TieLost => Reason::Requested,
        Reason::Requested => Reason::LinkDown,
        Reason::LinkDown => Reason::DatapathRefused,
        Reason::DatapathRefused => Reason::NoSourceAddress,
        Reason::NoSourceAddress => Reason::Shutdown,
        Reason::Shutdown => return None,
    })
}

/// Every kind of input.
pub fn inputs() -> impl Iterator<Item = Input<'static>> {
    std::iter::successors(input_after(None), |input| input_after(Some(*input)))
}

/// Every reason.
pub fn reasons() -> impl Iterator<Item = Reason> {
    std::iter::successors(reason_after(None), |reason| reason_after(Some(*reason)))
}

/// An input's kind in a word.
pub fn kind(input: Input<'_>) -> std::string::String {
    let text = std::format!("{input:?}");
    text.chars()
        .take_while(|letter| letter.is_alphanumeric())
        .collect()
}

/// The kinds of the last input that an event may end with; none for a timeout.
pub fn kinds_of(event: Event) -> std::vec::Vec<std::string::String> {
    inputs()
        .filter(|input| events_of(*input).contains(&event))
        .map(kind)
        .collect()
}

#[test]
fn every_input_has_its_events_and_every_event_its_input() {
    for input in inputs() {
        let events = events_of(input);
        assert!(!events.is_empty(), "{input:?} has no event");
        for event in events {
            assert!(EVENTS.contains(event), "{event:?} is not in the table");
        }
    }
    for event in EVENTS {
        let is_timeout = TIMEOUTS.contains(event);
        assert_eq!(
            kinds_of(*event).is_empty(),
            is_timeout,
            "{event:?} is of no input"
        );
    }
}
