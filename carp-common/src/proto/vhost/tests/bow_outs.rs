//! MASTERs that leave on purpose: the answer to a bow-out, and the time for which a host that stepped down stays away.

use super::*;
use crate::proto::heard::LAST_LEAVES_OUT;

#[test]
fn a_bow_out_is_answered_in_the_order_of_advskew() {
    for (advskew, nanos) in [(0, 0), (1, 244_140), (100, 24_414_062), (254, 62_011_718)] {
        let mut host = Host::started(Settings {
            advskew: AdvSkew(advskew),
            ..settings(UCARP)
        });
        assert_eq!(host.hear(PEER, 255, 255), "");
        assert_eq!(host.next_in(), Some(nanos), "{advskew}");
        assert!(
            host.next_timeout()
                .starts_with("BACKUP to MASTER: MasterWillTimeOut")
        );
    }
}

#[test]
fn a_late_backup_answers_a_bow_out_by_its_arrival() {
    let mut host = Host::started(settings(UCARP));
    let payload = host.payload(255, 255, 0);
    let arrival = host.now;
    host.wait(millis(20));
    host.hear_at(PEER, &payload, arrival);
    assert_eq!(host.next_in(), Some(4_414_062));
}

#[test]
fn whoever_answers_a_bow_out_first_keeps_the_others_backups() {
    let mut host = Host::started(settings(UCARP));
    host.hear(PEER, 255, 255);
    host.wait(millis(10));
    assert_eq!(host.hear("10.9.0.8", 1, 50), "");
    assert_eq!(host.next_in(), Some(3_390_625_000));
}

#[test]
fn an_older_advertisement_does_not_revoke_a_bow_out() {
    let mut host = Host::started(settings(UCARP));
    let before = host.now;
    host.wait(millis(100));
    let late = host.payload(1, 0, 0);
    host.hear(PEER, 255, 255);
    host.hear_at(PEER, &late, before);
    assert_eq!(host.next_in(), Some(24_414_062));
}

#[test]
fn a_second_bow_out_does_not_postpone_the_answer_to_the_first() {
    let mut host = Host::started(settings(UCARP));
    host.hear(PEER, 255, 255);
    host.wait(millis(20));
    host.hear(PEER, 255, 255);
    assert_eq!(host.next_in(), Some(4_414_062));
}

#[test]
fn an_operators_wish_to_stay_away_outweighs_every_reason_to_take_over() {
    let mut host = Host::master(Settings {
        preempt: true,
        ..settings(Profile::OpenBsd)
    });
    host.input(Input::Command(Command::StepDown { hold: millis(3000) }));
    host.wait(millis(2999));
    host.hear(PEER, 255, 255);
    host.hear(PEER, 1, 200);
    let demoted = host.payload(1, 50, 9);
    host.hear_payload(PEER, &demoted);
    assert_eq!(host.timeout(), "");
    assert_eq!(
        host.next_in(),
        Some(3_391_625_000),
        "the rest of the hold and a master-down time"
    );
    host.wait(millis(1));
    host.hear(PEER, 1, 200);
    assert!(
        host.timeout()
            .starts_with("BACKUP to MASTER: PreemptingWorseMaster")
    );
}

#[test]
fn a_hold_outlasts_a_link_flap_and_is_replaced_by_a_new_one() {
    let mut host = Host::started(settings(UCARP));
    host.input(Input::Command(Command::StepDown {
        hold: millis(60_000),
    }));
    host.input(Input::LinkChanged(LinkState::Down));
    host.input(Input::LinkChanged(LinkState::Up));
    assert_eq!(host.next_in(), Some(63_390_625_000));
    host.input(Input::Command(Command::StepDown {
        hold: Duration::ZERO,
    }));
    assert_eq!(host.next_in(), Some(3_390_625_000));
}

#[test]
fn an_endless_hold_does_not_overflow() {
    let mut host = Host::master(settings(UCARP));
    host.input(Input::Command(Command::StepDown {
        hold: Duration::MAX,
    }));
    assert_eq!(
        host.vhost.next_deadline(),
        Some(Instant::from_nanos(u64::MAX))
    );
}

#[test]
fn a_bow_out_is_heard_with_advbase_0_and_waits_its_turn_even_when_we_preempt() {
    let mut host = Host::started(Settings {
        advbase: AdvBase(0),
        preempt: true,
        ..settings(UCARP)
    });
    host.hear(PEER, 255, 255);
    assert_eq!(host.next_in(), Some(24_414_062));
    assert!(
        host.next_timeout()
            .starts_with("BACKUP to MASTER: MasterWillTimeOut")
    );
}

#[test]
fn a_bow_out_leaves_out_what_a_peer_that_was_not_heard_may_have_used() {
    let step_down = Input::Command(Command::StepDown { hold: millis(1000) });
    for leaves in [Input::Shutdown, step_down] {
        let mut host = Host::master(settings(UCARP));
        let last = host.last_sent();
        assert!(host.input(leaves).contains("send inet 255/255"));
        assert!(host.last_sent() > last + LAST_LEAVES_OUT);
    }
}
