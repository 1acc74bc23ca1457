//! Checks that the simulation can fail. A copy of the sources is broken on purpose, in one place at a time, and the
//! tests that a mutant names must notice.
//!
//! `cargo xtask mutants` runs all mutants, which takes minutes, and with CARP_MUTANTS=TEXT only those with that text in
//! their names or at the end of their file's name. The tests that are not ignored check that each mutant still has its
//! place in the sources. Mutants of the core are compiled one by one, because they change constants and tables as well.
//! Those of the daemon's engine are compiled all at once (`switches`).

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "compiles for minutes, and shows how it gets on"
)]

mod list;
mod switches;
mod workshop;

use std::sync::{Mutex, PoisonError};

use list::{Mutant, daemon, mutants};
use switches::{Numbered, Switched, by_file, with_switches};
use workshop::{TestOutcome, Workshop, read, top};

/// Held while a test changes the copy, of which there is only one.
static COPY: Mutex<()> = Mutex::new(());

/// Returns those of these mutants that CARP_MUTANTS selects.
fn wanted(all: impl Iterator<Item = &'static Mutant>) -> Vec<&'static Mutant> {
    let wanted = std::env::var("CARP_MUTANTS").unwrap_or_default();
    all.filter(|mutant| mutant.name.contains(&wanted) || mutant.file.ends_with(&wanted))
        .collect()
}

/// Returns the names of the tests that must notice them.
fn named(mutants: &[&'static Mutant]) -> Vec<&'static str> {
    let mut named: Vec<_> = mutants
        .iter()
        .flat_map(|mutant| mutant.caught_by)
        .copied()
        .collect();
    named.sort_unstable();
    named.dedup();
    named
}

#[test]
fn every_mutant_has_its_place_in_the_sources() {
    for Mutant {
        name, file, find, ..
    } in mutants().chain(daemon::MUTANTS)
    {
        let source = read(&top().join(file));
        let count = source.matches(find).count();
        assert_eq!(count, 1, "«{name}»: {file} has this {count} times:\n{find}");
    }
}

#[test]
fn the_mutants_of_the_daemon_can_be_compiled_together() {
    let numbered: Vec<Numbered> = daemon::MUTANTS.iter().enumerate().collect();
    for (file, mutants) in by_file(&numbered) {
        with_switches(&read(&top().join(file)), &mutants);
    }
}

#[test]
#[ignore = "compiles the core and the simulation once per mutant, minutes: cargo xtask mutants"]
fn every_mutant_is_caught_by_each_test_that_it_names() {
    let mutants = wanted(mutants());
    if mutants.is_empty() {
        return;
    }
    let _one_at_a_time = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let workshop = Workshop::new();
    for test in named(&mutants) {
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

#[test]
#[ignore = "compiles the daemon, a minute: cargo xtask mutants"]
fn every_mutant_of_the_daemon_is_caught_by_each_test_that_it_names() {
    let mutants = wanted(daemon::MUTANTS.iter());
    if mutants.is_empty() {
        return;
    }
    let _one_at_a_time = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let numbered: Vec<Numbered> = mutants.iter().copied().enumerate().collect();
    let switched = Switched::build(&Workshop::new(), &numbered);
    let verdict = switched.run(&named(&mutants), None);
    assert_eq!(verdict, TestOutcome::Passed, "with nothing broken");
    let mut escaped = Vec::new();
    for (number, mutant) in numbered {
        for test in mutant.caught_by {
            let verdict = switched.run(&[test], Some(number));
            println!("{verdict:?}: {} -> {test}", mutant.name);
            if verdict != TestOutcome::Caught {
                escaped.push(format!("«{}», {test}: {verdict:?}", mutant.name));
            }
        }
    }
    assert!(escaped.is_empty(), "not caught:\n{}", escaped.join("\n"));
}

#[test]
fn a_filter_that_fits_no_mutant_is_a_mistake() {
    let all = wanted(mutants().chain(daemon::MUTANTS));
    assert!(!all.is_empty(), "no mutant has CARP_MUTANTS in its name");
}

#[test]
fn switches_replace_expressions_and_statements() {
    const fn mutant(find: &'static str, replace: &'static str) -> Mutant {
        Mutant {
            name: "",
            file: "",
            find,
            replace,
            caught_by: &[],
        }
    }
    static EXPRESSION: Mutant = mutant("a < b", "true");
    static OTHER: Mutant = mutant("a < b", "false");
    static STATEMENT: Mutant = mutant("act();", "");
    let mutants = [(7, &STATEMENT), (1, &EXPRESSION), (2, &OTHER)];
    assert_eq!(
        with_switches("if a < b { act(); }", &mutants),
        "if (if crate::mutant(1) { true } else if crate::mutant(2) { false } else { a < b }) \
         { if crate::mutant(7) {  } else { act(); } }"
    );
}
