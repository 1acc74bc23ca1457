//! The machine and the programs of a benchmark.

use std::fs;
use std::process::Command;

use anyhow::Result;
use carp_tests::daemons;
use serde::{Deserialize, Serialize};

const UNKNOWN: &str = "unknown";

/// The machine and the versions of everything that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name and value, in order.
    pub facts: Vec<(String, String)>,
    /// One-minute load average at the beginning, in hundredths. If the machine was busy, only ratios are reliable.
    pub load_percent: u32,
}

impl Machine {
    /// Describes this machine now.
    ///
    /// # Errors
    /// Returns an error if there is no carpd.
    pub fn this() -> Result<Self> {
        let carpd = daemons::binary()?;
        let carpd = carpd.to_string_lossy();
        let facts = [
            ("processor", processor()),
            ("memory", memory()),
            ("kernel", output("uname", &["-sr"])),
            ("system", system()),
            ("carpd", output(&carpd, &["--version"])),
            ("commit", commit()),
            ("ucarp", package("ucarp")),
            ("keepalived", package("keepalived")),
            ("tcpdump", package("tcpdump")),
            ("iperf3", package("iperf3")),
            ("rustc", output("rustc", &["--version"])),
            ("date", output("date", &["-u", "+%Y-%m-%d"])),
        ];
        Ok(Self {
            facts: facts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            load_percent: load_percent(),
        })
    }
}

impl Machine {
    /// Returns one of the facts.
    #[must_use]
    pub fn fact(&self, name: &str) -> &str {
        let fact = self.facts.iter().find(|(known, _)| known == name);
        fact.map_or(UNKNOWN, |(_, value)| value)
    }
}

/// Returns the load average of the last minute, in hundredths.
fn load_percent() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or_default();
    first.replace('.', "").parse().unwrap_or_default()
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let count = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!("{name}, {count} processors")
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    format!("{} MiB", kib / 1024)
}

fn system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

/// Returns `-dirty` if files other than the documentation, which a run writes, differ from the commit.
fn commit() -> String {
    let name = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = output(
        "git",
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            ":!docs",
        ],
    );
    let dirty = if changed == UNKNOWN { "" } else { "-dirty" };
    name + dirty
}

fn package(name: &str) -> String {
    output("dpkg-query", &["-W", "-f=${Version}", name])
}

/// Returns the first line that a command prints, or that it could not be started.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(str::to_owned))
        .filter(|line| !line.is_empty())
        .unwrap_or_else(|| UNKNOWN.to_owned())
}
