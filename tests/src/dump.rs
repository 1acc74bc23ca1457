//! The report that carpd logs on SIGUSR1.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use carp_common::abi::counters::Counter;
use carp_common::proto::Counters;

/// The counters of the engine itself.
const ENGINE_COUNTERS: [&str; 3] = ["addresses-restored", "arp-conflicts", "event-loop-stalls"];

/// One report: the lines `STATE on IF id N`, `status on IF id N: k=v …`, `counters on IF id N: k=v …` and
/// `counters on IF datapath: k=v …` of one virtual host. An absent counter is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// INIT, BACKUP or MASTER.
    pub state: String,
    /// The status line's values, as text.
    pub status: BTreeMap<String, String>,
    /// The election's counters.
    pub counters: BTreeMap<String, u64>,
    /// The interface's counters, kept where packets are received.
    pub datapath: BTreeMap<String, u64>,
}

impl Dump {
    /// Parses the lines of one report and skips other lines.
    ///
    /// # Errors
    /// When a part is missing or a value is not `name=value`.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut dump = Self::default();
        let mut parts = (false, false, false, false);
        for line in lines {
            // Timestamp and level come first: `2026-01-01T00:00:00.000000: [INFO] `.
            let Some((_, message)) = line.split_once("[INFO] ") else {
                continue;
            };
            if let Some((head, values)) = message.split_once(": ") {
                if head.starts_with("status on ") {
                    dump.status = pairs(values)?
                        .map(|(name, value)| (name.into(), value.into()))
                        .collect();
                    parts.1 = true;
                } else if head.starts_with("counters on ") && head.ends_with(" datapath") {
                    let all = Counter::ALL.into_iter().map(Counter::name);
                    dump.datapath = numbers(values, all)?;
                    parts.2 = true;
                } else if head.starts_with("counters on ") {
                    let all = Counters::default().iter().map(|(name, _)| name);
                    dump.counters = numbers(values, all.chain(ENGINE_COUNTERS))?;
                    parts.3 = true;
                }
            } else if let Some((state, _)) = message.split_once(" on ")
                && ["INIT", "BACKUP", "MASTER"].contains(&state)
            {
                dump.state = state.to_owned();
                parts.0 = true;
            }
        }
        if parts != (true, true, true, true) {
            bail!("the report is incomplete: (state, status, datapath, counters) = {parts:?}");
        }
        Ok(dump)
    }

    /// A counter by its kebab-case name; the sum if both the election and the interface have it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let found = [&self.counters, &self.datapath].map(|counters| counters.get(name).copied());
        if found == [None, None] {
            bail!(
                "no counter {name} among {:?} {:?}",
                self.counters,
                self.datapath
            );
        }
        Ok(found.iter().flatten().sum())
    }

    /// Names and growth of all counters that rose since `before`.
    #[must_use]
    pub fn risen_since(&self, before: &Self) -> BTreeMap<String, u64> {
        let mut risen = BTreeMap::new();
        for (now, before) in [
            (&self.counters, &before.counters),
            (&self.datapath, &before.datapath),
        ] {
            for (name, value) in now {
                let growth = value - before.get(name).copied().unwrap_or(0).min(*value);
                if growth > 0 {
                    *risen.entry(name.clone()).or_default() += growth;
                }
            }
        }
        risen
    }
}

fn pairs(values: &str) -> Result<impl Iterator<Item = (&str, &str)>> {
    let pairs: Result<Vec<_>> = values
        .split_whitespace()
        .map(|pair| {
            pair.split_once('=')
                .with_context(|| format!("{pair} is not name=value"))
        })
        .collect();
    Ok(pairs?.into_iter())
}

/// The counters of a line, and 0 for all others.
fn numbers(values: &str, all: impl Iterator<Item = &'static str>) -> Result<BTreeMap<String, u64>> {
    let mut numbers: BTreeMap<String, u64> = all.map(|name| (name.to_owned(), 0)).collect();
    if values == "all are 0" {
        return Ok(numbers);
    }
    for pair in pairs(values)? {
        let (name, value) = pair;
        let known = numbers
            .get_mut(name)
            .with_context(|| format!("{name} is no counter"))?;
        *known = value
            .parse()
            .with_context(|| format!("{name}={value} is not a number"))?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_other_lines_are_skipped() {
        let dump = Dump::parse([
            "2026-01-01T00:00:00.000000: [WARNING] Switching to state: MASTER",
            "2026-01-01T00:00:00.000000: [INFO] MASTER on eth0 id 1",
            "2026-01-01T00:00:00.000000: [INFO] status on eth0 id 1: datapath=socket source=10.9.0.1",
            "2026-01-01T00:00:00.000000: [INFO] why on eth0 id 1: MASTER for 3.0 s: started; next: nothing",
            "2026-01-01T00:00:00.000000: [INFO] counters on eth0 id 1: sent-inet-packets=3 dropped-short-packet=1",
            "2026-01-01T00:00:00.000000: [INFO] counters on eth0 datapath: dropped-wrong-ttl=2 dropped-short-packet=4",
        ])
        .unwrap();
        assert_eq!(dump.state, "MASTER");
        assert_eq!(dump.status["datapath"], "socket");
        assert_eq!(dump.counter("sent-inet-packets").unwrap(), 3);
        assert_eq!(dump.counter("dropped-wrong-ttl").unwrap(), 2);
        assert_eq!(dump.counter("dropped-short-packet").unwrap(), 5);
        assert_eq!(dump.counter("challenges").unwrap(), 0, "it is left out");
        assert!(dump.counter("unheard-of").is_err());
    }

    #[test]
    fn an_incomplete_report_is_an_error() {
        assert!(Dump::parse(["x: [INFO] MASTER on eth0 id 1"]).is_err());
    }
}
