//! `docs/BENCHMARKS.md`: the last run of each benchmark.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::report::{Behind, Report, Table};
use crate::{Places, markdown};

const HEAD: &str = "\
# Benchmarks

carpd measured against Debian's ucarp and keepalived, on one machine, in network namespaces without any other network.
`cargo xtask bench` (as root) runs everything and writes this file; `cargo xtask bench NAME --quick` runs one benchmark
in under a minute and does not change the file. Every comparison interleaves the systems in one run. Cells are `median
[least … most] ×ratio`; the ratio is to the best peer, or to the limit where there is no peer. ↓ means that less is
better, ↑ that more is better. Absolute figures depend on the machine; ratios depend on it less. Samples are in
`target/bench/*.json`. The end of each section compares the last run with the results of `--baseline`, if there are any.
";

/// Writes the file, and the drawings beside it, from the last reports and the baseline.
///
/// # Errors
/// Returns an error if a report cannot be read or a file cannot be written.
pub fn write(names: &[&str], places: &Places, docs: &Path) -> Result<()> {
    let mut loaded = Vec::new();
    for name in names {
        loaded.extend(Report::load(&places.last, name)?);
    }
    let drawings = docs.join("bench");
    fs::create_dir_all(&drawings)?;
    let mut text = HEAD.to_owned();
    text.push_str(&goals(&loaded));
    text.push_str(&behind(&loaded));
    for report in &loaded {
        let _ = write!(text, "\n{}", markdown::report(report, Some("bench")));
        if let Some(before) = Report::load(&places.baseline, &report.name)? {
            text.push_str(&since(&before, report));
        }
        let _ = write!(text, "\n{}", conditions(report));
        crate::plot::draw(report, &drawings)?;
    }
    text.push_str(&commands(&loaded));
    text.push_str(&machine(&loaded));
    let path = docs.join("BENCHMARKS.md");
    fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// Describes how the numbers of carpd changed since the baseline.
fn since(before: &Report, report: &Report) -> String {
    let commit = |report: &Report| report.machine.fact("commit").to_owned();
    let mut text = format!(
        "\n### Since the baseline ({} → {})\n\n",
        commit(before),
        commit(report)
    );
    let mut changes = report.tables.iter().flat_map(|table| {
        let old = before.tables.iter().find(|old| old.title == table.title);
        old.map(|old| table.changes(old)).unwrap_or_default()
    });
    let first = changes.next();
    if first.is_none() {
        text.push_str("No median of carpd moved by a tenth.\n");
    }
    for line in first.into_iter().chain(changes) {
        let _ = writeln!(text, "- {line}");
    }
    text
}

fn goals(reports: &[Report]) -> String {
    let mut text = "\n## Goals\n\n".to_owned();
    for goal in reports.iter().flat_map(|report| &report.goals) {
        let _ = writeln!(text, "- {}", markdown::goal(goal));
    }
    text
}

/// Lists where carpd is not ahead, by reason.
fn behind(reports: &[Report]) -> String {
    let tables = reports.iter().flat_map(|report| &report.tables);
    let mut reasons: Vec<(Option<String>, Vec<String>)> = Vec::new();
    for Behind { what, why } in tables.flat_map(Table::behind) {
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, lines)) => lines.push(what),
            None => reasons.push((why, vec![what])),
        }
    }
    // Rows without a reason of their own come last.
    reasons.sort_by_key(|(why, _)| why.is_none());
    let mut text = "\n## Where carpd is not ahead\n".to_owned();
    for (why, lines) in &reasons {
        let why = why.as_deref().unwrap_or("Without a known reason:");
        let _ = write!(text, "\n{why}\n\n");
        for line in lines {
            let _ = writeln!(text, "- {line}");
        }
    }
    if reasons.is_empty() {
        text.push_str("\nNowhere in the tables below.\n");
    }
    text
}

fn conditions(report: &Report) -> String {
    format!(
        "`cargo xtask bench {}`, {} s; load average at its start {}.{:02}.\n",
        report.name,
        report.seconds,
        report.machine.load_percent / 100,
        report.machine.load_percent % 100
    )
}

/// Lists every command that was started, once.
fn commands(reports: &[Report]) -> String {
    let mut text = "\n## Command lines and configurations\n\n\
        `DIR` stands for a directory of the run, and `…` for more of the same.\n"
        .to_owned();
    let all: BTreeSet<_> = reports.iter().flat_map(|report| &report.commands).collect();
    let mut last = "";
    for (name, command) in all {
        if name != last {
            let _ = write!(text, "\n### {name}\n\n");
            last = name;
        }
        let _ = writeln!(text, "- `{command}`");
    }
    text
}

/// Describes the machine of the latest report; others are named where they differ.
fn machine(reports: &[Report]) -> String {
    let mut text = "\n## Machine and versions\n".to_owned();
    let mut done: Vec<&Report> = Vec::new();
    for report in reports {
        let facts = &report.machine.facts;
        if done.iter().any(|other| other.machine.facts == *facts) {
            continue;
        }
        done.push(report);
        let alike = reports.iter().filter(|other| other.machine.facts == *facts);
        let names: Vec<&str> = alike.map(|report| report.name.as_str()).collect();
        let _ = write!(text, "\nFor {}:\n\n| | |\n|---|---|\n", names.join(", "));
        for (name, value) in facts {
            let _ = writeln!(text, "| {name} | {value} |");
        }
    }
    text
}
