//! Raw frames from a host, correct or wrong in any way.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

use crate::lab::Host;
use crate::packet::{CARP_LEN, GROUP, Mac, PROTOCOL, checksum, digest};

/// Sends raw frames out of one interface of a host.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
}

impl Injector {
    /// On `eth0` of `host`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn open(host: &Host) -> Result<Self> {
        Self::open_on(host, "eth0")
    }

    /// On the named interface of `host`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened, or there is no such interface.
    pub fn open_on(host: &Host, interface: &str) -> Result<Self> {
        let socket = host.enter(|| packet_socket(interface))??;
        Ok(Self { socket })
    }

    /// On the switch port of `host`'s `eth0`: frames reach that host alone and unchanged. A frame that
    /// another host sends may change on its way, because the switch's kernel moves a VLAN tag into metadata.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn towards(host: &Host) -> Result<Self> {
        Self::towards_interface(host, "eth0")
    }

    /// The same towards another of its interfaces.
    ///
    /// # Errors
    /// As [`Injector::towards`].
    pub fn towards_interface(host: &Host, interface: &str) -> Result<Self> {
        let port = host.port(interface);
        let socket = host.switch().enter(|| packet_socket(&port))??;
        Ok(Self { socket })
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty())
            .context("failed to inject a frame")?;
        ensure!(
            sent == frame.len(),
            "only {sent} of {} bytes were sent",
            frame.len()
        );
        Ok(())
    }
}

/// The address by which bind() names an interface of the current namespace.
pub(crate) fn link_address(interface: &str) -> Result<LinkAddr> {
    // getifaddrs() gives each interface's own link-layer address.
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {interface}"))
}

/// A packet socket that sends on `interface` and receives nothing.
fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let link = link_address(interface)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )
    .context("failed to open a packet socket")?;
    bind(socket.as_raw_fd(), &link).with_context(|| format!("failed to bind to {interface}"))?;
    Ok(socket)
}

/// A CARP advertisement to send, correct except where a test changes it.
#[derive(Clone, Debug)]
pub struct Forgery {
    /// Ethernet source.
    pub ether_source: Mac,
    /// Ethernet destination.
    pub ether_destination: Mac,
    /// VLAN ids of 802.1Q tags, outermost first.
    pub vlans: Vec<u16>,
    /// IP options: a multiple of 4 bytes, at most 40.
    pub ip_options: Vec<u8>,
    /// IP type of service.
    pub tos: u8,
    /// IP time to live.
    pub ttl: u8,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination.
    pub destination: Ipv4Addr,
    /// Version and type.
    pub version_type: u8,
    /// Virtual host id.
    pub vhid: u8,
    /// Unit: s.
    pub advbase: u8,
    /// Unit: 1/256 s.
    pub advskew: u8,
    /// Byte 4.
    pub demotion: u8,
    /// Replay counter.
    pub counter: u64,
    /// The password of the digest.
    pub password: String,
    /// The addresses in the digest, ascending.
    pub addresses: Vec<Ipv4Addr>,
    /// A number added to the correct CARP checksum.
    pub checksum_error: u16,
    /// Length of the IP payload: the CARP header is cut, or zeros follow it.
    pub payload_len: usize,
}

impl Forgery {
    /// An advertisement with advbase 1 and advskew 0 that a host with this address would send.
    #[must_use]
    pub fn new(source: Ipv4Addr, vhid: u8, password: &str, address: Ipv4Addr) -> Self {
        Self {
            ether_source: Mac([0, 0, 0x5e, 0, 1, vhid]),
            ether_destination: Mac::of_group(GROUP),
            vlans: Vec::new(),
            ip_options: Vec::new(),
            tos: 0x10,
            ttl: 255,
            source,
            destination: GROUP,
            version_type: 0x21,
            vhid,
            advbase: 1,
            advskew: 0,
            demotion: 0,
            counter: 0x0102_0304_0506_0708,
            password: password.to_owned(),
            addresses: vec![address],
            checksum_error: 0,
            payload_len: CARP_LEN,
        }
    }

    /// The same with a change.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The complete frame.
    ///
    /// # Panics
    /// When the options or the payload do not fit an IP packet.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.ether_destination.0);
        frame.extend(self.ether_source.0);
        for vlan in &self.vlans {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        frame.extend(self.ip_header());
        let mut carp = self.carp_header();
        carp.resize(self.payload_len, 0);
        frame.extend(carp);
        frame
    }

    fn ip_header(&self) -> Vec<u8> {
        let len = 20 + self.ip_options.len();
        let words = u8::try_from(len / 4).expect("at most 60 bytes");
        let total = u16::try_from(len + self.payload_len).expect("fits an IP packet");
        let mut header = vec![0x40 | words, self.tos];
        header.extend(total.to_be_bytes());
        header.extend([0x12, 0x34, 0x40, 0x00, self.ttl, PROTOCOL, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.ip_options);
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn carp_header(&self) -> Vec<u8> {
        let mut header = vec![
            self.version_type,
            self.vhid,
            self.advskew,
            7,
            self.demotion,
            self.advbase,
            0,
            0,
        ];
        header.extend(self.counter.to_be_bytes());
        header.extend(digest(
            self.password.as_bytes(),
            self.vhid,
            &self.addresses,
            self.counter,
        ));
        let sum = checksum(&header)
            .wrapping_add(self.checksum_error)
            .to_be_bytes();
        header[6..8].copy_from_slice(&sum);
        header
    }
}
