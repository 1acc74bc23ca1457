//! Classification of a frame, which yields a [`Verdict`]. The XDP program, the socket path and host tests run the same code.
//!
//! A frame of another protocol than IP protocol 112 is recognized after two or three loads ([`Verdict::Foreign`]). VRRP uses
//! protocol 112 too, and its version 2 even has CARP's first byte. A CARP packet has exactly 36 bytes of payload and a 7 in
//! byte 3. Every frame that is not an advertisement for a configured virtual host passes unchanged and is counted. For a
//! configured virtual host the checks are OpenBSD's, in its order (`ip_carp.c` r1.370, `carp_proto_input` and
//! `carp_proto_input_if`): TTL, length, checksum, version. One more check compares the source with the address that the
//! host itself sends from. The checks after these are in [`crate::abi::admission`], authentication first.
//!
//! A frame may also ask for an address, or be sent to one, that the host must not answer for any more.
//! [`Carried::claimed_address`] returns that address. [`spoken_address`] returns the address in whose name a packet that the
//! host sends speaks.
//!
//! Every function is inlined and every offset bounded, so that the kernel's verifier sees plain range checks.

use crate::abi::counters::Counter;
use crate::abi::event::AdvertisementEvent;
use crate::abi::layout::{FAMILY_INET, FAMILY_INET6, VhostKey, VhostValue, widen};
use crate::units::Family;
use crate::wire::advertisement::{self, AUTH_LEN, HEADER_LEN, IP_PROTOCOL, VERSION_AND_TYPE};
use crate::wire::checksum::{add_words, fold};
use crate::wire::ether::{self, VlanTags};
use crate::wire::ip::{
    IPV4_DESTINATION_OFFSET, IPV4_HEADER_LEN, IPV4_PROTOCOL_OFFSET, IPV4_SOURCE_OFFSET,
    IPV6_DESTINATION_OFFSET, IPV6_HEADER_LEN, IPV6_NEXT_HEADER_OFFSET, IPV6_SOURCE_OFFSET,
    Ipv4Header, Ipv6Header,
};

/// VRRP version 3, type advertisement (RFC 5798, section 5.1). Version 2 has CARP's own 0x21.
const VRRP_V3: u8 = 0x31;
/// Length of VRRP's header before its addresses, in both versions. Unit: bytes.
const VRRP_HEADER_LEN: usize = 8;
/// Length of VRRPv2's authentication data after its addresses (RFC 3768, section 5.1). Unit: bytes.
const VRRP_V2_AUTH_LEN: usize = 8;
/// Length of an IPv4 header with as many options as fit. Unit: bytes.
const IPV4_HEADER_MAX_LEN: usize = 60;

/// Length of a payload without a trailer, the only one that the kernel side accepts. Unit: bytes.
#[expect(clippy::cast_possible_truncation, reason = "36")]
const PLAIN_LENGTH: u16 = HEADER_LEN as u16;

/// The largest offset of a payload: after two tags and the longest IPv4 header. Unit: bytes from the Ethernet destination.
const OFFSET_MAX: usize = ether::HEADER_LEN + 2 * ether::TAG_LEN + IPV4_HEADER_MAX_LEN;

/// A source of a frame's bytes: packet memory in the kernel, a buffer elsewhere.
pub trait Frame {
    /// Returns `N` bytes at `offset`, counted from the Ethernet destination, or `None` if the frame ends before.
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Copies `N` bytes at `offset` to their destination. In the kernel this avoids a copy on the stack, which is small.
    #[inline(always)]
    fn copy_to<const N: usize>(&self, offset: usize, to: &mut [u8; N]) -> Option<()> {
        *to = self.bytes_at(offset)?;
        Some(())
    }
}

impl<F: Frame + ?Sized> Frame for &F {
    #[inline(always)]
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (**self).bytes_at(offset)
    }

    #[inline(always)]
    fn copy_to<const N: usize>(&self, offset: usize, to: &mut [u8; N]) -> Option<()> {
        (**self).copy_to(offset, to)
    }
}

impl Frame for [u8] {
    #[inline]
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// The link that a frame arrived on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Interface index.
    pub ifindex: u32,
    /// The 16 bits of a VLAN tag that the device or the kernel took out of the frame. XDP programs do not see it: on a
    /// device that strips tags (`ethtool -k`, rx-vlan-offload) tagged frames look untagged there.
    pub stripped_tag: Option<u16>,
}

