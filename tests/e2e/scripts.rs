//! Up and down scripts: they work as with ucarp, and no script delays the election.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Carpd, Daemon, lab};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair, SECOND, SLOW, Scripts};

#[test]
fn the_down_script_runs_at_start_and_the_up_script_on_becoming_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let a = pair.master(&pair.a, &format!("{FAST} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    let up = scripts.path().join("up");
    a.wait_for(
        &format!("Spawning [{} eth0 10.9.0.100]", up.display()),
        LONG,
    )?;
    Ok(())
}

#[test]
fn with_an_up_script_carpd_leaves_the_address_to_it_and_announces_all_the_same() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let mark = pair.capture.mark();
    let _a = pair.master(&pair.a, &format!("{FAST} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    pair.capture
        .wait_after(mark, "a gratuitous ARP", LONG, |captured| {
            captured
                .arp_from("a")
                .filter(|arp| arp.is_gratuitous_for(ADDRESS))
                .map(drop)
        })?;
    pair.stays_the_only_master(&pair.a, 4)?;
    ensure!(
        !pair.a.has_address(ADDRESS)?,
        "the script did not add the address"
    );
    Ok(())
}

#[test]
fn a_script_that_adds_the_address_serves_the_client() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", r#"exec ip address add "$2"/32 dev "$1""#)?;
    let down = scripts.script("down", r#"ip address del "$2"/32 dev "$1" 2>/dev/null"#)?;
    let options = format!("-u {} -d {}", up.display(), down.display());
    let _b = pair.master(&pair.b, &format!("{SLOW} {options}"))?;
    let _client = pair.client()?;
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P {options}"))?;
    pair.settles_on(&pair.a, Duration::from_secs(1))?;
    pair.b.wait_for_address(ADDRESS, false, LONG)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    pair.is_owned_by(&pair.a)
}

#[test]
fn neutral_leaves_the_down_script_out_at_start() -> Result<()> {
    for option in ["-n", "--neutral"] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let _a = pair.master(
            &pair.a,
            &format!("{FAST} {option} {}", scripts.up_and_down()?),
        )?;
        scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    }
    Ok(())
}

#[test]
fn xparam_is_the_third_argument_as_it_is() -> Result<()> {
    for option in [
        vec!["-x", "a b;c"],
        vec!["--xparam", "a b;c"],
        vec!["--xparam=a b;c"],
    ] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let mut carpd = Carpd::for_address(ADDRESS, &format!("{FAST} {}", scripts.up_and_down()?))?;
        for argument in option {
            carpd = carpd.arg(argument);
        }
        let _a = carpd.start(&pair.a)?;
        scripts.wait_for_calls(&[
            "down [eth0] [10.9.0.100] [a b;c]",
            "up [eth0] [10.9.0.100] [a b;c]",
        ])?;
    }
    Ok(())
}

/// ucarp's scripts write `$2/24` themselves.
#[test]
fn the_scripts_get_the_bare_address_and_the_rest_in_their_environment() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let seen = scripts.path().join("seen");
    let names = "CARPD_INTERFACE CARPD_VHID CARPD_STATE CARPD_ADDRESS CARPD_PREFIX";
    let body = format!("printenv {names} > {}", seen.display());
    let (up, down) = (scripts.script("up", &body)?, scripts.script("down", "")?);
    let options = format!("-u {} -d {}", up.display(), down.display());
    let carpd = Carpd::new(&format!(
        "-v 7 -p secret --addr 10.9.0.100/24 {FAST} {options}"
    ))?;
    let _a = carpd.start(&pair.a)?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    let expected = "eth0\n7\nMASTER\n10.9.0.100\n24\n";
    carp_tests::eventually("the environment is written down", LONG, || {
        let found = std::fs::read_to_string(&seen).unwrap_or_default();
        Ok((found == expected).then_some(()))
    })
}

