//! Several virtual hosts in one process: a file with the options of one in each line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use super::arguments::Arguments;
use super::{Error, getopt, virtual_host};
use crate::config::{VhostConfig, VirtualAddress};

/// Options that concern the whole process; every other one concerns a virtual host.
const OF_THE_PROCESS: [&str; 12] = [
    "vhosts",
    "wait_interface",
    "datapath",
    "fence",
    "lease",
    "realtime",
    "state_dir",
    "daemonize",
    "facility",
    "debug",
    "help",
    "version",
];

/// Reads the virtual hosts of a file. Lines that are empty or begin with `#` are skipped; words are split at blanks and
/// there is no quoting.
///
/// # Errors
/// A file that cannot be read, and what is wrong with the first line that is not right.
pub fn read(
    path: &Path,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<VhostConfig>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Vhosts {
        path: path.to_owned(),
        source,
    })?;
    let mut command = Arguments::command();
    command.build();
    let mut vhosts = Vec::new();
    let mut lines = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (line, words) in (1..).zip(text.lines()) {
        let words = words.trim();
        if words.is_empty() || words.starts_with('#') {
            continue;
        }
        let at = |reason| Error::VhostsLine {
            path: path.to_owned(),
            line,
            reason,
        };
        let vhost =
            one(&mut command, words, notes, warnings).map_err(|reason| at(Box::new(reason)))?;
        let identity = (vhost.interface.clone(), vhost.election.vhid.get());
        if let Some(before) = lines.insert(identity, line) {
            return Err(at(Box::new(Error::Misplaced(format!(
                "vhid {} on {} is in line {before} already: one of them needs another --vhid or --interface",
                vhost.election.vhid, vhost.interface
            )))));
        }
        for VirtualAddress { address, .. } in &vhost.addresses {
            if let Some(before) = addresses.insert(*address, line) {
                return Err(at(Box::new(Error::Misplaced(format!(
                    "the address {address} is in line {before} already: one of them needs another --addr"
                )))));
            }
        }
        vhosts.push(vhost);
    }
    if vhosts.is_empty() {
        return Err(Error::Missing {
            what: "a virtual host",
            options: "--vhosts",
            accepted: "a file with the options of one in each line",
        });
    }
    Ok(vhosts)
}

