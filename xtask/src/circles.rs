//! Files that use each other in a circle. To understand one of them, a reader has to understand them all.
//!
//! Read are the paths that a file writes: its `use` items, and what begins with `crate::` or `super::` elsewhere. A file may
//! always use what a module above it declares, since a module's parts are the parts of one thing. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};

/// A module: the names from the top of its crate.
type Module = Vec<String>;

/// Which modules each module uses.
type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// Returns circles among the files of one crate, each with its modules in the order of their use, and none that goes through
/// all modules of a shorter one. `files` are names from the top of the crate's sources, such as `io/clock.rs`, with their
/// text.
pub fn circles(files: &[(String, String)]) -> Vec<String> {
    let modules: BTreeMap<Module, &str> = files
        .iter()
        .map(|(name, text)| (module(name), text.as_str()))
        .filter(|(module, _)| !module.iter().any(|name| name == "tests"))
        .collect();
    let uses: Uses = modules
        .iter()
        .map(|(module, text)| (module.clone(), used(module, text, &modules)))
        .collect();
    let mut found = Vec::new();
    let mut done = BTreeSet::new();
    for module in uses.keys() {
        walk(module, &uses, &mut Vec::new(), &mut done, &mut found);
    }
    found.sort_by_key(Vec::len);
    let mut shortest: Vec<Vec<Module>> = Vec::new();
    for circle in found {
        let covers = |other: &Vec<Module>| other.iter().all(|module| circle.contains(module));
        if !shortest.iter().any(covers) {
            shortest.push(circle);
        }
    }
    let shown = |circle: Vec<Module>| {
        let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
        names.join(" -> ")
    };
    shortest.into_iter().map(shown).collect()
}

fn module(name: &str) -> Module {
    let name = name.trim_end_matches(".rs");
    let mut module: Module = name.split('/').map(String::from).collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// The modules that a file uses, apart from itself and those above it.
fn used(module: &Module, text: &str, modules: &BTreeMap<Module, &str>) -> BTreeSet<Module> {
    let text = code(text);
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let is_item = text[..at].ends_with(|before: char| before.is_whitespace() || before == ' ');
        if (at == 0 || is_item)
            && let Some((tree, _)) = text[at + 4..].split_once(';')
        {
            let tree = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            flatten("", &tree, &mut paths);
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let end = text[at..].find(|c| !path(c)).unwrap_or(text.len() - at);
            paths.push(text[at..at + end].to_owned());
        }
    }
    let named = paths
        .iter()
        .filter_map(|path| resolve(module, path, modules));
    named.filter(|other| !module.starts_with(other)).collect()
}

/// Returns the text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Splits `a::{b, c::{d, e}}` into its paths.
fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((before, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        paths.push(format!("{prefix}{}", path.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", before.trim());
    let (mut depth, mut start) = (0_u32, 0);
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                flatten(&prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that a path leads to, if it is one of this crate.
fn resolve(from: &Module, path: &str, modules: &BTreeMap<Module, &str>) -> Option<Module> {
    let mut names: Vec<&str> = path.split("::").map(str::trim).collect();
    let mut base = from.clone();
    match names[0] {
        "crate" => {
            base.clear();
            names.remove(0);
        }
        "self" => {
            names.remove(0);
        }
        "super" => {
            while names.first() == Some(&"super") {
                base.pop();
                names.remove(0);
            }
        }
        first => {
            let child = base.iter().cloned().chain([first.to_owned()]).collect();
            if !modules.contains_key::<Module>(&child) {
                return None;
            }
        }
    }
    base.extend(names.into_iter().map(String::from));
    while !modules.contains_key(&base) {
        base.pop()?;
    }
    Some(base)
}

/// Follows what a module uses, and notes where that leads back to a module on the way.
fn walk(
    module: &Module,
    uses: &Uses,
    way: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
    found: &mut Vec<Vec<Module>>,
) {
    if let Some(at) = way.iter().position(|before| before == module) {
        found.push(way[at..].iter().chain([module]).cloned().collect());
        return;
    }
    if done.contains(module) {
        return;
    }
    way.push(module.clone());
    for next in &uses[module] {
        walk(next, uses, way, done, found);
    }
    way.pop();
    done.insert(module.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(files: &[(&str, &str)]) -> Vec<String> {
        let owned = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        circles(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_is_found_however_the_paths_are_written() {
        for (there, back) in [
            ("use crate::b::B;", "use crate::a::A;"),
            ("use super::b;", "fn f() { super::a::g() }"),
            (
                "use std::io;\nuse super::{\n    b::{B, C},\n};",
                "use crate::{a as other};",
            ),
            ("pub(super) use crate::{c, b::B};", "pub use super::a::A;"),
        ] {
            let found = among(&[("a.rs", there), ("b.rs", back), ("c.rs", "")]);
            assert_eq!(found, ["a -> b -> a"], "{there} {back}");
        }
        let three = [
            ("a/mod.rs", "use crate::b::c::C;"),
            ("b.rs", ""),
            ("b/c.rs", "use crate::d;"),
            ("d.rs", "use crate::a::A;"),
        ];
        assert_eq!(among(&three), ["a -> b::c -> d -> a"]);
    }

    #[test]
    fn files_in_no_circle_are_left_alone() {
        for files in [
            // A module and its parts.
            [
                ("a.rs", "use part::B;\nmod part;"),
                ("a/part.rs", "use super::A;"),
            ],
            // Two parts that share what their module declares.
            [("a/b.rs", "use super::c::C;"), ("a/c.rs", "use super::A;")],
            // Tests and comments.
            [
                ("a.rs", "use crate::b::B;"),
                (
                    "b.rs",
                    "// use crate::a::A;\n#[cfg(test)]\nmod tests {\nuse crate::a::A;\n}",
                ),
            ],
            [
                ("a.rs", "use crate::b::B;"),
                ("b/tests.rs", "use crate::a;"),
            ],
            // Another crate with the name of a module.
            [("a.rs", "use b::C;"), ("b.rs", "use crate::a;")],
        ] {
            assert_eq!(among(&files), Vec::<String>::new(), "{files:?}");
        }
    }
}
