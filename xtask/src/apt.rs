//! Debian's package manager: queries, and installation without starting services.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, run, say};

/// The program that packages ask before they start a service (Debian Policy 9.3.3.1). Exit status 101 forbids it.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// A package and its oldest acceptable version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name in the archive.
    pub name: &'static str,
    /// Smallest acceptable (major, minor) of the upstream version; (0, 0) takes any.
    pub at_least: (u32, u32),
}

impl Package {
    /// A package in any version.
    pub const fn any(name: &'static str) -> Self {
        Self {
            name,
            at_least: (0, 0),
        }
    }
}

/// Whether this machine has apt.
pub fn is_present() -> bool {
    shell::find_program("apt-get").is_some() && shell::find_program("apt-cache").is_some()
}

/// Whether the package lists offer every one of `packages` in an acceptable version.
fn offers(packages: &[Package]) -> bool {
    packages.iter().all(|package| {
        shell::output(Command::new("apt-cache").args(["policy", package.name]))
            .and_then(|policy| candidate(&policy))
            .is_some_and(|version| version >= package.at_least)
    })
}

/// Whether `packages` can be installed on this machine.
///
/// With `may_update`, updates package lists that do not offer them. Without it, or without root, the
/// answer on a Debian system is yes.
pub fn can_offer(packages: &[Package], may_update: bool) -> bool {
    if !is_present() || offers(packages) {
        return is_present();
    }
    if may_update && shell::is_root() {
        return update().is_ok() && offers(packages);
    }
    fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian(&text))
}

/// Whether an os-release file is Debian's own.
fn is_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| line.trim() == "ID=debian")
}

/// Fetches the package lists.
///
/// # Errors
///
/// When `apt-get update` fails.
fn update() -> Result<()> {
    say("fetching the package lists (apt-get update)");
    run(Command::new("apt-get").args(["update", "-qq"]))
}

/// Installs `packages`, leaving every service they bring stopped.
///
/// # Errors
///
/// When a package is not offered, or `apt-get install` fails even after an update of the package lists.
pub fn install(packages: &[Package]) -> Result<()> {
    let updated = !offers(packages);
    if updated {
        update()?;
        let unknown = |package: &&Package| !offers(&[**package]);
        if let Some(Package {
            name,
            at_least: (major, minor),
        }) = packages.iter().find(unknown)
        {
            bail!(
                "the package lists of this machine do not offer {name}, version {major}.{minor} or newer"
            );
        }
    }
    let _policy = ServicesStayDown::begin()?;
    let install = || run(&mut install_command(packages));
    match install() {
        // Lists that are too old name files that the mirrors have dropped.
        Err(_) if !updated => {
            update()?;
            install()
        }
        result => result,
    }
}

/// The command that installs `packages`, as `install` runs it.
pub fn install_command(packages: &[Package]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends", "-qq"])
        .args(packages.iter().map(|package| package.name))
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Forbids packages to start services, until it is dropped.
struct ServicesStayDown {
    ours: bool,
}

impl ServicesStayDown {
    fn begin() -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(SERVICE_POLICY);
        match file {
            Ok(mut file) => {
                let guard = Self { ours: true };
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("failed to write {SERVICE_POLICY}"))?;
                Ok(guard)
            }
            // The administrator (or a container image) has decided already.
            Err(_) if Path::new(SERVICE_POLICY).exists() => Ok(Self { ours: false }),
            Err(error) => Err(error).with_context(|| format!("failed to create {SERVICE_POLICY}")),
        }
    }
}

impl Drop for ServicesStayDown {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(SERVICE_POLICY)
        {
            shell::say_error(&format!(
                "failed to remove {SERVICE_POLICY}, please do it by hand: {error}"
            ));
        }
    }
}

/// The upstream (major, minor) of the candidate in the output of `apt-cache policy`.
fn candidate(policy: &str) -> Option<(u32, u32)> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    let upstream = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    version_pair(upstream)
}

/// The first two numbers of a dotted version, the second being 0 when there is none.
pub fn version_pair(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_without_epoch_and_revision() {
        let policy = |candidate| {
            format!("llvm:\n  Installed: (none)\n  Candidate: {candidate}\n  Version table:\n")
        };
        assert_eq!(candidate(&policy("1:22.1.8-1~deb12u1")), Some((22, 1)));
        assert_eq!(candidate(&policy("1.96.0+dfsg1-1~deb12u2")), Some((1, 96)));
        assert_eq!(candidate(&policy("6+really5")), Some((6, 0)));
        assert_eq!(candidate(&policy("(none)")), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn debian_is_told_from_what_derives_from_it() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(!is_debian("ID=ubuntu\nID_LIKE=debian\n"));
    }

    #[test]
    fn the_install_command_never_asks() {
        let command = install_command(&[Package::any("ucarp"), Package::any("tcpdump")]);
        assert_eq!(
            shell::display(&command),
            "apt-get install --yes --no-install-recommends -qq ucarp tcpdump"
        );
    }
}
