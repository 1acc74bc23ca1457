//! What a carpd that was killed leaves under `/run/carpd`: its locks, and the programs it pinned.
//!
//! On a router the next start takes that over. Here there is none: the network namespace goes, its number may be given to
//! another one, and what is left would be that one's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::lab::NETNS_DIR;

/// The locks, and the bpffs with the pins.
const DIRECTORIES: [&str; 2] = ["/run/carpd", "/run/carpd/bpf"];

/// A network namespace as carpd names it in files: device and inode. Unique while the namespace lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    device: u64,
    inode: u64,
}

impl Network {
    /// Of a named namespace.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(name: &str) -> io::Result<Self> {
        let namespace = fs::metadata(Path::new(NETNS_DIR).join(name))?;
        Ok(Self {
            device: namespace.dev(),
            inode: namespace.ino(),
        })
    }

    /// What carpd has left, or still has, there.
    #[must_use]
    pub fn residue(self) -> Vec<PathBuf> {
        let entries = DIRECTORIES.iter().filter_map(|it| fs::read_dir(it).ok());
        entries
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| self.is_in(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect()
    }

    /// Removes it. To be called when no process is left there, and before the namespace goes.
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
                // Another carpd's start may clear up as well.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => {
                    outcome.with_context(|| format!("failed to remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a file's name, parts between colons, has our two numbers side by side.
    fn is_in(self, name: &str) -> bool {
        let parts: Vec<_> = name.split(':').map(str::parse).collect();
        let ours = [Ok(self.device), Ok(self.inode)];
        parts.windows(2).any(|pair| pair == ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_ours_by_both_numbers() {
        let network = Network {
            device: 4,
            inode: 4026532177,
        };
        for ours in [
            "4:4026532177:2",
            "lock:4:4026532177:2:xdp",
            "4:4026532177",
            "lock:4:4026532177:eth0:7",
        ] {
            assert!(network.is_in(ours), "{ours}");
        }
        for other in [
            "4:4026532178:2",
            "lock:4:40265321770:2:xdp",
            "lock:5:4026532177:eth0:7",
            "bpf",
            "lock:4:7:4026532177",
        ] {
            assert!(!network.is_in(other), "{other}");
        }
    }
}
