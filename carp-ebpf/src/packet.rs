//! Bounds-checked packet access; the only pointer arithmetic.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use carp_common::classify::Frame;

/// The directly readable part of a frame: all of it up to about a page, the first buffer of a jumbo frame. Every header
/// that the classifier asks for is in it.
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// The frame that an XDP program was called for.
    #[inline(always)]
    pub fn of_xdp(context: &XdpContext) -> Self {
        Self {
            start: context.data(),
            end: context.data_end(),
        }
    }
}

/// The time a frame arrived at, taken as it is judged. Unit: nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn arrival_ns() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_ktime_get_ns() }
}

impl Frame for Packet {
    #[inline(always)]
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        let from = from as *const [u8; N];
        // SAFETY: `N` bytes from here lie between the packet's start and its end, as just checked (and checked again by
        // the verifier); bytes need no alignment and any value is valid.
        Some(unsafe { *from })
    }
}
