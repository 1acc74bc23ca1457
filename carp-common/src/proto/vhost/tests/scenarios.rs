//! What takes more than one event.

use super::*;

const UCARP: Profile = Profile::Ucarp;
const TAKE_OVER: &str = "datapath MASTER, claim, send inet 1/100, announce inet";
const REASSERT: &str = "send inet 1/100, announce inet";

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

#[test]
fn the_first_start_releases_what_was_left_and_later_ones_do_not() {
    let mut host = Host::new(settings(UCARP));
    assert_eq!(host.input(source(Family::Inet, Some("10.9.0.5"))), "");
    assert_eq!(
        host.input(Input::LinkChanged(LinkState::Up)),
        "INIT to BACKUP: Started, datapath BACKUP, release"
    );
    host.input(Input::LinkChanged(LinkState::Down));
    let again = host.input(Input::LinkChanged(LinkState::Up));
    assert_eq!(again, "INIT to BACKUP: Started, datapath BACKUP");
}

#[test]
fn it_takes_link_and_source_to_start_in_either_order() {
    let mut host = Host::new(settings(UCARP));
    assert_eq!(host.input(Input::LinkChanged(LinkState::Up)), "");
    assert_eq!(
        host.input(source(Family::Inet6, Some("fe80::5"))),
        "",
        "no address to serve there"
    );
    assert_eq!(
        host.input(source(Family::Inet, Some("fe80::5"))),
        "",
        "not of that family"
    );
    assert!(
        host.input(source(Family::Inet, Some("10.9.0.5")))
            .starts_with("INIT to BACKUP")
    );
}

#[test]
fn a_stop_before_the_first_start_releases_what_was_left() {
    let mut host = Host::new(settings(UCARP));
    assert_eq!(host.input(Input::Shutdown), "release");
    assert_eq!(host.input(Input::Shutdown), "");
}

#[test]
fn after_a_shutdown_nothing_starts_again() {
    let mut host = Host::master(settings(UCARP));
    host.input(Input::Shutdown);
    for input in [
        Input::LinkChanged(LinkState::Down),
        Input::LinkChanged(LinkState::Up),
        source(Family::Inet, Some("10.9.0.6")),
        Input::Command(Command::StepDown {
            hold: Duration::ZERO,
        }),
        Input::ClaimCompleted,
        Input::Shutdown,
    ] {
        assert_eq!(host.input(input), "");
        assert_eq!(host.machine.next_deadline(), None);
    }
}

#[test]
fn a_new_master_announces_again_two_advertisements_later_and_then_no_more() {
    let mut host = Host::started(settings(UCARP));
    assert_eq!(
        host.next_timeout(),
        std::format!("BACKUP to MASTER: MasterTimedOut, {TAKE_OVER}")
    );
    assert_eq!(host.next_timeout(), "send inet 1/100");
    assert_eq!(host.next_timeout(), REASSERT);
    for _ in 0..5 {
        assert_eq!(host.next_timeout(), "send inet 1/100");
    }
}

#[test]
fn advertisements_keep_their_rhythm_when_the_timeout_is_a_little_late() {
    let mut host = Host::master(settings(UCARP));
    let due = host.machine.next_deadline().unwrap();
    host.now = due + millis(20);
    host.timeout();
    assert_eq!(
        host.machine.next_deadline(),
        Some(due + host.machine.interval())
    );
}

#[test]
fn a_master_that_was_stopped_sends_one_advertisement_not_a_burst() {
    let mut host = Host::master(settings(UCARP));
    host.wait(millis(60_000));
    assert_eq!(host.timeout(), "send inet 1/100");
    assert_eq!(host.next_in(), Some(1_390_625_000));
}

#[test]
fn each_advertisement_restarts_the_timer_from_its_arrival() {
    let mut host = Host::started(settings(UCARP));
    host.wait(millis(3000));
    let payload = host.payload(1, 0, 0);
    let arrival = host.now;
    host.wait(millis(200));
    host.hear_at(PEER, &payload, arrival);
    assert_eq!(host.next_in(), Some(3_190_625_000));
}

#[test]
fn an_arrival_in_the_future_counts_as_now() {
    let mut host = Host::started(settings(UCARP));
    let payload = host.payload(1, 0, 0);
    host.hear_at(PEER, &payload, host.now + millis(5000));
    assert_eq!(host.next_in(), Some(3_390_625_000));
}

