//! Which datapath carpd uses if the first choice is unavailable, and what it logs then.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Carpd, Daemon, Host, Mark, lab};

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW};

/// An ELF object whose XDP program passes every packet, as `ip` loads it.
fn passing_program() -> Result<Vec<u8>> {
    use object::write::{Object, Symbol, SymbolSection};
    use object::{
        Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    };

    let mut elf = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let code = elf.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    // r0 = 2 (XDP_PASS); exit
    elf.append_section_data(
        code,
        &[0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0],
        8,
    );
    elf.add_symbol(Symbol {
        name: b"pass".to_vec(),
        value: 0,
        size: 16,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(code),
        flags: SymbolFlags::None,
    });
    let license = elf.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    elf.append_section_data(license, b"GPL\0", 1);
    Ok(elf.write()?)
}

/// Attaches such a program in the given mode, and returns its id.
pub fn attach(host: &Host, interface: &str, mode: &str) -> Result<u32> {
    let directory = tempfile::tempdir()?;
    let object = directory.path().join("pass.o");
    std::fs::write(&object, passing_program()?)?;
    host.ip(&format!(
        "link set dev {interface} {mode} obj {} sec xdp",
        object.display()
    ))?;
    attached(host, interface)?.context("the program is attached")
}

/// The id of the XDP program on an interface, as `ip` shows it.
fn attached(host: &Host, interface: &str) -> Result<Option<u32>> {
    let link = host.ip(&format!("-d link show {interface}"))?;
    let id = link
        .split_once("prog/xdp id ")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    Ok(id.map(str::parse).transpose()?)
}

/// The program that holds the hook according to a text.
fn named(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("taken by program id ")?;
    let (id, _) = rest.split_once(|c: char| !c.is_ascii_digit())?;
    id.parse().ok()
}

/// carpd without the privileges to load a program, before another process has loaded it.
fn without_bpf(host: &Host, carpd: &Carpd) -> Result<Daemon> {
    let carpd = carpd.command();
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-bpf,-sys_admin,-perfmon"])
        .arg(carpd.get_program())
        .args(carpd.get_args());
    Daemon::spawn(host, "carpd", &mut command)
}

#[test]
fn a_foreign_xdp_program_is_left_alone_and_named() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let foreign = attach(&pair.a, "eth0", "xdpdrv")?;
    for rung in ["xdp-native", "xdp-generic"] {
        let ended = Carpd::for_address(ADDRESS, FAST)?
            .datapath(rung)
            .run(&pair.a)?;
        ensure!(
            ended.status == 2 && named(&ended.stderr) == Some(foreign),
            "{ended:?}"
        );
        for way_out in ["--datapath tcx", "--datapath socket"] {
            ensure!(ended.stderr.contains(way_out), "{ended:?}");
        }
        ensure!(attached(&pair.a, "eth0")? == Some(foreign));
    }

    // On a veth, `auto` does not even try.
    let mut a = Carpd::for_address(ADDRESS, FAST)?
        .datapath("auto")
        .start(&pair.a)?;
    pair.capture.advertisement(Mark::default(), "a", LONG)?;
    ensure!(a.dump()?.status["datapath"] == "tcx");
    ensure!(attached(&pair.a, "eth0")? == Some(foreign));
    ensure!(a.terminate(LONG)? == 0);
    ensure!(
        attached(&pair.a, "eth0")? == Some(foreign),
        "the foreign program is gone"
    );
    Ok(())
}

#[test]
fn auto_goes_past_a_taken_hook_and_says_so_in_one_line() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a.ip("link add br7 type bridge")?;
    pair.a.ip("link set br7 up")?;
    let foreign = attach(&pair.a, "br7", "xdpgeneric")?;
    let arguments = format!("{SLOW} -i br7 -s 10.9.0.7");
    let mut a = Carpd::for_address(ADDRESS, &arguments)?
        .datapath("auto")
        .spawn(&pair.a)?;
    let said = a.wait_for("receiving on br7 through datapath tcx", LONG)?;
    ensure!(
        said.text.contains("[WARNING]") && said.text.contains("not xdp-native: "),
        "{}",
        said.text
    );
    ensure!(named(&said.text) == Some(foreign), "{}", said.text);
    ensure!(a.dump()?.status["datapath"] == "tcx");
    ensure!(a.terminate(LONG)? == 0);
    a.says_once("receiving on br7")?;
    ensure!(attached(&pair.a, "br7")? == Some(foreign));
    Ok(())
}

#[test]
fn auto_without_the_right_to_load_programs_falls_back_to_the_socket_and_warns_once() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let _b = pair.master(&pair.b, FAST)?;
    let carpd = Carpd::for_address(ADDRESS, SLOW)?.datapath("auto");
    let mut a = without_bpf(&pair.a, &carpd)?;
    let said = a.wait_for("receiving on eth0 through datapath socket", LONG)?;
    for part in [
        "[WARNING]",
        "cannot fence",
        "not tcx: not permitted to",
        "grant CAP_BPF and CAP_PERFMON",
        "nor xdp-native, likewise",
    ] {
        ensure!(said.text.contains(part), "{part}: {}", said.text);
    }
    a.wait_for("Switching to state: BACKUP", LONG)?;
    carp_tests::eventually("an advertisement is heard", LONG, || {
        Ok((a.dump()?.counter("delivered")? > 0).then_some(()))
    })?;
    ensure!(a.dump()?.status["datapath"] == "socket");
    ensure!(a.terminate(LONG)? == 0);
    let warnings = a.lines_with("[WARNING]");
    let mut others = warnings
        .iter()
        .filter(|line| !line.text.contains("Switching to state"))
        // On a busy machine it may be late.
        .filter(|line| !line.text.contains("late by"));
    ensure!(
        others.next().is_some() && others.next().is_none(),
        "one warning: {}",
        a.transcript()
    );
    Ok(())
}

#[test]
fn a_rung_that_was_asked_for_without_the_right_to_load_programs_names_the_way_out() -> Result<()> {
    let pair = Pair::new(lab!())?;
    for rung in ["xdp-native", "xdp-generic", "tcx"] {
        let carpd = Carpd::for_address(ADDRESS, SLOW)?.datapath(rung);
        let mut a = without_bpf(&pair.a, &carpd)?;
        ensure!(a.exit_code(LONG)? == 2, "{}", a.transcript());
        let error = a.wait_for("[ERROR]", LONG)?.text;
        for part in [
            "eth0",
            rung,
            "CAP_BPF",
            "--datapath socket",
            "not permitted",
        ] {
            ensure!(error.contains(part), "{part}: {error}");
        }
    }
    Ok(())
}
