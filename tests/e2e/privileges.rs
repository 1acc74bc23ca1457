//! The privileges that a serving carpd and its scripts keep, and that they suffice for everything that comes later.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::datapath;
use carp_tests::{Carpd, Daemon, Host, Mac, eventually, lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{ADDRESS, FAST, LONG, Pair, Scripts};

/// Numbers of capabilities (capability(7), include/uapi/linux/capability.h).
const DAC_OVERRIDE: u8 = 1;
const KILL: u8 = 5;
const NET_ADMIN: u8 = 12;
const NET_RAW: u8 = 13;
const IPC_LOCK: u8 = 14;
const BPF: u8 = 39;

/// A line of `/proc/PID/status`, or of a copy of it.
fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name}"))?.trim())
}

fn capabilities(status: &str, set: &str) -> Result<BTreeSet<u8>> {
    let mask = u64::from_str_radix(field(status, set)?, 16)?;
    Ok((0..64).filter(|bit| mask >> bit & 1 == 1).collect())
}

fn status_of(daemon: &Daemon) -> Result<String> {
    Ok(fs::read_to_string(format!(
        "/proc/{}/status",
        daemon.pid()
    ))?)
}

/// The capabilities that every carpd of this test run keeps.
fn always_kept() -> BTreeSet<u8> {
    let bpf = (datapath() != "socket").then_some(BPF);
    [NET_ADMIN, NET_RAW].into_iter().chain(bpf).collect()
}

/// Real-time priority and scheduling policy: fields 40 and 41 of `/proc/PID/stat` (proc(5)).
fn scheduling(stat: &str) -> Result<(u32, u32)> {
    let (_, rest) = stat.rsplit_once(')').context("the name ends")?;
    let mut fields = rest.split_whitespace().skip(40 - 3);
    let mut next = || -> Result<u32> { Ok(fields.next().context("too few fields")?.parse()?) };
    Ok((next()?, next()?))
}

const SCHED_OTHER: u32 = 0;
const SCHED_RR: u32 = 2;

/// carpd without the capabilities that `bounding_set` takes away, as setpriv(1) spells it.
fn bounded(host: &Host, bounding_set: &str, carpd: &Carpd) -> Result<Daemon> {
    let carpd = carpd.command();
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", bounding_set])
        .arg(carpd.get_program())
        .args(carpd.get_args());
    Daemon::spawn(host, "carpd", &mut command)
}

#[test]
fn without_scripts_nothing_but_serving_is_left_for_good() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    let mut threads = BTreeSet::new();
    for thread in fs::read_dir(format!("/proc/{}/task", a.pid()))? {
        // The threads for work that could block the engine end quickly.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        let name = field(&status, "Name")?;
        // Writing the log requires none.
        let kept = match name {
            "carpd-log" => BTreeSet::new(),
            _ => always_kept(),
        };
        for set in ["CapEff", "CapPrm"] {
            ensure!(capabilities(&status, set)? == kept, "{status}");
        }
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            ensure!(capabilities(&status, set)?.is_empty(), "{status}");
        }
        ensure!(field(&status, "NoNewPrivs")? == "1", "{status}");
        // SECCOMP_MODE_FILTER
        ensure!(field(&status, "Seccomp")? == "2", "{status}");
        threads.insert(name.to_owned());
    }
    let expected = ["carpd", "carpd-log"];
    ensure!(
        expected.iter().all(|name| threads.contains(*name)),
        "{threads:?}"
    );
    Ok(())
}

