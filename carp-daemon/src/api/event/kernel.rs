//! Events about what carpd has in the kernel: programs, the pins that keep them, and what other runs left of both.

use std::net::IpAddr;
use std::path::PathBuf;

use super::events;

events! {
    /// Pins, which keep programs attached when carpd is killed.
    Pin
    /// Nothing can be pinned.
    NoBpffs {
        /// Where a bpffs is looked for.
        directory: &'static str,
        /// The error.
        error: String,
    } => Warning "pins-without-bpffs",
    /// The pins end with the mount namespace of this process.
    PrivateBpffs {
        /// Where the bpffs is.
        directory: &'static str,
    } => Warning "pins-private",
    /// The pins end with the container.
    ContainerBpffs {
        /// Where the bpffs is.
        directory: &'static str,
    } => Info "pins-of-container",
    /// There is no bpffs in the mount namespace of process 1.
    NoneInFirstNamespace {
        /// The error.
        error: String,
    } => Debug "pins-not-in-first-namespace",
    /// A pin with the name of a shared table has another shape.
    SetAside {
        /// The pin.
        path: PathBuf,
    } => Warning "pin-set-aside",
    /// There is no directory for a pin. The program goes on without one.
    NoDirectory {
        /// The directory.
        directory: PathBuf,
        /// The error.
        error: String,
    } => Warning "pin-without-directory",
    /// A program could not be pinned.
    Failed {
        /// The pin.
        path: PathBuf,
        /// The error.
        error: String,
    } => Warning "pin-failed",
    /// A pin of an interface that is gone was removed.
    Removed {
        /// The pin.
        path: PathBuf,
    } => Info "pin-removed",
    /// A pin could not be read, renamed or removed.
    Unusable {
        /// The pin.
        path: PathBuf,
        /// The error.
        error: String,
    } => Debug "pin-unusable",
}

events! {
    /// Tables of a carpd that has another layout.
    Layout
    /// The addresses in a table were taken over, and the table was removed.
    TakenOver {
        /// The table.
        table: PathBuf,
    } => Info "layout-taken-over",
    /// An address could not be taken over.
    AddressNotTakenOver {
        /// The address.
        address: IpAddr,
        /// The error.
        error: String,
    } => Debug "layout-address-not-taken-over",
    /// A program could not be taken over.
    ProgramNotTakenOver {
        /// The name of its pin.
        pin: String,
        /// The index of its interface.
        ifindex: u32,
        /// The error.
        error: String,
    } => Debug "layout-program-not-taken-over",
}

events! {
    /// Programs at the ingress of interfaces.
    Ingress
    /// A way to attach cannot be used at all.
    HookUnusable {
        /// Its name.
        hook: &'static str,
        /// The error.
        error: String,
    } => Debug "hook-unusable",
    /// No rung works on an interface. The error of the last one follows.
    NoRung {
        /// The refusals of the others.
        refusals: String,
    } => Warning "datapath-none",
    /// The frames on an interface are received, but not counted.
    NotCounted {
        /// The error.
        error: String,
    } => Warning "frames-not-counted",
    /// A program that an earlier run left was replaced by ours.
    TakenOver {
        /// The hook where it is.
        hook: &'static str,
    } => Info "program-taken-over",
    /// A program that an earlier run left could not be replaced.
    NotTakenOver {
        /// The name of its pin.
        pin: String,
        /// The error.
        error: String,
    } => Debug "program-not-taken-over",
    /// A program that an earlier run left was removed.
    LeftoverRemoved {
        /// The name of its pin.
        pin: String,
    } => Info "program-removed",
    /// A program that another run left was removed at the end of this one.
    LeftoverRemovedAtEnd {
        /// The name of its pin.
        pin: String,
    } => Debug "program-removed-at-end",
}

events! {
    /// Programs at the egress of interfaces, which cover what this host sends.
    Egress
    /// The kernel refused the program.
    Refused {
        /// The error.
        error: String,
    } => Warning "egress-refused",
    /// The kernel has no tcx.
    TooOld => Info "egress-kernel-too-old",
    /// The pinned set cannot be used, so the programs end with this process.
    SetUnusable {
        /// The directory of the set.
        directory: PathBuf,
        /// The error.
        error: String,
    } => Warning "egress-set-unusable",
    /// The lock of the pinned set could not be shared with other carpds.
    SetNotShared {
        /// The directory of the set.
        directory: PathBuf,
        /// The error.
        error: String,
    } => Warning "egress-set-not-shared",
    /// A program could not be pinned, so it ends with this process.
    NotPinned {
        /// The pin.
        path: PathBuf,
        /// The error.
        error: String,
    } => Warning "egress-not-pinned",
    /// A program that another run left could not be replaced.
    NotTakenOver {
        /// Its pin.
        path: PathBuf,
        /// The error.
        error: String,
    } => Debug "egress-not-taken-over",
    /// An interface could not be covered. carpd tries again.
    NotCovered {
        /// The error.
        error: String,
    } => Warning "egress-not-covered",
    /// Another process detached the program. The place of the event is the first such interface.
    Detached {
        /// The number of the other interfaces where that happened.
        others: usize,
    } => Warning "egress-detached",
}
