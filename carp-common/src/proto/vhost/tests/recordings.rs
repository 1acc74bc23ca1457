//! Recordings that somebody without the password sends again, and the decisions that they must not change.

use super::*;

const STRANGER: &str = "10.9.0.66";

impl Host {
    /// Delivers the last advertisement of the peers from any address, with another priority.
    fn replay(&mut self, source: &str, advbase: u8, advskew: u8) -> String {
        let payload = self.payload_with_counter(advbase, advskew, 0, self.counter);
        self.hear_payload(source, &payload)
    }

    /// An OpenBSD that is known to be one advertises 1/0. Its counter is the last that the peers sent.
    fn beside_an_openbsd() -> Self {
        let mut host = Self::started(settings(UCARP));
        host.hear(PEER, 1, 0);
        for _ in 0..5 {
            host.wait(millis(1000)).replay(PEER, 1, 0);
        }
        assert_eq!(host.next_in(), Some(3_390_625_000));
        host
    }
}

#[test]
fn the_first_counter_of_a_host_that_counts_is_no_openbsds_because_a_fast_host_shows_it() {
    let mut host = Host::started(settings(UCARP));
    host.hear(PEER, 1, 0);
    let first = host.counter;
    // It looks like that of a host whose advertisements come 4 ms apart, and that was silent for longer.
    host.wait(millis(10)).replay(STRANGER, 0, 0);
    host.wait(millis(990)).hear(PEER, 1, 0);
    let heard_at = host.now;
    for _ in 0..20 {
        host.wait(millis(100));
        let replayed = host.payload_with_counter(0, 0, 0, first);
        host.hear_payload(STRANGER, &replayed);
        host.hear_payload(PEER, &replayed);
    }
    let silent = host.now.saturating_duration_since(heard_at);
    let left = 3_390_625_000 - i64::try_from(silent.as_nanos()).unwrap();
    assert_eq!(host.next_in(), Some(left), "it is no sign of life");
}

#[test]
fn an_openbsd_is_believed_whatever_is_sent_in_its_name_from_elsewhere() {
    let mut host = Host::beside_an_openbsd();
    for _ in 0..5 {
        // It comes with a better priority, and as a bow-out.
        host.wait(millis(100)).replay(STRANGER, 0, 0);
        host.wait(millis(10)).replay(STRANGER, 255, 255);
        host.wait(millis(30)).timeout();
        host.wait(millis(860)).replay(PEER, 1, 0);
        assert_eq!(host.vhost.state(), State::Backup);
        assert_eq!(host.next_in(), Some(3_390_625_000));
    }
}

#[test]
fn an_openbsd_is_believed_whatever_is_sent_under_its_own_address() {
    // The first counter was shown by another host that had gone on with the OpenBSD's; the second was never heard.
    for others in [3, 1 << 50] {
        let mut host = Host::beside_an_openbsd();
        let constant = host.counter;
        for _ in 0..5 {
            host.wait(millis(10)).hear("10.9.0.8", 1, 200);
        }
        for _ in 0..5 {
            host.counter = constant + others;
            host.wait(millis(100)).replay(PEER, 1, 0);
            host.counter = constant;
            for _ in 0..3 {
                host.wait(millis(1000)).replay(PEER, 1, 0);
                host.timeout();
                assert_eq!(host.vhost.state(), State::Backup, "{others}");
            }
            assert_eq!(host.next_in(), Some(3_390_625_000), "{others}");
        }
    }
}

#[test]
fn a_counter_that_seemed_an_openbsds_keeps_no_host_alive_that_went_on() {
    // A ucarp is away, and an attacker repeats its last counter; the ucarp comes back, and counts.
    let mut host = Host::beside_an_openbsd();
    let seemed = host.counter;
    for _ in 0..10 {
        host.wait(millis(1000)).hear(PEER, 1, 0);
        let replayed = host.payload_with_counter(0, 0, 0, seemed);
        for _ in 0..9 {
            host.wait(millis(100)).hear_payload(PEER, &replayed);
        }
        assert_eq!(host.next_in(), Some(2_490_625_000));
    }
}

