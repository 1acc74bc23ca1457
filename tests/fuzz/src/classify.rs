//! Compares the frame classifier with its rules, written a second time without regard for speed or the verifier.
//!
//! Input: 8 bytes of [`Setting`], then a frame.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carp_common::abi::classify::{
    Carried, FenceSubject, Ingress, Verdict, classify, spoken_address,
};
use carp_common::abi::counters::Counter;
use carp_common::abi::hmac::{KernelKeys, is_authentic};
use carp_common::abi::layout::{AddressKey, VhostKey, VhostValue, widen};
use carp_common::drop_reason::DropReason;
use carp_common::proto::{AddressSet, Authenticator, Key, Profile};
use carp_common::units::{Family, Vhid};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};
use carp_common::wire::arp::{Arp, Operation};
use carp_common::wire::checksum::internet_checksum;
use carp_common::wire::ether::is_tag;

/// Bits of [`Setting::flags`].
const TAG_WAS_STRIPPED: u8 = 1;
const REPAIR_INET_CHECKSUM: u8 = 2;
const REPAIR_CARP_CHECKSUM: u8 = 4;
const SIGN: u8 = 8;
const EVERY_VLAN: u8 = 16;
const EVERY_VHID: u8 = 32;
const FENCE_ALL: u8 = 64;
const FROM_US: u8 = 128;

const IFINDEX: u32 = 3;
const SLOT: u32 = 5;
const LEDGER: u32 = 6;
const LEDGER6: u32 = 7;

/// The destinations of a configured group's advertisements. [`Setting::group`] chooses one.
const GROUPS: [[u8; 16]; 5] = [
    widen([224, 0, 0, 18]),
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12],
    widen([10, 9, 0, 5]),
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
    [0; 16],
];

/// The daemon's configuration, and the origin of the frame.
struct Setting {
    flags: u8,
    stripped: u16,
    group: u8,
    vhid: u8,
    vlan: u16,
    /// The number of the password that signs the frame, of two.
    password: u8,
}

/// Runs one input; see the module.
pub fn target(data: &[u8]) {
    let Some((setting, frame)) = data.split_first_chunk::<8>() else {
        return;
    };
    let [flags, s0, s1, group, vhid, v0, v1, password] = *setting;
    let setting = Setting {
        flags,
        stripped: u16::from_be_bytes([s0, s1]),
        group,
        vhid,
        vlan: u16::from_be_bytes([v0, v1]),
        password,
    };
    let mut frame = frame.to_vec();
    setting.repair(&mut frame);
    setting.check_verdict(&frame);
    setting.check_claims(&frame);
}

/// Returns the IPv4 address at the start of a wide one.
fn inet([a, b, c, d, ..]: [u8; 16]) -> Ipv4Addr {
    [a, b, c, d].into()
}

fn ledger_of(family: Family) -> u32 {
    match family {
        Family::Inet => LEDGER,
        Family::Inet6 => LEDGER6,
    }
}

/// The packet behind the Ethernet header and the tags.
struct Packet<'a> {
    ether_type: u16,
    tags: [u16; 2],
    bytes: &'a [u8],
    /// Offset of `bytes` in the frame.
    offset: usize,
}

impl Packet<'_> {
    fn family(&self) -> Option<Family> {
        match self.ether_type {
            0x0800 => Some(Family::Inet),
            0x86dd => Some(Family::Inet6),
            _ => None,
        }
    }

    fn word(&self, offset: usize) -> usize {
        match self.bytes.get(offset..offset + 2) {
            Some(&[high, low]) => usize::from(high) << 8 | usize::from(low),
            _ => 0,
        }
    }

    /// Returns the offset of the IP payload and its size according to the header, if this is a sound and unfragmented
    /// packet of protocol 112.
    fn payload(&self) -> Option<(usize, usize)> {
        match self.family()? {
            Family::Inet => {
                let header_len = 4 * usize::from(self.bytes.get(..20)?[0] & 15);
                let sound = self.bytes[0] >> 4 == 4
                    && header_len >= 20
                    && self.word(2) >= header_len
                    && self.word(6) & 0x3fff == 0
                    && self.bytes[9] == 112
                    && internet_checksum(self.bytes.get(..header_len)?) == [0, 0];
                sound.then(|| (header_len, self.word(2) - header_len))
            }
            Family::Inet6 => {
                let sound = self.bytes.get(..40)?[0] >> 4 == 6 && self.bytes[6] == 112;
                sound.then(|| (40, self.word(4)))
            }
        }
    }

    fn ttl(&self) -> u8 {
        self.bytes[if self.ether_type == 0x0800 { 8 } else { 7 }]
    }

    fn source(&self) -> [u8; 16] {
        match self.bytes.get(12..16) {
            Some(&[a, b, c, d]) if self.ether_type == 0x0800 => widen([a, b, c, d]),
            _ => self.bytes[8..24].try_into().expect("16 bytes"),
        }
    }

    fn destination(&self) -> [u8; 16] {
        match self.bytes.get(16..20) {
            Some(&[a, b, c, d]) if self.ether_type == 0x0800 => widen([a, b, c, d]),
            _ => self.bytes[24..40].try_into().expect("16 bytes"),
        }
    }
}

