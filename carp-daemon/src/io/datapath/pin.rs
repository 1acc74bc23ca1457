//! Single pins and directories of them: what a name means, whether a link still has a program attached, and how both are
//! removed.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use crate::api::event::kernel::Pin;
use crate::api::{Outbox, Place};
use crate::sys;

/// Returns the place that a pin's name belongs to. Both modes of XDP have the same one.
pub fn place_of(name: &str) -> &str {
    if name.starts_with("xdp") { "xdp" } else { name }
}

/// Returns the names in a directory of pins. They are none if it cannot be read.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Returns whether the interface of a pinned link is gone. Returns `false` if that cannot be determined.
pub fn is_dead(pin: &Path) -> bool {
    let link = sys::open_bpf_object(pin).and_then(|link| sys::bpf_link_info(link.as_fd()));
    link.is_ok_and(|info| info.ifindex == 0)
}

/// Returns whether a pinned link is attached to an interface. Returns `true` if that cannot be determined.
pub fn is_attached(pin: &Path) -> bool {
    let link = sys::open_bpf_object(pin);
    match link.and_then(|link| sys::bpf_link_info(link.as_fd())) {
        Ok(info) => info.ifindex != 0,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Detaches a pinned link and removes its pin. Without the first step the link would go some time after the pin.
pub fn remove(pin: &Path, outbox: &Outbox) {
    let detached = sys::open_bpf_object(pin).and_then(|link| sys::detach_bpf_link(link.as_fd()));
    match detached {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => tell_unusable(outbox, pin, &error),
    }
    unlink(pin, outbox);
}

/// Removes a pin. Its link goes a moment later.
pub fn unlink(pin: &Path, outbox: &Outbox) {
    if let Err(error) = fs::remove_file(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        tell_unusable(outbox, pin, &error);
    }
}

/// Tells why a pin cannot be used.
pub fn tell_unusable(outbox: &Outbox, pin: &Path, error: &dyn Display) {
    let (path, error) = (pin.to_owned(), error.to_string());
    outbox.tell(Place::Process, Pin::Unusable { path, error });
}

/// Removes a directory of pins with everything in it. Returns whether there was anything in it.
pub fn remove_all(directory: &Path, remove: impl Fn(&Path)) -> bool {
    let names = names(directory);
    for name in &names {
        remove(&directory.join(name));
    }
    let _ = fs::remove_dir(directory);
    !names.is_empty()
}

/// Detaches the links of a pinned set and removes it, unless a living carpd has its lock. Returns whether there was one.
#[must_use]
pub fn remove_unused_set(directory: &Path, outbox: &Outbox) -> bool {
    let Ok(opened) = File::open(directory) else {
        return false;
    };
    let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock);
    lock.is_ok_and(|_lock| remove_all(directory, |pin| remove(pin, outbox)))
}
