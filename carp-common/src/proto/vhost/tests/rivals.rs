//! Several hosts that are MASTER: which one is believed, and which notices that causes.

use super::*;
use crate::drop_reason::DropReason;
use crate::proto::SendOutcome;

/// A worse MASTER advertises, which has heard us.
fn hear_worse(host: &mut Host) -> String {
    host.counter = host.last_sent().max(host.counter);
    host.hear(PEER, 1, 200)
}

#[test]
fn a_master_that_was_stopped_gives_way_before_it_says_anything() {
    let mut host = Host::master(settings(UCARP));
    let stopped = host.now;
    host.wait(millis(10_000));
    // A worse host took over first, then a better one: the advertisements of both are in the queue.
    let worse = host.payload(1, 200, 0);
    let better = host.payload(1, 50, 0);
    assert_eq!(
        host.hear_at(PEER, &worse, stopped + millis(4000)),
        "notice worse master"
    );
    assert_eq!(
        host.hear_at("10.9.0.8", &better, stopped + millis(9500)),
        "MASTER to BACKUP: BetterMasterAdvertised, datapath BACKUP, release, send inet 1/100"
    );
    assert_eq!(host.timeout(), "");
    assert_eq!(host.next_in(), Some(2_890_625_000));
}

#[test]
fn a_preemption_is_revoked_by_a_better_master_in_the_same_queue() {
    let mut host = Host::started(Settings {
        preempt: true,
        ..settings(UCARP)
    });
    assert_eq!(host.hear(PEER, 1, 200), "");
    assert_eq!(host.hear("10.9.0.8", 1, 50), "");
    assert_eq!(host.timeout(), "");
    assert_eq!(host.vhost.state(), State::Backup);
}

#[test]
fn worse_masters_get_one_announcement_and_an_answer_each_eighth_of_an_interval() {
    let mut host = Host::master(settings(UCARP));
    assert_eq!(host.hear(PEER, 1, 200), "notice worse master");
    assert_eq!(host.timeout(), REASSERT);
    let mut answers = Vec::new();
    for number in 0..100 {
        host.wait(millis(13));
        assert_eq!(hear_worse(&mut host), "");
        match host.timeout().as_str() {
            "" => {}
            "send inet 1/100" => answers.push(number),
            other => panic!("{other}"),
        }
    }
    // Three more at once, then one each 174 ms.
    assert_eq!(answers, [0, 1, 2, 16, 29, 43, 56, 69, 83, 96]);
    host.wait(Duration::from_nanos(90_625_000));
    host.hear(PEER, 1, 200);
    assert_eq!(host.timeout(), REASSERT);
    assert_eq!(host.next_timeout(), "send inet 1/100");
    assert_eq!(host.next_timeout(), REASSERT, "two advertisements later");
    assert_eq!(host.next_timeout(), "send inet 1/100");
}

#[test]
fn an_announcement_that_would_come_too_soon_comes_when_the_interval_is_over() {
    let mut host = Host::master(settings(UCARP));
    hear_worse(&mut host);
    assert_eq!(host.timeout(), REASSERT);
    // It announced after us. However often we hear it, we announce once more, an interval after the first time.
    for _ in 0..3 {
        host.wait(millis(10));
        hear_worse(&mut host);
        assert_eq!(host.timeout(), "send inet 1/100");
    }
    host.wait(Duration::from_nanos(1_360_625_000));
    assert_eq!(host.timeout(), "announce inet");
    hear_worse(&mut host);
    assert_eq!(host.timeout(), "send inet 1/100");
    assert_eq!(host.next_in(), Some(1_390_625_000));
}

