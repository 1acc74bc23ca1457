//! Finds what builds and tests need, and installs what is missing.

mod step;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Package};
use crate::msrv;
use crate::shell::{self, find_program, say};
use crate::tool::{CARGO_DENY, TYPOS, Tool};
use crate::toolchain::{
    self, Compiler, DEBIAN_RUST, LINKER_LLVM, LLVM_PACKAGE, LLVM_PROGRAMS, Recipe,
};
use step::Step;

/// Find or install what the builds and tests need
#[derive(clap::Args, Default)]
#[command(
    long_about = "Find or install what the builds and tests need: a compiler and linker for eBPF, and \
    the programs the end-to-end tests run beside carpd.\n\n\
    Does nothing if everything is there, and prints what it installs before it does. Packages come from apt (as root). \
    bpf-linker, cargo-deny and typos are built into ~/.cache/carpd/tools ($XDG_CACHE_HOME/carpd/tools, or CARPD_TOOLS, when \
    set), so that they outlive `cargo clean` and serve every clone. If something cannot be installed, each missing piece is \
    named with the command that would install it."
)]
pub struct Args {
    /// Only report what is missing, install nothing
    #[arg(long)]
    pub check: bool,
}

/// Programs that the tests run, each with its Debian package.
const TEST_PROGRAMS: [(&str, Package); 7] = [
    ("ucarp", Package::any("ucarp")),
    ("keepalived", Package::any("keepalived")),
    ("tcpdump", Package::any("tcpdump")),
    ("ip", Package::any("iproute2")),
    // Detaches programs and inspects maps from outside, as an operator would.
    ("bpftool", Package::any("bpftool")),
    // Booted in namespaces, to run carpd in a real unit.
    ("systemctl", Package::any("systemd")),
    // The fuzz targets have libFuzzer inside, which is C++.
    ("c++", Package::any("g++")),
];

/// Programs that only `test-kernel` runs, each with its Debian package.
const TEST_KERNEL_PROGRAMS: [(&str, Package); 4] = [
    (
        if cfg!(target_arch = "aarch64") {
            "qemu-system-aarch64"
        } else {
            "qemu-system-x86_64"
        },
        Package::any(if cfg!(target_arch = "aarch64") {
            "qemu-system-arm"
        } else {
            "qemu-system-x86"
        }),
    ),
    ("busybox", Package::any("busybox-static")),
    ("cpio", Package::any("cpio")),
    ("ip", Package::any("iproute2")),
];

/// Programs that `bench` runs in addition to those of the tests, each with its Debian package.
const BENCHMARK_PROGRAMS: [(&str, Package); 3] = [
    ("iperf3", Package::any("iperf3")),
    ("ethtool", Package::any("ethtool")),
    ("strip", Package::any("binutils")),
];

/// Programs of the Rust toolchain in use that the checks run, each with its rustup component.
const RUST_PROGRAMS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// Programs from crates.io that the checks run.
const CHECKERS: [Tool; 2] = [CARGO_DENY, TYPOS];

/// Finds or installs everything.
///
/// # Errors
///
/// When something is missing and cannot be installed, or with `--check` when anything is missing.
pub fn run(args: &Args) -> Result<()> {
    let mut steps = test_steps(!args.check);
    for step in check_steps() {
        // Only `ci` needs these, and fails without them.
        match step.obstacle() {
            Some(why) => say(&format!("for `ci` there is no {step} ({why})")),
            None => steps.push(step),
        }
    }
    if args.check && !steps.is_empty() {
        bail!("missing:{}", explain(&steps));
    }
    install(&steps)?;
    if let (false, Err(why)) = (args.check, msrv::install()) {
        say(&format!("for `msrv`: {why:#}"));
    }
    for toolchain in toolchain::ready().iter().take(1) {
        let compiler = &toolchain.compiler;
        say(&format!(
            "eBPF compiler: {}, {}",
            compiler.recipe, compiler.version
        ));
        say(&format!("eBPF linker: {}", toolchain.linker.display()));
    }
    say("everything that builds and tests need is installed");
    Ok(())
}

/// Finds or installs what `cargo xtask test` and `demo` need.
///
/// # Errors
///
/// When something is missing and cannot be installed.
pub fn install_for_tests() -> Result<()> {
    install(&test_steps(true))
}