/// The decision about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'v> {
    /// The frame is not IP protocol 112: pass it and count nothing.
    Foreign,
    /// The frame is protocol 112, but not for us: pass and count it.
    Pass {
        /// The counter to raise.
        counter: Counter,
        /// The ledger of the virtual host with this vhid ([`VhostValue::ledger`]); 0 if none is configured.
        ledger: u32,
    },
    /// The frame is VRRP: pass and count it.
    Vrrp {
        /// The ledger of the virtual host whose vhid equals the VRID, so that both use the same virtual MAC address. `None` if
        /// no such vhid is configured on this link.
        same_vhid: Option<u32>,
    },
    /// The advertisement is for a configured virtual host, but not valid: count and drop it.
    Drop {
        /// Its virtual host and its offsets.
        matched: Match<'v>,
        /// The reason: one of the `dropped-…` counters.
        reason: Counter,
    },
    /// The advertisement is for a configured virtual host and well-formed. Its HMAC is not checked yet.
    Deliver {
        /// Its virtual host and its offsets.
        matched: Match<'v>,
        /// It was sent to this host alone. Do not pass it on, because the IP stack would answer with an ICMP error.
        unicast: bool,
        /// Its source is [`VhostValue::own_source`], so it is not from a peer. Drop it without checking its digest.
        own: bool,
    },
}

/// The virtual host of an advertisement, and the offsets of its headers in the frame.
///
/// It contains offsets and not the bytes, because a verdict has to fit on the kernel's stack of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'v> {
    /// Family of the packet.
    pub family: Family,
    /// Key of the virtual host.
    pub key: VhostKey,
    /// Configuration of the virtual host.
    pub vhost: &'v VhostValue,
    /// Offset of the IP header. Unit: bytes from the Ethernet destination.
    header_offset: usize,
    /// Offset of the CARP header. Unit: bytes from the Ethernet destination.
    payload_offset: usize,
}

impl Match<'_> {
    /// Returns the slot of the virtual host's ledger for the family of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn ledger(&self) -> u32 {
        self.vhost.ledger_of(self.family)
    }

    /// Returns the IP source, IPv4 in the first four bytes, or `None` if `frame` is not the one that was classified.
    #[inline(always)]
    #[must_use]
    pub fn source<F: Frame + ?Sized>(&self, frame: &F) -> Option<[u8; 16]> {
        match self.family {
            Family::Inet => frame
                .bytes_at(self.header_offset + IPV4_SOURCE_OFFSET)
                .map(widen),
            Family::Inet6 => frame.bytes_at(self.header_offset + IPV6_SOURCE_OFFSET),
        }
    }

    /// Returns whether the source is the address that the host itself sends from. Zeros mean that it has none.
    #[inline(always)]
    fn is_own<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        match self.family {
            Family::Inet => {
                let own = self.vhost.own_source;
                own != [0; 4]
                    && frame.bytes_at(self.header_offset + IPV4_SOURCE_OFFSET) == Some(own)
            }
            Family::Inet6 => {
                let own = self.vhost.own_source6;
                own != [0; 16]
                    && frame.bytes_at(self.header_offset + IPV6_SOURCE_OFFSET) == Some(own)
            }
        }
    }

    /// Returns whether the destination is the one of this virtual host's advertisements.
    #[inline(always)]
    fn is_for<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        match self.family {
            Family::Inet => {
                frame.bytes_at(self.header_offset + IPV4_DESTINATION_OFFSET)
                    == Some(self.vhost.destination)
            }
            Family::Inet6 => {
                frame.bytes_at(self.header_offset + IPV6_DESTINATION_OFFSET)
                    == Some(self.vhost.destination6)
            }
        }
    }

    /// Returns whether both the Ethernet and the IP destination are those of a single host.
    #[inline(always)]
    fn is_unicast<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        let offset = match self.family {
            Family::Inet => IPV4_DESTINATION_OFFSET,
            Family::Inet6 => IPV6_DESTINATION_OFFSET,
        };
        matches!(
            frame.bytes_at(self.header_offset + offset),
            Some([first]) if !is_group(self.family, first)
        ) && is_to_station(frame)
    }

    /// Fills in a record for the daemon, except for its time. Returns `None`, with the record half filled, if `frame` is not
    /// the one that was classified.
    ///
    /// It writes each field to its final location. A value that is built first would need stack for the addresses of both
    /// families.
    #[inline(always)]
    pub fn describe<F: Frame + ?Sized>(
        &self,
        frame: &F,
        event: &mut AdvertisementEvent,
    ) -> Option<()> {
        event.key = self.key;
        event.length = PLAIN_LENGTH;
        match self.family {
            Family::Inet => {
                event.family = FAMILY_INET;
                let address = |offset, to: &mut [u8; 16]| {
                    let word = frame.bytes_at(self.header_offset + offset)?;
                    *to = widen(word);
                    Some(())
                };
                address(IPV4_SOURCE_OFFSET, &mut event.source)?;
                address(IPV4_DESTINATION_OFFSET, &mut event.destination)?;
            }
            Family::Inet6 => {
                event.family = FAMILY_INET6;
                frame.copy_to(self.header_offset + IPV6_SOURCE_OFFSET, &mut event.source)?;
                frame.copy_to(
                    self.header_offset + IPV6_DESTINATION_OFFSET,
                    &mut event.destination,
                )?;
            }
        }
        frame.copy_to(ether::SOURCE_OFFSET, &mut event.ethernet_source)?;
        let header: &mut [u8; HEADER_LEN] = event.payload.first_chunk_mut()?;
        frame.copy_to(hidden(self.payload_offset), header)?;
        Some(())
    }

    /// Returns the record for the daemon, or `None` if `frame` is not the one that was classified.
    #[must_use]
    pub fn event<F: Frame + ?Sized>(
        &self,
        frame: &F,
        arrival_ns: u64,
    ) -> Option<AdvertisementEvent> {
        let mut event = AdvertisementEvent::empty(arrival_ns);
        self.describe(frame, &mut event)?;
        Some(event)
    }
}