#[test]
fn an_advertisement_that_was_overtaken_does_not_shorten_the_timer() {
    let mut host = Host::started(settings(UCARP));
    let early = host.now;
    host.wait(millis(1000));
    host.hear(PEER, 1, 0);
    let payload = host.payload(1, 0, 0);
    host.hear_at("10.9.0.8", &payload, early);
    assert_eq!(host.next_in(), Some(3_390_625_000));
}

#[test]
fn a_backup_that_was_stopped_does_not_declare_a_living_master_dead() {
    let mut host = Host::started(settings(UCARP));
    let stopped = host.now;
    host.wait(millis(10_000));
    for second in 1..=10 {
        let payload = host.payload(1, 0, 0);
        host.hear_at(PEER, &payload, stopped + millis(1000 * second - 500));
    }
    assert_eq!(host.timeout(), "");
    assert_eq!(host.next_in(), Some(2_890_625_000));
}

#[test]
fn a_backup_that_lost_advertisements_listens_for_a_whole_master_down_time_again() {
    let mut host = Host::started(settings(UCARP));
    host.now = host.machine.next_deadline().unwrap() + millis(20_000);
    assert_eq!(host.input(Input::AdvertisementsLost), "");
    let from_now = host.now + host.machine.master_down_time();
    assert_eq!(host.machine.next_deadline(), Some(from_now));
    let mut master = Host::master(settings(UCARP));
    let rhythm = master.machine.next_deadline();
    assert_eq!(master.input(Input::AdvertisementsLost), "");
    assert_eq!(master.machine.next_deadline(), rhythm);
}

#[test]
fn a_backup_that_was_stopped_takes_over_at_once_from_a_master_that_died_meanwhile() {
    let mut host = Host::started(settings(UCARP));
    let payload = host.payload(1, 0, 0);
    let arrival = host.now + millis(500);
    host.wait(millis(10_000));
    assert_eq!(host.hear_at(PEER, &payload, arrival), "");
    assert!(
        host.timeout()
            .starts_with("BACKUP to MASTER: MasterTimedOut")
    );
}

#[test]
fn a_master_that_was_stopped_gives_way_before_it_says_anything() {
    let mut host = Host::master(settings(UCARP));
    let stopped = host.now;
    host.wait(millis(10_000));
    // Somebody worse took over first, then somebody better: both are in the queue.
    let worse = host.payload(1, 200, 0);
    let better = host.payload(1, 50, 0);
    assert_eq!(
        host.hear_at(PEER, &worse, stopped + millis(4000)),
        "notice worse master"
    );
    assert_eq!(
        host.hear_at("10.9.0.8", &better, stopped + millis(9500)),
        "MASTER to BACKUP: BetterMasterAdvertised, release, send inet 1/100, datapath BACKUP"
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
    assert_eq!(host.machine.state(), State::Backup);
}

#[test]
fn worse_masters_are_answered_at_most_once_per_interval() {
    let mut host = Host::master(settings(UCARP));
    assert_eq!(host.hear(PEER, 1, 200), "notice worse master");
    assert_eq!(host.timeout(), REASSERT);
    for _ in 0..100 {
        host.wait(millis(13));
        assert_eq!(host.hear(PEER, 1, 200), "");
        assert_eq!(host.timeout(), "");
    }
    host.wait(Duration::from_nanos(90_625_000));
    host.hear(PEER, 1, 200);
    assert_eq!(host.timeout(), REASSERT);
    assert_eq!(host.next_timeout(), "send inet 1/100");
    assert_eq!(host.next_timeout(), REASSERT, "two advertisements later");
    assert_eq!(host.next_timeout(), "send inet 1/100");
}

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
        host.machine.next_deadline(),
        Some(Instant::from_nanos(u64::MAX))
    );
}

#[test]
fn both_families_are_advertised_and_announced() {
    let mut host = Host::started(dual_stack(UCARP));
    assert_eq!(
        host.next_timeout(),
        "BACKUP to MASTER: MasterTimedOut, datapath MASTER, claim, send inet 1/100, \
         send inet6 1/100, announce inet, announce inet6"
    );
    assert_eq!(
        host.input(Input::Shutdown),
        "MASTER to INIT: Shutdown, send inet 255/255, send inet6 255/255, release, datapath INIT"
    );
}

