//! Turns ucarp's command line, with a few options of our own, into raw words. [`crate::config`] checks them.
//!
//! Like ucarp, this accepts both spellings of every option and `getopt_long`'s abbreviations, and the last of a
//! repeated option counts. Where ucarp silently reads a value as something else (numbers modulo 256, an unknown
//! facility, surplus words), carpd refuses it and names the option, the value and the accepted values.

mod arguments;
mod combinations;
mod error;
mod getopt;
mod password;
mod vhosts;
mod words;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::config::raw::{Location, Raw};
use crate::config::{self, Checked, Config, Mistake};
use crate::log;

use arguments::Arguments;
pub use error::CliError;

/// The action that the command line requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// Print this text on standard output and exit 0.
    Print(String),
    /// Run the daemon.
    Run(Box<Invocation>),
    /// Remove what a killed carpd left attached to this interface.
    Detach(String),
}

/// The settings of a run of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The configuration to serve.
    pub config: Config,
    /// The settings of the log.
    pub log: log::LogSettings,
    /// Run in the background (`-B`).
    pub daemonize: bool,
    /// Lines for the log: what carpd decided because the operator left it open.
    pub notes: Vec<String>,
    /// Warnings for the log.
    pub warnings: Vec<String>,
}

/// Parses the process's command line. `argv[0]` is the program's name.
///
/// A password in it is overwritten in the process's own memory before this returns.
///
/// # Errors
///
/// Returns the first mistake, with a text for the operator. The exit status is 1 then.
pub fn parse(argv: Vec<OsString>) -> Result<Task, CliError> {
    let mut command = Arguments::command();
    command.build();
    if argv.len() <= 1 {
        return Err(CliError::Nothing(command.render_help().to_string()));
    }
    let getopt::SplitLine { words, secrets } = getopt::walk(&command, &argv);
    let followers = password::followers(&argv, &secrets);
    let hidden = password::hide(&argv, &secrets);
    let passwords = password::extract(argv, &secrets);
    let matches = command.try_get_matches_from_mut(words);
    let parsed = matches.and_then(|matches| {
        let arguments = Arguments::from_arg_matches_mut(&mut matches.clone())?;
        Ok((matches, arguments))
    });
    let (matches, mut arguments) = match parsed {
        Ok(parsed) => parsed,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            return Ok(Task::Print(error.to_string()));
        }
        Err(error) if password::may_be_shown_by(&error, &secrets, &followers) => {
            return Err(CliError::Misplaced(
                "a word too many, which is not shown because it may be part of the password: a password with blanks \
                 needs quotes (--pass 'two words'), or better a file (--passfile)"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(CliError::Usage(Box::new(error))),
    };
    if let Some(interface) = arguments.detach {
        combinations::nothing_beside_detach(&command, &matches)?;
        return Ok(Task::Detach(interface));
    }
    let vhosts = match &arguments.vhosts {
        Some(file) => {
            combinations::nothing_of_a_virtual_host(&command, &matches)?;
            Some(vhosts::read(file)?)
        }
        None => None,
    };
    let mut warnings = Vec::new();
    combinations::last_password(&matches, &mut arguments, &mut warnings);
    let words = words::take(
        &command,
        &matches,
        arguments,
        &Location::CommandLine,
        passwords,
    );
    let (vhosts, unreadable) = match vhosts {
        Some(lines) => (lines.vhosts, lines.unreadable),
        None => (vec![words.vhost], None),
    };
    let process = words.process;
    let checked = first_mistake(config::check(Raw { vhosts, process }), unreadable)?;
    warnings.extend(checked.warnings);
    if let Err(error) = hidden {
        warnings.push(format!(
            "the password stays visible in the process list: {error}"
        ));
    }
    Ok(Task::Run(Box::new(Invocation {
        config: checked.config,
        log: words.log,
        daemonize: words.daemonize,
        notes: checked.notes,
        warnings,
    })))
}

/// Returns the checked configuration, or the first error.
///
/// Errors are ordered as an operator reads: single words of the command line, then the lines of the file, then errors
/// that belong to no location.
fn first_mistake(
    checked: Result<Checked, Vec<Mistake>>,
    unreadable: Option<CliError>,
) -> Result<Checked, CliError> {
    let order = |mistake: &Mistake| match (&mistake.location, mistake.position) {
        (Location::CommandLine, Some(position)) => (0, position),
        (Location::Line { line, .. }, position) => (*line, position.unwrap_or(usize::MAX)),
        (Location::CommandLine, None) => (usize::MAX, 0),
    };
    let mistakes = match checked {
        Ok(checked) => return unreadable.map_or(Ok(checked), Err),
        Err(mistakes) => mistakes,
    };
    // `min_by_key` returns the first of equal ones.
    let first = mistakes
        .into_iter()
        .min_by_key(order)
        .expect("a check that fails has found a mistake");
    match unreadable {
        Some(unreadable) if order(&first).0 == usize::MAX => Err(unreadable),
        Some(_) | None => Err(CliError::Config(Box::new(first))),
    }
}

#[cfg(test)]
mod tests;
