//! Simulates whole groups under every fault. The simulation itself is `tests/sim`.

use anyhow::Result;

use crate::build_ebpf;
use crate::shell::{self, cargo};

/// Simulate groups of hosts under every fault: many seeds, or one in detail
#[derive(clap::Args)]
#[command(
    long_about = "Simulate groups of hosts under every fault: the daemon's engine beside models of ucarp, FreeBSD, \
    OpenBSD and NetBSD, on one virtual clock.\n\n\
    A failure prints its seed and the last lines of its trace; the seed repeats the run. What must hold is written in \
    tests/sim/mod.rs.",
    after_help = "Examples:\n  cargo xtask sim --seeds 100000\n  cargo xtask sim --seed 46 --trace"
)]
pub struct Args {
    /// How many seeds to run
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2_000,
        conflicts_with = "seed"
    )]
    seeds: u64,

    /// The first seed
    #[arg(
        long,
        value_name = "SEED",
        default_value_t = 0,
        conflicts_with = "seed"
    )]
    from: u64,

    /// Run only this seed
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,

    /// Print everything that happens
    #[arg(long, requires = "seed")]
    trace: bool,

    /// Leave the attacker out, to see what the attacker changes
    #[arg(long, requires = "trace")]
    no_attacker: bool,
}

/// Runs the simulation, optimised.
///
/// # Errors
///
/// When it does not build, or a seed breaks an invariant.
pub fn run(args: &Args) -> Result<()> {
    // The daemon, whose engine is simulated, embeds the object.
    build_ebpf::run(&build_ebpf::Args::default())?;
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        "carp-tests",
        "--bin",
        "sim",
        "--",
    ]);
    command.args(arguments(args));
    shell::run(&mut command)
}

fn arguments(args: &Args) -> Vec<String> {
    let Some(seed) = args.seed else {
        return [
            "--seeds".into(),
            args.seeds.to_string(),
            "--from".into(),
            args.from.to_string(),
        ]
        .into();
    };
    let mut arguments = vec!["--seed".into(), seed.to_string()];
    arguments.extend(args.trace.then(|| "--trace".into()));
    arguments.extend(args.no_attacker.then(|| "--no-attacker".into()));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_or_a_range_of_them_is_passed_on() {
        let many = Args {
            seeds: 100_000,
            from: 7,
            seed: None,
            trace: false,
            no_attacker: false,
        };
        assert_eq!(arguments(&many), ["--seeds", "100000", "--from", "7"]);
        let one = Args {
            seed: Some(46),
            trace: true,
            ..many
        };
        assert_eq!(arguments(&one), ["--seed", "46", "--trace"]);
    }
}