/// Returns the verdict on a frame. `vhost` looks a virtual host up. It is called at most once, and never for a
/// [`Verdict::Foreign`] frame.
#[inline(always)]
pub fn classify<'v, F: Frame + ?Sized>(
    frame: &F,
    ingress: Ingress,
    vhost: impl FnOnce(&VhostKey) -> Option<&'v VhostValue>,
) -> Verdict<'v> {
    match Carried::find(frame, ingress) {
        Some(carried) if carried.is_protocol_112(frame) => carried.classify(frame, vhost),
        Some(_) | None => Verdict::Foreign,
    }
}

/// The packet in a frame, after the Ethernet header and up to two tags.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    ingress: Ingress,
    tags: VlanTags,
    ether_type: u16,
    /// Offset of the packet. Unit: bytes from the Ethernet destination.
    offset: usize,
}

impl Carried {
    /// Finds the packet in a frame. Returns `None` if the frame ends before it.
    #[inline(always)]
    #[must_use]
    pub fn find<F: Frame + ?Sized>(frame: &F, ingress: Ingress) -> Option<Self> {
        let offset = ether::HEADER_LEN;
        let mut carried = Self {
            ingress,
            tags: VlanTags::default(),
            ether_type: u16::from_be_bytes(frame.bytes_at(offset - 2)?),
            offset,
        };
        if let Some(tag) = ingress.stripped_tag {
            carried.tags.push(tag);
        }
        // Not a loop: verifiers up to Linux 6.6 take the code that the compiler makes from one for an endless loop.
        if ether::is_tag(carried.ether_type) {
            carried.enter_tag(frame)?;
            if ingress.stripped_tag.is_none() && ether::is_tag(carried.ether_type) {
                carried.enter_tag(frame)?;
            }
        }
        Some(carried)
    }

    /// Skips the tag at the current offset.
    #[inline(always)]
    fn enter_tag<F: Frame + ?Sized>(&mut self, frame: &F) -> Option<()> {
        let [t0, t1, e0, e1] = frame.bytes_at(self.offset)?;
        self.tags.push(u16::from_be_bytes([t0, t1]));
        self.ether_type = u16::from_be_bytes([e0, e1]);
        self.offset += ether::TAG_LEN;
        Some(())
    }

