//! Missing capabilities, and how an administrator grants them.

use std::fmt;

use caps::{CapSet, Capability};

/// The capabilities that an operation requires and this process lacks. May be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingCapabilities(Vec<Capability>);

impl MissingCapabilities {
    /// Returns which of these capabilities this process lacks.
    #[must_use]
    pub fn of(wanted: &[Capability]) -> Self {
        let has = |it| caps::has_cap(None, CapSet::Effective, it).unwrap_or(false);
        // CAP_SYS_ADMIN includes these two (capabilities(7)).
        let includes = |it| matches!(it, Capability::CAP_BPF | Capability::CAP_PERFMON);
        let may = |it| has(it) || includes(it) && has(Capability::CAP_SYS_ADMIN);
        Self(wanted.iter().copied().filter(|it| !may(*it)).collect())
    }

    /// Returns advice for the administrator: how to grant the capabilities, or what else may forbid the operation if
    /// none is missing.
    #[must_use]
    pub fn way_out(&self) -> String {
        if self.0.is_empty() {
            return "carpd has the capabilities, but in a user namespace of its own, or a security module or lockdown \
                    forbids it"
                .to_owned();
        }
        let options = self.0.iter().map(|it| format!("--cap-add={}", short(*it)));
        format!(
            "grant {self}: AmbientCapabilities={} in a systemd unit, {} for a container",
            self.names().join(" "),
            options.collect::<Vec<_>>().join(" ")
        )
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for MissingCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(" and "))
    }
}

/// Returns the name as container tools write it.
fn short(capability: Capability) -> String {
    let name = capability.to_string();
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_to_grant_capabilities_has_its_spelling() {
        let lacking = MissingCapabilities(vec![Capability::CAP_BPF, Capability::CAP_NET_ADMIN]);
        assert_eq!(
            lacking.way_out(),
            "grant CAP_BPF and CAP_NET_ADMIN: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN in a systemd unit, --cap-add=BPF \
             --cap-add=NET_ADMIN for a container"
        );
        assert!(
            MissingCapabilities(Vec::new())
                .way_out()
                .contains("user namespace")
        );
    }
}
