//! The record of an advertisement in the ring buffers.

use core::net::IpAddr;

use super::layout::{FAMILY_INET, FAMILY_INET6, VhostKey, address};
use crate::units::Family;
use crate::wire::advertisement::HEADER_LEN;

/// The longest payload of an event: a CARP header, and a trailer of up to 68 bytes. Unit: bytes.
pub const PAYLOAD_MAX: usize = HEADER_LEN + 68;

/// One advertisement that passed every check of the kernel side. It is the record of a ring buffer, and its payload is last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertisementEvent {
    /// Time of arrival by `bpf_ktime_get_ns`. Unit: nanoseconds of CLOCK_MONOTONIC.
    pub arrival_ns: u64,
    /// The link that it arrived on and its virtual host.
    pub key: VhostKey,
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u8,
    /// Zero.
    pub _pad: u8,
    /// Length of the used part of `payload`. Unit: bytes.
    pub length: u16,
    /// Source address, IPv4 in the first four bytes and zeros after it.
    pub source: [u8; 16],
    /// Destination address in the same form.
    pub destination: [u8; 16],
    /// Ethernet source address.
    pub ethernet_source: [u8; 6],
    /// Zero.
    pub _pad2: [u8; 2],
    /// The CARP header and a trailer.
    pub payload: [u8; PAYLOAD_MAX],
}

impl AdvertisementEvent {
    /// Length of a record without its payload. Unit: bytes.
    pub const HEAD_LEN: usize = core::mem::offset_of!(Self, payload);

    /// Length of the record of a CARP header without a trailer. Unit: bytes.
    pub const PLAIN_LEN: usize = Self::HEAD_LEN + HEADER_LEN;

    /// Returns a record that contains only a time of arrival.
    #[inline(always)]
    #[must_use]
    pub const fn empty(arrival_ns: u64) -> Self {
        Self {
            arrival_ns,
            key: VhostKey::NONE,
            family: 0,
            _pad: 0,
            length: 0,
            source: [0; 16],
            destination: [0; 16],
            ethernet_source: [0; 6],
            _pad2: [0; 2],
            payload: [0; PAYLOAD_MAX],
        }
    }

    /// Decodes a record of the ring buffer, which is the value as it is in memory, up to the end of the payload. Returns
    /// `None` if the record's length does not match its length field.
    #[must_use]
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        let (arrival_ns, rest) = record.split_first_chunk()?;
        let (ifindex, rest) = rest.split_first_chunk()?;
        let (vlan, rest) = rest.split_first_chunk()?;
        let (inner_vlan, rest) = rest.split_first_chunk()?;
        let ([vhid, _, _, _, family, _], rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (destination, rest) = rest.split_first_chunk()?;
        let (ethernet_source, rest) = rest.split_first_chunk()?;
        let (_pad, payload) = rest.split_first_chunk::<2>()?;
        let mut event = Self {
            key: VhostKey {
                ifindex: u32::from_ne_bytes(*ifindex),
                vlan: u16::from_ne_bytes(*vlan),
                inner_vlan: u16::from_ne_bytes(*inner_vlan),
                vhid: *vhid,
                _pad: 0,
                _pad2: 0,
            },
            family: *family,
            length: u16::from_ne_bytes(*length),
            source: *source,
            destination: *destination,
            ethernet_source: *ethernet_source,
            ..Self::empty(u64::from_ne_bytes(*arrival_ns))
        };
        if payload.len() != usize::from(event.length) {
            return None;
        }
        event
            .payload
            .get_mut(..payload.len())?
            .copy_from_slice(payload);
        Some(event)
    }

    /// Returns the address family of the packet, or `None` for an unknown number.
    #[must_use]
    pub const fn carried_by(&self) -> Option<Family> {
        match self.family {
            FAMILY_INET => Some(Family::Inet),
            FAMILY_INET6 => Some(Family::Inet6),
            _ => None,
        }
    }

    /// Returns the CARP header.
    #[inline(always)]
    #[must_use]
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        self.payload
            .first_chunk()
            .unwrap_or(const { &[0; HEADER_LEN] })
    }

    /// Returns the CARP header and the trailer.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }

    /// Returns the source address. The kernel side writes IPv4 and IPv6 only.
    #[must_use]
    pub fn source_address(&self) -> IpAddr {
        address(self.family, self.source)
    }
}