    /// Returns whether it is an IP packet of the protocol of CARP and VRRP.
    #[inline(always)]
    #[must_use]
    pub fn is_protocol_112<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        let protocol_offset = match self.ether_type {
            ether::TYPE_IPV4 => IPV4_PROTOCOL_OFFSET,
            ether::TYPE_IPV6 => IPV6_NEXT_HEADER_OFFSET,
            _ => return false,
        };
        frame.bytes_at(self.offset + protocol_offset) == Some([IP_PROTOCOL])
    }

    /// Returns the verdict on an IP packet of protocol 112.
    #[inline(always)]
    pub fn classify<'v, F: Frame + ?Sized>(
        &self,
        frame: &F,
        vhost: impl FnOnce(&VhostKey) -> Option<&'v VhostValue>,
    ) -> Verdict<'v> {
        let packet = match self.ether_type {
            ether::TYPE_IPV4 => inet(frame, self.offset),
            _ => inet6(frame, self.offset),
        };
        match packet {
            Ok(packet) => packet.classify(frame, self.ingress, self.tags, vhost),
            Err(counter) => passed(counter),
        }
    }
}

/// An IPv4 or IPv6 packet of protocol 112.
struct Packet {
    family: Family,
    header_offset: usize,
    header_len: usize,
    payload_len: usize,
    ttl: u8,
}

#[inline(always)]
fn inet<F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<Packet, Counter> {
    let header: [u8; IPV4_HEADER_LEN] = frame.bytes_at(offset).ok_or(Counter::PassedMalformed)?;
    let header = Ipv4Header::parse(&header).ok_or(Counter::PassedMalformed)?;
    if header.is_fragment {
        return Err(Counter::PassedFragment);
    }
    Ok(Packet {
        family: Family::Inet,
        header_offset: offset,
        header_len: header.header_len,
        payload_len: header.payload_len(),
        ttl: header.ttl,
    })
}

#[inline(always)]
fn inet6<F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<Packet, Counter> {
    let header: [u8; IPV6_HEADER_LEN] = frame.bytes_at(offset).ok_or(Counter::PassedMalformed)?;
    let header = Ipv6Header::parse(&header).ok_or(Counter::PassedMalformed)?;
    Ok(Packet {
        family: Family::Inet6,
        header_offset: offset,
        header_len: IPV6_HEADER_LEN,
        payload_len: header.payload_len,
        ttl: header.hop_limit,
    })
}

impl Packet {
    #[inline(always)]
    fn classify<'v, F: Frame + ?Sized>(
        &self,
        frame: &F,
        ingress: Ingress,
        tags: VlanTags,
        vhost: impl FnOnce(&VhostKey) -> Option<&'v VhostValue>,
    ) -> Verdict<'v> {
        let payload_offset = self.header_offset + self.header_len;
        // The frame may be padded. Bytes beyond the length in the IP header are not payload.
        if self.payload_len < 4 {
            return passed(Counter::PassedMalformed);
        }
        let Some([first, vhid, _, fourth]) = frame.bytes_at(payload_offset) else {
            return passed(Counter::PassedMalformed);
        };
        let is_vrrp = self.is_vrrp(first, fourth);
        if !is_vrrp && (self.payload_len != HEADER_LEN || fourth != AUTH_LEN || vhid == 0) {
            return passed(Counter::PassedMalformed);
        }
        let key = VhostKey {
            ifindex: ingress.ifindex,
            vlan: tags.outer,
            inner_vlan: tags.inner,
            vhid,
            _pad: 0,
            _pad2: 0,
        };
        let vhost = vhost(&key).filter(|vhost| vhost.hears(self.family));
        if is_vrrp {
            return Verdict::Vrrp {
                same_vhid: vhost.map(|vhost| vhost.ledger_of(self.family)),
            };
        }
        let Some(vhost) = vhost else {
            return passed(match tags.outer {
                0 => Counter::PassedUnknownVhid,
                _ => Counter::PassedOtherVlan,
            });
        };
        let matched = Match {
            family: self.family,
            key,
            vhost,
            header_offset: self.header_offset,
            payload_offset,
        };
        if !matched.is_for(frame) {
            return Verdict::Pass {
                counter: match matched.is_unicast(frame) {
                    true => Counter::PassedUnicast,
                    false => Counter::PassedOtherGroup,
                },
                ledger: matched.ledger(),
            };
        }
        // The IP stack discards such a packet, so it passes. Its source could not be trusted either.
        if matches!(self.family, Family::Inet) && !header_is_intact(frame, self.header_offset) {
            return Verdict::Pass {
                counter: Counter::PassedMalformed,
                ledger: matched.ledger(),
            };
        }
        if let Err(reason) = self.check(frame, payload_offset, vhost.min_ttl) {
            return Verdict::Drop { matched, reason };
        }
        let first = match self.family {
            Family::Inet => vhost.destination[0],
            Family::Inet6 => vhost.destination6[0],
        };
        Verdict::Deliver {
            matched,
            unicast: is_to_station(frame) && !is_group(self.family, first),
            own: matched.is_own(frame),
        }
    }

    /// Checks an advertisement for a configured virtual host, in OpenBSD's order.
    #[inline(always)]
    fn check<F: Frame + ?Sized>(
        &self,
        frame: &F,
        payload_offset: usize,
        min_ttl: u8,
    ) -> Result<(), Counter> {
        if self.ttl < min_ttl {
            return Err(Counter::DroppedWrongTtl);
        }
        let payload: [u8; HEADER_LEN] = frame
            .bytes_at(hidden(payload_offset))
            .ok_or(Counter::DroppedShortPacket)?;
        if !advertisement::checksum_is_valid(&payload) {
            return Err(Counter::DroppedBadChecksum);
        }
        if payload[0] != VERSION_AND_TYPE {
            return Err(Counter::DroppedBadVersion);
        }
        Ok(())
    }

    /// Returns whether the packet is VRRP, whose length follows from the number of addresses in its fourth byte.
    ///
    /// A VRRPv3 packet with seven IPv4 addresses has 36 bytes and CARP's 7. Only its version differs from CARP, so this check
    /// comes before the one for CARP.
    #[inline(always)]
    const fn is_vrrp(&self, first: u8, count: u8) -> bool {
        let count = count as usize;
        match (first, self.family) {
            (VERSION_AND_TYPE, Family::Inet) => {
                self.payload_len == VRRP_HEADER_LEN + 4 * count + VRRP_V2_AUTH_LEN
            }
            (VRRP_V3, Family::Inet) => self.payload_len == VRRP_HEADER_LEN + 4 * count,
            (VRRP_V3, Family::Inet6) => self.payload_len == VRRP_HEADER_LEN + 16 * count,
            _ => false,
        }
    }
}

