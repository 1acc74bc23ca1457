//! ucarp's command line, and a few options of our own, to a validated [`Config`].
//!
//! Both spellings of every option, `getopt_long`'s abbreviations, and the last of a repeated option, as with ucarp.
//! Where ucarp silently makes something else of a value (numbers modulo 256, an unknown facility, words left over),
//! this refuses it, naming the option, the value and what is accepted.

mod arguments;
mod combinations;
mod error;
mod getopt;
mod interface;
mod password;
mod state_directory;
mod values;
mod vhosts;
mod virtual_host;

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::config::Config;
use crate::log;

use arguments::Arguments;
pub use error::Error;
pub use password::PassfileError;
use password::Password;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Print this on standard output and exit 0.
    Print(String),
    /// Run.
    Run(Box<Invocation>),
    /// Remove what a killed carpd left attached to this interface.
    Detach(String),
}

/// A run of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to serve.
    pub config: Config,
    /// What to log.
    pub log: log::Settings,
    /// In the background (`-B`).
    pub daemonize: bool,
    /// For the log once there is one: what we decided in the operator's place.
    pub notes: Vec<String>,
    /// For the log once there is one: what someone should look at.
    pub warnings: Vec<String>,
}

/// Reads the process's command line; `argv[0]` is its name.
///
/// A password in it is overwritten, in the process's own memory, before this returns.
///
/// # Errors
///
/// What is wrong with it, for the operator, who gets exit status 1.
pub fn parse(argv: Vec<OsString>) -> Result<Request, Error> {
    let mut command = Arguments::command();
    command.build();
    if argv.len() <= 1 {
        return Err(Error::Nothing(command.render_help().to_string()));
    }
    let getopt::Words { words, secrets } = getopt::walk(&command, &argv);
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
            return Ok(Request::Print(error.to_string()));
        }
        Err(error) if password::may_be_shown_by(&error, &secrets, &followers) => {
            return Err(Error::Misplaced(
                "a word too many, which is not shown because it may be part of the password: a password with blanks \
                 needs quotes (--pass 'two words'), or better a file (--passfile)"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(Error::Usage(Box::new(error))),
    };
    if let Some(interface) = arguments.detach {
        combinations::nothing_beside_detach(&command, &matches)?;
        return Ok(Request::Detach(interface));
    }
    if arguments.vhosts.is_some() {
        vhosts::refuse_others(&command, &matches)?;
    }
    let mut warnings = Vec::new();
    combinations::last_password(&matches, &mut arguments, &mut warnings);
    let mut invocation = validate(arguments, passwords, warnings)?;
    if let Err(error) = hidden {
        invocation.warnings.push(format!(
            "the password stays visible in the process list: {error}"
        ));
    }
    Ok(Request::Run(Box::new(invocation)))
}

/// What concerns more than one option, and what needs the system.
fn validate(
    mut arguments: Arguments,
    passwords: Vec<Password>,
    mut warnings: Vec<String>,
) -> Result<Invocation, Error> {
    let mut notes = Vec::new();
    let vhosts = match arguments.vhosts.take() {
        Some(file) => vhosts::read(&file, &mut notes, &mut warnings)?,
        None => vec![virtual_host::describe(
            &mut arguments,
            passwords,
            &mut notes,
            &mut warnings,
        )?],
    };
    let state_directory = state_directory::choose(
        arguments.state_dir.as_deref(),
        std::env::var_os(state_directory::VARIABLE),
        Path::new(state_directory::DEFAULT),
    )
    .map_err(|source| Error::RelativePath {
        path: arguments.state_dir.take().unwrap_or_default(),
        source,
    })?;
    Ok(Invocation {
        config: Config {
            vhosts,
            datapath: arguments.datapath,
            fence: arguments.fence,
            lease: arguments.lease.unwrap_or_default(),
            wait_interface: arguments.wait_interface,
            realtime: arguments.realtime,
            state_directory,
            debug: arguments.debug,
        },
        log: log::Settings {
            debug: arguments.debug,
            syslog: arguments.facility.unwrap_or_default(),
        },
        daemonize: arguments.daemonize,
        notes,
        warnings,
    })
}

#[cfg(test)]
mod tests;
