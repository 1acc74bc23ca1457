//! What happens to the interface of a virtual host, as the core hears of it.

use std::net::{IpAddr, Ipv4Addr};

use carp_common::proto::{Input, LinkState};
use carp_common::units::{Family, State};

use super::super::context::Site;
use super::super::effects::Effects;
use super::super::interface::Interface;
use super::Instance;
use super::tenure::Tenure;
use crate::io::datapath::{self, Endpoints};
use crate::io::netlink::Link;

/// News of an interface.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// As it is now; `None`: it is gone.
    pub link: Option<&'a Link>,
    /// The first address of its own.
    pub source: Option<Ipv4Addr>,
    /// It has another MAC address.
    pub moved: bool,
}

impl Instance {
    /// The source address that the core was last told.
    pub const fn source(&self) -> Option<Ipv4Addr> {
        self.source
    }

    /// What the core was last told of the link.
    pub const fn link(&self) -> LinkState {
        self.link
    }

    /// Whether it needs an address of the interface to send from.
    pub const fn needs_source(&self) -> bool {
        self.who.config.source.is_none()
    }

    /// Whether the address that `--srcip` names was here and is gone.
    pub const fn lacks_fixed_source(&self) -> bool {
        self.fixed_source.is_gone()
    }

    /// Whether nothing that its peers say can reach it.
    pub const fn is_deaf(&self, interface: &Interface) -> bool {
        self.tenure.is_deaf() || interface.hearing.lost
    }

    /// Log lines name the interface as it is called now.
    pub fn call(&mut self, interface: &str) {
        self.who.call(interface);
    }

    /// The interface is here: looks what an earlier run left, before we claim anything.
    ///
    /// # Errors
    /// The kernel program that is to fence it cannot be loaded.
    pub fn arrive<E: Effects>(&mut self, site: &mut Site<'_, E>) -> Result<(), datapath::Error> {
        self.predecessor
            .look(&self.who, &mut self.claim, &mut self.tenure, site)
    }

    /// The interface is gone, and with it whatever was configured on it.
    pub fn depart(&mut self) {
        self.claim.lose_all();
        self.tenure.forget();
    }

    /// Tells the core what changed.
    pub fn tell<E: Effects>(&mut self, news: News<'_>, site: &mut Site<'_, E>) {
        let state =
            if news.link.is_some_and(|link| self.can_use(link)) && !self.is_deaf(site.interface) {
                LinkState::Up
            } else {
                LinkState::Down
            };
        let source = match (self.who.config.source, news.link) {
            (Some(fixed), _) => self.fixed_source.look(&self.who, fixed, site),
            (None, Some(_)) => news.source,
            (None, None) => self.source,
        };
        // A source that is there before the link comes up, and until after it goes down, makes one transition of it.
        if state == LinkState::Down {
            self.tell_link(state, site);
        }
        if source != self.source {
            self.source = source;
            // Before the core hears of it, because it may advertise from the new address at once.
            let own = self.own_source(site.interface);
            self.tenure.tell_own_source(&self.who, own, site);
            let input = Input::SourceChanged {
                family: Family::Inet,
                source: source.map(Into::into),
            };
            self.feed(input, site);
        }
        self.tell_link(state, site);
        if news.moved {
            self.feed(Input::StationChanged, site);
        }
        self.settle_predecessor(site);
    }

    const fn can_use(&self, link: &Link) -> bool {
        let has_carrier = link.running || self.who.config.ignore_carrier;
        link.admin_up && has_carrier && link.upper.is_none()
    }

    fn tell_link<E: Effects>(&mut self, state: LinkState, site: &mut Site<'_, E>) {
        if state != self.link {
            self.link = state;
            self.feed(Input::LinkChanged(state), site);
        }
    }

    /// Removes what an earlier run left, once the election says so.
    pub(super) fn settle_predecessor<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        self.predecessor
            .settle(&self.who, &self.machine, &mut self.tenure, site);
    }

    /// Not MASTER: there may be nothing left to be silent about.
    pub fn settle_fence<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        if self.machine.state() != State::Master {
            let has_leftovers = self.predecessor.has_leftovers();
            self.tenure.settle(&self.who, has_leftovers, site);
        }
    }

    /// What the datapath knows is gone, or may be: tells it everything again, and the core that advertisements were lost.
    pub fn listen_anew<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        if self.tenure.key().is_some() {
            self.program(site);
        }
        self.feed(Input::AdvertisementsLost, site);
    }

    /// Has the advertisements for it delivered. Returns whether that worked.
    pub fn program<E: Effects>(&mut self, site: &mut Site<'_, E>) -> bool {
        let Some(key) = Tenure::key_wanted(&self.who, site) else {
            return false;
        };
        let endpoints = Endpoints {
            group: self.who.config.group.into(),
            own: self.own_source(site.interface),
        };
        site.cx.touched.push(self.who.id);
        self.tenure
            .program(&self.who, &self.machine, key, endpoints, site)
    }

    /// The address that only we send from: none while there is none, or while it is a virtual address of the interface,
    /// which a peer may send from as well.
    fn own_source(&self, interface: &Interface) -> Option<IpAddr> {
        let source = IpAddr::from(self.source?);
        (!interface.is_virtual(source)).then_some(source)
    }
}
