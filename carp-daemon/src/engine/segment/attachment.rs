//! Events about a link, and about the attachment to an interface.

use super::super::context::Context;
use super::super::effects::Effects;
use crate::api::Place;
use crate::api::event::interface::Datapath;
use crate::io::datapath::Choice;
use crate::io::netlink::Link;

/// Returns the place of events about a link, by its present name.
pub fn place(link: &Link) -> Place {
    Place::Interface(link.name.clone())
}

/// Reports how carpd receives on an interface.
pub fn report<E: Effects>(choice: Choice, link: &Link, cx: &mut Context<E>) {
    let Choice { summary, expected } = choice;
    let attached = match expected {
        true => Datapath::Attached { summary },
        false => Datapath::FellBack { summary },
    };
    cx.tell(&place(link), attached);
}