#[test]
fn an_openbsd_keeps_its_counter_when_its_address_changes_or_a_stranger_was_first() {
    let mut host = Host::started(settings(UCARP));
    let payload = host.payload(1, 0, 0);
    // The stranger goes on, and the OpenBSD is believed when the stranger stops.
    host.hear_payload("10.9.0.66", &payload);
    for address in [PEER, "10.9.0.9"] {
        for second in 0..6 {
            host.wait(millis(1000));
            host.hear_payload(address, &payload);
            assert_eq!(host.vhost.state(), State::Backup, "{address} {second}");
            if second > 3 {
                assert_eq!(host.next_in(), Some(3_390_625_000), "{address} {second}");
            }
        }
    }
    // Without OpenBSDs, a counter stays with the source that showed it first.
    let mut host = Host::started(Settings {
        no_openbsd: true,
        ..settings(UCARP)
    });
    let payload = host.payload(1, 0, 0);
    host.hear_payload("10.9.0.66", &payload);
    host.wait(millis(3000));
    host.hear_payload(PEER, &payload);
    assert_eq!(host.next_in(), Some(390_625_000));
}

#[test]
fn a_mute_master_has_been_silent() {
    let mut host = Host::master(settings(UCARP));
    for _ in 0..4 {
        let mut sent = host.next_timeout();
        while sent.contains("send inet") {
            sent = host.send_completed(SendOutcome::Failed);
        }
    }
    // Its successor never heard it.
    host.counter = 1 << 60;
    let heard = host.hear("10.9.0.8", 1, 50);
    assert!(heard.starts_with("MASTER to BACKUP"), "{heard}");
}

#[test]
fn advertisements_that_waited_in_one_queue_are_one_answer() {
    let mut host = Host::master(settings(UCARP));
    for _ in 0..20 {
        hear_worse(&mut host);
    }
    assert_eq!(host.timeout(), REASSERT);
    host.wait(millis(100));
    hear_worse(&mut host);
    assert_eq!(host.timeout(), "send inet 1/100");
}

#[test]
fn a_counter_that_a_last_advertisement_skipped_proves_the_life_of_a_host_that_missed_it() {
    let mut host = Host::master(settings(UCARP));
    host.timeout();
    let before = host.last_sent();
    // The host yields. Its last advertisement is lost, and then it is MASTER once more, unheard.
    host.counter = before;
    assert!(host.hear(PEER, 1, 50).starts_with("MASTER to BACKUP"));
    let last_word = host.last_sent();
    assert!(last_word > before + 4000);
    while host.vhost.state() == State::Backup {
        host.next_timeout();
    }
    for _ in 0..40 {
        host.next_timeout();
    }
    host.counter = host.last_sent();
    assert!(host.hear("10.9.0.8", 1, 20).starts_with("MASTER to BACKUP"));
    host.counter = before + 1000;
    for _ in 0..3 {
        host.wait(millis(1000));
        assert_eq!(host.hear(PEER, 1, 50), "");
        assert_eq!(host.next_in(), Some(3_390_625_000));
    }
}

#[test]
fn a_challenge_to_another_host_is_a_sign_of_life_of_a_host_that_counts() {
    let mut host = Host::started(settings(UCARP));
    host.hear(PEER, 1, 50);
    host.hear(PEER, 1, 50);
    for _ in 0..3 {
        host.wait(millis(1000));
        // The peer leaves out as many counters as a challenge does, and as many as a day of challenges does.
        for left_out in [1 << 28, 1 << 43] {
            host.counter += left_out;
            assert_eq!(host.hear(PEER, 1, 50), "");
            assert_eq!(host.next_in(), Some(3_390_625_000));
        }
    }
    // So far away, it is the counter of another host.
    host.wait(millis(1000));
    host.counter += 1 << 45;
    host.hear(PEER, 1, 50);
    assert_eq!(host.next_in(), Some(2_390_625_000));
}

#[test]
fn the_third_answer_in_two_versions_is_one() {
    let mut host = Host::master(settings(UCARP));
    for number in 1..=3 {
        hear_worse(&mut host);
        for _ in 0..3 {
            assert_eq!(host.vhost.state(), State::Master, "after {number}");
            let altered = host.payload_with_counter(0, 0, 0, host.counter);
            host.wait(millis(1));
            host.hear_payload(PEER, &altered);
            if number == 3 {
                break;
            }
        }
        host.timeout();
        host.wait(millis(400));
    }
    assert_eq!(host.vhost.state(), State::Backup);
}

