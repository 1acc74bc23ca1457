//! How long a MASTER owns the addresses, and how long its process counts as alive.

use carp_tests::sim::scenario::{Fault, Scenario};

use super::{PROFILES, hosts, ms, run, s};

/// What the simulation counts when a host that took over met an owner who was to be silent by then.
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
    for leave in [
        Fault::Stop(0),
        Fault::StepDown(0, s(3)),
        Fault::Demote(0, 200),
    ] {
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
