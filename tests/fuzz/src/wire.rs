//! Fuzzes every parser of wire bytes. What a parser accepts, it must be able to write again, and its values must be
//! those of the bytes.
//!
//! Input: all parsers get the same bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use carp_common::abi::event::{AdvertisementEvent, PAYLOAD_MAX};
use carp_common::abi::layout::FAMILY_INET6;
use carp_common::drop_reason::DropReason;
use carp_common::units::Profile;
use carp_common::wire::advertisement::{self, Advertisement, HEADER_LEN};
use carp_common::wire::arp::{self, Arp, Operation};
use carp_common::wire::checksum::{inet6_checksum, internet_checksum};
use carp_common::wire::discovery::{self, Neighbour};
use carp_common::wire::ether::{self, MacAddress, VlanTags};
use carp_common::wire::frame::{FRAME_LEN, InetFrame, ethernet_destination};
use carp_common::wire::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4Header, Ipv4Packet, Ipv6Header};

/// Runs one input; see the module.
pub fn target(data: &[u8]) {
    checksum(data);
    advertisement(data);
    arp(data);
    discovery(data);
    ether(data);
    inet(data);
    inet6(data);
    frame(data);
    event(data);
}

/// Computes the checksum of RFC 1071 literally, with 64 bits and in network order.
fn plain_checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

fn checksum(data: &[u8]) {
    assert_eq!(internet_checksum(data), plain_checksum(data));
}

fn advertisement(data: &[u8]) {
    let parsed = Advertisement::parse(data);
    let Some(header) = data.first_chunk::<HEADER_LEN>() else {
        assert_eq!(parsed, Err(DropReason::ShortPacket));
        return;
    };
    // The same header with a right checksum, so that every input also reaches the later checks.
    let mut summed = *header;
    summed[6..8].fill(0);
    let sum = plain_checksum(&summed);
    summed[6..8].copy_from_slice(&sum);
    assert!(advertisement::checksum_is_valid(&summed));
    if !advertisement::checksum_is_valid(header) {
        assert_eq!(parsed, Err(DropReason::BadChecksum));
    }
    match Advertisement::parse(&summed) {
        Ok(value) => {
            let mut written = [0xa5; HEADER_LEN];
            value.emit(&mut written);
            assert_eq!(written, summed);
        }
        Err(DropReason::BadVersion) => assert_ne!(summed[0], 0x21),
        Err(DropReason::BadAuthLength) => assert_ne!(summed[3], 7),
        Err(DropReason::BadVhid) => assert_eq!(summed[1], 0),
        Err(reason) => {
            panic!("{reason:?} of a whole header with a checksum that holds")
        }
    }
}

fn arp(data: &[u8]) {
    let Some(parsed) = Arp::parse(data) else {
        return;
    };
    let mut written = [0xa5; arp::PACKET_LEN];
    parsed.emit(&mut written);
    assert!(data[1] == 1 || data[1] == 6, "hardware type");
    assert_eq!(written[2..], data[2..arp::PACKET_LEN]);
    assert_eq!(
        written.starts_with(&arp::REQUEST),
        parsed.operation == Operation::Request
    );

    let frame = arp::gratuitous_frame(parsed.sender_mac, parsed.sender_ip);
    let announced = Arp::parse(&frame[ether::HEADER_LEN..]).expect("an ARP packet");
    assert_eq!(announced.sender_ip, announced.target_ip);
    assert_eq!(announced.sender_mac, parsed.sender_mac);
}

fn ether(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        let parsed = ether::Header::parse(header);
        let mut written = [0xa5; ether::HEADER_LEN];
        parsed.emit(&mut written);
        assert_eq!(written, *header);
        assert_eq!(
            parsed.destination.to_string().len(),
            "00:00:5e:00:01:01".len()
        );
    }
    let (words, _) = data.as_chunks::<2>();
    let mut tags = VlanTags::default();
    let mut named = Vec::new();
    for word in words.iter().take(4) {
        tags.push(u16::from_be_bytes(*word));
        named.extend(Some(u16::from_be_bytes(*word) & 0xfff).filter(|id| *id != 0));
    }
    assert_eq!(tags.outer, named.first().copied().unwrap_or(0));
    assert_eq!(tags.inner, named.get(1).copied().unwrap_or(0));
}

fn inet(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<IPV4_HEADER_LEN>() else {
        return;
    };
    let Some(header) = Ipv4Header::parse(bytes) else {
        return;
    };
    assert!((20..=60).contains(&header.header_len));
    assert_eq!(header.header_len + header.payload_len(), header.total_len);
    if header.header_len != IPV4_HEADER_LEN || header.is_fragment || !header.dont_fragment {
        return;
    }
    let mut written = [0xa5; IPV4_HEADER_LEN];
    Ipv4Packet {
        tos: header.tos,
        payload_len: u16::try_from(header.payload_len()).expect("from 16 bits"),
        identification: header.identification,
        ttl: header.ttl,
        protocol: header.protocol,
        source: header.source,
        destination: header.destination,
    }
    .emit(&mut written);
    assert_eq!(plain_checksum(&written), [0, 0]);
    assert_eq!(Ipv4Header::parse(&written), Some(header));
}

