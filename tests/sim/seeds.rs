//! Some thousand seeds.

use std::collections::BTreeMap;
use std::thread;

use carp_tests::sim::check_seed;

/// Enough for every fault to meet every theme many times.
const SEEDS: u64 = 2_000;

/// Returns how often each thing happened in every `step`-th seed from `first` on.
fn tally(first: u64, step: usize) -> BTreeMap<String, u64> {
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    for seed in (first..SEEDS).step_by(step) {
        let outcome = check_seed(seed).unwrap_or_else(|report| panic!("{report}"));
        for (what, count) in outcome.tally {
            *tally.entry(what).or_default() += count;
        }
    }
    tally
}

/// Each of these seeds found a fault: the first five in the engine, most of the others in the core.
#[test]
fn seeds_that_found_a_fault_hold() {
    for seed in [
        8, 118, 911, 1_913, 80_888, 9_168, 15_957, 34_060, 38_298, 47_401, 83_328, 97_707, 99_603,
        116_092, 117_201, 125_366, 140_757, 142_131, 146_951, 152_471, 167_373, 167_565, 181_549,
        198_818, 199_048,
    ] {
        check_seed(seed).unwrap_or_else(|report| panic!("{report}"));
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .zip(0..)
            .map(|(_, first)| scope.spawn(move || self::tally(first, threads)))
            .collect();
        for part in parts {
            let part = part.join().expect("its panic says which seed");
            for (what, count) in part {
                *tally.entry(what).or_default() += count;
            }
        }
    });
    // An event that never happens is not tested.
    for fault in [
        "Crash",
        "Stop",
        "Start",
        "Hang",
        "Resume",
        "LinkDown",
        "LinkUp",
        "SourceLost",
        "SourceBack",
        "SendErrors",
        "SendsAgain",
        "Demote",
        "StepDown",
        "Cut",
        "Partition",
        "Heal",
        "Loss",
        "Inject",
        "Overtake",
        "Repeat",
        "Rising",
        "Past",
        "OrdersFail",
        "OrdersSlow",
        "ListsFail",
        "LocksTaken",
        "ChangesRefused",
        "RemovalsRefused",
        "Lend",
    ] {
        assert!(
            tally.contains_key(fault),
            "no seed has a {fault}: {tally:?}"
        );
    }
    // Most runs check the end, and many check which host follows a master that leaves.
    for (what, least) in [
        ("seeds that settled", SEEDS * 9 / 10),
        ("looked at a takeover from a worse master", SEEDS / 2),
        ("looked at who follows a crash", SEEDS / 10),
        ("looked at who follows a stop", SEEDS / 10),
        ("lost packets while hung", SEEDS / 100),
    ] {
        assert!(tally[what] > least, "{what}: {tally:?}");
    }
}
