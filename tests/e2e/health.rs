//! Interference of others with carpd's program and maps while it serves. It notices before it trusts a silence.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_common::abi::layout::{VHOSTS_MAX, VhostValue};
use carp_tests::lab::note;
use carp_tests::{Carpd, Daemon, eventually, lab};

use crate::rungs;
use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// Interval 1.04 s, master-down time 3.04 s: slow enough to distinguish noticing from hearing.
const ORDINARY: &str = "-b 1 -k 10";

/// Runs it, and returns its output.
pub fn bpftool(arguments: &[&str]) -> Result<String> {
    let output = Command::new("bpftool")
        .args(arguments)
        .output()
        .context("is bpftool installed?")?;
    ensure!(
        output.status.success(),
        "bpftool {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The ids behind the descriptors that a process keeps, of this kind: `link_id` or `map_id`.
pub fn ids(daemon: &Daemon, kind: &str) -> Result<BTreeSet<String>> {
    let look = || -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid()))? {
            // A descriptor that is closed meanwhile is not one of those.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            let id = info.lines().find_map(|line| line.strip_prefix(kind));
            ids.extend(id.map(|id| id.trim_start_matches(':').trim().to_owned()));
        }
        Ok(ids)
    };
    // The thread that checks the programs has some for a moment, once per second.
    let before = look()?;
    thread::sleep(Duration::from_millis(300));
    Ok(before.intersection(&look()?).cloned().collect())
}

/// The id of one of a carpd's maps by its name, of which the kernel keeps 15 bytes.
fn map(daemon: &Daemon, name: &str) -> Result<String> {
    for id in ids(daemon, "map_id")? {
        if bpftool(&["map", "show", "id", &id])?.contains(&format!("name {name} ")) {
            return Ok(id);
        }
    }
    anyhow::bail!("no map {name}")
}

/// Detaches a carpd's program from its interface with `bpftool`, as another tool could.
fn detach(daemon: &Daemon) -> Result<()> {
    let links = ids(daemon, "link_id")?;
    let [link] = &Vec::from_iter(links)[..] else {
        anyhow::bail!("not one link");
    };
    bpftool(&["link", "detach", "id", link]).map(drop)
}

/// The number of advertisements delivered to the carpd so far.
fn delivered(daemon: &Daemon) -> Result<u64> {
    daemon.dump()?.counter("delivered")
}

fn hears_again(daemon: &Daemon) -> Result<()> {
    let before = delivered(daemon)?;
    eventually("it hears again", LONG, || {
        Ok((delivered(daemon)? > before).then_some(()))
    })
}

fn a_detached_program(rung: &str) -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, "-b 1 -k 0")?;
    let b = Carpd::for_address(ADDRESS, ORDINARY)?
        .datapath(rung)
        .start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 2)?;
    let mark = pair.capture.mark();
    detach(&b)?;
    let detached = Instant::now();
    let said = b.wait_for("detached carpd's program from the interface", LONG)?;
    let noticed = said.at.saturating_duration_since(detached);
    note(&format!("{rung}: noticed after {noticed:?}"));
    // A second, and an allowance for a busy machine.
    ensure!(noticed < Duration::from_millis(1700), "{noticed:?}");
    hears_again(&b)?;
    // For longer than its master-down time, it did not declare the MASTER dead.
    pair.stays_the_only_master(&pair.a, 5)?;
    pair.only_master_since(mark, &pair.a)?;
    ensure!(b.dump()?.status["datapath"] == rung);
    b.says_once("detached carpd's program from the interface")?;
    Ok(())
}

#[test]
fn a_tcx_program_that_is_detached_is_noticed_within_a_second_and_attached_again() -> Result<()> {
    a_detached_program("tcx")
}

#[test]
fn an_xdp_program_that_is_detached_is_noticed_within_a_second_and_attached_again() -> Result<()> {
    a_detached_program("xdp-native")
}

/// The master-down time is shorter than the second between two checks.
#[test]
fn a_backup_whose_program_is_detached_looks_before_it_takes_over() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("tcx")
        .start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let mark = pair.capture.mark();
    for _ in 0..3 {
        detach(&b)?;
        hears_again(&b)?;
        pair.stays_the_only_master(&pair.a, 10)?;
    }
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn a_master_whose_program_is_detached_stays_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let a = Carpd::for_address(ADDRESS, FAST)?
        .datapath("tcx")
        .start(&pair.a)?;
    pair.capture
        .advertisements_reach(pair.capture.mark(), "a", 3, LONG)?;
    detach(&a)?;
    a.wait_for("detached carpd's program from the interface", LONG)?;
    a.wait_for_after(a.mark() - 1, "receiving on eth0", LONG)?;
    pair.stays_the_only_master(&pair.a, 10)?;
    a.says_once("Switching to state: MASTER")?;
    ensure!(ids(&a, "link_id")?.len() == 1);
    Ok(())
}

