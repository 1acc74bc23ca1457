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

/// Raises the counter of this index and returns anything but 0, which means drop; or 0 when the daemon has given no sign of
/// life for long, because it was its decision. `ledger` is the virtual host's.
///
/// A global function for the reason that [`maps::carpd_authentic`] is one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_refuse(counter: u32, ledger: u32, alive_until_ns: u64) -> u32 {
    if maps::now_ns() > alive_until_ns {
        maps::count(Counter::PassedLeftover, ledger, 0);
        return 0;
    }
    let _ = maps::carpd_count(counter, ledger, 0);
    if maps::DEBUG.load() != 0 {
        explain(counter);
    }
    1
}

/// Names the counter, the virtual host and the sender, which are in [`maps::scratch`].
///
/// One call for each text, because choosing among strings would make a table of addresses, which an eBPF object cannot
/// relocate.
#[inline(always)]
fn explain(counter: u32) {
    let Some(scratch) = maps::scratch() else {
        return;
    };
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
