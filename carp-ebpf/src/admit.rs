//! What becomes of a well-formed advertisement of ours.

use carp_common::abi::counters::Counter;
use carp_common::abi::layout::FAMILY_INET;

use crate::maps;

/// Decides on the advertisement in [`maps::scratch`], hands it to the daemon if it should hear it, and counts it. The result
/// is 0 when the frame passes on to the stack. When it ends here, it is one more than the index of the counter that says why.
///
/// `authentic` is what [`maps::carpd_authentic`] found: anything but 0 means yes.
///
/// A global function for the reason that one is one. It also keeps what it needs of the stack out of the way of the hashes.
/// What it is told is in a map, because the verifier does not know what is there: it would judge the function once for each
/// value otherwise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_admit(authentic: u32) -> u32 {
    admit(authentic != 0).map_or(0, |counter| counter.index() + 1)
}

/// The reason to drop the frame.
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
        match history.judge(event.header(), now_ns) {
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
