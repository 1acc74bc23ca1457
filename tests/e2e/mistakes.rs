//! Mistakes of administrators. carpd says at once what is wrong, where, and what would be right.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use carp_tests::daemons::Ended;
use carp_tests::{Carpd, Host, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// carpd with these arguments alone, run to its end.
fn run(host: &Host, arguments: &str) -> Result<Ended> {
    let datapath = carp_tests::daemons::datapath();
    Carpd::bare()?
        .args(&format!("-f none --datapath {datapath} {arguments}"))
        .run(host)
}

/// It ends with status 1 and an error that contains all these parts.
fn is_refused(host: &Host, arguments: &str, parts: &[&str]) -> Result<()> {
    let ended = run(host, arguments)?;
    ensure!(ended.status == 1, "{arguments}: {ended:?}");
    for part in parts {
        ensure!(
            ended.stderr.contains(part),
            "{arguments}: {part:?} is not in {:?}",
            ended.stderr
        );
    }
    ensure!(
        !ended.stderr.contains("Usage:"),
        "{arguments}: {:?}",
        ended.stderr
    );
    Ok(())
}

#[test]
fn a_configuration_that_can_never_work_is_refused_with_a_correct_form() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let base = "-i eth0 -v 7 -p secret";
    for (arguments, parts) in [
        (
            "-a 10.9.255.255/16",
            ["broadcast address of 10.9.0.0/16", "another prefix"],
        ),
        (
            "-a 10.9.0.0/24",
            ["network address of 10.9.0.0/24", "another prefix"],
        ),
        // Without a prefix, judged by the interface's addresses.
        (
            "-a 10.9.255.255",
            ["broadcast address of 10.9.0.0/16", "--addr"],
        ),
        ("-a 127.0.0.1", ["loopback", "unicast"]),
        ("-a 10.9.0.100/0", ["--addr", "1 to 32"]),
        (
            "-a 10.9.0.100 -a 10.9.0.101",
            ["10.9.0.100/32", "10.9.0.101/32"],
        ),
        ("-a 10.9.0.100 -s 127.0.0.1", ["--srcip", "loopback"]),
        (
            "-a 10.9.0.100 -i lo",
            ["lo is not an Ethernet interface", "--interface"],
        ),
        ("-a 10.9.0.100 -v 010", ["'010'", "write 10"]),
        (
            "-a 10.9.0.1",
            ["10.9.0.1 is the only address of eth0", "--addr"],
        ),
    ] {
        is_refused(&pair.a, &format!("{base} {arguments}"), &parts)?;
    }
    is_refused(
        &pair.a,
        "--detach eth0 -v 7",
        &["--detach takes an interface and nothing else", "--vhid"],
    )
}

#[test]
fn a_tunnel_is_named_as_no_ethernet_interface() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("tuntap add dev tun7 mode tun")?;
    pair.a.ip("link set tun7 up")?;
    is_refused(
        &pair.a,
        "-i tun7 -v 7 -p secret -a 10.9.0.100 -s 10.9.0.1",
        &["tun7 is not an Ethernet interface"],
    )
}

#[test]
fn carpd_alone_is_an_error_that_shows_the_options() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let ended = Carpd::bare()?.run(&pair.a)?;
    ensure!(
        ended.status == 1 && ended.stdout.is_empty() && ended.stderr.contains("--interface"),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn a_password_without_quotes_is_not_repeated() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let arguments = "-i eth0 -v 7 -a 10.9.0.100 -p my swordfish";
    is_refused(&pair.a, arguments, &["quotes", "--passfile"])?;
    let ended = run(&pair.a, arguments)?;
    ensure!(!format!("{ended:?}").contains("swordfish"), "{ended:?}");
    Ok(())
}

#[test]
fn a_possible_mistake_is_warned_of_and_served() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("password");
    let password = |bytes: &[u8]| -> Result<()> {
        fs::write(&file, bytes)?;
        Ok(fs::set_permissions(
            &file,
            fs::Permissions::from_mode(0o600),
        )?)
    };
    let from_file = format!("-o {}", file.display());
    for (content, arguments, warning) in [
        (
            &b"secret"[..],
            "-a 10.77.0.100",
            "this host has no address of its own in the subnet of 10.77.0.100, only in 10.9.0.0/16: ",
        ),
        (
            b"secret",
            "-a 10.9.0.100 -s 10.9.0.99",
            "--srcip 10.9.0.99 is on no interface",
        ),
        (b"secret", "-a 10.9.0.100 -p secret", "--pass counts"),
        (b"secret \n", "-a 10.9.0.100", "ends with a blank"),
        (b"\xef\xbb\xbfsecret\n", "-a 10.9.0.100", "byte order mark"),
    ] {
        password(content)?;
        let all = format!("-v 7 {from_file} {arguments} {FAST}");
        let mut a = Carpd::new(&all)?.start(&pair.a)?;
        let line = a.wait_for(warning, LONG)?;
        ensure!(line.text.contains("[WARN"), "{}", line.text);
        ensure!(a.terminate(LONG)? == 0);
    }
    // The correct form causes no warning.
    password(b"secret\n")?;
    let right = format!("-v 7 {from_file} -a {ADDRESS} -s 10.9.0.1 {SLOW}");
    let a = Carpd::new(&right)?.datapath("tcx").start(&pair.a)?;
    let mut warnings = a.lines_with("[WARN");
    warnings.retain(|line| !line.text.contains("Switching to state"));
    ensure!(warnings.is_empty(), "{warnings:?}");
    Ok(())
}

#[test]
fn an_address_of_another_subnet_is_warned_of_once_before_the_takeover() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for (address, does) in [
        (
            "10.77.0.100/24",
            "as MASTER it uses 10.77.0.100 as the source",
        ),
        ("10.77.0.100", "hosts on eth0 do not ask for 10.77.0.100"),
    ] {
        let mut a = Carpd::new(&format!("-v 7 -p secret -a {address} {FAST}"))?.start(&pair.a)?;
        let master = a.wait_for("Switching to state: MASTER", LONG)?;
        pair.a
            .wait_for_address("10.77.0.100".parse()?, true, LONG)?;
        ensure!(a.terminate(LONG)? == 0);
        let warned = a.says_once("this host has no address of its own in ")?;
        ensure!(
            warned.text.contains(", only in 10.9.0.0/16: ") && warned.text.contains(does),
            "{}",
            warned.text
        );
        ensure!(warned.at < master.at, "it came with the takeover");
    }
    Ok(())
}

#[test]
fn two_virtual_hosts_with_one_address_are_refused_with_their_lines() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let directory = tempfile::tempdir()?;
    let [file, password] = ["vhosts", "password"].map(|name| directory.path().join(name));
    fs::write(&password, "secret\n")?;
    let password = password.display();
    let lines = format!(
        "-i eth0 -v 7 -o {password} -a 10.9.0.100\n-i eth0 -v 8 -o {password} -a 10.9.0.100/24\n"
    );
    fs::write(&file, lines)?;
    is_refused(
        &pair.a,
        &format!("--vhosts {}", file.display()),
        &[":2: ", "the address 10.9.0.100 is in line 1 already"],
    )
}
