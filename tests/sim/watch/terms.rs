//! What one carpd's configuration and demotion come to: its rank, its intervals, its patience.

use std::time::Duration;

use carp_common::proto::DemotionCause;
use carp_common::units::{Profile, State};

use super::super::packet::Ad;
use super::super::scenario::{STEP, interval};
use super::Watch;

impl Watch {
    /// (advbase, advskew) as it should advertise them.
    pub(super) fn rank(&self) -> (u8, u8) {
        let configured = self.settings.advskew.0;
        let demotion = self
            .demotion()
            .saturating_add(if self.suppressed { 240 } else { 0 });
        let advskew = match self.settings.profile {
            Profile::OpenBsd => configured,
            Profile::Ucarp | Profile::FreeBsd => {
                configured.saturating_add(demotion).min(240).max(configured)
            }
        };
        (self.settings.advbase.0, advskew)
    }

    /// Everything that it was told to hold against itself.
    pub(super) fn demotion(&self) -> u8 {
        let amounts = self.demotions.values();
        amounts.fold(0, |sum, amount| u8::saturating_add(sum, *amount))
    }

    /// Byte 4 as it should send it: for OpenBSD the operator's demotion, and one more when it cannot
    /// send.
    pub(super) fn demotion_byte(&self) -> u8 {
        match self.settings.profile {
            Profile::OpenBsd => self.demotion().saturating_add(self.suppressed.into()),
            Profile::Ucarp | Profile::FreeBsd => 0,
        }
    }

    /// Where it stands among masters; less is better.
    pub(super) fn standing(&self) -> (u8, (u8, u8)) {
        (self.demotion_byte(), self.rank())
    }

    pub(super) fn is_worse(&self, theirs: Ad) -> bool {
        self.rank() < (theirs.advbase, theirs.advskew)
    }

    pub(super) fn is_more_demoted(&self, theirs: Ad) -> bool {
        theirs.demotion > self.demotion_byte()
    }

    /// Whether it holds something against itself that nobody sees from outside, as when it cannot send.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        let hidden = [DemotionCause::LostAddresses, DemotionCause::Script];
        let is_held = |cause| self.demotions.get(cause).is_some_and(|amount| *amount > 0);
        self.suppressed || hidden.iter().any(is_held)
    }

    /// The state that it reported last.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Its virtual host.
    #[must_use]
    pub const fn vhid(&self) -> u8 {
        self.group.vhid
    }

    /// Whether the advertiser is going to time out: it says so, or it advertises too seldom for our patience.
    pub(super) fn will_time_out(&self, theirs: Ad) -> bool {
        let bow_out = (theirs.advbase, theirs.advskew) == (255, 255);
        let (advbase, ratio) = (
            u16::from(self.settings.advbase.0),
            u16::from(self.settings.deadratio.get()),
        );
        let patience = (ratio * advbase, self.rank().1);
        let slow = patience < (u16::from(theirs.advbase), theirs.advskew);
        if advbase == 0 { bow_out } else { slow }
    }

    /// The master-down time, or what a BSD with advbase 0 is given.
    pub(super) fn patience(&self) -> Duration {
        let bsd = match self.settings.advbase.0 {
            0 => Duration::from_millis(20) + STEP * u32::from(self.settings.advskew.0.max(1)) * 3,
            _ => Duration::ZERO,
        };
        self.master_down().max(bsd)
    }

    pub(super) fn master_down(&self) -> Duration {
        let (ratio, skew) = (
            u32::from(self.settings.deadratio.get()),
            u32::from(self.settings.advskew.0),
        );
        match self.settings.advbase.0 {
            0 => STEP * ratio * skew.max(1),
            advbase => Duration::from_secs(advbase.into()) * ratio + STEP * skew,
        }
    }

    /// Time between two advertisements of such an advskew.
    pub(super) fn interval(&self, advskew: u8) -> Duration {
        interval(self.settings.advbase.0, advskew)
    }

    /// Longest time between two advertisements, with the worst advskew that demotion can give.
    pub(super) fn longest_interval(&self) -> Duration {
        self.interval(match self.settings.profile {
            Profile::OpenBsd => self.settings.advskew.0,
            Profile::Ucarp | Profile::FreeBsd => self.settings.advskew.0.max(240),
        })
    }
}
