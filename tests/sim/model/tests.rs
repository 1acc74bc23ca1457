//! Compares the models with the observed behaviour of the real implementations.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::packet::read;
use super::*;

const DIALECTS: [Dialect; 4] = [
    Dialect::Ucarp,
    Dialect::FreeBsd,
    Dialect::OpenBsd,
    Dialect::NetBsd,
];
const BEGIN: Instant = Instant::from_nanos(1_000_000_000_000);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn group() -> Group {
    Group {
        vhid: 7,
        password: b"secret",
        inet: vec![Ipv4Addr::new(192, 0, 2, 100)],
        inet6: Vec::new(),
    }
}

fn model(dialect: Dialect, advbase: u8, advskew: u8) -> Model {
    let setup = Setup {
        dialect,
        group: group(),
        advbase,
        advskew,
        deadratio: 3,
        preempt: false,
        sources: [
            Ipv4Addr::new(10, 9, 0, 1).into(),
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        ],
    };
    let mut model = Model::new(setup, Rng::new(u64::from(advskew)));
    model.start(BEGIN);
    model
}

/// Runs its next timer. Returns when that was, and what it sent.
fn next(model: &mut Model) -> (Instant, Vec<Packet>) {
    let at = model.next_deadline().expect("it waits for something");
    let mut out = Vec::new();
    model.timeout(at, &mut out);
    (at, out)
}

/// Returns a model that became MASTER because it heard no other host, and when.
fn master(dialect: Dialect, advbase: u8, advskew: u8) -> (Model, Instant) {
    let mut model = model(dialect, advbase, advskew);
    let (at, out) = next(&mut model);
    assert_eq!((model.state(), out.len()), (State::Master, 1));
    (model, at)
}

fn packet(ad: Ad) -> Packet {
    Packet {
        family: Family::Inet,
        source: Ipv4Addr::new(10, 9, 0, 2).into(),
        ethernet_source: [0, 0, 0x5e, 0, 1, 7],
        payload: group().seal(ad),
    }
}

fn ad(advbase: u8, advskew: u8, demotion: u8, counter: u64) -> Ad {
    Ad {
        advbase,
        advskew,
        demotion,
        counter,
    }
}

fn said(out: &[Packet]) -> Vec<Ad> {
    let ads = out.iter().map(|packet| read(&packet.payload));
    ads.map(|ad| ad.expect("36 bytes")).collect()
}

#[test]
fn advertisements_come_as_seldom_as_real_ones() {
    for (dialect, advbase, advskew, millis) in [
        (Dialect::OpenBsd, 0, 0, 20),
        (Dialect::OpenBsd, 0, 1, 20),
        (Dialect::OpenBsd, 0, 10, 50),
        (Dialect::OpenBsd, 0, 50, 210),
        (Dialect::OpenBsd, 1, 0, 1010),
        (Dialect::OpenBsd, 1, 100, 1410),
        (Dialect::NetBsd, 1, 0, 1010),
        (Dialect::NetBsd, 1, 100, 1410),
        (Dialect::FreeBsd, 1, 0, 1001),
        (Dialect::FreeBsd, 1, 100, 1392),
        (Dialect::FreeBsd, 1, 254, 1939),
        (Dialect::Ucarp, 1, 0, 1000),
        (Dialect::Ucarp, 1, 128, 1500),
    ] {
        let (mut model, _) = master(dialect, advbase, advskew);
        let (mut before, _) = next(&mut model);
        for _ in 0..3 {
            let (at, out) = next(&mut model);
            let gap = at.saturating_duration_since(before);
            assert_eq!(gap, ms(millis), "{dialect:?} {advbase}/{advskew}");
            assert_eq!(out.len(), 1);
            before = at;
        }
    }
}

#[test]
fn the_first_interval_of_a_reign_is_as_configured() {
    // FreeBSD advertises 240 and waits for 254.
    let (mut model, since) = master(Dialect::FreeBsd, 1, 254);
    let (at, out) = next(&mut model);
    assert_eq!(at.saturating_duration_since(since), ms(1994));
    assert_eq!(said(&out)[0].advskew, 240);
}

#[test]
fn a_timer_is_never_early_and_never_later_than_its_rounding() {
    for dialect in DIALECTS {
        for (advbase, advskew, exact) in [(1, 0, 3_000_000_000), (1, 7, 3_027_343_750)] {
            let exact = Duration::from_nanos(exact);
            for late in 0..50 {
                let mut model = model(dialect, advbase, advskew);
                let now = BEGIN + Duration::from_micros(777) * late;
                model.receive(now, &packet(ad(1, 0, 0, 5)), &mut Vec::new());
                let silence = next(&mut model).0.saturating_duration_since(now);
                assert!(
                    exact <= silence && silence <= dialect.timer(exact),
                    "{dialect:?} {silence:?}"
                );
            }
        }
    }
    assert_eq!(Dialect::OpenBsd.timer(3 * STEP), ms(30), "0/0");
}

#[test]
fn freebsd_advertises_240_at_most_and_falls_silent() {
    for (advskew, demotion, advertised) in [
        (0, 0, 0),
        (239, 0, 239),
        (254, 0, 240),
        (100, 100, 200),
        (100, 200, 240),
    ] {
        let (mut model, _) = master(Dialect::FreeBsd, 1, advskew);
        model.demote(BEGIN, demotion, &mut Vec::new());
        let (_, out) = next(&mut model);
        let ad = said(&out)[0];
        assert_eq!((ad.advskew, ad.demotion), (advertised, 0));
        let mut out = Vec::new();
        model.stop(&mut out);
        assert!(out.is_empty());
    }
}

