//! Scenarios of more than one event: starting, waiting, two families, stopping.

use super::*;

const TAKE_OVER: &str = "datapath MASTER, claim, send inet 1/100, announce inet";

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
        assert_eq!(host.vhost.next_deadline(), None);
    }
}

#[test]
fn a_new_master_announces_two_advertisements_and_five_seconds_later_and_then_no_more() {
    let mut host = Host::started(settings(UCARP));
    assert_eq!(
        host.next_timeout(),
        std::format!("BACKUP to MASTER: MasterTimedOut, {TAKE_OVER}")
    );
    let since = host.now;
    assert_eq!(host.next_timeout(), "send inet 1/100");
    assert_eq!(host.next_timeout(), REASSERT);
    assert_eq!(host.next_timeout(), "send inet 1/100");
    assert_eq!(host.next_timeout(), "announce inet");
    assert_eq!(host.now, since + millis(5000));
    for _ in 0..9 {
        assert_eq!(host.next_timeout(), "send inet 1/100");
    }
}

#[test]
fn a_refresh_announces_at_its_pace_as_long_as_the_host_is_master() {
    let mut host = Host::started(Settings {
        announce_refresh: Some(millis(30_000)),
        ..settings(UCARP)
    });
    host.next_timeout();
    let (since, mut announced) = (host.now, Vec::new());
    while host.now < since + millis(100_000) {
        if host.next_timeout().contains("announce inet") {
            announced.push(host.now.saturating_duration_since(since));
        }
    }
    let two_intervals = host.vhost.cx.interval() * 2;
    let seconds = [5, 35, 65, 95].map(|second| millis(second * 1000));
    assert_eq!(announced[0], two_intervals);
    assert_eq!(announced[1..], seconds);
    host.input(Input::Command(Command::StepDown {
        hold: millis(100_000),
    }));
    host.wait(millis(90_000));
    assert_eq!(host.timeout(), "");
}

#[test]
fn a_new_ethernet_address_is_announced_as_a_takeover_is() {
    let mut host = Host::master(settings(UCARP));
    let since = host.now;
    assert_eq!(host.input(Input::StationChanged), "announce inet");
    let mut announced = Vec::new();
    while host.now < since + millis(20_000) {
        if host.next_timeout().contains("announce inet") {
            announced.push(host.now.saturating_duration_since(since));
        }
    }
    let two_intervals = host.vhost.cx.interval() * 2;
    assert_eq!(announced, [two_intervals, millis(5000)]);
}

