//! A frame to a verdict: written once, run by the XDP program, by the socket path and by host tests.
//!
//! What is not IP protocol 112 leaves after two or three loads ([`Verdict::Foreign`]). Protocol 112 is shared with VRRP,
//! whose version 2 even has CARP's first byte; CARP is what has exactly 36 bytes of payload and says 7 in byte 3.
//! Everything that is not an advertisement for a configured virtual host passes untouched, counted. For a configured one
//! the checks are OpenBSD's, in its order (`ip_carp.c` r1.370, `carp_proto_input` and `carp_proto_input_if`): TTL,
//! length, checksum, version. One of our own then: whether the source is the address that we send from. What comes after
//! them, authentication first, is [`crate::abi::admission`]'s.
//!
//! Beside that, a frame may ask for an address, or be sent to one, that the host should no longer answer for:
//! [`Carried::claimed_address`] says which; [`spoken_address`] says for which address a packet speaks that the host sends.
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
/// VRRP's header before its addresses, in both versions. Unit: bytes.
const VRRP_HEADER_LEN: usize = 8;
/// VRRPv2's authentication data after its addresses (RFC 3768, section 5.1). Unit: bytes.
const VRRP_V2_AUTH_LEN: usize = 8;
/// An IPv4 header with as many options as fit. Unit: bytes.
const IPV4_HEADER_MAX_LEN: usize = 60;

/// The only length of a payload that there is so far. Unit: bytes.
#[expect(clippy::cast_possible_truncation, reason = "36")]
const PLAIN_LENGTH: u16 = HEADER_LEN as u16;

/// No payload begins later: behind two tags and a longest IPv4 header. Unit: bytes from the Ethernet destination.
const OFFSET_MAX: usize = ether::HEADER_LEN + 2 * ether::TAG_LEN + IPV4_HEADER_MAX_LEN;

/// Where a frame's bytes come from: packet memory in the kernel, a buffer elsewhere.
pub trait Frame {
    /// Copies `N` bytes from `offset`, counted from the Ethernet destination. `None` when the frame ends before.
    fn bytes_at<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The same, straight into its place; where stack is scarce, without a stop there.
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

/// The link a frame arrived on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Interface index.
    pub ifindex: u32,
    /// The 16 bits of a VLAN tag that the device or the kernel took out of the frame. XDP is not told of it: on a
    /// device that strips tags (`ethtool -k`, rx-vlan-offload) tagged frames look untagged there.
    pub stripped_tag: Option<u16>,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'v> {
    /// Not IP protocol 112: pass, count nothing.
    Foreign,
    /// Protocol 112, but not for us: pass and count.
    Pass {
        /// As what.
        counter: Counter,
        /// Whose it would have been, by [`VhostValue::ledger`]; 0 for no virtual host's.
        ledger: u32,
    },
    /// VRRP: pass and count.
    Vrrp {
        /// The ledger of the configured vhid of this link that equals its VRID, so that both want the same virtual MAC
        /// address. `None` when there is none.
        same_vhid: Option<u32>,
    },
    /// For a configured virtual host, but broken: count and drop.
    Drop {
        /// Where it is.
        place: Place<'v>,
        /// Why: one of the `dropped-…` counters.
        reason: Counter,
    },
    /// A well-formed advertisement for a configured virtual host; its HMAC is not checked yet.
    Deliver {
        /// Where it is.
        place: Place<'v>,
        /// It was sent to this host alone, whose IP stack would answer with an ICMP error: do not pass it on.
        unicast: bool,
        /// Its source is [`VhostValue::own_source`], so it is no peer's: drop it, without a look at its digest.
        own: bool,
    },
}

/// Whose an advertisement is and where it lies in its frame.
///
/// Offsets instead of the bytes themselves: what the verdict carries has to fit on the kernel's 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'v> {
    /// Family that carries it.
    pub family: Family,
    /// The virtual host it is for.
    pub key: VhostKey,
    /// What is configured for it.
    pub vhost: &'v VhostValue,
    /// Of the IP header. Unit: bytes from the Ethernet destination.
    header_offset: usize,
    /// Of the CARP header, likewise.
    payload_offset: usize,
}

impl Place<'_> {
    /// The slot of its ledger, for the family that carries it.
    #[inline(always)]
    #[must_use]
    pub const fn ledger(&self) -> u32 {
        self.vhost.ledger_of(self.family)
    }

    /// IP source, IPv4 in the first four bytes. `None` when `frame` is not the one that was judged.
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

    /// Whether it was sent from the address that the host itself sends from, which is zeros for none.
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

    /// Whether it was sent to where the advertisements of this virtual host go.
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

    /// Whether it was sent to a single host, by its Ethernet destination and by its IP destination.
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

    /// Fills in a record for the daemon, all but its time. `None`, with the record half filled, when `frame` is not the
    /// one that was judged.
    ///
    /// Field by field into its final place: built as a value, the addresses of the two families would meet on the stack.
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

    /// The record for the daemon. `None` when `frame` is not the one that was judged.
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

/// Judges one frame. `vhost` looks a virtual host up; it is asked at most once, and never about a
/// [`Verdict::Foreign`] frame.
#[inline(always)]
pub fn classify<'v, F: Frame + ?Sized>(
    frame: &F,
    ingress: Ingress,
    vhost: impl FnOnce(&VhostKey) -> Option<&'v VhostValue>,
) -> Verdict<'v> {
    match Carried::find(frame, ingress) {
        Some(carried) if carried.is_protocol_112(frame) => carried.judge(frame, vhost),
        Some(_) | None => Verdict::Foreign,
    }
}