#[test]
fn each_family_has_its_own_master_down_timer() {
    let mut host = Host::started(dual_stack(UCARP));
    host.wait(millis(1000)).hear(PEER, 1, 0);
    assert_eq!(host.next_in(), Some(2_390_625_000), "IPv6 was not heard");
    host.wait(millis(1000)).hear("fe80::7", 1, 0);
    assert_eq!(host.next_in(), Some(2_390_625_000), "IPv4 is older now");
    host.wait(millis(1000)).hear(PEER, 1, 0);
    assert!(
        host.next_timeout()
            .starts_with("BACKUP to MASTER: MasterTimedOut")
    );
    assert_eq!(
        host.now,
        Instant::from_nanos(1_005_390_625_000),
        "by the silence of IPv6"
    );
}

#[test]
fn a_family_without_a_source_is_neither_sent_nor_awaited() {
    let mut host = Host::new(dual_stack(UCARP));
    host.input(Input::LinkChanged(LinkState::Up));
    host.input(source(Family::Inet, Some("10.9.0.5")));
    host.wait(millis(1000));
    host.hear(PEER, 1, 0);
    assert_eq!(host.next_in(), Some(3_390_625_000));
    host.wait(millis(1000));
    host.input(source(Family::Inet6, Some("fe80::5")));
    assert_eq!(host.next_in(), Some(2_390_625_000));
    host.input(source(Family::Inet, None));
    assert_eq!(
        host.next_in(),
        Some(3_390_625_000),
        "awaited since its source came"
    );
    assert_eq!(
        host.next_timeout(),
        "BACKUP to MASTER: MasterTimedOut, datapath MASTER, claim, send inet6 1/100, \
         announce inet, announce inet6"
    );
    let found = host.input(source(Family::Inet, Some("10.9.0.5")));
    assert_eq!(found, "send inet 1/100, send inet6 1/100");
}

#[test]
fn two_equal_dual_stack_masters_agree_although_their_families_would_not() {
    // We have the lower IPv4 address and the higher IPv6 one.
    let mut host = Host::master(dual_stack(UCARP));
    host.hear("fe80::4", 1, 100);
    assert_eq!(host.machine.state(), State::Master);
    host.hear("10.9.0.7", 1, 100);
    assert_eq!(host.machine.state(), State::Master);
    host.hear("10.9.0.4", 1, 100);
    assert_eq!(host.machine.state(), State::Backup);
}

