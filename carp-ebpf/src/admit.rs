//! What becomes of a well-formed advertisement of ours.

use carp_common::abi::counters::Counter;

use crate::maps;

/// Judges the advertisement in [`maps::scratch`], and hands it to the daemon if it should hear it. The result is the index of
/// the counter that says how that went: [`Counter::Delivered`], [`Counter::DatapathEventsLost`], or why it is to be refused.
///
/// `own`: it is from our own address; `authentic`: what [`maps::carpd_authentic`] found. Anything but 0 means yes.
///
/// A global function for the reason that one is one. It also keeps what it needs of the stack out of the way of the hashes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn carpd_admit(own: u32, authentic: u32) -> u32 {
    admit(own != 0, authentic != 0)
        .unwrap_or(Counter::DatapathEventsLost)
        .index()
}

/// `None` never happens.
#[inline(always)]
fn admit(own: bool, authentic: bool) -> Option<Counter> {
    let scratch = maps::scratch()?;
    let history = &mut maps::ledger(scratch.ledger)?.history;
    let event = &scratch.event;
    let now_ns = event.arrival_ns;
    if own || !authentic {
        return Some(
            match (history.takes_sample(now_ns) && maps::report(event), own) {
                (true, _) => Counter::SuspectsDelivered,
                (false, true) => Counter::DroppedOwnSource,
                (false, false) => Counter::DroppedBadAuthentication,
            },
        );
    }
    Some(match history.judge(event.header(), now_ns) {
        Ok(()) if maps::publish(event) => Counter::Delivered,
        Ok(()) => Counter::DatapathEventsLost,
        Err(reason) => reason,
    })
}
