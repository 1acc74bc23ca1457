//! What options do in a running daemon. The unit tests of `cli` read every option in every spelling, and every mistake.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Carp, Carpd, Dump, Forgery, Injector, Mac, Mark, eventually, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, Scripts};

/// All that carpd needs, each option in its short spelling.
const BASE: [(&str, &str); 7] = [
    ("-i", "eth0"),
    ("-f", "none"),
    ("-v", "7"),
    ("-p", "secret"),
    ("-a", "10.9.0.100"),
    ("-b", "0"),
    ("-k", "10"),
];

/// carpd with [`BASE`], the short option in it replaced by `words`.
fn carpd(short: &str, words: &[String]) -> Result<Carpd> {
    let mut carpd = Carpd::bare()?.args(&format!("--datapath {}", carp_tests::daemons::datapath()));
    for (option, value) in BASE {
        // A password file replaces the password.
        if option != short && !(option == "-p" && short == "-o") {
            carpd = carpd.arg(option).arg(value);
        }
    }
    Ok(words.iter().cloned().fold(carpd, Carpd::arg))
}

/// The option `short` with `value` shapes the advertisement in the right way.
fn shapes(short: &str, value: &str, right: impl Fn(&Carp) -> bool) -> Result<()> {
    let pair = Pair::new(lab!())?;
    let daemon = carpd(short, &[short.into(), value.into()])?.spawn(&pair.a)?;
    let (_, carp) = pair
        .capture
        .advertisement(Mark::default(), "a", LONG)
        .with_context(|| format!("with {short} {value}: {}", daemon.transcript()))?;
    ensure!(right(&carp), "with {short} {value}: {carp:?}");
    Ok(())
}

#[test]
fn interface_is_where_advertisements_are_sent() -> Result<()> {
    shapes("-i", "eth0", |carp| {
        carp.source == Ipv4Addr::new(10, 9, 0, 1)
    })
}

#[test]
fn srcip_is_the_source_of_advertisements() -> Result<()> {
    shapes("-s", "10.9.0.77", |carp| {
        carp.source == Ipv4Addr::new(10, 9, 0, 77)
    })
}

#[test]
fn mcast_is_the_group_of_advertisements_and_of_their_frames() -> Result<()> {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    shapes("-m", "239.1.2.3", |carp| {
        carp.destination == group && carp.ether_destination == Mac::of_group(group)
    })
}

#[test]
fn vhid_advbase_and_advskew_are_advertised() -> Result<()> {
    shapes("-v", "0x1f", |carp| carp.vhid == 31)?;
    shapes("-b", "1", |carp| (carp.advbase, carp.advskew) == (1, 10))?;
    shapes("-k", "12", |carp| (carp.advbase, carp.advskew) == (0, 12))
}

#[test]
fn pass_and_the_first_line_of_passfile_sign_advertisements() -> Result<()> {
    shapes("-p", "love", |carp| carp.is_authentic("love", &[ADDRESS]))?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("password");
    fs::write(&file, "two words\nsecond line\n")?;
    shapes("-o", &file.display().to_string(), |carp| {
        carp.is_authentic("two words", &[ADDRESS])
    })
}

#[test]
fn addr_is_in_the_digest() -> Result<()> {
    shapes("-a", "10.9.0.111", |carp| {
        carp.is_authentic("secret", &[Ipv4Addr::new(10, 9, 0, 111)])
    })
}

#[test]
fn deadratio_multiplies_the_wait_for_a_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let start = Instant::now();
    let _a = carpd("-r", &["-r".into(), "30".into()])?.spawn(&pair.a)?;
    let (first, _) = pair.capture.advertisement(Mark::default(), "a", LONG)?;
    let waited = first.at.duration_since(start);
    // 30 × 10/256 s
    ensure!(waited >= Duration::from_millis(1171), "{waited:?}");
    Ok(())
}

#[test]
fn nomcast_sends_broadcast_frames() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = carpd("", &["--nomcast".into()])?.spawn(&pair.a)?;
    let (_, carp) = pair.capture.advertisement(Mark::default(), "a", LONG)?;
    ensure!(
        carp.ether_destination == Mac::BROADCAST && carp.destination == carp_tests::packet::GROUP,
        "{carp:?}"
    );
    Ok(())
}

#[test]
fn ignoreifstate_becomes_master_without_carrier() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.unplug()?;
    let a = carpd("", &["-S".into()])?.spawn(&pair.a)?;
    a.wait_for("Switching to state: MASTER", LONG)?;
    Ok(())
}