#[test]
fn a_worse_master_is_the_better_ones_affair_while_that_one_lives() {
    let preempting = Settings {
        preempt: true,
        ..settings(UCARP)
    };
    // As BACKUP, and having just yielded.
    for mut host in [Host::started(preempting.clone()), Host::master(preempting)] {
        host.hear("10.9.0.8", 1, 50);
        host.wait(millis(1));
        // The last advertisement of one who yielded too, or its bow-out.
        for worse in [(1, 200), (255, 255)] {
            assert_eq!(host.hear(PEER, worse.0, worse.1), "");
            assert_eq!(host.timeout(), "");
            assert_eq!(host.next_in(), Some(3_389_625_000), "the timer goes on");
        }
        // Its own bow-out counts.
        host.hear("10.9.0.8", 255, 255);
        assert_eq!(host.next_in(), Some(24_414_062));
        // And when it should have been heard again and was not, so does a worse one.
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
fn a_peer_that_follows_our_counters_is_led_above_its_own() {
    let mut host = Host::master(settings(UCARP));
    host.counter = u64::MAX / 2;
    host.hear(PEER, 1, 200);
    host.next_timeout();
    let sent = Advertisement::parse(&host.sent.unwrap()).unwrap();
    assert_eq!(sent.counter, host.counter + 1);
}

#[test]
fn two_bsds_that_yield_to_each_other_do_not_come_back_together() {
    let deadlines = ["10.9.0.4", "10.9.0.6"].map(|peer| {
        let mut host = Host::master(settings(Profile::FreeBsd));
        host.hear(peer, 1, 100);
        assert_eq!(host.machine.state(), State::Backup);
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
            arrival: host.now,
        };
        let input = Input::Advertisement {
            family: Family::Inet,
            origin,
            payload: &payload,
        };
        host.machine.handle_input(host.now, input);
        while let Some(action) = host.machine.poll_action() {
            notices.push(action);
        }
        host.wait(millis(10));
    }
    let expected = [0, 999, 999].map(|suppressed| {
        Action::Notify(Notice::BadDigest {
            source: ip(PEER),
            suppressed,
        })
    });
    assert_eq!(notices, expected);
    assert_eq!(host.machine.counters().dropped_bad_authentication, 2001);
}

#[test]
fn send_errors_are_forgotten_with_the_link() {
    let mut host = Host::master(settings(UCARP));
    for _ in 0..3 {
        host.send_completed(SendOutcome::Failed);
    }
    assert_eq!(host.machine.advertised().advskew, AdvSkew(240));
    host.input(Input::LinkChanged(LinkState::Down));
    assert_eq!(host.machine.advertised().advskew, AdvSkew(240));
    assert_eq!(
        host.input(Input::LinkChanged(LinkState::Up)),
        "INIT to BACKUP: Started, datapath BACKUP, notice unsuppressed"
    );
    assert_eq!(host.machine.advertised().advskew, AdvSkew(100));
}

#[test]
fn demotion_makes_room_for_others_but_does_not_make_us_patient() {
    let mut host = Host::started(settings(UCARP));
    let cause = DemotionCause::Link;
    host.input(Input::DemotionChanged {
        cause,
        amount: Demotion(255),
    });
    assert_eq!(host.next_in(), Some(3_390_625_000));
    assert!(host.next_timeout().contains("send inet 1/240"));
    assert_eq!(host.next_in(), Some(1_937_500_000));
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
    assert_eq!(host.hear_payload(PEER, &first), "notice stale counter");
    assert_eq!(host.next_in(), Some(2_390_625_000));
    assert_eq!(host.hear(PEER, 1, 0), "");
    assert_eq!(host.next_in(), Some(3_390_625_000));
    // Our own last counter, under another source: only a replay can have it.
    let mut host = Host::master(Settings {
        strict_counter: true,
        ..settings(UCARP)
    });
    let ours = Advertisement::parse(&host.sent.unwrap()).unwrap();
    let replayed = host.payload_with_counter(0, 0, 0, ours.counter);
    assert_eq!(host.hear_payload(PEER, &replayed), "notice stale counter");
    assert_eq!(host.machine.state(), State::Master);
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
    while hosts[0].machine.state() != State::Master || hosts[1].machine.state() != State::Backup {
        rounds += 1;
        assert!(rounds < 10, "still two masters");
        // Whoever is due sends; what two send at the same time crosses on the link.
        let now = hosts
            .iter()
            .filter_map(|host| host.machine.next_deadline())
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
                hosts[receiver].hear_payload(address, &payload);
            }
        }
    }
    let stale: u64 = hosts
        .iter()
        .map(|host| host.machine.counters().dropped_stale_counter)
        .sum();
    assert!(stale > 0, "their advertisements crossed");
}

#[test]
fn a_clock_that_goes_back_counts_as_no_time_passed() {
    let mut host = Host::started(settings(UCARP));
    let deadline = host.machine.next_deadline();
    host.now = Instant::ZERO;
    assert_eq!(host.timeout(), "");
    host.input(Input::Command(Command::StepDown {
        hold: Duration::ZERO,
    }));
    assert_eq!(host.machine.next_deadline(), deadline);
}

#[test]
fn what_the_status_shows_is_what_happened() {
    let mut host = Host::started(settings(UCARP));
    assert_eq!(host.machine.last_heard(), None);
    assert_eq!(host.machine.source(Family::Inet), Some(ip("10.9.0.5")));
    host.wait(millis(10)).hear(PEER, 1, 0);
    assert_eq!(
        host.machine.last_heard(),
        Some(Origin {
            source: ip(PEER),
            arrival: host.now
        })
    );
    assert_eq!(host.machine.master_down_at(), host.machine.next_deadline());
    host.next_timeout();
    assert_eq!(host.machine.master_down_at(), None);
    assert_eq!(host.machine.counters().transitions_to_master, 1);
    assert_eq!(host.machine.counters().received_inet_packets, 1);
}