#[test]
fn answers_in_two_versions_that_are_far_apart_are_none() {
    let mut host = Host::master(settings(UCARP));
    for _ in 0..5 {
        hear_worse(&mut host);
        let altered = host.payload_with_counter(0, 0, 0, host.counter);
        host.wait(millis(1));
        host.hear_payload(PEER, &altered);
        host.timeout();
        for _ in 0..3 {
            host.next_timeout();
        }
    }
    assert_eq!(host.vhost.state(), State::Master);
}

#[test]
fn the_last_advertisement_is_out_of_a_successors_way() {
    let mut host = Host::master(settings(UCARP));
    let before = host.last_sent();
    host.counter = before;
    host.hear(PEER, 1, 50);
    assert_eq!(host.vhost.state(), State::Backup);
    assert!(host.last_sent() > before + (1 << 12));
}

#[test]
fn two_equal_dual_stack_masters_agree_although_their_families_would_not() {
    // We have the lower IPv4 address and the higher IPv6 one.
    let mut host = Host::master(dual_stack(UCARP));
    host.hear("fe80::4", 1, 100);
    assert_eq!(host.vhost.state(), State::Master);
    host.hear("10.9.0.7", 1, 100);
    assert_eq!(host.vhost.state(), State::Master);
    host.hear("10.9.0.4", 1, 100);
    assert_eq!(host.vhost.state(), State::Backup);
}

#[test]
fn a_worse_master_is_left_to_the_better_master_while_that_lives() {
    let preempting = Settings {
        preempt: true,
        ..settings(UCARP)
    };
    // One host is a BACKUP, and the other has just yielded.
    for mut host in [Host::started(preempting.clone()), Host::master(preempting)] {
        host.hear("10.9.0.8", 1, 50);
        host.wait(millis(1));
        // This is the last advertisement of another host that yielded, or its bow-out.
        for worse in [(1, 200), (255, 255)] {
            assert_eq!(host.hear(PEER, worse.0, worse.1), "");
            assert_eq!(host.timeout(), "");
            assert_eq!(host.next_in(), Some(3_389_625_000), "the timer goes on");
        }
        // The bow-out of the better MASTER itself counts.
        host.hear("10.9.0.8", 255, 255);
        assert_eq!(host.next_in(), Some(24_414_062));
        // A worse MASTER counts once the better one was not heard in time.
        host.hear("10.9.0.8", 1, 50);
        host.wait(millis(1196));
        host.hear(PEER, 1, 200);
        assert!(host.timeout().contains("PreemptingWorseMaster"));
    }
}

#[test]
fn a_third_host_that_preempts_leaves_the_winner_of_a_tie_alone() {
    let mut loser = Host::master(settings(UCARP));
    let lost = loser.hear("10.9.0.4", 1, 100);
    assert!(lost.contains("send inet 1/100"), "{lost}");
    let mut third = Host::started(Settings {
        preempt: true,
        ..settings(UCARP)
    });
    third.hear("10.9.0.4", 1, 100);
    third.wait(millis(1));
    third.hear(PEER, 1, 100);
    assert_eq!(third.next_in(), Some(3_390_625_000), "it listens");
}

#[test]
fn a_peer_that_follows_our_counters_is_led_above_its_own() {
    let mut host = Host::master(settings(UCARP));
    host.counter = u64::MAX / 2;
    host.hear(PEER, 1, 200);
    host.next_timeout();
    let sent = Advertisement::parse(&host.sent.unwrap()).unwrap();
    assert!((host.counter + 1..host.counter + 33).contains(&sent.counter));
}

