//! The sending side of one interface: advertisements and announcements, and the multicast groups it listens to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use carp_common::units::{Profile, Vhid};
use carp_common::wire::advertisement;
use carp_common::wire::arp;
use carp_common::wire::discovery;
use carp_common::wire::ether::MacAddress;
use carp_common::wire::frame::{
    FRAME_LEN, INET6_FRAME_LEN, Inet6Frame, InetFrame, ethernet_destination,
};
use nix::net::if_::if_indextoname;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

use super::clock;
use super::netlink::Link;
use crate::sys;

/// Size of the send buffer. Unit: bytes, of which the kernel takes about 1 KiB for each frame. It holds an
/// advertisement and an announcement for every possible vhid, and as much again.
const SEND_BUFFER: usize = 1 << 20;

/// The source and the destination of an advertisement, which are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Both are IPv4 addresses.
    Inet {
        /// The IP source.
        source: Ipv4Addr,
        /// The IP destination.
        group: Ipv4Addr,
    },
    /// Both are IPv6 addresses.
    Inet6 {
        /// The IP source.
        source: Ipv6Addr,
        /// The IP destination.
        group: Ipv6Addr,
    },
}

impl Addressing {
    /// Returns `None` if the addresses are of different families.
    #[must_use]
    pub const fn new(source: IpAddr, group: IpAddr) -> Option<Self> {
        match (source, group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => Some(Self::Inet { source, group }),
            (IpAddr::V6(source), IpAddr::V6(group)) => Some(Self::Inet6 { source, group }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Returns the source.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        match *self {
            Self::Inet { source, .. } => IpAddr::V4(source),
            Self::Inet6 { source, .. } => IpAddr::V6(source),
        }
    }

    /// Returns the destination.
    #[must_use]
    pub const fn group(&self) -> IpAddr {
        match *self {
            Self::Inet { group, .. } => IpAddr::V4(group),
            Self::Inet6 { group, .. } => IpAddr::V6(group),
        }
    }
}

/// The headers around the advertisements of one virtual host.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Determines the Ethernet source, together with the profile.
    pub vhid: Vhid,
    /// Uses the interface's own address as the Ethernet source.
    pub own_mac: bool,
    /// Determines the Ethernet source, and the type of service or the traffic class.
    pub profile: Profile,
    /// The IP source and destination.
    pub addressing: Addressing,
    /// Sends the frame to every station, although the packet is addressed to the group.
    pub broadcast: bool,
}

/// The sending sockets of one interface. They live as long as that interface exists.
#[derive(Debug)]
pub struct Port {
    ifindex: u32,
    mac: MacAddress,
    /// Sends whole Ethernet frames and receives nothing.
    packets: Socket,
    /// Holds the IGMP membership. It also makes snooping switches forward the group to us.
    membership: Socket,
    /// Does the same with MLD. It is opened for the first IPv6 group, because a kernel without IPv6 has no such sockets.
    membership6: Option<Socket>,
    groups: Vec<IpAddr>,
    identification: u16,
}

impl Port {
    /// Opens the sockets.
    ///
    /// # Errors
    /// Returns EPERM without CAP_NET_RAW, ENODEV when the interface is gone, and any other error of `socket(2)` or
    /// `bind(2)`.
    pub fn open(link: &Link) -> io::Result<Self> {
        let packets = Socket::new(Domain::PACKET, Type::RAW, None)?;
        packets.set_nonblocking(true)?;
        // A size beyond net.core.wmem_max requires CAP_NET_ADMIN. Without it we get as much as any process.
        setsockopt(&packets, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_| setsockopt(&packets, sockopt::SndBuf, &SEND_BUFFER))?;
        sys::bind_to_interface(packets.as_fd(), link.index, 0)?;
        let [.., high, low] = clock::wall_clock_nanos().to_be_bytes();
        Ok(Self {
            ifindex: link.index,
            mac: MacAddress(link.mac),
            packets,
            membership: Socket::new(Domain::IPV4, Type::DGRAM, None)?,
            membership6: None,
            groups: Vec::new(),
            // The packets are never fragmented, so the identification only has to differ from packet to packet (RFC
            // 6864).
            identification: u16::from_be_bytes([high, low]),
        })
    }

    /// Returns the index of the interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Stores the interface's own address. Returns whether it changed.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> bool {
        std::mem::replace(&mut self.mac, MacAddress(mac)) != MacAddress(mac)
    }

