//! Types with many methods. A type that knows everything cannot be tested alone.
//!
//! Functions in `impl` blocks of the type itself, in all files of the crate, count; those of traits do not. The
//! layout of the code is rustfmt's, so a block begins with `impl` at the start of a line and its functions are indented by
//! four.

use std::collections::BTreeMap;

/// More are too many.
pub const MAX_METHODS: usize = 22;

/// Returns the types of one crate with too many methods, and how many they have. `files` are names with their text.
pub fn crowded(files: &[(String, String)]) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (name, text) in files {
        if name.contains("tests") {
            continue;
        }
        let mut owner = None;
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        for line in code.unwrap_or_default().lines() {
            if line.starts_with("impl") {
                owner = owner_of(line);
            } else if line.starts_with('}') {
                owner = None;
            } else if let Some(owner) = &owner
                && is_function(line)
            {
                *counts.entry(owner.clone()).or_default() += 1;
            }
        }
    }
    counts.retain(|_, count| *count > MAX_METHODS);
    counts.into_iter().collect()
}

/// The type of `impl<T> Type<T> {`; none for a trait's block.
fn owner_of(line: &str) -> Option<String> {
    let rest = line.strip_prefix("impl")?;
    if rest.contains(" for ") {
        return None;
    }
    let mut depth = 0_u32;
    let mut rest = rest.trim_start();
    if rest.starts_with('<') {
        let end = rest.char_indices().find(|(_, letter)| {
            match letter {
                '<' => depth += 1,
                '>' => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        rest = &rest[end.0 + 1..];
    }
    let name = rest.trim_start().split(['<', ' ', '{']).next()?;
    Some(name.to_owned())
}

fn is_function(line: &str) -> bool {
    let Some(code) = line.strip_prefix("    ") else {
        return false;
    };
    let words: Vec<&str> = code.split(' ').take(5).collect();
    !code.starts_with([' ', '/', '#'])
        && words.contains(&"fn")
        && words[0].starts_with(|first: char| first.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_counted_over_all_files_of_a_crate() {
        let part = format!(
            "impl<T: Into<u8>> Big<T> {{\n{}}}\n",
            "    pub(super) const fn f(&self) {\n        let fn_like = 1;\n    }\n"
                .repeat(MAX_METHODS / 2)
        );
        let more = "impl Big<u8> {\n    // fn no()\n    fn one_more() {}\n}\nimpl Small {\n    fn f() {}\n}\n";
        let of_traits = "impl Clone for Big {\n    fn clone() {}\n}\n#[cfg(test)]\n\
            mod tests {\nimpl Big<u8> {\n    fn f() {}\n}\n}\n";
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let mut files = vec![
            file("a.rs", &part),
            file("b.rs", &part),
            file("c.rs", of_traits),
        ];
        assert_eq!(crowded(&files), []);
        files.push(file("tests/d.rs", more));
        assert_eq!(crowded(&files), []);
        files.push(file("e.rs", more));
        assert_eq!(crowded(&files), [("Big".to_owned(), MAX_METHODS + 1)]);
    }
}
