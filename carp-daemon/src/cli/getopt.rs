//! Where `getopt_long` would see values.
//!
//! clap knows the options but not where in `argv` a value stood, which is needed to overwrite a password there; and
//! it reads `-p=x` as the value `x` where getopt reads `=x`, which as a password would differ from the peers'.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, Command};

/// The option whose values are secret.
const SECRET: &str = "pass";

/// A command line as it is meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// The words, name first, so that clap reads them as getopt does.
    pub words: Vec<OsString>,
    /// Where secrets begin: index into `argv`, byte offset in that word. Each reaches to the end of its word.
    pub secrets: Vec<(usize, usize)>,
}

/// Walks over `argv`. `command` must have been built.
pub fn walk(command: &Command, argv: &[OsString]) -> Words {
    let mut words = Vec::with_capacity(argv.len() + 1);
    let mut secrets = Vec::new();
    let mut awaited: Option<&Arg> = None;
    let mut only_operands = false;
    for (index, word) in argv.iter().enumerate() {
        let bytes = word.as_bytes();
        if index == 0 || only_operands {
            words.push(word.clone());
        } else if let Some(option) = awaited.take() {
            if is_secret(option) {
                secrets.push((index, 0));
            }
            words.push(word.clone());
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            only_operands = long.is_empty();
            let name_length = long.iter().position(|&byte| byte == b'=');
            let option = find_long(command, &long[..name_length.unwrap_or(long.len())]);
            match (option.filter(|option| takes_value(option)), name_length) {
                (Some(option), Some(length)) if is_secret(option) => {
                    secrets.push((index, 2 + length + 1))
                }
                (option, None) => awaited = option,
                (_, Some(_)) => {}
            }
            words.push(word.clone());
        } else if let Some((option, offset)) = value_in_cluster(command, bytes) {
            let (cluster, value) = bytes.split_at(offset);
            if value.is_empty() {
                awaited = Some(option);
            } else if is_secret(option) {
                secrets.push((index, offset));
            }
            if value.starts_with(b"=") {
                words.extend([cluster, value].map(|part| OsStr::from_bytes(part).to_owned()));
            } else {
                words.push(word.clone());
            }
        } else {
            words.push(word.clone());
        }
    }
    Words { words, secrets }
}

/// In `-Pp1234` and the like: the option that takes a value, and where that value begins.
fn value_in_cluster<'a>(command: &'a Command, word: &[u8]) -> Option<(&'a Arg, usize)> {
    let letters = word.strip_prefix(b"-")?;
    for (position, &letter) in letters.iter().enumerate() {
        let option = command
            .get_arguments()
            .find(|option| option.get_short() == Some(char::from(letter)))?;
        if takes_value(option) {
            return Some((option, 1 + position + 1));
        }
    }
    None
}

/// The whole name, or an abbreviation that fits one option only.
fn find_long<'a>(command: &'a Command, name: &[u8]) -> Option<&'a Arg> {
    let names = |option: &'a Arg| {
        option
            .get_long()
            .into_iter()
            .chain(option.get_all_aliases().unwrap_or_default())
            .map(str::as_bytes)
    };
    if let Some(option) = command
        .get_arguments()
        .find(|option| names(option).any(|known| known == name))
    {
        return Some(option);
    }
    let mut fitting = command
        .get_arguments()
        .filter(|option| names(option).any(|known| known.starts_with(name)));
    fitting.next().filter(|_| fitting.next().is_none())
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

fn is_secret(option: &Arg) -> bool {
    option.get_id() == SECRET
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn walked(line: &[&str]) -> (Vec<String>, Vec<(usize, usize)>) {
        let mut command = super::super::Arguments::command();
        command.build();
        let argv: Vec<OsString> = line.iter().map(OsString::from).collect();
        let Words { words, secrets } = walk(&command, &argv);
        (
            words
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect(),
            secrets,
        )
    }

    #[test]
    fn every_spelling_of_a_password_is_found() {
        type Case = (&'static [&'static str], &'static [(usize, usize)]);
        let table: [Case; 12] = [
            (&["carpd", "-p", "s"], &[(2, 0)]),
            (&["carpd", "-ps"], &[(1, 2)]),
            (&["carpd", "-PBp", "s"], &[(2, 0)]),
            (&["carpd", "-PBps"], &[(1, 4)]),
            (&["carpd", "--pass", "s"], &[(2, 0)]),
            (&["carpd", "--pass=s"], &[(1, 7)]),
            (&["carpd", "--pass="], &[(1, 7)]),
            (
                &["carpd", "-p", "s", "-v1", "--pass", "t"],
                &[(2, 0), (5, 0)],
            ),
            (&["carpd", "-p", "-p", "-x", "-p"], &[(2, 0)]),
            (&["carpd", "-xps", "--passfile", "-ps", "--xp", "-ps"], &[]),
            (&["carpd", "--", "-p", "s"], &[]),
            (&["carpd", "-p"], &[]),
        ];
        for (line, expected) in table {
            assert_eq!(walked(line).1, expected, "{line:?}");
        }
    }

    #[test]
    fn equals_sign_after_a_short_option_belongs_to_the_value() {
        assert_eq!(
            walked(&["carpd", "-p=s", "-x", "-p=s"]).0,
            ["carpd", "-p", "=s", "-x", "-p=s"]
        );
        assert_eq!(walked(&["carpd", "-Pp=s"]).0, ["carpd", "-Pp", "=s"]);
        assert_eq!(walked(&["carpd", "-Pp=s"]).1, [(1, 3)]);
    }
}
