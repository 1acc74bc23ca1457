//! Runs every input of the corpus, on any toolchain and without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use carp_fuzz::TARGETS;

/// Lists a directory of the package.
fn list(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

fn names(directory: &str) -> BTreeSet<String> {
    let stem = |path: PathBuf| {
        path.file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    };
    list(directory).into_iter().map(stem).collect()
}

#[test]
fn no_input_of_the_corpus_makes_its_target_panic() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        for path in list(&format!("corpus/{name}")) {
            let input = fs::read(&path).expect("to read it");
            if catch_unwind(|| target(&input)).is_err() {
                failed.push(path);
            }
        }
    }
    assert_eq!(failed, Vec::<PathBuf>::new());
}

#[test]
fn every_target_has_an_executable_and_a_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    for name in targets {
        assert!(list(&format!("corpus/{name}")).len() >= 5, "{name}");
    }
}
