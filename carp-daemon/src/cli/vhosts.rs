//! Reads several virtual hosts from a file. Each line contains the options of one.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue};
use clap::{Command, CommandFactory, FromArgMatches};

use super::arguments::Arguments;
use super::{CliError, combinations, getopt, words};
use crate::config::raw::{Location, VirtualHost};

/// The virtual hosts of a file.
#[derive(Debug)]
pub struct Lines {
    /// The virtual hosts before the first line that could not be parsed.
    pub vhosts: Vec<VirtualHost>,
    /// The error of that line, if there is one.
    pub unreadable: Option<CliError>,
}

/// Reads the virtual hosts of a file. Lines that are empty or begin with `#` are skipped. Words are separated by
/// blanks, and quotes have no meaning.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn read(path: &Path) -> Result<Lines, CliError> {
    let text = fs::read_to_string(path).map_err(|source| CliError::Vhosts {
        path: path.to_owned(),
        source,
    })?;
    let mut command = Arguments::command();
    command.build();
    let shared: Arc<Path> = path.into();
    let mut vhosts = Vec::new();
    for (line, words) in (1..).zip(text.lines()) {
        let words = words.trim();
        if words.is_empty() || words.starts_with('#') {
            continue;
        }
        let location = Location::Line {
            path: Arc::clone(&shared),
            line,
        };
        match one(&mut command, words, &location) {
            Ok(vhost) => vhosts.push(vhost),
            Err(reason) => {
                let unreadable = Some(CliError::VhostsLine {
                    path: path.to_path_buf(),
                    line,
                    reason: Box::new(reason),
                });
                return Ok(Lines { vhosts, unreadable });
            }
        }
    }
    Ok(Lines {
        vhosts,
        unreadable: None,
    })
}

/// Parses one line.
fn one(command: &mut Command, words: &str, location: &Location) -> Result<VirtualHost, CliError> {
    let argv: Vec<OsString> = std::iter::once("carpd")
        .chain(words.split_whitespace())
        .map(OsString::from)
        .collect();
    let getopt::SplitLine { words, secrets } = getopt::walk(command, &argv);
    if !secrets.is_empty() {
        return Err(CliError::Misplaced(
            "a password does not belong here (--pass, -p): give --passfile, -o".to_owned(),
        ));
    }
    let refused = |error: clap::Error| {
        match error.get(ContextKind::InvalidArg) {
        // The word is not shown: if the file is the wrong one, it may be a password.
        Some(ContextValue::String(word)) if !word.starts_with('-') => CliError::Misplaced(
            "a word that is neither an option nor belongs to one: a line holds the options of a virtual host, as in \
             -i eth0 -v 7 -o /etc/carpd.pass -a 10.0.0.7/24"
                .to_owned(),
        ),
        Some(_) | None => CliError::Usage(Box::new(error)),
    }
    };
    let matches = command.try_get_matches_from_mut(words).map_err(refused)?;
    combinations::nothing_of_the_process(command, &matches)?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(refused)?;
    Ok(words::take(command, &matches, arguments, location, Vec::new()).vhost)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use crate::cli::{CliError, Task, parse};
    use crate::config::VhostConfig;

    /// Writes a file with these lines, and the password file that they name.
    fn written(text: &str) -> [tempfile::NamedTempFile; 2] {
        let mut password = tempfile::NamedTempFile::new().unwrap();
        password.write_all(b"love\n").unwrap();
        let text = text.replace("PASSFILE", &password.path().display().to_string());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        [file, password]
    }

    fn read_text(text: &str) -> Result<Vec<VhostConfig>, CliError> {
        let [file, _password] = written(text);
        let argv = ["carpd".into(), "--vhosts".into(), file.path().into()];
        parse(argv.to_vec()).map(|request| match request {
            Task::Run(invocation) => invocation.config.vhosts,
            other @ (Task::Print(_) | Task::Detach(_)) => panic!("instead: {other:?}"),
        })
    }

    fn refused(text: &str) -> String {
        read_text(text).unwrap_err().to_string()
    }

    const LINE: &str = "-i eth0 -v 7 -o PASSFILE -a 10.0.0.7/24 -k 10\n";

    #[test]
    fn each_line_is_a_virtual_host() {
        let text = format!(
            "# two\n\n{LINE}  --interface=eth1 --vhid 7 --passfile PASSFILE --addr 10.1.0.7\n"
        );
        let vhosts = read_text(&text).unwrap();
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
    fn a_mistake_is_named_with_its_line() {
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
    fn the_first_wrong_line_is_named_whatever_is_wrong_with_it() {
        for (first, second) in [
            ("-i eth0 -v 300 -o PASSFILE -a 10.0.0.8", "-i eth0 --frob"),
            ("-i eth0 --frob", "-i eth0 -v 300 -o PASSFILE -a 10.0.0.8"),
            (
                "-i eth0 -v 8 -o /nowhere -a 10.0.0.8",
                "-i eth0 -v 300 -o PASSFILE",
            ),
        ] {
            let message = refused(&format!("{LINE}{first}\n{second}\n"));
            assert!(message.contains(":2: "), "{message}");
        }
    }

    #[test]
    fn a_file_without_virtual_hosts_is_refused() {
        assert!(refused("# nothing\n").contains("You must supply a virtual host"));
    }
}