#[test]
fn advertisements_keep_their_rhythm_when_the_timeout_is_a_little_late() {
    let mut host = Host::master(settings(UCARP));
    let due = host.vhost.next_deadline().unwrap();
    host.now = due + millis(20);
    host.timeout();
    assert_eq!(
        host.vhost.next_deadline(),
        Some(due + host.vhost.cx.interval())
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
    host.now = host.vhost.next_deadline().unwrap() + millis(20_000);
    assert_eq!(host.input(Input::AdvertisementsLost), "");
    let from_now = host.now + host.vhost.master_down_time();
    assert_eq!(host.vhost.next_deadline(), Some(from_now));
    let mut master = Host::master(settings(UCARP));
    let rhythm = master.vhost.next_deadline();
    assert_eq!(master.input(Input::AdvertisementsLost), "");
    assert_eq!(master.vhost.next_deadline(), rhythm);
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
fn both_families_are_advertised_and_announced() {
    let mut host = Host::started(dual_stack(UCARP));
    assert_eq!(
        host.next_timeout(),
        "BACKUP to MASTER: MasterTimedOut, datapath MASTER, claim, send inet 1/100, \
         send inet6 1/100, announce inet, announce inet6"
    );
    assert_eq!(
        host.input(Input::Shutdown),
        "MASTER to INIT: Shutdown, datapath INIT, send inet 255/255, send inet6 255/255, release"
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
fn send_errors_are_forgotten_with_the_link() {
    let mut host = Host::master(settings(UCARP));
    for _ in 0..3 {
        host.send_completed(SendOutcome::Failed);
    }
    assert_eq!(host.vhost.advertised().advskew, AdvSkew(240));
    host.input(Input::LinkChanged(LinkState::Down));
    assert_eq!(host.vhost.advertised().advskew, AdvSkew(240));
    assert_eq!(
        host.input(Input::LinkChanged(LinkState::Up)),
        "INIT to BACKUP: Started, datapath BACKUP, notice unsuppressed"
    );
    assert_eq!(host.vhost.advertised().advskew, AdvSkew(100));
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
fn a_clock_that_goes_back_counts_as_no_time_passed() {
    let mut host = Host::started(settings(UCARP));
    let deadline = host.vhost.next_deadline();
    host.now = Instant::ZERO;
    assert_eq!(host.timeout(), "");
    host.input(Input::Command(Command::StepDown {
        hold: Duration::ZERO,
    }));
    assert_eq!(host.vhost.next_deadline(), deadline);
}

#[test]
fn the_status_shows_the_events_that_happened() {
    let mut host = Host::started(settings(UCARP));
    assert_eq!(host.vhost.last_heard(), None);
    assert_eq!(host.vhost.source(Family::Inet), Some(ip("10.9.0.5")));
    host.wait(millis(10)).hear(PEER, 1, 0);
    assert_eq!(
        host.vhost.last_heard(),
        Some(Origin {
            source: ip(PEER),
            ethernet_source: UCARP_MAC,
            arrival: host.now
        })
    );
    assert_eq!(host.vhost.master_down_at(), host.vhost.next_deadline());
    host.next_timeout();
    assert_eq!(host.vhost.master_down_at(), None);
    assert_eq!(host.vhost.counters().transitions_to_master, 1);
    assert_eq!(host.vhost.counters().received_inet_packets, 1);
}

#[test]
fn an_equal_that_sends_from_its_own_mac_is_told_of_the_tie_as_a_ucarp_is() {
    let yields_to = |ethernet_source| {
        let mut host = Host::master(settings(UCARP));
        host.counter = host.last_sent();
        host.ethernet_source = ethernet_source;
        let heard = host.hear("10.8.0.1", 1, 100);
        assert!(heard.contains("TieLost"), "{heard}");
        heard.contains("send inet 1/100")
    };
    assert!(yields_to(UCARP_MAC) && yields_to([2, 0, 0, 0, 0, 9]));
    assert!(!yields_to(BSD_MAC));
}

#[test]
fn the_addresses_are_lost_in_init_and_once_another_master_is_heard() {
    let host = Host::new(settings(UCARP));
    assert!(host.vhost.has_lost(host.now));
    let mut host = Host::started(settings(UCARP));
    assert!(!host.vhost.has_lost(host.now), "nobody was heard");
    host.hear(PEER, 255, 255);
    let turn = host.vhost.next_deadline().unwrap();
    assert!(!host.vhost.has_lost(turn), "the next step takes over");
    host.hear(PEER, 1, 50);
    assert!(host.vhost.has_lost(host.now));
    let host = Host::master(settings(UCARP));
    assert!(!host.vhost.has_lost(host.now));
}

#[test]
fn a_master_is_heard_for_a_master_down_time() {
    let mut host = Host::started(settings(UCARP));
    assert!(!host.vhost.hears_a_master(host.now));
    host.hear(PEER, 1, 50);
    let end = host.now + host.vhost.master_down_time();
    assert!(host.vhost.hears_a_master(host.now));
    assert!(
        host.vhost
            .hears_a_master(Instant::from_nanos(end.as_nanos() - 1))
    );
    assert!(!host.vhost.hears_a_master(end));
}

#[test]
fn a_master_owns_its_addresses_as_long_as_its_last_advertisement_announced() {
    let mut host = Host::master(Settings {
        advbase: AdvBase(0),
        advskew: AdvSkew(10),
        ..settings(UCARP)
    });
    let demote = |amount| Input::DemotionChanged {
        cause: DemotionCause::Administrator,
        amount: Demotion(amount),
    };
    host.input(demote(240));
    let demoted = host.send_completed(SendOutcome::Sent);
    // The demotion ends, but the next advertisement is still due at the time that the last one announced.
    host.input(demote(0));
    let meanwhile = host.send_completed(SendOutcome::Sent);
    host.next_timeout();
    let restored = host.send_completed(SendOutcome::Sent);
    assert_eq!(
        [demoted, meanwhile, restored],
        ["own for 1171 ms", "", "own for 48 ms"]
    );
}
