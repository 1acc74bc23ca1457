//! The time for which a MASTER owns the addresses, the time for which its process counts as alive, and the consequences
//! of a kernel that refuses a virtual host.

use carp_common::units::State;
use carp_tests::sim::scenario::mishap::Mishap;
use carp_tests::sim::scenario::{Fault, START, Scenario};

use super::{PROFILES, hosts, ms, run, s};

/// The name under which the simulation counts that a host took over from an owner that had to be silent by then.
const LOOKED: &str = "looked at an owner who was silent";

#[test]
fn a_hung_master_is_silent_before_its_backup_takes_over() {
    for profile in PROFILES {
        for (deadratio, advskews) in [(3, [0, 0]), (3, [200, 200]), (2, [0, 100])] {
            let mut members = hosts(profile, &advskews);
            for member in &mut members {
                member.deadratio = deadratio;
            }
            let faults = [(s(10), Fault::Hang(0)), (s(20), Fault::Resume(0))];
            let outcome = run(&Scenario::staged(members, &faults, s(30)));
            assert!(outcome.tally.contains_key(LOOKED), "{advskews:?}");
        }
    }
}

#[test]
fn a_master_that_cannot_send_is_silent_before_its_backup_takes_over() {
    let faults = [(s(10), Fault::SendErrors(0)), (s(20), Fault::SendsAgain(0))];
    for profile in PROFILES {
        let outcome = run(&Scenario::staged(hosts(profile, &[0, 100]), &faults, s(30)));
        let takeover = outcome.reigns(1).next().unwrap();
        assert!((s(12)..s(14)).contains(&takeover), "{takeover:?}");
        assert!(outcome.tally.contains_key(LOOKED));
    }
}

#[test]
fn a_master_that_leaves_is_silent_before_it_says_so() {
    for leave in [Fault::Stop(0), Fault::StepDown(0), Fault::Demote(0, 200)] {
        let mut members = hosts(PROFILES[0], &[0, 100]);
        members[1].preempt = true;
        let outcome = run(&Scenario::staged(members, &[(s(10), leave)], s(20)));
        let takeover = outcome.reigns(1).next().unwrap();
        assert!(
            (s(10)..ms(11_500)).contains(&takeover),
            "{leave:?}: {takeover:?}"
        );
    }
}

#[test]
fn a_host_whose_kernel_refuses_it_is_in_init_until_that_works() {
    let faults = [
        (s(10), Fault::Mishap(0, Mishap::TablesFull)),
        (s(11), Fault::LinkDown(0)),
        (s(12), Fault::LinkUp(0)),
        (s(15), Fault::LinkDown(0)),
        (s(16), Fault::LinkUp(0)),
        (s(20), Fault::Mishap(0, Mishap::TablesWork)),
    ];
    let outcome = run(&Scenario::staged(
        hosts(PROFILES[0], &[0, 100]),
        &faults,
        s(30),
    ));
    let mine = outcome.transitions.iter().filter(|(_, who, _)| *who == 0);
    let states: Vec<_> = mine.map(|(at, _, state)| (*at, *state)).collect();
    let [.., (left, State::Init), (back, State::Backup)] = states[..] else {
        panic!("{states:?}");
    };
    // It tries for the first time when the link is there; then the daemon tries once a second.
    assert!(left < START + ms(12_010) && back > START + s(20) && back < START + ms(21_010));
    assert_eq!(outcome.masters(), [1]);
}