#[test]
fn upscript_and_downscript_run_with_interface_and_address() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let (up, down) = (scripts.script("up", "")?, scripts.script("down", "")?);
    let words = [
        "--upscript".into(),
        up.display().to_string(),
        "--downscript".into(),
        down.display().to_string(),
    ];
    let _a = carpd("", &words)?.spawn(&pair.a)?;
    scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])
}

#[test]
fn debug_explains_rejected_packets() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let injector = Injector::open(&pair.c)?;
    let wrong = Forgery::new(pair.c.address(), 7, "secret", ADDRESS).with(|it| it.ttl = 254);
    for (option, expected) in [("--debug", true), ("-P", false)] {
        let a = carpd("", &[option.into()])?.spawn(&pair.a)?;
        a.wait_for("Switching to state: MASTER", LONG)?;
        injector.send(&wrong.frame())?;
        if expected {
            eventually("the rejection is explained", LONG, || {
                let lines = a.lines_with("[DEBUG]");
                let explained = |text: &str| text.to_lowercase().contains("ttl");
                Ok(lines.iter().any(|line| explained(&line.text)).then_some(()))
            })?;
        } else {
            let heard = |dump: Dump| {
                dump.counter("dropped-wrong-ttl")
                    .is_ok_and(|count| count == 1)
            };
            eventually("it is counted", LONG, || Ok(heard(a.dump()?).then_some(())))?;
            ensure!(a.lines_with("[DEBUG]").is_empty());
        }
    }
    Ok(())
}

#[test]
fn without_interface_the_first_usable_one_is_taken_and_named() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mark = pair.capture.mark();
    let a = carpd("-i", &[])?.spawn(&pair.a)?;
    pair.capture.advertisement(mark, "a", LONG)?;
    a.wait_for("Using [eth0] as a network interface", LONG)?;
    Ok(())
}

#[test]
fn help_is_printed_on_stdout_with_status_0() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let ended = Carpd::bare()?.args("--help").run(&pair.a)?;
    ensure!(
        ended.status == 0 && ended.stderr.is_empty() && ended.stdout.contains("--interface"),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn a_configuration_error_is_explained_on_stderr_with_status_1() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for (short, words, expected) in [
        ("-v", "-v 256", ["--vhid", "'256'", "1 to 255"]),
        ("-p", "", ["--passfile", "--pass", "password"]),
        (
            "-o",
            "-o /nowhere/password",
            ["--passfile", "/nowhere/password", "No such file"],
        ),
        ("", "--frobnicate", ["--frobnicate", "unexpected", "--help"]),
    ] {
        let words = words
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let ended = carpd(short, &words)?.run(&pair.a)?;
        ensure!(ended.status == 1, "with {words:?}: {ended:?}");
        ensure!(ended.stdout.is_empty(), "with {words:?}: {ended:?}");
        for part in expected {
            ensure!(
                ended.stderr.contains(part),
                "with {words:?}: {part:?} is not in {:?}",
                ended.stderr
            );
        }
    }
    Ok(())
}

#[test]
fn a_password_that_is_too_long_is_an_error_that_does_not_show_it() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let password = "abcdefghijklmnopqrst";
    let ended = carpd("-p", &["-p".into(), password.into()])?.run(&pair.a)?;
    ensure!(ended.status == 1, "{ended:?}");
    ensure!(
        ended.stderr.contains("20 bytes") && ended.stderr.contains("19"),
        "{ended:?}"
    );
    ensure!(!ended.stderr.contains(password), "{ended:?}");
    // BSD cuts it, and so does carpd with a BSD profile.
    let mark = pair.capture.mark();
    let words = ["-p", password, "--profile", "freebsd"].map(str::to_owned);
    let _a = carpd("-p", &words)?.spawn(&pair.a)?;
    let (_, carp) = pair.capture.advertisement(mark, "a", LONG)?;
    ensure!(
        carp.is_authentic("abcdefghijklmnopqrs", &[ADDRESS]),
        "{carp:?}"
    );
    Ok(())
}

#[test]
fn the_last_of_a_repeated_option_counts() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _a = Carpd::for_address(ADDRESS, &format!("{FAST} -v 9 -k 11"))?.spawn(&pair.a)?;
    let (_, carp) = pair.capture.advertisement(Mark::default(), "a", LONG)?;
    ensure!((carp.vhid, carp.advskew) == (9, 11), "{carp:?}");
    Ok(())
}