const _: () = assert!(AdvertisementEvent::HEAD_LEN == 64);
const _: () = assert!(size_of::<AdvertisementEvent>() == 64 + PAYLOAD_MAX);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    fn sample() -> AdvertisementEvent {
        let mut event = AdvertisementEvent {
            key: VhostKey {
                ifindex: 0x1112_1314,
                vlan: 0x0151,
                inner_vlan: 0x0252,
                vhid: 0xfe,
                _pad: 0,
                _pad2: 0,
            },
            family: FAMILY_INET6,
            length: 40,
            source: [0x21; 16],
            destination: [0x31; 16],
            ethernet_source: [0x41; 6],
            ..AdvertisementEvent::empty(0x0102_0304_0506_0708)
        };
        for (index, byte) in event.payload[..40].iter_mut().enumerate() {
            *byte = 0x80 + u8::try_from(index).unwrap();
        }
        event
    }

    /// Returns the record as the kernel side leaves it in memory, written with the offsets that the compiler chose.
    fn record(event: &AdvertisementEvent) -> std::vec::Vec<u8> {
        let mut bytes = [0xa5; size_of::<AdvertisementEvent>()];
        let mut put = |offset: usize, field: &[u8]| {
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        let key = offset_of!(AdvertisementEvent, key);
        put(
            offset_of!(AdvertisementEvent, arrival_ns),
            &event.arrival_ns.to_ne_bytes(),
        );
        put(
            key + offset_of!(VhostKey, ifindex),
            &event.key.ifindex.to_ne_bytes(),
        );
        put(
            key + offset_of!(VhostKey, vlan),
            &event.key.vlan.to_ne_bytes(),
        );
        put(
            key + offset_of!(VhostKey, inner_vlan),
            &event.key.inner_vlan.to_ne_bytes(),
        );
        put(key + offset_of!(VhostKey, vhid), &[event.key.vhid]);
        put(key + offset_of!(VhostKey, _pad), &[event.key._pad]);
        put(
            key + offset_of!(VhostKey, _pad2),
            &event.key._pad2.to_ne_bytes(),
        );
        put(offset_of!(AdvertisementEvent, family), &[event.family]);
        put(offset_of!(AdvertisementEvent, _pad), &[event._pad]);
        put(
            offset_of!(AdvertisementEvent, length),
            &event.length.to_ne_bytes(),
        );
        put(offset_of!(AdvertisementEvent, source), &event.source);
        put(
            offset_of!(AdvertisementEvent, destination),
            &event.destination,
        );
        put(
            offset_of!(AdvertisementEvent, ethernet_source),
            &event.ethernet_source,
        );
        put(offset_of!(AdvertisementEvent, _pad2), &event._pad2);
        put(offset_of!(AdvertisementEvent, payload), event.payload());
        bytes[..AdvertisementEvent::HEAD_LEN + usize::from(event.length)].to_vec()
    }

    #[test]
    fn event_round_trips_through_its_bytes_with_and_without_a_trailer() {
        for length in [0, 36, 37, 40, 104] {
            let mut event = sample();
            event.length = length;
            event.payload[usize::from(length)..].fill(0);
            let bytes = record(&event);
            assert_eq!(AdvertisementEvent::from_bytes(&bytes), Some(event));
            assert_eq!(event.payload().len(), usize::from(length));
            assert_eq!(event.header()[..], event.payload[..36]);
        }
    }

    #[test]
    fn a_record_of_another_length_than_it_names_is_refused() {
        let bytes = record(&sample());
        for length in 0..bytes.len() {
            assert_eq!(
                AdvertisementEvent::from_bytes(&bytes[..length]),
                None,
                "{length} bytes"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(AdvertisementEvent::from_bytes(&longer), None);
        // The length is more than the room in the record.
        let mut longest = sample();
        longest.length = 105;
        let mut bytes = record(&sample());
        bytes.resize(AdvertisementEvent::HEAD_LEN + 105, 0);
        let at = offset_of!(AdvertisementEvent, length);
        bytes[at..at + 2].copy_from_slice(&longest.length.to_ne_bytes());
        assert_eq!(AdvertisementEvent::from_bytes(&bytes), None);
    }

    #[test]
    fn addresses_follow_the_family() {
        let mut event = sample();
        assert_eq!(event.source_address(), IpAddr::from([0x21; 16]));
        event.family = FAMILY_INET;
        assert_eq!(event.source_address(), IpAddr::from([0x21; 4]));
    }
}
