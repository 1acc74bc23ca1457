//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use super::ether::{self, MacAddress};

/// Size of an ARP packet for IPv4 over Ethernet. Unit: bytes.
pub const PACKET_LEN: usize = 28;
/// Size of the frame with an untagged Ethernet header. Unit: bytes. Drivers pad it to the 60 bytes that Ethernet
/// requires.
pub const FRAME_LEN: usize = ether::HEADER_LEN + PACKET_LEN;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
/// The same with hardware type IEEE 802, which hosts on Ethernet accept as well (Linux: `arp_process`,
/// net/ipv4/arp.c).
const IEEE802_IPV4: [u8; 6] = [0, 6, 0x08, 0x00, 6, 4];

/// The bytes after the packet in carpd's announcements, where others have padding. They mean that the sender is a
/// CARP MASTER.
pub const MARK: [u8; 4] = *b"CARP";
/// Size of an announcement, padded to what Ethernet requires. Unit: bytes.
pub const ANNOUNCEMENT_LEN: usize = 60;

/// The first bytes of a request: hardware and protocol types, and the operation.
pub const REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
/// The same with the hardware type of IEEE 802 networks, which Linux also answers on Ethernet (`arp_process`).
pub const REQUEST_IEEE802: [u8; 8] = [0, 6, 0x08, 0x00, 6, 4, 0, 1];
/// Offset of the addresses, which begin with the sender's hardware address.
pub const ADDRESSES_OFFSET: usize = 8;
/// Offset of the target's address.
pub const TARGET_IP_OFFSET: usize = 24;

/// The operation of an ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The sender asks for the target address.
    Request,
    /// The sender has the sender address.
    Reply,
    /// Any other operation. Linux ignores it, but the BSDs learn the sender from it.
    Other([u8; 2]),
}

/// One ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// The operation.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: MacAddress,
    /// Address of the sender.
    pub sender_ip: Ipv4Addr,
    /// The hardware address that the packet asks for, or that of the receiver.
    pub target_mac: MacAddress,
    /// The address that the packet asks for, or that of the receiver.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Decodes an Ethernet payload and ignores padding. Returns `None` for address types that no host on Ethernet
    /// accepts.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (types, rest) = bytes
            .first_chunk::<PACKET_LEN>()?
            .split_first_chunk::<6>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender_ip, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk::<6>()?;
        let (target_ip, _) = rest.split_first_chunk::<4>()?;
        if *types != ETHERNET_IPV4 && *types != IEEE802_IPV4 {
            return None;
        }
        Some(Self {
            operation: match operation {
                [0, 1] => Operation::Request,
                [0, 2] => Operation::Reply,
                other => Operation::Other(*other),
            },
            sender_mac: MacAddress(*sender_mac),
            sender_ip: Ipv4Addr::from(*sender_ip),
            target_mac: MacAddress(*target_mac),
            target_ip: Ipv4Addr::from(*target_ip),
        })
    }

    /// Writes every byte of the packet, with hardware type Ethernet.
    pub fn emit(&self, buffer: &mut [u8; PACKET_LEN]) {
        buffer[..6].copy_from_slice(&ETHERNET_IPV4);
        buffer[6..8].copy_from_slice(&match self.operation {
            Operation::Request => [0, 1],
            Operation::Reply => [0, 2],
            Operation::Other(operation) => operation,
        });
        buffer[8..14].copy_from_slice(&self.sender_mac.0);
        buffer[14..18].copy_from_slice(&self.sender_ip.octets());
        buffer[18..24].copy_from_slice(&self.target_mac.0);
        buffer[24..].copy_from_slice(&self.target_ip.octets());
    }
}

/// Returns the broadcast frame that announces on a link which host has `address` now.
///
/// It is the one of ucarp 1.5.2 (`garp.c`, `gratuitous_arp`): a request whose sender and target are both the virtual
/// address at the interface's own MAC address. Hosts that learn from requests and hosts that learn from the sender
/// fields both learn it.
#[must_use]
pub fn gratuitous_frame(interface: MacAddress, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    broadcast_frame(&Arp {
        operation: Operation::Request,
        sender_mac: interface,
        sender_ip: address,
        target_mac: interface,
        target_ip: address,
    })
}

