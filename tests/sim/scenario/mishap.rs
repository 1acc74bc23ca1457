//! Mishaps in one host's kernel, caused by other programs or by the kernel itself.

use std::time::Duration;

use carp_common::time::Instant;

use super::super::kernel::namespace::errno;
use super::super::rng::Rng;
use super::{Fault, Member, START, ms};

/// A mishap below a carpd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Another program removes the virtual addresses.
    Remove,
    /// Another program removes every address of the interface.
    Flush,
    /// Another program adds a virtual address, with this prefix length.
    Take(u8),
    /// It removes what it added.
    GiveUp,
    /// The host gets another address of its own, in the subnet of the virtual ones, with this prefix length.
    AddOwn(u8),
    /// The host loses that address.
    RemoveOwn,
    /// The interface is set down.
    Down,
    /// It is set up.
    Up,
    /// It is deleted.
    Delete,
    /// It is created again.
    Recreate,
    /// It is renamed.
    Rename,
    /// It gets its name back.
    RenameBack,
    /// It becomes a port of a bridge.
    Enslave,
    /// It leaves the bridge.
    Free,
    /// It gets another Ethernet address.
    ChangeMac(u8),
    /// Another host claims a virtual address by ARP, with the mark of a carpd or without.
    Claim(bool),
    /// Notifications are lost.
    Overrun,
    /// Another program takes the place of carpd's.
    TakeOff,
    /// Another program removes a virtual host from the kernel's table.
    RemoveEntry,
    /// Orders fail with this error.
    OrdersFail(i32),
    /// Orders succeed again.
    OrdersWork,
    /// The kernel does not answer orders and questions in time.
    OrdersSlow,
    /// It answers at once again.
    OrdersQuick,
    /// Notifications are lost, and links and addresses cannot be listed.
    ListsFail,
    /// They can be listed again.
    ListsWork,
    /// Another process holds the locks of the virtual hosts whenever carpd does not.
    LocksTaken,
    /// It is gone.
    LocksFree,
    /// The kernel's tables refuse every change, except to remove an entry.
    ChangesRefused,
    /// They accept changes again.
    ChangesAccepted,
    /// The kernel's tables refuse to remove an entry.
    RemovalsRefused,
    /// Entries can be removed again.
    RemovalsAccepted,
    /// Another program adds a virtual address for so many seconds, as a DHCP client does.
    Lend(u8),
    /// Programs cannot be attached.
    AttachFails,
    /// Programs can be attached again.
    AttachWorks,
    /// The kernel's tables are full.
    TablesFull,
    /// The tables have room again.
    TablesWork,
    /// Up scripts fail.
    ScriptsFail,
    /// Up scripts work again.
    ScriptsWork,
}

impl Mishap {
    /// Whether it removes addresses of a MASTER, which then restores them.
    pub(super) const fn loses_addresses(self) -> bool {
        matches!(
            self,
            Self::Remove | Self::Flush | Self::GiveUp | Self::Lend(_)
        )
    }

    /// Whether a MASTER may be unable to add its addresses because of it.
    pub(super) const fn keeps_from_serving(self) -> bool {
        matches!(
            self,
            Self::OrdersFail(_) | Self::ScriptsFail | Self::OrdersSlow | Self::ListsFail
        )
    }
}

/// Ends every mishap that does not end by itself.
pub const MENDING: [Mishap; 13] = [
    Mishap::Free,
    Mishap::RenameBack,
    Mishap::Recreate,
    Mishap::Up,
    Mishap::OrdersWork,
    Mishap::OrdersQuick,
    Mishap::ListsWork,
    Mishap::LocksFree,
    Mishap::ChangesAccepted,
    Mishap::RemovalsAccepted,
    Mishap::AttachWorks,
    Mishap::TablesWork,
    Mishap::ScriptsWork,
];

