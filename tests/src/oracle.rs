//! Finds by trial what makes a kernel speak in the name of an address, as a measure of the fence.
//!
//! The oracle sends every candidate form of frame to a host, on each of its ports, and makes the host itself speak.
//! It reads everything that leaves the host. Each form has its own sender, so an outgoing frame shows which form
//! caused it.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::inject::Injector;
use crate::lab::Host;
use crate::packet::{Mac, checksum};

/// The time that the host may take after the last form; its kernel's ARP requests are a second apart.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How a frame speaks for the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voice {
    /// ARP with the address as its sender.
    Arp,
    /// An IP packet with the address as its source.
    Ip,
}

/// The forms that made the host speak, and how, with the number of frames.
pub type Spoken = BTreeMap<(String, Voice), usize>;

/// A way to make a host speak.
struct Form {
    name: String,
    action: Action,
}

enum Action {
    /// To its interface of this index in the list.
    Frame(usize, Vec<u8>),
    /// The host itself sends a datagram from the address to this one.
    Send(Ipv4Addr),
}

/// The sender of a form, by which [`Spoken`] identifies it.
#[derive(Clone, Copy)]
struct Sender {
    mac: Mac,
    address: Ipv4Addr,
}

impl Sender {
    /// The `number`th, on the host's subnet 10.9.0.0/16.
    fn new(number: usize) -> Self {
        let [high, low] = u16::try_from(number).expect("a few hundred").to_be_bytes();
        Self {
            mac: Mac([2, 0, 0, 9, high, low]),
            address: Ipv4Addr::new(10, 9, 128 + high, low),
        }
    }
}

/// Tries every form on these interfaces of a host, which holds `address` and one of 10.9.0.0/16, and returns those that
/// made it speak for the address.
///
/// # Errors
/// When the system refuses.
pub fn provoke(host: &Host, interfaces: &[&str], address: Ipv4Addr) -> Result<Spoken> {
    let forms = forms(host, interfaces, address)?;
    let ear = Ear::open(host, interfaces)?;
    let injectors = interfaces
        .iter()
        .map(|interface| Injector::towards_interface(host, interface))
        .collect::<Result<Vec<_>>>()?;
    let mut spoken = Spoken::new();
    for form in &forms {
        match &form.action {
            Action::Frame(interface, frame) => injectors[*interface].send(frame)?,
            Action::Send(to) => speak(host, address, *to)?,
        }
        // The buffers on the way hold a few hundred frames.
        ear.listen(Duration::from_millis(1), &forms, address, &mut spoken);
    }
    ear.listen(PATIENCE, &forms, address, &mut spoken);
    Ok(spoken)
}

/// Makes the host send a datagram from the address, so that its kernel asks for the receiver in the name of the address.
fn speak(host: &Host, address: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    let sent = host.enter(|| {
        let socket = UdpSocket::bind(SocketAddrV4::new(address, 0))?;
        socket.send_to(b"?", SocketAddrV4::new(to, 9))
    })?;
    sent.context("failed to send from the virtual address")?;
    Ok(())
}