    /// Receives a group's packets from now on: the interface's filter accepts them, and switches learn of it.
    ///
    /// # Errors
    /// Returns ENOBUFS above the kernel's limit of IPv4 groups per socket (`net.ipv4.igmp_max_memberships`),
    /// EAFNOSUPPORT for an IPv6 group on a kernel without IPv6, and any other error of `socket(2)` or `setsockopt(2)`.
    pub fn join(&mut self, group: IpAddr) -> io::Result<()> {
        if self.groups.contains(&group) {
            return Ok(());
        }
        // There are two memberships. The one of IGMP or MLD makes snooping switches forward the group to us. The link-level one
        // keeps the device's filter open even where the IP stack has left the interface (a bridge or bond port).
        sys::join_link_group(
            self.packets.as_fd(),
            self.ifindex,
            MacAddress::multicast(group).0,
        )?;
        match group {
            IpAddr::V4(group) => self
                .membership
                .join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.ifindex))?,
            IpAddr::V6(group) => {
                let membership = match self.membership6.take() {
                    Some(membership) => membership,
                    None => Socket::new(Domain::IPV6, Type::DGRAM, None)?,
                };
                let joined = membership.join_multicast_v6(&group, self.ifindex);
                self.membership6 = Some(membership);
                joined?;
            }
        }
        self.groups.push(group);
        Ok(())
    }

    /// Stops receiving a group's packets.
    pub fn leave(&mut self, group: IpAddr) {
        let before = self.groups.len();
        self.groups.retain(|joined| *joined != group);
        if self.groups.len() == before {
            return;
        }
        // Errors do not matter: the kernel ends what is left of a membership with the socket or the interface.
        let _ = sys::leave_link_group(
            self.packets.as_fd(),
            self.ifindex,
            MacAddress::multicast(group).0,
        );
        let _ = match (group, &self.membership6) {
            (IpAddr::V4(group), _) => self
                .membership
                .leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.ifindex)),
            (IpAddr::V6(group), Some(membership)) => {
                membership.leave_multicast_v6(&group, self.ifindex)
            }
            (IpAddr::V6(_), None) => Ok(()),
        };
    }

    /// Sends one advertisement.
    ///
    /// # Errors
    /// Returns any error of `send(2)`, such as ENOBUFS, ENETDOWN or ENXIO.
    pub fn send_advertisement(
        &mut self,
        envelope: &Envelope,
        payload: &[u8; advertisement::HEADER_LEN],
    ) -> io::Result<()> {
        self.identification = self.identification.wrapping_add(1);
        let frame = AdvertisementFrame::new(envelope, self.mac, self.identification, payload);
        self.send(frame.bytes())
    }

    /// Announces on the link that this host has `address` now.
    ///
    /// # Errors
    /// Returns any error of `send(2)`.
    pub fn announce(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.send(&arp::announcement_frame(self.mac, address)),
            IpAddr::V6(address) => {
                let is_router = is_router(self.ifindex);
                self.send(&discovery::announcement_frame(self.mac, address, is_router))
            }
        }
    }

    /// Asks on the link which host has `address`.
    ///
    /// # Errors
    /// Returns any error of `send(2)`.
    pub fn probe(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.send(&arp::probe_frame(self.mac, address)),
            IpAddr::V6(address) => self.send(&discovery::probe_frame(self.mac, address)),
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        // A packet socket takes a frame as a whole or not at all.
        self.packets.send(frame).map(|_length| ())
    }
}

/// Returns whether the kernel forwards IPv6 packets that arrive on an interface, as it says in its own neighbour
/// advertisements. The setting can change at any time without a notification that carpd would receive.
fn is_router(ifindex: u32) -> bool {
    let Ok(name) = if_indextoname(ifindex) else {
        return false;
    };
    let path = format!(
        "/proc/sys/net/ipv6/conf/{}/forwarding",
        name.to_string_lossy()
    );
    // 1 and 2 both mean that it does.
    std::fs::read(path).is_ok_and(|setting| !setting.starts_with(b"0"))
}

/// An advertisement in either family, ready to send.
enum AdvertisementFrame {
    Inet([u8; FRAME_LEN]),
    Inet6([u8; INET6_FRAME_LEN]),
}

impl AdvertisementFrame {
    /// IPv6 has no identification.
    fn new(
        envelope: &Envelope,
        interface: MacAddress,
        identification: u16,
        payload: &[u8; advertisement::HEADER_LEN],
    ) -> Self {
        let profile = envelope.profile;
        let ethernet_source = match envelope.own_mac {
            true => interface,
            false => MacAddress::virtual_host(profile, envelope.vhid),
        };
        let group = envelope.addressing.group();
        let ethernet_destination = ethernet_destination(group, envelope.broadcast);
        match envelope.addressing {
            Addressing::Inet { source, group } => {
                let mut frame = [0; FRAME_LEN];
                InetFrame {
                    profile,
                    ethernet_source,
                    ethernet_destination,
                    source,
                    destination: group,
                    identification,
                }
                .emit(payload, &mut frame);
                Self::Inet(frame)
            }
            Addressing::Inet6 { source, group } => {
                let mut frame = [0; INET6_FRAME_LEN];
                Inet6Frame {
                    profile,
                    ethernet_source,
                    ethernet_destination,
                    source,
                    destination: group,
                }
                .emit(payload, &mut frame);
                Self::Inet6(frame)
            }
        }
    }

