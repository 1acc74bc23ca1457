//! Checks that the tests can fail. A copy of the sources is broken on purpose, in one place at a time, and the tests that a
//! mutant names must notice.
//!
//! `cargo xtask mutants` runs all mutants, which takes minutes, and with CARP_MUTANTS=TEXT only those with that text in
//! their names or at the end of their file's name. The tests that are not ignored check in a moment that each mutant still has
//! its place in the sources, and that the tests it names exist.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "runs programs for minutes, and shows how it gets on"
)]

mod list;
mod programs;
mod switches;
mod workshop;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;

use list::{Mutant, mutants};
use programs::{Programs, TestOutcome, Tested, tests_of};
use switches::{Numbered, by_file, with_switches};
use workshop::{Workshop, read, sources, syntax_errors, top};

/// Returns the mutants that CARP_MUTANTS selects.
fn wanted() -> Vec<Numbered> {
    let wanted = std::env::var("CARP_MUTANTS").unwrap_or_default();
    mutants()
        .filter(|mutant| mutant.name.contains(&wanted) || mutant.file.ends_with(&wanted))
        .enumerate()
        .collect()
}

/// Returns the tests that must notice them, each once.
fn named(mutants: &[Numbered]) -> BTreeMap<Tested, BTreeSet<&'static str>> {
    let mut named = BTreeMap::<_, BTreeSet<_>>::new();
    for (tested, test) in mutants.iter().flat_map(|(_, mutant)| tests_of(mutant)) {
        named.entry(tested).or_default().insert(test);
    }
    named
}

/// Runs each mutant with each test that it names, as many at a time as there are processors. Returns what was not caught.
fn escaped(programs: &Programs, mutants: &[Numbered]) -> Vec<String> {
    let runs = mutants.iter().flat_map(|(number, mutant)| {
        tests_of(mutant).map(move |(tested, test)| (*number, mutant.name, tested, test))
    });
    let (runs, escaped) = (Mutex::new(runs), Mutex::new(Vec::new()));
    let next = || runs.lock().expect("nothing panics with it").next();
    let work = || {
        while let Some((number, name, tested, test)) = next() {
            let outcome = programs.run(tested, &[test], Some(number));
            println!("{outcome:?}: {name} -> {test}");
            if outcome != TestOutcome::Caught {
                let escape = format!("«{name}», {test}: {outcome:?}");
                escaped.lock().expect("nothing panics with it").push(escape);
            }
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    escaped.into_inner().expect("nothing panics with it")
}

#[test]
fn every_mutant_has_its_place_in_the_sources_and_can_be_compiled_with_the_others() {
    let numbered: Vec<Numbered> = mutants().enumerate().collect();
    for (file, mutants) in by_file(&numbered) {
        let switched = with_switches(&read(&top().join(file)), &mutants);
        let errors = syntax_errors(&switched);
        assert!(errors.is_empty(), "{file}: {errors}");
    }
}

#[test]
fn every_test_that_a_mutant_names_exists() {
    let texts = Tested::ALL.map(|tested| (tested, sources(&top().join(tested.sources()))));
    let texts = BTreeMap::from(texts);
    for mutant in mutants() {
        assert!(!mutant.caught_by.is_empty(), "«{}»", mutant.name);
        for (tested, test) in tests_of(mutant) {
            let function = test.rsplit("::").next().unwrap_or(test);
            let exists = texts[&tested].contains(&format!("fn {function}("));
            assert!(exists, "«{}»: there is no {test}", mutant.name);
        }
    }
}

#[test]
#[ignore = "compiles the daemon and runs many tests, minutes: cargo xtask mutants"]
fn every_mutant_is_caught_by_each_test_that_it_names() {
    let mutants = wanted();
    let programs = Programs::build(&Workshop::new(), &mutants);
    for (tested, tests) in named(&mutants) {
        // A wrong name would run no test and pass.
        let known = programs.tests(tested);
        let tests: Vec<&str> = tests.into_iter().collect();
        for test in &tests {
            assert!(known.iter().any(|known| known == test), "no test {test}");
        }
        let outcome = programs.run(tested, &tests, None);
        assert_eq!(
            outcome,
            TestOutcome::Passed,
            "{tested:?} with nothing broken"
        );
    }
    let escaped = escaped(&programs, &mutants);
    assert!(escaped.is_empty(), "not caught:\n{}", escaped.join("\n"));
}

#[test]
fn a_filter_that_fits_no_mutant_is_a_mistake() {
    assert!(
        !wanted().is_empty(),
        "no mutant has CARP_MUTANTS in its name"
    );
}

/// A mutant of a source that is not a file.
const fn mutant(find: &'static str, replace: &'static str) -> Mutant {
    Mutant {
        name: "",
        file: "",
        find,
        replace,
        caught_by: &[],
    }
}

#[test]
fn switches_replace_expressions_and_statements() {
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

#[test]
fn a_switch_replaces_the_marked_part_alone() {
    static MARKED: Mutant = mutant("if «a» && b", "true");
    assert_eq!(
        with_switches("f(a); if a && b {}", &[(3, &MARKED)]),
        "f(a); if (if crate::mutant(3) { true } else { a }) && b {}"
    );
}

#[test]
fn one_mutant_may_replace_a_part_of_anothers() {
    static INNER: Mutant = mutant("b()", "c()");
    static OUTER: Mutant = mutant("a(b());", "");
    assert_eq!(
        with_switches("a(b());", &[(1, &INNER), (2, &OUTER)]),
        "if crate::mutant(2) {  } else if crate::mutant(1) { a(c()); } else { a(b()); }"
    );
}

#[test]
#[should_panic(expected = "overlaps")]
fn overlaps_are_seen_without_compiling() {
    static LEFT: Mutant = mutant("a + b", "a");
    static RIGHT: Mutant = mutant("b + c", "c");
    with_switches("a + b + c", &[(1, &LEFT), (2, &RIGHT)]);
}

#[test]
#[should_panic(expected = "no expression or statement")]
fn a_name_that_is_used_later_has_no_switch() {
    static DECLARES: Mutant = mutant("let a = b;", "let a = c;");
    with_switches("let a = b; use(a);", &[(1, &DECLARES)]);
}

#[test]
#[should_panic(expected = "no whole expression")]
fn half_a_block_has_no_switch() {
    static HALF: Mutant = mutant("if a {", "if b {");
    with_switches("if a { }", &[(1, &HALF)]);
}
