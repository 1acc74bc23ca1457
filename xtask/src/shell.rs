//! Starting programs, finding them, and talking to the person who waits.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Where programs live that a user's PATH may lack, because they are for the administrator.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The top of the repository.
pub fn root() -> &'static Path {
    // xtask is run from its own checkout, through the alias in .cargo/config.toml.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a directory of the repository")
}

/// Whether this process may do everything (network namespaces, packages).
pub fn is_root() -> bool {
    // Files below /proc/self belong to the effective user.
    fs::metadata("/proc/self/status").is_ok_and(|status| status.uid() == 0)
}

/// The first executable file called `name` on PATH, or in an administrator's directory.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a regular file that may be executed.
pub fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Where host builds go.
pub fn target_directory() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The cargo that runs this task.
///
/// The user's choices (`cargo +nightly xtask`, RUSTFLAGS, CARGO_TARGET_DIR) stay in force; what cargo told xtask
/// about xtask itself is removed, so that builds started here and by hand share their cache.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// A program that builds with another toolchain than the one that runs this task.
///
/// Every choice of compiler, flags and output directory that came with the outer cargo is removed; where crates come
/// from (CARGO_HOME, CARGO_HTTP_*, CARGO_NET_*) stays.
pub fn foreign_toolchain(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        if names_a_toolchain_choice(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    // A missing toolchain is ours to report; rustup must not download one behind our back.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

fn names_a_toolchain_choice(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_PROFILE_",
        "RUSTDOC",
    ];
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        // cargo puts its own toolchain's libraries here.
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_BOOTSTRAP",
    ];
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (name.starts_with("RUSTC_") && name.ends_with("WRAPPER"))
}

/// Whether the Rust toolchain that runs this task has `program`, beside its cargo or on PATH.
pub fn toolchain_has(program: &str) -> bool {
    let beside = env::var_os("CARGO")
        .and_then(|cargo| Some(Path::new(&cargo).parent()?.join(program)))
        .is_some_and(|file| is_executable(&file));
    beside || find_program(program).is_some()
}

/// Runs `command` with the terminal as its own.
///
/// # Errors
///
/// When it cannot be started or does not succeed; the message holds the whole command.
pub fn run(command: &mut Command) -> Result<()> {
    let text = display(command);
    let status = command
        .status()
        .with_context(|| format!("failed to start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// Runs `command`, passing its output on line by line and to `read` as well.
///
/// # Errors
///
/// When it cannot be started. The returned value is whether it succeeded.
pub fn run_watched(command: &mut Command, read: impl FnMut(&str) + Send) -> Result<bool> {
    let text = display(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start `{text}`"))?;
    let read = Mutex::new(read);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Two threads: a program that waits for room in one pipe while we read the other would wait forever.
    thread::scope(|scope| {
        scope.spawn(|| pass_on(stdout, std::io::stdout(), &read));
        scope.spawn(|| pass_on(stderr, std::io::stderr(), &read));
    });
    Ok(child
        .wait()
        .with_context(|| format!("failed to wait for `{text}`"))?
        .success())
}

fn pass_on(from: Option<impl Read>, mut to: impl Write, read: &Mutex<impl FnMut(&str)>) {
    for line in from
        .into_iter()
        .flat_map(|from| BufReader::new(from).split(b'\n'))
        .map_while(Result::ok)
    {
        let line = String::from_utf8_lossy(&line);
        // A reader that is gone (`| head`) must not stop the tests.
        let _ = writeln!(to, "{line}");
        if let Ok(mut read) = read.lock() {
            read(&line);
        }
    }
}

/// The output of `command`, or nothing if it could not be started or failed.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it, without its environment.
pub fn display(command: &Command) -> String {
    let mut text = Path::new(command.get_program()).display().to_string();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        if argument.contains([' ', '"', '\'', '$', '*']) || argument.is_empty() {
            let _ = write!(text, " '{argument}'");
        } else {
            let _ = write!(text, " {argument}");
        }
    }
    text
}

/// Runs `task`, and returns its result and the time it took.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place here that reads a clock"
)]
pub fn timed<T>(task: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let result = task();
    (result, begin.elapsed())
}

/// Prints a result.
#[expect(clippy::print_stdout, reason = "results go to stdout")]
pub fn show(text: &str) {
    println!("{text}");
}

/// Prints what happens next.
#[expect(
    clippy::print_stderr,
    reason = "progress goes to stderr, as cargo's own does, so that stdout carries results alone"
)]
pub fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1;36mxtask\x1b[0m {text}");
    } else {
        eprintln!("xtask: {text}");
    }
}

/// Prints what the task could not do, although it continues.
#[expect(
    clippy::print_stderr,
    reason = "warnings go to stderr, as progress does"
)]
pub fn warn(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1;33mxtask: warning:\x1b[0m {text}");
    } else {
        eprintln!("xtask: warning: {text}");
    }
}

/// Prints why the task stops.
#[expect(clippy::print_stderr, reason = "errors go to stderr")]
pub fn say_error(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1;31mxtask: error:\x1b[0m {text}");
    } else {
        eprintln!("xtask: error: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_outside_of_a_users_path_only_when_executable() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
        assert!(!is_executable(&root().join("Cargo.toml")));
        assert!(!is_executable(Path::new("/usr")));
    }

    #[test]
    fn toolchain_choices_are_told_from_where_crates_come_from() {
        for name in [
            "RUSTC",
            "RUSTFLAGS",
            "CARGO",
            "CARGO_TARGET_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(names_a_toolchain_choice(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "CARGO_NET_OFFLINE",
            "PATH",
            "RUSTUP_HOME",
            "HOME",
        ] {
            assert!(!names_a_toolchain_choice(name), "{name}");
        }
    }

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let mut command = Command::new("cargo");
        command.args(["build", "a b"]);
        assert_eq!(display(&command), "cargo build 'a b'");
    }
}