#[test]
fn scripts_have_all_of_roots_capabilities_and_carpd_has_not() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    // chroot(2) takes CAP_SYS_CHROOT.
    let copy = scripts.path().join("status");
    let up = scripts.script(
        "up",
        &format!(
            "chroot / true && cat /proc/self/status > {0}.part && mv {0}.part {0}",
            copy.display()
        ),
    )?;
    let a = pair.master(&pair.a, &format!("{FAST} -u {}", up.display()))?;
    let script = eventually("the script writes", LONG, || {
        Ok(fs::read_to_string(&copy).ok())
    })
    .with_context(|| a.transcript())?;
    let carpd = status_of(&a)?;
    let mut kept = always_kept();
    kept.extend([DAC_OVERRIDE, KILL]);
    for set in ["CapEff", "CapPrm"] {
        ensure!(capabilities(&carpd, set)? == kept, "{carpd}");
    }
    let all = capabilities(&fs::read_to_string("/proc/self/status")?, "CapBnd")?;
    ensure!(capabilities(&carpd, "CapBnd")? == all, "{carpd}");
    ensure!(capabilities(&script, "CapEff")? == all, "{script}");
    for status in [&carpd, &script] {
        ensure!(field(status, "NoNewPrivs")? == "0", "{status}");
        ensure!(field(status, "Seccomp")? == "0", "{status}");
    }
    Ok(())
}

#[test]
fn the_kept_privileges_are_enough_for_an_interface_that_comes_back() -> Result<()> {
    for datapath in ["xdp-native", "socket"] {
        let pair = Pair::new(lab!())?;
        let mut a = Carpd::for_address(ADDRESS, &format!("{FAST} -s 10.9.0.1"))?
            .datapath(datapath)
            .start(&pair.a)?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        pair.a.ip("link delete eth0")?;
        a.wait_for("interface eth0 is gone", LONG)?;
        let mark = pair.capture.mark();
        pair.a.add_link("eth0", Mac([2, 0, 0, 0, 7, 1]))?;
        // Its source disappeared with the interface.
        pair.a.ip("address add 10.9.0.1/16 dev eth0")?;
        pair.a.wait_for_address(ADDRESS, true, LONG)?;
        pair.capture.advertisement(mark, "a", LONG)?;
        ensure!(a.dump()?.status["datapath"] == datapath);
        ensure!(a.terminate(LONG)? == 0);
    }
    Ok(())
}

#[test]
fn the_socket_serves_with_two_capabilities_from_the_start() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let carpd = Carpd::for_address(ADDRESS, FAST)?.datapath("socket");
    let mut a = bounded(&pair.a, "-all,+net_admin,+net_raw", &carpd)?;
    pair.a
        .wait_for_address(ADDRESS, true, LONG)
        .with_context(|| a.transcript())?;
    let expected = [NET_ADMIN, NET_RAW].into();
    ensure!(capabilities(&status_of(&a)?, "CapPrm")? == expected);
    ensure!(a.terminate(LONG)? == 0);
    Ok(())
}

#[test]
fn a_missing_capability_is_named_at_the_start_with_the_ways_to_grant_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for (bounding_set, datapath, names) in [
        ("-all,+net_raw", "socket", "CAP_NET_ADMIN"),
        ("-all,+net_admin", "socket", "CAP_NET_RAW"),
        ("-all,+net_admin,+net_raw", "tcx", "CAP_BPF and CAP_PERFMON"),
        ("-all,+net_admin,+net_raw,+bpf", "tcx", "CAP_PERFMON"),
    ] {
        let carpd = Carpd::for_address(ADDRESS, FAST)?.datapath(datapath);
        let mut a = bounded(&pair.a, bounding_set, &carpd)?;
        let status = a.exit_code(LONG)?;
        ensure!(status == 2, "{bounding_set}: {status}\n{}", a.transcript());
        let line = a.says_once("[ERROR]")?.text;
        let first = names.split(' ').next().unwrap_or(names);
        let container = first.replacen("CAP_", "--cap-add=", 1);
        for part in [
            &format!("grant {names}"),
            "AmbientCapabilities=",
            &container,
        ] {
            ensure!(
                line.contains(part),
                "{bounding_set}: {part} is not in {line}"
            );
        }
        ensure!(
            line.matches("failed to create map").count() <= 1 && line.len() < 600,
            "{bounding_set}: {line}"
        );
    }
    Ok(())
}

