//! The kernel side of carpd: an entry point over `carp_common::classify`, which judges frames, and `carp_common::guard`,
//! which judges advertisements.
//!
//! Built by `cargo xtask build-ebpf` for `bpfel-unknown-none`, with `-Ctarget-cpu=v3` (32-bit instructions, kernel 5.1),
//! `-Cdebuginfo=2 -Clink-arg=--btf` (map and program types) and `-Zbuild-std=core`.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "map memory, and names that the loader looks up")]
mod maps;
#[expect(unsafe_code, reason = "packet memory")]
mod packet;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use carp_common::classify::{Frame, Ingress, Place, Rejection, Verdict, classify};
use carp_common::guard::Repetition;
use carp_common::shared::Counter;
use carp_common::units::Family;

use packet::Packet;

/// What becomes of a frame.
enum Fate {
    /// On to the stack.
    Pass,
    /// Ends here.
    Drop,
}

/// XDP, native or generic; `frags`, so that drivers accept it at any MTU.
#[xdp(frags)]
fn carpd_xdp(context: XdpContext) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a u32 that aya widens")]
    let ifindex = context.ingress_ifindex() as u32;
    let ingress = Ingress {
        ifindex,
        stripped_tag: None,
    };
    match handle(&context, &Packet::of_xdp(&context), ingress) {
        Fate::Pass => xdp_action::XDP_PASS,
        Fate::Drop => xdp_action::XDP_DROP,
    }
}

/// Counts, publishes and decides: the same for every hook.
#[inline(always)]
fn handle(context: &impl EbpfContext, frame: &impl Frame, ingress: Ingress) -> Fate {
    match classify(frame, ingress, maps::vhost) {
        Verdict::Foreign => Fate::Pass,
        Verdict::Pass(counter) => {
            maps::count(counter);
            Fate::Pass
        }
        Verdict::Vrrp { same_vhid } => {
            maps::count(Counter::PassedVrrp);
            if same_vhid {
                maps::count(Counter::PassedVrrpSameVhid);
            }
            Fate::Pass
        }
        Verdict::Drop { place, reason } => {
            count_received(place.family);
            refuse(context, frame, &place, reason)
        }
        Verdict::Deliver { place, unicast } => {
            count_received(place.family);
            match admit(frame, &place) {
                Some(Ok(counter)) => {
                    maps::count(counter);
                    match unicast && is_served(&place) {
                        true => Fate::Drop,
                        false => Fate::Pass,
                    }
                }
                Some(Err(reason)) => refuse(context, frame, &place, reason),
                None => Fate::Pass,
            }
        }
    }
}

/// Lets the guard judge a well-formed advertisement, and hands it to the daemon; how that went. `None` never happens.
#[inline(always)]
fn admit(frame: &impl Frame, place: &Place) -> Option<Result<Counter, Rejection>> {
    let scratch = maps::scratch()?;
    scratch.slot = place.slot;
    place.describe(frame, &mut scratch.event)?;
    let now_ns = maps::now_ns();
    scratch.event.arrival_ns = now_ns;
    let authentic = maps::carpd_authentic() != 0;
    let event = &maps::scratch()?.event;
    let history = maps::history(place.slot)?;
    if !authentic {
        if history.takes_sample(now_ns) {
            maps::report(event);
        }
        return Some(Err(Rejection::BadAuthentication));
    }
    Some(match history.judge(&event.payload, now_ns) {
        Ok(()) => Ok(match maps::publish(event) {
            true => Counter::Delivered,
            false => Counter::DatapathEventsLost,
        }),
        Err(Repetition::Duplicate) => Err(Rejection::Duplicate),
        Err(Repetition::RateLimited) => Err(Rejection::RateLimited),
    })
}

/// Drops, says why, and counts it; unless there is no daemon any more, whose decision that was.
#[inline(always)]
fn refuse(
    context: &impl EbpfContext,
    frame: &impl Frame,
    place: &Place,
    reason: Rejection,
) -> Fate {
    if !is_served(place) {
        maps::count(Counter::PassedLeftover);
        return Fate::Pass;
    }
    maps::count(reason.counter());
    if maps::DEBUG.load() != 0 {
        explain(context, frame, place, reason);
    }
    Fate::Drop
}

/// Whether the daemon gave a sign of life.
#[inline(always)]
fn is_served(place: &Place) -> bool {
    maps::now_ns() <= place.alive_until_ns
}

/// Says why an advertisement of ours was dropped.
///
/// One call for each text, because choosing among strings would make a table of addresses, which an eBPF object cannot
/// relocate.
#[inline(never)]
fn explain(context: &impl EbpfContext, frame: &impl Frame, place: &Place, reason: Rejection) {
    let key = &place.key;
    let source = place.source(frame).unwrap_or_default();
    macro_rules! say {
        ($name:literal) => {
            debug!(
                context,
                "{} vhid {} ifindex {} vlan {} source {:i}",
                $name,
                key.vhid,
                key.ifindex,
                key.vlan,
                source
            )
        };
    }
    match reason {
        Rejection::WrongTtl => say!("dropped-wrong-ttl"),
        Rejection::ShortPacket => say!("dropped-short-packet"),
        Rejection::BadChecksum => say!("dropped-bad-checksum"),
        Rejection::BadVersion => say!("dropped-bad-version"),
        Rejection::BadAuthentication => say!("dropped-bad-authentication"),
        Rejection::Duplicate => say!("dropped-duplicate"),
        Rejection::RateLimited => say!("dropped-rate-limited"),
    }
}

#[inline(always)]
fn count_received(family: Family) {
    maps::count(match family {
        Family::Inet => Counter::ReceivedInetPackets,
        Family::Inet6 => Counter::ReceivedInet6Packets,
    });
}

/// Never reached: nothing here panics, and the verifier would refuse the loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