/// What a frame carries behind its Ethernet header and up to two tags.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    ingress: Ingress,
    tags: VlanTags,
    ether_type: u16,
    /// Where it begins. Unit: bytes from the Ethernet destination.
    offset: usize,
}

impl Carried {
    /// `None` when the frame ends before.
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
        // Not a loop: the compiler lays one out in a way that verifiers up to Linux 6.6 take for one without end.
        if ether::is_tag(carried.ether_type) {
            carried.enter_tag(frame)?;
            if ingress.stripped_tag.is_none() && ether::is_tag(carried.ether_type) {
                carried.enter_tag(frame)?;
            }
        }
        Some(carried)
    }

    /// Behind the tag that begins here.
    #[inline(always)]
    fn enter_tag<F: Frame + ?Sized>(&mut self, frame: &F) -> Option<()> {
        let [t0, t1, e0, e1] = frame.bytes_at(self.offset)?;
        self.tags.push(u16::from_be_bytes([t0, t1]));
        self.ether_type = u16::from_be_bytes([e0, e1]);
        self.offset += ether::TAG_LEN;
        Some(())
    }

    /// Whether it is IP, and inside that the protocol of CARP and VRRP.
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

    /// Judges an IP packet of protocol 112.
    #[inline(always)]
    pub fn judge<'v, F: Frame + ?Sized>(
        &self,
        frame: &F,
        vhost: impl FnOnce(&VhostKey) -> Option<&'v VhostValue>,
    ) -> Verdict<'v> {
        let packet = match self.ether_type {
            ether::TYPE_IPV4 => inet(frame, self.offset),
            _ => inet6(frame, self.offset),
        };
        match packet {
            Ok(packet) => packet.judge(frame, self.ingress, self.tags, vhost),
            Err(counter) => passed(counter),
        }
    }
}

/// An IP packet of protocol 112, of either family.
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
    fn judge<'v, F: Frame + ?Sized>(
        &self,
        frame: &F,
        ingress: Ingress,
        tags: VlanTags,
        vhost: impl FnOnce(&VhostKey) -> Option<&'v VhostValue>,
    ) -> Verdict<'v> {
        let payload_offset = self.header_offset + self.header_len;
        // The frame may be padded: what the IP header does not cover is not payload.
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
        let place = Place {
            family: self.family,
            key,
            vhost,
            header_offset: self.header_offset,
            payload_offset,
        };
        if !place.is_for(frame) {
            return Verdict::Pass {
                counter: match place.is_unicast(frame) {
                    true => Counter::PassedUnicast,
                    false => Counter::PassedOtherGroup,
                },
                ledger: place.ledger(),
            };
        }
        // The IP stack would discard it, so it is not ours to judge; and its source could not be believed.
        if matches!(self.family, Family::Inet) && !header_is_intact(frame, self.header_offset) {
            return Verdict::Pass {
                counter: Counter::PassedMalformed,
                ledger: place.ledger(),
            };
        }
        if let Err(reason) = self.check(frame, payload_offset, vhost.min_ttl) {
            return Verdict::Drop { place, reason };
        }
        let first = match self.family {
            Family::Inet => vhost.destination[0],
            Family::Inet6 => vhost.destination6[0],
        };
        Verdict::Deliver {
            place,
            unicast: is_to_station(frame) && !is_group(self.family, first),
            own: place.is_own(frame),
        }
    }

    /// The checks of an advertisement that is positively ours, in OpenBSD's order.
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

    /// VRRP's lengths follow from the number of addresses in its fourth byte. A VRRPv3 packet with seven IPv4 addresses
    /// has 36 bytes and a 7 where CARP has it; only its version tells, so VRRP is asked for first.
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

/// Nobody's here.
#[inline(always)]
const fn passed<'v>(counter: Counter) -> Verdict<'v> {
    Verdict::Pass { counter, ledger: 0 }
}

/// The same offset, of which the compiler knows nothing. Range: at most [`OFFSET_MAX`].
///
/// It would conclude from one read that another one is inside the frame too, and drop its range check or read through the
/// pointer that was checked; the verifier does not follow such arguments. Neither does it know the offset any more, hence
/// the upper bound.
#[inline(always)]
fn hidden(offset: usize) -> usize {
    core::hint::black_box(offset).min(OFFSET_MAX)
}

/// Whether the checksum of the IPv4 header holds, over its options too.
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
        // Counted from the end, because that makes the offset a variable one for the verifier: a range check on it says
        // nothing about the other packet pointers, so all numbers of options look alike to it afterwards.
        let option = hidden(header_len - from_end);
        let Some(word) = frame.bytes_at::<4>(offset + option) else {
            return false;
        };
        sum += add_words(&word);
    }
    fold(sum) == [0, 0]
}

/// Whether the Ethernet destination is that of a single station.
#[inline(always)]
fn is_to_station<F: Frame + ?Sized>(frame: &F) -> bool {
    matches!(frame.bytes_at(0), Some([first]) if first & 1 == 0)
}

/// Whether an address that starts with this byte is a multicast one, or IPv4's broadcast.
#[inline(always)]
const fn is_group(family: Family, first: u8) -> bool {
    match family {
        Family::Inet => first >= 0xe0,
        Family::Inet6 => first == 0xff,
    }
}

mod fence;

pub use fence::{Claim, spoken_address};
#[cfg(test)]
mod tests;
