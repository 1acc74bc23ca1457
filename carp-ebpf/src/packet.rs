//! Packet access with bounds checks: the only pointer arithmetic of the program.

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::{TcContext, XdpContext};
use carp_common::abi::classify::Frame;

/// The directly readable part of a frame. With XDP this is the frame up to about a page, or the first buffer of a jumbo
/// frame. It contains every header that the classifier reads.
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// Returns the frame that an XDP program was called for.
    #[inline(always)]
    pub fn of_xdp(context: &XdpContext) -> Self {
        Self {
            start: context.data(),
            end: context.data_end(),
        }
    }
}

impl Packet {
    /// Returns the linear part of the packet buffer that a tcx program was called for.
    #[inline(always)]
    pub fn of_skb(context: &TcContext) -> Self {
        Self {
            start: context.data(),
            end: context.data_end(),
        }
    }

    /// Returns the linear part of a packet buffer after pulling all headers into it.
    ///
    /// This is for advertisements only, because the kernel copies the linear part of a buffer that is shared.
    #[inline(always)]
    pub fn with_headers_of_skb(context: &TcContext) -> Self {
        let wanted = context.len().min(HEADERS_MAX);
        let packet = Self::of_skb(context);
        if packet.start + wanted as usize <= packet.end {
            return packet;
        }
        // If there is no memory for it, the part that is readable has to do.
        let _ = context.pull_data(wanted);
        Self::of_skb(context)
    }

    /// Returns the address of `N` readable bytes at an offset.
    #[inline(always)]
    fn range<const N: usize>(&self, offset: usize) -> Option<*const [u8; N]> {
        let from = self.start + offset;
        (from + N <= self.end).then_some(from as *const [u8; N])
    }
}

/// The longest headers: Ethernet with two tags, IPv4 and CARP (14 + 8 + 60 + 36, rounded up). Unit: bytes.
const HEADERS_MAX: u32 = 128;

/// A whole packet buffer. Bytes outside its linear part are copied on demand.
pub struct Skb<'a>(pub &'a TcContext);

impl Frame for Skb<'_> {
    #[inline(always)]
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        Packet::of_skb(self.0)
            .bytes_at(offset)
            .or_else(|| self.0.load(offset).ok())
    }
}

impl Skb<'_> {
    /// Returns the 16 bits of the VLAN tag that the kernel took out of the frame.
    #[inline(always)]
    pub fn stripped_tag(&self) -> Option<u16> {
        let skb = self.0.skb.skb;
        // SAFETY: the context of a running program.
        let present = unsafe { (*skb).vlan_present };
        // SAFETY: as above.
        let tag = unsafe { (*skb).vlan_tci };
        #[expect(clippy::cast_possible_truncation, reason = "16 bits in a field of 32")]
        (present != 0).then_some(tag as u16)
    }

    /// Returns the EtherType after all tags, as the kernel knows it. It is also right on devices without an Ethernet header.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        // SAFETY: as above.
        let protocol = unsafe { (*self.0.skb.skb).protocol };
        #[expect(clippy::cast_possible_truncation, reason = "16 bits in a field of 32")]
        u16::from_be(protocol as u16)
    }

    /// Returns whether the packet was received and is forwarded or bridged. Otherwise the host itself made it.
    #[inline(always)]
    pub fn was_received(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).ingress_ifindex != 0 }
    }

    /// Returns the index of the device that the program runs on.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).ifindex }
    }
}

/// A packet buffer from its network header on.
pub struct NetworkPacket<'a>(pub &'a TcContext);

impl Frame for NetworkPacket<'_> {
    #[inline(always)]
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let skb = self.0.skb.skb.cast_const().cast();
        #[expect(clippy::cast_possible_truncation, reason = "headers are short")]
        // SAFETY: the context of a running program, and `N` bytes of ours for the `N` asked for.
        let status = unsafe {
            bpf_skb_load_bytes_relative(
                skb,
                offset as u32,
                (&raw mut bytes).cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        (status == 0).then_some(bytes)
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
            // SAFETY: a reference. The write is volatile, because the compiler would otherwise turn the loop into a call of
            // memmove, and the verifier would follow each step of that.
            unsafe { core::ptr::write_volatile(to, byte) };
        }
        Some(())
    }
}
