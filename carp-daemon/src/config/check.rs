//! The check that turns raw words into a [`Config`]: every rule about single values and about their combinations.
//!
//! A check continues after a mistake and returns all of them, so that an operator can repair a file in one round.

mod error;
mod interface;
mod password;
mod state_directory;
mod values;
mod virtual_host;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use error::{Mistake, PassfileError, Problem};
pub use values::interface as interface_name;

use super::raw::{self, Location, Raw, Word};
use super::{Config, StateDirectory, VhostConfig, VhostId};

/// A configuration without mistakes, with lines for the log.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Decisions that the operator left open.
    pub notes: Vec<String>,
    /// Settings that work but probably not as intended.
    pub warnings: Vec<String>,
}

/// Checks every word and their combinations.
///
/// # Errors
///
/// Every mistake, in the order in which they were found; there is at least one.
pub fn check(raw: Raw) -> Result<Checked, Vec<Mistake>> {
    let Raw { vhosts, process } = raw;
    let mut findings = Findings::default();
    let vhosts = check_vhosts(vhosts, &mut findings);
    let raw::Process {
        datapath,
        fence,
        lease,
        wait_interface,
        realtime,
        state_directory,
        debug,
    } = process;
    let config = Config {
        vhosts,
        datapath: findings
            .value(datapath.as_ref(), values::named)
            .unwrap_or_default(),
        fence: findings
            .value(fence.as_ref(), values::named)
            .unwrap_or_default(),
        lease: findings
            .value(lease.as_ref(), values::lease)
            .unwrap_or_default(),
        wait_interface: is_set(wait_interface.as_ref()),
        realtime: is_set(realtime.as_ref()),
        state_directory: check_state_directory(state_directory, &mut findings),
        debug: is_set(debug.as_ref()),
    };
    let Findings {
        mistakes,
        notes,
        warnings,
    } = findings;
    if mistakes.is_empty() {
        Ok(Checked {
            config,
            notes,
            warnings,
        })
    } else {
        Err(mistakes)
    }
}

fn check_vhosts(raw: Vec<raw::VirtualHost>, findings: &mut Findings) -> Vec<VhostConfig> {
    if raw.is_empty() {
        findings.mistake(
            &Location::CommandLine,
            Problem::Missing {
                what: "a virtual host",
                options: "--vhosts",
                accepted: "a file with the options of one in each line",
            },
        );
    }
    let mut vhosts = Vec::with_capacity(raw.len());
    let mut twins = Twins::default();
    for vhost in raw {
        let location = vhost.location.clone();
        if let Some(vhost) = virtual_host::check(vhost, findings) {
            twins.look(&vhost, &location, findings);
            vhosts.push(vhost);
        }
    }
    vhosts
}

/// The identities and addresses so far, to find two virtual hosts that share one.
#[derive(Default)]
struct Twins {
    vhosts: BTreeMap<VhostId, Location>,
    addresses: BTreeMap<IpAddr, Location>,
}

impl Twins {
    fn look(&mut self, vhost: &VhostConfig, location: &Location, findings: &mut Findings) {
        let id = vhost.id();
        if let Some(before) = self.vhosts.get(&id) {
            let text = format!(
                "vhid {} on {} is {} already: one of them needs another --vhid or --interface",
                id.vhid,
                id.interface,
                within(before)
            );
            findings.mistake(location, Problem::Combination(text));
            return;
        }
        self.vhosts.insert(id, location.clone());
        for wanted in &vhost.addresses {
            let address = wanted.address;
            if let Some(before) = self.addresses.get(&address) {
                let text = format!(
                    "the address {address} is {} already: one of them needs another --addr",
                    within(before)
                );
                findings.mistake(location, Problem::Combination(text));
            } else {
                self.addresses.insert(address, location.clone());
            }
        }
    }
}

fn within(location: &Location) -> String {
    match location {
        Location::CommandLine => "on the command line".to_owned(),
        Location::Line { line, .. } => format!("in line {line}"),
    }
}

fn check_state_directory(
    word: Option<Word<PathBuf>>,
    findings: &mut Findings,
) -> Option<StateDirectory> {
    let chosen = state_directory::choose(
        word.as_ref().map(|word| word.value.as_path()),
        std::env::var_os(state_directory::VARIABLE),
        Path::new(state_directory::DEFAULT),
    );
    match (chosen, word) {
        (Ok(chosen), _) => chosen,
        // Only the path of the option can be relative.
        (Err(cause), word) => {
            let Word { value, origin } = word?;
            findings.mistake(
                &origin.location,
                Problem::RelativePath { path: value, cause },
            );
            None
        }
    }
}

fn is_set(word: Option<&Word<bool>>) -> bool {
    word.is_some_and(|word| word.value)
}

/// The mistakes and remarks of a check so far.
#[derive(Debug, Default)]
struct Findings {
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    /// Returns the value of a word; `None` if it was not written or breaks the rule, which is then a mistake.
    fn value<T>(
        &mut self,
        word: Option<&Word<String>>,
        rule: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let word = word?;
        match rule(&word.value) {
            Ok(value) => Some(value),
            Err(reason) => {
                let value = word.value.clone();
                self.mistakes.push(Mistake::of(&word.origin, value, reason));
                None
            }
        }
    }

    fn mistake(&mut self, location: &Location, problem: Problem) {
        self.mistakes.push(Mistake {
            location: location.clone(),
            position: None,
            problem,
        });
    }

    /// Adds a note, once for all virtual hosts that it concerns.
    fn note(&mut self, text: String) {
        push_new(&mut self.notes, text);
    }

    /// Adds a warning, once for all virtual hosts that it concerns.
    fn warn(&mut self, text: String) {
        push_new(&mut self.warnings, text);
    }
}

fn push_new(lines: &mut Vec<String>, text: String) {
    if !lines.contains(&text) {
        lines.push(text);
    }
}

#[cfg(test)]
mod tests;
