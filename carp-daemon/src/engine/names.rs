//! Names of interfaces in the configuration.

use std::collections::BTreeMap;

use super::context::Context;
use super::effects::Effects;
use crate::api::Place;
use crate::api::event::interface::Link;
use crate::config::VhostConfig;

/// Replaces alternative names of interfaces by their own names, so that two names of one interface are not taken for two
/// interfaces.
pub fn take_present_names<E: Effects>(vhosts: &mut [VhostConfig], cx: &mut Context<E>) {
    let mut others = BTreeMap::new();
    for vhost in vhosts {
        let configured = &mut vhost.interface;
        let mut links = cx.namespace.links().values();
        if links.clone().any(|link| link.name == *configured) {
            continue;
        }
        if let Some(link) = links.find(|link| link.is_called(configured)) {
            let before = std::mem::replace(configured, link.name.clone());
            others.insert(before, link.name.clone());
        }
    }
    for (configured, name) in others {
        cx.tell(&Place::Interface(name), Link::OtherName { configured });
    }
}