/// Returns [`gratuitous_frame`] with carpd's [`MARK`].
#[must_use]
pub fn announcement_frame(interface: MacAddress, address: Ipv4Addr) -> [u8; ANNOUNCEMENT_LEN] {
    let mut frame = [0; ANNOUNCEMENT_LEN];
    let bytes = gratuitous_frame(interface, address);
    for (to, from) in frame.iter_mut().zip(bytes.into_iter().chain(MARK)) {
        *to = from;
    }
    frame
}

/// Returns the broadcast frame that asks which host has `address`. It names no sender, and therefore changes no
/// host's table (RFC 5227, 2.1.1).
#[must_use]
pub fn probe_frame(interface: MacAddress, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    broadcast_frame(&Arp {
        operation: Operation::Request,
        sender_mac: interface,
        sender_ip: Ipv4Addr::UNSPECIFIED,
        target_mac: MacAddress([0; 6]),
        target_ip: address,
    })
}

fn broadcast_frame(arp: &Arp) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    if let Some((header, packet)) = frame.split_first_chunk_mut() {
        ether::Header {
            destination: MacAddress::BROADCAST,
            source: arp.sender_mac,
            ether_type: ether::TYPE_ARP,
        }
        .emit(header);
        if let Some(packet) = packet.first_chunk_mut() {
            arp.emit(packet);
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

    #[test]
    fn gratuitous_frame_matches_what_ucarp_sends() {
        assert_eq!(
            gratuitous_frame(MAC, ADDRESS),
            [
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x08, 0x06, // Ethernet
                0, 1, 0x08, 0x00, 6, 4, 0, 1, // request
                2, 0, 0, 0, 0, 9, 192, 0, 2, 10, // sender
                2, 0, 0, 0, 0, 9, 192, 0, 2, 10, // target
            ]
        );
    }

    #[test]
    fn a_probe_names_no_sender() {
        let frame = probe_frame(MAC, ADDRESS);
        assert_eq!(
            frame[..12],
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9]
        );
        let probe = Arp::parse(&frame[ether::HEADER_LEN..]).unwrap();
        assert_eq!(probe.operation, Operation::Request);
        assert_eq!(
            (probe.sender_mac, probe.sender_ip),
            (MAC, Ipv4Addr::UNSPECIFIED)
        );
        assert_eq!(
            (probe.target_mac, probe.target_ip),
            (MacAddress([0; 6]), ADDRESS)
        );
    }

    #[test]
    fn an_announcement_is_a_padded_gratuitous_frame_with_a_mark() {
        let frame = announcement_frame(MAC, ADDRESS);
        assert_eq!(frame[..FRAME_LEN], gratuitous_frame(MAC, ADDRESS));
        assert_eq!(frame[FRAME_LEN..FRAME_LEN + 4], *b"CARP");
        assert_eq!(frame[FRAME_LEN + 4..], [0; 14]);
    }

    #[test]
    fn packets_round_trip_and_ignore_padding() {
        for operation in [
            Operation::Request,
            Operation::Reply,
            Operation::Other([0, 9]),
        ] {
            let arp = Arp {
                operation,
                sender_mac: MAC,
                sender_ip: ADDRESS,
                target_mac: MacAddress([7; 6]),
                target_ip: Ipv4Addr::new(198, 51, 100, 3),
            };
            let mut bytes = [0xa5; PACKET_LEN + 18];
            arp.emit(bytes.first_chunk_mut().unwrap());
            assert_eq!(Arp::parse(&bytes), Some(arp));
        }
    }

    #[test]
    fn every_arp_frame_that_a_host_on_ethernet_believes_is_parsed() {
        let frame = gratuitous_frame(MAC, ADDRESS);
        let mut packet: [u8; PACKET_LEN] = *frame.last_chunk().unwrap();
        let ethernet = Arp::parse(&packet).unwrap();
        packet[1] = 6;
        assert_eq!(Arp::parse(&packet), Some(ethernet));
        packet[1] = 7;
        assert_eq!(Arp::parse(&packet), None);
    }

    #[test]
    fn other_types_and_lengths_are_refused() {
        let frame = gratuitous_frame(MAC, ADDRESS);
        let packet = &frame[ether::HEADER_LEN..];
        for length in 0..PACKET_LEN {
            assert_eq!(Arp::parse(&packet[..length]), None, "{length} bytes");
        }
        for offset in 0..6 {
            let mut bytes = [0; PACKET_LEN];
            bytes.copy_from_slice(packet);
            bytes[offset] ^= 0x40;
            assert_eq!(Arp::parse(&bytes), None, "byte {offset}");
        }
    }
}