#[test]
fn without_the_right_to_load_a_warning_names_the_capability_and_the_verdict() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let carpd = Carpd::for_address(ADDRESS, FAST)?.datapath("auto");
    let a = bounded(&pair.a, "-all,+net_admin,+net_raw,+bpf", &carpd)?;
    let line = a.wait_for("receiving on eth0 through datapath socket", LONG)?;
    for part in [
        "grant CAP_PERFMON",
        "the verifier: R",
        "prohibited",
        "nor xdp-native",
    ] {
        ensure!(line.text.contains(part), "{part} is not in {}", line.text);
    }
    ensure!(line.text.len() < 800, "{} bytes", line.text.len());
    pair.a.wait_for_address(ADDRESS, true, LONG)
}

#[test]
fn scripts_that_own_the_addresses_need_no_right_of_carpd_to_assign_them() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let arguments = format!("{FAST} {}", scripts.up_and_down()?);
    let carpd = Carpd::for_address(ADDRESS, &arguments)?.datapath("socket");
    let mut a = bounded(&pair.a, "-all,+net_raw", &carpd)?;
    pair.capture
        .advertisement(carp_tests::Mark::default(), "a", LONG)
        .with_context(|| a.transcript())?;
    ensure!(a.terminate(LONG)? == 0);
    Ok(())
}

#[test]
fn a_user_of_its_own_with_ambient_capabilities_serves() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // Reachable for that user, wherever the tests were built.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let binary = directory.path().join("carpd");
    // Written by another process: see `Scripts::script`.
    pair.a
        .run("cp", &[&carp_tests::daemons::binary()?, &binary])?;
    const SETUP: &str =
        "mount -t tmpfs none /run && install -d -m 700 -o 65534 /run/carpd && exec \"$@\"";
    const CAPABILITIES: &str = "+net_admin,+net_raw,+bpf,+perfmon";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", SETUP, "sh", "setpriv"])
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES])
        .arg(binary)
        .args(Carpd::for_address(ADDRESS, FAST)?.command().get_args());
    let mut a = Daemon::spawn(&pair.a, "carpd", &mut command)?;
    pair.a
        .wait_for_address(ADDRESS, true, LONG)
        .with_context(|| a.transcript())?;
    let status = status_of(&a)?;
    ensure!(field(&status, "Uid")?.starts_with("65534"), "{status}");
    for set in ["CapEff", "CapPrm"] {
        ensure!(capabilities(&status, set)? == always_kept(), "{status}");
    }
    ensure!(a.terminate(LONG)? == 0);
    Ok(())
}

#[test]
fn the_same_user_does_not_read_the_memory() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, FAST)?;
    // All that lets root read any process is taken away (`may_access_mm`, kernel/fork.c); the rest is more than carpd
    // has, so that only being undumpable protects it.
    let without = ["--bounding-set", "-sys_ptrace,-perfmon,-sys_admin"];
    let readable = |pid: u32| {
        let memory = format!("/proc/{pid}/auxv");
        pair.a
            .run("setpriv", &[without[0], without[1], "cat", &memory])
            .is_ok()
    };
    let mut other = Command::new("setpriv");
    other.args(without).args(["sleep", "1000"]);
    let other = Daemon::spawn(&pair.a, "sleep", &mut other)?;
    eventually("another process's memory is readable", LONG, || {
        Ok(readable(other.pid()).then_some(()))
    })?;
    ensure!(!readable(a.pid()));
    Ok(())
}

#[test]
fn realtime_is_round_robin_in_locked_memory_and_scripts_get_neither() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let copy = scripts.path().join("copy");
    let up = scripts.script(
        "up",
        &format!(
            "cat /proc/self/stat /proc/self/status > {0}.part && mv {0}.part {0}",
            copy.display()
        ),
    )?;
    let a = pair.master(&pair.a, &format!("{FAST} --realtime -u {}", up.display()))?;
    let script = eventually("the script writes", LONG, || {
        Ok(fs::read_to_string(&copy).ok())
    })
    .with_context(|| a.transcript())?;
    let (stat, status) = script.split_once('\n').context("two files")?;
    ensure!(scheduling(stat)? == (0, SCHED_OTHER), "{stat}");
    ensure!(field(status, "VmLck")? == "0 kB", "{status}");

    let stat = fs::read_to_string(format!("/proc/{}/stat", a.pid()))?;
    ensure!(scheduling(&stat)? == (49, SCHED_RR), "{stat}");
    let status = status_of(&a)?;
    ensure!(field(&status, "VmLck")? != "0 kB", "{status}");
    ensure!(
        capabilities(&status, "CapPrm")?.contains(&IPC_LOCK),
        "{status}"
    );
    Ok(())
}