#[test]
fn the_scripts_get_the_present_name_of_a_renamed_interface() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let mut a = pair.master(&pair.a, &format!("{FAST} -n -z {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    // Renamed while up, as udev does since Linux 6.2; otherwise it goes down for that.
    pair.a.ip("link property add dev eth0 altname lan0")?;
    pair.a.ip("link set eth0 down")?;
    pair.a.ip("link set eth0 name wan0")?;
    a.wait_for("renamed to wan0", LONG)?;
    let mark = pair.capture.mark();
    pair.a.ip("link set wan0 up")?;
    pair.capture.advertisement(mark, "a", LONG)?;
    ensure!(a.terminate(LONG)? == 0);
    let calls = scripts.calls();
    ensure!(
        calls.ends_with(&[
            "up [wan0] [10.9.0.100]".to_owned(),
            "down [wan0] [10.9.0.100]".to_owned()
        ]),
        "{calls:?}"
    );
    Ok(())
}

#[test]
fn yielding_runs_the_down_script() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let _b = pair.master(&pair.b, &format!("{SLOW} -n {}", scripts.up_and_down()?))?;
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P"))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"])
}

#[test]
fn at_exit_the_down_script_runs_on_a_master_with_shutdown_only() -> Result<()> {
    for (option, expected) in [
        (
            "-z",
            vec!["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"],
        ),
        (
            "--shutdown",
            vec!["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"],
        ),
        ("", vec!["up [eth0] [10.9.0.100]"]),
    ] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let mut a = pair.master(
            &pair.a,
            &format!("{FAST} -n {option} {}", scripts.up_and_down()?),
        )?;
        scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
        ensure!(a.terminate(LONG)? == 0);
        ensure!(
            scripts.calls() == expected,
            "with {option:?}: {:?}",
            scripts.calls()
        );
    }
    Ok(())
}

#[test]
fn at_exit_a_backup_runs_no_script() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let _a = pair.master(&pair.a, FAST)?;
    let mut b = pair.carpd(&pair.b, &format!("{SLOW} -n -z {}", scripts.up_and_down()?))?;
    pair.stays_the_only_master(&pair.a, 2)?;
    ensure!(b.terminate(LONG)? == 0);
    ensure!(scripts.calls().is_empty(), "{:?}", scripts.calls());
    Ok(())
}

#[test]
fn at_exit_the_down_script_runs_in_init_with_shutdown_only() -> Result<()> {
    for (option, expected) in [("-z", vec!["down [eth0] [10.9.0.100]"]), ("", vec![])] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        pair.a.ip("link set eth0 down")?;
        let options = format!("{SLOW} -n {option} {}", scripts.up_and_down()?);
        let mut a = Carpd::for_address(ADDRESS, &options)?.spawn(&pair.a)?;
        a.wait_for("receiving on eth0", LONG)?;
        ensure!(a.dump()?.state == "INIT");
        ensure!(a.terminate(LONG)? == 0);
        ensure!(
            scripts.calls() == expected,
            "with {option:?}: {:?}",
            scripts.calls()
        );
    }
    Ok(())
}

