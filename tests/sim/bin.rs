//! `cargo xtask sim`: many seeds, or one seed in detail.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints what it found"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;

use carp_tests::sim::{check_seed, scenario::Scenario, trace};

const USAGE: &str = "usage: sim [--seeds N] [--from SEED] | --seed SEED [--trace [--no-attacker]]";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut seeds, mut from, mut one, mut traced, mut attacked) = (2_000, 0, None, false, true);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments
                .next()
                .ok_or(format!("{argument} needs a number"))?;
            value
                .parse::<u64>()
                .map_err(|_| format!("{argument} {value}: not a number from 0 to 2^64 - 1"))
        };
        match argument.as_str() {
            "--seeds" => seeds = number()?,
            "--from" => from = number()?,
            "--seed" => one = Some(number()?),
            "--trace" => traced = true,
            "--no-attacker" => attacked = false,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    if let (Some(seed), true) = (one, traced) {
        print!("{}", trace(&Scenario::from_seed(seed), attacked));
    }
    let seeds = match one {
        Some(seed) => seed..=seed,
        None if seeds == 0 => return Err("--seeds 0: at least 1".into()),
        None => from..=from.saturating_add(seeds - 1),
    };
    Ok(check_all(seeds))
}

/// Runs all seeds. Prints the first failure in full and the others in one line each.
fn check_all(seeds: std::ops::RangeInclusive<u64>) -> ExitCode {
    let (first, last) = (*seeds.start(), *seeds.end());
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    let mut failures = 0_u64;
    for seed in seeds {
        match check_seed(seed) {
            Ok(outcome) => {
                for (what, count) in outcome.tally {
                    *tally.entry(what).or_default() += count;
                }
            }
            Err(report) => {
                let shown = if failures == 0 {
                    &report
                } else {
                    report.lines().next().unwrap_or_default()
                };
                println!("{shown}");
                failures += 1;
            }
        }
    }
    for (what, count) in tally {
        println!("{count:>12} {what}");
    }
    if failures > 0 {
        println!("seeds {first} to {last}: {failures} failed");
        return ExitCode::FAILURE;
    }
    println!("seeds {first} to {last}: every invariant held");
    ExitCode::SUCCESS
}
