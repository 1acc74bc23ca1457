//! Follows the interface as it comes, changes and goes.

use carp_common::proto::FAMILIES;
use carp_common::proto::per_family::PerFamily;
use carp_common::units::Family;
use carp_common::wire::ether::MacAddress;

use super::super::context::{Context, Site};
use super::super::effects::Effects;
use super::super::error::{self, EngineError};
use super::super::instance::uplink::News;
use super::super::interface::{Hearing, Interface};
use super::Segment;
use super::attachment::{self, place};
use super::strangers;
use crate::api::Place;
use crate::api::event::interface::{Link as Event, Source, Upper};
use crate::io::chain::Chain;
use crate::io::netlink::Link;

impl Segment {
    /// Returns the link that the configured name means now.
    pub fn link<E: Effects>(&self, cx: &Context<E>) -> Option<Link> {
        cx.namespace.link_called(&self.interface.name).cloned()
    }

    /// Looks for the interface at the start, when an error may still end the process.
    ///
    /// # Errors
    /// Returns an error if it does not exist or cannot be served.
    pub fn find_at_start<E: Effects>(&mut self, cx: &mut Context<E>) -> Result<(), EngineError> {
        let name = &self.interface.name;
        match self.link(cx) {
            Some(link) => self.arrive(&link, cx),
            None if cx.wait_interface => {
                cx.tell(&Place::Interface(name.clone()), Event::Awaited);
                Ok(())
            }
            None => Err(EngineError::NoSuchInterface(name.clone())),
        }
    }

    /// Updates the interface and its virtual hosts from the tables of the namespace.
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
                // An interface of the same name may exist already.
                if self.link(cx).is_some() {
                    self.follow(cx);
                }
            }
            (Some(_), Some(link)) => self.tell(Some(&link), cx),
            // When the process ends, no interface is opened any more.
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

    /// Opens an interface that appeared. Its virtual hosts begin to listen.
    ///
    /// # Errors
    /// Returns the obstacle. Nothing is open then.
    pub fn begin<E: Effects>(
        &mut self,
        link: &Link,
        cx: &mut Context<E>,
    ) -> Result<(), EngineError> {
        self.arrive(link, cx)?;
        self.interface.said_closed = false;
        // Attaching took a while, so the time at which listening begins is now.
        let began = std::mem::replace(&mut cx.now, cx.effects.now());
        self.tell(Some(link), cx);
        cx.now = began;
        Ok(())
    }

    /// Opens an interface that appeared, joins its groups and attaches to it.
    fn arrive<E: Effects>(&mut self, link: &Link, cx: &mut Context<E>) -> Result<(), EngineError> {
        if !link.ethernet {
            return Err(EngineError::NotEthernet(link.name.clone()));
        }
        // Two names may mean one interface, after it was renamed or got another name.
        if cx.open.contains(&link.index) {
            let name = &link.name;
            return Err(EngineError::Unworkable(format!(
                "{name} is served already, by another name of it"
            )));
        }
        self.lock(link.index, &link.name, false, cx)?;
        let groups = self.groups();
        cx.effects
            .open(link, &mut groups.into_iter())
            .map_err(|(action, source)| error::refused(action, &link.name, source))?;
        cx.open.insert(link.index);
        self.interface.ifindex = Some(link.index);
        // This must come before the fence around them falls, which is part of what carpd takes over.
        let attached = self
            .look_for_leftovers(cx)
            .and_then(|()| Ok(cx.effects.attach(link)?));
        match attached {
            Ok(choice) => attachment::report(choice, link, cx),
            Err(error) => {
                cx.close(link.index);
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

    fn look_for_leftovers<E: Effects>(&mut self, cx: &mut Context<E>) -> Result<(), EngineError> {
        let interface = &mut self.interface;
        for instance in self.instances.values_mut() {
            instance
                .rooms
                .arrive(&instance.who, &mut Site { interface, cx })?;
        }
        strangers::settle(self, cx);
        Ok(())
    }

    /// Uses the present name of the interface in log lines.
    fn call(&mut self, name: &str) {
        name.clone_into(&mut self.interface.current_name);
        for instance in self.instances.values_mut() {
            instance.who.call(name);
        }
    }

    /// Closes an interface that disappeared, and everything that was configured on it.
    pub fn depart<E: Effects>(&mut self, ifindex: u32, cx: &mut Context<E>) {
        cx.effects.forget(ifindex);
        cx.effects.unlock(ifindex);
        cx.close(ifindex);
        let name = self.interface.name.clone();
        self.call(&name);
        self.interface.ifindex = None;
        self.interface.said_sourceless = PerFamily::default();
        self.interface.upper = None;
        for instance in self.instances.values_mut() {
            instance.locked_on = None;
            instance.rooms.depart();
        }
    }

    /// Tells the virtual hosts the changes of their interface. `None` means that the interface is gone.
    fn tell<E: Effects>(&mut self, link: Option<&Link>, cx: &mut Context<E>) {
        let mut news = News {
            link,
            sources: PerFamily::default(),
            moved: false,
        };
        if let Some(link) = link {
            news.sources = self.interface.sources(cx.namespace.on(link.index));
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
            for family in FAMILIES {
                let is_missing = news.sources[family].is_none()
                    && self.who().any(|who| who.needs_source(family));
                warn_of_source(&mut self.interface, family, is_missing, cx);
            }
            warn_of_upper(&mut self.interface, link, cx);
        }
        self.each(cx, |instance, site| instance.tell(news, site));
    }
}

/// Warns, once until it changes, that nothing can be sent for lack of an address.
fn warn_of_source<E: Effects>(
    interface: &mut Interface,
    family: Family,
    is_missing: bool,
    cx: &mut Context<E>,
) {
    if is_missing && !interface.said_sourceless[family] {
        cx.tell(&interface.place(), Source::Missing { family });
    }
    interface.said_sourceless[family] = is_missing;
}

/// Warns, once until it changes, that the interface is a port of another one, which receives everything that arrives.
fn warn_of_upper<E: Effects>(interface: &mut Interface, link: &Link, cx: &mut Context<E>) {
    if std::mem::replace(&mut interface.upper, link.upper) == link.upper {
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
