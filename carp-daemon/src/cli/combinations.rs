//! Rules about options that exclude each other.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::CliError;
use super::arguments::Arguments;

/// The options of the whole process. Every other option concerns a virtual host.
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

/// Applies ucarp's rule for a password that is given twice: the last one counts. The operator probably did not intend
/// that, so this adds a warning.
pub fn last_password(matches: &ArgMatches, arguments: &mut Arguments, warnings: &mut Vec<String>) {
    let last = |id| matches.indices_of(id).and_then(Iterator::last);
    let (Some(pass), Some(passfile)) = (last("pass"), last("passfile")) else {
        return;
    };
    let (counts, ignored) = if pass > passfile {
        arguments.passfile = None::<PathBuf>;
        ("--pass", "--passfile")
    } else {
        arguments.pass = None;
        ("--passfile", "--pass")
    };
    warnings.push(format!(
        "Both --pass and --passfile are given: {counts} counts, because it comes last; remove {ignored}"
    ));
}

/// Refuses any other option beside `--detach`.
///
/// # Errors
/// Returns the other option.
pub fn nothing_beside_detach(command: &Command, matches: &ArgMatches) -> Result<(), CliError> {
    match given(command, matches).find(|option| *option != "detach") {
        None => Ok(()),
        Some(option) => Err(CliError::Misplaced(format!(
            "--detach takes an interface and nothing else: remove {}, or --detach to serve",
            spelled(command, option)
        ))),
    }
}

/// Refuses options of one virtual host beside `--vhosts`.
///
/// # Errors
/// Returns the first such option.
pub fn nothing_of_a_virtual_host(command: &Command, matches: &ArgMatches) -> Result<(), CliError> {
    match given(command, matches).find(|option| !OF_THE_PROCESS.contains(option)) {
        None => Ok(()),
        Some(option) => Err(CliError::Misplaced(format!(
            "{} concerns one virtual host: with --vhosts it belongs in the lines of that file",
            spelled(command, option)
        ))),
    }
}

/// Refuses options of the whole process in a line of `--vhosts`.
///
/// # Errors
/// Returns the first such option.
pub fn nothing_of_the_process(command: &Command, matches: &ArgMatches) -> Result<(), CliError> {
    match given(command, matches).find(|option| OF_THE_PROCESS.contains(option)) {
        None => Ok(()),
        Some(option) => Err(CliError::Misplaced(format!(
            "{} concerns the whole process: give it on the command line",
            spelled(command, option)
        ))),
    }
}

/// Returns the ids of the options on the command line.
fn given<'a>(command: &'a Command, matches: &'a ArgMatches) -> impl Iterator<Item = &'a str> {
    command
        .get_arguments()
        .map(|option| option.get_id().as_str())
        .filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
}

/// Returns the option as an operator would type it.
pub fn spelled(command: &Command, id: &str) -> String {
    let long = command
        .get_arguments()
        .find(|option| option.get_id() == id)
        .and_then(clap::Arg::get_long);
    format!("--{}", long.unwrap_or(id))
}