/// `/proc/PID/task/TID/stat` of the thread with this name, if there is one now.
fn thread_stat(daemon: &Daemon, name: &str) -> Result<Option<String>> {
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        // A thread may end meanwhile.
        let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        if stat.contains(&format!("({name})")) {
            return Ok(Some(stat));
        }
    }
    Ok(None)
}

#[test]
fn the_thread_that_adds_addresses_is_realtime_too_and_those_that_write_the_log_are_not()
-> Result<()> {
    /// How long the thread is there after an address was added.
    const LINGERS: Duration = Duration::from_millis(50);
    let pair = Pair::new(lab!())?;
    let a = pair.master(&pair.a, &format!("{FAST} --realtime"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    pair.a.ip("address del 10.9.0.100/32 dev eth0")?;
    let give_up_at = Instant::now() + LONG;
    let stat = loop {
        if let Some(stat) = thread_stat(&a, "carpd-netlink")? {
            break stat;
        }
        ensure!(Instant::now() < give_up_at, "{}", a.transcript());
        thread::sleep(LINGERS / 10);
    };
    ensure!(scheduling(&stat)? == (49, SCHED_RR), "{stat}");
    let stat = thread_stat(&a, "carpd-log")?.context("a thread writes the log")?;
    ensure!(scheduling(&stat)? == (0, SCHED_OTHER), "{stat}");
    Ok(())
}

#[test]
fn realtime_that_is_not_permitted_names_what_is_missing() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let table = [
        ("-sys_nice", ["CAP_SYS_NICE", "RLIMIT_RTPRIO"]),
        ("-ipc_lock", ["CAP_IPC_LOCK", "RLIMIT_MEMLOCK"]),
    ];
    for (missing, named) in table {
        let carpd = Carpd::for_address(ADDRESS, &format!("{FAST} --realtime"))?;
        let mut a = bounded(&pair.a, missing, &carpd)?;
        ensure!(a.exit_code(LONG)? == 2, "{}", a.transcript());
        let errors = a.lines_with("--realtime is not permitted");
        ensure!(errors.len() == 1, "{}", a.transcript());
        for name in named {
            ensure!(errors[0].text.contains(name), "{name}: {}", a.transcript());
        }
    }
    Ok(())
}

#[test]
fn in_the_background_no_descriptor_of_the_operators_shell_stays_open() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let file = tempfile::NamedTempFile::new()?;
    let carpd = Carpd::for_address(ADDRESS, &format!("{FAST} -B"))?.command();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"exec 9> "$1"; shift; exec "$@""#, "sh"])
        .arg(file.path())
        .arg(carpd.get_program())
        .args(carpd.get_args());
    let mut parent = Daemon::spawn(&pair.a, "carpd", &mut shell)?;
    ensure!(parent.exit_code(LONG)? == 0, "{}", parent.transcript());
    let pids = pair.a.pids()?;
    ensure!(pids.len() == 1, "{pids:?}");
    for descriptor in fs::read_dir(format!("/proc/{}/fd", pids[0]))? {
        let open = fs::read_link(descriptor?.path())?;
        ensure!(open != file.path(), "{} is open", open.display());
    }
    kill(Pid::from_raw(i32::try_from(pids[0])?), Signal::SIGTERM)?;
    eventually("it ends", LONG, || {
        Ok(pair.a.pids()?.is_empty().then_some(()))
    })
}
