//! Checks one virtual host.

use std::path::PathBuf;
use std::time::Duration;

use carp_common::proto::{AddressSet, Settings};
use carp_common::units::{AdvBase, AdvSkew, Priority};

use super::{Findings, Problem, interface, is_set, password, values};
use crate::config::raw::{self, Location, Word};
use crate::config::{DEFAULT_GROUP, Ownership, Scripts, VhostConfig, VirtualAddress};

/// The default of `--advbase`.
const ADVBASE: AdvBase = AdvBase(1);
/// The default of `--advskew`.
const ADVSKEW: AdvSkew = AdvSkew(0);
/// The default of `--script-timeout`.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks the words of one virtual host. Returns `None` if a required setting is missing or wrong.
pub fn check(raw: raw::VirtualHost, findings: &mut Findings) -> Option<VhostConfig> {
    let raw::VirtualHost {
        location,
        interface,
        source,
        vhid,
        password,
        addresses,
        advbase,
        advskew,
        deadratio,
        preempt,
        profile,
        strict_counter,
        no_openbsd,
        upscript,
        downscript,
        xparam,
        neutral,
        shutdown,
        script_timeout,
        mcast,
        nomcast,
        own_mac,
        announce_refresh,
        ignore_carrier,
    } = raw;
    let interface = match interface {
        Some(word) => findings.value(Some(&word), values::interface),
        None => first_interface(&location, findings),
    };
    let vhid = required(
        findings.value(vhid.as_ref(), values::vhid),
        vhid.is_none(),
        &location,
        findings,
        ("a valid virtual host id", "--vhid, -v", "1 to 255"),
    );
    let profile = findings
        .value(profile.as_ref(), values::named)
        .unwrap_or_default();
    let key = password::key(password, profile, &location, findings);
    let priority = priority(advbase.as_ref(), advskew.as_ref(), &location, findings);
    let address = one_address(&addresses, &location, findings);
    let ownership = match upscript {
        Some(_) => Ownership::Scripts,
        None => Ownership::Native,
    };
    match (&upscript, &downscript, &address) {
        (None, Some(_), Some(address)) => findings.warn(format!(
            "no script called when going up: carpd adds and removes {} itself",
            address.address
        )),
        (Some(_), None, _) => findings.warn("no script called when going down".to_owned()),
        _ => {}
    }
    let scripts = Scripts {
        up: upscript.and_then(|word| absolute(word, findings)),
        down: downscript.and_then(|word| absolute(word, findings)),
        xparam: xparam.map(|word| word.value),
        timeout: findings
            .value(script_timeout.as_ref(), values::script_timeout)
            .unwrap_or(SCRIPT_TIMEOUT),
    };
    let deadratio = findings
        .value(deadratio.as_ref(), values::dead_ratio)
        .unwrap_or_default();
    let announce_refresh = findings
        .value(announce_refresh.as_ref(), values::announce_refresh)
        .flatten();
    let source = findings.value(source.as_ref(), values::source);
    let group = findings
        .value(mcast.as_ref(), values::group)
        .unwrap_or(DEFAULT_GROUP);
    let address = address?;
    Some(VhostConfig {
        interface: interface?,
        election: Settings {
            vhid: vhid?,
            advbase: priority.advbase,
            advskew: priority.advskew,
            deadratio,
            preempt: is_set(preempt.as_ref()),
            profile,
            addresses: AddressSet::new([address.address]),
            key: key?,
            strict_counter: is_set(strict_counter.as_ref()),
            no_openbsd: is_set(no_openbsd.as_ref()),
            announce_refresh,
        },
        source,
        group,
        broadcast: is_set(nomcast.as_ref()),
        own_mac: is_set(own_mac.as_ref()),
        ignore_carrier: is_set(ignore_carrier.as_ref()),
        addresses: vec![address],
        ownership,
        scripts,
        release_at_exit: is_set(shutdown.as_ref()),
        neutral: is_set(neutral.as_ref()),
    })
}

fn first_interface(location: &Location, findings: &mut Findings) -> Option<String> {
    match interface::first() {
        Ok(interface) => {
            findings.note(format!("Using [{interface}] as a network interface"));
            Some(interface)
        }
        Err(problem) => {
            findings.mistake(location, problem);
            None
        }
    }
}

/// Adds a mistake if a required setting is missing, and returns its value.
fn required<T>(
    value: Option<T>,
    is_missing: bool,
    location: &Location,
    findings: &mut Findings,
    (what, options, accepted): (&'static str, &'static str, &'static str),
) -> Option<T> {
    if is_missing {
        findings.mistake(
            location,
            Problem::Missing {
                what,
                options,
                accepted,
            },
        );
    }
    value
}

fn priority(
    advbase: Option<&Word<String>>,
    advskew: Option<&Word<String>>,
    location: &Location,
    findings: &mut Findings,
) -> Priority {
    let priority = Priority {
        advbase: findings
            .value(advbase, values::byte)
            .map_or(ADVBASE, AdvBase),
        advskew: findings
            .value(advskew, values::byte)
            .map_or(ADVSKEW, AdvSkew),
    };
    if (priority.advbase.0, priority.advskew.0) == (0, 0) {
        findings.mistake(
            location,
            Problem::Missing {
                what: "an advertisement time base",
                options: "--advbase, -b, or --advskew, -k",
                accepted: "one of them from 1 to 255, both are 0",
            },
        );
    }
    if priority == Priority::BOW_OUT {
        findings.warn(
            "--advbase 255 with --advskew 255 is how a leaving master says that it leaves"
                .to_owned(),
        );
    }
    priority
}

/// Checks the addresses, of which a virtual host has exactly one so far.
fn one_address(
    words: &[Word<String>],
    location: &Location,
    findings: &mut Findings,
) -> Option<VirtualAddress> {
    let addresses: Vec<_> = words
        .iter()
        .filter_map(|word| findings.value(Some(word), values::virtual_address))
        .collect();
    if let [first, second, ..] = &addresses[..] {
        let text = format!(
            "--addr is given twice, {}/{} and {}/{}: a virtual host has one address; give each address a --vhid of its own, \
             in a process of its own or in a line of --vhosts FILE",
            first.address, first.prefix, second.address, second.prefix
        );
        findings.mistake(location, Problem::Combination(text));
    }
    required(
        addresses.into_iter().next(),
        words.is_empty(),
        location,
        findings,
        (
            "a virtual host address",
            "--addr, -a",
            "an IPv4 address, with /PREFIX if you like",
        ),
    )
}

/// Resolves a relative path from the operator's directory, because the daemon's own is `/`.
fn absolute(word: Word<PathBuf>, findings: &mut Findings) -> Option<PathBuf> {
    match std::path::absolute(&word.value) {
        Ok(path) => Some(path),
        Err(cause) => {
            let path = word.value;
            findings.mistake(&word.origin.location, Problem::RelativePath { path, cause });
            None
        }
    }
}