    const fn bytes(&self) -> &[u8] {
        match self {
            Self::Inet(frame) => frame,
            Self::Inet6(frame) => frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn envelope() -> Envelope {
        Envelope {
            vhid: Vhid::new(7).unwrap(),
            own_mac: false,
            profile: Profile::Ucarp,
            addressing: Addressing::Inet {
                source: Ipv4Addr::new(10, 0, 0, 1),
                group: Ipv4Addr::new(224, 0, 0, 18),
            },
            broadcast: false,
        }
    }

    fn advertisement_frame(
        envelope: &Envelope,
        interface: MacAddress,
        identification: u16,
        payload: &[u8; advertisement::HEADER_LEN],
    ) -> Vec<u8> {
        let frame = AdvertisementFrame::new(envelope, interface, identification, payload);
        frame.bytes().to_vec()
    }

    #[test]
    fn source_and_group_are_of_one_family() {
        let [inet, inet6] = ["10.0.0.1", "fe80::1"].map(|text| text.parse().unwrap());
        let [group, group6] = ["224.0.0.18", "ff02::12"].map(|text| text.parse().unwrap());
        for (source, group) in [(inet, group), (inet6, group6)] {
            let addressing = Addressing::new(source, group).unwrap();
            assert_eq!((addressing.source(), addressing.group()), (source, group));
        }
        assert_eq!(Addressing::new(inet, group6), None);
        assert_eq!(Addressing::new(inet6, group), None);
    }

    #[test]
    fn an_ipv6_frame_has_the_virtual_source_the_group_and_the_payload() {
        let envelope = Envelope {
            addressing: Addressing::Inet6 {
                source: "fe80::1".parse().unwrap(),
                group: advertisement::GROUP_INET6,
            },
            ..envelope()
        };
        let frame = advertisement_frame(&envelope, MAC, 1, &[0xa5; 36]);
        assert_eq!(
            frame[..14],
            [0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 0, 7, 0x86, 0xdd]
        );
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 36, 112, 255]);
        assert_eq!(frame[22..24], [0xfe, 0x80]);
        assert_eq!(frame[38..40], [0xff, 0x02]);
        assert_eq!(frame[54..], [0xa5; 36]);
        let own = Envelope {
            own_mac: true,
            broadcast: true,
            ..envelope
        };
        let own = advertisement_frame(&own, MAC, 2, &[0xa5; 36]);
        assert_eq!((&own[..6], &own[6..12]), (&[0xff; 6][..], &MAC.0[..]));
        assert_eq!(own[12..], frame[12..]);
    }

    #[test]
    fn an_interface_that_is_gone_forwards_nothing() {
        assert!(!is_router(u32::MAX));
    }

    #[test]
    fn a_frame_has_the_virtual_source_the_group_and_the_payload() {
        let frame = advertisement_frame(&envelope(), MAC, 0x1234, &[0xa5; 36]);
        assert_eq!(
            frame[..14],
            [1, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 0, 7, 8, 0]
        );
        assert_eq!(
            frame[14..24],
            [0x45, 0x10, 0, 56, 0x12, 0x34, 0x40, 0, 255, 112]
        );
        assert_eq!(frame[26..34], [10, 0, 0, 1, 224, 0, 0, 18]);
        assert_eq!(frame[34..], [0xa5; 36]);
    }

    #[test]
    fn with_the_own_mac_only_the_ethernet_source_is_another() {
        let own = Envelope {
            own_mac: true,
            ..envelope()
        };
        let mut frame = advertisement_frame(&own, MAC, 1, &[0; 36]);
        assert_eq!(frame[6..12], MAC.0);
        frame[6..12].copy_from_slice(&[0, 0, 0x5e, 0, 0, 7]);
        assert_eq!(frame, advertisement_frame(&envelope(), MAC, 1, &[0; 36]));
    }

    #[test]
    fn broadcast_changes_the_frame_but_not_the_packet() {
        let frame = advertisement_frame(
            &Envelope {
                broadcast: true,
                ..envelope()
            },
            MAC,
            1,
            &[0; 36],
        );
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[30..34], [224, 0, 0, 18]);
    }

    #[test]
    fn the_profile_shows_in_source_and_type_of_service() {
        let frame = advertisement_frame(
            &Envelope {
                profile: Profile::FreeBsd,
                ..envelope()
            },
            MAC,
            1,
            &[0; 36],
        );
        assert_eq!((frame[10], frame[15]), (1, 0xe0));
    }
}
