//! One carpd per vhid of an interface and per address, whatever the interface's name is and wherever carpd runs.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use carp_tests::daemons::Ended;
use carp_tests::residue::Network;
use carp_tests::{Carpd, Daemon, Host, Mac, Mark, lab};
use nix::sys::signal::Signal;

use crate::support::{ADDRESS, FAST, LONG, Pair, SLOW, Scripts};

/// Other options than [`SLOW`].
const OTHER: &str = "-b 0 -k 60";

/// Runs a second carpd for the pair's vhid and address on a.
fn second(pair: &Pair, arguments: &str) -> Result<Ended> {
    Carpd::for_address(ADDRESS, arguments)?.run(&pair.a)
}

/// carpd behind a command that starts it, run to its end.
fn run_by(host: &Host, starter: &[&str], carpd: &Carpd) -> Result<(i32, String)> {
    let carpd = carpd.command();
    let mut command = Command::new(starter[0]);
    command
        .args(&starter[1..])
        .arg(carpd.get_program())
        .args(carpd.get_args());
    let mut daemon = Daemon::spawn(host, "carpd", &mut command)?;
    let status = daemon.exit_code(LONG)?;
    Ok((status, daemon.transcript()))
}

#[test]
fn a_second_start_with_the_same_options_leaves_the_first_as_it_is() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let mut first = pair.master(&pair.a, SLOW)?;
    for more in ["", "-B", "-D -B"] {
        let ended = second(&pair, &format!("{SLOW} {more}"))?;
        // `-D` changes the kernel program too.
        let same = !more.contains("-D");
        let expected = if same {
            format!(
                "vhid 7 on eth0: served by pid {} already, with these options: left as it is",
                first.pid()
            )
        } else {
            format!(
                "vhid 7 on eth0 is already served by pid {}, with other options: stop that one first",
                first.pid()
            )
        };
        let said = format!("{}{}", ended.stdout, ended.stderr);
        ensure!(said.contains(&expected), "with {more:?}: {ended:?}");
        let status = if same { 0 } else { 2 };
        ensure!(ended.status == status, "with {more:?}: {ended:?}");
    }
    // Another password is a different option, although nothing shows it.
    let ended = second(&pair, &format!("{SLOW} -p another"))?;
    ensure!(ended.status == 2, "{ended:?}");
    ensure!(first.is_running()? && pair.a.pids()? == [first.pid()]);
    pair.stays_the_only_master(&pair.a, 3)
}

#[test]
fn a_start_right_after_kill_waits_for_the_owner_that_stops() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let scripts = Scripts::new()?;
    let down = scripts.script("down", "sleep 1")?;
    let options = format!("{FAST} -n -z -d {}", down.display());
    for arguments in [options.clone(), format!("{options} -k 60")] {
        let mut first = pair.master(&pair.a, &options)?;
        first.signal(Signal::SIGTERM)?;
        let mark = pair.capture.mark();
        let mut next = pair.carpd(&pair.a, &arguments)?;
        ensure!(first.exit_code(LONG)? == 0);
        pair.capture
            .wait_after(mark, "the next is MASTER", LONG, |captured| {
                captured
                    .carp_from("a")
                    .filter(|carp| !carp.is_bow_out())
                    .map(drop)
            })
            .with_context(|| next.transcript())?;
        ensure!(next.terminate(LONG)? == 0);
    }
    Ok(())
}

#[test]
fn the_same_vhid_from_a_container_with_the_hosts_network_is_refused() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let first = pair.carpd(&pair.a, SLOW)?;
    let container = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /run && exec \"$@\"",
        "sh",
    ];
    let (status, said) = run_by(&pair.a, &container, &Carpd::for_address(ADDRESS, OTHER)?)?;
    let expected = format!("vhid 7 on eth0 is already served by pid {}", first.pid());
    ensure!(status == 2 && said.contains(&expected), "{status}: {said}");
    Ok(())
}

#[test]
fn another_name_of_the_interface_lets_no_second_carpd_in() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let first = pair.carpd(&pair.a, SLOW)?;
    pair.a.ip("link set eth0 down")?;
    pair.a.ip("link set eth0 name lan7")?;
    pair.a.ip("link set lan7 up")?;
    let ended = second(&pair, &format!("{OTHER} -i lan7"))?;
    let expected = format!("vhid 7 on lan7 is already served by pid {}", first.pid());
    ensure!(
        ended.status == 2 && ended.stderr.contains(&expected),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn an_address_that_another_vhid_serves_is_refused_and_stays_there() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let first = pair.master(&pair.a, SLOW)?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    let arguments = format!("-v 8 -p secret -a {ADDRESS} {SLOW}");
    let ended = Carpd::new(&arguments)?.run(&pair.a)?;
    let expected = format!(
        "vhid 8 on eth0: its address {ADDRESS} is already served by pid {}",
        first.pid()
    );
    ensure!(
        ended.status == 2 && ended.stderr.contains(&expected),
        "{ended:?}"
    );
    ensure!(pair.a.has_address(ADDRESS)?);
    pair.stays_the_only_master(&pair.a, 3)
}

