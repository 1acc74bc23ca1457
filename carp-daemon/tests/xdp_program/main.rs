//! Tests the programs in the kernel, with its verifier, helpers and maps, by `BPF_PROG_TEST_RUN`.
//!
//! A test run takes frames for the loopback device of the current network namespace, whose index is 1, and attaches
//! nothing. Loading needs root. Without root, the tests print that they are skipped, or fail if `CARP_REQUIRE_ROOT`
//! or `CI` is set.
//!
//! | Module | Contents |
//! |---|---|
//! | [`verdicts`] | what happens to a frame, and what the daemon receives |
//! | [`admission`] | only authentic advertisements are delivered, each once, and at a limited rate |
//! | [`fence`] | what a host without a living daemon no longer receives or sends |
//! | [`link`] | tcx on a real link: tags that the kernel removed, headers outside of the linear part |
//! | [`cost`] | the cost of a frame |
//! | [`datapath`], [`frames`], [`bpf`] | the loaded program, the frames, and calls that aya does not have |

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(
    clippy::disallowed_methods,
    reason = "the kernel that is tried runs in real time"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "skipped tests and measured costs are shown"
)]

mod admission;
mod bpf;
mod cost;
mod datapath;
mod fence;
mod frames;
mod link;
mod verdicts;

use std::time::Duration;

use carp_common::abi::layout::{DEBUG_GLOBAL, FENCE_ALL_GLOBAL};

use datapath::{Datapath, HOOKS, Hook};

#[test]
fn verifier_accepts_every_program_within_its_budget() {
    for hook in HOOKS.into_iter().chain([Hook::Egress]) {
        for globals in [&[][..], &[DEBUG_GLOBAL], &[DEBUG_GLOBAL, FENCE_ALL_GLOBAL]] {
            let Some(datapath) = Datapath::load_with(hook, globals) else {
                return;
            };
            let info = datapath.info();
            let processed = info.verified_instruction_count();
            println!(
                "{hook:?} {globals:?}: {processed:?} instructions processed by the verifier, {} bytes jited",
                info.size_jitted()
            );
            // Kernels before 5.16 do not report this.
            assert!(
                processed.is_none_or(|count| count < 100_000),
                "{processed:?}"
            );
        }
    }
}

/// Whether the running kernel has at least this version.
fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let name = nix::sys::utsname::uname().unwrap();
    let release = name.release().to_str().unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(Duration::from(now).as_nanos()).unwrap()
}
