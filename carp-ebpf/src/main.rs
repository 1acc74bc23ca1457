//! The kernel side of carpd: an entry point over `carp_common::classify`, which holds every decision about a frame.
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
            maps::count(reason.counter());
            if maps::DEBUG.load() != 0 {
                explain(context, frame, &place, reason);
            }
            Fate::Drop
        }
        Verdict::Deliver { place, unicast } => {
            count_received(place.family);
            maps::count(match maps::publish(&place, frame) {
                true => Counter::Delivered,
                false => Counter::DatapathEventsLost,
            });
            if unicast { Fate::Drop } else { Fate::Pass }
        }
    }
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
