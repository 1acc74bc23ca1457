//! What becomes of an advertisement that the daemon should not hear.

use aya_log_ebpf::debug;
use carp_common::abi::counters::Counter;
use carp_common::for_each_counter;

use crate::maps;

/// How many refusals a CPU explains in a second: more than anybody reads, and few enough that a flood does not keep the
/// daemon busy with them. The counters count them all.
const EXPLAINED_MAX: u32 = 100;
/// Unit: nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

/// Counts a broken advertisement, by the index of the counter of its family and of the one that says what is wrong with it, in
/// the ledger of its virtual host. The result is anything but 0, which means drop; or 0 when the daemon has given no sign of
/// life for long, because it was its decision.
///
/// A global function for the reason that [`maps::carpd_authentic`] is one.
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

/// Logs why an advertisement was dropped: the counter of this index, the virtual host and the sender, which are in
/// [`maps::scratch`]. It logs nothing for a frame that ends here because the daemon has it. The result means nothing.
///
/// A global function for the reason that [`maps::carpd_authentic`] is one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_explain(counter: u32) -> u32 {
    if maps::DEBUG.load() != 0 {
        explain(counter);
    }
    0
}

/// One call for each text, because choosing among strings would make a table of addresses, which an eBPF object cannot
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
            dropped { $(($counter:ident, $name:literal, $help:literal))* }
            $($group:ident $_group:tt)*
        ) => {$(
            if counter == Counter::$counter.index() {
                debug!(
                    (),
                    "{} vhid {} ifindex {} vlan {} source {:i}",
                    $name,
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
