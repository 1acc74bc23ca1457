//! Admission: only authentic advertisements are delivered, each once, and at a limited rate; and the program without
//! a daemon.

use std::thread::sleep;
use std::time::Duration;

use carp_common::abi::counters::Counter;
use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::VhostValue;
use carp_common::proto::{AddressSet, Authenticator, Key};
use carp_common::units::{AdvBase, AdvSkew, Profile, Vhid};
use carp_common::wire::advertisement::Advertisement;

use crate::datapath::{Datapath, Fate, HOOKS, Hook, LOOPBACK};
use crate::frames::*;

const RECEIVED: (&str, u64) = ("received-inet-packets", 1);
const DELIVERED: (&str, u64) = ("delivered", 1);
/// The counter of a frame that is not authentic and the first for a while, of which the daemon gets a sample.
const SUSPECT: (&str, u64) = ("suspects-delivered", 1);

#[test]
fn every_accepted_form_of_the_digest_reaches_the_ring() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let addresses = AddressSet::new(ADDRESSES.iter().map(|text| text.parse().unwrap()));
        let (key, vhid) = (Key::new(b"password").unwrap(), Vhid::new(VHID).unwrap());
        for profile in [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd] {
            let sender = Authenticator::new(&key, vhid, &addresses, profile, None);
            for counter in [0, 1, COUNTER, u64::MAX] {
                let advertisement = Advertisement {
                    digest: sender.sign(counter),
                    ..authentic(VHID, counter)
                };
                let (fate, counters) = datapath.run_afresh(&carrying(&advertisement));
                assert_eq!((fate, counters), (Fate::Pass, vec![RECEIVED, DELIVERED]));
                let events = datapath.drain();
                assert_eq!(events.len(), 1);
                assert_eq!(events[0].payload(), emitted(&advertisement));
            }
        }
    }
}

#[test]
fn every_bit_flip_of_what_is_authenticated_is_dropped() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let mut dropped = 0;
        // vhid, counter, digest; the addresses are in the keys.
        for byte in (1..2).chain(8..36) {
            for bit in 0..8 {
                let mut frame = genuine();
                frame[CARP + byte] ^= 1 << bit;
                resum_carp(&mut frame);
                let (fate, counters) = datapath.run_afresh(&frame);
                if byte == 1 && frame[CARP + 1] != 8 {
                    assert_eq!(
                        (fate, counters),
                        (Fate::Pass, vec![("passed-unknown-vhid", 1)])
                    );
                    continue;
                }
                if byte == 1 {
                    // vhid 8 listens to another group.
                    continue;
                }
                assert_eq!(fate, Fate::Drop, "byte {byte}, bit {bit}");
                assert_eq!(counters, [RECEIVED, SUSPECT]);
                assert_eq!(datapath.suspects().len(), 1);
                dropped += 1;
            }
        }
        assert_eq!(dropped, 28 * 8);
        assert!(datapath.drain().is_empty());
    }
}

#[test]
fn without_keys_nothing_is_authentic() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    datapath.accept(KernelKeys::NONE);
    assert_eq!(
        datapath.run_afresh(&genuine()),
        (Fate::Drop, vec![RECEIVED, SUSPECT])
    );
    // The entries of others are not touched.
    let in_vlan = tagged(genuine(), &[[0x81, 0, 0xe0, 5]]);
    assert_eq!(datapath.run(&in_vlan).1, [RECEIVED, DELIVERED]);
}

#[test]
fn any_of_the_keys_will_do() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    let [first, _, _, unused] = KernelKeys::new(authenticator(VHID, &ADDRESSES).digests()).0;
    for place in 0..4 {
        let mut keys = [unused; 4];
        keys[place] = first;
        datapath.accept(KernelKeys(keys));
        assert_eq!(
            datapath.run_afresh(&genuine()).1,
            [RECEIVED, DELIVERED],
            "key {place}"
        );
    }
}

