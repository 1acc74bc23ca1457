//! One broadcast domain, with every fault that Ethernet can have.

use std::time::Duration;

use carp_common::units::Family;

use super::model::index;
use super::rng::Rng;

/// How the network treats frames by default.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The shortest delay.
    pub delay_min: Duration,
    /// The longest delay; frames overtake each other if it differs from the shortest.
    pub delay_max: Duration,
    /// Lost frames, in 1/1000, until the quiet period.
    pub loss: u64,
    /// Doubled frames, in 1/1000.
    pub duplicates: u64,
    /// Frames that come back to their sender, in 1/1000 (hairpin port, bond, mirror).
    pub reflections: u64,
}

/// The paths between hosts, and their quality.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    /// `cut[family][from][to]`: frames on this path are dropped.
    cut: [Vec<Vec<bool>>; 2],
    /// Whether any path may be cut.
    is_cut: bool,
    rng: Rng,
}

/// The fate of one frame on the path to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Arrives after this time.
    Arrives(Duration),
    /// Dropped at random.
    Lost,
}

impl Network {
    /// Creates a network in which each of the `hosts` hosts reaches every other one.
    #[must_use]
    pub fn new(hosts: usize, weather: Weather, rng: Rng) -> Self {
        let cut = vec![vec![false; hosts]; hosts];
        Self {
            weather,
            cut: [cut.clone(), cut],
            is_cut: false,
            rng,
        }
    }

    /// Cuts or restores one direction of one path, in one family.
    pub fn set_cut(&mut self, family: Family, from: usize, to: usize, cut: bool) {
        self.cut[index(family)][from][to] = cut;
        self.is_cut |= cut;
    }

    /// Restores every path.
    pub fn heal(&mut self) {
        self.is_cut = false;
        for path in self.cut.iter_mut().flatten().flatten() {
            *path = false;
        }
    }

    /// Sets the rate of loss.
    pub const fn set_loss(&mut self, permille: u64) {
        self.weather.loss = permille;
    }

    /// Returns the rate of loss.
    #[must_use]
    pub const fn loss(&self) -> u64 {
        self.weather.loss
    }

    /// Whether any path may be cut.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether frames of the family get from one host to the other.
    #[must_use]
    pub fn reaches(&self, family: Family, from: usize, to: usize) -> bool {
        !self.cut[index(family)][from][to]
    }

    /// Adds the fate of one frame, once for each copy. Adds nothing if the path is cut, or leads back to the sender
    /// and the network does not reflect the frame.
    pub fn carry(&mut self, family: Family, from: usize, to: usize, fates: &mut Vec<Fate>) {
        fates.clear();
        if !self.reaches(family, from, to)
            || (from == to && !self.rng.chance(self.weather.reflections))
        {
            return;
        }
        let copies = if self.rng.chance(self.weather.duplicates) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let lost = self.rng.chance(self.weather.loss);
            fates.push(if lost {
                Fate::Lost
            } else {
                Fate::Arrives(self.delay())
            });
        }
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = (
            self.weather.delay_min.as_nanos(),
            self.weather.delay_max.as_nanos(),
        );
        let bound = |nanos| u64::try_from(nanos).expect("delays are far below 584 years");
        Duration::from_nanos(self.rng.between(bound(least), bound(most)))
    }
}