fn forms(host: &Host, interfaces: &[&str], address: Ipv4Addr) -> Result<Vec<Form>> {
    let mut forms: Vec<Form> = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let port = host.ip(&format!("-o link show {interface}"))?;
        let mac = parse_mac(&port).context("an interface has a MAC")?;
        let mut add = |name: &str, frame: &mut dyn FnMut(Sender) -> Vec<u8>| {
            let frame = frame(Sender::new(forms.len()));
            forms.push(Form {
                name: format!("{name} on {interface}"),
                action: Action::Frame(index, frame),
            });
        };
        for (name, change) in changes() {
            add(&format!("ARP {name}"), &mut |sender| {
                let mut arp = ArpForm::new(mac, sender, address);
                change(&mut arp);
                arp.frame()
            });
        }
        let mut known = Vec::new();
        for (name, packet) in packets() {
            for (to, destination) in [("unicast", mac), ("broadcast", Mac::BROADCAST)] {
                for tags in [0, 1, 3] {
                    add(&format!("{name} {to} {tags} tags"), &mut |sender| {
                        // The kernel answers the others at once; for these it must send an ARP request first.
                        if tags != 1 {
                            known.push(sender);
                        }
                        let body = packet(sender.address, address);
                        ethernet(destination, sender.mac, &priority_tags(tags), 0x0800, &body)
                    });
                }
            }
        }
        for Sender { mac, address } in known {
            let neighbour = format!("{address} lladdr {mac} dev {interface} nud permanent");
            host.ip(&format!("neigh replace {neighbour}"))?;
            host.ip(&format!("route replace {address} dev {interface}"))?;
        }
        // A separate subnet behind each interface, so that the host sends its ARP request there.
        let number = u8::try_from(index)?;
        let subnet = Ipv4Addr::new(10, 10, number, 0);
        host.ip(&format!("route replace {subnet}/24 dev {interface}"))?;
        forms.push(Form {
            name: format!("datagram of its own on {interface}"),
            action: Action::Send(Ipv4Addr::new(10, 10, number, 9)),
        });
    }
    Ok(forms)
}

fn parse_mac(link: &str) -> Option<Mac> {
    let mut words = link.split_whitespace();
    words.find(|word| *word == "link/ether")?;
    let bytes = words.next()?.split(':');
    let bytes: Vec<u8> = bytes
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    Some(Mac(bytes.try_into().ok()?))
}

/// An ARP request that is correct except where it is changed.
struct ArpForm {
    unicast: Mac,
    sender: Sender,
    address: Ipv4Addr,
    destination: Mac,
    /// Each with its protocol id.
    tags: Vec<[u8; 4]>,
    hardware: u16,
    protocol: u16,
    lengths: [u8; 2],
    operation: u16,
    sender_address: Ipv4Addr,
    /// The frame is cut, or padded with zeros.
    len: usize,
}

impl ArpForm {
    const fn new(unicast: Mac, sender: Sender, address: Ipv4Addr) -> Self {
        Self {
            unicast,
            sender,
            address,
            destination: Mac::BROADCAST,
            tags: Vec::new(),
            hardware: 1,
            protocol: 0x0800,
            lengths: [6, 4],
            operation: 1,
            sender_address: sender.address,
            len: 0,
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.hardware.to_be_bytes());
        body.extend(self.protocol.to_be_bytes());
        body.extend(self.lengths);
        body.extend(self.operation.to_be_bytes());
        body.extend(self.sender.mac.0);
        body.extend(self.sender_address.octets());
        body.extend([0; 6]);
        body.extend(self.address.octets());
        let mut frame = ethernet(self.destination, self.sender.mac, &self.tags, 0x0806, &body);
        if self.len > 0 {
            frame.resize(self.len, 0);
        }
        frame
    }
}

type Change = Box<dyn Fn(&mut ArpForm)>;
type Choice<T> = fn(&ArpForm) -> T;

