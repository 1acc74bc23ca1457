//! The interface as it comes, changes and goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use carp_common::wire::ether::MacAddress;

use super::super::context::{Context, Site};
use super::super::effects::Effects;
use super::super::instance::uplink::News;
use super::super::{Error, mistakes};
use super::Segment;
use super::hearing::Hearing;
use super::strangers;
use crate::api::Place;
use crate::api::event::interface::{Link as Event, Source, Upper};
use crate::io::chain::Chain;
use crate::io::netlink::Link;

impl Segment {
    /// The link that its configured name means now.
    pub fn link<E: Effects>(&self, cx: &Context<E>) -> Option<Link> {
        cx.namespace.link_called(&self.interface.name).cloned()
    }

    /// Looks for the interface at the start, where failing is still an option.
    ///
    /// # Errors
    /// It is not there, or cannot be served.
    pub fn find_at_start<E: Effects>(&mut self, cx: &mut Context<E>) -> Result<(), Error> {
        let name = &self.interface.name;
        match self.link(cx) {
            Some(link) => self.arrive(&link, cx),
            None if cx.wait_interface => {
                cx.tell(&Place::Interface(name.clone()), Event::Awaited);
                Ok(())
            }
            None => Err(Error::NoSuchInterface(name.clone())),
        }
    }

    /// Brings the interface and its virtual hosts up to what is known about the namespace.
    pub fn follow<E: Effects>(&mut self, cx: &mut Context<E>) {
        let link = match self.interface.ifindex {
            Some(index) => cx.namespace.links().get(&index).cloned(),
            None => self.link(cx),
        };
        match (self.interface.ifindex, link) {
            (Some(index), None) => {
                let awaited = self.interface.name.clone();
                cx.tell(&self.interface.place(), Event::Gone { awaited });
                self.tell(None, cx);
                self.depart(index, cx);
                // One of the same name may be there already.
                if self.link(cx).is_some() {
                    self.follow(cx);
                }
            }
            (Some(_), Some(link)) => self.tell(Some(&link), cx),
            // Nobody is served any more when everything ends.
            (None, Some(link)) if !cx.stopping => self.try_to_arrive(&link, cx),
            (None, _) => {}
        }
    }

    fn try_to_arrive<E: Effects>(&mut self, link: &Link, cx: &mut Context<E>) {
        if let Err(error) = self.begin(link, cx) {
            if !std::mem::replace(&mut self.interface.said_closed, true) {
                let error = Chain(&error).to_string();
                cx.tell(&place(link), Event::Unservable { error });
            }
            cx.retry_soon();
        }
    }

    /// The interface appeared: opens it, and its virtual hosts listen.
    ///
    /// # Errors
    /// What stands in the way; nothing is open then.
    pub fn begin<E: Effects>(&mut self, link: &Link, cx: &mut Context<E>) -> Result<(), Error> {
        self.arrive(link, cx)?;
        self.interface.said_closed = false;
        // Attaching took a while; listening begins now.
        let began = std::mem::replace(&mut cx.now, cx.effects.now());
        self.tell(Some(link), cx);
        cx.now = began;
        Ok(())
    }

    /// The interface appeared: opens it, joins its groups, listens.
    fn arrive<E: Effects>(&mut self, link: &Link, cx: &mut Context<E>) -> Result<(), Error> {
        if !link.ethernet {
            return Err(Error::NotEthernet(link.name.clone()));
        }
        self.lock(link.index, &link.name, false, cx)?;
        let groups = self.groups();
        cx.effects
            .open(link, &mut groups.into_iter())
            .map_err(|(action, source)| mistakes::refused(action, &link.name, source))?;
        self.interface.ifindex = Some(link.index);
        // Before the fence around them falls, which is part of what we take over.
        let attached = self
            .look_for_leftovers(cx)
            .and_then(|()| Ok(cx.effects.attach(link)?));
        match attached {
            Ok(choice) => super::hearing::tell(choice, link, cx),
            Err(error) => {
                cx.effects.close(link.index);
                self.interface.ifindex = None;
                return Err(error);
            }
        }
        self.interface.hearing = Hearing::default();
        self.interface.unplaced = true;
        self.interface.watched_changed = true;
        if !link.admin_up || !link.running {
            cx.tell(&place(link), Event::Down);
        }
        self.call(&link.name);
        Ok(())
    }

