//! Boots another kernel and tries carpd on it.
//!
//! The machine consists of that kernel, busybox, carpd with its libraries and the kernel tests of the programs. It is
//! emulated if there is no KVM. `test_kernel/init.sh` runs inside; its output arrives over the serial line, and its last
//! line is the verdict.

use std::env::consts::ARCH;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, cargo, find_program, say};
use crate::{build, build_ebpf, setup};

/// Boot another kernel and try carpd on it
#[derive(clap::Args)]
#[command(
    long_about = "Boot another kernel under qemu and try carpd on it: load and run every eBPF program, and hold an election \
    between two namespaces on every way to receive.\n\n\
    Without --kernel that is Debian's 6.1 cloud kernel, fetched with apt-get. Needs no root, once qemu, busybox and cpio \
    are there; software emulation takes the place of KVM where that is missing.",
    after_help = "Examples:\n  cargo xtask test-kernel\n  cargo xtask test-kernel --kernel \
    linux-image-6.12.0-1-cloud-amd64.deb\n  cargo xtask test-kernel --kernel /boot/vmlinuz-6.8.0-50-generic"
)]
pub struct Args {
    /// A Debian package with a kernel, or a kernel whose modules are in /lib/modules
    #[arg(long, value_name = "PATH.deb|vmlinuz")]
    pub kernel: Option<PathBuf>,

    /// How long the machine may run. Unit: seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub timeout: u32,
}

/// The machine's first process.
const INIT: &str = include_str!("test_kernel/init.sh");

/// The beginning of the verdict's line.
const VERDICT: &str = "test-kernel: ";
/// The rest of that line on success.
const SOUND: &str = "passed";

/// Modules that the tests need if they are not built in, each after its dependencies.
const MODULES: [&str; 2] = ["veth", "sch_ingress"];

/// Programs of this machine that are copied into the other one.
const PROGRAMS: [&str; 2] = ["busybox", "ip"];

/// Makes the machine, boots it, and waits for its verdict.
///
/// # Errors
///
/// When something is missing or does not build, or the verdict is bad or never comes.
pub fn run(args: &Args) -> Result<()> {
    setup::install_for_test_kernel()?;
    build::run(&build::Args { release: true })?;
    let directory = shell::target_directory().join("test-kernel");
    fs::create_dir_all(&directory)
        .with_context(|| format!("failed to create {}", directory.display()))?;
    let kernel = Kernel::find(args.kernel.as_deref(), &directory)?;
    let initramfs = pack(&kernel, &directory)?;
    boot(&kernel, &initramfs, args.timeout)
}

/// A kernel to boot.
#[derive(Debug)]
struct Kernel {
    image: PathBuf,
    /// Where its modules are, if it has any.
    modules: Option<PathBuf>,
}

impl Kernel {
    fn find(given: Option<&Path>, directory: &Path) -> Result<Self> {
        match given {
            None => Self::unpack(&fetch(directory)?, directory),
            Some(package)
                if package
                    .extension()
                    .is_some_and(|extension| extension == "deb") =>
            {
                Self::unpack(package, directory)
            }
            Some(image) => {
                let name = image.file_name().unwrap_or_default().to_string_lossy();
                let modules = name
                    .strip_prefix("vmlinuz-")
                    .map(|release| Path::new("/lib/modules").join(release))
                    .filter(|modules| modules.is_dir());
                if !image.is_file() {
                    bail!("{} is not a file", image.display());
                }
                Ok(Self {
                    image: image.to_owned(),
                    modules,
                })
            }
        }
    }

    /// From a Debian package.
    fn unpack(package: &Path, directory: &Path) -> Result<Self> {
        let unpacked = directory.join("kernel");
        start_afresh(&unpacked)?;
        shell::run(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(package)
                .arg(&unpacked),
        )?;
        let image = only_entry(&unpacked.join("boot"), "vmlinuz-")?;
        // In /usr/lib since Debian 13.
        let modules = ["lib/modules", "usr/lib/modules"]
            .iter()
            .find_map(|modules| only_entry(&unpacked.join(modules), "").ok());
        Ok(Self { image, modules })
    }
}

