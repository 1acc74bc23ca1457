//! The sending side of one interface: advertisements and announcements, and the multicast groups it listens to.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use carp_common::units::{Profile, Vhid};
use carp_common::wire::advertisement;
use carp_common::wire::arp;
use carp_common::wire::ether::MacAddress;
use carp_common::wire::frame::{FRAME_LEN, InetFrame, ethernet_destination};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

use super::clock;
use super::netlink::Link;
use crate::sys;

/// Size of the send buffer. Unit: bytes, of which the kernel takes about 1 KiB for each frame. It holds an
/// advertisement and an announcement for every possible vhid, and as much again.
const SEND_BUFFER: usize = 1 << 20;

/// The headers around the advertisements of one virtual host.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Determines the Ethernet source, together with the profile.
    pub vhid: Vhid,
    /// Uses the interface's own address as the Ethernet source.
    pub own_mac: bool,
    /// Determines the Ethernet source and the type of service.
    pub profile: Profile,
    /// The IP source.
    pub source: Ipv4Addr,
    /// The IP destination.
    pub group: Ipv4Addr,
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
    groups: Vec<Ipv4Addr>,
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
    /// Returns ENOBUFS above the kernel's limit of groups per socket (`net.ipv4.igmp_max_memberships`), and any other
    /// error of `setsockopt(2)`.
    pub fn join(&mut self, group: Ipv4Addr) -> io::Result<()> {
        if self.groups.contains(&group) {
            return Ok(());
        }
        // There are two memberships. The IGMP one makes snooping switches forward the group to us. The link-level one
        // keeps the device's filter open even where the IP stack has left the interface (a bridge or bond port).
        sys::join_link_group(
            self.packets.as_fd(),
            self.ifindex,
            MacAddress::multicast_inet(group).0,
        )?;
        self.membership
            .join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.ifindex))?;
        self.groups.push(group);
        Ok(())
    }

    /// Stops receiving a group's packets.
    pub fn leave(&mut self, group: Ipv4Addr) {
        let before = self.groups.len();
        self.groups.retain(|joined| *joined != group);
        if self.groups.len() == before {
            return;
        }
        // Errors do not matter: the kernel ends what is left of a membership with the socket or the interface.
        let _ = sys::leave_link_group(
            self.packets.as_fd(),
            self.ifindex,
            MacAddress::multicast_inet(group).0,
        );
        let _ = self
            .membership
            .leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.ifindex));
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
        let frame = advertisement_frame(envelope, self.mac, self.identification, payload);
        self.send(&frame)
    }

    /// Announces on the link that this host has `address` now.
    ///
    /// # Errors
    /// Returns any error of `send(2)`. There is no announcement for IPv6 yet.
    pub fn announce(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.send(&arp::announcement_frame(self.mac, address)),
            IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Asks on the link which host has `address`.
    ///
    /// # Errors
    /// Returns any error of `send(2)`.
    pub fn probe(&self, address: Ipv4Addr) -> io::Result<()> {
        self.send(&arp::probe_frame(self.mac, address))
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        // A packet socket takes a frame as a whole or not at all.
        self.packets.send(frame).map(|_length| ())
    }
}

fn advertisement_frame(
    envelope: &Envelope,
    interface: MacAddress,
    identification: u16,
    payload: &[u8; advertisement::HEADER_LEN],
) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    InetFrame {
        profile: envelope.profile,
        ethernet_source: match envelope.own_mac {
            true => interface,
            false => MacAddress::virtual_host(envelope.profile, envelope.vhid),
        },
        ethernet_destination: ethernet_destination(envelope.group.into(), envelope.broadcast),
        source: envelope.source,
        destination: envelope.group,
        identification,
    }
    .emit(payload, &mut frame);
    frame
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
            source: Ipv4Addr::new(10, 0, 0, 1),
            group: Ipv4Addr::new(224, 0, 0, 18),
            broadcast: false,
        }
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
