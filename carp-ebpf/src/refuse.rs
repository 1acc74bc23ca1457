//! The end of an advertisement that is refused: it is counted and, on request, explained in the log.

use aya_log_ebpf::debug;
use carp_common::abi::counters::Counter;
use carp_common::drop_reason::DropReason;
use carp_common::for_each_counter;

use crate::maps;

/// The number of refusals that a CPU explains in a second. It is more than an operator can read, and small enough that a
/// flood does not keep the daemon busy. The counters count every refusal.
const EXPLAINED_MAX: u32 = 100;
/// One second. Unit: nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

/// Counts a broken advertisement in the ledger of its virtual host. `received` and `reason` are indices of the counters of its
/// family and of its fault. Returns 0 if the frame passes, because the daemon has given no sign of life for too long, and
/// another number if it is dropped.
///
/// This is a global function for the same reason as [`maps::carpd_authentic`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_refuse(received: u32, reason: u32, slot: u32, alive_until_ns: u64) -> u32 {
    let Some(ledger) = maps::ledger(slot) else {
        return 0;
    };
    maps::count_in(Some(ledger), received);
    let is_alive = maps::now_ns() <= alive_until_ns;
    let counted = match is_alive {
        true => reason,
        false => Counter::PassedLeftover.index(),
    };
    maps::count_in(Some(ledger), counted);
    is_alive.into()
}

/// Logs the reason to drop an advertisement, which is the counter of this index, with the virtual host and the sender from
/// [`maps::scratch`]. It logs nothing for a frame that was handed to the daemon. The result has no meaning.
///
/// This is a global function for the same reason as [`maps::carpd_authentic`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_explain(counter: u32) -> u32 {
    if maps::DEBUG.load() != 0 {
        explain(counter);
    }
    0
}

/// Logs a refusal, unless the limit is reached.
///
/// There is one call for each text. A choice among strings would become a table of addresses, which an eBPF object cannot
/// relocate.
#[inline(always)]
fn explain(counter: u32) {
    let Some(scratch) = maps::scratch() else {
        return;
    };
    if counter == Counter::Delivered.index() || counter == Counter::DatapathEventsLost.index() {
        return;
    }
    let now_ns = maps::now_ns();
    if now_ns - scratch.explaining_since_ns >= SECOND_NS {
        scratch.explaining_since_ns = now_ns;
        scratch.explained = 0;
    }
    if scratch.explained >= EXPLAINED_MAX {
        return;
    }
    scratch.explained += 1;
    let key = &scratch.event.key;
    let source = scratch.event.source;
    macro_rules! say {
        (
            $received:ident $_received:tt
            dropped { $(($counter:ident, $reason:ident))* }
            $($group:ident $_group:tt)*
        ) => {$(
            if counter == Counter::$counter.index() {
                const NAME: &str = DropReason::$reason.name();
                debug!(
                    (),
                    "{} vhid {} ifindex {} vlan {} source {:i}",
                    NAME,
                    key.vhid,
                    key.ifindex,
                    key.vlan,
                    source
                );
            }
        )*};
    }
    for_each_counter!(say);
}
