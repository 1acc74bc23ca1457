//! What happens to one host's kernel: somebody else's doing, or the kernel's own.

use std::time::Duration;

use carp_common::time::Instant;

use super::super::kernel::namespace::errno;
use super::super::rng::Rng;
use super::{Fault, Member, START, ms};

/// Something that happens beneath a carpd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Somebody removes the virtual addresses.
    Remove,
    /// Somebody removes every address of the interface.
    Flush,
    /// Somebody adds a virtual address himself, with this prefix length.
    Take(u8),
    /// He removes what he added.
    GiveUp,
    /// The host gets another address of its own, in the subnet of the virtual ones, with this prefix length.
    AddOwn(u8),
    /// It loses that one.
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
    /// It has its name again.
    RenameBack,
    /// It becomes a port of a bridge.
    Enslave,
    /// It is no port any more.
    Free,
    /// It has another Ethernet address.
    ChangeMac(u8),
    /// Another host claims a virtual address in ARP, as a carpd does or as any other.
    Claim(bool),
    /// Notifications are lost.
    Overrun,
    /// Another program takes the place of carpd's.
    TakeOff,
    /// Another program removes a virtual host from the kernel's table.
    RemoveEntry,
    /// Orders meet this error.
    OrdersFail(i32),
    /// They work again.
    OrdersWork,
    /// Programs cannot be attached.
    AttachFails,
    /// They can again.
    AttachWorks,
    /// The kernel's tables have no room.
    TablesFull,
    /// They have again.
    TablesWork,
    /// Up scripts fail.
    ScriptsFail,
    /// They work again.
    ScriptsWork,
}

impl Mishap {
    /// Whether a MASTER loses addresses by it that it puts back.
    pub(super) const fn loses_addresses(self) -> bool {
        matches!(self, Self::Remove | Self::Flush | Self::GiveUp)
    }

    /// Whether a MASTER may be unable to add its addresses.
    pub(super) const fn keeps_from_serving(self) -> bool {
        matches!(self, Self::OrdersFail(_) | Self::ScriptsFail)
    }
}

/// What mends everything that does not end by itself.
pub const MENDING: [Mishap; 8] = [
    Mishap::Free,
    Mishap::RenameBack,
    Mishap::Recreate,
    Mishap::Up,
    Mishap::OrdersWork,
    Mishap::AttachWorks,
    Mishap::TablesWork,
    Mishap::ScriptsWork,
];

/// Draws some for one host.
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
            // Again and again, as a network manager does that does not know the address.
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