/// Returns the verdict on a packet without a configured virtual host.
#[inline(always)]
const fn passed<'v>(counter: Counter) -> Verdict<'v> {
    Verdict::Pass { counter, ledger: 0 }
}

/// Returns the same offset, hidden from the compiler's optimizations. Range: at most [`OFFSET_MAX`].
///
/// Otherwise the compiler would conclude from one read that another one is inside the frame too. It would drop the second
/// range check, or read through the pointer that was checked first, and the verifier does not follow such conclusions. The
/// verifier does not know the hidden offset either, so it needs the upper bound.
#[inline(always)]
fn hidden(offset: usize) -> usize {
    core::hint::black_box(offset).min(OFFSET_MAX)
}

/// Returns whether the checksum of the IPv4 header, with its options, is right.
#[inline(always)]
fn header_is_intact<F: Frame + ?Sized>(frame: &F, offset: usize) -> bool {
    let Some(fixed) = frame.bytes_at::<IPV4_HEADER_LEN>(offset) else {
        return false;
    };
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let mut sum = add_words(&fixed);
    for from_end in (4..=IPV4_HEADER_MAX_LEN - IPV4_HEADER_LEN).step_by(4) {
        if header_len < IPV4_HEADER_LEN + from_end {
            break;
        }
        // The offset is counted from the end, so that it is a variable one for the verifier. A range check on it then tells
        // nothing about other packet pointers, and the verifier need not follow each number of options separately.
        let option = hidden(header_len - from_end);
        let Some(word) = frame.bytes_at::<4>(offset + option) else {
            return false;
        };
        sum += add_words(&word);
    }
    fold(sum) == [0, 0]
}

/// Returns whether the Ethernet destination is the address of a single station.
#[inline(always)]
fn is_to_station<F: Frame + ?Sized>(frame: &F) -> bool {
    matches!(frame.bytes_at(0), Some([first]) if first & 1 == 0)
}

/// Returns whether an address that starts with this byte is a multicast address, or IPv4's broadcast address.
#[inline(always)]
const fn is_group(family: Family, first: u8) -> bool {
    match family {
        Family::Inet => first >= 0xe0,
        Family::Inet6 => first == 0xff,
    }
}

mod fence;

pub use fence::{FenceSubject, spoken_address};
#[cfg(test)]
mod tests;
