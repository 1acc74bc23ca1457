//! `--vhosts`: several virtual hosts on several interfaces from one process.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use carp_tests::daemons::{PASSWORD, datapath};
use carp_tests::{Carpd, Daemon, Host, Mac, Mark, lab};
use nix::sys::signal::Signal;

use crate::support::{FAST, LONG, Pair, SLOW};

/// Vhid, interface and address of each virtual host.
const VHOSTS: [(u8, &str, Ipv4Addr); 3] = [
    (7, "eth0", Ipv4Addr::new(10, 9, 0, 107)),
    (8, "eth0", Ipv4Addr::new(10, 9, 0, 108)),
    (9, "eth1", Ipv4Addr::new(10, 9, 0, 109)),
];

/// The files of a host.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let password = directory.path().join("password");
        fs::write(&password, PASSWORD)?;
        fs::set_permissions(password, fs::Permissions::from_mode(0o600))?;
        Ok(Self { directory })
    }

    /// A file with these lines, each with the password file appended.
    fn vhosts(&self, lines: &[String]) -> Result<PathBuf> {
        let path = self.directory.path().join("vhosts");
        let password = self.directory.path().join("password");
        let lines = lines
            .iter()
            .map(|line| format!("{line} -o {}\n", password.display()));
        fs::write(
            &path,
            format!("# of a test\n\n{}", lines.collect::<String>()),
        )?;
        Ok(path)
    }
}

/// The line of a virtual host.
fn line((vhid, interface, address): (u8, &str, Ipv4Addr), options: &str) -> String {
    // The interfaces of the lab have addresses in different subnets, so the second line names its source.
    let source = if interface == "eth0" {
        ""
    } else {
        "-s 10.9.0.77"
    };
    format!("-v {vhid} -i {interface} -a {address} {options} {source}")
}

fn carpd(file: &Path) -> Result<Carpd> {
    Ok(Carpd::bare()?
        .args(&format!("-f none --datapath {} --vhosts", datapath()))
        .arg(file.display().to_string()))
}

/// The name of a host's interface in the capture.
fn station(host: &Host, interface: &str) -> String {
    match interface {
        "eth0" => host.name().to_owned(),
        other => format!("{}-{other}", host.name()),
    }
}

/// Waits until the host advertises every one of these from the right interface, and has the addresses.
fn serves(pair: &Pair, host: &Host, vhids: &[u8], daemon: &Daemon) -> Result<()> {
    let mark = pair.capture.mark();
    for (vhid, interface, address) in VHOSTS {
        let served = vhids.contains(&vhid);
        host.wait_for_address(address, served, LONG)?;
        if served {
            let station = station(host, interface);
            let what = format!("vhid {vhid} from {station}\n{}", daemon.transcript());
            pair.capture.wait_after(mark, &what, LONG, |captured| {
                let carp = captured.carp_from(&station)?;
                (carp.vhid == vhid && carp.is_authentic(PASSWORD, &[address])).then_some(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn one_process_serves_several_vhids_on_two_interfaces_against_another() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let (a_files, b_files) = (Files::new()?, Files::new()?);
    for (host, last) in [(&pair.a, 1), (&pair.b, 2)] {
        host.add_link("eth1", Mac([2, 0, 0, 0, 9, last]))?;
    }
    // a is better for vhids 7 and 9, b for vhid 8.
    let of = |better: &[u8]| {
        VHOSTS
            .iter()
            .map(|vhost| match better.contains(&vhost.0) {
                true => line(*vhost, &format!("{FAST} -P")),
                false => line(*vhost, SLOW),
            })
            .collect::<Vec<_>>()
    };
    let mut a = carpd(&a_files.vhosts(&of(&[7, 9]))?)?.spawn(&pair.a)?;
    let b = carpd(&b_files.vhosts(&of(&[8]))?)?.spawn(&pair.b)?;
    serves(&pair, &pair.a, &[7, 9], &a)?;
    serves(&pair, &pair.b, &[8], &b)?;
    let mark = a.mark();
    a.signal(Signal::SIGUSR1)?;
    for (state, interface, vhid) in [
        ("MASTER", "eth0", 7),
        ("BACKUP", "eth0", 8),
        ("MASTER", "eth1", 9),
    ] {
        a.wait_for_after(mark, &format!("{state} on {interface} id {vhid}"), LONG)?;
    }

    // When it is stopped, it hands over everything.
    ensure!(a.terminate(LONG)? == 0);
    serves(&pair, &pair.b, &[7, 8, 9], &b)?;
    for (_, _, address) in VHOSTS {
        ensure!(!pair.a.has_address(address)?, "{address} is left");
    }
    Ok(())
}

#[test]
fn a_wrong_line_is_named_with_file_line_and_option() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let files = Files::new()?;
    let right = line(VHOSTS[0], SLOW);
    for (wrong, named) in [
        ("-i eth0 -v 300 -a 10.9.0.108", ["--vhid", "'300'"]),
        ("-i eth0 -v 8 -a 10.9.0", ["--addr", "'10.9.0'"]),
        ("-i eth0 -v 8 -a 10.9.0.108 -b 256", ["--advbase", "'256'"]),
        ("-i eth0 -v 8 -a 10.9.0.108 -B", ["--daemonize", "process"]),
        ("-i eth0 -a 10.9.0.108", ["--vhid", "1 to 255"]),
        (&right, ["vhid 7 on eth0", "line 3"]),
    ] {
        let file = files.vhosts(&[right.clone(), wrong.to_owned()])?;
        let ended = carpd(&file)?.run(&pair.a)?;
        ensure!(ended.status == 1, "{wrong}: {ended:?}");
        // After a comment and an empty line.
        let place = format!("{}:4: ", file.display());
        for part in [place.as_str(), named[0], named[1]] {
            ensure!(ended.stderr.contains(part), "{wrong}: {part}: {ended:?}");
        }
    }
    Ok(())
}

#[test]
fn a_vhid_of_the_file_that_another_process_serves_is_refused_with_its_pid() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let files = Files::new()?;
    let first = Carpd::new(&format!("-v 8 -p {PASSWORD} -a {} {SLOW}", VHOSTS[1].2))?
        .datapath("socket")
        .start(&pair.a)?;
    let lines = [line(VHOSTS[0], SLOW), line(VHOSTS[1], SLOW)];
    let ended = carpd(&files.vhosts(&lines)?)?.run(&pair.a)?;
    let expected = format!("vhid 8 on eth0 is already served by pid {}", first.pid());
    ensure!(
        ended.status == 2 && ended.stderr.contains(&expected),
        "{ended:?}"
    );
    // None of the others has started.
    let begun = pair.capture.advertisements(Mark::default(), "a");
    ensure!(begun.iter().all(|(_, carp)| carp.vhid == 8), "{begun:?}");
    Ok(())
}
