//! The command line, as ucarp's users write it: every option in every spelling, and every error with its exit status.

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
        // A password file stands in the password's place.
        if option != short && !(option == "-p" && short == "-o") {
            carpd = carpd.arg(option).arg(value);
        }
    }
    Ok(words.iter().cloned().fold(carpd, Carpd::arg))
}

/// `-k 3`, `-k3`, `--advskew 3`, `--advskew=3`.
fn spellings(short: &str, long: &str, value: &str) -> [Vec<String>; 4] {
    [
        vec![short.into(), value.into()],
        vec![format!("{short}{value}")],
        vec![long.into(), value.into()],
        vec![format!("{long}={value}")],
    ]
}

/// Every spelling of one option shapes the advertisement in the same, right way.
fn shapes(short: &str, long: &str, value: &str, right: impl Fn(&Carp) -> bool) -> Result<()> {
    let pair = Pair::new(lab!())?;
    for words in spellings(short, long, value) {
        let mark = pair.capture.mark();
        let daemon = carpd(short, &words)?.spawn(&pair.a)?;
        let (_, carp) = pair
            .capture
            .advertisement(mark, "a", LONG)
            .with_context(|| format!("with {words:?}: {}", daemon.transcript()))?;
        ensure!(right(&carp), "with {words:?}: {carp:?}");
    }
    Ok(())
}

#[test]
fn interface_in_both_spellings() -> Result<()> {
    shapes("-i", "--interface", "eth0", |carp| {
        carp.source == Ipv4Addr::new(10, 9, 0, 1)
    })
}

#[test]
fn srcip_in_both_spellings() -> Result<()> {
    shapes("-s", "--srcip", "10.9.0.77", |carp| {
        carp.source == Ipv4Addr::new(10, 9, 0, 77)
    })
}

#[test]
fn mcast_in_both_spellings() -> Result<()> {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let right =
        |carp: &Carp| carp.destination == group && carp.ether_destination == Mac::of_group(group);
    shapes("-m", "--mcast", "239.1.2.3", right)?;
    shapes("-m", "--mcastip", "239.1.2.3", right)
}

#[test]
fn vhid_in_both_spellings_decimal_and_hexadecimal() -> Result<()> {
    for value in ["31", "0x1f"] {
        shapes("-v", "--vhid", value, |carp| carp.vhid == 31)?;
    }
    Ok(())
}

#[test]
fn pass_in_both_spellings() -> Result<()> {
    shapes("-p", "--pass", "love", |carp| {
        carp.is_authentic("love", &[ADDRESS])
    })
}

#[test]
fn passfile_in_both_spellings_is_its_first_line() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("password");
    fs::write(&file, "two words\nsecond line\n")?;
    shapes("-o", "--passfile", &file.display().to_string(), |carp| {
        carp.is_authentic("two words", &[ADDRESS])
    })
}

#[test]
fn addr_in_both_spellings() -> Result<()> {
    shapes("-a", "--addr", "10.9.0.111", |carp| {
        carp.is_authentic("secret", &[Ipv4Addr::new(10, 9, 0, 111)])
    })
}

#[test]
fn advbase_in_both_spellings() -> Result<()> {
    shapes("-b", "--advbase", "1", |carp| {
        (carp.advbase, carp.advskew) == (1, 10)
    })
}

#[test]
fn advskew_in_both_spellings() -> Result<()> {
    shapes("-k", "--advskew", "12", |carp| {
        (carp.advbase, carp.advskew) == (0, 12)
    })
}

#[test]
fn deadratio_in_both_spellings_multiplies_the_wait_for_a_master() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for words in spellings("-r", "--deadratio", "30") {
        let (mark, start) = (pair.capture.mark(), Instant::now());
        let _a = carpd("-r", &words)?.spawn(&pair.a)?;
        let (first, _) = pair.capture.advertisement(mark, "a", LONG)?;
        let waited = first.at.duration_since(start);
        // 30 × 10/256 s
        ensure!(
            waited >= Duration::from_millis(1171),
            "with {words:?}: {waited:?}"
        );
    }
    Ok(())
}

#[test]
fn nomcast_in_both_spellings_sends_broadcast_frames() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for option in ["-M", "--nomcast"] {
        let mark = pair.capture.mark();
        let _a = carpd("", &[option.into()])?.spawn(&pair.a)?;
        let (_, carp) = pair.capture.advertisement(mark, "a", LONG)?;
        ensure!(
            carp.ether_destination == Mac::BROADCAST
                && carp.destination == carp_tests::packet::GROUP
        );
    }
    Ok(())
}

