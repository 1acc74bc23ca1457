//! Netlink events to inputs: links, addresses, and interfaces that come and go.
//!
//! Events only change what we know about the namespace; what follows from it is worked out by comparing that with what
//! was done and said before. So a lost notification, made up for by listing everything again, needs no other path.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use carp_common::proto::{Input, LinkState};
use carp_common::time::Instant;
use carp_common::units::Family;
use carp_common::wire::ether::MacAddress;
use tracing::{error, info, warn};

use super::address_guard::Suspects;
use super::addresses::Holding;
use super::health::{Hearing, REPORT_INTERVAL};
use super::{Engine, Error, mistakes};
use crate::config::ADDRESS_PROTOCOL;
use crate::io::arp_watch::ArpWatch;
use crate::io::clock;
use crate::io::datapath::Chain;
use crate::io::netlink::Link;
use crate::io::port::Port;
use crate::lock::{self, Wanted};

/// Time between two attempts at what failed: to open or attach what is there, to list what there is.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    /// Lists every link and address anew.
    pub(super) fn resync(&mut self) -> io::Result<()> {
        let links = self.netlink.links()?;
        let addresses = self.netlink.addresses()?;
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
        self.addresses.clear();
        for address in addresses {
            self.tagged |= address.protocol == ADDRESS_PROTOCOL;
            self.addresses
                .entry(address.ifindex)
                .or_default()
                .push(address);
        }
        Ok(())
    }

    /// Follows what netlink told since the last turn.
    pub(super) fn follow_links(&mut self, now: Instant) {
        self.listen();
        self.give_back();
        let mut changes = std::mem::take(&mut self.changes);
        if changes.overrun
            && let Some(suppressed) = self.overrun_limit.admit(now, REPORT_INTERVAL)
        {
            warn!(
                suppressed,
                "netlink notifications were lost: listing links and addresses again"
            );
        }
        if changes.overrun || self.resync_at.is_some_and(|at| at <= now) {
            changes.overrun = self.list_again(now);
        }
        if !changes.overrun && changes.interfaces.is_empty() {
            return;
        }
        for interface in 0..self.interfaces.len() {
            let wanted = &mut self.interfaces[interface];
            let index = wanted.port.as_ref().map(Port::ifindex);
            let among = |set: &BTreeSet<u32>| index.is_some_and(|index| set.contains(&index));
            wanted.unplaced |= changes.overrun || among(&changes.own);
            if changes.overrun || among(&changes.links) {
                self.doubt_routes(interface);
            }
            let wanted = &self.interfaces[interface];
            let concerned = match index {
                _ if changes.overrun => true,
                Some(index) => changes.interfaces.contains(&index),
                None => changes.interfaces.iter().any(|index| {
                    self.links
                        .get(index)
                        .is_some_and(|link| link.is_called(&wanted.name))
                }),
            };
            if concerned || self.sends_from_any(interface, &changes.addresses) {
                self.follow(interface, now);
            }
        }
        self.datapath.cover(&self.links);
        let suspects = match changes.overrun {
            false if changes.lost.is_empty() => return,
            false => Suspects::Lost(changes.lost),
            true => Suspects::Any,
        };
        for interface in 0..self.interfaces.len() {
            self.keep_addresses(interface, &suspects, now);
        }
        self.lift_fences();
    }

    /// Tries again what failed: interfaces that could not be opened or listened to, virtual hosts that were refused.
    pub(super) fn retry(&mut self, now: Instant) {
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.retry_at = None;
        for interface in 0..self.interfaces.len() {
            if self.interfaces[interface].port.is_none() {
                self.follow(interface, now);
            } else if self.interfaces[interface].hearing.lost {
                self.attach_again(interface, false, now);
            }
        }
        for vhost in 0..self.vhosts.len() {
            if self.vhosts[vhost].deaf {
                self.program_again(vhost, now);
            }
        }
    }

    /// Finds an interface at the start, where failing is still an option.
    pub(super) fn find_at_start(&mut self, interface: usize) -> Result<(), Error> {
        let name = &self.interfaces[interface].name;
        match self.link_of(interface) {
            Some(link) => self.arrive(interface, &link),
            None if self.wait_interface => {
                warn!("interface {name} does not exist: waiting for it");
                Ok(())
            }
            None => Err(Error::NoSuchInterface(name.clone())),
        }
    }

    /// The link that an interface's configured name means now.
    pub(super) fn link_of(&self, interface: usize) -> Option<Link> {
        let name = &self.interfaces[interface].name;
        let mut links = self.links.values();
        links.find(|link| link.is_called(name)).cloned()
    }

    /// Makes us the only ones who serve the virtual hosts of an interface. `patient`: waits for an owner that is
    /// stopping.
    ///
    /// # Errors
    /// Who else serves one of them, or its address.
    pub(super) fn lock(
        &mut self,
        interface: usize,
        link: &Link,
        patient: bool,
    ) -> Result<(), lock::Error> {
        if self.locks.has(link.index) {
            return Ok(());
        }
        for vhost in &self.interfaces[interface].vhosts {
            let config = &self.vhosts[*vhost].config;
            let wanted = Wanted {
                ifindex: link.index,
                interface: &link.name,
                vhid: config.election.vhid,
                addresses: config.addresses.iter().map(|it| it.address).collect(),
            };
            if let Err(error) = self.locks.acquire(&wanted, patient) {
                self.locks.release(link.index);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Brings one interface and its virtual hosts up to what is known about the namespace.
    pub(super) fn follow(&mut self, interface: usize, now: Instant) {
        let known = self.interfaces[interface].port.as_ref().map(Port::ifindex);
        let link = match known {
            Some(index) => self.links.get(&index).cloned(),
            None => self.link_of(interface),
        };
        match (known, link) {
            (Some(index), None) => {
                let served = &self.interfaces[interface];
                let (name, gone) = (&served.name, &served.current_name);
                warn!("interface {gone} is gone: waiting for {name}");
                self.tell(interface, None, now);
                self.depart(interface, index);
                // One of the same name may be there already.
                if self.link_of(interface).is_some() {
                    self.follow(interface, now);
                }
            }
            (Some(_), Some(link)) => self.tell(interface, Some(&link), now),
            (None, Some(link)) => match self.arrive(interface, &link) {
                Ok(()) => {
                    self.interfaces[interface].said_closed = false;
                    // Attaching took a while; listening begins now.
                    self.tell(interface, Some(&link), clock::now());
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.interfaces[interface].said_closed, true) {
                        error!(
                            "cannot serve {} yet, trying again: {}",
                            link.name,
                            Chain(&error)
                        );
                    }
                    self.retry_at = Some(now + RETRY_INTERVAL);
                }
            },
            (None, None) => {}
        }
    }

    /// An interface appeared: open its port, join its groups, listen.
    fn arrive(&mut self, interface: usize, link: &Link) -> Result<(), Error> {
        if !link.ethernet {
            return Err(Error::NotEthernet(link.name.clone()));
        }
        let failed_to = |action| move |source| mistakes::refused(action, &link.name, source);
        self.lock(interface, link, false)?;
        let mut port = Port::open(link).map_err(failed_to("open a packet socket"))?;
        for group in &self.interfaces[interface].groups {
            port.join(*group)
                .map_err(failed_to("join the multicast group"))?;
        }
        let watch = ArpWatch::open(link).map_err(failed_to("watch ARP"))?;
        self.interfaces[interface].port = Some(port);
        // Before the fence around them falls, which is part of what we take over.
        let attached = self
            .look_for_leftovers(interface)
            .and_then(|()| self.inherit_fences(interface))
            .map(|()| self.settle_strangers(interface))
            .and_then(|()| Ok(self.datapath.attach(link)?));
        match attached {
            Ok(choice) => choice.log(),
            Err(error) => {
                self.interfaces[interface].port = None;
                return Err(error);
            }
        }
        self.interfaces[interface].hearing = Hearing::default();
        self.interfaces[interface].watch = Some(watch);
        self.interfaces[interface].unplaced = true;
        if !link.admin_up || !link.running {
            warn!("{} is down: in INIT until it comes up", link.name);
        }
        self.call(interface, &link.name);
        Ok(())
    }

    /// Log lines name the interface as it is called now.
    fn call(&mut self, interface: usize, name: &str) {
        let served = &mut self.interfaces[interface];
        name.clone_into(&mut served.current_name);
        for vhost in served.vhosts.clone() {
            self.vhosts[vhost].call(name);
        }
    }

    /// An interface disappeared, and with it whatever was configured on it.
    fn depart(&mut self, interface: usize, ifindex: u32) {
        self.datapath.forget(ifindex);
        self.locks.release(ifindex);
        let name = self.interfaces[interface].name.clone();
        self.call(interface, &name);
        self.interfaces[interface].port = None;
        self.interfaces[interface].watch = None;
        self.interfaces[interface].said_sourceless = false;
        self.interfaces[interface].upper = None;
        for vhost in self.interfaces[interface].vhosts.clone() {
            self.vhosts[vhost].holdings.fill(Holding::None);
            self.vhosts[vhost].fenced = false;
        }
    }

    /// Tells the virtual hosts of an interface what changed for them; `None`: it is gone.
    fn tell(&mut self, interface: usize, link: Option<&Link>, now: Instant) {
        let (mut source, mut moved) = (None, false);
        if let Some(link) = link {
            let here = self
                .addresses
                .get(&link.index)
                .map_or(&[][..], Vec::as_slice);
            source = self.interfaces[interface].source(here);
            if let Some(port) = &mut self.interfaces[interface].port {
                moved = port.set_mac(link.mac);
            }
            if moved {
                info!(
                    "{} has another MAC address: {}",
                    link.name,
                    MacAddress(link.mac)
                );
            }
            let wanted = &mut self.interfaces[interface];
            if wanted.current_name != link.name {
                warn!(
                    "interface {} was renamed to {}: still served",
                    wanted.current_name, link.name
                );
                self.call(interface, &link.name);
            }
            self.complain_about_source(interface, source.is_some());
            self.complain_about_upper(interface, link);
        }
        for vhost in self.interfaces[interface].vhosts.clone() {
            let served = &self.vhosts[vhost];
            let usable = |link: &Link| {
                let has_carrier = link.running || served.config.ignore_carrier;
                link.admin_up && has_carrier && link.upper.is_none()
            };
            let state = if link.is_some_and(usable) && !self.is_deaf(served) {
                LinkState::Up
            } else {
                LinkState::Down
            };
            let source = match (served.config.source, link) {
                (Some(fixed), _) => self.fixed_source(vhost, fixed),
                (None, Some(_)) => source,
                (None, None) => served.source,
            };
            // A source that is there before the link comes up, and until after it goes down, makes one transition of it.
            if state == LinkState::Down {
                self.tell_link(vhost, state, now);
            }
            if source != self.vhosts[vhost].source {
                self.vhosts[vhost].source = source;
                // Before the core hears of it, because it may advertise from the new address at once.
                self.tell_own_source(vhost);
                let source = source.map(Into::into);
                self.feed(
                    vhost,
                    now,
                    Input::SourceChanged {
                        family: Family::Inet,
                        source,
                    },
                );
            }
            self.tell_link(vhost, state, now);
            if moved {
                self.feed(vhost, now, Input::StationChanged);
            }
            self.settle_leftovers(vhost, now);
        }
    }

    /// Tells the datapath the address that we send from, where it has an entry.
    fn tell_own_source(&mut self, vhost: usize) {
        let served = &self.vhosts[vhost];
        if let Some(key) = served.key {
            let told = self
                .datapath
                .set_own_source(key, served.own_source(&self.interfaces[served.interface]));
            self.check_datapath(vhost, told);
        }
    }

    fn tell_link(&mut self, vhost: usize, state: LinkState, now: Instant) {
        if state != self.vhosts[vhost].link {
            self.vhosts[vhost].link = state;
            self.feed(vhost, now, Input::LinkChanged(state));
        }
    }

    /// Warns, once until it changes, that the interface is a port of another one, which takes all that arrives.
    fn complain_about_upper(&mut self, interface: usize, link: &Link) {
        if std::mem::replace(&mut self.interfaces[interface].upper, link.upper) == link.upper {
            return;
        }
        let name = &link.name;
        let Some(upper) = link.upper else {
            info!("{name} is no longer a port of another interface: served again");
            return;
        };
        let (kind, upper) = match self.links.get(&upper) {
            Some(upper) => (upper.kind.as_str(), upper.name.clone()),
            None => ("interface", format!("number {upper}")),
        };
        let place = match kind {
            // What it lists its ports under carries nothing.
            "openvswitch" => "an internal port of the switch",
            _ => &upper,
        };
        warn!(
            "{name} is a port of {kind} {upper}, which takes all that arrives there: in INIT until it leaves; run \
             carpd on {place} instead"
        );
    }
}
