//! The state directory: after a restart, carpd knows what it heard, and no error of the directory is fatal.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::{PASSWORD, datapath};
use carp_tests::lab::note;
use carp_tests::{Carpd, Daemon, Host, Mark, eventually, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

const RECALLED: &str = "recalled what 1 of 1 virtual hosts heard before";
const FORGOTTEN: &str = "recalled what 0 of 1 virtual hosts heard before";

fn backup(host: &Host, directory: &Path) -> Result<Daemon> {
    let directory = directory.to_str().context("a path in UTF-8")?;
    Carpd::for_address(ADDRESS, SLOW)?
        .arg(format!("--state-dir={directory}"))
        .start(host)
}

#[test]
fn a_backup_knows_after_a_restart_what_it_heard_before() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let place = tempfile::tempdir()?;
    // carpd creates it, because it was given explicitly.
    let directory = place.path().join("state");
    let file = directory.join("heard:eth0:7");
    let _a = pair.master(&pair.a, FAST)?;

    let mut b = backup(&pair.b, &directory)?;
    b.says_once(FORGOTTEN)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.terminate(LONG)? == 0);
    // Written after carpd dropped its privileges.
    let metadata = fs::metadata(&file).with_context(|| b.transcript())?;
    ensure!(metadata.permissions().mode() & 0o777 == 0o600 && metadata.len() > 0);
    ensure!(
        fs::read_dir(&directory)?.count() == 1,
        "nothing else is left"
    );

    let mut b = backup(&pair.b, &directory)?;
    b.says_once(RECALLED)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.terminate(LONG)? == 0);

    // carpd ignores a damaged file and replaces it at the end.
    let kept = fs::read(&file)?;
    fs::write(&file, &kept[..kept.len() - 1])?;
    let mut b = backup(&pair.b, &directory)?;
    b.says_once("is damaged")?;
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.terminate(LONG)? == 0);
    let b = backup(&pair.b, &directory)?;
    b.says_once(RECALLED)?;
    Ok(())
}

#[test]
fn a_state_directory_that_cannot_be_used_is_warned_of_and_ends_nothing() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let place = tempfile::tempdir()?;
    let open = place.path().join("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, Permissions::from_mode(0o777))?;
    let _a = pair.master(&pair.a, FAST)?;
    for (directory, reason) in [
        (open, "must be a directory that only its owner"),
        (place.path().join("deep/er"), "failed to create"),
    ] {
        let mut b = backup(&pair.b, &directory)?;
        let warned = b.says_once("what is heard from peers will be forgotten at exit")?;
        ensure!(warned.text.contains(reason), "{}", warned.text);
        pair.stays_the_only_master(&pair.a, 3)?;
        ensure!(b.terminate(LONG)? == 0);
    }
    // Removed while carpd runs.
    let directory = place.path().join("gone");
    let mut b = backup(&pair.b, &directory)?;
    fs::remove_dir(&directory)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.terminate(LONG)? == 0);
    b.says_once("cannot keep what was heard from peers")?;
    Ok(())
}

#[test]
fn a_realtime_carpd_with_locked_memory_keeps_what_it_heard() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let place = tempfile::tempdir()?;
    let _a = pair.master(&pair.a, FAST)?;
    let directory = place.path().to_str().context("a path in UTF-8")?;
    let mut b = Carpd::for_address(ADDRESS, &format!("{SLOW} --realtime"))?
        .arg(format!("--state-dir={directory}"))
        .start(&pair.b)?;
    pair.stays_the_only_master(&pair.a, 3)?;
    ensure!(b.terminate(LONG)? == 0);
    ensure!(
        place.path().join("heard:eth0:7").is_file(),
        "{}",
        b.transcript()
    );
    Ok(())
}

#[test]
fn each_of_255_virtual_hosts_is_kept_one_at_a_time_and_all_at_the_end() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let place = tempfile::tempdir()?;
    let (password, vhosts) = (place.path().join("password"), place.path().join("vhosts"));
    fs::write(&password, PASSWORD)?;
    fs::set_permissions(&password, Permissions::from_mode(0o600))?;
    let lines: String = (1..=255)
        .map(|vhid| {
            let password = password.display();
            format!("-i eth0 -v {vhid} -a 10.9.1.{vhid} -r 1 -o {password}\n")
        })
        .collect();
    fs::write(&vhosts, lines)?;
    let directory = place.path().join("state");
    let files = || Ok(fs::read_dir(&directory)?.count());
    let carpd = Carpd::bare()?
        .args(&format!("-f none --datapath {} --vhosts", datapath()))
        .arg(vhosts.display().to_string())
        .arg(format!("--state-dir={}", directory.display()));
    let mut a = carpd.start(&pair.a)?;
    a.says_once("recalled what 0 of 255")?;
    // The first has its turn after a 255th of ten minutes, while carpd serves.
    let kept = eventually("a file while carpd runs", LONG, || {
        files().map(|count| (count > 0).then_some(count))
    })?;
    ensure!(kept < 20, "{kept} files at once");
    eventually("all to be MASTER", LONG, || {
        Ok((a.lines_with("Switching to state: MASTER").len() == 255).then_some(()))
    })?;
    let asked = Instant::now();
    ensure!(a.terminate(LONG)? == 0);
    let took = asked.elapsed();
    note(&format!(
        "255 virtual hosts stopped and were kept in {took:?}"
    ));
    ensure!(files()? == 255, "{} files", files()?);
    let a = carpd.start(&pair.a)?;
    a.says_once("recalled what 255 of 255")?;
    Ok(())
}

#[test]
fn without_a_state_directory_one_line_says_what_is_lost() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // Whether or not this machine has a /var/lib/carpd that would be used, this carpd has no state directory.
    let carpd = Carpd::for_address(ADDRESS, FAST)?.command();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs none /var/lib && exec \"$@\"")
        .arg("sh")
        .arg(carpd.get_program())
        .args(carpd.get_args())
        .env_remove("STATE_DIRECTORY");
    let a = Daemon::spawn(&pair.a, "carpd", &mut command)?;
    pair.capture.advertisement(Mark::default(), "a", LONG)?;
    a.says_once("no state directory")?;
    Ok(())
}