#[test]
fn ignoreifstate_in_both_spellings_becomes_master_without_carrier() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.unplug()?;
    for option in ["-S", "--ignoreifstate"] {
        let a = carpd("", &[option.into()])?.spawn(&pair.a)?;
        a.wait_for("Switching to state: MASTER", LONG)?;
    }
    Ok(())
}

#[test]
fn upscript_and_downscript_in_both_spellings() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for up in ["-u", "--upscript"] {
        let scripts = Scripts::new()?;
        let (up_script, down_script) = (scripts.script("up", "")?, scripts.script("down", "")?);
        let down = if up == "-u" { "-d" } else { "--downscript" };
        let words = [
            up.into(),
            up_script.display().to_string(),
            down.into(),
            down_script.display().to_string(),
        ];
        let _a = carpd("", &words)?.spawn(&pair.a)?;
        scripts.wait_for_calls(&["down [eth0] [10.9.0.100]", "up [eth0] [10.9.0.100]"])?;
    }
    Ok(())
}

#[test]
fn debug_in_both_spellings_explains_rejected_packets() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let injector = Injector::open(&pair.c)?;
    let wrong = Forgery::new(pair.c.address(), 7, "secret", ADDRESS).with(|it| it.ttl = 254);
    for (option, expected) in [("-D", true), ("--debug", true), ("-P", false)] {
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
fn facility_in_both_spellings_takes_every_name_ucarp_knows() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for words in spellings("-f", "--facility", "local3")
        .into_iter()
        .chain([vec!["-f".into(), "none".into()]])
    {
        let mark = pair.capture.mark();
        let _a = carpd("-f", &words)?.spawn(&pair.a)?;
        pair.capture.advertisement(mark, "a", LONG)?;
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
    for words in ["-h", "--help"] {
        let ended = Carpd::bare()?.args(words).run(&pair.a)?;
        ensure!(
            ended.status == 0 && ended.stderr.is_empty(),
            "with {words:?}: {ended:?}"
        );
        for option in [
            "--interface",
            "--srcip",
            "--mcast",
            "--vhid",
            "--pass",
            "--passfile",
            "--preempt",
            "--neutral",
            "--addr",
            "--advbase",
            "--advskew",
            "--upscript",
            "--downscript",
            "--deadratio",
            "--debug",
            "--shutdown",
            "--daemonize",
            "--ignoreifstate",
            "--nomcast",
            "--facility",
            "--xparam",
            "--help",
        ] {
            ensure!(ended.stdout.contains(option), "{option} is not in the help");
        }
    }
    Ok(())
}

#[test]
fn every_configuration_error_names_option_value_and_what_is_accepted_with_status_1() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for (short, words, expected) in [
        ("-v", "-v 0", ["--vhid", "'0'", "1 to 255"]),
        ("-v", "-v 256", ["--vhid", "'256'", "1 to 255"]),
        ("-v", "-v 010", ["--vhid", "'010'", "write 10"]),
        ("-v", "-v seven", ["--vhid", "'seven'", "1 to 255"]),
        ("-v", "-v -1", ["--vhid", "'-1'", "1 to 255"]),
        ("-v", "", ["--vhid", "-v", "1 to 255"]),
        ("-b", "-b 256", ["--advbase", "'256'", "0 to 255"]),
        ("-k", "-k 256", ["--advskew", "'256'", "0 to 255"]),
        ("-r", "-r 0", ["--deadratio", "'0'", "1"]),
        ("-a", "-a 10.9.0", ["--addr", "'10.9.0'", "IPv4"]),
        ("-a", "-a 10.9.0.100/33", ["--addr", "10.9.0.100/33", "32"]),
        ("-a", "", ["--addr", "-a", "IPv4"]),
        ("-s", "-s here", ["--srcip", "'here'", "IPv4"]),
        ("-m", "-m 10.0.0.1", ["--mcast", "'10.0.0.1'", "224.0.0.0"]),
        ("-p", "", ["--passfile", "--pass", "password"]),
        (
            "-o",
            "-o /nowhere/password",
            ["--passfile", "/nowhere/password", "No such file"],
        ),
        ("-f", "-f nowhere", ["--facility", "'nowhere'", "daemon"]),
        ("", "--script-timeout 0", ["--script-timeout", "'0'", "1"]),
        ("", "--datapath tape", ["--datapath", "'tape'", "socket"]),
        ("", "--profile vrrp", ["--profile", "'vrrp'", "openbsd"]),
        ("", "--frobnicate", ["--frobnicate", "unexpected", "--help"]),
        (
            "-o",
            "-o /dev/null leftover",
            ["leftover", "unexpected", "--help"],
        ),
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
    // BSD cuts it, and so do we in its company.
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
