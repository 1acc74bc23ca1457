//! Sends frames, and receives claims of neighbours.

use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use carp_common::time::Instant;
use carp_common::wire::advertisement::HEADER_LEN;

use super::Host;
use crate::engine::effects::Wire;
use crate::io::neighbour_watch::{NeighbourClaims, NeighbourWatch};
use crate::io::netlink::Link;
use crate::io::port::{Envelope, Port};

/// The sockets of one interface.
pub struct InterfaceSockets {
    port: Port,
    watch: NeighbourWatch,
}

impl InterfaceSockets {
    /// Ready when there may be claims to take.
    pub fn poll_claims(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch.poll_readable(context)
    }
}

impl Host {
    fn port_on(&mut self, ifindex: u32) -> io::Result<&mut Port> {
        let sockets = self.sockets.get_mut(&ifindex);
        sockets
            .map(|sockets| &mut sockets.port)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }
}

impl Wire for Host {
    fn open(
        &mut self,
        link: &Link,
        groups: &mut dyn Iterator<Item = IpAddr>,
    ) -> Result<(), (&'static str, io::Error)> {
        let mut port = Port::open(link).map_err(|error| ("open a packet socket", error))?;
        for group in groups {
            port.join(group)
                .map_err(|error| ("join the multicast group", error))?;
        }
        let watch = NeighbourWatch::open(link).map_err(|error| ("watch ARP", error))?;
        self.sockets
            .insert(link.index, InterfaceSockets { port, watch });
        Ok(())
    }

    fn close(&mut self, ifindex: u32) {
        self.sockets.remove(&ifindex);
    }

    fn join(&mut self, ifindex: u32, group: IpAddr) -> io::Result<()> {
        self.port_on(ifindex)?.join(group)
    }

    fn leave(&mut self, ifindex: u32, group: IpAddr) {
        if let Ok(port) = self.port_on(ifindex) {
            port.leave(group);
        }
    }

    fn set_mac(&mut self, ifindex: u32, mac: [u8; 6]) -> bool {
        self.port_on(ifindex).is_ok_and(|port| port.set_mac(mac))
    }

    fn advertise(
        &mut self,
        ifindex: u32,
        envelope: &Envelope,
        payload: &[u8; HEADER_LEN],
    ) -> io::Result<()> {
        self.port_on(ifindex)?.send_advertisement(envelope, payload)
    }

    fn announce(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.port_on(ifindex)?.announce(address)
    }

    fn probe(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.port_on(ifindex)?.probe(address)
    }

    fn watch(&mut self, ifindex: u32, addresses: &[IpAddr]) -> io::Result<()> {
        match self.sockets.get(&ifindex) {
            Some(sockets) => sockets.watch.choose(addresses),
            None => Ok(()),
        }
    }

    fn claims(&mut self, ifindex: u32, now: Instant) -> io::Result<NeighbourClaims> {
        match self.sockets.get_mut(&ifindex) {
            Some(sockets) => sockets.watch.take(now),
            None => Ok(NeighbourClaims::default()),
        }
    }

    fn claims_paused_until(&self) -> Option<Instant> {
        self.sockets
            .values()
            .filter_map(|sockets| sockets.watch.paused_until())
            .min()
    }
}
