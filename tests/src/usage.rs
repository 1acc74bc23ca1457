//! Resource usage of processes.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Processor time that all threads of these processes have used so far, to the nanosecond. A process that has ended counts
/// nothing.
///
/// # Errors
/// When `/proc` cannot be read as expected.
pub fn cpu_time(pids: &[u32]) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in pids {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads {
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue; // ended meanwhile
            };
            let nanos = text.split_whitespace().next().context("empty schedstat")?;
            total += Duration::from_nanos(nanos.parse()?);
        }
    }
    Ok(total)
}

/// Memory of processes. Unit: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident memory, with shared pages counted in each process.
    pub rss: u64,
    /// Resident memory with shared pages divided among the processes: what the machine spends on all of them.
    pub pss: u64,
}

/// The total memory of these processes now. A process that has ended counts nothing.
///
/// # Errors
/// When `/proc` cannot be read as expected.
pub fn memory(pids: &[u32]) -> Result<Memory> {
    let mut total = Memory::default();
    for pid in pids {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            continue;
        };
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            Ok(kib.with_context(|| format!("no {name}"))?.parse::<u64>()? * 1024)
        };
        total.rss += field("Rss:")?;
        total.pss += field("Pss:")?;
    }
    Ok(total)
}

/// Kernel memory of the eBPF maps that these processes hold, each counted once: `memlock` in `/proc/PID/fdinfo`, which
/// is exact since Linux 6.4 and an estimate before. Unit: bytes.
///
/// # Errors
/// When `/proc` cannot be read as expected.
pub fn map_memory(pids: &[u32]) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for pid in pids {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            continue;
        };
        for file in files {
            let Ok(text) = fs::read_to_string(file?.path()) else {
                continue; // closed meanwhile
            };
            let field = |name: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(name));
                value.and_then(|value| value.trim().parse::<u64>().ok())
            };
            // Programs have a memlock as well.
            if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
                maps.insert(id, bytes);
            }
        }
    }
    Ok(maps.values().sum())
}

/// Time that each processor has spent on received packets and other softirqs since the machine started. Resolution:
/// 10 ms.
///
/// # Errors
/// When `/proc` cannot be read as expected.
pub fn softirq_times() -> Result<Vec<Duration>> {
    /// `USER_HZ` of every architecture that Linux runs on today.
    const TICK: Duration = Duration::from_millis(10);
    let text = fs::read_to_string("/proc/stat")?;
    let processors = text.lines().filter(|line| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
    });
    processors
        .map(|line| {
            // cpuN user nice system idle iowait irq softirq …
            let ticks = line.split_whitespace().nth(7).context("short line")?;
            Ok(TICK * ticks.parse()?)
        })
        .collect()
}
