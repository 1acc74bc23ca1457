//! Mutants behind switches: all of them are compiled at once, and a run turns on one of them by its number.

use std::collections::BTreeMap;
use std::ops::Range;

use super::list::Mutant;

/// The variable that turns a mutant on, by its number.
pub const SWITCH: &str = "CARP_MUTANT";

/// What each of the changed places asks. It becomes part of the copy of carp-common, which has no `std` otherwise.
pub const FUNCTION: &str = r#"
extern crate std as std_of_mutants;

/// Whether this mutant is on.
#[inline]
pub fn mutant(number: usize) -> bool {
    static ON: std_of_mutants::sync::OnceLock<Option<usize>> = std_of_mutants::sync::OnceLock::new();
    let on = ON.get_or_init(|| std_of_mutants::env::var("CARP_MUTANT").ok()?.parse().ok());
    *on == Some(number)
}
"#;

/// Makes the function known in the daemon, where the changed places look for it in their own crate.
pub const USE: &str = "\npub use carp_common::mutant;\n";

/// A mutant with its number.
pub type Numbered = (usize, &'static Mutant);

/// Returns the mutants of each file.
pub fn by_file(mutants: &[Numbered]) -> BTreeMap<&'static str, Vec<Numbered>> {
    let mut files: BTreeMap<&str, Vec<Numbered>> = BTreeMap::new();
    for (number, mutant) in mutants {
        files
            .entry(mutant.file)
            .or_default()
            .push((*number, mutant));
    }
    files
}

/// The part of the source that the mutant replaces.
fn place(source: &str, mutant: &Mutant) -> Range<usize> {
    let Mutant { name, find, .. } = mutant;
    let (before, part) = match find.split_once('«') {
        Some((before, rest)) => (before, rest.split_once('»').expect("an end of the part").0),
        None => ("", *find),
    };
    let text = find.replace(['«', '»'], "");
    let mut places = source.match_indices(&text);
    let (Some((start, _)), None) = (places.next(), places.next()) else {
        let count = source.matches(&text).count();
        panic!("«{name}»: the file has this {count} times:\n{text}");
    };
    let start = start + before.len();
    start..start + part.len()
}

/// Puts mutants of one file behind switches. Several may replace the same part, or one a part of what another one replaces.
pub fn with_switches(source: &str, mutants: &[Numbered]) -> String {
    let mut places: Vec<(Range<usize>, Numbered)> = mutants
        .iter()
        .map(|(number, mutant)| (place(source, mutant), (*number, *mutant)))
        .collect();
    // What contains others comes before them.
    places.sort_by_key(|(range, (number, _))| (range.start, usize::MAX - range.end, *number));
    let mut groups: Vec<Vec<(Range<usize>, Numbered)>> = Vec::new();
    for (range, mutant) in places {
        match groups.last_mut() {
            Some(group) if range.start < group[0].0.end => {
                let outer = &group[0].0;
                assert!(
                    range.end <= outer.end,
                    "«{}» overlaps with «{}»",
                    mutant.1.name,
                    group[0].1.1.name
                );
                group.push((range, mutant));
            }
            Some(_) | None => groups.push(vec![(range, mutant)]),
        }
    }
    let (mut switched, mut done) = (String::new(), 0);
    for group in groups {
        let outer = group[0].0.clone();
        let text = &source[outer.clone()];
        check_part(text, group[0].1.1.name);
        let mut changed = String::new();
        for (range, (number, mutant)) in &group {
            check_balance(mutant.replace, mutant.name);
            let before = &source[outer.start..range.start];
            let after = &source[range.end..outer.end];
            let broken = [before, mutant.replace, after].concat();
            changed += &format!("if crate::mutant({number}) {{ {broken} }} else ");
        }
        changed += &format!("{{ {text} }}");
        switched += &source[done..outer.start];
        switched += &match text.trim_end().ends_with([';', '}']) {
            true => changed,
            false => format!("({changed})"),
        };
        done = outer.end;
    }
    switched + &source[done..]
}

/// Only an expression or whole statements can be put behind a switch, and no declaration: later statements use its name.
fn check_part(text: &str, name: &str) {
    check_balance(text, name);
    let mut depth = 0;
    for (index, character) in text.char_indices() {
        depth += nesting(character);
        let declares = ["let ", "const ", "=> "];
        let declares = depth == 0 && declares.iter().any(|word| text[index..].starts_with(word));
        assert!(!declares, "«{name}»: no expression or statement:\n{text}");
    }
}

fn check_balance(text: &str, name: &str) {
    let depths = text.chars().scan(0, |depth, character| {
        *depth += nesting(character);
        Some(*depth)
    });
    let depths: Vec<i32> = depths.collect();
    let is_whole =
        depths.iter().all(|depth| *depth >= 0) && depths.last().is_none_or(|depth| *depth == 0);
    assert!(is_whole, "«{name}»: no whole expression:\n{text}");
}

const fn nesting(character: char) -> i32 {
    match character {
        '(' | '[' | '{' => 1,
        ')' | ']' | '}' => -1,
        _ => 0,
    }
}
