//! Lines of events about the process and what it depends on.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::*;
use crate::api::event::process::{
    Memory, Netlink, NetlinkRequest, Process, Refusal, Run, Script, Stall,
};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = scripts_and_lateness();
    rows.extend(runs());
    rows.extend(netlink());
    rows.extend(memory());
    rows.push(of_process(
        Process::NotWaiting,
        "[WARNING] asked to stop again: not waiting for scripts",
    ));
    rows.push(of_process(Process::Stopped, "[NOTICE] carpd has stopped"));
    rows
}

fn netlink() -> Vec<Row> {
    let failed = |request| Netlink::Failed {
        request,
        error: error(),
    };
    vec![
        of_process(
            failed(NetlinkRequest::Watch),
            "[ERROR] failed to watch links and addresses: No such device: going on with what was known, trying again",
        ),
        of_process(
            failed(NetlinkRequest::List),
            "[ERROR] failed to list links and addresses: No such device: going on with what was known, trying again",
        ),
        of_process(
            Netlink::Overrun,
            "[WARNING] netlink notifications were lost: listing links and addresses again",
        ),
        of_process(
            Netlink::Unfinished {
                waited: Duration::from_secs(10),
                addresses: vec![cidr("10.0.0.100/24")],
            },
            "[ERROR] the kernel has not carried out every change of addresses within 10 s, stopping without it: these may \
             stay: 10.0.0.100/24",
        ),
    ]
}

fn scripts_and_lateness() -> Vec<Row> {
    vec![
        of_vhost(
            Script::Failed {
                retry: Duration::from_secs(10),
            },
            "[ERROR] eth0 id 7: its up script failed and the address is not on this host: advertising a worse priority until \
             the script works, and running it again every 10 s",
        ),
        of_vhost(
            Script::Worked,
            "[INFO] eth0 id 7: its up script has worked: the configured priority again",
        ),
        of_vhost(
            Script::FailureExpired {
                quiet: Duration::from_secs(60),
            },
            "[INFO] eth0 id 7: its up script last failed 60 s ago: the configured priority again",
        ),
        of_vhost(
            Stall::Late {
                lateness: Duration::from_micros(812_900),
                interval: Duration::from_millis(1390),
            },
            "[WARNING] eth0 id 7: late by 812 ms, the advertisement interval is 1390 ms: carpd was stopped, or this host is \
             overloaded (--realtime helps)",
        ),
        of_process(
            Stall::AdvertisementsLost { lost: 3 },
            "[WARNING] 3 advertisements were lost while carpd was stopped: listening again",
        ),
    ]
}

fn runs() -> Vec<Row> {
    let line = || "/etc/carpd/up.sh eth0 10.0.0.1".to_owned();
    let limit = Duration::from_secs(60);
    vec![
        of_vhost(
            Run::Spawning { line: line() },
            "[NOTICE] Spawning [/etc/carpd/up.sh eth0 10.0.0.1]",
        ),
        of_vhost(
            Run::Postponed {
                line: line(),
                error: error(),
            },
            "[ERROR] Unable to exec /etc/carpd/up.sh eth0 10.0.0.1, trying again: No such device",
        ),
        of_vhost(
            Run::NotStartedInTime {
                line: line(),
                limit,
            },
            "[ERROR] Unable to exec /etc/carpd/up.sh eth0 10.0.0.1 within 60s: the file system of the script or of its \
             interpreter does not answer",
        ),
        of_vhost(
            Run::NotStarted {
                line: line(),
                error: error(),
            },
            "[ERROR] Unable to exec /etc/carpd/up.sh eth0 10.0.0.1: No such device",
        ),
        of_vhost(
            Run::Overdue {
                line: line(),
                limit,
            },
            "[ERROR] script on eth0 id 7 still runs after 60s, ending it: [/etc/carpd/up.sh eth0 10.0.0.1]",
        ),
        of_vhost(
            Run::Succeeded { line: line() },
            "[DEBUG] script on eth0 id 7 succeeded: [/etc/carpd/up.sh eth0 10.0.0.1]",
        ),
        of_vhost(
            Run::Failed {
                line: line(),
                status: ExitStatus::from_raw(3 << 8),
            },
            "[WARNING] script on eth0 id 7 failed with exit status: 3: [/etc/carpd/up.sh eth0 10.0.0.1]",
        ),
        of_vhost(
            Run::Unknown {
                line: line(),
                error: error(),
            },
            "[ERROR] failed to wait for [/etc/carpd/up.sh eth0 10.0.0.1]: No such device",
        ),
        of_vhost(
            Run::NotSignalled {
                signal: "SIGTERM",
                group: 4711,
                error: error(),
            },
            "[WARNING] failed to send SIGTERM to process group 4711: No such device",
        ),
        of_vhost(
            Run::WorkerEnded { error: error() },
            "[ERROR] script worker ended: No such device",
        ),
    ]
}

fn memory() -> Vec<Row> {
    let directory = PathBuf::from("/var/lib/carpd");
    vec![
        of_process(
            Memory::NoDirectory,
            "[INFO] no state directory: what is heard from peers will be forgotten at exit (give --state-dir DIR, or \
             StateDirectory=carpd in the systemd unit)",
        ),
        of_process(
            Memory::DirectoryFailed { error: error() },
            "[WARNING] what is heard from peers will be forgotten at exit: No such device",
        ),
        of_process(
            Memory::Ignored {
                first: Refusal::Damaged(directory.join("eth0.7")),
                others: 0,
            },
            "[WARNING] ignored what was heard before: /var/lib/carpd/eth0.7 is damaged or of another version of carpd",
        ),
        of_process(
            Memory::Ignored {
                first: Refusal::Unreadable("failed to read eth0.7: Input/output error".to_owned()),
                others: 2,
            },
            "[WARNING] ignored what was heard before: failed to read eth0.7: Input/output error others=2",
        ),
        of_process(
            Memory::Recalled {
                recalled: 3,
                total: 4,
                directory,
            },
            "[INFO] recalled what 3 of 4 virtual hosts heard before, from /var/lib/carpd",
        ),
        of_process(
            Memory::NotKept { error: error() },
            "[WARNING] cannot keep what was heard from peers for the next start: No such device",
        ),
        of_process(
            Memory::Incomplete,
            "[WARNING] stopped without keeping all that was heard from peers: the disk is too slow",
        ),
    ]
}
