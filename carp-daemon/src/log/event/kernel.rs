//! Texts of events about what carpd has in the kernel.

use std::fmt::{Formatter, Result};

use super::Lead;
use crate::api::event::Place;
use crate::api::event::kernel::{Egress, Ingress, Layout, Pin};

/// What happens if the pins end with the daemon, and what the operator can do about it.
const CONSEQUENCE: &str = "should carpd be killed, its kernel program goes with it, and nothing keeps this host from \
     answering for addresses that it left behind";
const REMEDY: &str = "mount one on the host before carpd starts (mkdir -p /run/carpd/bpf; mount -t bpf bpf \
     /run/carpd/bpf), and bring it in: BindPaths=/run/carpd/bpf in a unit, -v /run/carpd/bpf:/run/carpd/bpf in a container";

pub(super) fn pin(f: &mut Formatter<'_>, it: &Pin) -> Result {
    match it {
        Pin::NoBpffs { directory, error } => {
            write!(
                f,
                "no bpffs at {directory} ({error}): {CONSEQUENCE}; {REMEDY}"
            )
        }
        Pin::PrivateBpffs { directory } => write!(
            f,
            "the bpffs at {directory} is private to the mount namespace of this process (PrivateTmp=, ProtectSystem=, unshare \
             -m, a container): {CONSEQUENCE}; {REMEDY}"
        ),
        Pin::ContainerBpffs { directory } => write!(
            f,
            "programs are pinned in a bpffs of this container: the fence outlives carpd, not the container; bring {directory} \
             of the host in for that"
        ),
        Pin::NoneInFirstNamespace { error } => {
            write!(f, "no bpffs in the mount namespace of process 1: {error}")
        }
        Pin::SetAside { path } => write!(f, "{} is of another layout: set aside", path.display()),
        Pin::NoDirectory { directory, error } => write!(
            f,
            "failed to create {}, going on unpinned: {error}",
            directory.display()
        ),
        Pin::Failed { path, error } => write!(f, "failed to pin {}: {error}", path.display()),
        Pin::Removed { path } => write!(f, "removed {}: its interface is gone", path.display()),
        Pin::Unusable { path, error } => write!(f, "{}: {error}", path.display()),
    }
}

pub(super) fn layout(f: &mut Formatter<'_>, it: &Layout) -> Result {
    match it {
        Layout::TakenOver { table } => {
            write!(f, "took over the addresses that {} fences", table.display())
        }
        Layout::AddressNotTakenOver { address, error } => write!(f, "{address}: {error}"),
        Layout::ProgramNotTakenOver {
            pin,
            ifindex,
            error,
        } => write!(f, "cannot take over {pin} on interface {ifindex}: {error}"),
    }
}

pub(super) fn ingress(f: &mut Formatter<'_>, place: &Place, it: &Ingress) -> Result {
    let lead = Lead(place);
    match it {
        Ingress::HookUnusable { hook, error } => write!(f, "{hook} cannot be used: {error}"),
        Ingress::NoRung { refusals } => write!(f, "{lead}no datapath{refusals}"),
        Ingress::NotCounted { error } => write!(f, "{lead}its frames are not counted: {error}"),
        Ingress::TakenOver { hook } => {
            write!(
                f,
                "{lead}took over the {hook} link that an earlier run left"
            )
        }
        Ingress::NotTakenOver { pin, error } => write!(
            f,
            "{lead}cannot take over the link that is pinned as {pin}: {error}"
        ),
        Ingress::LeftoverRemoved { pin } => {
            write!(
                f,
                "{lead}removed the {pin} program that an earlier run left"
            )
        }
        Ingress::LeftoverRemovedAtEnd { pin } => {
            write!(f, "removed the {pin} program that another run left")
        }
    }
}

pub(super) fn egress(f: &mut Formatter<'_>, place: &Place, it: &Egress) -> Result {
    let lead = Lead(place);
    match it {
        Egress::Refused { error } => write!(
            f,
            "the fence covers received packets, but not those that this host sends: {error}"
        ),
        Egress::TooOld => f.write_str(
            "the fence covers received packets, but not those that this host sends: tcx at egress needs Linux 6.6",
        ),
        Egress::SetUnusable { directory, error } => write!(
            f,
            "failed to use {}, going on unpinned: {error}",
            directory.display()
        ),
        Egress::SetNotShared { directory, error } => {
            write!(f, "{}: {error}", directory.display())
        }
        Egress::NotPinned { path, error } => write!(
            f,
            "failed to pin {}, going on unpinned: {error}",
            path.display()
        ),
        Egress::NotTakenOver { path, error } => {
            write!(f, "cannot take over {}: {error}", path.display())
        }
        Egress::NotCovered { error } => write!(
            f,
            "{lead}the fence does not cover packets that leave through the interface, trying again: {error}"
        ),
        Egress::Detached { others } => {
            write!(
                f,
                "{lead}another process detached carpd's program from the egress of the interface"
            )?;
            if *others > 0 {
                write!(f, " and of {others} more")?;
            }
            f.write_str(": attaching again")
        }
    }
}
