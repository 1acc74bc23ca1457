//! The cost of a frame, compared with a program that only passes it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use carp_common::abi::hmac::KernelKeys;
use carp_common::abi::layout::FENCE_ALL_GLOBAL;
use carp_common::wire::advertisement::Advertisement;
use carp_common::wire::arp::Operation;

use crate::bpf;
use crate::datapath::{Datapath, Fate, HOOKS, Hook};
use crate::frames::*;
use crate::monotonic_ns;

/// The budget of the fast path: the link must not notice carpd.
#[test]
fn tcp_costs_at_most_a_quarter_more_than_passing_everything() {
    for hook in HOOKS {
        let Some(datapath) = Datapath::load(hook) else {
            return;
        };
        for (name, frame) in [("IPv4", tcp()), ("IPv6", tcp6())] {
            let percent = percent_of_trivial(&datapath, hook, name, &frame, Fate::Pass, 125);
            assert!(
                percent <= 125,
                "a TCP packet over {name} costs {percent} % of a program that only passes on {hook:?}; the budget is 125 %"
            );
        }
    }
}

/// Measures a flood of forged advertisements with the HMAC, where one form of the digest is accepted, as without IPv6
/// link-local addresses.
///
/// Nanoseconds depend on the machine, and so does the cost of passing alone. The budget is therefore in processor
/// cycles, whose length is measured with a program of four additions per cycle.
#[test]
fn forged_advertisement_costs_at_most_the_two_hashes() {
    // Unrolled, it takes some 2 000 cycles; as loops over the rounds, the hashes would take twice as long.
    const BUDGET: u64 = 2_600;
    let forged = forged();
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let two = "forged, two accepted forms";
        percent_of_trivial(&datapath, hook, two, &forged, Fate::Drop, u64::MAX);
        datapath.accept(one_form());
        let cycles = cycles(&datapath, hook, &forged, BUDGET);
        assert!(cycles <= BUDGET, "{cycles} cycles on {hook:?}");
    }
}

/// The keys of a group without IPv6 link-local addresses.
fn one_form() -> KernelKeys {
    let mut keys = KernelKeys::NONE;
    keys.0[0] = authenticator(VHID, &ADDRESSES).digests()[0];
    keys
}

fn forged() -> Vec<u8> {
    carrying(&Advertisement {
        digest: [0xd1; 20],
        ..authentic(VHID, COUNTER)
    })
}

/// Returns the cost of a dropped frame beyond passing: the best of a few attempts, as in [`percent_of_trivial`].
fn cycles(datapath: &Datapath, hook: Hook, frame: &[u8], budget: u64) -> u64 {
    const LENGTH: usize = 1000;
    let programs = [bpf::load_pass(hook, 0), bpf::load_pass(hook, LENGTH)];
    let mut best = u64::MAX;
    for _ in 0..8 {
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..9 {
            samples[0].push(cost(programs[0].as_fd(), hook, frame, Fate::Pass));
            samples[1].push(cost_of(SLOW, programs[1].as_fd(), hook, frame, Fate::Pass));
            samples[2].push(cost(datapath.fd().as_fd(), hook, frame, Fate::Drop));
        }
        let [passing, ruler, ours] = samples.map(median);
        let cycles = ours.saturating_sub(passing) * LENGTH as u64 / (ruler - passing).max(1);
        println!(
            "{hook:?}, 1000 frames, forged: {ours} ns, passing alone {passing} ns, a thousand cycles {ruler} ns, \
             {cycles} cycles"
        );
        best = best.min(cycles);
        if best <= budget {
            break;
        }
    }
    best
}

/// Not a budget, but a known cost: the wide fence looks up every packet in a map.
#[test]
fn wide_fence_costs_one_look_into_a_map() {
    let Some(datapath) = Datapath::load_with(Hook::Xdp, &[FENCE_ALL_GLOBAL]) else {
        return;
    };
    let percent = percent_of_trivial(
        &datapath,
        Hook::Xdp,
        "IPv4, --fence all",
        &tcp(),
        Fate::Pass,
        1000,
    );
    assert!(percent <= 1000, "{percent} %");
}

