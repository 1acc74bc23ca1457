//! Finds what builds and tests need, and brings what is missing.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::apt::{self, Package};
use crate::shell::{self, find_program, is_root, run as run_command, say};
use crate::toolchain::{
    self, BPF_LINKER_VERSION, Compiler, DEBIAN_RUST, LINKER_LLVM, LLVM_PACKAGE, LLVM_PROGRAMS,
    Recipe,
};

/// Find or install what the builds and tests need
#[derive(clap::Args, Default)]
#[command(
    long_about = "Find or install what the builds and tests need: a compiler and linker for eBPF, and the programs \
    the end-to-end tests run beside carpd.\n\nDoes nothing when all is there; says what it installs before it does. Packages come \
    from apt (as root); bpf-linker is built into ~/.cache/carpd/tools ($XDG_CACHE_HOME, or CARPD_TOOLS, names another \
    place), so that it outlives `cargo clean` and serves every clone. When something cannot be brought, each missing piece is named with \
    the command that would bring it."
)]
pub struct Args {
    /// Only report what is missing, install nothing
    #[arg(long)]
    pub check: bool,
}

/// Programs that the end-to-end tests run, and the Debian package of each.
const TEST_PROGRAMS: [(&str, Package); 4] = [
    ("ucarp", Package::any("ucarp")),
    ("keepalived", Package::any("keepalived")),
    ("tcpdump", Package::any("tcpdump")),
    ("ip", Package::any("iproute2")),
];

/// Programs of the Rust toolchain in use that the checks run, and the rustup component of each.
const RUST_PROGRAMS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// One thing that brings a missing piece.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Debian packages, installed together.
    Apt(Vec<Package>),
    /// Components for the rustup toolchain in use.
    RustupComponents(Vec<&'static str>),
    /// rustup's nightly with the source of `core`.
    Nightly,
    /// bpf-linker, built against Debian's LLVM.
    BpfLinker,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt(packages) => {
                f.write_str("Debian packages")?;
                packages
                    .iter()
                    .try_for_each(|package| write!(f, " {}", package.name))
            }
            Self::RustupComponents(components) => {
                write!(f, "rustup components {}", components.join(" "))
            }
            Self::Nightly => f.write_str("rustup's nightly toolchain with rust-src"),
            Self::BpfLinker => write!(
                f,
                "bpf-linker {BPF_LINKER_VERSION}, built from source (about a minute)"
            ),
        }
    }
}

impl Step {
    /// The command that takes this step by hand.
    fn command(&self) -> String {
        match self {
            Self::Apt(packages) => {
                format!("sudo {}", shell::display(&apt::install_command(packages)))
            }
            Self::RustupComponents(components) => {
                format!("rustup component add {}", components.join(" "))
            }
            Self::Nightly => {
                "rustup toolchain install nightly --profile minimal --component rust-src".to_owned()
            }
            Self::BpfLinker => {
                format!(
                    "PATH={LLVM_PROGRAMS}:$PATH {}",
                    shell::display(&linker_install(&mut shell::cargo()))
                )
            }
        }
    }

    /// Why this step cannot be taken here, or nothing when it can.
    fn obstacle(&self) -> Option<&'static str> {
        match self {
            Self::Apt(_) if !apt::is_present() => Some("this machine has no apt"),
            Self::Apt(_) if !is_root() => Some("packages need root"),
            Self::RustupComponents(_) | Self::Nightly if find_program("rustup").is_none() => {
                Some("this machine has no rustup (https://rustup.rs)")
            }
            Self::Apt(_) | Self::RustupComponents(_) | Self::Nightly | Self::BpfLinker => None,
        }
    }

    fn take(&self) -> Result<()> {
        match self {
            Self::Apt(packages) => apt::install(packages),
            Self::RustupComponents(components) => run_command(
                Command::new("rustup")
                    .args(["component", "add"])
                    .args(components),
            ),
            Self::Nightly => run_command(Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ])),
            Self::BpfLinker => build_linker(),
        }
    }
}

