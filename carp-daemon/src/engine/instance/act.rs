//! Carries out the decisions of the core, and reports the results to it.

use carp_common::proto::drive::{self, Executor};
use carp_common::proto::{
    Action, Command, DatapathState, FAMILIES, Input, LinkState, STEP_DOWN_HOLD, VirtualHost,
};
use carp_common::time::Instant;
use carp_common::units::State;

use super::super::context::Site;
use super::super::effects::Effects;
use super::Instance;
use super::identity::Identity;
use super::rooms::Rooms;
use super::uplink::{News, is_usable};

/// The rooms, while they carry out the decisions of the core.
struct Acting<'a, 'b, E> {
    who: &'a Identity,
    rooms: &'a mut Rooms,
    site: &'a mut Site<'b, E>,
}

impl<E: Effects> Executor for Acting<'_, '_, E> {
    fn feeds(&mut self, input: &Input<'_>) {
        let cx = &mut self.site.cx;
        cx.effects.tells(self.who.id, cx.now, input);
    }

    fn execute(&mut self, machine: &VirtualHost, action: Action) -> Option<Input<'static>> {
        let cx = &mut self.site.cx;
        cx.effects.decides(self.who.id, cx.now, &action);
        self.rooms.carry_out(self.who, machine, action, self.site)
    }
}

impl Instance {
    /// Feeds the core one input, and carries out everything that follows from it.
    pub fn feed<E: Effects>(&mut self, input: Input<'_>, site: &mut Site<'_, E>) {
        let now = site.cx.now;
        self.run(site, |machine, acting| {
            drive::feed(machine, now, input, acting);
        });
    }

    /// Fires its timers, which are due. The engine last read all arrived advertisements at `looked_at`.
    pub fn timeout<E: Effects>(&mut self, looked_at: Instant, site: &mut Site<'_, E>) {
        let now = site.cx.now;
        site.cx.effects.fires(self.who.id, now, looked_at);
        self.run(site, |machine, acting| {
            drive::time_out(machine, now, looked_at, acting);
        });
        site.cx.effects.settles(self.who.id, now, &self.machine);
        let (who, machine, rooms) = self.parts();
        rooms.settle_predecessor(who, machine, site);
    }

    /// Runs the core with the rooms as its hands. They follow its state afterwards.
    fn run<'b, E: Effects>(
        &mut self,
        site: &mut Site<'b, E>,
        run: impl FnOnce(&mut VirtualHost, &mut Acting<'_, 'b, E>),
    ) {
        let Self {
            who,
            machine,
            rooms,
            ..
        } = self;
        run(machine, &mut Acting { who, rooms, site });
        rooms.follow_state(who, machine, site);
        site.cx.touched.push(who.id);
    }

    /// Tells the core the changes of its interface.
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
        let sources = self.rooms.uplink.look(&self.who, news, site);
        // If a source is there before the link comes up, and until after it goes down, the core makes one transition
        // instead of two.
        if link == LinkState::Down {
            self.tell_link(link, site);
        }
        if self.rooms.uplink.set_datapath(datapath) {
            self.feed(Input::DatapathChanged(datapath), site);
        }
        for family in FAMILIES {
            let source = sources[family];
            if self.rooms.uplink.set_source(family, source) {
                // This comes before the core hears of the source, because the core may advertise from the new address at
                // once.
                let uplink = &self.rooms.uplink;
                let endpoints = uplink.endpoints(&self.who, family, site.interface);
                self.rooms.tenure.tell_endpoints(&self.who, endpoints, site);
                self.feed(Input::SourceChanged { family, source }, site);
            }
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

    /// Configures the datapath anew, because its configuration is or may be gone, and tells the core that advertisements were
    /// lost.
    pub fn listen_anew<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        if self.rooms.tenure.key().is_some() {
            let (who, machine, rooms) = self.parts();
            rooms.program(who, machine, site);
        }
        self.miss_advertisements(site);
    }

    /// Tells the core that advertisements were lost. It may wait for the MASTER anew, and not take over now.
    pub fn miss_advertisements<E: Effects>(&mut self, site: &mut Site<'_, E>) {
        self.feed(Input::AdvertisementsLost, site);
        let (who, machine, rooms) = self.parts();
        rooms.settle_predecessor(who, machine, site);
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