/// All tried forms of ARP requests.
fn changes() -> Vec<(String, Change)> {
    let mut all: Vec<(String, Change)> = Vec::new();
    let mut add = |name: String, change: Change| all.push((name, change));
    for hardware in [0, 1, 6, 7, 15, 24, 32, 0x0100, 0xffff] {
        for operation in [0, 1, 2, 3, 4, 8, 9, 10, 23, 0x0100, 0xffff] {
            add(
                format!("hardware {hardware} operation {operation}"),
                Box::new(move |arp| {
                    arp.hardware = hardware;
                    arp.operation = operation;
                }),
            );
        }
    }
    let destinations: [(&str, Choice<Mac>); 4] = [
        ("broadcast", |_| Mac::BROADCAST),
        ("unicast", |arp| arp.unicast),
        ("multicast", |_| Mac([1, 0, 0x5e, 0, 0, 1])),
        ("another's", |_| Mac([2, 0, 0, 8, 0, 0])),
    ];
    let senders: [(&str, Choice<Ipv4Addr>); 3] = [
        ("question", |arp| arp.sender_address),
        ("probe", |_| Ipv4Addr::UNSPECIFIED),
        ("announcement", |arp| arp.address),
    ];
    for hardware in [1, 6] {
        for (to, destination) in destinations {
            for (kind, sender) in senders {
                for tags in 0..=4 {
                    add(
                        format!("{kind} hardware {hardware} {to} {tags} tags"),
                        Box::new(move |arp| {
                            arp.hardware = hardware;
                            arp.destination = destination(arp);
                            arp.sender_address = sender(arp);
                            arp.tags = priority_tags(tags);
                        }),
                    );
                }
            }
        }
    }
    for tags in [6, 8, 9, 12, 40] {
        let change = move |arp: &mut ArpForm| arp.tags = priority_tags(tags);
        add(format!("{tags} tags"), Box::new(change));
    }
    for (name, tags) in [
        ("service tag", vec![[0x88, 0xa8, 0, 0]]),
        ("QinQ", vec![[0x88, 0xa8, 0, 0], [0x81, 0, 0, 0]]),
        ("old QinQ", vec![[0x91, 0, 0, 0]]),
        ("VLAN 5", vec![[0x81, 0, 0, 5]]),
        (
            "VLAN 5 with a priority inside",
            vec![[0x81, 0, 0, 5], [0x81, 0, 0xe0, 0]],
        ),
        ("VLAN 6", vec![[0x81, 0, 0, 6]]),
        (
            "a priority before VLAN 5",
            vec![[0x81, 0, 0xe0, 0], [0x81, 0, 0, 5]],
        ),
    ] {
        let change = move |arp: &mut ArpForm| arp.tags.clone_from(&tags);
        add(name.to_owned(), Box::new(change));
    }
    for len in [41, 42, 46, 60, 64, 600] {
        add(format!("{len} bytes"), Box::new(move |arp| arp.len = len));
    }
    for protocol in [0x0806, 0x86dd, 0x0000] {
        let change = move |arp: &mut ArpForm| arp.protocol = protocol;
        add(format!("protocol {protocol:#06x}"), Box::new(change));
    }
    for lengths in [[0, 4], [6, 0], [6, 16], [8, 4]] {
        let change = move |arp: &mut ArpForm| arp.lengths = lengths;
        add(format!("lengths {lengths:?}"), Box::new(change));
    }
    all
}

/// Priority tags, of both kinds in turn.
fn priority_tags(count: usize) -> Vec<[u8; 4]> {
    let kinds = [[0x81, 0, 0xe0, 0], [0x88, 0xa8, 0, 0]];
    kinds.into_iter().cycle().take(count).collect()
}

type PacketOf = fn(Ipv4Addr, Ipv4Addr) -> Vec<u8>;

