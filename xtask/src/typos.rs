//! Checks the spelling in code and prose.

use std::process::Command;

use anyhow::Result;

use crate::shell::{self, root};
use crate::{setup, tool};

/// Check the spelling of code and prose
#[derive(clap::Args)]
#[command(
    long_about = "Check the spelling of code and prose with typos, which knows common mistakes and accepts every other \
    word. _typos.toml names the words that only look like mistakes."
)]
pub struct Args {
    /// Apply corrections that are unambiguous
    #[arg(long)]
    pub write: bool,
}

/// Checks every file that git tracks.
///
/// # Errors
///
/// When typos cannot be built, or finds a mistake.
pub fn run(args: &Args) -> Result<()> {
    let mut typos = Command::new(setup::install_tool(&tool::TYPOS)?);
    typos.current_dir(root()).args(["--format", "brief"]);
    if args.write {
        typos.arg("--write-changes");
    }
    shell::run(&mut typos)
}
