//! Checks that the outlook is the decision that follows.

use proptest::prelude::*;

use super::sequences::{any_settings, apply, step};
use super::*;
use crate::proto::election::{BackupDecision, MasterDecision};
use crate::proto::outlook::{AtOnce, Lack, Outlook};

impl Host {
    fn outlook(&self) -> Outlook {
        self.vhost.outlook(self.now)
    }

    /// The time to the next takeover, its reason, and the MASTERs that it takes over from at once.
    fn takes_over(&self) -> (Duration, Reason, Option<AtOnce>) {
        match self.outlook() {
            Outlook::TakeOver {
                after,
                reason,
                at_once,
                ..
            } => (after, reason, at_once),
            other @ (Outlook::Start { .. } | Outlook::Yield { .. }) => panic!("{other:?}"),
        }
    }
}

fn priority(advbase: u8, advskew: u8) -> Priority {
    Priority {
        advbase: AdvBase(advbase),
        advskew: AdvSkew(advskew),
    }
}

#[test]
fn in_init_the_link_is_wanted_first_then_the_datapath_and_then_a_source() {
    let mut host = Host::new(settings(UCARP));
    let lacks = |host: &Host| match host.outlook() {
        Outlook::Start { lacks } => Some(lacks),
        Outlook::TakeOver { .. } | Outlook::Yield { .. } => None,
    };
    assert_eq!(lacks(&host), Some(Lack::Link));
    host.input(Input::DatapathChanged(DatapathState::Refuses));
    assert_eq!(lacks(&host), Some(Lack::Link));
    host.input(Input::LinkChanged(LinkState::Up));
    assert_eq!(lacks(&host), Some(Lack::Datapath));
    host.input(Input::DatapathChanged(DatapathState::Works));
    assert_eq!(lacks(&host), Some(Lack::Source));
    host.input(source(Family::Inet, Some("10.9.0.5")));
    assert_eq!(lacks(&host), None);
    host.input(Input::Shutdown);
    assert_eq!(lacks(&host), Some(Lack::Stopped));
}

#[test]
fn a_backup_says_from_whom_it_takes_over_at_once() {
    let patience = AtOnce {
        above: priority(3, 100),
        decision: BackupDecision::MasterWillTimeOut,
    };
    let worse = AtOnce {
        above: priority(1, 100),
        decision: BackupDecision::PreemptWorse,
    };
    for (preempt, at_once) in [(false, patience), (true, worse)] {
        let host = Host::started(Settings {
            preempt,
            ..settings(UCARP)
        });
        let silence = host.vhost.master_down_time();
        let expected = (silence, Reason::MasterTimedOut, Some(at_once));
        assert_eq!(host.takes_over(), expected);
    }
}

#[test]
fn of_the_worst_priority_nobody_is_worse() {
    let host = Host::started(Settings {
        advbase: AdvBase(255),
        advskew: AdvSkew(255),
        preempt: true,
        ..settings(UCARP)
    });
    assert_eq!(host.takes_over().2, None);
}

#[test]
fn the_answer_to_an_advertisement_comes_before_silence() {
    let mut host = Host::started(Settings {
        preempt: true,
        ..settings(UCARP)
    });
    host.hear(PEER, 1, 200);
    let (after, reason, _) = host.takes_over();
    assert_eq!(
        (after, reason),
        (Duration::ZERO, Reason::PreemptingWorseMaster)
    );
}

#[test]
fn an_operator_keeps_it_away() {
    let mut host = Host::started(settings(UCARP));
    let hold = Duration::from_secs(3);
    host.input(Input::Command(Command::StepDown { hold }));
    host.wait(Duration::from_secs(1));
    let Outlook::TakeOver { after, held, .. } = host.outlook() else {
        panic!("a BACKUP");
    };
    assert_eq!(held, Duration::from_secs(2));
    assert_eq!(after, held + host.vhost.master_down_time());
}

#[test]
fn a_master_says_to_whom_it_yields() {
    for (profile, of_equal) in [
        (UCARP, MasterDecision::Stay),
        (Profile::FreeBsd, MasterDecision::YieldOnTie),
    ] {
        let mut host = Host::master(settings(profile));
        let better_than = priority(1, 100);
        let heard = None;
        assert_eq!(host.outlook(), Outlook::Yield { better_than, heard });
        // This counter is no answer, so that it causes only a challenge.
        host.counter = 1 << 40;
        host.hear(PEER, 1, 100);
        let heard = Some(of_equal);
        assert_eq!(host.outlook(), Outlook::Yield { better_than, heard });
    }
}

/// Steps that lead somewhere, from any settings.
fn history() -> impl Strategy<Value = (Settings, Vec<super::sequences::Move>)> {
    (any_settings(), proptest::collection::vec(step(), 0..40))
}

