//! The rank, intervals and patience of one carpd, from its configuration and its demotion.

use std::collections::BTreeMap;
use std::time::Duration;

use carp_common::proto::{DemotionCause, Settings};
use carp_common::units::Profile;

use super::super::packet::Ad;
use super::super::scenario::{STEP, interval};

/// The priority that one carpd is to advertise, and the time for which it waits.
#[derive(Debug)]
pub struct Terms {
    /// Its configuration.
    pub settings: Settings,
    /// Whether it counts send errors as demotion, by its own account.
    pub suppressed: bool,
    /// The demotions that it was told, by cause.
    pub demotions: BTreeMap<DemotionCause, u8>,
}

impl Terms {
    /// Returns (advbase, advskew) as it should advertise them.
    #[must_use]
    pub fn rank(&self) -> (u8, u8) {
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

    /// Returns the sum of its demotions.
    #[must_use]
    pub fn demotion(&self) -> u8 {
        let amounts = self.demotions.values();
        amounts.fold(0, |sum, amount| u8::saturating_add(sum, *amount))
    }

    /// Returns byte 4 as it should send it: in the OpenBSD profile, the operator's demotion, and one more while it
    /// cannot send.
    #[must_use]
    pub fn demotion_byte(&self) -> u8 {
        match self.settings.profile {
            Profile::OpenBsd => self.demotion().saturating_add(self.suppressed.into()),
            Profile::Ucarp | Profile::FreeBsd => 0,
        }
    }

    /// Returns its rank among masters; less is better.
    #[must_use]
    pub fn standing(&self) -> (u8, (u8, u8)) {
        (self.demotion_byte(), self.rank())
    }

    /// Whether an advertiser is worse.
    #[must_use]
    pub fn is_worse(&self, theirs: Ad) -> bool {
        self.rank() < (theirs.advbase, theirs.advskew)
    }

    /// Whether an advertiser is more demoted.
    #[must_use]
    pub fn is_more_demoted(&self, theirs: Ad) -> bool {
        theirs.demotion > self.demotion_byte()
    }

    /// Whether it has a demotion that is invisible from outside, as when it cannot send.
    #[must_use]
    pub fn is_suppressed(&self) -> bool {
        let hidden = [DemotionCause::LostAddresses, DemotionCause::Script];
        let is_held = |cause| self.demotions.get(cause).is_some_and(|amount| *amount > 0);
        self.suppressed || hidden.iter().any(is_held)
    }

    /// Whether the advertiser is going to time out: because it says so, or because it advertises too rarely for our
    /// patience.
    #[must_use]
    pub fn will_time_out(&self, theirs: Ad) -> bool {
        let bow_out = (theirs.advbase, theirs.advskew) == (255, 255);
        let (advbase, ratio) = (
            u16::from(self.settings.advbase.0),
            u16::from(self.settings.deadratio.get()),
        );
        let patience = (ratio * advbase, self.rank().1);
        let slow = patience < (u16::from(theirs.advbase), theirs.advskew);
        if advbase == 0 { bow_out } else { slow }
    }

    /// Returns the master-down time, or the one for a BSD with advbase 0.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let bsd = match self.settings.advbase.0 {
            0 => Duration::from_millis(20) + STEP * u32::from(self.settings.advskew.0.max(1)) * 3,
            _ => Duration::ZERO,
        };
        self.master_down().max(bsd)
    }

    /// Returns the master-down time.
    #[must_use]
    pub fn master_down(&self) -> Duration {
        let (ratio, skew) = (
            u32::from(self.settings.deadratio.get()),
            u32::from(self.settings.advskew.0),
        );
        match self.settings.advbase.0 {
            0 => STEP * ratio * skew.max(1),
            advbase => Duration::from_secs(advbase.into()) * ratio + STEP * skew,
        }
    }

    /// Returns the time between two advertisements with such an advskew.
    #[must_use]
    pub fn interval(&self, advskew: u8) -> Duration {
        interval(self.settings.advbase.0, advskew)
    }

    /// Returns the longest time between two advertisements, with the worst advskew that demotion can give.
    #[must_use]
    pub fn longest_interval(&self) -> Duration {
        self.interval(match self.settings.profile {
            Profile::OpenBsd => self.settings.advskew.0,
            Profile::Ucarp | Profile::FreeBsd => self.settings.advskew.0.max(240),
        })
    }
}