#[test]
fn two_bsds_that_yield_to_each_other_do_not_come_back_together() {
    let deadlines = ["10.9.0.4", "10.9.0.6"].map(|peer| {
        let mut host = Host::master(settings(Profile::FreeBsd));
        host.hear(peer, 1, 100);
        assert_eq!(host.vhost.state(), State::Backup);
        host.next_in().unwrap()
    });
    assert_eq!(deadlines, [4_781_250_000, 3_390_625_000]);
}

#[test]
fn equal_settings_are_said_once_per_peer() {
    let mut host = Host::started(settings(UCARP));
    assert_eq!(host.hear(PEER, 1, 100), "notice equal settings");
    for _ in 0..5 {
        host.wait(NOTICE_INTERVAL);
        assert_eq!(host.hear(PEER, 1, 100), "");
    }
    assert_eq!(host.hear("10.9.0.8", 1, 100), "notice equal settings");
    assert_eq!(host.hear("10.9.0.9", 1, 100), "", "not so soon");
    host.wait(NOTICE_INTERVAL);
    assert_eq!(
        host.hear("10.9.0.9", 1, 100),
        "notice equal settings",
        "but later"
    );
}

#[test]
fn a_flood_of_bad_digests_is_reported_with_its_size() {
    let mut host = Host::started(settings(UCARP));
    host.authenticator = Authenticator::new(
        &Key::new(b"hate").unwrap(),
        Vhid::new(42).unwrap(),
        &addresses(&["10.9.0.100"]),
        UCARP,
        None,
    );
    let mut notices = Vec::new();
    for _ in 0..2001 {
        let payload = host.payload(1, 0, 0);
        let origin = Origin {
            source: ip(PEER),
            ethernet_source: UCARP_MAC,
            arrival: host.now,
        };
        let input = Input::Advertisement {
            family: Family::Inet,
            origin,
            payload: &payload,
        };
        for action in host.fed(input) {
            if let Action::Notify(notice) = action {
                notices.push(notice);
            }
        }
        host.wait(millis(10));
    }
    let expected = [0, 999, 999].map(|suppressed| Notice::BadDigest {
        source: ip(PEER),
        suppressed,
    });
    assert_eq!(notices, expected);
    assert_eq!(
        host.vhost.counters().dropped(DropReason::BadAuthentication),
        2001
    );
}

#[test]
fn strict_counters_reject_whatever_does_not_rise() {
    let mut host = Host::started(Settings {
        strict_counter: true,
        ..settings(UCARP)
    });
    let first = host.payload(1, 0, 0);
    assert_eq!(host.hear_payload(PEER, &first), "");
    host.wait(millis(1000));
    // A network can repeat the last advertisement. It is no OpenBSD's either, because an OpenBSD's counter is not strict.
    for _ in 0..5 {
        assert_eq!(host.hear_payload(PEER, &first), "");
    }
    assert_eq!(host.vhost.counters().dropped(DropReason::Duplicate), 5);
    assert_eq!(host.next_in(), Some(2_390_625_000));
    assert_eq!(host.hear(PEER, 1, 0), "");
    assert_eq!(host.next_in(), Some(3_390_625_000));
    assert_eq!(host.hear_payload(PEER, &first), "notice stale counter");
    // Only a replay can have our own last counter under another source.
    let mut host = Host::master(Settings {
        strict_counter: true,
        ..settings(UCARP)
    });
    let ours = Advertisement::parse(&host.sent.unwrap()).unwrap();
    let replayed = host.payload_with_counter(0, 0, 0, ours.counter);
    host.wait(millis(1));
    assert_eq!(host.hear_payload(PEER, &replayed), "notice stale counter");
    assert_eq!(host.vhost.state(), State::Master);
}

