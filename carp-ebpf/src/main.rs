//! The kernel side of carpd: an entry point for each hook. `carp_common::abi::classify` decides about frames, and
//! `carp_common::abi::admission` about advertisements.
//!
//! Built by `cargo xtask build-ebpf` for `bpfel-unknown-none`, with `-Ctarget-cpu=v3` (32-bit instructions, kernel 5.1),
//! `-Cdebuginfo=2 -Clink-arg=--btf` (map and program types) and `-Zbuild-std=core`.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "a name that the loader looks up")]
mod admit;
#[expect(unsafe_code, reason = "map memory, and names that the loader looks up")]
mod maps;
#[expect(unsafe_code, reason = "packet memory")]
mod packet;
#[expect(unsafe_code, reason = "a name that the loader looks up")]
mod refuse;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use carp_common::abi::classify::{Carried, Frame, Ingress, Match, Verdict, spoken_address};
use carp_common::abi::counters::Counter;
use carp_common::units::Family;

use admit::carpd_admit;
use packet::{NetworkPacket, Packet, Skb};
use refuse::{carpd_explain, carpd_refuse};

/// The frame goes on to the next tcx program, and after the last one to the stack (linux/bpf.h, `enum tcx_action_base`).
const TCX_NEXT: i32 = -1;
/// The frame ends here.
const TCX_DROP: i32 = 2;

/// The end of a frame's way through the program.
enum Fate {
    /// The frame goes on to the stack.
    Pass,
    /// The frame ends here.
    Drop,
}

/// The XDP program, native or generic. With `frags`, drivers accept it at any MTU.
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

/// The tcx program at ingress, which does the same where there is no native XDP.
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

/// The tcx program at egress on every interface. It drops what the host itself sends in the name of a fenced address.
///
/// Packets that the host forwards or bridges pass, because the new MASTER's ARP may come through here.
#[classifier]
fn carpd_egress(context: TcContext) -> i32 {
    let skb = Skb(&context);
    let packet = NetworkPacket(&context);
    let every_packet = maps::FENCE_ALL.load() != 0;
    let Some(claim) = spoken_address(&packet, skb.protocol(), skb.ifindex(), every_packet) else {
        return TCX_NEXT;
    };
    if skb.was_received() {
        return TCX_NEXT;
    }
    let Some(owner) = maps::fenced(&claim) else {
        return TCX_NEXT;
    };
    maps::count(Counter::DroppedFenced, owner, skb.ifindex());
    TCX_DROP
}

/// Decides about a frame, counts it and hands an advertisement to the daemon, in the same way for every hook at ingress.
///
/// `sight` reads any frame. `frame` returns a frame of protocol 112 in a form that can be read as a whole.
#[inline(always)]
fn handle<F: Frame>(ingress: Ingress, sight: &impl Frame, frame: impl FnOnce() -> F) -> Fate {
    let Some(carried) = Carried::find(sight, ingress) else {
        return Fate::Pass;
    };
    if carried.has_more_tags() {
        return handle_many_tags(ingress, carried, sight);
    }
    if let Some(owner) = fenced_address(&carried, sight) {
        maps::count(Counter::DroppedFenced, owner, ingress.ifindex);
        return Fate::Drop;
    }
    if !carried.is_protocol_112(sight) {
        return Fate::Pass;
    }
    let frame = &frame();
    match carried.classify(frame, maps::vhost) {
        Verdict::Foreign => Fate::Pass,
        Verdict::Pass { counter, ledger } => {
            maps::count_passed(counter, ledger, ingress.ifindex);
            Fate::Pass
        }
        Verdict::Vrrp { same_vhid } => {
            maps::count_passed(Counter::PassedVrrp, 0, ingress.ifindex);
            if let Some(ledger) = same_vhid {
                maps::count_in(maps::ledger(ledger), Counter::PassedVrrpSameVhid.index());
            }
            Fate::Pass
        }
        Verdict::Drop { matched, reason } => {
            let reason = reason.index();
            let received = received(matched.family).index();
            let alive_until_ns = matched.vhost.alive_until_ns;
            if carpd_refuse(received, reason, matched.ledger(), alive_until_ns) == 0 {
                return Fate::Pass;
            }
            if maps::DEBUG.load() != 0
                && let Some(scratch) = maps::scratch()
            {
                scratch.event.key = matched.key;
                scratch.event.source = matched.source(frame).unwrap_or_default();
                carpd_explain(reason);
            }
            Fate::Drop
        }
        Verdict::Deliver {
            matched,
            unicast,
            own,
        } => {
            let Some(scratch) = maps::scratch() else {
                return Fate::Pass;
            };
            scratch.unicast = unicast;
            scratch.own = own;
            admit(frame, &matched).unwrap_or(Fate::Pass)
        }
    }
}

/// Returns the ledger of [`maps::fenced`] if the frame asks for a fenced address, so that the host must not receive it.
#[inline(always)]
fn fenced_address(carried: &Carried, sight: &impl Frame) -> Option<u32> {
    let claim = carried.claimed_address(sight, maps::FENCE_ALL.load() != 0);
    maps::fenced(&claim?)
}

/// Decides about a frame with more tags than an advertisement has. A frame with more tags than the program can skip is
/// dropped, because only somebody who wants to get past the fence sends one.
#[inline(always)]
fn handle_many_tags(ingress: Ingress, carried: Carried, sight: &impl Frame) -> Fate {
    let Some(carried) = carried.behind_more_tags(sight) else {
        return Fate::Pass;
    };
    let owner = match carried.has_more_tags() {
        true => Some(0),
        false => fenced_address(&carried, sight),
    };
    let Some(owner) = owner else {
        return Fate::Pass;
    };
    maps::count(Counter::DroppedFenced, owner, ingress.ifindex);
    Fate::Drop
}

/// Decides about a well-formed advertisement and hands it to the daemon. It never returns `None`.
#[inline(always)]
fn admit(frame: &impl Frame, matched: &Match) -> Option<Fate> {
    let scratch = maps::scratch()?;
    scratch.keys = matched.vhost.keys;
    scratch.ledger = matched.ledger();
    scratch.alive_until_ns = matched.vhost.alive_until_ns;
    matched.describe(frame, &mut scratch.event)?;
    scratch.event.arrival_ns = maps::now_ns();
    let Some(reason) = carpd_admit(maps::carpd_authentic()).checked_sub(1) else {
        return Some(Fate::Pass);
    };
    if maps::DEBUG.load() != 0 {
        carpd_explain(reason);
    }
    Some(Fate::Drop)
}

/// Returns the counter of received advertisements of a family.
#[inline(always)]
const fn received(family: Family) -> Counter {
    match family {
        Family::Inet => Counter::ReceivedInetPackets,
        Family::Inet6 => Counter::ReceivedInet6Packets,
    }
}

/// Satisfies the compiler. It is never reached: nothing here panics, and the verifier would refuse the loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