/// Finds or brings everything.
///
/// # Errors
///
/// When a piece is missing and cannot be brought, or with `--check` when any is missing.
pub fn run(args: &Args) -> Result<()> {
    let mut steps = compiler_steps(None);
    let has_apt_step = steps.iter().position(|step| matches!(step, Step::Apt(_)));
    let programs = missing_test_packages();
    match has_apt_step.map(|position| &mut steps[position]) {
        // One run of apt for everything.
        Some(Step::Apt(packages)) => packages.extend(programs),
        _ if !programs.is_empty() => steps.push(Step::Apt(programs)),
        _ => {}
    }
    let components: Vec<_> = RUST_PROGRAMS
        .iter()
        .filter(|(program, _)| !toolchain_has(program))
        .map(|(_, component)| *component)
        .collect();
    if !components.is_empty() {
        steps.push(Step::RustupComponents(components));
    }
    if steps.is_empty() {
        for toolchain in toolchain::ready().iter().take(1) {
            say(&format!(
                "eBPF compiler: {}, {}",
                toolchain.compiler.recipe, toolchain.compiler.version
            ));
            say(&format!("eBPF linker: {}", toolchain.linker.display()));
        }
        say("all that builds and tests need is there");
        return Ok(());
    }
    if args.check {
        bail!("missing:{}", explain(&steps));
    }
    bring(&steps)
}

/// Finds or brings a compiler and linker for eBPF, and nothing else.
///
/// # Errors
///
/// When there is none and none can be brought.
pub fn bring_compiler(recipe: Option<Recipe>) -> Result<()> {
    bring(&compiler_steps(recipe))
}

/// Finds or brings the programs that the end-to-end tests run.
///
/// # Errors
///
/// When one is missing and cannot be brought.
pub fn bring_test_programs() -> Result<()> {
    let packages = missing_test_packages();
    if packages.is_empty() {
        Ok(())
    } else {
        bring(&[Step::Apt(packages)])
    }
}

fn missing_test_packages() -> Vec<Package> {
    TEST_PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

/// Takes every step, or none when one of them is impossible here.
fn bring(steps: &[Step]) -> Result<()> {
    if steps.iter().any(|step| step.obstacle().is_some()) {
        bail!("missing, and not to be had from here:{}", explain(steps));
    }
    for step in steps {
        say(&format!("installing {step}"));
        step.take()?;
    }
    Ok(())
}

/// One line for each missing piece: what, why not, and the command that brings it.
fn explain(steps: &[Step]) -> String {
    steps
        .iter()
        .map(|step| {
            let obstacle = step
                .obstacle()
                .map(|why| format!(" ({why})"))
                .unwrap_or_default();
            format!(
                "\n  {step}{obstacle}\n    bring it with: {}",
                step.command()
            )
        })
        .collect()
}

/// What has to be done until a compiler for eBPF is ready; nothing when one is.
fn compiler_steps(wanted: Option<Recipe>) -> Vec<Step> {
    let allowed = |recipe: Recipe| wanted.is_none_or(|wanted| wanted == recipe);
    if toolchain::ready()
        .iter()
        .any(|toolchain| allowed(toolchain.compiler.recipe))
    {
        return Vec::new();
    }
    let present = [Recipe::Rustup, Recipe::Debian]
        .map(|recipe| toolchain::compiler(recipe).filter(|_| allowed(recipe)));
    let recipe = wanted.unwrap_or_else(|| {
        choose(
            &present,
            apt::is_present(),
            find_program("rustup").is_some(),
        )
    });
    let compiler = present
        .into_iter()
        .flatten()
        .find(|compiler| compiler.recipe == recipe);
    steps_for(
        recipe,
        compiler.as_ref(),
        Path::new(LLVM_PROGRAMS).join("llvm-config").exists(),
    )
}

/// The recipe to complete: one whose compiler is there and whose linker we can build, else Debian's where there is apt (its
/// versions stay together), else rustup's.
fn choose(present: &[Option<Compiler>], has_apt: bool, has_rustup: bool) -> Recipe {
    let usable = present
        .iter()
        .flatten()
        .find(|compiler| compiler.llvm <= LINKER_LLVM);
    match usable {
        Some(compiler) => compiler.recipe,
        None if has_rustup && !has_apt => Recipe::Rustup,
        None => Recipe::Debian,
    }
}

fn steps_for(recipe: Recipe, compiler: Option<&Compiler>, has_llvm: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut packages = Vec::new();
    match (recipe, compiler) {
        (_, Some(_)) => {}
        (Recipe::Rustup, None) => steps.push(Step::Nightly),
        (Recipe::Debian, None) => packages.extend(DEBIAN_RUST),
    }
    let needs_linker = compiler.is_none_or(|compiler| toolchain::linker_for(compiler).is_none());
    if needs_linker && !has_llvm {
        packages.push(LLVM_PACKAGE);
    }
    if !packages.is_empty() {
        steps.push(Step::Apt(packages));
    }
    if needs_linker {
        steps.push(Step::BpfLinker);
    }
    steps
}

/// Builds the pinned bpf-linker with a compiler that is there.
fn build_linker() -> Result<()> {
    let tools = toolchain::tools_directory()?;
    if shell::is_executable(&tools.join("bin/bpf-linker")) {
        return Ok(());
    }
    // Debian's compiler when we have it: the outer cargo may be older than bpf-linker wants.
    let mut cargo =
        toolchain::compiler(Recipe::Debian).map_or_else(shell::cargo, |compiler| compiler.cargo());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(LLVM_PROGRAMS.into()).chain(std::env::split_paths(&path)),
    )?;
    run_command(linker_install(&mut cargo).env("PATH", path))
}

