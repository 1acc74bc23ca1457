//! Logs the version and the options at the start.

use std::fmt::{Display, Write as _};

use tracing::{debug, info};

use super::{Config, Lease, Named as _, Ownership, VhostConfig};
use crate::log::NOTICE;

/// Number of virtual hosts up to which the options of each are logged without `--debug`.
const SHOWN_MAX: usize = 16;

impl Config {
    /// Logs the version and the options in effect. The password is not among them.
    pub fn log_summary(&self) {
        info!(target: NOTICE, "{}", self.summary());
        for vhost in &self.vhosts {
            if self.vhosts.len() <= SHOWN_MAX {
                info!("{}", vhost.summary());
            } else {
                debug!("{}", vhost.summary());
            }
        }
    }

    fn summary(&self) -> String {
        let mut line = format!("carpd {} starts", env!("CARGO_PKG_VERSION"));
        match self.vhosts.len() {
            1 => add(&mut line, " with 1 virtual host"),
            count => add(&mut line, format_args!(" with {count} virtual hosts")),
        }
        add(
            &mut line,
            format_args!(": datapath {}", self.datapath.name()),
        );
        add(&mut line, format_args!(", fence {}", self.fence.name()));
        match self.lease {
            Lease::Auto => add(&mut line, ", lease auto"),
            Lease::Fixed(lease) => add(&mut line, format_args!(", lease {} s", lease.as_secs())),
            Lease::Off => add(&mut line, ", no lease"),
        }
        let flags = [
            (self.wait_interface, "wait-interface"),
            (self.realtime, "realtime"),
            (self.debug, "debug"),
        ];
        add_flags(&mut line, &flags);
        line
    }
}

impl VhostConfig {
    fn summary(&self) -> String {
        let election = &self.election;
        let mut line = format!("{} id {}:", self.interface, election.vhid);
        for address in &self.addresses {
            let (ip, prefix) = (address.address, address.prefix);
            add(&mut line, format_args!(" {ip}/{prefix},"));
        }
        let (advbase, advskew, deadratio) = (
            election.advbase.0,
            election.advskew.0,
            election.deadratio.get(),
        );
        let (profile, group) = (election.profile.name(), self.group);
        add(
            &mut line,
            format_args!(
                " advbase {advbase}, advskew {advskew}, deadratio {deadratio}, profile {profile}, group {group}"
            ),
        );
        if let Some(source) = self.source {
            add(&mut line, format_args!(", source {source}"));
        }
        if let Some(refresh) = election.announce_refresh {
            add(
                &mut line,
                format_args!(", announce-refresh {} s", refresh.as_secs()),
            );
        }
        let flags = [
            (election.preempt, "preempt"),
            (election.strict_counter, "strict-counter"),
            (election.no_openbsd, "no-openbsd"),
            (self.broadcast, "nomcast"),
            (self.own_mac, "own-mac"),
            (self.ignore_carrier, "ignoreifstate"),
            (self.neutral, "neutral"),
            (self.release_at_exit, "shutdown"),
            (
                self.ownership == Ownership::Native,
                "carpd owns the address",
            ),
            (
                self.ownership == Ownership::Scripts,
                "the scripts own the address",
            ),
        ];
        add_flags(&mut line, &flags);
        let scripts = [
            ("upscript", &self.scripts.up),
            ("downscript", &self.scripts.down),
        ];
        for (option, script) in scripts {
            if let Some(script) = script {
                add(&mut line, format_args!(", {option} {}", script.display()));
            }
        }
        line
    }
}

/// Adds the flags that are set.
fn add_flags(line: &mut String, flags: &[(bool, &str)]) {
    for (_, flag) in flags.iter().filter(|(given, _)| *given) {
        add(line, format_args!(", {flag}"));
    }
}

fn add(line: &mut String, text: impl Display) {
    write!(line, "{text}").expect("writing to a String cannot fail");
}
