//! What options mean together.

use std::path::PathBuf;

use clap::{ArgMatches, Command};

use super::Error;
use super::arguments::Arguments;
use super::vhosts::{given, spelled};
use crate::config::VirtualAddress;

/// ucarp's rule for a password that is given twice: the last one counts. That is not what somebody means who gives both.
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

/// The virtual address.
///
/// # Errors
/// When there is none, or a second.
pub fn one_address(addresses: Vec<VirtualAddress>) -> Result<VirtualAddress, Error> {
    let mut addresses = addresses.into_iter();
    let first = addresses.next().ok_or(Error::Missing {
        what: "a virtual host address",
        options: "--addr, -a",
        accepted: "an IPv4 address, with /PREFIX if you like",
    })?;
    match addresses.next() {
        None => Ok(first),
        Some(second) => Err(Error::Misplaced(format!(
            "--addr is given twice, {}/{} and {}/{}: a virtual host has one address; give each address a --vhid of its own, \
             in a process of its own or in a line of --vhosts FILE",
            first.address, first.prefix, second.address, second.prefix
        ))),
    }
}

/// `--detach` does one thing.
///
/// # Errors
/// Another option beside it.
pub fn nothing_beside_detach(command: &Command, matches: &ArgMatches) -> Result<(), Error> {
    match given(command, matches).find(|option| *option != "detach") {
        None => Ok(()),
        Some(option) => Err(Error::Misplaced(format!(
            "--detach takes an interface and nothing else: remove {}, or --detach to serve",
            spelled(command, option)
        ))),
    }
}
