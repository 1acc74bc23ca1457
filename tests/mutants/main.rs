//! Checks that the simulation can fail. A copy of the sources is broken on purpose, in one place at a time, and the
//! tests that a mutant names must notice.
//!
//! `cargo xtask mutants` runs all mutants, which takes minutes, and with CARP_MUTANTS=TEXT only those with that text in
//! their names or at the end of their file's name. The test that is not ignored only checks that each mutant still has
//! its place in the sources.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "compiles for minutes, and shows how it gets on"
)]

mod list;
mod workshop;

use list::{Mutant, mutants};
use workshop::{TestOutcome, Workshop, top};

#[test]
fn every_mutant_has_its_place_in_the_sources() {
    for Mutant {
        name, file, find, ..
    } in mutants()
    {
        let source = std::fs::read_to_string(top().join(file)).unwrap();
        let count = source.matches(find).count();
        assert_eq!(count, 1, "«{name}»: {file} has this {count} times:\n{find}");
    }
}

#[test]
#[ignore = "compiles the core and the simulation once per mutant, minutes: cargo xtask mutants"]
fn every_mutant_is_caught_by_each_test_that_it_names() {
    let workshop = Workshop::new();
    let wanted = std::env::var("CARP_MUTANTS").unwrap_or_default();
    let mutants: Vec<_> = mutants()
        .filter(|mutant| mutant.name.contains(&wanted) || mutant.file.ends_with(&wanted))
        .collect();
    assert!(!mutants.is_empty(), "no mutant is called {wanted}");
    let mut named: Vec<_> = mutants
        .iter()
        .flat_map(|mutant| mutant.caught_by)
        .copied()
        .collect();
    named.sort_unstable();
    named.dedup();
    for test in named {
        assert_eq!(
            workshop.run(test),
            TestOutcome::Passed,
            "{test}, with nothing broken"
        );
    }
    let mut escaped = Vec::new();
    for mutant in mutants {
        workshop.break_it(mutant);
        for test in mutant.caught_by {
            let outcome = workshop.run(test);
            println!("{outcome:?}: {} -> {test}", mutant.name);
            if outcome != TestOutcome::Caught {
                escaped.push(format!("«{}», {test}: {outcome:?}", mutant.name));
            }
        }
        workshop.mend(mutant);
    }
    assert!(escaped.is_empty(), "not caught:\n{}", escaped.join("\n"));
}