/// Finds or installs what `cargo xtask test-kernel` needs in addition to a build.
///
/// # Errors
///
/// When something is missing and cannot be installed.
pub fn install_for_test_kernel() -> Result<()> {
    let mut steps = compiler_steps(None, true);
    steps.push(Step::Packages(missing(&TEST_KERNEL_PROGRAMS)));
    install(&merged(steps))
}

/// Finds or installs what `cargo xtask bench` needs in addition to a build.
///
/// # Errors
///
/// When something is missing and cannot be installed.
pub fn install_for_benchmarks() -> Result<()> {
    let mut steps = test_steps(true);
    steps.push(Step::Packages(missing(&BENCHMARK_PROGRAMS)));
    install(&merged(steps))
}

/// Finds or installs one program from crates.io, and returns its path.
///
/// # Errors
///
/// When it cannot be built.
pub fn install_tool(tool: &Tool) -> Result<PathBuf> {
    if tool.installed().is_none() {
        install(&[Step::Tool(*tool)])?;
    }
    tool.installed()
        .with_context(|| format!("{} was built without {}", tool.package, tool.program))
}

/// Finds or installs what the checks of formatting, lints, dependencies and spelling need.
///
/// # Errors
///
/// When something is missing and cannot be installed.
pub fn install_for_checks() -> Result<()> {
    install(&check_steps())
}

/// Finds or installs a compiler and linker for eBPF, and nothing else.
///
/// # Errors
///
/// When there is none and none can be installed.
pub fn install_compiler(recipe: Option<Recipe>) -> Result<()> {
    install(&compiler_steps(recipe, true))
}

/// Takes every step, or none if one of them is impossible here.
fn install(steps: &[Step]) -> Result<()> {
    if steps.iter().any(|step| step.obstacle().is_some()) {
        bail!("missing, and cannot be installed here:{}", explain(steps));
    }
    for step in steps {
        say(&format!("installing {step}"));
        step.take()?;
    }
    Ok(())
}

/// One line for each missing piece: what, why not, and the command that installs it.
fn explain(steps: &[Step]) -> String {
    steps
        .iter()
        .map(|step| {
            let why = step
                .obstacle()
                .map(|why| format!(" ({why})"))
                .unwrap_or_default();
            format!("\n  {step}{why}\n    install it with: {}", step.by_hand())
        })
        .collect()
}

/// All packages in one step, before the steps that build with them.
fn merged(steps: Vec<Step>) -> Vec<Step> {
    let mut packages = Vec::new();
    let mut rest = Vec::new();
    for step in steps {
        match step {
            Step::Packages(more) => packages.extend(more),
            Step::Components(_)
            | Step::Nightly
            | Step::BuiltLinker
            | Step::Tool(_)
            | Step::PublishedLinker => rest.push(step),
        }
    }
    if !packages.is_empty() {
        rest.insert(0, Step::Packages(packages));
    }
    rest
}

/// The packages of those programs that are not there.
fn missing(programs: &[(&str, Package)]) -> Vec<Package> {
    programs
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

fn test_steps(may_update: bool) -> Vec<Step> {
    let mut steps = compiler_steps(None, may_update);
    steps.push(Step::Packages(missing(&TEST_PROGRAMS)));
    merged(steps)
}

fn check_steps() -> Vec<Step> {
    let missing: Vec<_> = RUST_PROGRAMS
        .iter()
        .filter(|(program, _)| !shell::toolchain_has(program))
        .map(|(_, component)| *component)
        .collect();
    let components = (!missing.is_empty()).then_some(Step::Components(missing));
    let tools = CHECKERS.into_iter().filter(|it| it.installed().is_none());
    components
        .into_iter()
        .chain(tools.map(Step::Tool))
        .collect()
}

/// Returns the steps until a compiler for eBPF is ready; none if one is.
fn compiler_steps(wanted: Option<Recipe>, may_update: bool) -> Vec<Step> {
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
        let has_rustup = find_program("rustup").is_some();
        choose(&present, has_rustup, || {
            apt::can_offer(&DEBIAN_RUST, may_update)
        })
    });
    let compiler = present
        .into_iter()
        .flatten()
        .find(|compiler| compiler.recipe == recipe);
    let has_linker = compiler
        .as_ref()
        .is_some_and(|compiler| toolchain::linker_for(compiler).is_some());
    let llvm = if has_linker || Path::new(LLVM_PROGRAMS).join("llvm-config").exists() {
        Llvm::Present
    } else if apt::can_offer(&[LLVM_PACKAGE], may_update) {
        Llvm::Offered
    } else {
        Llvm::Absent
    };
    steps_for(recipe, compiler.is_some(), has_linker, llvm)
}