/// One line.
fn one(
    command: &mut Command,
    words: &str,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<VhostConfig, Error> {
    let argv: Vec<OsString> = std::iter::once("carpd")
        .chain(words.split_whitespace())
        .map(OsString::from)
        .collect();
    let getopt::Words { words, secrets } = getopt::walk(command, &argv);
    if !secrets.is_empty() {
        return Err(Error::Misplaced(
            "a password does not belong here (--pass, -p): give --passfile, -o".to_owned(),
        ));
    }
    let refused = |error: clap::Error| {
        match error.get(ContextKind::InvalidArg) {
        // Not repeated: it may be the password, when the file is the wrong one.
        Some(ContextValue::String(word)) if !word.starts_with('-') => Error::Misplaced(
            "a word that is neither an option nor belongs to one: a line holds the options of a virtual host, as in \
             -i eth0 -v 7 -o /etc/carpd.pass -a 10.0.0.7/24"
                .to_owned(),
        ),
        Some(_) | None => Error::Usage(Box::new(error)),
    }
    };
    let mut matches = command.try_get_matches_from_mut(words).map_err(refused)?;
    if let Some(option) = given(command, &matches).find(|option| of_the_process(option)) {
        return Err(Error::Misplaced(format!(
            "{} concerns the whole process: give it on the command line",
            spelled(command, option)
        )));
    }
    let mut arguments = Arguments::from_arg_matches_mut(&mut matches).map_err(refused)?;
    // What concerns several lines alike is said once.
    let (mut new_notes, mut new_warnings) = (Vec::new(), Vec::new());
    let vhost = virtual_host::describe(
        &mut arguments,
        Vec::new(),
        &mut new_notes,
        &mut new_warnings,
    )?;
    for (said, new) in [(notes, new_notes), (warnings, new_warnings)] {
        for line in new {
            if !said.contains(&line) {
                said.push(line);
            }
        }
    }
    Ok(vhost)
}

/// With `--vhosts`, options of one virtual host have no place on the command line.
///
/// # Errors
/// One that is there.
pub fn refuse_others(command: &Command, matches: &ArgMatches) -> Result<(), Error> {
    match given(command, matches).find(|option| !of_the_process(option)) {
        None => Ok(()),
        Some(option) => Err(Error::Misplaced(format!(
            "{} concerns one virtual host: with --vhosts it belongs in the lines of that file",
            spelled(command, option)
        ))),
    }
}

/// The ids of the options that are there.
pub fn given<'a>(command: &'a Command, matches: &'a ArgMatches) -> impl Iterator<Item = &'a str> {
    command
        .get_arguments()
        .map(|option| option.get_id().as_str())
        .filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
}

fn of_the_process(option: &str) -> bool {
    OF_THE_PROCESS.contains(&option)
}

/// The option as one would type it.
pub fn spelled(command: &Command, id: &str) -> String {
    let long = command
        .get_arguments()
        .find(|option| option.get_id() == id)
        .and_then(clap::Arg::get_long);
    format!("--{}", long.unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read_text(text: &str) -> (Result<Vec<VhostConfig>, Error>, Vec<String>) {
        let mut password = tempfile::NamedTempFile::new().unwrap();
        password.write_all(b"love\n").unwrap();
        let text = text.replace("PASSFILE", &password.path().display().to_string());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut notes = Vec::new();
        let vhosts = read(file.path(), &mut notes, &mut Vec::new());
        (vhosts, notes)
    }

    fn refused(text: &str) -> String {
        read_text(text).0.unwrap_err().to_string()
    }

    const LINE: &str = "-i eth0 -v 7 -o PASSFILE -a 10.0.0.7/24 -k 10\n";

    #[test]
    fn each_line_is_a_virtual_host() {
        let text = format!(
            "# two\n\n{LINE}  --interface=eth1 --vhid 7 --passfile PASSFILE --addr 10.1.0.7\n"
        );
        let vhosts = read_text(&text).0.unwrap();
        let shown: Vec<_> = vhosts
            .iter()
            .map(|vhost| {
                (
                    vhost.interface.as_str(),
                    vhost.election.vhid.get(),
                    vhost.election.advskew.0,
                    vhost.addresses[0].address.to_string(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("eth0", 7, 10, "10.0.0.7".to_owned()),
                ("eth1", 7, 0, "10.1.0.7".to_owned())
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let wrong = |line: &str| refused(&format!("{LINE}{line}\n"));
        for (line, expected) in [
            ("-i eth0", "virtual host id"),
            ("-i eth1 -v 300 -o PASSFILE -a 10.0.0.8", "300"),
            ("-i eth1 -v 8 -p secret -a 10.0.0.8", "--passfile"),
            (
                "-i eth1 -v 8 -o PASSFILE -a 10.0.0.8 -B",
                "--daemonize concerns the whole process",
            ),
            ("-i eth1 -v 8 -o PASSFILE -a 10.0.0.8 --help", "--help"),
            (
                "-i eth0 -v 7 -o PASSFILE -a 10.0.0.8",
                "is in line 1 already",
            ),
            (
                "-i eth1 -v 8 -o PASSFILE -a 10.0.0.7",
                "the address 10.0.0.7 is in line 1 already",
            ),
            (
                "-i eth1 -v 8 -o PASSFILE -a 10.0.0.8 -a 10.0.0.9",
                "10.0.0.8/32 and 10.0.0.9/32",
            ),
        ] {
            let message = wrong(line);
            assert!(message.contains(":2: "), "{message}");
            assert!(
                message.contains(expected) || line.ends_with("--help"),
                "{message}"
            );
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_file_without_virtual_hosts_is_refused() {
        assert!(refused("# nothing\n").contains("You must supply a virtual host"));
    }
}
