//! Whether the simulation can fail: the sources are broken on purpose, in a copy, one place at a time, and the tests that
//! are named for it must notice.
//!
//! `cargo xtask mutants` runs it all, which takes minutes, and with CARP_MUTANTS=TEXT only those with that text in their
//! names or at the end of their file's; the test that is not ignored only looks whether each mutant
//! still has its place in the sources.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "compiles for minutes, and shows how it gets on"
)]

mod list;
mod workshop;

use list::{Mutant, mutants};
use workshop::{Verdict, Workshop, top};

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
            Verdict::Passed,
            "{test}, with nothing broken"
        );
    }
    let mut escaped = Vec::new();
    for mutant in mutants {
        workshop.break_it(mutant);
        for test in mutant.caught_by {
            let verdict = workshop.run(test);
            println!("{verdict:?}: {} -> {test}", mutant.name);
            if verdict != Verdict::Caught {
                escaped.push(format!("«{}», {test}: {verdict:?}", mutant.name));
            }
        }
        workshop.mend(mutant);
    }
    assert!(escaped.is_empty(), "not caught:\n{}", escaped.join("\n"));
}
