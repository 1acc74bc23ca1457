//! Bounds-checked packet access; the only pointer arithmetic.

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

impl Packet {
    /// The address of `N` readable bytes at an offset.
    #[inline(always)]
    fn range<const N: usize>(&self, offset: usize) -> Option<*const [u8; N]> {
        let from = self.start + offset;
        (from + N <= self.end).then_some(from as *const [u8; N])
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let from = self.range(offset)?;
        // SAFETY: `N` bytes from here lie between the packet's start and its end, as just checked (and checked again by
        // the verifier); bytes need no alignment and any value is valid.
        Some(unsafe { *from })
    }

    #[inline(always)]
    fn copy_to<const N: usize>(&self, offset: usize, to: &mut [u8; N]) -> Option<()> {
        let from = self.range::<N>(offset)?.cast::<u8>();
        for (index, to) in to.iter_mut().enumerate() {
            // SAFETY: inside the `N` bytes of `range`.
            let from = unsafe { from.add(index) };
            // SAFETY: readable, as `range` checked.
            let byte = unsafe { *from };
            // SAFETY: a reference. Volatile, or the loop becomes a call of memmove, whose every step the verifier walks.
            unsafe { core::ptr::write_volatile(to, byte) };
        }
        Some(())
    }
}