/// At the takeover it would be too late.
#[test]
fn a_script_that_cannot_run_is_refused_at_the_start_with_the_reason() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let directory = scripts.path();
    let write = |name: &str, content: &str, mode: u32| -> Result<String> {
        let path = directory.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path.display().to_string())
    };
    for (script, reason) in [
        ("/nowhere/script".to_owned(), "No such file"),
        (directory.display().to_string(), "not a regular file"),
        (
            write("plain", "#!/bin/sh\n", 0o644)?,
            "not executable (mode 644)",
        ),
        (
            write("perl6", "#!/nowhere/perl6\n", 0o755)?,
            "\"/nowhere/perl6\"",
        ),
        (write("dos", "#!/bin/sh\r\n", 0o755)?, "\"/bin/sh\\r\""),
        (
            write("bare", "ip address add\n", 0o755)?,
            "such as #!/bin/sh",
        ),
    ] {
        for (option, name) in [("-u", "--upscript"), ("-d", "--downscript")] {
            for background in ["", "-B"] {
                let options = format!("{FAST} {option} {script} {background}");
                let ended = Carpd::for_address(ADDRESS, &options)?.run(&pair.a)?;
                ensure!(ended.status == 1, "{options}: {ended:?}");
                for part in [script.as_str(), name, reason] {
                    ensure!(
                        ended.stderr.contains(part),
                        "{options}: no {part}: {ended:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_script_or_password_file_that_others_decide_about_is_warned_of() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "")?;
    let password = scripts.path().join("password");
    fs::write(&password, "secret\n")?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(&password, Some(1234), None)?;
    let start = || {
        let options = format!(
            "-v 7 -o {} -a {ADDRESS} {FAST} -u {}",
            password.display(),
            up.display()
        );
        Carpd::new(&options)?.start(&pair.a)
    };
    let mut a = start()?;
    a.wait_for("belongs to user 1234, who can replace the password", LONG)?;
    ensure!(a.lines_with("can be written by others").is_empty());
    ensure!(a.terminate(LONG)? == 0);
    fs::set_permissions(&up, fs::Permissions::from_mode(0o757))?;
    fs::set_permissions(scripts.path(), fs::Permissions::from_mode(0o777))?;
    let a = start()?;
    for (place, mode) in [(up.as_path(), "0757"), (scripts.path(), "0777")] {
        let text = format!("{} can be written by others (mode {mode})", place.display());
        a.wait_for(&text, LONG)?;
    }
    Ok(())
}

#[test]
fn a_master_whose_up_script_fails_demotes_itself_until_it_works() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let works = scripts.path().join("works");
    let body = format!(
        "test -e {} && exec ip address add \"$2\"/32 dev \"$1\"; exit 3",
        works.display()
    );
    let up = scripts.script("up", &body)?;
    let mark = pair.capture.mark();
    let a = pair.master(&pair.a, &format!("{FAST} -n -u {}", up.display()))?;
    a.wait_for("failed with exit status: 3", LONG)?;
    let skew = |mark, expected: u8| {
        let what = format!("an advertisement with advskew {expected}");
        pair.capture.wait_after(mark, &what, LONG, |captured| {
            captured
                .carp_from("a")
                .filter(|carp| carp.advskew == expected)
                .map(drop)
        })
    };
    skew(mark, 240)?;
    let said = a.says_once("its up script failed")?;
    ensure!(said.text.contains("every 10 s"), "{}", said.text);
    // carpd repeats it, and then it succeeds.
    fs::write(&works, "")?;
    pair.a
        .wait_for_address(ADDRESS, true, Duration::from_secs(30))?;
    a.wait_for("its up script has worked", LONG)?;
    skew(pair.capture.mark(), 25)?;
    ensure!(scripts.calls().len() == 2, "{:?}", scripts.calls());
    // Announced once it is there.
    pair.capture
        .wait_after(mark, "a gratuitous ARP", LONG, |captured| {
            captured
                .arp_from("a")
                .filter(|arp| arp.is_gratuitous_for(ADDRESS))
                .map(drop)
        })?;
    Ok(())
}

/// A script fails not only by its status.
#[test]
fn an_up_script_that_hangs_or_vanished_demotes_too() -> Result<()> {
    for (body, vanishes) in [("exec sleep 1000", false), ("", true)] {
        let pair = Pair::new(lab!())?;
        let scripts = Scripts::new()?;
        let up = scripts.script("up", body)?;
        let options = format!("{SECOND} -n --script-timeout 1 -u {}", up.display());
        let mut a = pair.carpd(&pair.a, &options)?;
        let mark = pair.capture.mark();
        if vanishes {
            fs::remove_file(&up)?;
        }
        pair.capture
            .wait_after(mark, "a demoted advertisement", LONG, |captured| {
                captured
                    .carp_from("a")
                    .filter(|carp| carp.advskew == 240)
                    .map(drop)
            })
            .with_context(|| a.transcript())?;
        a.says_once("its up script failed")?;
        // It leaves no address behind.
        ensure!(a.terminate(LONG)? == 0);
        let stays = a.lines_with("the address stays on this host");
        ensure!(stays.is_empty(), "{}", a.transcript());
    }
    Ok(())
}

#[test]
fn a_better_host_whose_up_script_fails_gives_way_to_one_that_works() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let broken = scripts.script("broken", "exit 1")?;
    let _a = pair.master(&pair.a, &format!("{FAST} -n -P -u {}", broken.display()))?;
    let up = scripts.script("up", r#"exec ip address add "$2"/32 dev "$1""#)?;
    let _b = pair.carpd(&pair.b, &format!("{SLOW} -n -P -u {}", up.display()))?;
    pair.b.wait_for_address(ADDRESS, true, LONG)?;
    pair.settles_on(&pair.b, Duration::from_secs(2))?;
    pair.is_owned_by(&pair.b)
}

/// ucarp's scripts often end with a status that means nothing.
#[test]
fn a_failing_script_that_added_the_address_serves_all_the_same() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let body = r#"ip address add "$2"/32 dev "$1"; exit 3"#;
    let up = scripts.script("up", body)?;
    let a = pair.master(&pair.a, &format!("{FAST} -u {}", up.display()))?;
    a.wait_for("failed with exit status: 3", LONG)?;
    let mark = pair.capture.mark();
    pair.stays_the_only_master(&pair.a, 5)?;
    for (_, carp) in pair.capture.advertisements(mark, "a") {
        ensure!(carp.advskew == 25, "{carp:?}");
    }
    pair.is_owned_by(&pair.a)
}

/// The kernel blocks `execve` until the holder of a lease on the script releases it, as a network file system blocks it
/// while its server is unreachable.
#[test]
fn a_script_whose_file_system_stands_still_does_not_hold_the_election_up() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "")?;
    let a = pair.carpd(&pair.a, &format!("{SECOND} -n -u {}", up.display()))?;
    // F_SETSIG, because the default signal about the broken lease would end perl.
    let lease = format!(
        "open(F, '<', '{}') or die; fcntl(F, 10, 17) or die; fcntl(F, 1024, 1) or die; $| = 1; print \"held\\n\"; sleep 60",
        up.display()
    );
    let holder = Daemon::spawn(&pair.c, "perl", Command::new("perl").args(["-e", &lease]))?;
    holder.wait_for("held", LONG)?;
    ensure!(
        a.lines_with("Spawning").is_empty(),
        "the lease came too late"
    );
    let mark = pair.capture.mark();
    pair.capture.advertisement(mark, "a", LONG)?;
    a.wait_for("Spawning", LONG)?;
    pair.stays_the_only_master(&pair.a, 4)?;
    ensure!(scripts.calls().is_empty(), "the script was not held up");
    // The lease is released, and the script runs.
    drop(holder);
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])
}