#[test]
fn an_openbsd_is_known_in_time_though_a_stranger_showed_its_counter_as_a_slow_ones() {
    // The recording comes in the OpenBSD's own name, of a stranger that stops, of one that goes on, and of a peer that counts.
    for (stranger, goes_on) in [
        (PEER, false),
        (STRANGER, false),
        (STRANGER, true),
        ("10.9.0.8", false),
    ] {
        let mut host = Host::started(settings(UCARP));
        host.hear("10.9.0.8", 1, 200);
        host.hear("10.9.0.8", 1, 200);
        host.counter += 1 << 60;
        host.replay(stranger, 254, 0);
        for _ in 0..5 {
            host.wait(millis(1000)).replay(PEER, 1, 0);
            if goes_on {
                host.replay(stranger, 254, 0);
            }
            host.timeout();
        }
        host.wait(millis(1000)).replay(PEER, 1, 0);
        let what = format!("{stranger} {goes_on}");
        assert_eq!(host.vhost.state(), State::Backup, "{what}");
        assert_eq!(host.next_in(), Some(3_390_625_000), "{what}");
    }
}

#[test]
fn a_copy_that_shows_a_short_interval_makes_no_new_life_of_a_host_that_goes_on() {
    let mut host = Host::started(settings(UCARP));
    host.hear(PEER, 1, 0);
    // The altered copy arrives before the genuine advertisement.
    host.wait(millis(1000)).hear(PEER, 0, 0);
    host.replay(PEER, 1, 0);
    host.wait(millis(1000)).hear(PEER, 1, 0);
    let living = host.counter;
    for unheard in [1 << 61, 1 << 62] {
        host.wait(millis(100));
        let bow_out = host.payload_with_counter(255, 255, 0, unheard);
        host.hear_payload(PEER, &bow_out);
    }
    assert_eq!(host.next_in(), Some(3_190_625_000), "no takeover");
    host.counter = living;
    host.wait(millis(800)).hear(PEER, 1, 0);
    assert_eq!(host.next_in(), Some(3_390_625_000));
}

#[test]
fn altered_advertisements_mislead_twice_though_the_answers_are_genuine() {
    // The answer comes at once, and with the next advertisement of a ucarp.
    for answered_after in [1, 1_500] {
        let mut host = Host::started(settings(UCARP));
        host.hear(PEER, 1, 0);
        let mut reigns = 0;
        for _ in 0..20 {
            host.wait(millis(1000)).hear(PEER, 255, 255);
            host.wait(millis(5)).replay(PEER, 1, 0);
            host.wait(millis(120)).timeout();
            if host.vhost.state() == State::Master {
                reigns += 1;
                host.counter = host.last_sent();
                host.wait(millis(answered_after)).hear(PEER, 1, 0);
            }
            assert_eq!(host.vhost.state(), State::Backup);
        }
        assert_eq!(reigns, 2, "{answered_after}");
    }
}

#[test]
fn a_master_that_comes_back_was_not_misled() {
    let mut host = Host::started(settings(UCARP));
    host.hear(PEER, 1, 0);
    for _ in 0..3 {
        host.wait(millis(1000)).hear(PEER, 255, 255);
        assert_eq!(host.next_in(), Some(24_414_062));
        host.next_timeout();
        host.counter = host.last_sent();
        host.wait(millis(300)).hear(PEER, 1, 0);
        assert_eq!(host.vhost.state(), State::Backup);
    }
}

#[test]
fn an_advertisement_that_was_not_heard_deposes_once() {
    // A peer counted as far as we did while the network was divided, and is dead.
    let mut host = Host::master(settings(UCARP));
    let mut unheard = host.last_sent();
    let mut reigns = 0;
    for _ in 0..20 {
        unheard += 100;
        let payload = host.payload_with_counter(1, 0, 0, unheard);
        host.wait(millis(10)).hear_payload(PEER, &payload);
        while host.vhost.state() == State::Backup {
            host.next_timeout();
            reigns += usize::from(host.vhost.state() == State::Master);
        }
    }
    assert_eq!(reigns, 1);
}

#[test]
fn a_peer_is_believed_that_goes_on_with_a_recording_in_the_name_of_another() {
    let mut host = Host::started(settings(UCARP));
    let named = "10.9.0.8";
    host.hear(PEER, 1, 0);
    host.hear(PEER, 1, 0);
    host.hear(named, 1, 200);
    host.hear(named, 1, 200);
    let living = host.counter;
    host.counter += 1 << 60;
    host.wait(millis(100)).replay(named, 1, 200);
    let recorded = host.counter;
    // What the named source had sent before it heard the recording.
    host.counter = living;
    host.wait(millis(1)).hear(named, 1, 200);
    host.counter = recorded;
    host.wait(millis(899)).hear(PEER, 1, 0);
    assert_eq!(host.next_in(), Some(3_390_625_000));
}