/// Outgoing packets are most of a server's traffic; an IPv4 packet is inspected only up to its EtherType.
#[test]
fn sending_costs_next_to_nothing() {
    let Some(datapath) = Datapath::load(Hook::Egress) else {
        return;
    };
    let frames = [("IPv4", tcp(), 125), ("IPv6", tcp6(), 250)];
    for (name, frame, budget) in frames {
        let percent = percent_of_trivial(&datapath, Hook::Egress, name, &frame, Fate::Pass, budget);
        assert!(
            percent <= budget,
            "sending a TCP packet over {name} costs {percent} %; the budget is {budget} %"
        );
    }
}

/// Returns medians of interleaved rounds: the best of a few attempts, until one is within the budget. A busy machine
/// makes either side slower for a while, but never makes ours faster.
fn percent_of_trivial(
    datapath: &Datapath,
    hook: Hook,
    name: &str,
    frame: &[u8],
    fate: Fate,
    budget: u64,
) -> u64 {
    let trivial = bpf::load_pass(hook, 0);
    let mut best = u64::MAX;
    for _ in 0..8 {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..9 {
            theirs.push(cost(trivial.as_fd(), hook, frame, Fate::Pass));
            ours.push(cost(datapath.fd().as_fd(), hook, frame, fate));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let percent = ours * 100 / theirs.max(1);
        println!(
            "{hook:?}, 1000 frames, {name}: {ours} ns, passing alone {theirs} ns, {percent} %"
        );
        best = best.min(percent);
        if best <= budget {
            break;
        }
    }
    best
}

/// Prints what `cargo xtask bench cost` shows, one line per frame:
/// `price: HOOK | FRAME | limit or ours | PICOSECONDS …`.
#[test]
#[ignore = "measures, and claims nothing: `cargo xtask bench cost`"]
fn prices() {
    let rounds = std::env::var("CARP_BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let frames = [
        ("TCP", tcp(), Fate::Pass),
        (
            "TCP in a VLAN",
            tagged(tcp(), &[[0x81, 0, 0, 5]]),
            Fate::Pass,
        ),
        ("ARP", arp(Operation::Request, SOURCE, OURS), Fate::Pass),
        ("TCP over IPv6", tcp6(), Fate::Pass),
        ("VRRP", vrrp(2, 51, 1, 20), Fate::Pass),
        ("VRRP with our vhid", vrrp(2, VHID, 1, 20), Fate::Pass),
        ("CARP, foreign vhid", advertisement(99, GROUP), Fate::Pass),
        ("CARP, forged, two accepted forms", forged(), Fate::Drop),
        // The first run of each test run is the original, which the others duplicate.
        ("CARP, duplicate", genuine(), Fate::Drop),
    ];
    for hook in HOOKS {
        let Some(mut datapath) = Datapath::load(hook) else {
            return;
        };
        let trivial = bpf::load_pass(hook, 0);
        let mut passing = Vec::new();
        let mut ours = vec![Vec::new(); frames.len()];
        let (mut single_form, mut first) = (Vec::new(), Vec::new());
        let two_forms = KernelKeys::new(authenticator(VHID, &ADDRESSES).digests());
        for _ in 0..rounds {
            let alone = cost(trivial.as_fd(), hook, &tcp(), Fate::Pass);
            passing.push(alone);
            for ((_, frame, fate), samples) in frames.iter().zip(&mut ours) {
                samples.push(cost(datapath.fd().as_fd(), hook, frame, *fate));
            }
            datapath.accept(one_form());
            single_form.push(cost(datapath.fd().as_fd(), hook, &forged(), Fate::Drop));
            datapath.accept(two_forms);
            let single = single(&trivial, hook, &mut datapath);
            first.push(alone + single);
        }
        print_price(
            hook,
            "every frame, a program that only passes",
            "limit",
            &passing,
        );
        for ((name, ..), samples) in frames.iter().zip(&ours) {
            print_price(hook, name, "ours", samples);
        }
        print_price(
            hook,
            "CARP, forged, one accepted form",
            "ours",
            &single_form,
        );
        print_price(hook, "CARP, genuine", "ours", &first);
    }
    prices_of_sending(rounds);
}

/// The same for what a host sends.
fn prices_of_sending(rounds: usize) {
    let hook = Hook::Egress;
    let (Some(datapath), Some(wide)) = (
        Datapath::load(hook),
        Datapath::load_with(hook, &[FENCE_ALL_GLOBAL]),
    ) else {
        return;
    };
    let trivial = bpf::load_pass(hook, 0);
    let request = arp(Operation::Request, OURS, SOURCE);
    let sent = [
        (
            "every frame, a program that only passes",
            "limit",
            trivial.as_fd(),
            tcp(),
        ),
        ("TCP", "ours", datapath.fd().as_fd(), tcp()),
        ("TCP, --fence all", "ours", wide.fd().as_fd(), tcp()),
        ("TCP over IPv6", "ours", datapath.fd().as_fd(), tcp6()),
        ("ARP", "ours", datapath.fd().as_fd(), request),
    ];
    let mut samples = vec![Vec::new(); sent.len()];
    for _ in 0..rounds {
        for ((_, _, program, frame), samples) in sent.iter().zip(&mut samples) {
            samples.push(cost(*program, hook, frame, Fate::Pass));
        }
    }
    for ((name, side, ..), samples) in sent.iter().zip(&samples) {
        print_price(hook, name, side, samples);
    }
}

fn print_price(hook: Hook, frame: &str, side: &str, picos: &[u64]) {
    let samples: Vec<String> = picos.iter().map(u64::to_string).collect();
    let hook = match hook {
        Hook::Xdp => "XDP",
        Hook::Tcx => "tcx",
        Hook::Egress => "egress",
    };
    println!("price: {hook} | {frame} | {side} | {}", samples.join(" "));
}

/// Returns the cost of a genuine advertisement beyond passing. Unit: picoseconds.
///
/// An advertisement is genuine only once. Each run is therefore a test run of its own, after which everything is
/// forgotten, and the kernel's figure is that of one run, including cold caches.
fn single(trivial: &OwnedFd, hook: Hook, datapath: &mut Datapath) -> u64 {
    let frame = genuine();
    let mut ours = Vec::new();
    let mut passing = Vec::new();
    // Discards what the duplicates left.
    datapath.drain();
    for _ in 0..500 {
        datapath.forget();
        let (_, nanos) = bpf::test_run(trivial.as_fd(), &frame, 1);
        passing.push(u64::from(nanos));
        let (answer, nanos) = bpf::test_run(datapath.fd().as_fd(), &frame, 1);
        assert_eq!(hook.fate(answer), Fate::Pass);
        ours.push(u64::from(nanos));
    }
    assert_eq!(datapath.drain().len(), ours.len(), "all were genuine");
    median(ours).saturating_sub(median(passing)) * 1000
}

/// Returns the time of 1000 runs. Unit: nanoseconds.
///
/// The kernel's own figure is whole nanoseconds for one run, which is too coarse here. Its fixed cost (repeated runs
/// patch the XDP dispatcher, which takes milliseconds) is measured and subtracted.
fn cost(program: BorrowedFd<'_>, hook: Hook, frame: &[u8], fate: Fate) -> u64 {
    let runs = match fate {
        Fate::Pass => FAST,
        Fate::Drop => SLOW,
    };
    cost_of(runs, program, hook, frame, fate)
}

/// The number of runs that take some 20 ms, for what takes nanoseconds and for what takes hundreds.
const FAST: u32 = 4_000_000;
const SLOW: u32 = 50_000;

fn cost_of(runs: u32, program: BorrowedFd<'_>, hook: Hook, frame: &[u8], fate: Fate) -> u64 {
    let timed = |runs| {
        let before = monotonic_ns();
        let (answer, _) = bpf::test_run(program, frame, runs);
        assert_eq!(hook.fate(answer), fate);
        monotonic_ns() - before
    };
    let fixed = timed(2);
    timed(runs).saturating_sub(fixed) * 1000 / u64::from(runs)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