/// The package with Debian's 6.1 cloud kernel, which is small and starts quickly.
fn fetch(directory: &Path) -> Result<PathBuf> {
    let names = shell::output(Command::new("apt-cache").args([
        "search",
        "--names-only",
        "^linux-image-6[.]1[.]0-[0-9]+-cloud-(amd64|arm64)$",
    ]))
    .unwrap_or_default();
    let Some(name) = latest(&names) else {
        bail!(
            "the package lists of this machine offer no linux-image-6.1.0-*-cloud; run `apt-get update`, or give another \
            kernel with --kernel"
        );
    };
    if let Ok(package) = only_entry(directory, &format!("{name}_")) {
        return Ok(package);
    }
    say(&format!("fetching {name}"));
    shell::run(
        Command::new("apt-get")
            .args(["download", "-qq", name])
            .current_dir(directory),
    )?;
    only_entry(directory, &format!("{name}_"))
}

/// The name with the highest version in the output of `apt-cache search`.
fn latest(search: &str) -> Option<&str> {
    let abi = |name: &&str| -> Option<u32> { name.split('-').nth(3)?.parse().ok() };
    search
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by_key(abi)
}

/// Makes the file system that the machine starts with.
fn pack(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("root");
    start_afresh(&tree)?;
    for name in ["bin", "dev", "lib", "modules", "proc", "run", "sys", "tmp"] {
        fs::create_dir(tree.join(name))?;
    }
    // One place for libraries, wherever the loader looks for them.
    symlink("lib", tree.join("lib64"))?;
    fs::create_dir(tree.join("usr"))?;
    symlink("../lib", tree.join("usr/lib"))?;
    write_program(&tree.join("init"), INIT)?;
    copy(&build_ebpf::object(), &tree.join("carp-ebpf"))?;
    let mut programs = vec![
        (build::binary(true), "carpd"),
        (kernel_tests()?, "kernel-tests"),
    ];
    for name in PROGRAMS {
        programs.push((program(name)?, name));
    }
    for (program, name) in programs {
        copy(&program, &tree.join("bin").join(name))?;
        for library in libraries(&program) {
            // `/lib/x86_64-linux-gnu/libc.so.6` and `/lib64/ld-linux-x86-64.so.2` keep their places below lib.
            let place = library
                .iter()
                .skip_while(|part| !part.to_string_lossy().starts_with("lib"))
                .skip(1)
                .collect::<PathBuf>();
            copy(&library, &tree.join("lib").join(place))?;
        }
    }
    for name in MODULES {
        copy_module(kernel, name, &tree.join("modules"))?;
    }
    let initramfs = directory.join("initramfs.gz");
    shell::run(
        Command::new("sh")
            .args(["-c", "find . | cpio --quiet -o -H newc | gzip -1 > \"$0\""])
            .arg(&initramfs)
            .current_dir(&tree),
    )?;
    Ok(initramfs)
}

/// Copies a module, unpacked; an absent one is built in.
fn copy_module(kernel: &Kernel, name: &str, to: &Path) -> Result<()> {
    let Some(modules) = &kernel.modules else {
        return Ok(());
    };
    let found = shell::output(
        Command::new("find")
            .arg(modules)
            .args(["-name", &format!("{name}.ko*")]),
    );
    let Some(file) = found.as_deref().and_then(|found| found.lines().next()) else {
        return Ok(());
    };
    let unpack = match Path::new(file).extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz -dc",
        Some("zst") => "zstd -qdc",
        Some("gz") => "gzip -dc",
        _ => "cat",
    };
    shell::run(
        Command::new("sh")
            .args(["-c", &format!("{unpack} \"$0\" > \"$1\""), file])
            .arg(to.join(format!("{name}.ko"))),
    )
}

/// The kernel tests of the eBPF programs, built.
fn kernel_tests() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--locked", "--no-run", "--package", "carp-daemon"]);
    build.args(["--test", "xdp_program", "--message-format=json"]);
    let messages = shell::output(&mut build).context("the kernel tests do not build")?;
    executable(&messages)
        .map(PathBuf::from)
        .context("cargo did not say where the kernel tests are")
}

/// The last executable that cargo's messages name: that of the test, after those of the package.
fn executable(messages: &str) -> Option<&str> {
    messages
        .lines()
        .filter(|line| line.contains("\"name\":\"xdp_program\""))
        .find_map(|line| {
            let (_, rest) = line.split_once("\"executable\":\"")?;
            Some(rest.split_once('"')?.0)
        })
}

