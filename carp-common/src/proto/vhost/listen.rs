//! How long a BACKUP listens, and what it does when it has heard nothing for so long.

use super::{FAMILIES, Family, Instant, Reason, Timer, VirtualHost};
use crate::proto::patience::Silence;

impl VirtualHost {
    pub(super) fn backup_timeout(&mut self, looked_at: Instant) {
        if self.timers.take_due(Timer::TakeOver, self.now).is_some()
            && let Some(planned) = self.take_over
        {
            self.become_master(planned.reason);
            self.called_by = Some(planned);
            return;
        }
        let Some(due) = self.master_down_at().filter(|due| *due <= self.now) else {
            return;
        };
        if self.is_patient(due, looked_at) {
            return;
        }
        self.ask();
        // He to whom we yielded is gone, or never was: somebody played what we had not heard. No more of that deposes us.
        let patience = FAMILIES.map(|family| self.bsd_patience[family]);
        let soon = self.master_down_time().max(patience[0]).max(patience[1]) * 2;
        self.leaves_out |= self.yielded_at.is_some_and(|at| self.now < at + soon);
        self.become_master(Reason::MasterTimedOut);
    }

    /// Whether the silence that was due to end at `due` does not count yet. Then it ends later, in every family.
    fn is_patient(&mut self, due: Instant, looked_at: Instant) -> bool {
        let silence = Silence {
            due,
            looked_at,
            now: self.now,
        };
        let (interval, master_down) = (self.interval(), self.master_down_time());
        let Some(until) = self.patience.reprieve(silence, interval, master_down) else {
            return false;
        };
        for timer in FAMILIES.map(Timer::MasterDown) {
            if self.timers.get(timer).is_some_and(|at| at < until) {
                self.timers.set(timer, until);
            }
        }
        true
    }

    /// (Re)starts the master-down timer of every family, whatever it was.
    pub(super) fn listen_afresh(&mut self) {
        self.timers.clear_all();
        self.take_over = None;
        self.doubt.proven(self.now);
        for family in self.active_families() {
            self.listen(family, self.now);
        }
    }

    /// Restarts the master-down timer of the family. A MASTER was heard at `since`, if not later already; the time
    /// that an operator told us to stay away comes on top.
    pub(super) fn listen(&mut self, family: Family, since: Instant) {
        let silence = self.master_down_time().max(self.bsd_patience[family]);
        self.listen_until(family, since.max(self.held_until) + silence);
    }

    /// Restarts the master-down timer of the family, unless it ends later already.
    pub(super) fn listen_until(&mut self, family: Family, deadline: Instant) {
        if !self.is_active(family) {
            return;
        }
        let timer = Timer::MasterDown(family);
        self.timers.set(
            timer,
            self.timers
                .get(timer)
                .map_or(deadline, |known| known.max(deadline)),
        );
    }
}
