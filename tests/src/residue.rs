//! The pinned programs that a killed carpd leaves under `/run/carpd`.
//!
//! On a router, the next carpd takes them over. Here there is no next one: the network namespace is deleted, another
//! one may get its number, and would then inherit them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};

use crate::lab::Namespace;

/// The bpffs with the pins.
const DIRECTORY: &str = "/run/carpd/bpf";

sockopt_impl!(
    /// The number that the kernel gives to a network namespace and never reuses.
    Cookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// A network namespace, which carpd names by its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    inode: u64,
    cookie: u64,
}

impl Network {
    /// Of a named namespace.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(name: &str) -> io::Result<Self> {
        Namespace::named(name).enter(Self::current)?
    }

    /// Of the calling thread.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn current() -> io::Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?;
        Ok(Self {
            inode: namespace.ino(),
            cookie: getsockopt(&UnixDatagram::unbound()?, Cookie)?,
        })
    }

    /// Its inode, which a later namespace may reuse.
    #[must_use]
    pub const fn inode(self) -> u64 {
        self.inode
    }

    /// The path at which carpd pins something of a namespace: an interface's pins by its index, `egress`, `addresses-3`.
    #[must_use]
    pub fn pin(self, name: &str) -> PathBuf {
        PathBuf::from(format!("{DIRECTORY}/{}:{name}", self.cookie))
    }

    /// The pins that carpd left, or still uses, there.
    #[must_use]
    pub fn residue(self) -> Vec<PathBuf> {
        let entries = fs::read_dir(DIRECTORY).into_iter().flatten();
        entries
            .filter_map(Result::ok)
            .filter(|entry| self.is_in(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect()
    }

    /// Removes them. Call it when no process is left there, and before the namespace is deleted.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove_residue(self) -> Result<()> {
        for path in self.residue() {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                // A starting carpd may clean up as well.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => {
                    outcome.with_context(|| format!("failed to remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a file's name begins with our cookie, before a colon.
    fn is_in(self, name: &str) -> bool {
        let owner = name.split_once(':').map(|(owner, _)| owner.parse());
        owner == Some(Ok(self.cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_ours_by_its_cookie() {
        let network = Network {
            inode: 4026532177,
            cookie: 12289,
        };
        for ours in ["12289:2", "12289:egress", "12289:addresses-3"] {
            assert!(network.is_in(ours), "{ours}");
        }
        for other in ["12288:2", "122890:2", "4026532177:2", "bpf", "12289"] {
            assert!(!network.is_in(other), "{other}");
        }
    }
}
