//! A MASTER that is killed in a hardened unit of a real systemd.

use anyhow::{Context as _, Result, ensure};
use carp_tests::{Lab, Machine, eventually, lab};

use super::Scene;
use super::sandbox::{WARNING, answers_when_killed};
use crate::support::{ADDRESS, LONG};

/// The file for carpd's output.
const LOG: &str = "/carpd.log";

/// Mounts of its own, and root's privileges.
const PRIVATE_MOUNTS: &str = "
    PrivateTmp=yes
    PrivateDevices=yes
    ProtectHome=yes
    ProtectSystem=full
    NoNewPrivileges=yes
";

/// The fewest privileges with which carpd serves; they do not allow mounting.
const HARDENED: &str = "
    User=nobody
    AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_SETPCAP
    CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_SETPCAP
    NoNewPrivileges=yes
    ProtectSystem=strict
    ProtectHome=yes
    PrivateTmp=yes
    PrivateDevices=yes
    ProtectClock=yes
    ProtectHostname=yes
    ProtectKernelTunables=yes
    ProtectKernelModules=yes
    ProtectKernelLogs=yes
    ProtectControlGroups=yes
    ProtectProc=invisible
    ProcSubset=pid
    RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
    RestrictNamespaces=yes
    RestrictRealtime=yes
    RestrictSUIDSGID=yes
    LockPersonality=yes
    MemoryDenyWriteExecute=yes
    SystemCallArchitectures=native
    SystemCallFilter=@system-service bpf seccomp
    SystemCallFilter=~@resources @keyring
    SystemCallErrorNumber=EPERM
    UMask=0077
";

/// Runs carpd as MASTER in a unit on a, after `prepare`, and kills it. Returns its output and a's answers after the kill.
fn killed_in_a_unit(lab: Lab, prepare: &str, hardening: &str) -> Result<(String, usize)> {
    let scene = Scene::new(lab)?;
    let machine = Machine::boot(&scene.pair.a)?;
    let password = "printf 'secret\\n' > /etc/carpd.pass && chmod 600 /etc/carpd.pass && chown nobody /etc/carpd.pass";
    machine.run(&["sh", "-ec", &format!("{password}\n{prepare}")])?;
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nRuntimeDirectory=carpd\nRuntimeDirectoryMode=0700\n\
         StandardOutput=append:{LOG}\nStandardError=append:{LOG}\nExecStart={} -i eth0 -v 7 \
         -o /etc/carpd.pass -a {ADDRESS} -b 0 -k 25 --lease 0 --datapath tcx\n{hardening}",
        carp_tests::machine::CARPD
    );
    let started = machine.start("carpd.service", &unit).and_then(|()| {
        scene.pair.a.wait_for_address(ADDRESS, true, LONG)?;
        answers_when_killed(&scene)
    });
    let said = machine.read(LOG)?;
    let answers = started.with_context(|| {
        let status = machine.run(&["sh", "-c", "systemctl status carpd.service || true"]);
        format!("{said}{status:?}")
    })?;
    // carpd ended, and not the machine.
    eventually("the unit has ended", LONG, || {
        let state = machine.run(&[
            "systemctl",
            "show",
            "--property=ActiveState",
            "carpd.service",
        ])?;
        Ok((state.trim() == "ActiveState=failed").then_some(()))
    })?;
    Ok((said, answers))
}

#[test]
fn a_master_killed_in_a_unit_with_private_mounts_is_silent() -> Result<()> {
    let (said, answers) = killed_in_a_unit(lab!(), "", PRIVATE_MOUNTS)?;
    ensure!(!said.contains(WARNING) && answers == 0, "{answers}: {said}");
    Ok(())
}

#[test]
fn a_master_killed_in_a_hardened_unit_is_silent_where_a_bpffs_was_mounted() -> Result<()> {
    let mount = "mkdir -p -m 700 /run/carpd/bpf && mount -t bpf -o mode=0700 bpf /run/carpd/bpf";
    let (said, answers) = killed_in_a_unit(lab!(), mount, HARDENED)?;
    ensure!(!said.contains(WARNING) && answers == 0, "{answers}: {said}");
    Ok(())
}

#[test]
fn a_hardened_unit_without_a_bpffs_is_warned_of() -> Result<()> {
    let (said, answers) = killed_in_a_unit(lab!(), "", HARDENED)?;
    ensure!(said.contains(WARNING), "{said}");
    // The warning was right.
    ensure!(answers > 0, "{said}");
    Ok(())
}