/// Another program takes the hook. With an explicit `--datapath` there is no alternative, so the host is in INIT
/// until that program goes.
#[test]
fn a_hook_that_another_program_took_is_given_up_and_taken_again_when_it_is_free() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("xdp-generic")
        .start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let mark = pair.capture.mark();
    // Again, in case carpd is faster.
    eventually("another program has the hook", LONG, || {
        detach(&b).ok();
        Ok(rungs::attach(&pair.b, "eth0", "xdpgeneric").ok())
    })?;
    let said = b.wait_for("in INIT until advertisements can be received", LONG)?;
    ensure!(said.text.contains("taken by program"), "{}", said.text);
    b.wait_for("Switching to state: INIT", LONG)?;
    pair.stays_the_only_master(&pair.a, 20)?;
    b.says_once("in INIT until advertisements can be received")?;
    let lines = b.mark();
    pair.b.ip("link set dev eth0 xdpgeneric off")?;
    b.wait_for_after(lines, "receiving on eth0", LONG)?;
    b.wait_for_after(lines, "Switching to state: BACKUP", LONG)?;
    pair.stays_the_only_master(&pair.a, 10)?;
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn a_hook_that_another_program_took_makes_auto_take_the_next_rung() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // Not a veth, so native XDP comes first.
    pair.b.ip("tuntap add tap7 mode tap")?;
    pair.b.ip("link set tap7 up")?;
    let b = Carpd::for_address(ADDRESS, &format!("{SLOW} -i tap7 -s 10.9.0.7"))?
        .datapath("auto")
        .spawn(&pair.b)?;
    b.wait_for("receiving on tap7 through datapath xdp-native", LONG)?;
    b.wait_for("is down: in INIT", LONG)?;
    let lines = b.mark();
    eventually("another program has the hook", LONG, || {
        detach(&b).ok();
        Ok(rungs::attach(&pair.b, "tap7", "xdpdrv").ok())
    })?;
    let said = b.wait_for_after(lines, "receiving on tap7 through datapath tcx", LONG)?;
    ensure!(said.text.contains("not xdp-native: "), "{}", said.text);
    ensure!(b.dump()?.status["datapath"] == "tcx");
    Ok(())
}

/// Fills the map of virtual hosts, as another program could, or empties it again.
fn fill(id: &str, on: bool) -> Result<()> {
    let value = "0 ".repeat(size_of::<VhostValue>());
    let lines = (0..VHOSTS_MAX).map(|number| {
        let [a, b, c, _] = number.to_le_bytes();
        // With interfaces that do not exist.
        let key = format!("{a} {b} {c} 255 0 0 0 0 0 0 0 0");
        match on {
            true => format!("map update id {id} key {key} value {value}\n"),
            false => format!("map delete id {id} key {key}\n"),
        }
    });
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(lines.collect::<String>().as_bytes())?;
    let path = file.path().display().to_string();
    bpftool(&["batch", "file", &path]).map(drop)
}

#[test]
fn a_virtual_host_without_room_in_the_map_is_in_init_and_not_a_second_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    pair.b.ip("link set eth0 down")?;
    let b = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("tcx")
        .spawn(&pair.b)?;
    b.wait_for("is down: in INIT until it comes up", LONG)?;
    b.wait_for("receiving on eth0", LONG)?;
    let vhosts = map(&b, "VHOSTS")?;
    fill(&vhosts, true)?;
    let mark = pair.capture.mark();
    pair.b.ip("link set eth0 up")?;
    pair.b.plug_in()?;
    b.wait_for("Switching to state: INIT", LONG)?;
    // Several master-down times and several tries.
    pair.stays_the_only_master(&pair.a, 30)?;
    b.says_once("failed to write eBPF map VHOSTS")?;
    ensure!(b.dump()?.state == "INIT");
    let lines = b.mark();
    fill(&vhosts, false)?;
    b.wait_for_after(lines, "Switching to state: BACKUP", LONG)?;
    pair.stays_the_only_master(&pair.a, 10)?;
    ensure!(delivered(&b)? > 0);
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn a_backup_whose_entry_is_removed_looks_before_it_takes_over() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    let b = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("tcx")
        .start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 5)?;
    let vhosts = map(&b, "VHOSTS")?;
    let mark = pair.capture.mark();
    let entry = bpftool(&["-j", "map", "dump", "id", &vhosts])?;
    let (_, rest) = entry.split_once("\"key\":[").context("an entry")?;
    let (key, _) = rest.split_once(']').context("a key")?;
    let bytes: Vec<&str> = key.split(',').map(|byte| byte.trim_matches('"')).collect();
    let mut delete = vec!["map", "delete", "id", &vhosts, "key"];
    delete.extend(bytes);
    bpftool(&delete)?;
    b.wait_for("removed or changed its entry", LONG)?;
    hears_again(&b)?;
    pair.stays_the_only_master(&pair.a, 20)?;
    pair.only_master_since(mark, &pair.a)
}

#[test]
fn an_entry_whose_keys_cannot_be_written_is_not_published() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = pair.master(&pair.a, FAST)?;
    pair.b.ip("link set eth0 down")?;
    let b = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("tcx")
        .spawn(&pair.b)?;
    b.wait_for("receiving on eth0", LONG)?;
    bpftool(&["map", "freeze", "id", &map(&b, "KEYS")?])?;
    let vhosts = map(&b, "VHOSTS")?;
    pair.b.ip("link set eth0 up")?;
    pair.b.plug_in()?;
    let said = b.wait_for("failed to enlarge eBPF map KEYS", LONG)?;
    ensure!(said.text.contains("[ERROR]"), "{}", said.text);
    b.wait_for("Switching to state: INIT", LONG)?;
    for _ in 0..10 {
        pair.stays_the_only_master(&pair.a, 2)?;
        let entries = bpftool(&["map", "dump", "id", &vhosts])?;
        ensure!(entries.contains("Found 0 elements"), "{entries}");
    }
    ensure!(b.dump()?.state == "INIT");
    Ok(())
}
