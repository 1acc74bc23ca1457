//! The frames on which the program runs.

use std::net::Ipv4Addr;

use carp_common::proto::{AddressSet, Authenticator, Key};
use carp_common::units::{AdvBase, AdvSkew, Demotion, Profile, Vhid};
use carp_common::wire::advertisement::{Advertisement, HEADER_LEN};
use carp_common::wire::arp::{Arp, Operation, PACKET_LEN};
use carp_common::wire::checksum::internet_checksum;
use carp_common::wire::ether::MacAddress;
use carp_common::wire::frame::{FRAME_LEN, InetFrame, ethernet_destination};

pub const VHID: u8 = 7;
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Our own address, to which a peer may send instead of the group; and the group of vhid 8.
pub const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// IP header and CARP header of an untagged IPv4 frame.
pub const IP: usize = 14;
pub const CARP: usize = 34;

pub const GROUP6: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];

/// The first counter of genuine advertisements.
pub const COUNTER: u64 = 0x0102_0304_0506_0708;

/// Creates and recognises the digests of a virtual host.
pub fn authenticator(vhid: u8, addresses: &[&str]) -> Authenticator {
    let addresses = AddressSet::new(addresses.iter().map(|text| text.parse().unwrap()));
    let vhid = Vhid::new(vhid).unwrap();
    let key = Key::new(b"password").unwrap();
    Authenticator::new(&key, vhid, &addresses, Profile::Ucarp, None)
}

/// The addresses of every virtual host here, in two forms: with and without the link-local address.
pub const ADDRESSES: [&str; 2] = ["192.0.2.100", "fe80::100"];

pub fn authentic(vhid: u8, counter: u64) -> Advertisement {
    Advertisement {
        vhid: Vhid::new(vhid).unwrap(),
        advskew: AdvSkew(100),
        demotion: Demotion(0),
        advbase: AdvBase(1),
        counter,
        digest: authenticator(vhid, &ADDRESSES).sign(counter),
    }
}

pub fn emitted(advertisement: &Advertisement) -> [u8; HEADER_LEN] {
    let mut payload = [0xa5; HEADER_LEN];
    advertisement.emit(&mut payload);
    payload
}

pub fn payload(vhid: u8) -> [u8; HEADER_LEN] {
    emitted(&authentic(vhid, COUNTER))
}

/// An untagged IPv4 frame with the advertisement.
pub fn carrying(advertisement: &Advertisement) -> Vec<u8> {
    let mut frame = genuine();
    frame.splice(CARP.., emitted(advertisement));
    frame
}

/// A genuine IPv4 advertisement.
pub fn advertisement(vhid: u8, destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = [0xa5; FRAME_LEN];
    InetFrame {
        profile: Profile::Ucarp,
        ethernet_source: MacAddress::virtual_host(Profile::Ucarp, Vhid::new(vhid).unwrap()),
        ethernet_destination: if destination.is_multicast() {
            ethernet_destination(destination.into(), false)
        } else {
            MacAddress([2, 0, 0, 0, 0, 2])
        },
        source: SOURCE,
        destination,
        identification: 0x1234,
    }
    .emit(&payload(vhid), &mut frame);
    frame.to_vec()
}

pub fn genuine() -> Vec<u8> {
    advertisement(VHID, GROUP)
}

/// A genuine IPv6 advertisement.
pub fn genuine6() -> Vec<u8> {
    let mut frame = vec![
        0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, VHID, 0x86, 0xdd,
    ];
    frame.extend([0x60, 0, 0, 0, 0, 36, 112, 255]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend(GROUP6);
    frame.extend(payload(VHID));
    frame
}

/// A TCP segment, traffic that must not be affected.
pub fn tcp() -> Vec<u8> {
    let mut frame = advertisement(VHID, OURS);
    frame[IP + 9] = 6;
    resum_ip(&mut frame);
    frame
}

/// The same over IPv6.
pub fn tcp6() -> Vec<u8> {
    let mut frame = genuine6();
    frame[20] = 6;
    frame
}

pub fn resum_ip(frame: &mut [u8]) {
    let header_len = usize::from(frame[IP] & 0x0f) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let sum = internet_checksum(&frame[IP..IP + header_len]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum);
}

pub fn resum_carp(frame: &mut [u8]) {
    frame[CARP + 6..CARP + 8].fill(0);
    let sum = internet_checksum(&frame[CARP..]);
    frame[CARP + 6..CARP + 8].copy_from_slice(&sum);
}

/// The same frame with a byte of its IP header changed, and a header checksum that holds.
pub fn with_ip_byte(mut frame: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    frame[IP + offset] = value;
    resum_ip(&mut frame);
    frame
}

/// The same frame inside VLAN tags, the first outermost.
pub fn tagged(mut frame: Vec<u8>, tags: &[[u8; 4]]) -> Vec<u8> {
    for tag in tags.iter().rev() {
        frame.splice(12..12, *tag);
    }
    frame
}

/// The same frame with IP options of a whole number of words in front of its payload.
pub fn with_options(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    frame.splice(CARP..CARP, options.iter().copied());
    frame[IP] += u8::try_from(options.len() / 4).unwrap();
    frame[IP + 3] += u8::try_from(options.len()).unwrap();
    resum_ip(&mut frame);
    frame
}

/// A VRRP packet of a version, with some addresses, for VRID 7 or another.
pub fn vrrp(version: u8, vrid: u8, addresses: u8, len: usize) -> Vec<u8> {
    let mut frame = genuine();
    frame.truncate(CARP);
    frame.extend([version << 4 | 1, vrid, 100, addresses]);
    frame.resize(CARP + len, 0x5a);
    with_ip_byte(frame, 3, u8::try_from(20 + len).unwrap())
}

/// An ARP packet.
pub fn arp(operation: Operation, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = [0xa5; PACKET_LEN];
    Arp {
        operation,
        sender_mac: MacAddress([2, 0, 0, 0, 0, 9]),
        sender_ip: sender,
        target_mac: MacAddress([0; 6]),
        target_ip: target,
    }
    .emit(&mut packet);
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 8, 6]);
    frame.extend(packet);
    // Padded, as by a driver.
    frame.resize(60, 0);
    frame
}