    fn look_for_leftovers<E: Effects>(&mut self, cx: &mut Context<E>) -> Result<(), Error> {
        let interface = &mut self.interface;
        for instance in self.instances.values_mut() {
            instance
                .rooms
                .arrive(&instance.who, &mut Site { interface, cx })?;
        }
        strangers::settle(self, cx);
        Ok(())
    }

    /// Log lines name the interface as it is called now.
    fn call(&mut self, name: &str) {
        name.clone_into(&mut self.interface.current_name);
        for instance in self.instances.values_mut() {
            instance.who.call(name);
        }
    }

    /// The interface disappeared, and with it whatever was configured on it.
    pub fn depart<E: Effects>(&mut self, ifindex: u32, cx: &mut Context<E>) {
        cx.effects.forget(ifindex);
        cx.effects.unlock(ifindex);
        cx.effects.close(ifindex);
        let name = self.interface.name.clone();
        self.call(&name);
        self.interface.ifindex = None;
        self.interface.said_sourceless = false;
        self.interface.upper = None;
        for instance in self.instances.values_mut() {
            instance.rooms.depart();
        }
    }

    /// Tells the virtual hosts what changed for them; `None`: the interface is gone.
    fn tell<E: Effects>(&mut self, link: Option<&Link>, cx: &mut Context<E>) {
        let mut news = News {
            link,
            source: None,
            moved: false,
        };
        if let Some(link) = link {
            news.source = self.interface.source(cx.namespace.on(link.index));
            news.moved =
                self.interface.ifindex.is_some() && cx.effects.set_mac(link.index, link.mac);
            if news.moved {
                let mac = MacAddress(link.mac);
                cx.tell(&place(link), Event::MacChanged { mac });
            }
            if self.interface.current_name != link.name {
                let name = link.name.clone();
                cx.tell(&self.interface.place(), Event::Renamed { name });
                self.call(&link.name);
            }
            self.complain_about_source(news.source.is_some(), cx);
            self.complain_about_upper(link, cx);
        }
        self.each(cx, |instance, site| instance.tell(news, site));
    }

    /// Says once, until it changes, that nothing can be sent for lack of an address.
    fn complain_about_source<E: Effects>(&mut self, has_source: bool, cx: &mut Context<E>) {
        let needs_one = self
            .instances
            .values()
            .any(|instance| instance.who.needs_source());
        let missing = needs_one && !has_source;
        if missing && !self.interface.said_sourceless {
            cx.tell(&self.interface.place(), Source::Missing);
        }
        self.interface.said_sourceless = missing;
    }

    /// Whether a virtual host sends from one of these by `--srcip`.
    pub fn sends_from_any(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        let sends_from_one = |instance: &super::Instance| {
            let source = instance.who.config.source;
            source.is_some_and(|source| addresses.contains(&source.into()))
        };
        !addresses.is_empty() && self.instances.values().any(sends_from_one)
    }

    /// Warns, once until it changes, that the interface is a port of another one, which takes all that arrives.
    fn complain_about_upper<E: Effects>(&mut self, link: &Link, cx: &mut Context<E>) {
        if std::mem::replace(&mut self.interface.upper, link.upper) == link.upper {
            return;
        }
        let Some(index) = link.upper else {
            cx.tell(&place(link), Event::Released);
            return;
        };
        let upper = match cx.namespace.links().get(&index) {
            Some(upper) => Upper::Known {
                kind: upper.kind.clone(),
                name: upper.name.clone(),
            },
            None => Upper::Unknown(index),
        };
        cx.tell(&place(link), Event::Enslaved { upper });
    }
}

/// The place of events about a link, by the name that it has now.
pub fn place(link: &Link) -> Place {
    Place::Interface(link.name.clone())
}
