//! Whether we still hear, and what follows when we do not.
//!
//! Others may take our program off an interface or put theirs in its place, a socket may fail, and a map may have no room.
//! Silence proves nothing then: a BACKUP that is deaf would become a second MASTER. So a thread looks at each interface once a
//! second, and the engine itself before a silence counts. What is lost is attached anew, on whichever rung works now; where none does,
//! the virtual hosts are in INIT until one works.

use std::time::Duration;

use carp_common::abi::layout::VhostKey;
use carp_common::proto::Input;
use carp_common::proto::rate_limit::RateLimit;
use carp_common::time::Instant;
use carp_common::units::{Family, State};
use tracing::{error, warn};

use super::Engine;
use super::links::RETRY_INTERVAL;
use super::vhost::Vhost;
use crate::io::clock;
use crate::io::datapath::{Chain, Loss};
use crate::io::port::Port;

/// The longest time between two looks. A turn that comes for another reason may take the look half as long before.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What was lost again so soon after it was attached anew is left alone for a while.
const MENDING_INTERVAL: Duration = Duration::from_millis(500);

/// Least time between two log lines about one interface.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Whether the advertisements of an interface reach us.
#[derive(Debug, Default)]
pub struct Hearing {
    /// They do not: its virtual hosts are in INIT.
    pub lost: bool,
    /// When it was last looked at.
    looked_at: Instant,
    /// When it was last lost and attached anew.
    mended_at: Option<Instant>,
    limit: RateLimit,
}

