//! A thread that checks whether carpd's programs are still attached.
//!
//! The kernel answers under the lock of the whole machine for links (rtnl), which others hold for seconds at times, and a
//! MASTER has to go on advertising meanwhile. The engine then checks what the thread suspects.

use std::task::{Context, Poll};

use super::sight::Sight;
use crate::io::errand::Errands;
use crate::io::netlink::Client;

/// Runs one check at a time. It wakes nobody if every program is in its place.
#[derive(Debug)]
pub struct Lookout {
    errands: Errands<()>,
    /// No thread could be started for the last check.
    is_blind: bool,
}

impl Default for Lookout {
    fn default() -> Self {
        Self {
            errands: Errands::new("carpd-lookout"),
            is_blind: false,
        }
    }
}

impl Lookout {
    /// Begins a check, unless an earlier one still waits for the kernel.
    pub fn begin(&mut self, sights: Vec<Sight>) {
        if self.errands.is_working() || sights.is_empty() {
            return;
        }
        let look = move || is_any_lost(&sights).then_some(());
        self.is_blind = self.errands.begin(look).is_err();
    }

    /// Ready when a check found that a program is gone, or could not run. The engine has to check for itself then.
    pub fn poll_suspicion(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.is_blind) {
            return Poll::Ready(());
        }
        self.errands.poll_outcome(context).map(drop)
    }
}

fn is_any_lost(sights: &[Sight]) -> bool {
    // Without a socket, the next check has to find it.
    Client::new().is_ok_and(|mut netlink| sights.iter().any(|it| it.is_lost(&mut netlink)))
}