/// Draws some mishaps for one host.
pub(super) fn draw_mishap(
    members: &[Member],
    horizon: Duration,
    rng: &mut Rng,
    faults: &mut Vec<(Instant, Fault)>,
) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    let start = START + ms(rng.between(0, horizon_ms));
    let end = start
        + if rng.chance(500) {
            ms(rng.between(1, 300))
        } else {
            ms(rng.between(300, horizon_ms.max(301)))
        };
    let host = rng.index(members.len());
    let mut at = |at: Instant, mishap| faults.push((at, Fault::Mishap(host, mishap)));
    let mut pair = |first, last| {
        at(start, first);
        at(end, last);
    };
    let error = rng.pick(&[errno::ENOBUFS, errno::EAGAIN]);
    match rng.between(0, 17) {
        0 | 1 => at(start, Mishap::Remove),
        2 => {
            // Again and again, like a network manager that does not know the address.
            let (mut when, pause) = (start, ms(rng.between(10, 3_000)));
            for _ in 0..rng.between(2, 8) {
                at(when, Mishap::Remove);
                when = when + pause;
            }
        }
        3 => at(start, Mishap::Flush),
        4 | 5 => pair(Mishap::Take(rng.pick(&[32, 32, 24])), Mishap::GiveUp),
        6 => at(start, Mishap::Take(32)),
        7 => pair(
            Mishap::AddOwn(rng.pick(&[24, 24, 16, 25, 32])),
            Mishap::RemoveOwn,
        ),
        8 => pair(Mishap::Down, Mishap::Up),
        9 => pair(Mishap::Delete, Mishap::Recreate),
        10 => pair(Mishap::Rename, Mishap::RenameBack),
        11 => pair(Mishap::Enslave, Mishap::Free),
        12 => at(start, Mishap::ChangeMac(rng.byte(0, 255))),
        13 => {
            let mut when = start;
            for _ in 0..rng.between(1, 20) {
                at(when, Mishap::Claim(rng.chance(500)));
                when = when + ms(rng.between(1, 2_000));
            }
        }
        14 => at(start, Mishap::Overrun),
        15 => at(start, rng.pick(&[Mishap::TakeOff, Mishap::RemoveEntry])),
        16 => pair(Mishap::OrdersFail(error), Mishap::OrdersWork),
        _ => match rng.between(0, 2) {
            0 => pair(Mishap::AttachFails, Mishap::AttachWorks),
            1 => pair(Mishap::TablesFull, Mishap::TablesWork),
            _ => pair(Mishap::ScriptsFail, Mishap::ScriptsWork),
        },
    }
}

/// Draws a rare mishap for one host.
pub(super) fn draw_rare(
    members: &[Member],
    horizon: Duration,
    rng: &mut Rng,
    faults: &mut Vec<(Instant, Fault)>,
) {
    let horizon_ms = u64::try_from(horizon.as_millis()).expect("a minute at most");
    let start = START + ms(rng.between(0, horizon_ms));
    let length = if rng.chance(500) {
        rng.between(1, 1_000)
    } else {
        rng.between(1_000, horizon_ms.max(1_001))
    };
    let host = rng.index(members.len());
    let mut at = |after: u64, fault| faults.push((start + ms(after), fault));
    let error = rng.pick(&[errno::ENOBUFS, errno::EAGAIN]);
    let (begin, end) = match rng.between(0, 6) {
        6 => (Mishap::OrdersFail(error), Mishap::OrdersWork),
        0 => (Mishap::OrdersSlow, Mishap::OrdersQuick),
        1 => (Mishap::ListsFail, Mishap::ListsWork),
        2 => (Mishap::LocksTaken, Mishap::LocksFree),
        3 => (Mishap::ChangesRefused, Mishap::ChangesAccepted),
        4 => (Mishap::RemovalsRefused, Mishap::RemovalsAccepted),
        _ => {
            let seconds = rng.byte(1, 60);
            return at(0, Fault::Mishap(host, Mishap::Lend(seconds)));
        }
    };
    at(0, Fault::Mishap(host, begin));
    at(length, Fault::Mishap(host, end));
    // Most of them matter only if something else happens meanwhile.
    let mut meanwhile = || rng.between(0, length);
    let (first, second) = (meanwhile(), meanwhile());
    let (first, second) = (first.min(second), first.max(second));
    match rng.between(0, 5) {
        0 => {
            at(first, Fault::Crash(host));
            at(second, Fault::Start(host));
        }
        1 => {
            at(first, Fault::Mishap(host, Mishap::Delete));
            at(second, Fault::Mishap(host, Mishap::Recreate));
        }
        2 => at(first, Fault::StepDown(host)),
        3 => at(first, Fault::Mishap(host, Mishap::Remove)),
        4 => {
            at(first, Fault::Hang(host));
            at(second, Fault::Resume(host));
        }
        _ => {}
    }
}