#[test]
fn a_killed_carpd_leaves_no_lock_in_the_file_system() -> Result<()> {
    let lab = lab!();
    let names = |lab: &carp_tests::Lab| -> Vec<Network> {
        let named = lab.names();
        named.iter().flat_map(|name| Network::named(name)).collect()
    };
    let host = lab.host("a", "10.9.0.1/16")?;
    let mut first = Carpd::for_address(ADDRESS, SLOW)?
        .datapath("socket")
        .start(&host)?;
    first.kill()?;
    let left: Vec<_> = names(&lab).iter().flat_map(|it| it.residue()).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn another_owner_of_the_lock_is_named() -> Result<()> {
    let pair = Pair::new(lab!())?;
    let index = pair
        .a
        .enter(|| nix::net::if_::if_nametoindex("eth0"))?
        .context("eth0 has an index")?;
    let name = format!("carpd/vhid/{index}/7");
    let squatter = pair
        .a
        .enter(|| UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?))??;
    let begun = Instant::now();
    let ended = second(&pair, SLOW)?;
    let expected = format!(
        "is already served by pid {}, which did not answer within 2 s",
        std::process::id()
    );
    ensure!(
        ended.status == 2 && ended.stderr.contains(&expected),
        "{ended:?}"
    );
    ensure!(begun.elapsed() < LONG, "it waited for an answer");
    drop(squatter);
    let _third = pair.master(&pair.a, SLOW)?;
    Ok(())
}

#[test]
fn an_alternative_name_means_the_interface() -> Result<()> {
    let pair = Pair::new(lab!())?;
    pair.a
        .ip("link property add dev eth0 altname the-network-of-the-laboratory")?;
    let name = "-i the-network-of-the-laboratory";
    let first = pair.master(&pair.a, &format!("{SLOW} {name}"))?;
    pair.a.wait_for_address(ADDRESS, true, LONG)?;
    ensure!(first.dump()?.state == "MASTER");
    // Both names are one interface, also in one process.
    let directory = tempfile::tempdir()?;
    let [file, password] = ["vhosts", "password"].map(|name| directory.path().join(name));
    std::fs::write(&password, "secret\n")?;
    let password = password.display();
    let lines = format!(
        "-i eth0 -v 8 -o {password} -a 10.9.0.108\n{name} -v 8 -o {password} -a 10.9.0.109\n"
    );
    std::fs::write(&file, lines)?;
    let twins = Carpd::bare()?
        .args(&format!("-f none --vhosts {}", file.display()))
        .run(&pair.a)?;
    ensure!(
        twins.status == 1 && twins.stderr.contains("vhid 8 on eth0 is given twice"),
        "{twins:?}"
    );
    let ended = second(&pair, OTHER)?;
    ensure!(
        ended.status == 2 && ended.stderr.contains("already served"),
        "{ended:?}"
    );
    let detached = Carpd::bare()?
        .args("--detach the-network-of-the-laboratory")
        .run(&pair.a)?;
    ensure!(!detached.stderr.contains("does not exist"), "{detached:?}");
    Ok(())
}

#[test]
fn an_interface_that_comes_later_has_one_owner_too_and_the_other_takes_over_from_it() -> Result<()>
{
    let pair = Pair::new(lab!())?;
    let waiting = |arguments: &str| {
        Carpd::for_address(
            ADDRESS,
            &format!("{arguments} -i eth7 -s 10.9.0.7 --wait-interface"),
        )?
        .spawn(&pair.a)
    };
    let mut daemons = [waiting(SLOW)?, waiting(OTHER)?];
    for daemon in &daemons {
        daemon.wait_for("interface eth7 does not exist: waiting for it", LONG)?;
    }
    pair.a.add_link("eth7", Mac([2, 0, 0, 0, 7, 7]))?;
    pair.capture
        .advertisement(Mark::default(), "a-eth7", LONG)?;
    let refused = "cannot serve eth7 yet, trying again: vhid 7 on eth7 is already served by pid";
    let second = carp_tests::eventually("one of them is refused", LONG, || {
        let mut refused = (0..2).filter(|it| !daemons[*it].lines_with(refused).is_empty());
        Ok(refused.next())
    })?;
    let first = 1 - second;
    let owner = format!("{refused} {}", daemons[first].pid());
    daemons[second].says_once(&owner)?;
    ensure!(daemons[first].terminate(LONG)? == 0);
    let mark = pair.capture.mark();
    pair.capture
        .wait_after(mark, "the other one advertises", LONG, |captured| {
            let carp = captured.carp_from("a-eth7")?;
            (!carp.is_bow_out()).then_some(())
        })?;
    Ok(())
}

/// Starts carpd as an unprivileged user who owns `/run/carpd`, kills it once its program is pinned, and then runs root's
/// `--detach`. `$0`: carpd.
const DETACHED_BY_ROOT: &str = "
mount -t tmpfs none /run && install -d -m 700 -o 65534 /run/carpd /run/carpd/bpf &&
mount -t bpf -o mode=0700 bpf /run/carpd/bpf && chown 65534 /run/carpd/bpf || exit 99
all=+net_admin,+net_raw,+bpf,+perfmon
setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps $all --ambient-caps $all \"$0\" \"$@\" & carpd=$!
until ls /run/carpd/bpf/*/tcx-0 > /dev/null 2>&1; do sleep 0.1; kill -0 $carpd || exit 98; done
kill -KILL $carpd; wait $carpd
exec \"$0\" --detach eth0
";

#[test]
fn root_detaches_what_a_carpd_of_another_user_left() -> Result<()> {
    let pair = Pair::new(lab!())?;
    // Reachable for that user, wherever the tests were built.
    let directory = tempfile::tempdir()?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), mode)?;
    let binary = directory.path().join("carpd");
    // Written by another process: see `Scripts::script`.
    pair.a
        .run("cp", &[&carp_tests::daemons::binary()?, &binary])?;
    let carpd = Carpd::for_address(ADDRESS, SLOW)?.datapath("tcx").command();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", DETACHED_BY_ROOT])
        .arg(&binary)
        .args(carpd.get_args());
    let mut daemon = Daemon::spawn(&pair.a, "carpd", &mut command)?;
    let status = daemon.exit_code(LONG)?;
    let said = daemon.transcript();
    ensure!(
        status == 0 && said.contains("removed the tcx-0 program from eth0"),
        "{status}: {said}"
    );
    Ok(())
}
