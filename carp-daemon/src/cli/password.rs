//! Handles passwords on the command line with as few traces as possible.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use zeroize::{Zeroize, Zeroizing};

use super::getopt::SecretPosition;

/// A password, wiped when it is dropped.
pub type Password = Zeroizing<Vec<u8>>;

/// Returns the words after passwords that are words of their own. They may be the rest of a password whose quotes
/// were forgotten.
pub fn followers(argv: &[OsString], secrets: &[SecretPosition]) -> Vec<Password> {
    let alone = secrets.iter().filter(|secret| secret.offset == 0);
    alone
        .filter_map(|secret| argv.get(secret.word + 1))
        .map(|word| Zeroizing::new(word.as_bytes().to_vec()))
        .collect()
}

/// Returns whether clap's message would show a word that may be part of a password: one that is not an option, or one
/// that follows a password.
pub fn may_be_shown_by(
    error: &clap::Error,
    secrets: &[SecretPosition],
    followers: &[Password],
) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => {
            let is_operand = !word.starts_with('-') && error.kind() == ErrorKind::UnknownArgument;
            let follows = |it: &Password| !word.is_empty() && it.starts_with(word.as_bytes());
            !secrets.is_empty() && (is_operand || followers.iter().any(follows))
        }
        Some(_) | None => false,
    }
}

/// Overwrites the secrets in the memory that `ps` and `/proc/PID/cmdline` show, each up to the end of its word.
///
/// The process writes to itself through `/proc/self/mem`, at the address that `/proc/self/stat` reports.
pub fn hide(argv: &[OsString], secrets: &[SecretPosition]) -> io::Result<()> {
    if secrets.is_empty() {
        return Ok(());
    }
    let start = argument_start(&fs::read_to_string("/proc/self/stat")?)
        .ok_or_else(|| io::Error::other("/proc/self/stat does not say where the arguments are"))?;
    let mut expected = Zeroizing::new(Vec::new());
    let mut starts = Vec::with_capacity(argv.len());
    for word in argv {
        starts.push(expected.len());
        expected.extend_from_slice(word.as_bytes());
        expected.push(0);
    }
    let memory = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let mut found = Zeroizing::new(vec![0; expected.len()]);
    memory.read_exact_at(&mut found, start)?;
    if found != expected {
        return Err(io::Error::other(
            "the arguments are not where /proc/self/stat says",
        ));
    }
    for &SecretPosition { word, offset } in secrets {
        let length = argv[word].len() - offset;
        let place = u64::try_from(starts[word] + offset).map_err(io::Error::other)?;
        memory.write_all_at(&vec![b'x'; length], start + place)?;
    }
    Ok(())
}

/// Returns field 48 of `/proc/PID/stat` (proc(5)). The second field, in parentheses, may contain spaces.
fn argument_start(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name
        .split_ascii_whitespace()
        .nth(48 - 3)?
        .parse()
        .ok()
        .filter(|&start| start != 0)
}

/// Returns the secrets and wipes the words, which contain copies of them.
pub fn extract(argv: Vec<OsString>, secrets: &[SecretPosition]) -> Vec<Password> {
    let passwords = secrets
        .iter()
        .map(|secret| Zeroizing::new(argv[secret.word].as_bytes()[secret.offset..].to_vec()))
        .collect();
    for word in argv {
        word.into_vec().zeroize();
    }
    passwords
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_behind_any_process_name() {
        let fields: Vec<String> = (3..=52).map(|field| (field * 10).to_string()).collect();
        assert_eq!(
            argument_start(&format!("1 (a) b (c) {}", fields.join(" "))),
            Some(480)
        );
        assert_eq!(argument_start("1 (a) S 0"), None);
    }
}