/// Completes `cargo` to the command that builds and installs bpf-linker.
fn linker_install(cargo: &mut Command) -> &mut Command {
    let root = toolchain::tools_directory().unwrap_or_else(|_| "~/.cache/carpd/tools".into());
    cargo
        .args([
            "install",
            "bpf-linker",
            "--version",
            &format!("={BPF_LINKER_VERSION}"),
            "--locked",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{LINKER_LLVM}"),
            "--root",
        ])
        .arg(root)
}

/// Whether the toolchain that runs this task has `program`, beside its cargo.
fn toolchain_has(program: &str) -> bool {
    let beside =
        std::env::var_os("CARGO").and_then(|cargo| Some(Path::new(&cargo).parent()?.join(program)));
    beside.is_some_and(|file| shell::is_executable(&file)) || find_program(program).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(recipe: Recipe, llvm: u32) -> Option<Compiler> {
        Some(Compiler {
            recipe,
            version: "rustc".to_owned(),
            llvm,
        })
    }

    #[test]
    fn a_compiler_that_is_there_is_completed_before_another_is_brought() {
        assert_eq!(
            choose(&[compiler(Recipe::Rustup, 22), None], true, true),
            Recipe::Rustup
        );
        assert_eq!(
            choose(&[None, compiler(Recipe::Debian, 22)], true, true),
            Recipe::Debian
        );
        assert_eq!(
            choose(&[compiler(Recipe::Rustup, 23), None], true, true),
            Recipe::Debian,
            "our linker cannot read it"
        );
        assert_eq!(choose(&[None, None], true, true), Recipe::Debian);
        assert_eq!(choose(&[None, None], false, true), Recipe::Rustup);
        assert_eq!(choose(&[None, None], false, false), Recipe::Debian);
    }

    #[test]
    fn a_bare_machine_gets_compiler_llvm_and_linker_in_this_order() {
        let mut packages = DEBIAN_RUST.to_vec();
        packages.push(LLVM_PACKAGE);
        assert_eq!(
            steps_for(Recipe::Debian, None, false),
            [Step::Apt(packages), Step::BpfLinker]
        );
        assert_eq!(
            steps_for(Recipe::Rustup, None, true),
            [Step::Nightly, Step::BpfLinker]
        );
    }

    #[test]
    fn each_missing_piece_is_named_with_its_command() {
        let text = explain(&[Step::Apt(vec![Package::any("ucarp")]), Step::Nightly]);
        assert!(text.contains("Debian packages ucarp"), "{text}");
        assert!(text.contains("sudo apt-get install --yes"), "{text}");
        assert!(text.contains("rustup toolchain install nightly"), "{text}");
    }
}
