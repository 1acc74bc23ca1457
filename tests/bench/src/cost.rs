//! The cost of one packet in the kernel.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::report::{Cell, Column, Row, Side, Table};
use crate::{Findings, Plan};

const METHOD: &str = "\
`BPF_PROG_TEST_RUN` on single frames, thousands of times each, in interleaved rounds, less the fixed cost of a test run.
The first row of each table is a program that only passes every packet. A genuine advertisement can be measured only once,
so its figure is that of a single run with cold caches; all others are those of repeated runs. The measuring code is the
`xdp_program` test of carp-daemon, `cost::prices`.";

/// Runs the test that measures, and parses its output: `price: HOOK | FRAME | limit or ours | NS NS …`.
pub fn run(plan: Plan) -> Result<Findings> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--locked", "--release"])
        .args(["--package", "carp-daemon", "--test", "xdp_program", "--"])
        .args(["--ignored", "--exact", "--nocapture", "cost::prices"])
        .env("CARP_BENCH_ROUNDS", plan.choose("5", "31"))
        .env("CARP_REQUIRE_ROOT", "1")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "the test failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut tables = BTreeMap::<String, Vec<Row>>::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("price: ")) {
        let mut parts = line.split(" | ");
        let mut part = || parts.next().with_context(|| format!("short line: {line}"));
        let (hook, frame, side, samples) = (part()?, part()?, part()?, part()?);
        let samples = samples
            .split_whitespace()
            .map(|sample| sample.parse::<f64>().map(|picos| picos / 1000.0))
            .collect::<Result<Vec<_>, _>>()?;
        tables.entry(hook.to_owned()).or_default().push(Row {
            name: frame.to_owned(),
            side: if side == "limit" {
                Side::Limit
            } else {
                Side::Ours
            },
            cells: vec![Cell::Samples(samples)],
        });
    }
    ensure!(!tables.is_empty(), "the test printed no prices:\n{text}");
    Ok(Findings {
        title: "Cost of a packet",
        method: METHOD.to_owned(),
        tables: tables
            .into_iter()
            .map(|(hook, rows)| Table {
                title: format!("Program on {hook}"),
                columns: vec![Column::less("ns").because(
                    "Inspection is not free, and CARP packets also pay for two SHA-1 compressions.",
                )],
                rows,
                drawn: Some(0),
            })
            .collect(),
        ..Findings::default()
    })
}