impl Engine {
    /// When to look at the interfaces, at the latest. Nobody can take a socket away.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let has_programs = self.datapath.has_programs();
        let look = has_programs.then_some(self.looked_after_at + LOOK_INTERVAL);
        look.into_iter().chain(self.datapath.covers_at()).min()
    }

    /// Looks at the interfaces, when it is time, and at the sockets that failed in this turn.
    pub(super) fn look_after_datapath(&mut self, now: Instant) {
        for (ifindex, error) in self.datapath.take_failures() {
            if let Some(interface) = self.interface_of(ifindex) {
                let problem = format!("failed to receive advertisements ({error})");
                self.mend(interface, &problem, now);
            }
        }
        if self.datapath.covers_at().is_some_and(|at| at <= now) {
            self.datapath.cover(&self.links);
        }
        if std::mem::take(&mut self.suspects_loss) {
            self.look_at_everything(now);
        }
        if now < self.looked_after_at + LOOK_INTERVAL / 2 {
            return;
        }
        self.looked_after_at = now;
        self.lookout.begin(self.datapath.sights());
        self.datapath.cover_refused(&self.links);
    }

    fn look_at_everything(&mut self, now: Instant) {
        for interface in 0..self.interfaces.len() {
            self.look_at(interface, now);
        }
        self.datapath
            .look_at_cover(&self.links, &mut self.netlink, now);
    }

    /// Whether a virtual host's interface, and its entry, are as we left them. Where they are not, what follows has been
    /// seen to.
    pub(super) fn hears(&mut self, vhost: usize, now: Instant) -> bool {
        let interface = self.vhosts[vhost].interface;
        if self.look_at(interface, now) {
            return false;
        }
        let Some(key) = self.vhosts[vhost].key else {
            return true;
        };
        if self.datapath.is_intact(key) {
            return true;
        }
        let limit = &mut self.interfaces[interface].hearing.limit;
        if let Some(suppressed) = limit.admit(now, REPORT_INTERVAL) {
            warn!(
                suppressed,
                "{}: another program removed or changed its entry in the kernel's map: writing it anew",
                self.vhosts[vhost].label
            );
        }
        if self.program(vhost, key, now) {
            self.feed(vhost, now, Input::AdvertisementsLost);
        } else {
            self.follow(interface, now);
        }
        false
    }

    fn interface_of(&self, ifindex: u32) -> Option<usize> {
        self.interfaces
            .iter()
            .position(|it| it.port.as_ref().map(Port::ifindex) == Some(ifindex))
    }

    /// Whether something was lost.
    fn look_at(&mut self, interface: usize, now: Instant) -> bool {
        let served = &mut self.interfaces[interface];
        let Some(ifindex) = served.port.as_ref().map(Port::ifindex) else {
            return false;
        };
        // Once in a turn is enough, however many virtual hosts are due in it.
        if std::mem::replace(&mut served.hearing.looked_at, now) == now {
            return false;
        }
        let Some(loss) = self.datapath.loss(ifindex, &mut self.netlink) else {
            return false;
        };
        let problem = match loss {
            Loss::Detached => "another program took carpd's off the interface",
            Loss::Replaced => "another program took the place of carpd's",
        };
        self.mend(interface, problem, now);
        true
    }

    /// Nothing reaches us from an interface, for this reason.
    fn mend(&mut self, interface: usize, problem: &str, now: Instant) {
        let served = &mut self.interfaces[interface];
        let Some(ifindex) = served.port.as_ref().map(Port::ifindex) else {
            return;
        };
        // With the interface goes what was attached to it; netlink has the news. Until we read it nothing is heard.
        if let Err(error) = self.netlink.link(ifindex)
            && error.raw_os_error() == Some(libc::ENODEV)
        {
            self.lose(interface, now);
            return;
        }
        let name = &served.current_name;
        let said = served.hearing.limit.admit(now, REPORT_INTERVAL);
        let soon = |at| now < at + MENDING_INTERVAL;
        if served.hearing.mended_at.is_some_and(soon) {
            if let Some(suppressed) = said {
                error!(suppressed, "{name}: {problem} again: in INIT for a moment");
            }
            self.datapath.detach(ifindex);
            self.lose(interface, now);
            return;
        }
        if let Some(suppressed) = said {
            warn!(suppressed, "{name}: {problem}: attaching anew");
        }
        served.hearing.mended_at = Some(now);
        self.attach_again(interface, said.is_some(), now);
    }

    /// Tries to listen on an interface again.
    pub(super) fn attach_again(&mut self, interface: usize, say: bool, now: Instant) {
        let served = &self.interfaces[interface];
        let index = served.port.as_ref().map(Port::ifindex);
        let Some(link) = index.and_then(|index| self.links.get(&index).cloned()) else {
            return;
        };
        match self.datapath.attach_again(&link) {
            Ok(choice) => {
                if say || self.interfaces[interface].hearing.lost {
                    choice.log();
                }
                // Attaching took a while; listening begins now.
                let now = clock::now();
                self.interfaces[interface].hearing.lost = false;
                for vhost in self.interfaces[interface].vhosts.clone() {
                    // The rung may be another one, which knows nothing yet.
                    if let Some(key) = self.vhosts[vhost].key {
                        self.program(vhost, key, now);
                    }
                    self.feed(vhost, now, Input::AdvertisementsLost);
                }
                self.follow(interface, now);
            }
            Err(error) => {
                let hearing = &mut self.interfaces[interface].hearing;
                if say || !hearing.lost {
                    error!(
                        "{}: in INIT until it can be listened to, trying again: {}",
                        link.name,
                        Chain(&error)
                    );
                }
                self.lose(interface, now);
            }
        }
    }

    fn lose(&mut self, interface: usize, now: Instant) {
        self.interfaces[interface].hearing.lost = true;
        self.retry_at = Some(now + RETRY_INTERVAL);
        self.follow(interface, now);
    }

    /// What the datapath knows a virtual host by, while its interface is there.
    pub(super) fn key_of(&self, vhost: usize) -> Option<VhostKey> {
        let served = &self.vhosts[vhost];
        let port = self.interfaces[served.interface].port.as_ref()?;
        let vhid = served.config.election.vhid;
        Some(VhostKey::new(port.ifindex(), 0, Family::Inet, vhid))
    }

    /// Has the advertisements for a virtual host delivered. Returns whether that worked.
    pub(super) fn program(&mut self, vhost: usize, key: VhostKey, now: Instant) -> bool {
        let served = &mut self.vhosts[vhost];
        served.alive_until = now + served.life_sign_validity();
        let configured = self.datapath.configure(
            key,
            served.endpoints(&self.interfaces[served.interface]),
            served.machine.digests(),
            served.alive_until,
        );
        served.deaf = configured.is_err();
        if served.deaf {
            served.key = None;
            self.keys.remove(&key);
            self.retry_at = Some(now + RETRY_INTERVAL);
        } else {
            served.key = Some(key);
            served.datapath_refused = false;
            self.keys.insert(key, vhost);
        }
        self.check_datapath(vhost, configured);
        !self.vhosts[vhost].deaf
    }

    /// Tries again for a virtual host that the datapath refused.
    pub(super) fn program_again(&mut self, vhost: usize, now: Instant) {
        let Some(key) = self.key_of(vhost) else {
            return;
        };
        if self.program(vhost, key, now) {
            self.follow(self.vhosts[vhost].interface, now);
        }
        // Something else is in the way: then advertisements are nobody's business of ours.
        if self.vhosts[vhost].machine.state() == State::Init {
            self.program_datapath(vhost, State::Init, now);
        }
    }

    /// Whether nothing that a virtual host's peers say can reach it.
    pub(super) fn is_deaf(&self, vhost: &Vhost) -> bool {
        vhost.deaf || self.interfaces[vhost.interface].hearing.lost
    }
}