#[test]
fn ordered_stops_bow_out_where_real_ones_do() {
    for dialect in DIALECTS {
        let (mut model, _) = master(dialect, 1, 100);
        let mut out = Vec::new();
        model.stop(&mut out);
        let shown = said(&out);
        let bows: Vec<_> = shown.iter().map(|ad| (ad.advbase, ad.advskew)).collect();
        let expected: &[_] = match dialect {
            Dialect::Ucarp | Dialect::FreeBsd => &[],
            Dialect::OpenBsd | Dialect::NetBsd => &[(255, 255)],
        };
        assert_eq!(bows, expected, "{dialect:?}");
        assert_eq!(model.state(), State::Init);
    }
}

#[test]
fn demotion_shows_where_each_puts_it() {
    for (dialect, advskew, demotion, shown, at_once) in [
        (Dialect::Ucarp, 100, 50, (100, 0), false),
        (Dialect::FreeBsd, 100, 50, (150, 0), true),
        (Dialect::OpenBsd, 100, 1, (100, 1), true),
        (Dialect::OpenBsd, 100, 50, (100, 50), false),
        (Dialect::NetBsd, 100, 1, (240, 0), true),
        (Dialect::NetBsd, 250, 1, (250, 0), true),
    ] {
        let (mut model, since) = master(dialect, 1, advskew);
        let mut out = Vec::new();
        model.demote(since + ms(10), demotion, &mut out);
        assert_eq!(!out.is_empty(), at_once, "{dialect:?} {demotion}");
        out.extend(next(&mut model).1);
        for ad in said(&out) {
            assert_eq!((ad.advskew, ad.demotion), shown, "{dialect:?} {demotion}");
        }
        // It advertises the change once, and that advertisement sets its timer again.
        out.clear();
        model.demote(since + ms(20), demotion, &mut out);
        assert!(out.is_empty(), "{dialect:?}");
    }
}

#[test]
fn counters_follow_the_last_one_heard_also_downwards() {
    for dialect in [Dialect::Ucarp, Dialect::FreeBsd, Dialect::NetBsd] {
        let (mut model, since) = master(dialect, 1, 0);
        let first = said(&next(&mut model).1)[0].counter;
        let second = said(&next(&mut model).1)[0].counter;
        assert_ne!(first.wrapping_add(1), second, "random while alone");
        for heard in [1_000_000, 10, 500] {
            model.receive(since, &packet(ad(1, 200, 0, heard)), &mut Vec::new());
            for above in 1..4 {
                let sent = said(&next(&mut model).1)[0].counter;
                assert_eq!(sent, heard + above, "{dialect:?}");
            }
        }
    }
}

#[test]
fn openbsd_has_one_counter_and_drops_it_from_others() {
    let (mut model, since) = master(Dialect::OpenBsd, 1, 100);
    let own = said(&next(&mut model).1)[0].counter;
    model.receive(since, &packet(ad(1, 200, 0, 77)), &mut Vec::new());
    assert_eq!(said(&next(&mut model).1)[0].counter, own);
    model.receive(since, &packet(ad(0, 0, 0, own)), &mut Vec::new());
    assert_eq!(model.state(), State::Master, "its own counter is a replay");
    model.receive(since, &packet(ad(0, 0, 0, 78)), &mut Vec::new());
    assert_eq!(model.state(), State::Backup);
}

#[test]
fn masters_yield_by_their_own_reading_of_byte_4() {
    // Ours is 1/100.
    for (dialect, demotion, theirs, yields) in [
        (Dialect::Ucarp, 0, (1, 99, 9), true),
        (Dialect::Ucarp, 0, (1, 101, 0), false),
        (Dialect::FreeBsd, 0, (1, 100, 9), true),
        (Dialect::FreeBsd, 0, (1, 101, 0), false),
        (Dialect::FreeBsd, 2, (1, 102, 0), true),
        (Dialect::NetBsd, 0, (1, 100, 9), true),
        (Dialect::NetBsd, 0, (1, 101, 0), false),
        (Dialect::NetBsd, 1, (1, 240, 0), true),
        (Dialect::OpenBsd, 0, (1, 100, 0), true),
        (Dialect::OpenBsd, 0, (1, 0, 1), false),
        (Dialect::OpenBsd, 2, (1, 200, 1), true),
        (Dialect::OpenBsd, 2, (1, 99, 2), true),
        (Dialect::OpenBsd, 2, (1, 101, 2), false),
    ] {
        let (mut model, since) = master(dialect, 1, 100);
        model.demote(since, demotion, &mut Vec::new());
        let (advbase, advskew, byte_4) = theirs;
        let heard = packet(ad(advbase, advskew, byte_4, 1));
        model.receive(since, &heard, &mut Vec::new());
        let state = if yields { State::Backup } else { State::Master };
        assert_eq!(model.state(), state, "{dialect:?} {demotion} {theirs:?}");
    }
}

#[test]
fn everyone_follows_a_bow_out_at_once_and_only_openbsd_a_demotion() {
    for dialect in DIALECTS {
        for (heard, takes_over) in [
            (ad(255, 255, 0, 1), true),
            (ad(1, 0, 1, 2), dialect == Dialect::OpenBsd),
            (ad(1, 200, 0, 3), false),
        ] {
            let mut model = model(dialect, 1, 100);
            model.receive(BEGIN, &packet(heard), &mut Vec::new());
            assert_eq!(
                model.state() == State::Master,
                takes_over,
                "{dialect:?} {heard:?}"
            );
        }
    }
}

#[test]
fn frames_come_from_the_macs_that_tell_ucarp_from_a_bsd() {
    for dialect in DIALECTS {
        let mut model = model(dialect, 1, 0);
        let (_, out) = next(&mut model);
        let byte = u8::from(dialect != Dialect::Ucarp);
        assert_eq!(out[0].ethernet_source, [0, 0, 0x5e, 0, byte, 7]);
    }
}