#[test]
fn two_strict_masters_whose_advertisements_cross_come_apart() {
    let strict = |address: &str| {
        let mut host = Host::new(Settings {
            strict_counter: true,
            ..settings(UCARP)
        });
        host.input(source(Family::Inet, Some(address)));
        host.input(Input::LinkChanged(LinkState::Up));
        host
    };
    let mut hosts = [strict("10.9.0.5"), strict("10.9.0.6")];
    let mut rounds = 0;
    while hosts[0].vhost.state() != State::Master || hosts[1].vhost.state() != State::Backup {
        rounds += 1;
        assert!(rounds < 10, "still two masters");
        // Each host sends when it is due; advertisements of the same time cross on the link.
        let now = hosts
            .iter()
            .filter_map(|host| host.vhost.next_deadline())
            .min()
            .unwrap();
        let sent = hosts.each_mut().map(|host| {
            let before = host.sent;
            host.now = now;
            host.timeout();
            host.sent.filter(|sent| before != Some(*sent))
        });
        for (receiver, sender, address) in [(0, 1, "10.9.0.6"), (1, 0, "10.9.0.5")] {
            if let Some(payload) = sent[sender] {
                hosts[receiver].wait(millis(1));
                hosts[receiver].hear_payload(address, &payload);
            }
        }
    }
    let stale: u64 = hosts
        .iter()
        .map(|host| host.vhost.counters().dropped(DropReason::StaleCounter))
        .sum();
    assert!(stale > 0, "their advertisements crossed");
}

#[test]
fn a_strict_master_that_was_stopped_hears_all_that_its_successor_said_meanwhile() {
    let strict = || Settings {
        strict_counter: true,
        ..settings(UCARP)
    };
    let mut host = Host::master(strict());
    let stopped = host.now;
    host.counter = host.last_sent();
    // The successor goes on for ten seconds; our last advertisement, which answers its first, comes with a higher counter.
    let said: Vec<_> = (1..=10).map(|_| host.payload(1, 50, 0)).collect();
    host.wait(millis(10_000));
    for (second, payload) in (1..).zip(&said) {
        host.hear_at(PEER, payload, stopped + millis(1000 * second - 500));
    }
    assert_eq!(host.vhost.counters().dropped(DropReason::StaleCounter), 0);
    assert_eq!(host.timeout(), "");
    assert_eq!(host.next_in(), Some(2_890_625_000));
}

#[test]
fn advertisements_heard_before_a_restart_prove_nothing_after_it() {
    let mut host = Host::started(settings(UCARP));
    let recorded: Vec<_> = (0..5).map(|_| host.payload(1, 50, 0)).collect();
    for payload in &recorded {
        host.wait(millis(1000)).hear_payload(PEER, payload);
    }
    let bytes = host.vhost.memory();
    let mut again = Host::started(settings(UCARP));
    let mut fresh = Host::new(settings(UCARP));
    for length in 0..bytes.len() {
        assert!(!fresh.vhost.recall(&bytes[..length]), "{length} bytes");
    }
    assert!(again.vhost.recall(&bytes));
    assert_eq!(again.vhost.memory().len(), bytes.len());
    again.wait(millis(1000));
    for payload in &recorded {
        again.hear_payload("10.9.0.8", payload);
    }
    assert_eq!(again.next_in(), Some(2_390_625_000), "none of them counts");
    assert_eq!(again.vhost.counters().dropped(DropReason::Unproven), 5);
    again.counter = host.counter;
    again.hear(PEER, 1, 50);
    assert_eq!(again.next_in(), Some(3_390_625_000), "its source goes on");
}

#[test]
fn advertisements_from_our_own_address_make_no_peer_stale() {
    let mut host = Host::started(Settings {
        strict_counter: true,
        ..settings(UCARP)
    });
    let above = host.counter + 1000;
    let under_ours = host.payload_with_counter(1, 0, 0, above);
    assert_eq!(
        host.hear_payload("10.9.0.5", &under_ours),
        "notice own echo"
    );
    host.wait(millis(1000));
    assert_eq!(host.hear(PEER, 1, 0), "");
    assert_eq!(host.vhost.counters().dropped(DropReason::StaleCounter), 0);
    assert_eq!(host.next_in(), Some(3_390_625_000), "the peer was heard");
    host.next_timeout();
    assert!(host.last_sent() > above, "whatever we send is");
}