#[test]
fn a_hanging_script_does_not_hold_the_election_up_and_is_ended() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    let down = scripts.script("down", "")?;
    let options = format!(
        "-n -u {} -d {} --script-timeout 2",
        up.display(),
        down.display()
    );
    let b = pair.master(&pair.b, &format!("{SLOW} {options}"))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    pair.stays_the_only_master(&pair.b, 3)?;
    // It yields while the script hangs.
    let mark = pair.capture.mark();
    let start = Instant::now();
    let _a = pair.carpd(&pair.a, &format!("{FAST} -P"))?;
    pair.capture.advertisement(mark, "a", LONG)?;
    pair.settles_on(&pair.a, Duration::from_millis(500))?;
    ensure!(b.dump()?.state == "BACKUP");
    ensure!(start.elapsed() < Duration::from_secs(30));
    // The next script waits for the first one's end.
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]", "down [eth0] [10.9.0.100]"])?;
    ensure!(pair.b.pids()?.len() == 1, "the hanging script still runs");
    Ok(())
}

#[test]
fn a_hanging_script_does_not_keep_carpd_from_ending() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    let mut a = pair.master(
        &pair.a,
        &format!("{FAST} -z -u {} --script-timeout 1", up.display()),
    )?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGTERM)?;
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    ensure!(a.exit_code(LONG)? == 0);
    Ok(())
}

#[test]
fn a_second_stop_does_not_wait_for_a_hanging_script() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let up = scripts.script("up", "exec sleep 1000")?;
    // Its time limit is a minute, far longer than this test waits.
    let mut a = pair.master(&pair.a, &format!("{FAST} -u {}", up.display()))?;
    scripts.wait_for_calls(&["up [eth0] [10.9.0.100]"])?;
    let mark = pair.capture.mark();
    a.signal(Signal::SIGTERM)?;
    pair.capture.wait_after(mark, "255/255", LONG, |captured| {
        captured
            .carp_from("a")
            .filter(|carp| carp.is_bow_out())
            .map(drop)
    })?;
    ensure!(a.is_running()?, "it waits for the script");
    ensure!(a.terminate(LONG)? == 0);
    a.wait_for("not waiting for scripts", LONG)?;
    Ok(())
}

#[test]
fn a_script_that_could_not_start_for_lack_of_descriptors_runs_once_there_are_some() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let a = pair.carpd(&pair.a, &format!("{SLOW} {}", scripts.up_and_down()?))?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]"])?;
    let limit = |soft: u32| {
        let limits = format!("--nofile={soft}:1024");
        pair.a
            .run("prlimit", &[&format!("--pid={}", a.pid()), &limits])
    };
    limit(3)?;
    a.wait_for("trying again", LONG)?;
    limit(1024)?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    a.says_once("trying again")?;
    Ok(())
}