/// Packets that a port without carpd answers too.
fn packets() -> [(&'static str, PacketOf); 3] {
    [
        ("ping", |from, to| {
            let mut echo = vec![8, 0, 0, 0, 0, 9, 0, 9];
            let sum = checksum(&echo).to_be_bytes();
            echo[2..4].copy_from_slice(&sum);
            inet(1, from, to, &echo)
        }),
        ("TCP", |from, to| {
            let mut syn = vec![
                0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
            ];
            let sum = transport_checksum(6, from, to, &syn);
            syn[16..18].copy_from_slice(&sum);
            inet(6, from, to, &syn)
        }),
        ("UDP", |from, to| {
            inet(17, from, to, &[0, 9, 0, 9, 0, 8, 0, 0])
        }),
    ]
}

fn transport_checksum(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> [u8; 2] {
    let mut bytes = [from.octets(), to.octets()].concat();
    let len = u8::try_from(segment.len()).expect("a header");
    bytes.extend([0, protocol, 0, len]);
    bytes.extend(segment);
    checksum(&bytes).to_be_bytes()
}

fn inet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(20 + payload.len()).expect("a small packet");
    let mut packet = vec![0x45, 0, 0, len, 0, 9, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

fn ethernet(
    destination: Mac,
    source: Mac,
    tags: &[[u8; 4]],
    ether_type: u16,
    body: &[u8],
) -> Vec<u8> {
    let mut frame = [destination.0, source.0].concat();
    frame.extend(tags.concat());
    frame.extend(ether_type.to_be_bytes());
    frame.extend(body);
    frame
}

/// Receives what leaves a host, on the switch's side of its cables.
struct Ear {
    socket: OwnedFd,
    ports: Vec<usize>,
}

impl Ear {
    fn open(host: &Host, interfaces: &[&str]) -> Result<Self> {
        host.switch().enter(|| {
            let kind = (AddressFamily::Packet, SockType::Raw);
            let socket = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(1))?;
            let ports = interfaces
                .iter()
                .map(|interface| Ok(if_nametoindex(host.port(interface).as_str())? as usize));
            let ports = ports.collect::<Result<_>>()?;
            Ok(Self { socket, ports })
        })?
    }

    /// Records what the host sends in the name of the address meanwhile.
    fn listen(&self, within: Duration, forms: &[Form], address: Ipv4Addr, spoken: &mut Spoken) {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let fd = self.socket.as_raw_fd();
            let Ok(message) = recvmsg::<LinkAddr>(fd, &mut slices, None, MsgFlags::empty()) else {
                continue; // the timeout
            };
            let (len, from) = (message.bytes, message.address);
            let Some(link) = from else {
                continue;
            };
            if link.pkttype() == libc::PACKET_OUTGOING || !self.ports.contains(&link.ifindex()) {
                continue;
            }
            if let Some((voice, to)) = voice(&buffer[..len.min(2048)], address) {
                let name = name_of(forms, to, &buffer[..6]);
                *spoken.entry((name, voice)).or_default() += 1;
            }
        }
    }
}

/// How a frame speaks for the address, and to whom.
fn voice(frame: &[u8], address: Ipv4Addr) -> Option<(Voice, Ipv4Addr)> {
    let mut rest = frame.get(12..)?;
    while let [0x81, 0x00, ..] | [0x88, 0xa8, ..] = rest {
        rest = rest.get(4..)?;
    }
    let (ether_type, packet) = rest.split_first_chunk::<2>()?;
    let address_at = |offset: usize| Some(Ipv4Addr::from(*packet.get(offset..)?.first_chunk()?));
    match ether_type {
        [0x08, 0x06] => {
            let sender = 8 + usize::from(*packet.get(4)?);
            let target = sender + 4 + usize::from(*packet.get(4)?);
            (address_at(sender)? == address).then_some((Voice::Arp, address_at(target)?))
        }
        [0x08, 0x00] => (address_at(12)? == address).then_some((Voice::Ip, address_at(16)?)),
        _ => None,
    }
}

/// The form that caused a frame to this address or station.
fn name_of(forms: &[Form], to: Ipv4Addr, destination: &[u8]) -> String {
    let by_sender = forms.iter().enumerate().find(|(number, form)| {
        let sender = Sender::new(*number);
        match form.action {
            Action::Frame(..) => sender.address == to || sender.mac.0 == destination,
            Action::Send(receiver) => receiver == to,
        }
    });
    by_sender.map_or_else(
        || format!("something, to {to}"),
        |(_, form)| form.name.clone(),
    )
}

/// Fails unless these forms, which are known to work, are among those that made the host speak.
///
/// # Errors
/// See above.
pub fn must_include(spoken: &Spoken, voice: Voice, names: &[&str]) -> Result<()> {
    for name in names {
        ensure!(
            spoken.contains_key(&((*name).to_owned(), voice)),
            "{name} ({voice:?}) had no effect; these had one: {spoken:?}"
        );
    }
    Ok(())
}
