//! Lines of events about what carpd has in the kernel.

use std::path::PathBuf;

use super::*;
use crate::api::event::kernel::{Egress, Ingress, Layout, Pin};

const DIRECTORY: &str = "/run/carpd/bpf";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = bpffs();
    rows.extend(pins());
    rows.extend(layouts());
    rows.extend(ingress());
    rows.extend(egress());
    rows
}

fn path() -> PathBuf {
    PathBuf::from("/run/carpd/bpf/1:tcx-0")
}

fn bpffs() -> Vec<Row> {
    let directory = DIRECTORY;
    vec![
        of_process(
            Pin::NoBpffs {
                directory,
                error: error(),
            },
            "[WARNING] no bpffs at /run/carpd/bpf (No such device): should carpd be killed, its kernel program goes with it, \
             and nothing keeps this host from answering for addresses that it left behind; mount one on the host before carpd \
             starts (mkdir -p /run/carpd/bpf; mount -t bpf bpf /run/carpd/bpf), and bring it in: BindPaths=/run/carpd/bpf in a \
             unit, -v /run/carpd/bpf:/run/carpd/bpf in a container",
        ),
        of_process(
            Pin::PrivateBpffs { directory },
            "[WARNING] the bpffs at /run/carpd/bpf is private to the mount namespace of this process (PrivateTmp=, \
             ProtectSystem=, unshare -m, a container): should carpd be killed, its kernel program goes with it, and nothing \
             keeps this host from answering for addresses that it left behind; mount one on the host before carpd starts \
             (mkdir -p /run/carpd/bpf; mount -t bpf bpf /run/carpd/bpf), and bring it in: BindPaths=/run/carpd/bpf in a unit, \
             -v /run/carpd/bpf:/run/carpd/bpf in a container",
        ),
        of_process(
            Pin::ContainerBpffs { directory },
            "[INFO] programs are pinned in a bpffs of this container: the fence outlives carpd, not the container; bring \
             /run/carpd/bpf of the host in for that",
        ),
        of_process(
            Pin::NoneInFirstNamespace { error: error() },
            "[DEBUG] no bpffs in the mount namespace of process 1: No such device",
        ),
    ]
}

fn pins() -> Vec<Row> {
    vec![
        of_process(
            Pin::SetAside { path: path() },
            "[WARNING] /run/carpd/bpf/1:tcx-0 is of another layout: set aside",
        ),
        of_process(
            Pin::NoDirectory {
                directory: DIRECTORY.into(),
                error: error(),
            },
            "[WARNING] failed to create /run/carpd/bpf, going on unpinned: No such device",
        ),
        of_process(
            Pin::Failed {
                path: path(),
                error: error(),
            },
            "[WARNING] failed to pin /run/carpd/bpf/1:tcx-0: No such device",
        ),
        of_process(
            Pin::Removed { path: path() },
            "[INFO] removed /run/carpd/bpf/1:tcx-0: its interface is gone",
        ),
        of_process(
            Pin::Unusable {
                path: path(),
                error: error(),
            },
            "[DEBUG] /run/carpd/bpf/1:tcx-0: No such device",
        ),
    ]
}

fn layouts() -> Vec<Row> {
    vec![
        of_process(
            Layout::TakenOver { table: path() },
            "[INFO] took over the addresses that /run/carpd/bpf/1:tcx-0 fences",
        ),
        of_process(
            Layout::AddressNotTakenOver {
                address: ip("10.0.0.100"),
                error: error(),
            },
            "[DEBUG] 10.0.0.100: No such device",
        ),
        of_process(
            Layout::ProgramNotTakenOver {
                pin: "tcx-0".to_owned(),
                ifindex: 7,
                error: error(),
            },
            "[DEBUG] cannot take over tcx-0 on interface 7: No such device",
        ),
    ]
}

fn ingress() -> Vec<Row> {
    let pin = || "tcx-0".to_owned();
    vec![
        of_process(
            Ingress::HookUnusable {
                hook: "tcx",
                error: error(),
            },
            "[DEBUG] tcx cannot be used: No such device",
        ),
        of_interface(
            Ingress::NoRung {
                refusals: " (tcx: No such device)".to_owned(),
            },
            "[WARNING] eth0: no datapath (tcx: No such device)",
        ),
        of_interface(
            Ingress::NotCounted { error: error() },
            "[WARNING] eth0: its frames are not counted: No such device",
        ),
        of_interface(
            Ingress::TakenOver { hook: "tcx" },
            "[INFO] eth0: took over the tcx link that an earlier run left",
        ),
        of_interface(
            Ingress::NotTakenOver {
                pin: pin(),
                error: error(),
            },
            "[DEBUG] eth0: cannot take over the link that is pinned as tcx-0: No such device",
        ),
        of_interface(
            Ingress::LeftoverRemoved { pin: pin() },
            "[INFO] eth0: removed the tcx-0 program that an earlier run left",
        ),
        of_process(
            Ingress::LeftoverRemovedAtEnd { pin: pin() },
            "[DEBUG] removed the tcx-0 program that another run left",
        ),
    ]
}

fn egress() -> Vec<Row> {
    let directory = || PathBuf::from("/run/carpd/bpf/1:egress-7");
    vec![
        of_process(
            Egress::Refused { error: error() },
            "[WARNING] the fence covers received packets, but not those that this host sends: No such device",
        ),
        of_process(
            Egress::TooOld,
            "[INFO] the fence covers received packets, but not those that this host sends: tcx at egress needs Linux 6.6",
        ),
        of_process(
            Egress::SetUnusable {
                directory: directory(),
                error: error(),
            },
            "[WARNING] failed to use /run/carpd/bpf/1:egress-7, going on unpinned: No such device",
        ),
        of_process(
            Egress::SetNotShared {
                directory: directory(),
                error: error(),
            },
            "[WARNING] /run/carpd/bpf/1:egress-7: No such device",
        ),
        of_process(
            Egress::NotPinned {
                path: directory().join("3-arp"),
                error: error(),
            },
            "[WARNING] failed to pin /run/carpd/bpf/1:egress-7/3-arp, going on unpinned: No such device",
        ),
        of_process(
            Egress::NotTakenOver {
                path: directory().join("3-arp"),
                error: error(),
            },
            "[DEBUG] cannot take over /run/carpd/bpf/1:egress-7/3-arp: No such device",
        ),
        of_interface(
            Egress::NotCovered { error: error() },
            "[WARNING] eth0: the fence does not cover packets that leave through the interface, trying again: No such device",
        ),
        of_interface(
            Egress::Detached { others: 0 },
            "[WARNING] eth0: another process detached carpd's program from the egress of the interface: attaching again",
        ),
        of_interface(
            Egress::Detached { others: 2 },
            "[WARNING] eth0: another process detached carpd's program from the egress of the interface and of 2 more: \
             attaching again",
        ),
    ]
}
