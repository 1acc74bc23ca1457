//! The up and down scripts of one virtual host: one at a time; the latest request wins.

use carp_daemon::io::scripts::{Admission, Which};

/// The running and the waiting script.
#[derive(Debug, Default)]
pub struct Scripts {
    running: Option<Which>,
    wanted: Option<Which>,
}

impl Scripts {
    /// Requests a script. It starts now if none runs.
    pub fn ask(&mut self, which: Which) -> Admission {
        let overtakes = self.wanted.is_some();
        let accepted = self.running != Some(which);
        match self.running {
            None => self.running = Some(which),
            Some(_) => self.wanted = accepted.then_some(which),
        }
        Admission {
            accepted,
            overtakes,
        }
    }

    /// Ends the running script. Returns it, and whether another one starts now.
    pub fn end(&mut self) -> (Option<Which>, bool) {
        let ended = self.running.take();
        self.running = self.wanted.take();
        (ended, self.running.is_some())
    }

    /// Whether no script runs.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.running.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_waits_for_the_one_before_and_the_latest_wish_wins() {
        let mut scripts = Scripts::default();
        let admission = |accepted, overtakes| Admission {
            accepted,
            overtakes,
        };
        assert_eq!(scripts.ask(Which::Up), admission(true, false));
        assert_eq!(scripts.ask(Which::Down), admission(true, false));
        assert_eq!(scripts.ask(Which::Up), admission(false, true));
        assert_eq!(scripts.end(), (Some(Which::Up), false));
        assert!(scripts.is_idle());
        assert_eq!(scripts.ask(Which::Down), admission(true, false));
        assert_eq!(scripts.ask(Which::Up), admission(true, false));
        assert_eq!(scripts.end(), (Some(Which::Down), true));
        assert_eq!(scripts.end(), (Some(Which::Up), false));
    }
}
