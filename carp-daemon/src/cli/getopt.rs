//! Finds the values in `argv` as `getopt_long` would.
//!
//! clap knows the options but cannot tell where in `argv` a value was, which is needed to overwrite a password there.
//! It also keeps copies of what it reads and quotes them in errors. And it reads `-p=x` as the value `x`, while
//! getopt reads `=x`, which would make a password differ from that of the peers. clap therefore never gets a
//! password, only its number.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, Command};

/// The id of the option whose values are secret.
const SECRET: &str = "pass";

/// A command line, prepared for clap.
#[derive(Debug, PartialEq, Eq)]
pub struct SplitLine {
    /// The words, beginning with the program's name, so that clap reads them as getopt does. A secret is replaced by
    /// its index in `secrets`.
    pub words: Vec<OsString>,
    /// The positions of the secrets.
    pub secrets: Vec<SecretPosition>,
}

/// The position of a secret, which extends to the end of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretPosition {
    /// Index into `argv`.
    pub word: usize,
    /// Offset in that word. Unit: bytes.
    pub offset: usize,
}

/// Splits `argv` into words and secrets. `command` must have been built.
pub fn walk(command: &Command, argv: &[OsString]) -> SplitLine {
    let mut words = Vec::with_capacity(argv.len() + 1);
    let mut secrets = Vec::new();
    let mut awaited: Option<&Arg> = None;
    let mut only_operands = false;
    for (index, word) in argv.iter().enumerate() {
        let bytes = word.as_bytes();
        let meaning = if index == 0 || only_operands {
            Meaning::Complete
        } else if let Some(option) = awaited.take() {
            Meaning::Carries(option, 0)
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            only_operands = long.is_empty();
            meaning_of_long(command, long)
        } else if let Some(letters) = bytes.strip_prefix(b"-") {
            meaning_of_cluster(command, letters)
        } else {
            Meaning::Complete
        };
        match meaning {
            Meaning::Complete => words.push(word.clone()),
            Meaning::Awaits(option) => {
                awaited = Some(option);
                words.push(word.clone());
            }
            Meaning::Carries(option, offset) => {
                let (before, value) = bytes.split_at(offset);
                let mut before = OsStr::from_bytes(before).to_owned();
                let value = if option.get_id() == SECRET {
                    secrets.push(SecretPosition {
                        word: index,
                        offset,
                    });
                    OsString::from((secrets.len() - 1).to_string())
                } else {
                    OsStr::from_bytes(value).to_owned()
                };
                if before.as_bytes().starts_with(b"--") {
                    before.push(value);
                    words.push(before);
                } else {
                    // A value in a word of its own keeps a leading `=`, which clap would remove otherwise.
                    words.extend(Some(before).filter(|before| !before.is_empty()));
                    words.push(value);
                }
            }
        }
    }
    SplitLine { words, secrets }
}

/// The meaning of a word with regard to values.
enum Meaning<'a> {
    /// The word has no value and awaits none.
    Complete,
    /// The next word is the value of this option.
    Awaits(&'a Arg),
    /// The value of this option begins at this offset.
    Carries(&'a Arg, usize),
}

/// Returns the meaning of `--long`, given without its dashes.
fn meaning_of_long<'a>(command: &'a Command, long: &[u8]) -> Meaning<'a> {
    let length = long.iter().position(|&byte| byte == b'=');
    let option = find_long(command, &long[..length.unwrap_or(long.len())]);
    match (option.filter(|option| takes_value(option)), length) {
        (Some(option), Some(length)) => Meaning::Carries(option, b"--".len() + length + b"=".len()),
        (Some(option), None) => Meaning::Awaits(option),
        (None, _) => Meaning::Complete,
    }
}

/// Returns the meaning of a cluster such as `-Pp1234`, given without its dash.
fn meaning_of_cluster<'a>(command: &'a Command, letters: &[u8]) -> Meaning<'a> {
    for (position, &letter) in letters.iter().enumerate() {
        let mut options = command.get_arguments();
        match options.find(|option| option.get_short() == Some(char::from(letter))) {
            Some(option) if takes_value(option) && position + 1 == letters.len() => {
                return Meaning::Awaits(option);
            }
            Some(option) if takes_value(option) => {
                return Meaning::Carries(option, b"-".len() + position + 1);
            }
            Some(_) => {}
            None => return Meaning::Complete, // clap has the words for it
        }
    }
    Meaning::Complete
}

/// Returns the option with this name, or the only one that the abbreviation fits.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn walked(line: &[&str]) -> (Vec<String>, Vec<(usize, usize)>) {
        let mut command = super::super::arguments::Arguments::command();
        command.build();
        let argv: Vec<OsString> = line.iter().map(OsString::from).collect();
        let SplitLine { words, secrets } = walk(&command, &argv);
        let words = words
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        (
            words,
            secrets
                .into_iter()
                .map(|secret| (secret.word, secret.offset))
                .collect(),
        )
    }

    #[test]
    fn every_spelling_of_a_password_is_found_and_kept_from_clap() {
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [(usize, usize)],
        );
        let table: [Case; 12] = [
            (&["-p", "s"], &["-p", "0"], &[(2, 0)]),
            (&["-ps"], &["-p", "0"], &[(1, 2)]),
            (&["-p=s"], &["-p", "0"], &[(1, 2)]),
            (&["-PBp", "s"], &["-PBp", "0"], &[(2, 0)]),
            (&["-PBps"], &["-PBp", "0"], &[(1, 4)]),
            (&["--pass", "s"], &["--pass", "0"], &[(2, 0)]),
            (&["--pass=s"], &["--pass=0"], &[(1, 7)]),
            (&["--pass="], &["--pass=0"], &[(1, 7)]),
            (
                &["-p", "s", "-v1", "--pass", "t"],
                &["-p", "0", "-v", "1", "--pass", "1"],
                &[(2, 0), (5, 0)],
            ),
            (
                &["-p", "-p", "-x", "-p"],
                &["-p", "0", "-x", "-p"],
                &[(2, 0)],
            ),
            (&["--", "-p", "s"], &["--", "-p", "s"], &[]),
            (&["-p"], &["-p"], &[]),
        ];
        for (line, words, secrets) in table {
            let line: Vec<_> = std::iter::once("carpd")
                .chain(line.iter().copied())
                .collect();
            let (found, places) = walked(&line);
            assert_eq!(found[1..], *words, "{line:?}");
            assert_eq!(places, secrets, "{line:?}");
        }
    }

    #[test]
    fn values_that_look_like_options_are_values() {
        let line = ["carpd", "-xps", "--passfile", "-ps", "--xp", "-ps", "-x=1"];
        assert_eq!(
            walked(&line).0,
            [
                "carpd",
                "-x",
                "ps",
                "--passfile",
                "-ps",
                "--xp",
                "-ps",
                "-x",
                "=1"
            ]
        );
        assert_eq!(walked(&line).1, []);
    }

    #[test]
    fn unknown_options_are_left_to_clap() {
        let line = ["carpd", "-Qps", "--unknown=1", "word", "-", "-p", "s"];
        assert_eq!(
            walked(&line).0,
            ["carpd", "-Qps", "--unknown=1", "word", "-", "-p", "0"]
        );
    }
}