impl Setting {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn ingress(&self) -> Ingress {
        Ingress {
            ifindex: IFINDEX,
            stripped_tag: self.has(TAG_WAS_STRIPPED).then_some(self.stripped),
        }
    }

    /// Removes at most two tags, including the stripped one.
    fn unwrap<'a>(&self, frame: &'a [u8]) -> Option<Packet<'a>> {
        let mut ids: Vec<u16> = self.ingress().stripped_tag.into_iter().collect();
        let mut offset = 14;
        let mut ether_type = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
        while is_tag(ether_type) && ids.len() < 2 {
            let &[t0, t1, e0, e1] = frame.get(offset..offset + 4)? else {
                return None;
            };
            ids.push(u16::from_be_bytes([t0, t1]));
            ether_type = u16::from_be_bytes([e0, e1]);
            offset += 4;
        }
        let mut named = ids.iter().map(|id| id & 0xfff).filter(|id| *id != 0);
        Some(Packet {
            ether_type,
            tags: [named.next().unwrap_or(0), named.next().unwrap_or(0)],
            bytes: &frame[offset..],
            offset,
        })
    }

    fn authenticator(&self, password: u8) -> Authenticator {
        let password: &[u8] = if password & 1 == 0 { b"love" } else { b"hate" };
        let key = Key::new(password).expect("short enough");
        let addresses = AddressSet::new(
            ["10.9.0.100", "fe80::100"].map(|text| text.parse().expect("an address")),
        );
        let vhid = Vhid::new(self.vhid.max(1)).expect("not 0");
        Authenticator::new(&key, vhid, &addresses, Profile::Ucarp, None)
    }

    /// Corrects fields that are never right in random bytes.
    fn repair(&self, frame: &mut [u8]) {
        let Some(Packet {
            ether_type, offset, ..
        }) = self.unwrap(frame)
        else {
            return;
        };
        let packet = &mut frame[offset..];
        let inet_len = packet
            .first()
            .map_or(0, |first| 4 * usize::from(first & 15));
        if self.has(REPAIR_INET_CHECKSUM)
            && ether_type == 0x0800
            && inet_len >= 20
            && let Some(header) = packet.get_mut(..inet_len)
        {
            header[10..12].fill(0);
            let sum = internet_checksum(header);
            header[10..12].copy_from_slice(&sum);
        }
        let header_len = if ether_type == 0x0800 { inet_len } else { 40 };
        let payload = packet
            .get_mut(header_len..)
            .and_then(<[u8]>::first_chunk_mut::<HEADER_LEN>);
        let Some(payload) = payload else { return };
        if self.has(SIGN) {
            let counter = u64::from_be_bytes(payload[8..16].try_into().expect("8 bytes"));
            payload[16..].copy_from_slice(&self.authenticator(self.password).sign(counter));
        }
        if self.has(REPAIR_CARP_CHECKSUM) {
            payload[6..8].fill(0);
            let sum = internet_checksum(payload);
            payload[6..8].copy_from_slice(&sum);
        }
    }

    fn is_configured(&self, key: &VhostKey) -> bool {
        (self.has(EVERY_VHID) || key.vhid == self.vhid)
            && (self.has(EVERY_VLAN) || (key.vlan, key.inner_vlan) == (self.vlan & 0xfff, 0))
    }

    /// Returns what the rules expect: `None` for a frame that must pass, and otherwise whether the advertisement is
    /// sound.
    fn expected(&self, frame: &[u8], group: &[u8; 16]) -> Option<Result<(), Counter>> {
        let packet = self.unwrap(frame)?;
        let (start, said) = packet.payload()?;
        let payload = packet.bytes.get(start..).filter(|rest| rest.len() >= 4)?;
        let is_vrrp = packet.family() == Some(Family::Inet) && payload[0] == 0x31;
        if said != HEADER_LEN || payload[3] != 7 || payload[1] == 0 || is_vrrp {
            return None;
        }
        packet.family()?;
        let mut key = VhostKey::new(IFINDEX, packet.tags[0], Vhid::new(payload[1])?);
        key.inner_vlan = packet.tags[1];
        if !self.is_configured(&key) || packet.destination() != *group {
            return None;
        }
        Some(if packet.ttl() != 255 {
            Err(Counter::DroppedWrongTtl)
        } else {
            match Advertisement::parse(payload) {
                Ok(_) => Ok(()),
                Err(DropReason::ShortPacket) => Err(Counter::DroppedShortPacket),
                Err(DropReason::BadChecksum) => Err(Counter::DroppedBadChecksum),
                Err(DropReason::BadVersion) => Err(Counter::DroppedBadVersion),
                Err(reason) => panic!("{reason:?} was excluded before"),
            }
        })
    }

    fn check_verdict(&self, frame: &[u8]) {
        let mut group = GROUPS[usize::from(self.group) % GROUPS.len()];
        if group == [0; 16]
            && let Some(packet) = self.unwrap(frame)
            && packet.payload().is_some()
        {
            group = packet.destination();
        }
        // A group belongs to the family of its virtual host: an IPv6 group is never compared with an IPv4
        // destination.
        if self
            .unwrap(frame)
            .is_some_and(|packet| packet.ether_type == 0x0800)
        {
            group[4..].fill(0);
        }
        let mut value = VhostValue {
            keys: SLOT,
            ledger: LEDGER,
            ledger6: LEDGER6,
            ..VhostValue::NONE
        };
        value = value.hearing(inet(group).into(), None);
        value = value.hearing(Ipv6Addr::from(group).into(), None);
        if self.has(FROM_US)
            && let Some(packet) = self.unwrap(frame)
            && packet.payload().is_some()
        {
            value.own_source = inet(packet.source()).octets();
            value.own_source6 = packet.source();
        }
        let asked = Cell::new(None);
        let verdict = classify(frame, self.ingress(), |key| {
            asked.set(Some(*key));
            self.is_configured(key).then_some(&value)
        });
        let expected = self.expected(frame, &group);
        match verdict {
            Verdict::Foreign => assert_eq!(asked.get(), None),
            Verdict::Pass { counter, ledger } => {
                assert!(counter.name().starts_with("passed-"), "{counter:?}");
                if counter == Counter::PassedUnicast {
                    let packet = self.unwrap(frame).expect("it was parsed");
                    let first = packet.destination()[0];
                    let to_all = match packet.family() {
                        Some(Family::Inet) => first >= 0xe0,
                        Some(Family::Inet6) | None => first == 0xff,
                    };
                    assert!(frame[0] & 1 == 0 && !to_all && packet.destination() != group);
                }
                let unknown =
                    [Counter::PassedUnknownVhid, Counter::PassedOtherVlan].contains(&counter);
                assert!(!unknown || asked.get().is_some_and(|key| !self.is_configured(&key)));
                // A packet for a virtual host is counted in its ledger. A malformed one may be.
                if counter != Counter::PassedMalformed {
                    let meant = [Counter::PassedUnicast, Counter::PassedOtherGroup];
                    assert_eq!(ledger != 0, meant.contains(&counter), "{counter:?}");
                }
            }
            Verdict::Vrrp { same_vhid } => {
                let key = asked.get().expect("to know whether the vhid is ours");
                assert_eq!(same_vhid.is_some(), self.is_configured(&key));
            }
            Verdict::Drop { matched, reason } => {
                assert_eq!(expected, Some(Err(reason)));
                assert_eq!((Some(matched.key), matched.vhost.keys), (asked.get(), SLOT));
                assert_eq!(matched.ledger(), ledger_of(matched.family));
            }
            Verdict::Deliver {
                matched,
                unicast,
                own,
            } => {
                assert_eq!(expected, Some(Ok(())));
                assert_eq!((Some(matched.key), matched.vhost.keys), (asked.get(), SLOT));
                assert_eq!(matched.ledger(), ledger_of(matched.family));
                let event = matched.event(frame, 7).expect("the same frame");
                assert_eq!((event.key, event.arrival_ns), (matched.key, 7));
                assert_eq!(event.destination, group);
                assert_eq!(matched.source(frame), Some(event.source));
                assert_eq!(event.ethernet_source, frame[6..12]);
                assert_eq!(own, self.has(FROM_US) && event.source != [0; 16]);
                let to_all = match matched.family {
                    Family::Inet => group[0] >= 0xe0,
                    Family::Inet6 => group[0] == 0xff,
                };
                assert_eq!(unicast, frame[0] & 1 == 0 && !to_all);
                let advertisement = Advertisement::parse(event.payload()).expect("it was checked");
                assert_eq!(advertisement.vhid.get(), event.key.vhid);
                let ours = self.authenticator(0);
                assert_eq!(
                    is_authentic(&KernelKeys::new(ours.digests()), event.header()),
                    ours.verify(advertisement.counter, &advertisement.digest)
                );
            }
        }
        let for_us = matches!(verdict, Verdict::Drop { .. } | Verdict::Deliver { .. });
        assert_eq!(for_us, expected.is_some(), "{verdict:?}, {expected:?}");
    }

    /// Checks the addresses that the fence looks up: the one that the frame asks for, and the one that it speaks for.
    fn check_claims(&self, frame: &[u8]) {
        let every_packet = self.has(FENCE_ALL);
        let carried = Carried::find(frame, self.ingress());
        let packet = self.unwrap(frame);
        assert_eq!(carried.is_some(), packet.is_some());
        let (Some(carried), Some(packet)) = (carried, packet) else {
            return;
        };
        assert_eq!(
            carried.claimed_address(frame, every_packet),
            asked_for(&packet, every_packet)
        );
        assert_eq!(
            spoken_address(packet.bytes, packet.ether_type, IFINDEX, every_packet),
            spoken_for(&packet, every_packet)
        );
        self.check_claims_behind_more_tags(carried, packet, frame);
    }

    /// Checks the same behind all the tags that the fence looks behind.
    fn check_claims_behind_more_tags(
        &self,
        carried: Carried,
        mut packet: Packet<'_>,
        frame: &[u8],
    ) {
        let mut left = Carried::TAGS_MAX - 2;
        let inside = carried.behind_more_tags(frame);
        while is_tag(packet.ether_type) && left > 0 {
            let Some(([_, _, high, low], bytes)) = packet.bytes.split_first_chunk() else {
                assert!(inside.is_none());
                return;
            };
            packet.ether_type = u16::from_be_bytes([*high, *low]);
            packet.bytes = bytes;
            left -= 1;
        }
        let inside = inside.expect("the frame goes on");
        assert_eq!(inside.has_more_tags(), is_tag(packet.ether_type));
        let every_packet = self.has(FENCE_ALL);
        assert_eq!(
            inside.claimed_address(frame, every_packet),
            asked_for(&packet, every_packet)
        );
    }
}

