//! A network namespace for one test.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread, which belongs to the test alone, to a new network namespace. Threads that it starts are in that
/// namespace as well. Returns whether that worked. If it did not, the test is skipped.
pub fn is_isolated() -> bool {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        let required = |name| std::env::var_os(name).is_some();
        assert!(
            !required("CARP_REQUIRE_ROOT") && !required("CI"),
            "no network namespace: {errno}"
        );
        eprintln!("skipped: no network namespace: {errno}");
        return false;
    }
    true
}

/// Runs ip(8), and returns what it printed.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