#[test]
fn flood_of_forgeries_leaves_one_sample_that_names_the_sender() {
    let Some(mut datapath) = Datapath::load(Hook::Xdp) else {
        return;
    };
    let forged = carrying(&Advertisement {
        digest: [0xd1; 20],
        ..authentic(VHID, COUNTER)
    });
    assert_eq!(datapath.repeat(&forged, 5000).0, Fate::Drop);
    let counted = datapath.count(Counter::DroppedBadAuthentication);
    let shown = datapath.count(Counter::SuspectsDelivered);
    assert_eq!(counted + shown, 5000, "each is counted once, here or there");
    assert!(datapath.drain().is_empty());
    let suspects = datapath.suspects();
    assert!(
        // One per second, and the machine may be slow.
        (1..5).contains(&suspects.len()),
        "{} samples",
        suspects.len()
    );
    assert_eq!(suspects.len() as u64, shown);
    assert_eq!(suspects[0].source_address(), SOURCE);
    assert_eq!(suspects[0].payload(), &forged[CARP..]);
}

#[test]
fn an_advertisement_from_our_own_address_is_dropped_whatever_its_digest() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let mut source6 = [0; 16];
        (source6[0], source6[1], source6[15]) = (0xfe, 0x80, 1);
        let entry = datapath
            .entry(VHID)
            .hearing(GROUP.into(), Some(SOURCE.into()))
            .hearing(GROUP6.into(), Some(source6.into()));
        datapath.set_entry(VHID, entry);
        let forged = carrying(&Advertisement {
            digest: [0xd1; 20],
            ..authentic(VHID, COUNTER)
        });
        let received6 = ("received-inet6-packets", 1);
        let own = ("dropped-own-source", 1);
        for (frame, received) in [
            (genuine(), RECEIVED),
            (forged, RECEIVED),
            (genuine6(), received6),
        ] {
            // The first one is shown to the daemon, unchanged.
            assert_eq!(
                datapath.run_afresh(&frame),
                (Fate::Drop, vec![received, SUSPECT]),
                "{hook:?}"
            );
            let suspects = datapath.suspects();
            assert_eq!(suspects.len(), 1);
            assert_eq!(suspects[0].payload(), &frame[frame.len() - 36..]);
            assert_eq!(
                datapath.run(&frame),
                (Fate::Drop, vec![received, own]),
                "{hook:?}"
            );
        }
        assert!(datapath.drain().is_empty() && datapath.suspects().is_empty());
        // In a VLAN, the same vhid has a source of its own.
        let tagged = tagged(genuine(), &[[0x81, 0, 0xe0, 5]]);
        assert_eq!(datapath.run(&tagged).1, [RECEIVED, DELIVERED]);
        // Another host's advertisement is believed as before.
        let mut another = genuine();
        another[IP + 15] = 3;
        resum_ip(&mut another);
        assert_eq!(datapath.run(&another).1, [RECEIVED, DELIVERED]);
    }
}

#[test]
fn same_again_is_a_duplicate_until_a_quarter_of_its_interval_has_passed() {
    for hook in HOOKS {
        let Some(datapath) = Datapath::load(hook) else {
            return;
        };
        let slow = Advertisement {
            advbase: AdvBase(255),
            ..authentic(VHID, COUNTER)
        };
        let quick = Advertisement {
            advbase: AdvBase(0),
            advskew: AdvSkew(26),
            ..authentic(VHID, COUNTER + 1)
        };
        let delivered = vec![RECEIVED, DELIVERED];
        let duplicate = (Fate::Drop, vec![RECEIVED, ("dropped-duplicate", 1)]);
        assert_eq!(datapath.run(&carrying(&slow)).1, delivered);
        assert_eq!(datapath.run(&carrying(&slow)), duplicate);
        // Two in turn do not make each other new.
        assert_eq!(datapath.run(&carrying(&quick)).1, delivered);
        assert_eq!(datapath.run(&carrying(&slow)), duplicate);
        // A quarter of 26/256 s.
        sleep(Duration::from_millis(26));
        assert_eq!(datapath.run(&carrying(&quick)).1, delivered);
        // Only the priority fields differ, which the program does not judge.
        for changed in [
            Advertisement {
                advskew: AdvSkew(0),
                ..slow
            },
            Advertisement {
                advbase: AdvBase(254),
                ..slow
            },
            Advertisement {
                demotion: carp_common::units::Demotion(1),
                ..slow
            },
        ] {
            assert_eq!(datapath.run(&carrying(&changed)).1, delivered);
        }
        // Another family or VLAN has a ledger of its own.
        assert_eq!(datapath.run(&genuine6()).0, Fate::Pass);
    }
}