/// Whether there is an LLVM to build bpf-linker with.
#[derive(Clone, Copy)]
enum Llvm {
    Present,
    Offered,
    Absent,
}

/// The recipe to complete: one whose compiler is there and whose linker we can build, else Debian's where it is
/// offered (its versions stay together), else rustup's.
fn choose(
    present: &[Option<Compiler>],
    has_rustup: bool,
    debian_offered: impl Fn() -> bool,
) -> Recipe {
    let usable = present
        .iter()
        .flatten()
        .find(|compiler| compiler.llvm <= LINKER_LLVM);
    match usable {
        Some(compiler) => compiler.recipe,
        None if has_rustup && !debian_offered() => Recipe::Rustup,
        None => Recipe::Debian,
    }
}

fn steps_for(recipe: Recipe, has_compiler: bool, has_linker: bool, llvm: Llvm) -> Vec<Step> {
    let mut packages = Vec::new();
    let mut steps = Vec::new();
    match recipe {
        _ if has_compiler => {}
        Recipe::Rustup => steps.push(Step::Nightly),
        Recipe::Debian => packages.extend(DEBIAN_RUST),
    }
    match llvm {
        _ if has_linker => {}
        Llvm::Present => steps.push(Step::BuiltLinker),
        Llvm::Offered => {
            packages.push(LLVM_PACKAGE);
            steps.push(Step::BuiltLinker);
        }
        Llvm::Absent => steps.push(Step::PublishedLinker),
    }
    if !packages.is_empty() {
        steps.insert(0, Step::Packages(packages));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_there_is_completed_before_another_is_installed() {
        let compiler = |recipe, llvm| {
            Some(Compiler {
                recipe,
                version: "rustc".to_owned(),
                llvm,
            })
        };
        let nightly = |llvm| compiler(Recipe::Rustup, llvm);
        let table = [
            ([nightly(22), None], true, true, Recipe::Rustup),
            (
                [None, compiler(Recipe::Debian, 22)],
                true,
                false,
                Recipe::Debian,
            ),
            // Our linker could not read what this nightly writes.
            ([nightly(23), None], true, true, Recipe::Debian),
            ([None, None], true, true, Recipe::Debian),
            ([None, None], true, false, Recipe::Rustup),
            ([None, None], false, false, Recipe::Debian),
        ];
        for (present, has_rustup, debian_offered, expected) in table {
            assert_eq!(
                choose(&present, has_rustup, || debian_offered),
                expected,
                "{present:?}"
            );
        }
    }

    #[test]
    fn a_bare_machine_gets_compiler_llvm_and_linker_in_this_order() {
        let mut packages = DEBIAN_RUST.to_vec();
        packages.push(LLVM_PACKAGE);
        let table = [
            (
                (Recipe::Debian, false, false, Llvm::Offered),
                vec![Step::Packages(packages), Step::BuiltLinker],
            ),
            (
                (Recipe::Rustup, false, false, Llvm::Present),
                vec![Step::Nightly, Step::BuiltLinker],
            ),
            (
                (Recipe::Rustup, true, false, Llvm::Absent),
                vec![Step::PublishedLinker],
            ),
            ((Recipe::Debian, true, true, Llvm::Absent), vec![]),
        ];
        for ((recipe, has_compiler, has_linker, llvm), expected) in table {
            assert_eq!(steps_for(recipe, has_compiler, has_linker, llvm), expected);
        }
    }

    #[test]
    fn packages_are_installed_together_and_first() {
        let (one, two) = (Package::any("one"), Package::any("two"));
        let steps = merged(vec![
            Step::Packages(vec![one]),
            Step::BuiltLinker,
            Step::Packages(vec![two]),
        ]);
        assert_eq!(steps, [Step::Packages(vec![one, two]), Step::BuiltLinker]);
    }

    #[test]
    fn each_missing_piece_has_a_line_of_its_own_with_its_command() {
        let text = explain(&[Step::Packages(vec![Package::any("ucarp")]), Step::Nightly]);
        assert_eq!(text.matches("install it with: ").count(), 2, "{text}");
    }
}