fn inet6(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<IPV6_HEADER_LEN>() else {
        return;
    };
    let parsed = Ipv6Header::parse(bytes);
    assert_eq!(parsed.is_some(), bytes[0] >> 4 == 6);
    if let Some(header) = parsed {
        assert_eq!(header.source.octets(), bytes[8..24]);
        assert_eq!(header.destination.octets(), bytes[24..40]);
    }
}

/// The frame built from the bytes must contain them.
fn frame(data: &[u8]) {
    let Some((fields, payload)) = data
        .split_first_chunk::<18>()
        .and_then(|(fields, rest)| Some((fields, rest.first_chunk()?)))
    else {
        return;
    };
    let [
        profile,
        broadcast,
        i0,
        i1,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
        mac @ ..,
    ] = *fields;
    let destination = Ipv4Addr::new(d0, d1, d2, d3);
    let ours = InetFrame {
        profile: [Profile::Ucarp, Profile::FreeBsd, Profile::OpenBsd][usize::from(profile) % 3],
        ethernet_source: MacAddress(mac),
        ethernet_destination: ethernet_destination(destination.into(), broadcast & 1 != 0),
        source: Ipv4Addr::new(s0, s1, s2, s3),
        destination,
        identification: u16::from_be_bytes([i0, i1]),
    };
    let mut frame = [0xa5; FRAME_LEN];
    ours.emit(payload, &mut frame);
    let (header, packet) = frame.split_first_chunk().expect("an Ethernet header");
    let header = ether::Header::parse(header);
    assert_eq!(header.source, ours.ethernet_source);
    assert!(header.destination.is_group());
    let (ip, rest) = packet.split_first_chunk().expect("an IPv4 header");
    assert_eq!(plain_checksum(ip), [0, 0]);
    let ip = Ipv4Header::parse(ip).expect("an IPv4 header");
    assert_eq!((ip.source, ip.destination), (ours.source, ours.destination));
    assert_eq!((ip.ttl, ip.protocol), (255, 112));
    assert_eq!(rest.len(), ip.payload_len());
    assert_eq!(rest, payload);
}

fn discovery(data: &[u8]) {
    // The same message with what every genuine one has, so that every input also reaches the options.
    let mut genuine = data.to_vec();
    if let Some((header, message)) = genuine.split_first_chunk_mut::<IPV6_HEADER_LEN>()
        && let Ok(length) = u16::try_from(message.len())
        && let [kind, code, c0, c1, ..] = message
    {
        header[0] = 0x60;
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header[6..8].copy_from_slice(&[discovery::ICMPV6, discovery::HOP_LIMIT]);
        *kind = discovery::SOLICITATION + (*kind & 1);
        [*code, *c0, *c1] = [0; 3];
        let mut covered = header[8..].to_vec();
        covered.extend(u32::from(length).to_be_bytes());
        covered.extend([0, 0, 0, discovery::ICMPV6]);
        covered.extend_from_slice(message);
        let sum = plain_checksum(&covered);
        message[2..4].copy_from_slice(&sum);
        let ip = Ipv6Header::parse(header).expect("an IPv6 header");
        let sum = inet6_checksum(ip.source, ip.destination, discovery::ICMPV6, message);
        assert_eq!(sum, [0, 0]);
    }
    for packet in [data, &genuine] {
        let Some(learned) = Neighbour::parse(packet) else {
            continue;
        };
        let ip = Ipv6Header::parse(packet.first_chunk().expect("a header")).expect("IPv6");
        let target = <[u8; 16]>::try_from(&packet[48..64]).expect("16 bytes");
        assert!([ip.source, target.into()].contains(&learned.address));
        let frame = discovery::announcement_frame(learned.station, learned.address, false);
        assert_eq!(Neighbour::parse(&frame[ether::HEADER_LEN..]), Some(learned));
    }
}

fn event(data: &[u8]) {
    const HEAD_LEN: usize = AdvertisementEvent::HEAD_LEN;
    // The record gets the right length of its payload, because few inputs would have it.
    let mut named = data.to_vec();
    let length = u16::try_from(data.len().saturating_sub(HEAD_LEN)).unwrap_or(u16::MAX);
    if let Some(field) = named.get_mut(22..24) {
        field.copy_from_slice(&length.to_ne_bytes());
    }
    for record in [data, &named] {
        let event = AdvertisementEvent::from_bytes(record);
        let payload = record.get(HEAD_LEN..).filter(|payload| {
            payload.len() <= PAYLOAD_MAX && u16::from_ne_bytes([record[22], record[23]]) == length
        });
        assert_eq!(event.is_some(), payload.is_some());
        let (Some(event), Some(payload)) = (event, payload) else {
            continue;
        };
        assert_eq!(event.arrival_ns.to_ne_bytes(), record[..8]);
        assert_eq!(event.key.vhid, record[16]);
        assert_eq!(event.payload(), payload);
        assert_eq!(event.header()[..], event.payload[..HEADER_LEN]);
        let source = &record[24..40];
        if event.family == FAMILY_INET6 {
            let source: [u8; 16] = source.try_into().expect("16 bytes");
            assert_eq!(event.source_address(), Ipv6Addr::from(source));
        } else {
            let source: [u8; 4] = source[..4].try_into().expect("4 bytes");
            assert_eq!(event.source_address(), Ipv4Addr::from(source));
        }
        assert_eq!(event.carried_by().is_some(), matches!(event.family, 4 | 6));
    }
}
