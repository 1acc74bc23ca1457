//! The plan from one configuration to another.
//!
//! Interface and vhid identify a virtual host: a virtual host with another vhid is a new one, and the old one is removed.
//! Interfaces are compared by name; give both configurations the present names of the interfaces first.
//!
//! [`Setting`] and [`ProcessSetting`] list every setting once and classify it. The comparison destructures the
//! configuration without `..` and the classification matches without `_`, so that a new setting compiles only when both
//! know it.

mod setting;

use std::collections::BTreeMap;
use std::fmt;

use carp_common::proto::Settings;

use super::{Config, Scripts, VhostConfig, VhostId};
pub use setting::{ProcessSetting, Setting};

/// The plan from one configuration to another, to be carried out as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The settings of the whole process that differ.
    pub process: Vec<ProcessSetting>,
    /// The step for each virtual host, in the order of the new configuration, with the removed ones at the end.
    pub vhosts: Vec<(VhostId, Step)>,
}

/// The step for one virtual host. The new configuration in it still has its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leave it alone: no packet, no announcement.
    Keep,
    /// Change settings in place. The virtual host stays MASTER or BACKUP.
    Change {
        /// The settings that differ; at least one.
        what: Vec<Setting>,
        /// The new configuration.
        to: Box<VhostConfig>,
    },
    /// Stop it in order, with a bow-out if it is MASTER, and start it again.
    Restart {
        /// The settings that differ; at least one has a [`Setting::restart_reason`].
        what: Vec<Setting>,
        /// The new configuration.
        to: Box<VhostConfig>,
    },
    /// Start a new one.
    Add(Box<VhostConfig>),
    /// Stop it in order.
    Remove,
}

impl Plan {
    /// Returns the settings that only another process can change, each with the reason. If there are any, this process
    /// must not carry out any part of the plan.
    pub fn restart_reasons(&self) -> impl Iterator<Item = (ProcessSetting, &'static str)> {
        let reason = |setting: &ProcessSetting| Some((*setting, setting.restart_reason()?));
        self.process.iter().filter_map(reason)
    }

    /// Returns whether the configurations are the same, apart from the order of the virtual hosts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let mut steps = self.vhosts.iter();
        self.process.is_empty() && steps.all(|(_, step)| *step == Step::Keep)
    }
}

/// Compares two configurations.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Plan {
    let mut left: BTreeMap<VhostId, &VhostConfig> =
        old.vhosts.iter().map(|it| (it.id(), it)).collect();
    let mut vhosts = Vec::with_capacity(new.vhosts.len());
    for vhost in &new.vhosts {
        let id = vhost.id();
        let step = left
            .remove(&id)
            .map_or_else(|| Step::Add(vhost.clone().into()), |old| step(old, vhost));
        vhosts.push((id, step));
    }
    vhosts.extend(left.into_keys().map(|id| (id, Step::Remove)));
    Plan {
        process: changed_in_process(old, new),
        vhosts,
    }
}

fn step(old: &VhostConfig, new: &VhostConfig) -> Step {
    let what = changed(old, new);
    let to = Box::new(new.clone());
    if what.is_empty() {
        Step::Keep
    } else if what.iter().any(|it| it.restart_reason().is_some()) {
        Step::Restart { what, to }
    } else {
        Step::Change { what, to }
    }
}

/// Returns the settings of the process that differ.
fn changed_in_process(old: &Config, new: &Config) -> Vec<ProcessSetting> {
    use ProcessSetting as P;
    let Config {
        vhosts: _, // compared one by one
        datapath,
        fence,
        lease,
        wait_interface,
        realtime,
        state_directory,
        debug,
    } = old;
    among([
        (P::Datapath, *datapath != new.datapath),
        (P::Fence, *fence != new.fence),
        (P::Lease, *lease != new.lease),
        (P::WaitInterface, *wait_interface != new.wait_interface),
        (P::Realtime, *realtime != new.realtime),
        (P::StateDirectory, *state_directory != new.state_directory),
        (P::Debug, *debug != new.debug),
    ])
}

/// Returns the settings of one virtual host that differ.
fn changed(old: &VhostConfig, new: &VhostConfig) -> Vec<Setting> {
    use Setting as S;
    let VhostConfig {
        interface: _, // the same, as part of the identity
        election,
        source,
        group,
        broadcast,
        own_mac,
        ignore_carrier,
        addresses,
        ownership,
        scripts,
        release_at_exit,
        neutral,
    } = old;
    let Settings {
        vhid: _, // the same, as part of the identity
        advbase,
        advskew,
        deadratio,
        preempt,
        profile,
        addresses: digest_addresses,
        key,
        strict_counter,
        no_openbsd,
        announce_refresh,
    } = election;
    let Scripts {
        up,
        down,
        xparam,
        timeout,
    } = scripts;
    let theirs = &new.election;
    let moved = *addresses != new.addresses || *digest_addresses != theirs.addresses;
    among([
        (S::Advbase, *advbase != theirs.advbase),
        (S::Advskew, *advskew != theirs.advskew),
        (S::Deadratio, *deadratio != theirs.deadratio),
        (S::Preempt, *preempt != theirs.preempt),
        (S::Profile, *profile != theirs.profile),
        (S::Addresses, moved),
        (S::Password, *key != theirs.key),
        (S::StrictCounter, *strict_counter != theirs.strict_counter),
        (S::NoOpenbsd, *no_openbsd != theirs.no_openbsd),
        (
            S::AnnounceRefresh,
            *announce_refresh != theirs.announce_refresh,
        ),
        (S::Source, *source != new.source),
        (S::Group, *group != new.group),
        (S::Broadcast, *broadcast != new.broadcast),
        (S::OwnMac, *own_mac != new.own_mac),
        (S::IgnoreCarrier, *ignore_carrier != new.ignore_carrier),
        (S::Ownership, *ownership != new.ownership),
        (S::UpScript, *up != new.scripts.up),
        (S::DownScript, *down != new.scripts.down),
        (S::Xparam, *xparam != new.scripts.xparam),
        (S::ScriptTimeout, *timeout != new.scripts.timeout),
        (S::ReleaseAtExit, *release_at_exit != new.release_at_exit),
        (S::Neutral, *neutral != new.neutral),
    ])
}

fn among<T, const N: usize>(settings: [(T, bool); N]) -> Vec<T> {
    let differing = settings.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(setting, _)| setting).collect()
}

/// One line for each change, without the values. A restart has its reason.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for setting in &self.process {
            let name = setting.name();
            match setting.restart_reason() {
                Some(reason) => writeln!(f, "{name}: needs a restart of carpd: {reason}")?,
                None => writeln!(f, "{name}: changed in place")?,
            }
        }
        for (id, step) in &self.vhosts {
            match step {
                Step::Keep => {}
                Step::Change { what, .. } => {
                    writeln!(f, "{id}: changed in place: {}", names(what))?;
                }
                Step::Restart { what, .. } => {
                    let reasons = restart_reasons(what);
                    writeln!(f, "{id}: restarted: {} ({reasons})", names(what))?;
                }
                Step::Add(_) => writeln!(f, "{id}: added")?,
                Step::Remove => writeln!(f, "{id}: removed")?,
            }
        }
        Ok(())
    }
}

/// Returns why a change of these settings restarts the virtual host.
fn restart_reasons(settings: &[Setting]) -> String {
    let reasons = settings.iter().filter_map(|it| it.restart_reason());
    reasons.collect::<Vec<_>>().join("; ")
}

fn names(settings: &[Setting]) -> String {
    let names: Vec<_> = settings.iter().map(|setting| setting.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
