//! One virtual host out of the options that describe it.

use std::path::PathBuf;

use carp_common::proto::{AddressSet, Settings};
use carp_common::units::{AdvBase, AdvSkew, Priority};

use super::arguments::Arguments;
use super::password::{self, Password};
use super::{Error, combinations, interface};
use crate::config::{Ownership, Scripts, VhostConfig};

/// The virtual host that the options describe; takes its values out of them.
pub fn describe(
    arguments: &mut Arguments,
    passwords: Vec<Password>,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<VhostConfig, Error> {
    let interface = match arguments.interface.take() {
        Some(interface) => interface,
        None => {
            let interface = interface::default()?;
            notes.push(format!("Using [{interface}] as a network interface"));
            interface
        }
    };
    let vhid = arguments.vhid.ok_or(Error::Missing {
        what: "a valid virtual host id",
        options: "--vhid, -v",
        accepted: "1 to 255",
    })?;
    let pass = arguments
        .pass
        .and_then(|index| passwords.into_iter().nth(index));
    let key = password::key(
        pass,
        arguments.passfile.take(),
        arguments.profile,
        notes,
        warnings,
    )?;
    let priority = Priority {
        advbase: AdvBase(arguments.advbase),
        advskew: AdvSkew(arguments.advskew),
    };
    if (arguments.advbase, arguments.advskew) == (0, 0) {
        return Err(Error::Missing {
            what: "an advertisement time base",
            options: "--advbase, -b, or --advskew, -k",
            accepted: "one of them from 1 to 255, both are 0",
        });
    }
    if priority == Priority::BOW_OUT {
        warnings.push(
            "--advbase 255 with --advskew 255 is how a leaving master says that it leaves"
                .to_owned(),
        );
    }
    let address = combinations::one_address(std::mem::take(&mut arguments.addr))?;
    let ownership = if arguments.upscript.is_some() {
        Ownership::Scripts
    } else {
        Ownership::Native
    };
    match (&arguments.upscript, &arguments.downscript) {
        (None, Some(_)) => warnings.push(format!(
            "no script called when going up: carpd adds and removes {} itself",
            address.address
        )),
        (Some(_), None) => warnings.push("no script called when going down".to_owned()),
        (None, None) | (Some(_), Some(_)) => {}
    }
    Ok(VhostConfig {
        interface,
        election: Settings {
            vhid,
            advbase: priority.advbase,
            advskew: priority.advskew,
            deadratio: arguments.deadratio,
            preempt: arguments.preempt,
            profile: arguments.profile,
            addresses: AddressSet::new([address.address]),
            key,
            strict_counter: arguments.strict_counter,
            no_openbsd: arguments.no_openbsd,
            announce_refresh: arguments.announce_refresh.0,
        },
        source: arguments.srcip,
        group: arguments.mcast,
        broadcast: arguments.nomcast,
        own_mac: arguments.own_mac,
        ignore_carrier: arguments.ignoreifstate,
        addresses: vec![address],
        ownership,
        scripts: Scripts {
            up: arguments.upscript.take().map(absolute).transpose()?,
            down: arguments.downscript.take().map(absolute).transpose()?,
            xparam: arguments.xparam.take(),
            timeout: arguments.script_timeout,
        },
        release_at_exit: arguments.shutdown,
        neutral: arguments.neutral,
    })
}

/// A daemon's directory is `/`: a relative path means the one the operator is in.
fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|source| Error::RelativePath { path, source })
}