fn asked_for(packet: &Packet<'_>, every_packet: bool) -> Option<FenceSubject> {
    match packet.ether_type {
        0x0806 => {
            let mut ethernet = packet.bytes.get(..28)?.to_vec();
            // Linux also answers the hardware type of IEEE 802.
            if ethernet[..2] == [0, 6] {
                ethernet[1] = 1;
            }
            Arp::parse(&ethernet)
                .filter(|arp| arp.operation == Operation::Request)
                .map(|arp| claim(arp.target_ip, true))
        }
        0x0800 if every_packet => inet_at(packet.bytes, 16).map(|it| claim(it, false)),
        0x86dd if is_icmp6(packet, 135) => inet6_at(packet.bytes, 48).map(|it| claim(it, true)),
        0x86dd if every_packet => inet6_at(packet.bytes, 24).map(|it| claim(it, false)),
        _ => None,
    }
}

fn spoken_for(packet: &Packet<'_>, every_packet: bool) -> Option<FenceSubject> {
    let bytes = packet.bytes;
    match packet.ether_type {
        0x0806 => {
            let is_inet = bytes.get(2..4)? == [8, 0] && bytes.get(5) == Some(&4);
            let sender = 8 + usize::from(*bytes.get(4)?);
            (is_inet && bytes.len() >= 8)
                .then(|| inet_at(bytes, sender).map(|it| claim(it, true)))
                .flatten()
        }
        0x0800 if every_packet => inet_at(bytes, 12).map(|it| claim(it, false)),
        0x86dd => {
            let asks = is_icmp6(packet, 135);
            let tells = is_icmp6(packet, 136);
            if !asks && !tells && !every_packet {
                return None;
            }
            let source = inet6_at(bytes, 8)?;
            let target = tells || asks && source.is_unspecified();
            let address = if target { inet6_at(bytes, 48)? } else { source };
            Some(claim(address, asks || tells))
        }
        _ => None,
    }
}

fn claim(address: impl Into<IpAddr>, resolves: bool) -> FenceSubject {
    let key = AddressKey::new(address.into(), IFINDEX);
    FenceSubject { key, resolves }
}

fn is_icmp6(packet: &Packet<'_>, kind: u8) -> bool {
    packet.bytes.get(6) == Some(&58) && packet.bytes.get(40) == Some(&kind)
}

fn inet_at(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = packet.get(offset..offset + 4)?.try_into().ok()?;
    Some(bytes.into())
}

fn inet6_at(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = packet.get(offset..offset + 16)?.try_into().ok()?;
    Some(bytes.into())
}
