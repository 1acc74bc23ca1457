//! Carries out what the core decided, and reports the results to the core.

use std::collections::VecDeque;
use std::time::Duration;

use carp_common::proto::{Command, DatapathState, Input, LinkState};
use carp_common::units::{Family, State};

use super::super::context::Site;
use super::super::effects::Effects;
use super::Instance;
use super::uplink::{News, is_usable};

/// How long SIGUSR2 keeps this host away, as in ucarp.
const STEP_DOWN_HOLD: Duration = Duration::from_secs(3);

impl Instance {
    /// Feeds the core one input, and carries out everything that follows from it.
    pub fn feed<E: Effects>(&mut self, input: Input<'_>, site: &mut Site<'_, E>) {
        site.cx.effects.tells(self.who.id, site.cx.now, &input);
        self.machine.handle_input(site.cx.now, input);
        self.act(site);
    }

    /// Carries out everything that the core asks for, and reports the results to the core.
    pub(super) fn act<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        let Self {
            who,
            machine,
            rooms,
            ..
        } = self;
        // The core hears of results after all actions of one input, in order.
        let mut results = VecDeque::new();
        loop {
            while let Some(action) = machine.poll_action() {
                site.cx.effects.decides(who.id, site.cx.now, &action);
                results.extend(rooms.carry_out(who, machine, action, site));
            }
            match results.pop_front() {
                Some(result) => {
                    site.cx.effects.tells(who.id, site.cx.now, &result);
                    machine.handle_input(site.cx.now, result);
                }
                None => break,
            }
        }
        rooms.follow_state(who, machine, site);
        site.cx.touched.push(who.id);
    }

    /// Tells the core what changed on its interface.
    pub fn tell<E: Effects>(&mut self, news: News<'_>, site: &mut Site<'_, E>) {
        let is_usable = news.link.is_some_and(|link| is_usable(&self.who, link));
        let link = match is_usable {
            true => LinkState::Up,
            false => LinkState::Down,
        };
        let datapath = match self.rooms.is_deaf(site.interface) {
            true => DatapathState::Refuses,
            false => DatapathState::Works,
        };
        let source = self.rooms.uplink.look(&self.who, news, site);
        // If the source is there before the link comes up, and until after it goes down, the core makes one transition
        // instead of two.
        if link == LinkState::Down {
            self.tell_link(link, site);
        }
        if self.rooms.uplink.set_datapath(datapath) {
            self.feed(Input::DatapathChanged(datapath), site);
        }
        if self.rooms.uplink.set_source(source) {
            // This comes before the core hears of the source, because the core may advertise from the new address at once.
            let own = self.rooms.uplink.own_source(site.interface);
            self.rooms.tenure.tell_own_source(&self.who, own, site);
            let input = Input::SourceChanged {
                family: Family::Inet,
                source: source.map(Into::into),
            };
            self.feed(input, site);
        }
        self.tell_link(link, site);
        if news.moved {
            self.feed(Input::StationChanged, site);
        }
        let (who, machine, rooms) = self.parts();
        rooms.settle_predecessor(who, machine, site);
    }

    fn tell_link<E: Effects>(&mut self, link: LinkState, site: &mut Site<'_, E>) {
        if self.rooms.uplink.set_link(link) {
            self.feed(Input::LinkChanged(link), site);
        }
    }

    /// Configures the datapath anew, because what it knew is or may be gone, and tells the core that advertisements were
    /// lost.
    pub fn listen_anew<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        if self.rooms.tenure.key().is_some() {
            let (who, machine, rooms) = self.parts();
            rooms.program(who, machine, site);
        }
        self.feed(Input::AdvertisementsLost, site);
    }

    /// Ends the virtual host for good. Returns whether it was MASTER. A second call does nothing.
    pub fn shut_down<E: Effects>(&mut self, site: &mut Site<'_, E>) -> bool {
        if std::mem::replace(&mut self.ended, true) {
            return false;
        }
        let before = self.machine.state();
        let stopping = std::mem::replace(&mut site.cx.stopping, true);
        self.feed(Input::Shutdown, site);
        site.cx.stopping = stopping;
        self.rooms.end(&self.who, &self.machine, before, site);
        site.cx.touched.push(self.who.id);
        before == State::Master
    }

    /// Makes it hand over, and stay away for a while, as an operator asked.
    pub fn step_down<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        let hold = STEP_DOWN_HOLD;
        let (who, machine, rooms) = self.parts();
        rooms.story.step_down(who, machine, hold, site);
        self.feed(Input::Command(Command::StepDown { hold }), site);
    }
}