/// The shared libraries that a program is started with; none for a static one, which `ldd` refuses.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let list = shell::output(Command::new("ldd").arg(program)).unwrap_or_default();
    list.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Runs the machine and reads its output, with KVM if it works, and otherwise emulated.
fn boot(kernel: &Kernel, initramfs: &Path, timeout: u32) -> Result<()> {
    for accelerator in ["kvm", "tcg"] {
        if accelerator == "kvm" && !Path::new("/dev/kvm").exists() {
            continue;
        }
        say(&format!(
            "booting {} ({accelerator})",
            kernel.image.display()
        ));
        match watch(&mut machine(kernel, initramfs, accelerator, timeout)?)? {
            End::Verdict(verdict) if verdict == SOUND => return Ok(()),
            End::Verdict(verdict) => bail!("{verdict}"),
            End::Silence if accelerator == "kvm" => say("KVM does not work here"),
            End::Silence => {}
        }
    }
    bail!("the machine gave no verdict within {timeout} s")
}

/// The command that runs it.
fn machine(kernel: &Kernel, initramfs: &Path, accelerator: &str, timeout: u32) -> Result<Command> {
    let (emulator, machine, console) = match ARCH {
        "x86_64" => ("qemu-system-x86_64", "q35", "ttyS0"),
        "aarch64" => ("qemu-system-aarch64", "virt", "ttyAMA0"),
        other => bail!("test-kernel knows no machine for {other}"),
    };
    // One stream for the output of the machine and of the emulator.
    let mut qemu = Command::new("sh");
    qemu.args(["-c", "exec timeout \"$@\" 2>&1", "sh"]);
    qemu.arg(timeout.to_string()).arg(program(emulator)?);
    qemu.args(["-machine", machine, "-accel", accelerator, "-cpu", "max"]);
    qemu.args(["-m", "1024", "-nographic", "-no-reboot", "-nic", "none"]);
    qemu.arg("-kernel").arg(&kernel.image);
    qemu.arg("-initrd").arg(initramfs);
    qemu.args(["-append", &format!("console={console} panic=-1 quiet")]);
    Ok(qemu)
}

/// How the machine ended.
enum End {
    /// It printed this.
    Verdict(String),
    /// It, or the emulator, stopped before a verdict.
    Silence,
}

/// Prints the machine's output, up to its verdict or its end.
fn watch(machine: &mut Command) -> Result<End> {
    let text = shell::display(machine);
    let mut child = machine
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start `{text}`"))?;
    let mut end = End::Silence;
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|output| BufReader::new(output).split(b'\n'))
        .map_while(Result::ok)
    {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        shell::show(line);
        if let Some(verdict) = line.strip_prefix(VERDICT) {
            end = End::Verdict(verdict.to_owned());
            break;
        }
        // A nested KVM may lack an instruction; the emulator then stops the machine and waits forever.
        if line.starts_with("KVM internal error") {
            break;
        }
    }
    // `timeout` passes the signal on; an emulator that is gone already is fine.
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    child
        .wait()
        .with_context(|| format!("failed to wait for `{text}`"))?;
    Ok(end)
}

fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("there is no program {name}"))
}

/// An empty directory.
fn start_afresh(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("failed to remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("failed to create {}", directory.display()))
}

/// The entry of `directory` whose name begins with `prefix`.
fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("failed to read {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    entries.sort();
    entries
        .pop()
        .with_context(|| format!("{} has no {prefix}*", directory.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))
}

fn write_program(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o755),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_package_has_the_highest_number() {
        let search = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
            linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
            linux-image-6.1.0-54-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n";
        assert_eq!(latest(search), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(latest(""), None);
    }

    #[test]
    fn the_test_is_told_from_the_daemon_among_cargos_messages() {
        let messages = "{\"target\":{\"name\":\"carpd\"},\"executable\":\"/target/carpd\"}\n\
            {\"target\":{\"name\":\"xdp_program\"},\"executable\":\"/target/xdp_program-1\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some("/target/xdp_program-1"));
        assert_eq!(executable(""), None);
    }

    #[test]
    fn the_script_gives_the_verdict_that_is_read() {
        assert!(INIT.contains(&format!("{VERDICT}{SOUND}")));
    }
}