#[test]
fn replays_are_limited_and_what_rises_never_is() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let top = COUNTER + 10_000;
        let at = |counter| carrying(&authentic(VHID, counter));
        assert_eq!(datapath.run(&at(top)).1, [RECEIVED, DELIVERED]);
        datapath.drain();
        let replays: Vec<_> = (COUNTER..COUNTER + 4000).map(at).collect();
        for frame in &replays {
            datapath.repeat(frame, 1);
        }
        let limited = datapath.count(Counter::DroppedRateLimited);
        let heard = u64::try_from(datapath.drain().len()).unwrap();
        assert_eq!(limited + heard, 4000);
        // 128 in each eighth of a second, and the machine may be slow.
        assert!((128..2000).contains(&heard), "{heard} heard");
        for counter in top + 1..top + 300 {
            assert_eq!(
                datapath.run(&at(counter)).1,
                [RECEIVED, DELIVERED],
                "{counter}"
            );
        }
    }
}

#[test]
fn leftover_program_drops_nothing_and_still_delivers() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        for vhid in [VHID, 8] {
            let entry = VhostValue {
                alive_until_ns: 1,
                ..datapath.entry(vhid)
            };
            datapath.set_entry(vhid, entry);
        }
        let leftover = vec![RECEIVED, ("passed-leftover", 1)];
        let forged = carrying(&Advertisement {
            digest: [0xd1; 20],
            ..authentic(VHID, COUNTER)
        });
        let unicast = advertisement(8, OURS);
        for (name, frame, counters) in [
            ("ttl 254", with_ip_byte(genuine(), 8, 254), &leftover),
            ("forged", forged, &leftover),
            ("genuine", genuine(), &vec![RECEIVED, DELIVERED]),
            ("duplicate", genuine(), &leftover),
            ("unicast", unicast, &vec![RECEIVED, DELIVERED]),
        ] {
            assert_eq!(
                datapath.run(&frame),
                (Fate::Pass, counters.clone()),
                "{name}"
            );
        }
        assert_eq!(datapath.drain().len(), 2);
    }
}

#[test]
fn frames_for_a_virtual_host_are_in_its_ledger_and_the_rest_in_the_interfaces() {
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        datapath.forget();
        let forged = carrying(&Advertisement {
            digest: [0xd1; 20],
            ..authentic(VHID, COUNTER)
        });
        let frames = [
            genuine(),
            genuine(),
            genuine6(),
            forged,
            with_ip_byte(genuine(), 8, 254),
            advertisement(VHID, OURS),
            advertisement(8, OURS),
            vrrp(2, VHID, 1, 20),
            // It belongs to no virtual host.
            advertisement(99, GROUP),
            tagged(genuine(), &[[0x81, 0, 0, 9]]),
            vrrp(2, 51, 1, 20),
        ];
        for frame in &frames {
            datapath.run(frame);
        }
        let inet = [
            ("received-inet-packets", 4),
            ("dropped-wrong-ttl", 1),
            ("dropped-duplicate", 1),
            ("suspects-delivered", 1),
            ("delivered", 1),
            ("passed-unicast", 1),
            ("passed-vrrp-same-vhid", 1),
        ];
        assert_eq!(datapath.counts_of(1), inet, "{hook:?}");
        assert_eq!(datapath.counts_of(2), [RECEIVED, DELIVERED]);
        assert_eq!(datapath.counts_of(3), []);
        assert_eq!(
            datapath.counts_of(4),
            [("received-inet6-packets", 1), DELIVERED]
        );
        let others = [
            ("passed-unknown-vhid", 1),
            ("passed-other-vlan", 1),
            ("passed-vrrp", 2),
        ];
        assert_eq!(datapath.counts_of_others(), others);
        // The same where another interface has the place.
        datapath.crowd(LOOPBACK);
        datapath.run(&advertisement(99, GROUP));
        datapath.run(&vrrp(2, 51, 1, 20));
        let others = [
            ("passed-unknown-vhid", 2),
            ("passed-other-vlan", 1),
            ("passed-vrrp", 3),
        ];
        assert_eq!(datapath.counts_of_others(), others);
        assert_eq!(datapath.counts_of_crowd(), []);
        let sum = |name| {
            let parts = [1, 2, 3, 4]
                .map(|ledger| datapath.counts_of(ledger))
                .concat();
            let parts = parts.into_iter().chain(datapath.counts_of_others());
            parts
                .filter(|(it, _)| *it == name)
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        for (name, total) in datapath.moved() {
            assert_eq!(sum(name), total, "{name} in total");
        }
    }
}