fn play(settings: Settings, steps: &[super::sequences::Move]) -> Host {
    let mut host = Host::started(settings);
    for step in steps {
        apply(&mut host, step);
        // A timeout that was due would fire at once.
        host.now = host.now.max(host.vhost.cx.now);
        host.timed_out(host.now, host.now);
    }
    host
}

/// The transition among these actions.
fn transition(actions: Vec<Action>) -> Option<Transition> {
    let mut found = None;
    for action in actions {
        if let Action::Report(transition) = action {
            assert_eq!(found.replace(transition), None, "one at most");
        }
    }
    found
}

proptest! {
    #[test]
    fn without_another_word_the_outlook_comes_true((settings, steps) in history()) {
        let mut host = play(settings, &steps);
        match host.outlook() {
            Outlook::Start { lacks: Lack::Stopped } => {
                host.fed(Input::LinkChanged(LinkState::Down));
                host.fed(Input::LinkChanged(LinkState::Up));
                for (family, address) in [(Family::Inet, "10.9.0.5"), (Family::Inet6, "fe80::5")] {
                    host.fed(source(family, Some(address)));
                }
                prop_assert_eq!(host.vhost.state(), State::Init);
            }
            Outlook::Start { lacks } => {
                if lacks == Lack::Link {
                    host.fed(Input::LinkChanged(LinkState::Up));
                }
                if let Outlook::Start { lacks: Lack::Datapath } = host.outlook() {
                    let works = Input::DatapathChanged(DatapathState::Works);
                    host.fed(works);
                }
                if let Outlook::Start { lacks } = host.outlook() {
                    prop_assert_eq!(lacks, Lack::Source);
                    for (family, address) in [(Family::Inet, "10.9.0.5"), (Family::Inet6, "fe80::5")] {
                        host.fed(source(family, Some(address)));
                    }
                }
                prop_assert_eq!(host.vhost.state(), State::Backup);
            }
            Outlook::TakeOver { after, reason, held, .. } => {
                prop_assert!(held <= after);
                prop_assert_eq!(Some(host.now + after), host.vhost.next_deadline());
                // This excludes only the end of time.
                if after < Duration::from_secs(1 << 31) {
                    if let Some(before) = after.checked_sub(Duration::from_nanos(1)) {
                        let actions = host.timed_out(host.now + before, host.now + before);
                        prop_assert_eq!(transition(actions), None);
                    }
                    let actions = host.timed_out(host.now + after, host.now + after);
                    let (from, to) = (State::Backup, State::Master);
                    prop_assert_eq!(transition(actions), Some(Transition { from, to, reason }));
                }
            }
            // A MASTER that hears nothing more stays MASTER.
            Outlook::Yield { .. } => {
                let at = host.vhost.next_deadline().expect("a MASTER advertises");
                let actions = host.timed_out(at, at);
                prop_assert_eq!(transition(actions), None);
            }
        }
    }

    #[test]
    fn a_backup_takes_over_at_once_from_exactly_those_that_it_says(
        settings in any_settings(),
        theirs in any::<(u8, u8)>(),
    ) {
        let demotion = 0;
        let mut host = Host::started(settings);
        let (_, _, at_once) = host.takes_over();
        let theirs = priority(theirs.0, theirs.1);
        let payload = host.payload(theirs.advbase.0, theirs.advskew.0, demotion);
        let peer = if host.vhost.cx.is_active(Family::Inet) { PEER } else { "fe80::7" };
        host.hear_payload(peer, &payload);
        let takes_over = host.vhost.machine.listener.planned.is_some();
        prop_assert_eq!(at_once.is_some_and(|it| theirs > it.above), takes_over);
        let Outlook::TakeOver { heard, .. } = host.outlook() else {
            panic!("a BACKUP");
        };
        prop_assert_eq!(heard.expect("it was heard") != BackupDecision::Stay, takes_over);
    }

    #[test]
    fn a_master_yields_to_exactly_those_that_it_says(
        settings in any_settings(),
        theirs in any::<(u8, u8)>(),
    ) {
        let mut host = Host::master(settings);
        let Outlook::Yield { better_than, .. } = host.outlook() else {
            panic!("a MASTER");
        };
        let theirs = priority(theirs.0, theirs.1);
        // The peer goes on above our counter, so it has heard us.
        host.counter = host.last_sent();
        let payload = host.payload(theirs.advbase.0, theirs.advskew.0, 0);
        let peer = if host.vhost.cx.is_active(Family::Inet) { PEER } else { "fe80::7" };
        host.hear_payload(peer, &payload);
        let yields = host.vhost.state() == State::Backup;
        if theirs == better_than {
            prop_assert!(!yields || host.vhost.cx.settings.profile != UCARP || peer != PEER);
        } else {
            prop_assert_eq!(theirs < better_than, yields);
        }
    }
}
