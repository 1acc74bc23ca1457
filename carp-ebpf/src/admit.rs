//! The decision about a well-formed advertisement for one of our virtual hosts.

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::FAMILY_INET;

use crate::maps;

/// Decides about the advertisement in [`maps::scratch`], hands an admitted one to the daemon, and counts it. Returns 0 if the
/// frame passes on to the stack, or one more than the index of the counter that names the reason to drop it.
///
/// `authentic` is the result of [`maps::carpd_authentic`]: not 0 if the advertisement is authentic.
///
/// This is a global function for the same reason as [`maps::carpd_authentic`]. It also needs stack of its own, which is not
/// left beside that of the hashes. Its input is in a map, whose content the verifier does not know. With arguments the
/// verifier would check the function once for each value.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_admit(authentic: u32) -> u32 {
    admit(authentic != 0).map_or(0, |counter| counter.index() + 1)
}

/// Returns the reason to drop the frame, or `None` if it passes.
#[inline(always)]
fn admit(authentic: bool) -> Option<Counter> {
    let scratch = maps::scratch()?;
    let ledger = maps::ledger(scratch.ledger)?;
    let event = &scratch.event;
    let now_ns = event.arrival_ns;
    let received = match event.family {
        FAMILY_INET => Counter::ReceivedInetPackets,
        _ => Counter::ReceivedInet6Packets,
    };
    maps::count_in(Some(ledger), received.index());
    let history = &mut ledger.history;
    let outcome = if scratch.own || !authentic {
        match (
            history.takes_sample(now_ns) && maps::report(event),
            scratch.own,
        ) {
            (true, _) => Counter::SuspectsDelivered,
            (false, true) => Counter::DroppedOwnSource,
            (false, false) => Counter::DroppedBadAuthentication,
        }
    } else {
        match history.admit(event.header(), now_ns) {
            Ok(()) if maps::publish(event) => Counter::Delivered,
            Ok(()) => Counter::DatapathEventsLost,
            Err(reason) => reason,
        }
    };
    let is_for_daemon = matches!(outcome, Counter::Delivered | Counter::DatapathEventsLost);
    let is_dropped = now_ns <= scratch.alive_until_ns && (scratch.unicast || !is_for_daemon);
    let counted = match is_dropped || is_for_daemon {
        true => outcome,
        false => Counter::PassedLeftover,
    };
    maps::count_in(Some(ledger), counted.index());
    is_dropped.then_some(outcome)
}
