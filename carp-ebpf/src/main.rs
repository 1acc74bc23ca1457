//! The kernel side of carpd: an entry point for each hook over `carp_common::abi::classify`, which judges frames, and
//! `carp_common::abi::admission`, which judges advertisements.
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
#[expect(unsafe_code, reason = "a name that the loader looks up")]
mod refuse;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use carp_common::abi::classify::{Carried, Frame, Ingress, Place, Verdict, spoken_address};
use carp_common::abi::counters::Counter;
use carp_common::units::Family;

use packet::{NetworkPacket, Packet, Skb};
use refuse::carpd_refuse;

/// On to the next tcx program, and to the stack after the last (linux/bpf.h, `enum tcx_action_base`).
const TCX_NEXT: i32 = -1;
/// The frame ends here.
const TCX_DROP: i32 = 2;

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
    let frame = Packet::of_xdp(&context);
    match handle(ingress, &frame, || &frame) {
        Fate::Pass => xdp_action::XDP_PASS,
        Fate::Drop => xdp_action::XDP_DROP,
    }
}

/// tcx, at ingress: the same where there is no native XDP.
#[classifier]
fn carpd_tcx(context: TcContext) -> i32 {
    let skb = Skb(&context);
    let ingress = Ingress {
        ifindex: skb.ifindex(),
        stripped_tag: skb.stripped_tag(),
    };
    match handle(ingress, &skb, || Packet::with_headers_of_skb(&context)) {
        Fate::Pass => TCX_NEXT,
        Fate::Drop => TCX_DROP,
    }
}

/// tcx, at egress, on every interface: what the host itself says.
///
/// What it forwards or bridges for others passes: the new MASTER's ARP may come through here.
#[classifier]
fn carpd_egress(context: TcContext) -> i32 {
    let skb = Skb(&context);
    let packet = NetworkPacket(&context);
    let Some(claim) = spoken_address(&packet, skb.protocol(), maps::FENCE_ALL.load() != 0) else {
        return TCX_NEXT;
    };
    if skb.was_received() || !maps::is_fenced(&claim) {
        return TCX_NEXT;
    }
    maps::count(Counter::DroppedFenced);
    TCX_DROP
}

/// Counts, publishes and decides: the same for every hook at ingress.
///
/// `sight` is for a look at any frame; `frame` brings one of protocol 112 where all of it can be read at once.
#[inline(always)]
fn handle<F: Frame>(ingress: Ingress, sight: &impl Frame, frame: impl FnOnce() -> F) -> Fate {
    let Some(carried) = Carried::find(sight, ingress) else {
        return Fate::Pass;
    };
    if carried.has_more_tags() {
        return handle_many_tags(carried, sight);
    }
    if asks_for_a_fenced_address(&carried, sight) {
        maps::count(Counter::DroppedFenced);
        return Fate::Drop;
    }
    if !carried.is_protocol_112(sight) {
        return Fate::Pass;
    }
    let frame = &frame();
    match carried.judge(frame, maps::vhost) {
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
            if maps::DEBUG.load() != 0
                && let Some(scratch) = maps::scratch()
            {
                scratch.event.key = place.key;
                scratch.event.source = place.source(frame).unwrap_or_default();
            }
            refuse(&place, reason)
        }
        Verdict::Deliver {
            place,
            unicast,
            own,
        } => {
            let [unicast, own] = maps::unknown([unicast, own]);
            count_received(place.family);
            match admit(frame, &place, own) {
                Some(Ok(counter)) => {
                    maps::count(counter);
                    match unicast && maps::now_ns() <= place.alive_until_ns {
                        true => Fate::Drop,
                        false => Fate::Pass,
                    }
                }
                Some(Err(reason)) => refuse(&place, reason),
                None => Fate::Pass,
            }
        }
    }
}

/// Whether the host must not hear it.
#[inline(always)]
fn asks_for_a_fenced_address(carried: &Carried, sight: &impl Frame) -> bool {
    let claim = carried.claimed_address(sight, maps::FENCE_ALL.load() != 0);
    claim.is_some_and(|claim| maps::is_fenced(&claim))
}

/// Behind more tags than an advertisement has. More than can be looked behind nobody sends but to get past the fence.
#[inline(always)]
fn handle_many_tags(carried: Carried, sight: &impl Frame) -> Fate {
    let Some(carried) = carried.behind_more_tags(sight) else {
        return Fate::Pass;
    };
    if carried.has_more_tags() || asks_for_a_fenced_address(&carried, sight) {
        maps::count(Counter::DroppedFenced);
        return Fate::Drop;
    }
    Fate::Pass
}

/// Judges a well-formed advertisement, unless it is from our own address, and hands it to the daemon; how
/// that went. `None` never happens.
#[inline(always)]
fn admit(frame: &impl Frame, place: &Place, own: bool) -> Option<Result<Counter, Counter>> {
    let scratch = maps::scratch()?;
    scratch.slot = place.slot;
    place.describe(frame, &mut scratch.event)?;
    let now_ns = maps::now_ns();
    scratch.event.arrival_ns = now_ns;
    let believable = !own && maps::carpd_authentic() != 0;
    let event = &maps::scratch()?.event;
    let history = maps::history(place.slot)?;
    if !believable {
        let shown = history.takes_sample(now_ns) && maps::report(event);
        return Some(Err(match (shown, own) {
            (true, _) => Counter::SuspectsDelivered,
            (false, true) => Counter::DroppedOwnSource,
            (false, false) => Counter::DroppedBadAuthentication,
        }));
    }
    Some(match history.judge(&event.payload, now_ns) {
        Ok(()) => Ok(match maps::publish(event) {
            true => Counter::Delivered,
            false => Counter::DatapathEventsLost,
        }),
        Err(reason) => Err(reason),
    })
}

/// Drops what the daemon would not hear.
#[inline(always)]
fn refuse(place: &Place, reason: Counter) -> Fate {
    match carpd_refuse(reason.index(), place.alive_until_ns) {
        0 => Fate::Pass,
        _ => Fate::Drop,
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
